"""A registration with a known map applied to other nodes, forward and backward, in world space."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

slicer = pytest.importorskip("slicer", reason="needs slicer-core or Slicer")

from applying_samples import (  # noqa: E402
    FLIP,
    MIRRORED,
    Result,
    markups,
    model,
    nodes_of,
    places,
    put_under,
    registered,
    sphere,
    vertices,
)
from HyperPredictRegLib.slicerbridge.applying import APPLIED_FROM  # noqa: E402
from HyperPredictRegLib.slicerbridge.segmentations import from_segmentation_node, to_segmentation_node  # noqa: E402
from HyperPredictRegLib.slicerbridge.transforms import points_back_through, points_through  # noqa: E402
from HyperPredictRegLib.slicerbridge.volumes import from_volume_node, to_volume_node  # noqa: E402
from HyperPredictRegLib.spatial.geometry import Geometry  # noqa: E402
from HyperPredictRegLib.spatial.transforms import composed, field_transform, inverse_points, inverted, transformed_points  # noqa: E402
from slicerbridge_samples import (  # noqa: E402
    OBLIQUE,
    ROTATION,
    affine,
    field,
    image,
    labels,
    random_points,
)


@pytest.fixture(scope="module")
def result() -> Result:
    made = registered()
    assert sitk.GetArrayFromImage(made.outcome.jacobian).min() > 0.2, "the smooth sample has folded voxels"
    return made


def test_many_points_go_where_single_points_go() -> None:
    transform = composed(affine(), field_transform(field()))
    points = random_points(OBLIQUE, 2000)
    there = transformed_points(transform, points)
    assert np.abs(points_through(transform, points) - there).max() < 1e-4  # mm
    back = points_back_through(transform, there)
    exact = inverse_points(transform, there, points)
    assert np.abs(back.points - points).max() < 1e-4  # mm
    assert back.residual_mm.max() < 1e-4  # mm
    # Single-precision displacements, differenced over 0.02 mm.
    assert np.abs(back.determinant - exact.determinant).max() < 0.02
    assert points_through(transform, np.zeros((0, 3))).shape == (0, 3)


def test_points_that_are_not_found_at_first_are_searched_from_the_inverse() -> None:
    # Steep, but hardly folded: one of these points is missed from the place itself.
    transform = composed(affine(), field_transform(field(peak_mm=6.0)))
    there = transformed_points(transform, random_points(OBLIQUE, 4000))
    missed = points_back_through(transform, there).residual_mm > 1e-4
    found = points_back_through(transform, there, inverted(transform, OBLIQUE))
    assert 0 < missed.sum() < 5
    assert found.residual_mm.max() < 1e-4  # mm


@pytest.mark.parametrize("parent", [False, True])
def test_models_go_to_the_fixed_space_and_back(result, parent) -> None:
    fixed_points = random_points(OBLIQUE, 200)
    shown = transformed_points(result.map, fixed_points)
    # Under a parent, Slicer shows points where the inverse of its from-parent transform brings them.
    node = model(result.scene, transformed_points(ROTATION, shown) if parent else shown)
    if parent:
        put_under(result, node, ROTATION)
    there = result.one(node)
    assert there.GetName().startswith(f"{node.GetName()} in Atlas space") and there.GetParentTransformNode() is None
    assert np.linalg.norm(vertices(there) - fixed_points, axis=1).max() < 1e-3  # mm
    assert there.GetPolyData().GetNumberOfCells() == node.GetPolyData().GetNumberOfCells()
    back = result.one(there, backward=True)
    assert back.GetName().startswith(f"{there.GetName()} in Ann space")
    assert np.linalg.norm(vertices(back) - transformed_points(result.map, fixed_points), axis=1).max() < 1e-3  # mm


def test_normals_point_outward_and_fit_the_new_shape(result) -> None:
    centre = OBLIQUE.centre_lps
    for mirror in (False, True):
        node = sphere(result.scene, transformed_points(result.map, centre[None])[0])
        if mirror:
            flip = sitk.AffineTransform(3)
            flip.SetMatrix((-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
            flip.SetCenter(transformed_points(result.map, centre[None])[0].tolist())
            put_under(result, node, flip)
        applied = result.one(node)
        surface = applied.GetPolyData()
        normals = np.array([surface.GetPointData().GetNormals().GetTuple(n) for n in range(surface.GetNumberOfPoints())]) * FLIP
        outward = vertices(applied) - vertices(applied).mean(axis=0)
        cosine = (normals * outward).sum(axis=1) / np.linalg.norm(outward, axis=1)
        assert cosine.min() > 0.6
        assert np.abs(np.linalg.norm(normals, axis=1) - 1).max() < 1e-5


@pytest.mark.parametrize(("kind", "count"), [("Fiducial", 5), ("Line", 2), ("Curve", 4), ("ClosedCurve", 4), ("Angle", 3)])
def test_control_points_go_both_ways(result, kind, count) -> None:
    fixed_points = random_points(OBLIQUE, count)
    node = markups(result.scene, kind, transformed_points(result.map, fixed_points))
    node.SetNthControlPointDescription(1, "kept")
    before = places(node)
    there = result.one(node)
    assert there.GetClassName() == node.GetClassName()
    assert np.linalg.norm(places(there) - fixed_points, axis=1).max() < 1e-3  # mm
    assert (there.GetNthControlPointLabel(1), there.GetNthControlPointDescription(1)) == ("label 1", "kept")
    back = result.one(there, backward=True)
    assert np.linalg.norm(places(back) - before, axis=1).max() < 1e-3  # mm
    assert np.array_equal(places(node), before)


def test_points_under_a_parent_are_transformed_from_where_they_are_shown(result) -> None:
    fixed_points = random_points(OBLIQUE, 6)
    node = markups(result.scene, "Fiducial", transformed_points(ROTATION, transformed_points(result.map, fixed_points)))
    put_under(result, node, ROTATION)
    node.AddControlPoint(0.0, 0.0, 0.0)
    node.UnsetNthControlPointPosition(6)
    there = result.one(node)
    assert there.GetParentTransformNode() is None
    assert np.linalg.norm(places(there)[:6] - fixed_points, axis=1).max() < 1e-3  # mm
    assert there.GetNthControlPointPositionStatus(6) != there.PositionDefined


def test_planes_turn_with_the_space_around_them(result) -> None:
    origin = OBLIQUE.centre_lps
    node = result.scene.AddNewNodeByClass("vtkMRMLMarkupsPlaneNode", "Cut")
    node.SetOriginWorld(*(transformed_points(result.map, origin[None])[0] * FLIP).tolist())
    node.SetNormalWorld(0.3, 0.5, 0.81)
    there = result.one(node)
    assert np.linalg.norm(np.array(there.GetOriginWorld()) * FLIP - origin) < 1e-3  # mm
    # A plane's tangents go with the inverse map's slopes, so its normal with the forward ones', transposed.
    slopes = np.stack([
        (transformed_points(result.map, origin[None] + step) - transformed_points(result.map, origin[None] - step))[0] / 0.02
        for step in 0.01 * np.eye(3)
    ], axis=-1)
    expected = slopes.T @ (np.array(node.GetNormalWorld()) * FLIP)
    found = np.array(there.GetNormalWorld()) * FLIP
    # The plane is laid through points 1 mm away, between which the slopes change a little.
    assert abs(found @ expected) / np.linalg.norm(expected) > np.cos(np.deg2rad(4))


@pytest.mark.parametrize("label_map", [False, True])
def test_images_are_resampled_as_the_registration_does(result, label_map) -> None:
    moving = labels(MIRRORED) if label_map else result.outcome.moving
    node = to_volume_node(moving, result.scene, "Other", label_map=label_map)
    there = result.one(node)
    how = sitk.sitkNearestNeighbor if label_map else sitk.sitkLinear
    expected = sitk.GetArrayFromImage(OBLIQUE.resample(moving, result.map, interpolator=how))
    found = from_volume_node(there)
    assert there.GetClassName() == node.GetClassName() and Geometry.of(found).matches(OBLIQUE, 1e-6)
    reached = sitk.GetArrayFromImage(OBLIQUE.resample(sitk.Cast(moving, sitk.sitkFloat32), result.map, default_value=-1)) >= 0
    assert np.array_equal(sitk.GetArrayFromImage(found)[reached], expected[reached])
    still = to_volume_node(labels(OBLIQUE) if label_map else image(OBLIQUE), result.scene, "Still", label_map=label_map)
    back = from_volume_node(result.one(still, backward=True))
    expected = sitk.GetArrayFromImage(MIRRORED.resample(from_volume_node(still), result.outcome.inverse, interpolator=how))
    inside = (slice(4, -4),) * 3
    assert Geometry.of(back).matches(MIRRORED, 1e-6)
    # What reaches a rounding edge may fall on either side of it in VTK's and in ITK's arithmetic.
    assert (sitk.GetArrayFromImage(back)[inside] != expected[inside]).mean() < 0.01


def test_images_under_a_parent_are_transformed_from_where_they_are_shown(result) -> None:
    # Turned about the world's origin in the file and turned back by the parent.
    turned = sitk.Image(result.outcome.moving)
    points = [ROTATION.TransformPoint(MIRRORED.to_lps(corner).tolist()) for corner in np.vstack([np.zeros(3), np.eye(3)])]
    turned.SetOrigin(points[0])
    axes = np.stack([(np.array(p) - points[0]) / s for p, s in zip(points[1:], MIRRORED.spacing, strict=True)], axis=1)
    turned.SetDirection(axes.ravel().tolist())
    plain = to_volume_node(result.outcome.moving, result.scene, "Plain")
    node = to_volume_node(turned, result.scene, "Turned image")
    put_under(result, node, ROTATION)
    one, other = (sitk.GetArrayFromImage(from_volume_node(result.one(n))).astype(float) for n in (plain, node))
    # Integers rounded from sums that differ in their last digits.
    assert np.abs(one - other).max() <= 1 and (one != other).mean() < 0.01


def test_segmentations_keep_their_segments(result) -> None:
    node = to_segmentation_node(labels(MIRRORED), result.scene, "Parts", names={3: "Caudate"})
    there = from_segmentation_node(result.one(node), OBLIQUE)
    expected = OBLIQUE.resample(labels(MIRRORED), result.map, interpolator=sitk.sitkNearestNeighbor)
    assert np.array_equal(sitk.GetArrayFromImage(there.image), sitk.GetArrayFromImage(expected))
    assert there.names[3] == "Caudate"


def test_transformed_nodes_lie_in_the_folder_of_the_result_and_say_from_what(result) -> None:
    node = to_volume_node(image(MIRRORED), result.scene, "Extra")
    there = result.one(node)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(result.scene)
    parents = [hierarchy.GetItemParent(hierarchy.GetItemByDataNode(one)) for one in (there, result.nodes.report)]
    assert parents[0] == parents[1] != hierarchy.GetSceneItemID()
    assert there.GetAttribute(APPLIED_FROM) == "Extra" and "'Ann to Atlas'" in there.GetDescription()


def test_the_rest_is_transformed_where_one_node_cannot_be(result) -> None:
    scene = result.scene
    deformed = to_volume_node(image(MIRRORED), scene, "Deformed")
    put_under(result, deformed, field_transform(field()))
    grid = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Box")
    vectors = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "Vectors")
    empty = scene.AddNewNodeByClass("vtkMRMLModelNode", "Nothing")
    good = markups(scene, "Fiducial", transformed_points(result.map, random_points(OBLIQUE, 2)))
    before = nodes_of(scene)
    done = result.apply_to_nodes(deformed, grid, vectors, empty, good)
    assert [node.GetAttribute(APPLIED_FROM) for node in done.nodes] == [good.GetName()]
    sentences = {node.GetName(): sentence for node, sentence in done.refused}
    assert set(sentences) == {"Deformed", "Box", "Vectors", "Nothing"}
    assert "not linear" in sentences["Deformed"] and "no longer be a box" in sentences["Box"]
    assert "one number each" in sentences["Vectors"] and "no surface" in sentences["Nothing"]
    new = [scene.GetNodeByID(one) for one in set(nodes_of(scene)) - set(before)]
    assert {node.GetClassName() for node in new} <= {"vtkMRMLMarkupsFiducialNode", "vtkMRMLMarkupsFiducialDisplayNode"}
