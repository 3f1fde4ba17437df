"""Label maps to segmentation nodes and back, and the propagation of segmentations."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

slicer = pytest.importorskip("slicer", reason="needs slicer-core or Slicer")

import vtk  # noqa: E402
from HyperPredictRegLib.core.errors import InputError  # noqa: E402
from HyperPredictRegLib.slicerbridge.segmentations import (  # noqa: E402
    default_color,
    from_segmentation_node,
    propagate,
    register_conversions,
    segmentation_geometry,
    to_segmentation_node,
)
from HyperPredictRegLib.slicerbridge.transforms import to_transform_node  # noqa: E402
from HyperPredictRegLib.slicerbridge.volumes import LPS_RAS, fill_image_data, to_volume_node, vtk_matrix  # noqa: E402
from HyperPredictRegLib.spatial.geometry import Geometry  # noqa: E402
from HyperPredictRegLib.spatial.transforms import field_transform  # noqa: E402
from slicerbridge_samples import (  # noqa: E402
    AXIAL,
    LEFT_HANDED,
    OBLIQUE,
    ROTATION,
    affine,
    bspline,
    field,
    image,
    labels,
    transforms,
)

BINARY = "Binary labelmap"
SURFACE = "Closed surface"
LIVER = (
    "Segmentation category and type - DICOM master list~SCT^123037004^Anatomical Structure~SCT^10200004^Liver~^^"
    "~Anatomic codes - DICOM master list~^^~^^"
)
NAMES = {3: "Links <&> ö", 17: "Right"}
COLORS = {3: (1.0, 0.0, 0.25), 300: (0.0, 0.5, 1.0)}


@pytest.fixture(autouse=True)
def _conversions() -> None:
    register_conversions()


@pytest.fixture
def scene():
    return slicer.vtkMRMLScene()


def mask(node, segment_id: str, geometry: Geometry) -> np.ndarray:
    """Return where a segment is, by Slicer's own export onto the grid: an independent way to look."""
    reference = to_volume_node(sitk.Cast(image(geometry), sitk.sitkUInt8), node.GetScene(), "reference")
    target = node.GetScene().AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    assert logic.ExportSegmentsToLabelmapNode(node, [segment_id], target, reference)
    return slicer.util.arrayFromVolume(target).copy() > 0


def block(low: tuple[int, int, int], high: tuple[int, int, int], geometry: Geometry = OBLIQUE) -> sitk.Image:
    voxels = np.zeros(geometry.size[::-1], dtype=np.uint8)
    voxels[low[0]:high[0], low[1]:high[1], low[2]:high[2]] = 1
    return geometry.apply_to(sitk.GetImageFromArray(voxels))


def add_segment(node, segment_id: str, where: sitk.Image | None, *, before: str = "", name: str = "") -> None:
    segment = slicer.vtkSegment()
    segment.SetName(name or segment_id)
    segment.SetColor(0.1, 0.2, 0.3)
    segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), LIVER)
    segment.SetTag("DICOM.Note", "kept")
    if where is not None:
        data = fill_image_data(slicer.vtkOrientedImageData(), where)
        data.SetImageToWorldMatrix(vtk_matrix(LPS_RAS @ Geometry.of(where).index_to_lps))
        segment.AddRepresentation(BINARY, data)
    assert node.GetSegmentation().AddSegment(segment, segment_id, before)


def tag(segment, name: str) -> str:
    value = vtk.reference("")
    assert segment.GetTag(name, value)
    return str(value)


@pytest.fixture
def overlapping(scene):
    """A segmentation with three boxes in one layer, one over two of them in another, and an empty segment."""
    node = to_segmentation_node(labels(), scene, "Moving segmentation", names=NAMES, colors=COLORS)
    add_segment(node, "liver", block((6, 6, 6), (12, 14, 14)), before="label_17", name="Liver")
    add_segment(node, "nothing", None, name="Nothing")
    return node


