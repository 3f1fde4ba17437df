"""SimpleITK images to volume nodes and back."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

slicer = pytest.importorskip("slicer", reason="needs slicer-core or Slicer")

from HyperPredictRegLib.core.errors import InputError  # noqa: E402
from HyperPredictRegLib.slicerbridge.transforms import to_transform_node  # noqa: E402
from HyperPredictRegLib.slicerbridge.volumes import (  # noqa: E402
    from_volume_node,
    to_volume_node,
    update_volume_node,
    volume_geometry,
    vtk_matrix,
)
from HyperPredictRegLib.spatial.geometry import Geometry  # noqa: E402
from slicerbridge_samples import (  # noqa: E402
    AXIAL,
    LEFT_HANDED,
    OBLIQUE,
    ROTATION,
    affine,
    field,
    image,
    labels,
    vtk_errors_fail,
)

PIXEL_TYPES = (
    sitk.sitkInt8, sitk.sitkUInt8, sitk.sitkInt16, sitk.sitkUInt16, sitk.sitkInt32, sitk.sitkUInt32, sitk.sitkInt64,
    sitk.sitkUInt64, sitk.sitkFloat32, sitk.sitkFloat64,
)


@pytest.fixture
def scene():
    return slicer.vtkMRMLScene()


@pytest.mark.parametrize("pixel_type", PIXEL_TYPES, ids=sitk.GetPixelIDValueAsString)
@pytest.mark.parametrize("geometry", [AXIAL, OBLIQUE, LEFT_HANDED], ids=["axial", "oblique", "left-handed"])
def test_round_trip_keeps_voxels_type_and_geometry(scene, geometry, pixel_type) -> None:
    original = image(geometry, pixel_type)
    node = to_volume_node(original, scene, "Image")
    back = from_volume_node(node)
    assert back.GetPixelID() == pixel_type
    assert np.array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(original))
    assert np.abs(Geometry.of(back).corners_lps() - geometry.corners_lps()).max() < 1e-12
    assert volume_geometry(node).matches(geometry, 1e-9)


def test_a_voxel_lies_at_the_same_place_in_ras(scene) -> None:
    node = to_volume_node(image(LEFT_HANDED), scene, "Image")
    matrix = vtk_matrix(np.eye(4))
    node.GetIJKToRASMatrix(matrix)
    ras = np.array(matrix.MultiplyPoint((3, 5, 7, 1))[:3])
    assert np.abs(ras * (-1, -1, 1) - LEFT_HANDED.to_lps((3, 5, 7))).max() < 1e-12


def test_files_that_slicer_writes_read_back_in_simpleitk(scene, tmp_path) -> None:
    original = image(OBLIQUE)
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(tmp_path / "a.nrrd"))
    assert storage.WriteData(to_volume_node(original, scene, "Image"))
    back = sitk.ReadImage(str(tmp_path / "a.nrrd"))
    assert Geometry.of(back).matches(OBLIQUE, 1e-9)
    assert np.array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(original))


def test_copies_are_deep_in_both_directions(scene) -> None:
    original = image()
    node = to_volume_node(original, scene, "Image")
    first = int(original[0, 0, 0])
    original[0, 0, 0] = first + 50
    back = from_volume_node(node)
    assert back[0, 0, 0] == first
    node.GetImageData().SetScalarComponentFromDouble(0, 0, 0, 0, first + 70)
    assert back[0, 0, 0] == first


def test_label_maps_become_label_map_nodes(scene) -> None:
    node = to_volume_node(labels(), scene, "Labels", label_map=True)
    assert node.IsA("vtkMRMLLabelMapVolumeNode")
    assert np.array_equal(sitk.GetArrayFromImage(from_volume_node(node)), sitk.GetArrayFromImage(labels()))


def test_update_replaces_voxels_and_geometry(scene) -> None:
    node = to_volume_node(image(AXIAL), scene, "Image")
    update_volume_node(node, image(OBLIQUE, sitk.sitkFloat32, seed=9))
    back = from_volume_node(node)
    assert back.GetPixelID() == sitk.sitkFloat32
    assert Geometry.of(back).matches(OBLIQUE)
    assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 1


def test_names_stay_unique(scene) -> None:
    assert to_volume_node(image(), scene, "A").GetName() != to_volume_node(image(), scene, "A").GetName()


@pytest.mark.parametrize("wrong, words", [
    (sitk.Image([4, 4], sitk.sitkUInt8), "three dimensions"),
    (sitk.Image([4, 4, 4], sitk.sitkVectorUInt8, 3), "one number per voxel"),
    (sitk.Image([4, 4, 4], sitk.sitkComplexFloat32), "complex"),
])
def test_images_that_are_no_volumes_are_refused(scene, wrong, words) -> None:
    with pytest.raises(InputError, match=words):
        to_volume_node(wrong, scene, "Image")
    assert scene.GetNumberOfNodesByClass("vtkMRMLVolumeNode") == 0


def test_label_maps_of_real_numbers_are_refused(scene) -> None:
    with pytest.raises(InputError, match="integers"):
        to_volume_node(image(pixel_type=sitk.sitkFloat32), scene, "Labels", label_map=True)


def test_nodes_without_voxels_or_with_colours_are_refused(scene) -> None:
    with pytest.raises(InputError, match="'Empty' has no voxels"):
        from_volume_node(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty"))
    node = to_volume_node(image(), scene, "Colour")
    node.GetImageData().AllocateScalars(3, 3)
    with pytest.raises(InputError, match="'Colour' has 3 numbers per voxel"):
        from_volume_node(node)


def test_a_linear_parent_transform_becomes_part_of_the_geometry(scene) -> None:
    """The trap: the node's own matrix leaves the parent transform out, so the volume would be read where it is not shown."""
    node = to_volume_node(image(AXIAL), scene, "Image")
    parent = to_transform_node(ROTATION, scene, "Parent")
    node.SetAndObserveTransformNodeID(parent.GetID())
    back = from_volume_node(node)
    # The parent transform goes from the volume to the world, the node's from-parent transform the other way.
    world = np.array([ROTATION.GetInverse().TransformPoint(p) for p in AXIAL.corners_lps().tolist()])
    assert np.abs(Geometry.of(back).corners_lps() - world).max() < 1e-9
    assert volume_geometry(node).matches(Geometry.of(back))
    assert np.array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(image(AXIAL)))
    hardened = to_volume_node(image(AXIAL), scene, "Hardened")
    hardened.SetAndObserveTransformNodeID(parent.GetID())
    hardened.HardenTransform()
    assert volume_geometry(hardened).matches(Geometry.of(back), 1e-9)


