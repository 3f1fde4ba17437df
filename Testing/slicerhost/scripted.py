"""`slicer.ScriptedLoadableModule`: the four base classes of a scripted module, and the objects that Slicer hands them."""
# ruff: noqa: N802, N803, N815 - Slicer's names.

from __future__ import annotations

import importlib
import logging
import unittest
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import slicer

from slicerhost.missing import HostError, Strict, strict_module
from slicerhost.widgets import qMRMLWidget, qSlicerScriptedLoadableModuleWidget


class qSlicerScriptedLoadableModule(Strict):  # noqa: N801 - Slicer's name.
    """What a module's Python class gets as `parent`; it takes only what Slicer's object takes."""

    _host_name = "the module's parent"
    _settable: ClassVar[dict[str, type]] = {
        "title": str, "categories": list, "contributors": list, "associatedNodeTypes": list, "helpText": str,
        "acknowledgementText": str, "extensions": dict, "icon": object, "hidden": bool, "dependencies": list, "index": int,
        "widgetRepresentationCreationEnabled": bool}  # fmt: skip

    def __init__(self, path: Path) -> None:
        object.__setattr__(self, "path", str(path))
        object.__setattr__(self, "name", path.stem)
        object.__setattr__(self, "_widget", None)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._settable:
            raise AttributeError(f"A scripted module has no attribute '{name}' that could be set.")
        if not isinstance(value, self._settable[name]):
            raise TypeError(f"The module's {name} must be a {self._settable[name].__name__}, not {value!r}.")
        if name in ("categories", "contributors", "dependencies") and not all(isinstance(one, str) for one in value):
            raise TypeError(f"The module's {name} must be texts, not {value!r}.")
        object.__setattr__(self, name, value)

    def widgetRepresentation(self) -> Any:
        """Return the module's panel, if it was opened."""
        return self._widget


class ScriptedLoadableModule:
    """The base of the class that names the module."""

    def __init__(self, parent: Any) -> None:
        self.parent = parent
        self.moduleName = type(self).__name__
        parent.title = ""
        parent.categories = []
        parent.dependencies = []
        parent.contributors = []
        parent.helpText = ""
        parent.acknowledgementText = ""
        if not hasattr(slicer, "selfTests"):
            slicer.selfTests = {}
        slicer.selfTests[self.moduleName] = self.runTest

    def resourcePath(self, filename: str) -> str:
        """Return the path of a file in Resources."""
        return str(Path(self.parent.path).parent / "Resources" / filename)

    def getDefaultModuleDocumentationLink(self, docPage: str | None = None) -> str:
        """Return a sentence with a link."""
        page = docPage or self.moduleName
        return f'<p>For more information, see the <a href="https://slicer.invalid/{page}">online documentation</a>.</p>'

    def runTest(self, msec: int = 100, **kwargs: Any) -> None:
        """Run the module's self-test."""
        test_class = getattr(importlib.import_module(self.__module__), f"{self.moduleName}Test", None)
        if test_class is None:
            raise AssertionError(f"Test case class not found: {self.moduleName}Test")
        test = test_class()
        test.messageDelay = msec
        test.runTest(**kwargs)


class ScriptedLoadableModuleWidget:
    """The base of the class that builds the panel."""

    def __init__(self, parent: Any = None) -> None:
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = slicer.util.settingsValue("Developer/DeveloperMode", False, converter=slicer.util.toBool)
        if parent is None:
            raise HostError("A module widget of its own window is not covered by slicerhost: open_module makes the panel.")
        self.parent = parent
        self.layout = parent.layout()
        slicer.app.moduleManager().connect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def resourcePath(self, filename: str) -> str:
        """Return the path of a file in Resources."""
        return str(Path(slicer.util.modulePath(self.moduleName)).parent / "Resources" / filename)

    def setup(self) -> None:
        """Build the panel; the developers' buttons are not covered."""

    def cleanup(self) -> None:
        """Do nothing, unless a module does something."""

    def _onModuleAboutToBeUnloaded(self, moduleName: str) -> None:
        if moduleName == self.moduleName:
            self.cleanup()
            manager = slicer.app.moduleManager()
            manager.disconnect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def onReload(self) -> None:
        """Reload the module's file and build the panel anew."""
        slicer.util.reloadScriptedModule(self.moduleName)


class ScriptedLoadableModuleLogic:
    """The base of the class that works without the panel."""

    def __init__(self, parent: Any = None) -> None:
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self) -> Any:
        """Return the module's parameter node; a new one if there is none."""
        if self.isSingletonParameterNode:
            node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
            if node is not None:
                if node.GetAttribute("ModuleName") != self.moduleName:
                    node.SetAttribute("ModuleName", self.moduleName)
                return node
        else:
            found = self.getAllParameterNodes()
            if found:
                return found[0]
        return slicer.mrmlScene.AddNode(self.createParameterNode())

    def getAllParameterNodes(self) -> list[Any]:
        """Return all parameter nodes of the module."""
        nodes = slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")
        return [node for node in nodes if node.GetAttribute("ModuleName") == self.moduleName]

    def createParameterNode(self) -> Any:
        """Return a new parameter node, which is not in the scene yet."""
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)
        if self.isSingletonParameterNode:
            node.SetSingletonTag(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """The base of the self-test."""

    messageDelay = 100

    def __init__(self, *arguments: Any, **kwargs: Any) -> None:
        super().__init__(*arguments, **kwargs)
        self.moduleTestNames = [name for name in dir(self) if "test" in name and callable(getattr(self, name))]

    def delayDisplay(self, message: str, requestedDelay: int | None = None, msec: int | None = None) -> None:
        """Show a message for a moment."""
        slicer.util.delayDisplay(message, self.messageDelay)

    def runTest(self) -> None:
        """Run every method whose name has 'test' in it."""
        if not self.moduleTestNames:
            logging.warning("No test is defined in %s", type(self).__name__)
        for name in self.moduleTestNames:
            self.setUp()
            getattr(self, name)()
            self.tearDown()


def make_scripted() -> ModuleType:
    """Return the module `slicer.ScriptedLoadableModule`."""
    kinds = (ScriptedLoadableModule, ScriptedLoadableModuleWidget, ScriptedLoadableModuleLogic, ScriptedLoadableModuleTest)
    contents: dict[str, Any] = {kind.__name__: kind for kind in kinds}
    contents["__all__"] = [kind.__name__ for kind in kinds]
    return strict_module("slicer.ScriptedLoadableModule", contents, "A stand-in for slicer.ScriptedLoadableModule.")


NAMES_IN_SLICER = {"qSlicerScriptedLoadableModule": qSlicerScriptedLoadableModule,
                   "qSlicerScriptedLoadableModuleWidget": qSlicerScriptedLoadableModuleWidget,
                   "qMRMLWidget": qMRMLWidget}  # fmt: skip