@pytest.mark.parametrize("geometry", [AXIAL, OBLIQUE, LEFT_HANDED], ids=["axial", "oblique", "left-handed"])
def test_round_trip_keeps_labels_names_colors_and_geometry(scene, geometry) -> None:
    node = to_segmentation_node(labels(geometry), scene, "Labels", names=NAMES, colors=COLORS)
    assert tuple(node.GetSegmentation().GetSegmentIDs()) == ("label_3", "label_17", "label_300")
    back = from_segmentation_node(node)
    assert Geometry.of(back.image).matches(geometry, 1e-9)
    assert np.array_equal(sitk.GetArrayFromImage(back.image), sitk.GetArrayFromImage(labels(geometry)))
    assert back.names == {3: NAMES[3], 17: NAMES[17], 300: "Label 300"}
    assert back.colors == {**COLORS, 17: pytest.approx(default_color(17))}


def test_slicer_sees_the_segments_where_they_are(scene) -> None:
    node = to_segmentation_node(labels(), scene, "Labels")
    voxels = sitk.GetArrayFromImage(labels())
    for label in (3, 17, 300):
        assert np.array_equal(mask(node, f"label_{label}", OBLIQUE), voxels == label)


def test_slicers_own_import_reads_back(scene) -> None:
    label_node = to_volume_node(labels(), scene, "Labels", label_map=True)
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Imported")
    node.SetReferenceImageGeometryParameterFromVolumeNode(label_node)
    assert slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(label_node, node)
    back = from_segmentation_node(node)
    assert np.array_equal(sitk.GetArrayFromImage(back.image), sitk.GetArrayFromImage(labels()))
    assert Geometry.of(back.image).matches(OBLIQUE, 1e-6)


def test_segmentation_files_keep_everything(scene, overlapping, tmp_path) -> None:
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(tmp_path / "a.seg.nrrd"))
    assert storage.WriteData(overlapping)
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Read")
    assert storage.ReadData(node)
    assert tuple(node.GetSegmentation().GetSegmentIDs()) == tuple(overlapping.GetSegmentation().GetSegmentIDs())
    assert np.array_equal(mask(node, "liver", OBLIQUE), mask(overlapping, "liver", OBLIQUE))
    assert tag(node.GetSegmentation().GetSegment("liver"), "DICOM.Note") == "kept"


def test_labels_can_be_put_on_another_grid(scene) -> None:
    coarse = Geometry((12, 11, 10), (4.0, 5.0, 6.0), OBLIQUE.origin, OBLIQUE.direction)
    back = from_segmentation_node(to_segmentation_node(labels(), scene, "Labels"), coarse)
    expected = coarse.resample(labels(), interpolator=sitk.sitkNearestNeighbor)
    assert np.array_equal(sitk.GetArrayFromImage(back.image), sitk.GetArrayFromImage(expected))


def test_overlaps_have_no_label_map(overlapping) -> None:
    with pytest.raises(InputError, match="overlap, which one label map cannot hold"):
        from_segmentation_node(overlapping)


def test_segments_with_equal_values_in_two_layers_are_numbered(scene) -> None:
    node = to_segmentation_node(block((1, 1, 1), (4, 4, 4)), scene, "a")
    add_segment(node, "other", block((10, 10, 10), (14, 14, 14)), name="Other")
    back = from_segmentation_node(node)
    assert back.names == {1: "Label 1", 2: "Other"}
    assert (sitk.GetArrayFromImage(back.image) == 2).sum() == 4**3


@pytest.mark.parametrize("wrong, words", [
    (sitk.Image([4, 4, 4], sitk.sitkFloat32), "labels are integers"),
    (sitk.Image([4, 4, 4], sitk.sitkInt16) - 1, "labels from -1"),
])
def test_images_that_are_no_label_maps_are_refused(scene, wrong, words) -> None:
    with pytest.raises(InputError, match=words):
        to_segmentation_node(wrong, scene, "Labels")
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_segmentations_without_segments_are_refused(scene) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Bare")
    for convert in (from_segmentation_node, lambda n: propagate(n, affine(), OBLIQUE, scene, "p")):
        with pytest.raises(InputError, match="'Bare' has no segments"):
            convert(node)
    with pytest.raises(InputError, match="'Bare' has neither"):
        segmentation_geometry(node)