def test_parents_of_parents_count_too(scene) -> None:
    node = to_volume_node(image(AXIAL), scene, "Image")
    outer = to_transform_node(sitk.TranslationTransform(3, (10.0, 0.0, 0.0)), scene, "Outer")
    inner = to_transform_node(sitk.TranslationTransform(3, (0.0, 5.0, 0.0)), scene, "Inner")
    inner.SetAndObserveTransformNodeID(outer.GetID())
    node.SetAndObserveTransformNodeID(inner.GetID())
    assert np.allclose(from_volume_node(node).GetOrigin(), np.array(AXIAL.origin) - (10, 5, 0))


@pytest.mark.parametrize("transform, words", [
    (affine(), "sheared"),
    (sitk.DisplacementFieldTransform(field()), "'Parent', which is not linear"),
], ids=["shear", "non-linear"])
def test_parents_that_no_grid_can_follow_are_refused(scene, transform, words) -> None:
    node = to_volume_node(image(OBLIQUE), scene, "Image")
    node.SetAndObserveTransformNodeID(to_transform_node(transform, scene, "Parent").GetID())
    with pytest.raises(InputError, match=words):
        from_volume_node(node)
    with pytest.raises(InputError, match=words):
        volume_geometry(node)


def test_a_scaling_parent_changes_the_spacing(scene) -> None:
    node = to_volume_node(image(AXIAL), scene, "Image")
    node.SetAndObserveTransformNodeID(to_transform_node(sitk.ScaleTransform(3, (0.5, 0.5, 0.5)), scene, "Parent").GetID())
    assert np.allclose(from_volume_node(node).GetSpacing(), 2 * np.array(AXIAL.spacing))


def test_the_guard_against_vtk_errors_works(vtk_errors) -> None:
    with pytest.raises(AssertionError, match="VTK reported"), vtk_errors_fail():
        slicer.vtkMRMLVolumeArchetypeStorageNode().ReadData(None)
    assert len(vtk_errors) == 1
    vtk_errors.clear()
