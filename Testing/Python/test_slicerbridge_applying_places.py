"""What lies under the result's own transform comes to where Slicer shows it; what was moved since is noticed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

slicer = pytest.importorskip("slicer", reason="needs slicer-core or Slicer")

from applying_samples import (  # noqa: E402
    MIRRORED,
    Result,
    markups,
    model,
    places,
    put_under,
    registered,
    vertices,
)
from HyperPredictRegLib.core.errors import InputError  # noqa: E402
from HyperPredictRegLib.slicerbridge.applying import apply_to_nodes  # noqa: E402
from HyperPredictRegLib.slicerbridge.segmentations import from_segmentation_node, to_segmentation_node  # noqa: E402
from HyperPredictRegLib.slicerbridge.volumes import LPS_RAS, from_volume_node, to_volume_node, volume_geometry, vtk_matrix  # noqa: E402
from HyperPredictRegLib.spatial.transforms import field_transform, transformed_points  # noqa: E402
from slicerbridge_samples import OBLIQUE, ROTATION, field, image, labels, random_points  # noqa: E402


@pytest.fixture
def result() -> Result:
    return registered()


def voxels(node) -> np.ndarray:
    return sitk.GetArrayFromImage(from_volume_node(node))


@pytest.fixture(params=[False, True], ids=["directly", "with a rotation between"])
def below(request):
    """Put nodes under a transform node, or under a rotation that lies under it; None takes that one away again."""

    def put(result: Result, node, transform) -> None:
        lowest = node
        if request.param:
            if node.GetParentTransformNode() is None:
                put_under(result, node, ROTATION)
            lowest = node.GetParentTransformNode()
        lowest.SetAndObserveTransformNodeID(None if transform is None else transform.GetID())

    return put


def test_the_moving_volume_under_the_transform_comes_as_the_registration_brought_it(result) -> None:
    moving = result.nodes.moving
    before = voxels(result.one(moving))
    moving.SetAndObserveTransformNodeID(result.nodes.transform.GetID())
    parts = to_segmentation_node(labels(MIRRORED), result.scene, "Parts")
    done = result.apply_to_nodes(moving, parts)
    assert not done.refused and len(done.nodes) == 2 and not result.told(moving, parts)
    assert np.array_equal(voxels(done.nodes[0]), before)
    assert moving.GetParentTransformNode() is result.nodes.transform
    # Backward, its grid is the target.
    back = result.one(to_volume_node(image(OBLIQUE), result.scene, "Still"), backward=True)
    assert volume_geometry(back).matches(MIRRORED, 1e-6)


def test_images_and_segments_under_the_transform_are_read_without_it(result, below) -> None:
    other = to_volume_node(image(MIRRORED), result.scene, "Other")
    nodes = [other, to_segmentation_node(labels(MIRRORED), result.scene, "Parts")]
    for node in nodes:
        below(result, node, result.nodes.transform)
    under = result.apply_to_nodes(*nodes)
    assert not under.refused
    for node in nodes:
        below(result, node, None)
    apart = result.apply_to_nodes(*nodes)
    assert np.array_equal(voxels(under.nodes[0]), voxels(apart.nodes[0])) and voxels(under.nodes[0]).any()
    one, other = (sitk.GetArrayFromImage(from_segmentation_node(done.nodes[1], OBLIQUE).image) for done in (under, apart))
    assert np.array_equal(one, other) and one.any()


@pytest.mark.parametrize("backward", [False, True])
def test_points_under_the_transform_come_to_where_slicer_shows_them(result, below, backward) -> None:
    above = result.nodes.inverse if backward else result.nodes.transform
    fixed_points = random_points(OBLIQUE, 5, margin_voxels=7.0)
    own = fixed_points if backward else transformed_points(result.map, fixed_points)
    points, surface = markups(result.scene, "Fiducial", own), model(result.scene, own)
    plane = result.scene.AddNewNodeByClass("vtkMRMLMarkupsPlaneNode", "Cut")
    plane.SetOriginWorld(*(LPS_RAS[:3, :3] @ own[0]).tolist())
    plane.SetNormalWorld(0.3, 0.5, 0.81)
    for node in (points, surface, plane):
        below(result, node, above)
    shown = places(points)
    under = result.apply_to_nodes(points, surface, plane, backward=backward)
    assert not under.refused, under.refused
    # Slicer inverts the numerical inverse numerically, so that backward it shows them that far away.
    limit_mm = 0.5 if backward else 0.02
    assert np.linalg.norm(places(under.nodes[0]) - shown, axis=1).max() < limit_mm
    assert np.linalg.norm(vertices(under.nodes[1]) - shown, axis=1).max() < limit_mm
    assert np.linalg.norm(np.subtract(under.nodes[2].GetOriginWorld(), plane.GetOriginWorld())) < limit_mm
    for node in (points, surface, plane):
        below(result, node, None)
    apart = result.apply_to_nodes(points, surface, plane, backward=backward)
    assert np.abs(places(under.nodes[0]) - places(apart.nodes[0])).max() < 1e-4  # mm
    assert np.abs(vertices(under.nodes[1]) - vertices(apart.nodes[1])).max() < 1e-4  # mm
    assert np.dot(under.nodes[2].GetNormalWorld(), apart.nodes[2].GetNormalWorld()) > 1 - 1e-6


def test_other_deformations_and_the_other_way_are_refused_before_applying(result) -> None:
    deformed, there = (to_volume_node(image(MIRRORED), result.scene, name) for name in ("Deformed", "There"))
    put_under(result, deformed, field_transform(field()))
    there.SetAndObserveTransformNodeID(result.nodes.transform.GetID())
    refused = (*result.apply_to_nodes(deformed).refused, *result.apply_to_nodes(there, backward=True).refused)
    sentences = [sentence for _, sentence in refused]
    assert len(sentences) == 2 and all("not linear" in one and one.endswith("first.") for one in sentences)


def test_forward_needs_no_moving_volume(result) -> None:
    points = markups(result.scene, "Fiducial", transformed_points(result.map, random_points(OBLIQUE, 3)))
    without = replace(result.nodes, moving=None)
    assert len(apply_to_nodes(result.scene, [points], without).nodes) == 1
    with pytest.raises(InputError, match="moving volume of this registration is no longer"):
        apply_to_nodes(result.scene, [points], without, backward=True)
    put_under(result, result.nodes.moving, field_transform(field()))
    done = result.apply_to_nodes(points)
    assert len(done.nodes) == 1 and "'Ann' has another shape than when it was registered" in done.warnings[0]


def test_a_volume_that_was_moved_since_is_named(result) -> None:
    other = to_volume_node(image(MIRRORED), result.scene, "Other")
    assert not result.told(other)
    put_under(result, result.nodes.moving, ROTATION)
    turn = result.nodes.moving.GetParentTransformNode()
    for above in (None, result.nodes.transform):
        turn.SetAndObserveTransformNodeID(None if above is None else above.GetID())
        found = result.told(other)
        assert len(found) == 1 and "The moving volume 'Ann' lies elsewhere" in found[0]
    result.nodes.moving.SetAndObserveTransformNodeID(None)
    put_under(result, result.nodes.fixed, ROTATION)
    found = result.told(other, backward=True)
    assert len(found) == 1 and "The fixed volume 'Atlas' lies elsewhere" in found[0]
    # Without the report nothing is known.
    result.nodes = replace(result.nodes, report=None)
    assert not result.told(other)


@pytest.mark.parametrize(("shift_voxels", "count"), [(5e-4, 0), (2e-3, 1)])
def test_a_thousandth_of_a_voxel_counts(result, shift_voxels, count) -> None:
    matrix = LPS_RAS @ MIRRORED.index_to_lps
    matrix[1, 3] += shift_voxels * min(MIRRORED.spacing)
    result.nodes.moving.SetIJKToRASMatrix(vtk_matrix(matrix))
    assert len(result.told(to_volume_node(image(MIRRORED), result.scene, "Other"))) == count
