"""SimpleITK transforms to transform nodes and back: in memory, through files and through scenes."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

slicer = pytest.importorskip("slicer", reason="needs slicer-core or Slicer")

import vtk  # noqa: E402
from HyperPredictRegLib.core.errors import InputError  # noqa: E402
from HyperPredictRegLib.slicerbridge.scene import application_logic, open_scene, save_scene  # noqa: E402
from HyperPredictRegLib.slicerbridge.transforms import (  # noqa: E402
    cubic_reload_difference_mm,
    flattened,
    from_transform_node,
    read_transform_node,
    restore_linear_interpolation,
    to_transform_node,
    update_transform_node,
    use_linear_interpolation,
    write_transform_node,
)
from HyperPredictRegLib.slicerbridge.volumes import to_volume_node, volume_geometry, vtk_matrix  # noqa: E402
from HyperPredictRegLib.spatial.transforms import field_transform, transformed_points  # noqa: E402
from slicerbridge_samples import (  # noqa: E402
    AXIAL,
    LEFT_HANDED,
    OBLIQUE,
    ROTATION,
    affine,
    bspline,
    field,
    image,
    random_points,
    through_node,
    transforms,
)

TOLERANCE_MM = 1e-3
KINDS = tuple(transforms())
GRIDS = {"axial": AXIAL, "oblique": OBLIQUE, "left-handed": LEFT_HANDED}
BACK = {
    "identity": sitk.AffineTransform, "translation": sitk.AffineTransform, "euler": sitk.AffineTransform,
    "versor": sitk.AffineTransform, "similarity": sitk.AffineTransform, "affine": sitk.AffineTransform,
    "composite-linear": sitk.AffineTransform, "bspline": sitk.BSplineTransform, "field": sitk.DisplacementFieldTransform,
    "composite-field": sitk.CompositeTransform, "composite-nested": sitk.CompositeTransform,
}


@pytest.fixture
def scene():
    return slicer.vtkMRMLScene()


def largest(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other, axis=1).max())


def only_grid(node):
    grid = node.GetTransformFromParent()
    assert grid.IsA("vtkOrientedGridTransform")
    return grid


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", GRIDS)
def test_nodes_move_points_as_simpleitk_does(scene, grid, kind, tmp_path) -> None:
    transform, points = transforms(GRIDS[grid])[kind], random_points(GRIDS[grid])
    expected = transformed_points(transform, points)
    node = to_transform_node(transform, scene, kind)
    assert type(node).__name__ == "vtkMRMLTransformNode"
    assert largest(through_node(node, points), expected) <= TOLERANCE_MM
    back = from_transform_node(node)
    assert type(back) is BACK[kind]
    assert largest(transformed_points(back, points), expected) <= 1e-9

    write_transform_node(node, tmp_path / "t.h5")
    read = read_transform_node(scene, tmp_path / "t.h5")
    assert largest(through_node(read, points), expected) <= TOLERANCE_MM
    assert largest(transformed_points(from_transform_node(read), points), expected) <= 1e-9
    assert largest(transformed_points(sitk.ReadTransform(str(tmp_path / "t.h5")), points), expected) <= 1e-9


def test_files_of_simpleitk_read_into_nodes(scene, tmp_path) -> None:
    points = random_points(OBLIQUE)
    for kind, transform in transforms().items():
        if kind == "composite-nested":
            # ITK's files cannot hold composites inside of composites.
            transform = sitk.CompositeTransform(flattened(transform)[::-1])
        sitk.WriteTransform(transform, str(tmp_path / f"{kind}.h5"))
        node = read_transform_node(scene, tmp_path / f"{kind}.h5")
        assert node.GetName() == kind
        assert largest(through_node(node, points), transformed_points(transform, points)) <= TOLERANCE_MM, kind


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii.gz"])
def test_displacement_field_images_read_into_nodes(scene, tmp_path, suffix) -> None:
    points = random_points(OBLIQUE)
    sitk.WriteImage(field(), str(tmp_path / f"field{suffix}"))
    node = read_transform_node(scene, tmp_path / f"field{suffix}")
    assert largest(through_node(node, points), transformed_points(field_transform(field()), points)) <= TOLERANCE_MM


def test_all_kinds_survive_a_scene_bundle(scene, tmp_path) -> None:
    points = {grid: random_points(geometry) for grid, geometry in GRIDS.items()}
    for grid, geometry in GRIDS.items():
        for kind, transform in transforms(geometry).items():
            to_transform_node(transform, scene, f"{grid} {kind}")
    with application_logic(scene):
        save_scene(scene, tmp_path / "scene.mrb")
    opened = open_scene(tmp_path / "scene.mrb")
    for grid, geometry in GRIDS.items():
        for kind, transform in transforms(geometry).items():
            node = opened.GetFirstNodeByName(f"{grid} {kind}")
            expected = transformed_points(transform, points[grid])
            assert largest(through_node(node, points[grid]), expected) <= TOLERANCE_MM, (grid, kind)
            assert largest(transformed_points(from_transform_node(node), points[grid]), expected) <= 1e-9, (grid, kind)


def test_slicer_itself_reads_grids_as_cubic_and_the_helper_undoes_it(scene, tmp_path) -> None:
    """The trap: neither files nor scenes store how a grid is interpolated."""
    transform, points = field_transform(field()), random_points(OBLIQUE)
    write_transform_node(to_transform_node(transform, scene, "a"), tmp_path / "t.h5")
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode")
    storage = slicer.vtkMRMLTransformStorageNode()
    storage.SetFileName(str(tmp_path / "t.h5"))
    assert storage.ReadData(node)
    assert only_grid(node).GetInterpolationModeAsString() == "Cubic"
    wrong = np.linalg.norm(through_node(node, points) - transformed_points(transform, points), axis=1)
    assert wrong.max() > 10 * TOLERANCE_MM
    assert np.allclose(cubic_reload_difference_mm(transform, points), wrong, atol=1e-6)
    assert use_linear_interpolation(node) == 1
    assert only_grid(node).GetInterpolationModeAsString() == "Linear"
    assert largest(through_node(node, points), transformed_points(transform, points)) <= TOLERANCE_MM


def test_bsplines_and_linear_transforms_need_no_help_after_a_reload(scene, tmp_path) -> None:
    points = random_points(OBLIQUE)
    for transform in (bspline(), sitk.CompositeTransform([affine(), bspline()])):
        assert cubic_reload_difference_mm(transform, points).max() < 1e-9
    assert not cubic_reload_difference_mm(affine(), points).any()


def test_helper_counts_the_grids_inside_composites(scene) -> None:
    two = sitk.CompositeTransform([field_transform(field()), affine(), field_transform(field(seed=8))])
    assert use_linear_interpolation(to_transform_node(two, scene, "a")) == 2
    assert use_linear_interpolation(to_transform_node(affine(), scene, "a")) == 0


def test_grids_that_end_in_zero_agree_outside_too(scene) -> None:
    """The trap: outside of a grid ITK takes zero, VTK repeats the border."""
    corner = OBLIQUE.to_lps(np.array([[-6.0, -6.0, -6.0], [30.0, 10.0, 9.0], [12.0, 40.0, 9.0], [12.0, 10.0, -20.0]]))
    node = to_transform_node(field_transform(field()), scene, "padded")
    assert largest(through_node(node, corner), corner) <= 1e-9
    everywhere = OBLIQUE.apply_to(sitk.GetImageFromArray(np.full((*OBLIQUE.size[::-1], 3), 2.0), isVector=True))
    torn = to_transform_node(field_transform(everywhere), scene, "not padded")
    assert largest(through_node(torn, corner), corner) == pytest.approx(2 * 3**0.5)
    assert largest(transformed_points(field_transform(everywhere), corner), corner) == 0


def test_grids_agree_up_to_their_border(scene) -> None:
    points = random_points(OBLIQUE, margin_voxels=0.0)
    transform = field_transform(field())
    node = to_transform_node(transform, scene, "a")
    assert largest(through_node(node, points), transformed_points(transform, points)) <= TOLERANCE_MM


@pytest.mark.parametrize("kind", KINDS)
def test_linear_means_linear_in_slicer(scene, kind) -> None:
    transform = transforms()[kind]
    assert bool(to_transform_node(transform, scene, kind).IsLinear()) == transform.IsLinear()


def test_the_moving_volume_under_the_node_lies_on_the_fixed_one(scene) -> None:
    """The direction: a point of the moving volume, seen in the world, is the fixed point that the transform maps to it."""
    node = to_transform_node(ROTATION, scene, "a")
    moving = to_volume_node(image(AXIAL), scene, "Moving")
    moving.SetAndObserveTransformNodeID(node.GetID())
    fixed_points = volume_geometry(moving).corners_lps()
    assert np.abs(transformed_points(ROTATION, fixed_points) - AXIAL.corners_lps()).max() < 1e-9


def test_conversion_copies(scene) -> None:
    displacements = field()
    transform = field_transform(displacements)
    node = to_transform_node(transform, scene, "a")
    points = random_points(OBLIQUE, 50)
    expected = transformed_points(transform, points)
    back = from_transform_node(node)
    only_grid(node).GetDisplacementGrid().GetPointData().GetScalars().Fill(0.0)
    assert largest(transformed_points(back, points), expected) <= 1e-9
    assert largest(transformed_points(transform, points), expected) == 0


def test_update_replaces_what_a_node_holds(scene) -> None:
    node = to_transform_node(bspline(), scene, "a")
    update_transform_node(node, affine())
    points = random_points(OBLIQUE, 20)
    assert node.IsLinear()
    assert largest(through_node(node, points), transformed_points(affine(), points)) < 1e-9


def test_empty_nodes_are_the_identity(scene) -> None:
    back = from_transform_node(scene.AddNewNodeByClass("vtkMRMLTransformNode"))
    assert back.TransformPoint((1.0, 2.0, 3.0)) == (1.0, 2.0, 3.0)


def test_transforms_set_to_parent_are_read_in_the_right_direction(scene) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "a")
    matrix = np.eye(4)
    matrix[0, 3] = 10.0
    node.SetMatrixTransformToParent(vtk_matrix(matrix))
    assert np.allclose(from_transform_node(node).TransformPoint((0.0, 0.0, 0.0)), (10.0, 0.0, 0.0))


def test_scaled_grids_keep_their_scale(scene) -> None:
    node = to_transform_node(field_transform(field()), scene, "a")
    only_grid(node).SetDisplacementScale(0.5)
    points = random_points(OBLIQUE, 50)
    assert largest(transformed_points(from_transform_node(node), points), through_node(node, points)) <= TOLERANCE_MM


def test_non_linear_nodes_in_the_other_direction_are_refused(scene) -> None:
    for number, transform in enumerate((field_transform(field()), bspline(), sitk.CompositeTransform([affine(), bspline()]))):
        node = to_transform_node(transform, scene, f"t{number}")
        node.Inverse()
        with pytest.raises(InputError, match=f"'t{number}' is stored in the opposite direction"):
            from_transform_node(node)


def test_nodes_under_another_transform_are_refused(scene) -> None:
    node = to_transform_node(affine(), scene, "inner")
    node.SetAndObserveTransformNodeID(to_transform_node(ROTATION, scene, "outer").GetID())
    with pytest.raises(InputError, match="'inner' is under the transform 'outer'"):
        from_transform_node(node)


def test_kinds_without_counterpart_are_refused(scene) -> None:
    splines = vtk.vtkThinPlateSplineTransform()
    splines.SetSourceLandmarks(vtk.vtkPoints())
    splines.SetTargetLandmarks(vtk.vtkPoints())
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "plates")
    node.SetAndObserveTransformFromParent(splines)
    with pytest.raises(InputError, match="vtkThinPlateSplineTransform"):
        from_transform_node(node)
    with pytest.raises(InputError, match="order 2"):
        to_transform_node(sitk.BSplineTransform(3, 2), scene, "a")
    with pytest.raises(InputError, match="2-dimensional"):
        to_transform_node(sitk.Euler2DTransform(), scene, "a")


def test_unreadable_files_are_named_and_leave_no_node(scene, tmp_path, vtk_errors) -> None:
    (tmp_path / "broken.h5").write_text("nothing", encoding="utf-8")
    for name in ("missing.h5", "broken.h5"):
        with pytest.raises(InputError, match=name):
            read_transform_node(scene, tmp_path / name)
    assert scene.GetNumberOfNodesByClass("vtkMRMLTransformNode") == 0
    # Slicer logs the broken file as an error, and so it should.
    vtk_errors.clear()


def test_unwritable_files_are_named(scene, tmp_path, vtk_errors) -> None:
    with pytest.raises(InputError, match="nowhere"):
        write_transform_node(to_transform_node(affine(), scene, "a"), tmp_path / "nowhere" / "t.h5")
    vtk_errors.clear()


def test_flattened_gives_the_order_of_application() -> None:
    nested = transforms()["composite-nested"]
    parts = flattened(nested)
    assert len(parts) == 5
    point = (1.0, 2.0, 3.0)
    expected = nested.TransformPoint(point)
    for part in parts:
        point = part.TransformPoint(point)
    assert np.allclose(point, expected, atol=1e-12)


def test_hardening_leaves_the_fixed_grid(scene) -> None:
    """The trap: Slicer's hardening of a volume makes a grid of its own, so warped volumes are resampled instead."""
    moving = to_volume_node(image(AXIAL), scene, "Moving")
    moving.SetAndObserveTransformNodeID(to_transform_node(bspline(AXIAL), scene, "t").GetID())
    moving.HardenTransform()
    assert volume_geometry(moving).size != AXIAL.size
    warped = to_volume_node(AXIAL.resample(image(AXIAL), bspline(AXIAL)), scene, "Warped")
    assert volume_geometry(warped) == AXIAL
    assert warped.GetParentTransformNode() is None


