"""The scripted module that 3D Slicer loads: what it is called, its panel, its logic and its self-test. No algorithm."""
# ruff: noqa: N802, N803, N806, N815 - Slicer's own names are camelCase, and so are those of the methods it calls.

import sys
from pathlib import Path

import qt
import slicer
import vtk
from HyperPredictRegLib.panel.selftest import SelfTest
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


class HyperPredictReg(ScriptedLoadableModule):
    """Tells Slicer how the module is called, where it belongs and who made it."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("HyperPredict Registration")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Registration")]
        self.parent.dependencies = []
        self.parent.contributors = ["The HyperPredictReg developers"]
        self.parent.helpText = _("""
Registers a moving volume to a fixed one: first by an affine transform, then by a smooth deformation. How strongly
regularized that must be differs from pair to pair: the module predicts for every regularization weight λ how well
structures will overlap and how much will fold, suggests the best λ, registers, measures the folding, and corrects λ
until your limit holds.
See the <a href="https://github.com/HyperPredictReg/SlicerHyperPredictReg">module documentation</a>.
Not a medical device: for research only.
""")
        self.parent.acknowledgementText = _("""
Named after HyperPredict by A. L. Shuaibu and I. J. A. Simpson (University of Sussex), whose question it takes up: which
regularization is right for this pair of images? Registration uses SimpleITK and ITK.
""")
        slicer.app.connect("startupCompleted()", self.onStartupCompleted)

    def onStartupCompleted(self):
        """Announce the sample data, and see to it that our transforms in loaded scenes are read as they were made."""
        from HyperPredictRegLib.panel.samples import register_sample_data

        slicer.mrmlScene.AddObserver(slicer.mrmlScene.EndImportEvent, self.onSceneImported)
        register_sample_data(Path(self.resourcePath("Icons/SampleBrainPair.png")))

    @staticmethod
    def onSceneImported(caller, event):
        """Interpolate our displacement fields linearly, as they were made, and forget what is not saved.

        Slicer reads every field as cubic, and lists in its hierarchy what it has not written.
        """
        from HyperPredictRegLib.slicerbridge.together import drop_items_without_node
        from HyperPredictRegLib.slicerbridge.transforms import restore_linear_interpolation

        restore_linear_interpolation(caller)
        drop_items_without_node(caller)


class HyperPredictRegWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The module's panel. Each of its sections is a class in HyperPredictRegLib.panel; here they are put together."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.panel = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None
        self._setsBeforeImport = set()
        self._connectedBeforeImport = False

    def setup(self):
        """Build the panel when the user opens the module for the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        from HyperPredictRegLib.panel.panel import Panel

        uiWidget = slicer.util.loadUI(self.resourcePath("UI/HyperPredictReg.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = HyperPredictRegLogic()
        self.panel = Panel(self.ui, self.logic, lambda: self._parameterNode, self.resourcePath("requirements.txt"))
        # Or else its list would offer to "Create new ScriptedModule".
        self.ui.parameterSetSelector.setNodeTypeLabel(_("parameter set"), "vtkMRMLScriptedModuleNode")
        self.ui.parameterSetSelector.addAttribute("vtkMRMLScriptedModuleNode", "ModuleName", self.moduleName)
        self.ui.parameterSetSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.onParameterSetSelected)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartImportEvent, self.onSceneStartImport)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndImport)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeAddedEvent, self.panel.nodesChanged)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeRemovedEvent, self.panel.nodesChanged)
        if self.parent.isEntered:
            # After a reload of the module that is open, nobody enters it.
            self.enter()
        else:
            self.initializeParameterNode()

    def cleanup(self):
        """Stop what runs when Slicer closes or the module is unloaded."""
        if self.panel is not None:
            self.panel.stop()
            self.ui.parameterSetSelector.disconnect("currentNodeChanged(vtkMRMLNode*)", self.onParameterSetSelected)
            self.setParameterNode(None)
            self.panel = None
        self.removeObservers()

    def enter(self):
        """Take up the parameters when the user comes to the module."""
        self.initializeParameterNode()
        self.panel.nodesChanged()
        self.panel.enter()

    def exit(self):
        """Leave the parameters alone while the user is elsewhere; a registration that runs goes on."""
        from HyperPredictRegLib.panel.arranging import leave_module_panel

        if self.panel is not None:
            self.panel.pause()
            self.disconnectGui()
        leave_module_panel(self.parent)

    def onSceneStartClose(self, caller, event):
        """End what runs: its volumes are about to go."""
        self.panel.stop()
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        """Begin anew, with defaults, if the module is open."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onSceneStartImport(self, caller, event):
        """Let go of the selectors: when an import ends they lose their nodes, which are no choices of the user."""
        self._setsBeforeImport = {node.GetID() for node in self.logic.getAllParameterNodes()}
        self._connectedBeforeImport = self._parameterNodeGuiTag is not None
        self.disconnectGui()

    def onSceneEndImport(self, caller, event):
        """Go on with the parameters that a loaded scene brings, unless the user has begun to choose others."""
        current = self._parameterNode
        new = [node for node in self.logic.getAllParameterNodes() if node.GetID() not in self._setsBeforeImport]
        if current is None:
            return
        if new and current.fixedVolume is None and current.movingVolume is None:
            self.setParameterNode(self.logic.parametersOf(new[0]))
            slicer.mrmlScene.RemoveNode(current.parameterNode)
        else:
            self.setParameterNode(current)
        if not self._connectedBeforeImport:
            self.disconnectGui()

    def onParameterSetSelected(self, node):
        """Change to another set of parameters; where the last one was removed, make a new one."""
        if self._parameterNodeGuiTag is None:
            return
        if node is None:
            qt.QTimer.singleShot(0, self.replaceRemovedParameterNode)
        elif node is not self._parameterNode.parameterNode:
            self.setParameterNode(self.logic.parametersOf(node))

    def replaceRemovedParameterNode(self):
        """Take or make another set of parameters if the current one has left the scene."""
        removed = self._parameterNode is not None and self._parameterNode.parameterNode.GetScene() is None
        if removed and self.parent.isEntered and not slicer.mrmlScene.IsClosing():
            self.initializeParameterNode()

    def initializeParameterNode(self):
        """Take the set of parameters that was used last, or else the first one of the scene, or a new one."""
        current = self._parameterNode
        if current is None or current.parameterNode.GetScene() is None:
            current = self.logic.getParameterNode()
        self.setParameterNode(current)

    def setParameterNode(self, parameterNode):
        """Connect the panel to a set of parameters; None disconnects it."""
        before = None if self._parameterNode is None else self._parameterNode.parameterNode
        if self._parameterNode is not None:
            self.disconnectGui()
            self.removeObserver(self._parameterNode.parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)
        self._parameterNode = parameterNode
        if parameterNode is None:
            self.panel.release()
            return
        if parameterNode.parameterNode is not before:
            self.panel.begin_anew()
        self._parameterNodeGuiTag = parameterNode.connectGui(self.ui)
        self.panel.inputs.listening = True
        # The node and not its wrapper, which remembers volumes: whoever is observed once is never forgotten.
        self.addObserver(parameterNode.parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)
        self.ui.parameterSetSelector.setCurrentNode(parameterNode.parameterNode)
        self.panel.refresh()

    def disconnectGui(self):
        """Let the widgets change nothing any more."""
        self.panel.inputs.listening = False
        if self._parameterNode is not None and self._parameterNodeGuiTag is not None:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
        self._parameterNodeGuiTag = None

    def onParametersModified(self, caller=None, event=None):
        """Show what has changed."""
        self.panel.refresh()

    def onReload(self):
        """Reload the library together with this file, so that edits of either take effect."""
        self.cleanup()
        for name in [name for name in sys.modules if name.split(".")[0] == "HyperPredictRegLib"]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)


class HyperPredictRegLogic(ScriptedLoadableModuleLogic):
    """Predicts, registers and transforms nodes of the scene; works without the panel.

    Calls that wait (`suggest`, `process`) take `progress`, which is called with each
    `HyperPredictRegLib.worker.ChildEvent`; `begin` returns at once, for those who poll.
    """

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        # A scene may hold several sets of parameters.
        self.isSingletonParameterNode = False

    def getParameterNode(self):
        """Return the first set of parameters of the scene, made if there is none."""
        return self.parametersOf(super().getParameterNode())

    @staticmethod
    def parametersOf(node):
        """Return the set of parameters that a vtkMRMLScriptedModuleNode holds."""
        from HyperPredictRegLib.panel.parameters import ParameterNode, forget_unknown

        forget_unknown(node)
        return ParameterNode(node)

    @staticmethod
    def request(fixedVolume, movingVolume, movingSegmentation=None, **choices):
        """Return what is asked for as a `HyperPredictRegLib.slicerbridge.request.Request`.

        Parameters
        ----------
        fixedVolume, movingVolume : vtkMRMLScalarVolumeNode.
        movingSegmentation : vtkMRMLSegmentationNode to transform to the fixed volume, segment by segment, or None.
        choices : fixedSegmentation, initialTransform, prediction (nodes; the last is the text of a finished prediction),
            fixedLandmarks, movingLandmarks (point lists of corresponding points in the same order),
            channels (further pairs, such as T2 beside T1: tuples of a fixed and a moving volume and, if not 1, a weight),
            fixedMask, movingMask (a segmentation or label map node, or a pair of a segmentation node and a segment id), and
            fields of `HyperPredictRegLib.results.job.Job`, for example
            preset="standard", setting={"regularization_weight": 0.9}, criterion=Criterion(rule="maximum").

        Raises
        ------
        ValueError : a volume is missing, or there is no such choice.
        """
        from HyperPredictRegLib.slicerbridge.request import ChannelChoice, MaskChoice, Request

        if fixedVolume is None or movingVolume is None:
            raise ValueError(_("Choose a fixed and a moving volume."))
        masks = {}
        for argument, role in (("fixedMask", "fixed_mask"), ("movingMask", "moving_mask")):
            mask = choices.pop(argument, None)
            masks[role] = None if mask is None else MaskChoice(*mask) if isinstance(mask, tuple) else MaskChoice(mask)
        return Request(
            fixed=fixedVolume,
            moving=movingVolume,
            moving_segmentation=movingSegmentation,
            fixed_segmentation=choices.pop("fixedSegmentation", None),
            initial_transform=choices.pop("initialTransform", None),
            fixed_landmarks=choices.pop("fixedLandmarks", None),
            moving_landmarks=choices.pop("movingLandmarks", None),
            prediction=choices.pop("prediction", None),
            channels=tuple(ChannelChoice(*channel) for channel in choices.pop("channels", ())),
            options=choices,
            **masks,
        )

    @staticmethod
    def begin(kind, request):
        """Start work in the background and return it as a `HyperPredictRegLib.slicerbridge.task.Task`.

        Parameters
        ----------
        kind : "predict" or "register".
        request : see `request`.

        Raises
        ------
        ValueError : an input cannot be used; the message says which and why.
        """
        from HyperPredictRegLib.slicerbridge.task import Task

        return Task(kind, request)

    def suggest(self, fixedVolume, movingVolume, movingSegmentation=None, *, progress=None, addToScene=True, **choices):
        """Predict the result of a registration for every λ, without registering.

        Parameters are those of `process`, except those on the transform; addToScene says whether curves and charts go into
        the scene.

        Returns
        -------
        HyperPredictRegLib.results.prediction.Prediction, with λ* in ``choice.setting`` and the curves in ``surface``.

        Raises
        ------
        ValueError : an input cannot be used, or nothing can be predicted for this pair.
        RuntimeError : the volumes could not be aligned.
        """
        from HyperPredictRegLib.slicerbridge.task import deliver_prediction

        task = self.begin("predict", self.request(fixedVolume, movingVolume, movingSegmentation, **choices))
        try:
            task.wait(progress)
            prediction = task.prediction()
        finally:
            task.close()
        if addToScene:
            deliver_prediction(prediction, task)
        return prediction

    def process(
        self, fixedVolume, movingVolume, movingSegmentation=None, *, progress=None, transformAs="composite", fieldSpacing=None,
        **choices,
    ):  # fmt: skip
        """Register two volumes and add all that came out to the scene, in one subject hierarchy folder.

        The transform goes on the moving volume to align it with the fixed one. Inputs are not changed; a linear parent
        transform on one of them counts as part of where it lies. λ is predicted and corrected unless `setting` gives it.

        Parameters
        ----------
        fixedVolume, movingVolume, movingSegmentation, choices : see `request`.
        progress : called with each ChildEvent.
        transformAs : "composite" (affine, then deformable; exact) or "field" (one displacement field).
        fieldSpacing : mm between the points of that field; by default the spacing that was registered on.

        Returns
        -------
        HyperPredictRegLib.slicerbridge.outcome_nodes.OutcomeNodes, the new nodes by role, such as `warped` and `transform`.

        Raises
        ------
        ValueError : an input cannot be used; the message says which and why.
        RuntimeError : no valid result came out.
        """
        from HyperPredictRegLib.slicerbridge.outcome_nodes import check_storage
        from HyperPredictRegLib.slicerbridge.task import deliver_outcome
        from HyperPredictRegLib.slicerbridge.volumes import volume_geometry

        task = self.begin("register", self.request(fixedVolume, movingVolume, movingSegmentation, **choices))
        try:
            check_storage(volume_geometry(fixedVolume), transformAs, fieldSpacing)
            task.wait(progress)
            return deliver_outcome(task, transform_as=transformAs, field_spacing_mm=fieldSpacing)[0]
        finally:
            task.close()

    @staticmethod
    def apply_to_nodes(nodes, result, backward=False):
        """Apply the transform of a result to volumes, segmentations, models and points; see `slicerbridge.applying`."""
        from HyperPredictRegLib.slicerbridge.applying import apply_to_nodes

        return apply_to_nodes(slicer.mrmlScene, nodes, result, backward=backward)


class HyperPredictRegTest(SelfTest, ScriptedLoadableModuleTest):
    """The self-test that Slicer runs; its tests are in HyperPredictRegLib.panel.selftest."""

    makeLogic = HyperPredictRegLogic
