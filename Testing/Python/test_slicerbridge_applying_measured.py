"""In the scene as on the command line: doubts are measured, limits are in voxels, and the user hears what is cut off."""

from __future__ import annotations

import re

import numpy as np
import pytest
import SimpleITK as sitk

slicer = pytest.importorskip("slicer", reason="needs slicer-core or Slicer")

from applying_samples import MIRRORED, markups, model, places, registered, vertices  # noqa: E402
from HyperPredictRegLib.slicerbridge.segmentations import to_segmentation_node  # noqa: E402
from HyperPredictRegLib.slicerbridge.transforms import points_back_through  # noqa: E402
from HyperPredictRegLib.slicerbridge.volumes import LPS_RAS, to_volume_node  # noqa: E402
from HyperPredictRegLib.spatial.geometry import Geometry  # noqa: E402
from HyperPredictRegLib.spatial.transforms import MISSED_VOXELS, field_transform, inverted, transformed_points  # noqa: E402
from slicerbridge_samples import OBLIQUE, field, image, random_points  # noqa: E402

VOXEL_MM = min(OBLIQUE.spacing)


@pytest.fixture(scope="module")
def steep():
    return registered(peak_mm=10.0)


def scaled(given: sitk.Image, unit: float) -> sitk.Image:
    """Return a field in other units."""
    grid = Geometry.of(given)
    small = Geometry(grid.size, tuple(unit * s for s in grid.spacing), tuple(unit * o for o in grid.origin), grid.direction)
    return small.apply_to(sitk.GetImageFromArray(sitk.GetArrayFromImage(given) * unit, isVector=True))


def test_as_many_points_are_doubted_in_micrometers_as_in_millimeters() -> None:
    counts = []
    for unit in (1.0, 1e-3):
        transform = field_transform(scaled(field(OBLIQUE, peak_mm=10.0), unit))
        there = transformed_points(transform, random_points(OBLIQUE, 1500) * unit)
        found = points_back_through(transform, there, inverted(transform))
        assert found.residual_mm.shape == (1500,)
        counts.append((int(found.missed(VOXEL_MM * unit).sum()), int((found.determinant <= 0).sum())))
    assert counts[0][0] > 0 and counts[0][1] > 0
    assert np.abs(np.subtract(*counts)).max() <= 2, counts


def test_points_that_come_to_lie_beside_their_place_are_said_with_the_distance(steep) -> None:
    there = transformed_points(steep.map, random_points(OBLIQUE, 4000))
    back = points_back_through(steep.map, there, steep.outcome.inverse)
    missed = back.missed(VOXEL_MM)
    chosen = np.concatenate([there[missed], there[~missed][:20]])
    warned = 0
    for point in chosen:
        for node, found in ((markups(steep.scene, "Fiducial", point[None]), places), (model(steep.scene, point[None]), vertices)):
            done = steep.apply_to_nodes(node)
            if done.refused:
                continue
            off = float(np.linalg.norm(transformed_points(steep.map, found(done.nodes[0])) - point))
            message = [re.search(r"1 of the 1 .* beside their place, by ([\d.]+) mm at most", one) for one in done.warnings]
            if off > MISSED_VOXELS * VOXEL_MM + 1e-3:
                assert len(message) == 1 and float(message[0].group(1)) == pytest.approx(off, rel=0.1)
                warned += 1
            elif off < MISSED_VOXELS * VOXEL_MM - 1e-3:
                assert not message
            assert off <= VOXEL_MM
    assert warned >= 2, "no point of this field is a little beside its place"


def test_the_user_hears_how_much_of_a_node_is_cut_off() -> None:
    made = registered()
    # Half a volume away along its first axis.
    moved = Geometry(MIRRORED.size, MIRRORED.spacing, tuple(MIRRORED.to_lps([12.0, 0, 0])), MIRRORED.direction)
    everywhere = moved.apply_to(sitk.Image(moved.size, sitk.sitkUInt8) + 1)
    middle = np.zeros(MIRRORED.size[::-1], dtype=np.uint8)
    middle[9:12, 10:13, 11:14] = 1
    inside = to_segmentation_node(MIRRORED.apply_to(sitk.GetImageFromArray(middle)), made.scene, "Inside")
    half = [
        to_volume_node(image(moved), made.scene, "Half"),
        to_volume_node(everywhere, made.scene, "Half", label_map=True),
        to_segmentation_node(everywhere, made.scene, "Half"),
    ]
    for node in half:
        done = made.apply_to_nodes(node)
        assert len(done.nodes) == 1 and len(done.warnings) == 1
        message = re.search(r"Only about (\d+) % of 'Half.*' comes to lie in the space of 'Atlas'", done.warnings[0])
        assert 30 < int(message.group(1)) < 60
    assert not made.apply_to_nodes(inside).warnings


def test_segments_that_are_all_empty_are_applied_as_they_are() -> None:
    made = registered()
    node = made.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "To draw in")
    node.GetSegmentation().AddEmptySegment("first", "First")
    done = made.apply_to_nodes(node)
    assert not done.refused and not done.warnings
    assert list(done.nodes[0].GetSegmentation().GetSegmentIDs()) == ["first"]


def test_a_plane_is_laid_through_points_a_voxel_apart(steep, monkeypatch) -> None:
    node = steep.scene.AddNewNodeByClass("vtkMRMLMarkupsPlaneNode", "Cut")
    node.SetOriginWorld(*(LPS_RAS[:3, :3] @ OBLIQUE.to_lps([1.0, 1.0, 1.0])).tolist())
    node.SetNormalWorld(0.3, 0.5, 0.81)
    from HyperPredictRegLib.slicerbridge import applying

    seen = []

    def still(transform, points):
        seen.append(points)
        return points

    monkeypatch.setattr(applying, "points_through", still)
    assert len(steep.apply_to_nodes(node, backward=True).nodes) == 1
    frame = seen[0][-4:]
    np.testing.assert_allclose(np.linalg.norm(frame[1:] - frame[0], axis=1), VOXEL_MM, rtol=1e-6)
