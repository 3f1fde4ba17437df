"""What slice views are given to show: a checkerboard, the colours of the determinant, outlines, the deformed grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

slicer = pytest.importorskip("slicer", reason="needs slicer-core or Slicer")

from HyperPredictRegLib.core.errors import InputError  # noqa: E402
from HyperPredictRegLib.slicerbridge.outcome_nodes import add_outcome, remove_outcome  # noqa: E402
from HyperPredictRegLib.slicerbridge.scene import open_scene, save_scene  # noqa: E402
from HyperPredictRegLib.slicerbridge.segmentations import to_segmentation_node  # noqa: E402
from HyperPredictRegLib.slicerbridge.showing import (  # noqa: E402
    checkerboard,
    jacobian_colors,
    show_deformation,
    show_grid,
    show_jacobian,
    show_outlines,
)
from HyperPredictRegLib.slicerbridge.transforms import to_transform_node  # noqa: E402
from HyperPredictRegLib.slicerbridge.volumes import from_volume_node, to_volume_node  # noqa: E402
from HyperPredictRegLib.spatial.geometry import Geometry  # noqa: E402
from HyperPredictRegLib.spatial.transforms import field_of, field_transform, transformed_points  # noqa: E402
from slicerbridge_samples import (  # noqa: E402
    AXIAL,
    LEFT_HANDED,
    OBLIQUE,
    affine,
    image,
    labels,
    outcome,
    random_points,
    through_node,
)

FLAT = Geometry((40, 30, 6), (1.0, 1.0, 5.0), (3.0, -4.0, 5.0), OBLIQUE.direction)


def ramp(geometry: Geometry, top: float, offset: float) -> sitk.Image:
    """Return an image that rises from `offset` to `top` along i."""
    voxels = np.broadcast_to(np.linspace(offset, top, geometry.size[0]), geometry.size[::-1])
    return geometry.apply_to(sitk.GetImageFromArray(np.ascontiguousarray(voxels)))


def voxels_of(node: Any) -> np.ndarray:
    return sitk.GetArrayFromImage(from_volume_node(node))


@pytest.mark.parametrize("geometry", [AXIAL, OBLIQUE, LEFT_HANDED, FLAT])
def test_tiles_are_cubes_that_take_turns(scene, geometry) -> None:
    """One volume is dark in all its voxels but one, the other bright: what is seen tells which of them it is of."""
    dark, bright = np.zeros(geometry.size[::-1]), np.full(geometry.size[::-1], 50.0)
    dark[0, 0, 0], bright[-1, -1, -1] = 50.0, 0.0
    fixed, warped = (
        to_volume_node(geometry.apply_to(sitk.GetImageFromArray(part)), scene, name)
        for part, name in ((dark, "Atlas"), (bright, "Ann"))
    )
    node = checkerboard(fixed, warped, scene, tiles=4)
    assert Geometry.of(from_volume_node(node)).matches(geometry, 1e-6)
    found = voxels_of(node) > 500
    edge = max(geometry.extent_mm) / 4
    k, j, i = np.indices(found.shape)
    tile = sum(np.floor((n + 0.5) * s / edge) for n, s in zip((i, j, k), geometry.spacing, strict=True)) % 2
    assert (found != (tile == 1)).sum() <= 2
    assert 0.3 < found.mean() < 0.7


def test_both_volumes_come_to_one_range(scene) -> None:
    fixed = to_volume_node(ramp(OBLIQUE, 3000.0, -1000.0), scene, "CT")
    warped = to_volume_node(ramp(OBLIQUE, 0.7, 0.1), scene, "MR")
    found = voxels_of(checkerboard(fixed, warped, scene, 6)).astype(float)
    assert found.min() == 0 and found.max() == 1000
    expected = np.linspace(0, 1000, OBLIQUE.size[0])
    # Percentiles of a ramp lie a little below its top.
    assert np.abs(found - expected).max() < 15


def test_a_volume_on_another_grid_is_brought_along(scene) -> None:
    fixed, warped = to_volume_node(image(OBLIQUE), scene, "A"), to_volume_node(image(AXIAL), scene, "B")
    assert voxels_of(checkerboard(fixed, warped, scene)).shape == OBLIQUE.size[::-1]


def test_a_second_checkerboard_of_a_result_replaces_the_first(scene) -> None:
    nodes = add_outcome(scene, outcome())
    first = checkerboard(nodes.fixed, nodes.warped, scene, 4)
    before, count = voxels_of(first), scene.GetNumberOfNodes()
    assert checkerboard(nodes.fixed, nodes.warped, scene, 9) is first
    assert scene.GetNumberOfNodes() == count and not np.array_equal(voxels_of(first), before)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    above = [hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) for node in (first, nodes.warped)]
    assert above[0] == above[1]
    remove_outcome(scene, nodes)
    assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0


def test_a_checkerboard_of_one_tile_is_refused(scene) -> None:
    node = to_volume_node(image(), scene, "A")
    with pytest.raises(InputError, match="1 tiles shows nothing"):
        checkerboard(node, node, scene, 1)


def test_the_determinant_is_white_where_volume_stays_and_yellow_where_it_is_folded(scene) -> None:
    nodes = add_outcome(scene, outcome())
    show_jacobian(nodes.jacobian, scene)
    display = nodes.jacobian.GetDisplayNode()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (0.0, 2.0)
    table = display.GetColorNode().GetLookupTable()

    def color(value: float) -> np.ndarray:
        index = int(np.clip(np.floor(value / 2 * 256), 0, 255))
        return np.array(table.GetTableValue(index)[:3])

    assert color(1.0).min() > 0.85
    for value in (0.2, 0.5, 0.8):
        assert color(value)[2] > color(value)[0] + 0.1, value
    for value in (1.2, 1.5, 1.9):
        assert color(value)[0] > color(value)[2] + 0.1, value
    red, green, blue = color(-0.5)
    assert min(red, green) > 0.8 and blue < 0.2
    brightness = [color(1 + d).sum() for d in (0.0, 0.1, 0.3, 0.6, 0.95)]
    assert brightness == sorted(brightness, reverse=True)


def test_the_colors_are_made_once_and_survive_saving(scene, tmp_path) -> None:
    colors = jacobian_colors(scene)
    nodes = add_outcome(scene, outcome())
    assert show_jacobian(nodes.jacobian, scene) is colors
    save_scene(scene, tmp_path / "a.mrb")
    opened = open_scene(tmp_path / "a.mrb")
    node = opened.GetFirstNodeByName(nodes.jacobian.GetName())
    again = node.GetDisplayNode().GetColorNode()
    assert again.GetNumberOfColors() == 256 and jacobian_colors(opened) is again
    for n in (0, 60, 128, 200):
        assert again.GetLookupTable().GetTableValue(n) == pytest.approx(colors.GetLookupTable().GetTableValue(n), abs=1 / 255)


def test_outlines_have_no_fill(scene) -> None:
    node = to_segmentation_node(labels(), scene, "Parts")
    show_outlines(node, opacity=0.5, thickness_px=3)
    display = node.GetDisplayNode()
    assert (display.GetVisibility2DFill(), display.GetVisibility2DOutline()) == (False, True)
    assert (display.GetOpacity2DOutline(), display.GetSliceIntersectionThickness()) == (0.5, 3)


@pytest.mark.parametrize(("geometry", "spacing", "expected"), [(OBLIQUE, None, 3.0), (OBLIQUE, 7.5, 7.5), (FLAT, None, 2.0)])
def test_the_grid_suits_the_volume_and_can_be_hidden(scene, geometry, spacing, expected) -> None:
    fixed, node = to_volume_node(image(geometry), scene, "Atlas"), to_transform_node(affine(), scene, "t")
    show_grid(node, fixed, spacing_mm=spacing)
    display = node.GetDisplayNode()
    assert display.GetVisualizationMode() == display.VIS_MODE_GRID
    assert display.GetVisibility() and display.GetVisibility2D() and not display.GetVisibility3D()
    assert display.GetGridSpacingMm() == expected and display.GetRegionNode() is fixed
    show_grid(node, fixed, visible=False)
    assert not display.GetVisibility() and node.GetNumberOfDisplayNodes() == 1


def test_the_deformation_is_drawn_without_the_affine_step(scene) -> None:
    done = outcome()
    nodes = add_outcome(scene, done)
    assert show_deformation(nodes.transform, nodes.fixed, scene, visible=False) is nodes.transform
    shown = show_deformation(nodes.transform, nodes.fixed, scene)
    points = random_points(OBLIQUE, 100)
    alone = transformed_points(field_transform(field_of(done.transform)), points)
    assert np.abs(through_node(shown, points) - alone).max() < 1e-4  # mm
    assert np.abs(through_node(nodes.transform, points) - alone).max() > 2  # mm, the affine step
    assert shown.GetDisplayNode().GetVisibility2D() and nodes.transform.GetDisplayNode() is None
    count = scene.GetNumberOfNodes()
    assert show_deformation(nodes.transform, nodes.fixed, scene, visible=False) is shown
    assert scene.GetNumberOfNodes() == count and not shown.GetDisplayNode().GetVisibility()
    remove_outcome(scene, nodes)
    assert scene.GetNumberOfNodesByClass("vtkMRMLTransformNode") == 0


def test_a_transform_of_one_part_is_drawn_itself(scene) -> None:
    nodes = add_outcome(scene, outcome(), transform_as="field")
    assert show_deformation(nodes.transform, nodes.fixed, scene) is nodes.transform
    assert nodes.transform.GetDisplayNode().GetVisibility2D()