@pytest.mark.parametrize("kind", list(transforms()))
def test_propagation_equals_nearest_neighbor_of_simpleitk_for_each_segment(scene, overlapping, kind) -> None:
    transform = transforms()[kind]
    corner = tuple(OBLIQUE.to_lps((23.0, -0.3, 0.4)))
    fixed = Geometry((20, 26, 22), (2.4, 2.1, 2.7), corner, LEFT_HANDED.direction)
    result = propagate(overlapping, transform, fixed, scene, "Propagated")
    expected = {
        **{f"label_{n}": sitk.Cast(labels() == n, sitk.sitkUInt8) for n in (3, 17, 300)},
        "liver": block((6, 6, 6), (12, 14, 14)),
    }
    for segment_id, moving in expected.items():
        moving = OBLIQUE.apply_to(moving)
        required = sitk.GetArrayFromImage(fixed.resample(moving, transform, interpolator=sitk.sitkNearestNeighbor)) > 0
        assert required.any()
        assert np.array_equal(mask(result, segment_id, fixed), required), segment_id
    assert segmentation_geometry(result).matches(fixed, 1e-6)


def test_propagation_keeps_ids_order_names_colors_tags_overlaps_and_display(scene, overlapping) -> None:
    overlapping.GetDisplayNode().SetSegmentVisibility("label_3", False)
    overlapping.GetDisplayNode().SetSegmentOpacity2DFill("liver", 0.25)
    before, count = overlapping.GetSegmentation(), overlapping.GetSegmentation().GetNumberOfSegments()
    result = propagate(overlapping, transforms()["composite-field"], OBLIQUE, scene, "Propagated")
    after = result.GetSegmentation()
    assert tuple(after.GetSegmentIDs()) == ("label_3", "liver", "label_17", "label_300", "nothing")
    for segment_id in before.GetSegmentIDs():
        one, other = before.GetSegment(segment_id), after.GetSegment(segment_id)
        assert one.GetName() == other.GetName()
        assert one.GetColor() == other.GetColor()
    for name, value in ((slicer.vtkSegment.GetTerminologyEntryTagName(), LIVER), ("DICOM.Note", "kept")):
        assert tag(after.GetSegment("liver"), name) == value
    assert (mask(result, "liver", OBLIQUE) & mask(result, "label_3", OBLIQUE)).any()
    assert after.GetNumberOfLayers(BINARY) == before.GetNumberOfLayers(BINARY)
    assert not result.GetDisplayNode().GetSegmentVisibility("label_3")
    assert result.GetDisplayNode().GetSegmentOpacity2DFill("liver") == 0.25
    assert result.GetParentTransformNode() is None
    assert overlapping.GetSegmentation().GetNumberOfSegments() == count
    assert result.GetName() == "Propagated"


def test_propagation_leaves_the_source_as_it_is(scene, overlapping) -> None:
    before = {i: mask(overlapping, i, OBLIQUE) for i in ("label_3", "liver")}
    propagate(overlapping, bspline(), AXIAL, scene, "Propagated")
    for segment_id, voxels in before.items():
        assert np.array_equal(mask(overlapping, segment_id, OBLIQUE), voxels)


def test_segments_that_leave_the_fixed_grid_stay_as_empty_ones(scene, overlapping) -> None:
    far = sitk.TranslationTransform(3, (1000.0, 0.0, 0.0))
    result = propagate(overlapping, far, OBLIQUE, scene, "Propagated")
    assert result.GetSegmentation().GetNumberOfSegments() == 5
    assert not mask(result, "liver", OBLIQUE).any()