def test_inverted_grids_are_linear_after_a_reload(scene, tmp_path) -> None:
    for number, transform in enumerate((field_transform(field()), sitk.CompositeTransform([affine(), field_transform(field())]))):
        node = to_transform_node(transform, scene, "a")
        node.Inverse()
        write_transform_node(node, tmp_path / f"{number}.h5")
        read = read_transform_node(scene, tmp_path / f"{number}.h5")
        read.Inverse()
        points = random_points(OBLIQUE, 200)
        assert largest(through_node(read, points), transformed_points(transform, points)) <= TOLERANCE_MM


def test_helper_reaches_grids_in_either_direction(scene) -> None:
    for transform in (field_transform(field()), sitk.CompositeTransform([affine(), field_transform(field())])):
        node = to_transform_node(transform, scene, "a")
        whole = node.GetTransformFromParent()
        (whole.GetConcatenatedTransform(0) if whole.IsA("vtkGeneralTransform") else whole).SetInterpolationModeToCubic()
        node.Inverse()
        assert use_linear_interpolation(node) == 1
        node.Inverse()
        points = random_points(OBLIQUE, 100)
        assert largest(through_node(node, points), transformed_points(transform, points)) <= TOLERANCE_MM


def test_looking_through_a_scene_keeps_nothing_alive() -> None:
    scene = slicer.vtkMRMLScene()
    node = to_transform_node(sitk.TranslationTransform(3, (1.0, 2.0, 3.0)), scene, "shift")
    before = node.GetReferenceCount()
    for _ in range(3):
        restore_linear_interpolation(scene)
    assert node.GetReferenceCount() == before
