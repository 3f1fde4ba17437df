"""The node selector: which nodes it lists, which one it selects by itself, and what it tells about it.

After qMRMLNodeComboBox and qMRMLSortFilterProxyModel of Slicer 5.12: a selector without "None" selects the first node when it
gets the scene, and later only if its list was quite empty; when the selected node goes, the one that takes its place in the
list is selected; when a scene has been imported, no node is.
"""
# ruff: noqa: N801, N802, N803, N815 - Slicer's names.

from __future__ import annotations

from typing import Any, ClassVar

import slicer
import vtk
from PySide6 import QtCore, QtWidgets

from slicerhost.missing import HostError
from slicerhost.signals import observing


def _flag(name: str) -> tuple[Any, Any]:
    """Return a Qt property that is true or false, and its setter."""

    def read(self: Any) -> bool:
        return bool(self._sh_flags[name])

    def write(self: Any, value: bool) -> None:
        if self._sh_flags[name] != bool(value):
            self._sh_flags[name] = bool(value)
            self._refresh()

    return QtCore.Property(bool, read, write), write


class qMRMLNodeComboBox(QtWidgets.QWidget):
    """Selects a node of the scene."""

    currentNodeChanged = QtCore.Signal(object)
    validNodeChanged = QtCore.Signal(bool)
    currentNodeIDChanged = QtCore.Signal(str)
    nodeAdded = QtCore.Signal(object)
    nodeAddedByUser = QtCore.Signal(object)
    nodeActivated = QtCore.Signal(object)
    nodeAboutToBeRemoved = QtCore.Signal(object)
    slicer_signals: ClassVar[dict[str, str]] = {
        "currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged",
        "currentNodeChanged(bool)": "validNodeChanged",
        "currentNodeIDChanged(QString)": "currentNodeIDChanged",
        "nodeAdded(vtkMRMLNode*)": "nodeAdded",
        "nodeAddedByUser(vtkMRMLNode*)": "nodeAddedByUser",
        "nodeActivated(vtkMRMLNode*)": "nodeActivated",
        "nodeAboutToBeRemoved(vtkMRMLNode*)": "nodeAboutToBeRemoved",
    }
    slicer_slots: ClassVar[dict[str, str]] = {
        "setMRMLScene(vtkMRMLScene*)": "setMRMLScene",
        "setCurrentNode(vtkMRMLNode*)": "setCurrentNode",
        "setCurrentNodeID(QString)": "setCurrentNodeID",
    }

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        observing.add(self)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._sh_combo = QtWidgets.QComboBox(self)
        # As wide as the longest name of a node, as Slicer's is when it is first shown.
        self._sh_combo.setSizeAdjustPolicy(QtWidgets.QComboBox.SizeAdjustPolicy.AdjustToContents)
        layout.addWidget(self._sh_combo)
        self.setSizePolicy(QtWidgets.QSizePolicy.Policy.Preferred, QtWidgets.QSizePolicy.Policy.Fixed)
        self._sh_scene: Any = None
        self._sh_observed: list[tuple[Any, int]] = []
        self._sh_ids: list[str] = []
        self._sh_names: dict[str, str] = {}
        self._sh_current = ""
        self._sh_requested: Any = None
        self._sh_flags = {"noneEnabled": False, "addEnabled": True, "removeEnabled": True, "editEnabled": False,
                          "renameEnabled": False, "showHidden": False, "showChildNodeTypes": True,
                          "selectNodeUponCreation": True}  # fmt: skip
        self._sh_types: tuple[str, ...] = ()
        self._sh_hidden_types: tuple[str, ...] = ()
        self._sh_none = "None"
        self._sh_labels: dict[str, str] = {}
        self._sh_base_names: dict[str, str] = {}
        self._sh_attributes: dict[str, tuple[str, Any]] = {}
        self._sh_combo.activated.connect(self._activate)
        self.setEnabled(False)

    # The scene

    def mrmlScene(self) -> Any:
        """Return the scene."""
        return self._sh_scene

    def setMRMLScene(self, scene: Any) -> None:
        """List the nodes of a scene and follow it."""
        if scene is self._sh_scene:
            return
        for observed, tag in self._sh_observed:
            observed.RemoveObserver(tag)
        self._sh_observed = []
        before, expected = self._sh_current, self._sh_requested
        self._sh_scene, self._sh_requested = scene, None
        if scene is not None:
            self._observe(scene)
        self._list()
        if before not in self._sh_ids:
            first = self._sh_ids[0] if self._sh_ids and not self._sh_flags["noneEnabled"] else ""
            self._select(expected if expected in self._sh_ids else first)
        self.setEnabled(scene is not None)

    def _observe(self, scene: Any) -> None:
        @vtk.calldata_type(vtk.VTK_OBJECT)
        def added(_scene: Any, _event: str, node: Any) -> None:
            if not scene.IsImporting() and self._accepts(node):
                self._refresh()
                self.nodeAdded.emit(node)

        @vtk.calldata_type(vtk.VTK_OBJECT)
        def removed(_scene: Any, _event: str, node: Any) -> None:
            if not scene.IsClosing() and node.GetID() in self._sh_ids:
                self.nodeAboutToBeRemoved.emit(node)
                self._refresh(without=node)

        kinds = slicer.vtkMRMLScene
        for event, follow in (
            (kinds.NodeAddedEvent, added),
            (kinds.NodeAboutToBeRemovedEvent, removed),
            (kinds.EndCloseEvent, lambda *_: self._refresh()),
            (kinds.EndImportEvent, lambda *_: self._begin_anew()),
            (kinds.EndRestoreEvent, lambda *_: self._refresh()),
        ):
            self._sh_observed.append((scene, scene.AddObserver(event, follow)))

    def _accepts(self, node: Any) -> bool:
        if node.GetHideFromEditors() and not self._sh_flags["showHidden"]:
            return False
        if not self._sh_types:
            return True
        for kind in self._sh_types:
            if not node.IsA(kind) or (not self._sh_flags["showChildNodeTypes"] and node.GetClassName() != kind):
                continue
            if self._sh_flags["showChildNodeTypes"] and any(node.IsA(hidden) for hidden in self._sh_hidden_types):
                return False
            if kind in self._sh_attributes:
                name, value = self._sh_attributes[kind]
                found = node.GetAttribute(name)
                return found is not None and (value is None or str(value) == found)
            return True
        return False

    def _list(self, without: Any = None) -> None:
        nodes = [] if self._sh_scene is None else list(self._sh_scene.GetNodes())
        nodes = [node for node in nodes if node is not without and self._accepts(node)]
        self._sh_ids = [node.GetID() for node in nodes]
        self._sh_names = {node.GetID(): node.GetName() or "" for node in nodes}
        # Nodes that have left the scene must not live on here; the scene itself stays observed.
        gone = [pair for pair in self._sh_observed if pair[0] is not self._sh_scene and pair[0] not in nodes]
        for node, tag in gone:
            node.RemoveObserver(tag)
        self._sh_observed = [pair for pair in self._sh_observed if pair not in gone]
        watched = {observed for observed, _ in self._sh_observed}
        for node in nodes:
            if node not in watched:
                self._sh_observed.append((node, node.AddObserver(vtk.vtkCommand.ModifiedEvent, self._renamed)))
        self._show()

    def _show(self) -> None:
        self._sh_combo.blockSignals(True)
        self._sh_combo.clear()
        if self._sh_flags["noneEnabled"]:
            self._sh_combo.addItem(self._sh_none, "")
        for node_id in self._sh_ids:
            self._sh_combo.addItem(self._sh_names[node_id], node_id)
        if not self._sh_flags["noneEnabled"] and not self._sh_current:
            label = self.nodeTypeLabel(self._sh_types[0]) if self._sh_types else "node"
            self._sh_combo.setPlaceholderText(f"Select a {label}")
        self._sh_combo.setCurrentIndex(self._sh_combo.findData(self._sh_current))
        self._sh_combo.blockSignals(False)

    def nodeTypeLabel(self, nodeType: str) -> str:
        """Return what nodes of a class are called in the list's own entries."""
        if nodeType in self._sh_labels:
            return self._sh_labels[nodeType]
        label = self._sh_scene.GetTypeDisplayNameByClassName(nodeType) if self._sh_scene is not None else ""
        return str(label) or "node"

    def setNodeTypeLabel(self, label: str, nodeType: str) -> None:
        """Set what nodes of a class are called in the list's own entries; "" for what Slicer calls them."""
        if not nodeType:
            raise HostError("setNodeTypeLabel needs the class of nodes; Slicer would ignore it.")
        self._sh_labels.pop(nodeType, None)
        if label:
            self._sh_labels[nodeType] = label
        self._show()

    def entries(self) -> list[str]:
        """Return the texts of the list's own entries below the nodes, for tests."""
        label = self.nodeTypeLabel(self._sh_types[0] if len(self._sh_types) == 1 else "")
        found = [f"Rename current {label}"] if self._sh_flags["renameEnabled"] else []
        found += [f"Edit current {label}"] if self._sh_flags["editEnabled"] else []
        for kind in self._sh_types if self._sh_flags["addEnabled"] else ():
            found.append(f"Create new {self.nodeTypeLabel(kind)}")
            found += [f"Create new {self.nodeTypeLabel(kind)} as..."] if self._sh_flags["renameEnabled"] else []
        return found + ([f"Delete current {label}"] if self._sh_flags["removeEnabled"] else [])

    def _refresh(self, without: Any = None) -> None:
        before = list(self._sh_ids)
        place = before.index(self._sh_current) if self._sh_current in before else None
        self._list(without)
        if self._sh_current in self._sh_ids:
            return
        if place is not None:
            following = self._sh_ids[min(place, len(self._sh_ids) - 1)] if self._sh_ids else ""
            self._select(following)
        elif not before and len(self._sh_ids) == 1 and not self._has_rows_of_its_own():
            self._select(self._sh_ids[0])

    def _begin_anew(self) -> None:
        """Lose the selected node, as all lists of nodes do when a scene has been imported: every row goes, and comes again."""
        self._select("")
        self._sh_ids = []
        self._refresh()

    def _has_rows_of_its_own(self) -> bool:
        names = ("noneEnabled", "addEnabled", "removeEnabled", "editEnabled", "renameEnabled")
        return any(self._sh_flags[name] for name in names)

    def _renamed(self, node: Any, _event: str) -> None:
        node_id, name = node.GetID(), node.GetName() or ""
        if self._sh_names.get(node_id, name) != name:
            self._sh_names[node_id] = name
            self._show()
            if node_id == self._sh_current:
                self._tell()

    # What is selected

    def _select(self, node_id: str) -> None:
        changed = node_id != self._sh_current
        self._sh_current = node_id
        self._show()
        if changed:
            self._tell()

    def _tell(self) -> None:
        node = self.currentNode()
        self.currentNodeChanged.emit(node)
        self.validNodeChanged.emit(node is not None)
        self.currentNodeIDChanged.emit(self._sh_current)

    def _activate(self, row: int) -> None:
        self._select(self._sh_combo.itemData(row) or "")
        self.nodeActivated.emit(self.currentNode())

    def currentNode(self) -> Any:
        """Return the selected node, or None."""
        return self._sh_scene.GetNodeByID(self._sh_current) if self._sh_scene is not None and self._sh_current else None

    def setCurrentNode(self, node: Any) -> None:
        """Select a node; one that is not listed deselects."""
        if node is not None and not isinstance(node, slicer.vtkMRMLNode):
            raise TypeError(f"setCurrentNode takes a node, not {node!r}.")
        self.setCurrentNodeID("" if node is None else node.GetID() or "")

    def _current_node_id(self) -> str:
        return self._sh_current

    def setCurrentNodeID(self, node_id: str) -> None:
        """Select a node by its ID; one that is not listed deselects."""
        if self._sh_scene is None:
            self._sh_requested = node_id
        self._select(node_id if node_id in self._sh_ids else "")

    def setCurrentNodeIndex(self, index: int) -> None:
        """Select by the place among the nodes."""
        self._select(self._sh_ids[index] if 0 <= index < len(self._sh_ids) else "")

    def nodeCount(self) -> int:
        """Return how many nodes are listed."""
        return len(self._sh_ids)

    def nodeFromIndex(self, index: int) -> Any:
        """Return a listed node."""
        return self._sh_scene.GetNodeByID(self._sh_ids[index]) if 0 <= index < len(self._sh_ids) else None

    # Making and removing nodes

    def addNode(self, nodeType: str = "") -> Any:
        """Make a node as the user does with 'Create new ...', and select it."""
        kind = nodeType or (self._sh_types[0] if self._sh_types else "")
        if kind not in self._sh_types or self._sh_scene is None:
            return None
        node = self._sh_scene.CreateNodeByClass(kind)
        node.UnRegister(None)
        base = self._sh_base_names.get(kind, "") or ("" if node.GetName() else node.GetDefaultNodeNamePrefix())
        if base:
            node.SetName(self._sh_scene.GetUniqueNameByString(base))
        for name, value in self._sh_attributes.values():
            node.SetAttribute(name, "" if value is None else str(value))
        node = self._sh_scene.AddNode(node)
        if self._sh_flags["selectNodeUponCreation"]:
            self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def removeCurrentNode(self) -> None:
        """Remove the selected node from the scene."""
        self._sh_scene.RemoveNode(self.currentNode())

    def addAttribute(self, nodeType: str, attributeName: str, attributeValue: Any = None) -> None:
        """List only nodes of this class that have the attribute (with this value, if one is given)."""
        self._sh_attributes[nodeType] = (attributeName, attributeValue)
        self._refresh()

    def removeAttribute(self, nodeType: str, attributeName: str) -> None:
        """Take `addAttribute` back."""
        if self._sh_attributes.get(nodeType, ("",))[0] == attributeName:
            del self._sh_attributes[nodeType]
            self._refresh()

    # Properties

    def _get_types(self) -> list[str]:
        return list(self._sh_types)

    def setNodeTypes(self, nodeTypes: Any) -> None:
        """Set the classes of nodes that are listed."""
        if isinstance(nodeTypes, str):
            raise TypeError(f"nodeTypes takes a list of class names, not {nodeTypes!r}.")
        kinds = tuple(kind for kind in nodeTypes if kind)
        for kind in kinds:
            if not hasattr(slicer, kind):
                raise HostError(f"'{self.objectName}' is to list nodes of class {kind}, which there is not.")
        if kinds != self._sh_types:
            self._sh_types = kinds
            self._refresh()

    def _get_hidden_types(self) -> list[str]:
        return list(self._sh_hidden_types)

    def setHideChildNodeTypes(self, nodeTypes: Any) -> None:
        """Set the classes that are left out although their parent class is listed."""
        self._sh_hidden_types = tuple(kind for kind in nodeTypes if kind)
        self._refresh()

    def _get_base_name(self) -> str:
        return self._sh_base_names.get(self._sh_types[0], "") if self._sh_types else ""

    def setBaseName(self, baseName: str, nodeType: str = "") -> None:
        """Set how new nodes are called."""
        kinds = (nodeType,) if nodeType else self._sh_types
        if not kinds:
            raise HostError(f"'{self.objectName}' gets a base name before its nodeTypes; Slicer ignores it.")
        self._sh_base_names.update(dict.fromkeys(kinds, baseName))

    def _get_none(self) -> str:
        return self._sh_none

    def setNoneDisplay(self, text: str) -> None:
        """Set what stands for no node."""
        self._sh_none = text
        self._show()

    currentNodeID = QtCore.Property(str, _current_node_id, setCurrentNodeID)
    nodeTypes = QtCore.Property("QStringList", _get_types, setNodeTypes)
    hideChildNodeTypes = QtCore.Property("QStringList", _get_hidden_types, setHideChildNodeTypes)
    baseName = QtCore.Property(str, _get_base_name, setBaseName)
    noneDisplay = QtCore.Property(str, _get_none, setNoneDisplay)
    noneEnabled, setNoneEnabled = _flag("noneEnabled")
    addEnabled, setAddEnabled = _flag("addEnabled")
    removeEnabled, setRemoveEnabled = _flag("removeEnabled")
    editEnabled, setEditEnabled = _flag("editEnabled")
    renameEnabled, setRenameEnabled = _flag("renameEnabled")
    showHidden, setShowHidden = _flag("showHidden")
    showChildNodeTypes, setShowChildNodeTypes = _flag("showChildNodeTypes")
    selectNodeUponCreation, setSelectNodeUponCreation = _flag("selectNodeUponCreation")
