"""The scripted module that 3D Slicer loads: what it is called, its panel, its logic and its self-test. No algorithm."""
# ruff: noqa: N802, N803, N806 - Slicer's own names are camelCase, and so are those of the methods it calls.

import sys
import tempfile
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)


class HyperPredictReg(ScriptedLoadableModule):
    """Tells Slicer how the module is called, where it belongs and who made it."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("HyperPredict Registration")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Registration")]
        self.parent.dependencies = []
        self.parent.contributors = ["The HyperPredictReg developers"]
        self.parent.helpText = _("""
Brings a moving volume into line with a fixed one: first by an affine transform, then by bending it smoothly
(deformable registration). What came out is measured: overlap of structures, and the share of voxels where the bending
folds space over itself and so cannot be trusted.
See the <a href="https://github.com/HyperPredictReg/SlicerHyperPredictReg">module documentation</a>.
""")
        self.parent.acknowledgementText = _("""
Named after HyperPredict by A. L. Shuaibu and I. J. A. Simpson (University of Sussex), whose question it takes up: which
regularization is right for this pair of images? Registration uses SimpleITK and ITK.
""")


class HyperPredictRegWidget(ScriptedLoadableModuleWidget):
    """The module's panel: for now, how to register from the Python console."""

    def setup(self):
        """Build the panel when the user opens the module for the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        self.explanationLabel = qt.QLabel(
            _("This version registers from Slicer's Python console or from the command line. In the console:")
            + "<pre>fixed = getNode('...')\nmoving = getNode('...')\n"
            + "from HyperPredictReg import HyperPredictRegLogic\n"
            + "HyperPredictRegLogic().process(fixed, moving)</pre>"
            + _("Slicer waits until the transform, the warped volume and the measurements are in the scene.")
        )
        self.explanationLabel.wordWrap = True
        self.layout.addWidget(self.explanationLabel)
        self.layout.addStretch(1)

    def onReload(self):
        """Reload the library together with this file, so that edits of either take effect."""
        for name in [name for name in sys.modules if name.split(".")[0] == "HyperPredictRegLib"]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)


class HyperPredictRegLogic(ScriptedLoadableModuleLogic):
    """Registers volume nodes of the scene; works without the panel."""

    def process(self, fixedVolume, movingVolume, movingSegmentation=None, **choices):
        """Register two volumes and add all that came out to the scene, in one subject hierarchy folder.

        The transform goes on the moving volume to bring it onto the fixed one. Inputs are not changed; a linear parent
        transform on one of them counts as part of where it lies.

        Parameters
        ----------
        fixedVolume, movingVolume : vtkMRMLScalarVolumeNode.
        movingSegmentation : vtkMRMLSegmentationNode to carry over to the fixed volume, segment by segment, or None.
        choices : fields of `HyperPredictRegLib.job.Job`, for example preset="standard" or reproducible=True.

        Returns
        -------
        HyperPredictRegLib.slicerbridge.scene.OutcomeNodes, the new nodes by role, such as `warped` and `transform`.

        Raises
        ------
        ValueError : an input cannot be used; the message says which and why.
        """
        if fixedVolume is None or movingVolume is None:
            raise ValueError(_("Choose a fixed and a moving volume."))
        # Imported here, because Slicer reads this file at its start and must not wait for the library.
        import SimpleITK as sitk
        from HyperPredictRegLib import workflow
        from HyperPredictRegLib.job import Job
        from HyperPredictRegLib.slicerbridge.scene import add_outcome
        from HyperPredictRegLib.slicerbridge.volumes import from_volume_node

        with tempfile.TemporaryDirectory(prefix="HyperPredictReg-") as name:
            paths = {role: str(Path(name) / f"{role}.nrrd") for role in ("fixed", "moving")}
            for role, node in (("fixed", fixedVolume), ("moving", movingVolume)):
                sitk.WriteImage(from_volume_node(node), paths[role])
            outcome = workflow.compute(Job(**paths, out=str(Path(name) / "out"), **choices))
        return add_outcome(
            fixedVolume.GetScene(),
            outcome,
            fixed_node=fixedVolume,
            moving_node=movingVolume,
            segmentation_node=movingSegmentation,
        )


class HyperPredictRegTest(ScriptedLoadableModuleTest):
    """The self-test that Slicer runs: a made-up pair, registered through the logic."""

    def setUp(self):
        """Start from an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self):
        """Run every test."""
        self.setUp()
        self.test_registration_brings_a_moved_ball_back()

    def test_registration_brings_a_moved_ball_back(self):
        """Register an egg to a ball and check that most of the difference is gone and the result is in the scene."""
        import numpy as np

        self.delayDisplay("Registering a made-up pair")
        fixed = self.addEgg("Ball", center=(0.0, 0.0, 0.0), radii=(40.0, 40.0, 40.0))
        moving = self.addEgg("Egg", center=(6.0, -4.0, 3.0), radii=(36.0, 43.0, 40.0))
        before = np.abs(slicer.util.arrayFromVolume(fixed) - slicer.util.arrayFromVolume(moving)).mean()

        nodes = HyperPredictRegLogic().process(fixed, moving)

        after = np.abs(slicer.util.arrayFromVolume(fixed) - slicer.util.arrayFromVolume(nodes.warped)).mean()
        self.assertLess(after, 0.1 * before)
        self.assertIs(nodes.fixed, fixed)
        self.assertIsNone(moving.GetParentTransformNode())
        # The egg's center is the ball's, moved; a deformable transform brings it there to within a tenth of a voxel of 3 mm.
        center = nodes.transform.GetTransformFromParent().TransformPoint(0.0, 0.0, 0.0)
        self.assertLess(np.linalg.norm(np.array(center) - (6.0, -4.0, 3.0)), 0.3)
        self.delayDisplay("Test passed")

    @staticmethod
    def addEgg(name, center, radii):
        """Add a volume of 40 x 40 x 40 voxels of 3 mm that shows a soft-edged ellipsoid with a core (RAS mm)."""
        import numpy as np

        ijkToRAS = np.diag([3.0, 3.0, 3.0, 1.0])
        ijkToRAS[:3, 3] = -58.5
        k, j, i = np.indices((40, 40, 40))
        ras = np.stack([i, j, k], axis=-1) * 3.0 - 58.5
        distance = np.linalg.norm((ras - np.array(center)) / np.array(radii), axis=-1)
        voxels = 100.0 / (1.0 + np.exp((distance - 1.0) * 20.0)) + 60.0 / (1.0 + np.exp((distance - 0.5) * 20.0))
        return slicer.util.addVolumeFromArray(voxels.astype(np.float32), ijkToRAS, name)
