"""The self-test that Slicer runs: the sample pair predicted, registered and checked; cancel, closing, saving, bad input."""
# ruff: noqa: N802, N806, N815 - Slicer's style.
# mypy: disable-error-code="no-untyped-def, attr-defined, misc"

import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import slicer

from HyperPredictRegLib.panel import packages


class SelfTest:
    """The tests, to be mixed into ScriptedLoadableModuleTest. They need no network; nothing is installed.

    Attributes
    ----------
    makeLogic : HyperPredictRegLogic.
    """

    makeLogic = None

    def setUp(self):
        """Start from an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self):
        """Run every test, each in an empty scene."""
        for test in (
            self.test_badInputIsNamed,
            self.test_parametersAreSavedWithTheScene,
            self.test_importingASceneChangesNoChoice,
            self.test_cancelLeavesTheSceneAsItWas,
            self.test_closingTheSceneEndsTheWork,
            self.test_aSuggestionIsDrawn,
            self.test_aMapOfTwoParametersIsDrawn,
            self.test_livePreviewFollowsTheSliderAndLeavesNoTrace,
            self.test_samplePairIsPredictedRegisteredAndApplied,
        ):
            self.setUp()
            self.delayDisplay(test.__name__)
            test()
        self.delayDisplay("Test passed")

    def test_samplePairIsPredictedRegisteredAndApplied(self):
        """Do the main job and compare with the known truth."""
        import numpy as np

        from HyperPredictRegLib.panel.samples import load_sample_pair
        from HyperPredictRegLib.slicerbridge.provenance import read_report_node
        from HyperPredictRegLib.workflow.sample import made_pair

        pair = made_pair()
        fixed, moving, fixedSegmentation, movingSegmentation = load_sample_pair(slicer.mrmlScene, pair)
        voxels = slicer.util.arrayFromVolume(moving).copy()
        logic = self.makeLogic()
        nodes = self.registeredByPanel(fixed, moving, movingSegmentation, fixedSegmentation)
        report = read_report_node(nodes.report)
        self.assertEqual(report.choice.by, "predictor" if packages.torch_is_there() else "bootstrap")
        if packages.torch_is_there():
            self.assertEqual(report.reliability.level, "reliable")
            self.assertGreater(report.choice.predicted.mean_dice.value, 0.8)
        self.assertTrue(report.limit_met)
        self.assertGreater(report.measured.dice.mean, report.measured.dice.mean_before + 0.05)
        self.checkTransform(nodes.transform, pair)
        self.assertTrue(np.array_equal(slicer.util.arrayFromVolume(moving), voxels))
        self.assertIsNone(moving.GetParentTransformNode())
        self.checkNodes(nodes, report)
        self.checkAppliedPoints(logic, nodes, fixed)

    def test_aSuggestionIsDrawn(self):
        """Suggest λ without registering, with PyTorch or without."""
        fixed, moving = self.addEggs()
        logic = self.makeLogic()
        # The application itself has some.
        transforms = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLTransformNode")
        prediction = logic.suggest(fixed, moving)
        # Whatever it is, eggs being no brains: it was said of these two.
        self.assertIn(prediction.reliability.level, ("reliable", "uncertain", "unreliable"))
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLPlotChartNode"), 2)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLTransformNode"), transforms)

    def test_aMapOfTwoParametersIsDrawn(self):
        """Draw a made-up map in the panel, and look at its pixels: rows from the top, colors as given, captions written."""
        import numpy as np

        from HyperPredictRegLib.core.search_space import Parameter, SearchSpace
        from HyperPredictRegLib.panel.mapping import MapShown
        from HyperPredictRegLib.presentation.map_picture import Caption, MapPicture

        space = SearchSpace(
            tuple(Parameter(name, name, "", "linear", 0.0, 1.0, 0.5, "up", name, name) for name in ("first", "second"))
        )
        pixels = np.full((100, 200, 3), 255, dtype=np.uint8)
        pixels[:50, :100] = (200, 10, 60)
        picture = MapPicture(pixels, (Caption("WWWW", 120, 70, 60, 20),), (0, 0, 200, 100), space, np.array([[0.0, 1.0]] * 2))
        pane = self.openedPanel(*self.addEggs()).panel.choice._maps[0]
        shown = MapShown(picture, None, lambda width, colors: picture, {"first": 0.9, "second": 0.9}, "#0000ff")
        pane.show(shown)
        image = pane._label.pixmap.toImage()
        self.assertEqual((image.width(), image.height()), (200, 100))
        self.assertEqual(image.pixel(20, 20) & 0xFFFFFF, 0xC80A3C)
        self.assertEqual(image.pixel(20, 80) & 0xFFFFFF, 0xFFFFFF)
        written = {image.pixel(x, y) & 0xFFFFFF for x in range(120, 180) for y in range(70, 90)}
        self.assertGreater(len(written), 1)
        x, y = picture.place_of(shown.setting)
        self.assertEqual(image.pixel(x, y + 8) & 0xFFFFFF, 0x0000FF)
        pane.show(None)
        self.assertTrue(pane._label.isHidden())

    def test_livePreviewFollowsTheSliderAndLeavesNoTrace(self):
        """Switch the preview on, move the slider, and switch it off again."""
        fixed, moving = self.addEggs()
        widget = self.openedPanel(fixed, moving)
        kinds = ("vtkMRMLVolumeNode", "vtkMRMLVolumeDisplayNode")
        before = [slicer.mrmlScene.GetNumberOfNodesByClass(kind) for kind in kinds]
        widget.ui.previewCheckBox.setChecked(True)
        previews = widget.panel.previews
        self.assertIsNotNone(previews.task, widget.ui.previewLabel.text)
        self.waitFor(lambda: previews.volume is None or previews.volume.node is not None)
        self.assertIsNotNone(previews.volume, widget.ui.previewLabel.text)
        name = previews.volume.node.GetName()
        self.assertTrue(name.startswith("Preview, λ = "), name)
        widget.ui.weightSlider.setValue(widget.ui.weightSlider.maximum)
        self.waitFor(lambda: previews.volume is None or previews.volume.node.GetName() != name)
        self.assertIsNotNone(previews.volume, widget.ui.previewLabel.text)
        folder = previews.task.folder.parent
        widget.ui.previewCheckBox.setChecked(False)
        self.assertFalse(folder.exists())
        self.assertEqual([slicer.mrmlScene.GetNumberOfNodesByClass(kind) for kind in kinds], before)

    def checkTransform(self, node, pair):
        """Compare the transform that was found with the one that made the sample pair."""
        from HyperPredictRegLib.slicerbridge.transforms import from_transform_node
        from HyperPredictRegLib.workflow.sample import error_against

        # 21 mm before, 1.7 mm after the affine step, 0.5 mm at the end.
        self.assertLess(error_against(pair.truth, from_transform_node(node), pair.fixed).mean, 0.8)

    def registeredByPanel(self, fixed, moving, ofMoving, ofFixed):  # noqa: N803
        """Click through the panel as a user does, check what it shows, and return the nodes of the result."""
        if not packages.torch_is_there() and not slicer.app.testingEnabled():
            # A click would ask whether PyTorch may be installed.
            return self.makeLogic().process(fixed, moving, ofMoving, fixedSegmentation=ofFixed)
        widget = self.openedPanel(fixed, moving)
        parameters = widget.logic.getParameterNode()
        parameters.movingSegmentation, parameters.fixedSegmentation = ofMoving, ofFixed
        widget.ui.registerButton.click()
        self.waitFor(lambda: not widget.panel.runner.busy, seconds=1200)
        self.assertIsNotNone(widget.panel.result.nodes, widget.ui.stageLabel.text)
        self.assertIn("Limit kept", widget.ui.verdictLabel.text)
        self.assertFalse(widget.ui.tracePlotFrame.isHidden())
        self.assertEqual(widget.ui.measuresTable.rowCount, 4)
        self.assertFalse(widget.ui.dicePlotFrame.isHidden())
        self.assertIn("Dice" if packages.torch_is_there() else "error", widget.ui.readoutLabel.text)
        widget.ui.weightSlider.setValue(0)
        self.assertTrue(widget.ui.readoutLabel.text.startswith("Manual λ"))
        widget.ui.manualCheckBox.setChecked(False)
        return widget.panel.result.nodes

    def openedPanel(self, fixed, moving):
        """Open the module, choose two volumes, and return its widget."""
        slicer.util.selectModule("HyperPredictReg")
        widget = slicer.util.getModuleWidget("HyperPredictReg")
        parameters = widget.logic.getParameterNode()
        parameters.fixedVolume, parameters.movingVolume = fixed, moving
        widget.setParameterNode(parameters)
        return widget

    def checkNodes(self, nodes, report):
        """Compare the nodes of a registration with its report and with each other."""
        import numpy as np
        import SimpleITK as sitk

        from HyperPredictRegLib.slicerbridge.segmentations import from_segmentation_node
        from HyperPredictRegLib.slicerbridge.volumes import volume_geometry

        def inside(labels, name):
            number = next(label for label, known in labels.names.items() if known == name)
            return sitk.GetArrayViewFromImage(labels.image) == number

        grid = volume_geometry(nodes.fixed)
        self.assertTrue(volume_geometry(nodes.warped).matches(grid))
        voxels = [slicer.util.arrayFromVolume(node).ravel() for node in (nodes.fixed, nodes.warped)]
        self.assertGreater(np.corrcoef(*voxels)[0, 1], 0.95)
        jacobian = slicer.util.arrayFromVolume(nodes.jacobian)
        self.assertAlmostEqual(float(jacobian.min()), report.measured.jacobian_minimum, delta=1e-4)
        fixed, applied = (from_segmentation_node(n, grid) for n in (nodes.fixed_segmentation, nodes.propagated_segmentation))
        for structure in report.measured.dice.structures:
            one, other = (inside(part, structure.name) for part in (fixed, applied))
            dice = 2.0 * np.logical_and(one, other).sum() / (one.sum() + other.sum())
            self.assertAlmostEqual(dice, structure.dice, delta=1e-3)
        table = slicer.util.arrayFromTableColumn(nodes.structures, "Dice")
        self.assertAlmostEqual(float(np.mean(table)), report.measured.dice.mean, delta=1e-6)
        center = grid.centre_lps * (-1.0, -1.0, 1.0)
        there = nodes.transform.GetTransformFromParent().TransformPoint(*center)
        back = nodes.inverse.GetTransformFromParent().TransformPoint(*there)
        self.assertLess(np.linalg.norm(np.array(back) - center), 0.5)

    def checkAppliedPoints(self, logic, nodes, fixed):
        """Apply the transform to a point and back again, and compare with where the transform takes it."""
        import numpy as np

        points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Tip")
        bounds = [0.0] * 6
        fixed.GetRASBounds(bounds)
        center = np.array(bounds).reshape(3, 2).mean(axis=1)
        points.AddControlPoint(*center)
        there = logic.apply_to_nodes([points], nodes, backward=True).nodes[0]
        expected = nodes.transform.GetTransformFromParent().TransformPoint(*center)
        self.assertLess(np.linalg.norm(np.array(there.GetNthControlPointPosition(0)) - expected), 0.01)
        back = logic.apply_to_nodes([there], nodes).nodes[0]
        self.assertLess(np.linalg.norm(np.array(back.GetNthControlPointPosition(0)) - center), 0.05)

    def test_cancelLeavesTheSceneAsItWas(self):
        """Cancel a registration in the middle: it ends at once, without a trace."""
        fixed, moving = self.addEggs()
        # What the application adds of its own on the occasion does not count.
        slicer.app.processEvents()
        before = slicer.mrmlScene.GetNumberOfNodes()
        logic = self.makeLogic()
        task = logic.begin("register", logic.request(fixed, moving))
        self.waitFor(lambda: bool(task.poll()))
        task.cancel()
        # Whatever it was at: it is not waited for.
        self.assertEqual(task.ending.outcome, "cancelled")
        self.assertFalse(task.folder.parent.exists())
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), before)

    def test_closingTheSceneEndsTheWork(self):
        """Close the scene while the panel registers: the work ends and the panel starts anew."""
        widget = self.openedPanel(*self.addEggs())
        parameters = widget.logic.getParameterNode()
        # With a manual λ, so that nobody is asked about PyTorch.
        parameters.setting, parameters.settingOf = {"regularization_weight": 1.0}, parameters.engine.value
        parameters.manual = True
        widget.ui.registerButton.click()
        task = widget.panel.runner.task
        self.assertIsNotNone(task)
        self.waitFor(lambda: bool(task.poll()))
        slicer.mrmlScene.Clear()
        self.assertFalse(widget.panel.runner.busy)
        self.assertEqual(task.ending.outcome, "cancelled")
        self.assertFalse(task.folder.parent.exists())
        self.assertFalse(widget.ui.registerButton.enabled)

    def test_parametersAreSavedWithTheScene(self):
        """Save choices with a scene, close it, load it: the choices are there again."""
        from HyperPredictRegLib.panel.parameters import Goal, Preset, Rule

        fixed, _moving = self.addEggs()
        parameters = self.makeLogic().getParameterNode()
        parameters.fixedVolume = fixed
        parameters.preset, parameters.rule, parameters.foldingLimit = Preset.STANDARD, Rule.PLATEAU, 0.25
        parameters.goal = Goal.OVERLAP
        parameters.structureWeights = {"left hippocampus": 2.0}
        with self.savedScene() as scene:
            slicer.mrmlScene.Clear()
            slicer.util.loadScene(scene)
        restored = self.makeLogic().getParameterNode()
        self.assertEqual(restored.fixedVolume.GetName(), fixed.GetName())
        self.assertEqual((restored.preset, restored.rule, restored.foldingLimit), (Preset.STANDARD, Rule.PLATEAU, 0.25))
        self.assertEqual(restored.goal, Goal.OVERLAP)
        self.assertEqual(dict(restored.structureWeights), {"left hippocampus": 2.0})

    def test_importingASceneChangesNoChoice(self):
        """Add a scene to the one that is open: the panel shows what it showed before."""
        fixed, moving = self.addEggs()
        widget = self.openedPanel(fixed, moving)
        start = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Start")
        widget.ui.initialTransformSelector.setCurrentNode(start)
        chosen = widget.ui.parameterSetSelector.currentNode()
        count = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")
        with self.savedScene() as scene:
            slicer.util.loadScene(scene)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode"), 2 * count)
        self.assertIs(widget.ui.parameterSetSelector.currentNode(), chosen)
        for selector, node in (("fixed", fixed), ("moving", moving), ("initialTransform", start)):
            self.assertIs(getattr(widget.ui, f"{selector}Selector").currentNode(), node)
        self.assertTrue(widget.ui.registerButton.enabled)

    @contextmanager
    def savedScene(self):
        """Save the scene to a file that is there as long as the block runs; give its path."""
        folder = slicer.util.tempDirectory(key="HyperPredictReg")
        try:
            scene = str(Path(folder) / "scene.mrb")
            self.assertTrue(slicer.util.saveScene(scene))
            yield scene
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def test_badInputIsNamed(self):
        """Ask for what cannot be: a sentence names it, and nothing is left behind."""
        fixed, moving = self.addEggs()
        empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Nothing in it")
        slicer.app.processEvents()
        before = slicer.mrmlScene.GetNumberOfNodes()
        logic = self.makeLogic()
        for arguments, choices, words in (
            ((None, moving), {}, "Choose a fixed and a moving volume"),
            ((fixed, fixed), {}, "Ball"),
            ((fixed, empty), {}, "Nothing in it"),
            ((fixed, moving), {"preset": "finest"}, "finest"),
            ((fixed, moving), {"setting": {"regularization_weight": -1.0}}, "regularization_weight"),
        ):
            with self.assertRaisesRegex(ValueError, words):
                logic.process(*arguments, **choices)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), before)

    def waitFor(self, condition, seconds=300):
        """Let Slicer work on until a condition holds."""
        end = time.monotonic() + seconds
        while not condition():
            self.assertLess(time.monotonic(), end, "waited too long")
            slicer.app.processEvents()
            time.sleep(0.02)

    @staticmethod
    def addEggs():
        """Add two small volumes that show soft-edged ellipsoids with a core; return the nodes."""
        import numpy as np

        ijkToRAS = np.diag([3.0, 3.0, 3.0, 1.0])
        ijkToRAS[:3, 3] = -58.5
        k, j, i = np.indices((40, 40, 40))
        ras = np.stack([i, j, k], axis=-1) * 3.0 - 58.5
        eggs = []
        for name, center, radii in (("Ball", (0.0, 0.0, 0.0), (40.0, 40.0, 40.0)), ("Egg", (6.0, -4.0, 3.0), (36.0, 43.0, 40.0))):
            distance = np.linalg.norm((ras - np.array(center)) / np.array(radii), axis=-1)
            voxels = 100.0 / (1.0 + np.exp((distance - 1.0) * 20.0)) + 60.0 / (1.0 + np.exp((distance - 0.5) * 20.0))
            eggs.append(slicer.util.addVolumeFromArray(voxels.astype(np.float32), ijkToRAS, name))
        return eggs
