"""The sample pair in Slicer's Sample Data module: made on this computer, without a download."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import slicer
from slicer.i18n import tr as _

if TYPE_CHECKING:
    from HyperPredictRegLib.workflow.sample import SamplePair

CATEGORY = "HyperPredictReg"
SAMPLE_NAME = "SampleBrainPair"
FIXED, MOVING = "BrainFixed", "BrainMoving"


def register_sample_data(thumbnail: Path) -> None:
    """Announce the pair to the Sample Data module; harmless if called again."""
    import SampleData

    logic = SampleData.SampleDataLogic
    # New in Slicer 5.12; without it the category goes by its name.
    if hasattr(logic, "registerCustomSampleDataCategory"):
        logic.registerCustomSampleDataCategory(CATEGORY, title=_("HyperPredict Registration"))
    logic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=SAMPLE_NAME,
        uris=[],
        fileNames=[],
        nodeNames=[],
        thumbnailFileName=str(thumbnail),
        customDownloader=make_sample_data,
    )


def make_sample_data(source: Any = None) -> list[Any]:
    """Add the pair to the application's scene; called by the Sample Data module's button."""
    return load_sample_pair(slicer.mrmlScene)


def load_sample_pair(scene: Any, pair: "SamplePair | None" = None) -> list[Any]:
    """Add the pair to `scene`: fixed and moving volume, and a segmentation of each; return the four nodes.

    Parameters
    ----------
    scene : vtkMRMLScene.
    pair : where it has been made already.
    """
    from HyperPredictRegLib.slicerbridge.segmentations import to_segmentation_node
    from HyperPredictRegLib.slicerbridge.volumes import to_volume_node
    from HyperPredictRegLib.workflow.sample import made_pair

    pair = made_pair() if pair is None else pair
    volumes = [to_volume_node(image, scene, name) for image, name in ((pair.fixed, FIXED), (pair.moving, MOVING))]
    labels = ((pair.fixed_labels, FIXED), (pair.moving_labels, MOVING))
    segmentations = [
        to_segmentation_node(image, scene, f"{name}Segmentation", names=pair.label_names) for image, name in labels
    ]
    for volume, segmentation in zip(volumes, segmentations, strict=True):
        segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        # Shown on demand: over both volumes at once they would only hide them.
        segmentation.GetDisplayNode().SetVisibility(False)
    if getattr(slicer, "app", None) is not None:
        slicer.util.setSliceViewerLayers(background=volumes[0], foreground=volumes[1], foregroundOpacity=0.5, fit=True)
    return [*volumes, *segmentations]