def test_propagation_keeps_what_hardening_clips(scene) -> None:
    """The trap: hardening a segmentation on an oblique grid with a non-linear transform cuts pieces off."""
    # A block nearly as large as its grid, and a strong rotation, so that the bounding box of the grid has other corners.
    turn = sitk.Euler3DTransform((0.0, 0.0, 0.0), 0.6, -0.5, 0.6)
    grid = Geometry((24, 22, 20), (2.0, 2.5, 3.0), (-20.0, 11.0, -35.0), turn.GetMatrix())
    moving = block((2, 2, 2), (18, 20, 22), grid)
    transform = field_transform(field(grid, peak_mm=2.0))
    required = sitk.GetArrayFromImage(grid.resample(moving, transform, interpolator=sitk.sitkNearestNeighbor)) > 0

    def dice(found: np.ndarray) -> float:
        return float(2 * (found & required).sum() / (found.sum() + required.sum()))

    node = to_segmentation_node(moving, scene, "Moving")
    assert dice(mask(propagate(node, transform, grid, scene, "Propagated"), "label_1", grid)) == 1.0
    node.SetAndObserveTransformNodeID(to_transform_node(transform, scene, "t").GetID())
    node.HardenTransform()
    assert dice(mask(node, "label_1", grid)) < 0.98


def test_a_linear_parent_transform_counts(scene, overlapping) -> None:
    parent = to_transform_node(ROTATION, scene, "Parent")
    overlapping.SetAndObserveTransformNodeID(parent.GetID())
    result = propagate(overlapping, affine(), OBLIQUE, scene, "Propagated")
    # World to moving is the affine, world to the segmentation's own space the parent's from-parent transform.
    both = sitk.CompositeTransform([ROTATION, affine()])
    required = OBLIQUE.resample(block((6, 6, 6), (12, 14, 14)), both, interpolator=sitk.sitkNearestNeighbor)
    assert np.array_equal(mask(result, "liver", OBLIQUE), sitk.GetArrayFromImage(required) > 0)
    node = to_segmentation_node(labels(), scene, "Labels")
    node.SetAndObserveTransformNodeID(parent.GetID())
    corners = [ROTATION.GetInverse().TransformPoint(p) for p in OBLIQUE.corners_lps().tolist()]
    assert np.allclose(Geometry.of(from_segmentation_node(node).image).corners_lps(), corners)


@pytest.mark.parametrize("transform, words", [
    (affine(), "sheared"), (sitk.DisplacementFieldTransform(field()), "not linear"),
], ids=["shear", "non-linear"])
def test_parents_that_no_grid_can_follow_are_refused(scene, overlapping, transform, words) -> None:
    overlapping.SetAndObserveTransformNodeID(to_transform_node(transform, scene, "Parent").GetID())
    with pytest.raises(InputError, match=words):
        propagate(overlapping, affine(), OBLIQUE, scene, "Propagated")
    with pytest.raises(InputError, match=words):
        segmentation_geometry(overlapping)
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1


def test_surfaces_are_converted_and_left_as_they_are(scene) -> None:
    """The trap: outside of the application surfaces convert only after the rules have been registered."""
    node = to_segmentation_node(labels(), scene, "Surface", names=NAMES)
    assert node.CreateClosedSurfaceRepresentation()
    node.GetSegmentation().SetSourceRepresentationName(SURFACE)
    node.GetSegmentation().RemoveRepresentation(BINARY)
    # Surfaces need no label values, so that all of them may have the same one.
    for segment_id in node.GetSegmentation().GetSegmentIDs():
        node.GetSegmentation().GetSegment(segment_id).SetLabelValue(1)
    result = propagate(node, sitk.Transform(3, sitk.sitkIdentity), OBLIQUE, scene, "Propagated")
    for label in (3, 17, 300):
        found, required = mask(result, f"label_{label}", OBLIQUE), sitk.GetArrayFromImage(labels()) == label
        assert 2 * (found & required).sum() / (found.sum() + required.sum()) > 0.9
    assert not node.GetSegmentation().ContainsRepresentation(BINARY)


def test_default_colors_differ_and_stay() -> None:
    colors = [default_color(n) for n in range(1, 40)]
    assert len({tuple(np.round(c, 2)) for c in colors}) == len(colors)
    assert all(0 <= part <= 1 for color in colors for part in color)
    assert default_color(17) == default_color(17)
