"""What slice views can show of a registration: a checkerboard, changes of volume, folded voxels, outlines, the deformed grid.

Layers of the views themselves are left to the caller.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.slicerbridge.together import (
    ROLE,
    all_or_none,
    item_above,
    keep_out_of_files,
    mark_run,
    nodes_of_run,
    put_under,
    report_of,
)
from HyperPredictRegLib.slicerbridge.transforms import from_transform_node, to_transform_node
from HyperPredictRegLib.slicerbridge.volumes import from_volume_node, to_volume_node, update_volume_node, volume_geometry
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import field_of, field_transform

JACOBIAN_RANGE = (0.0, 2.0)

_COLORS = "HyperPredictReg.jacobianColors"
_COLOR_COUNT = 256
_FOLD = (1.0, 0.9, 0.0)
_LOSS, _SAME, _GAIN = (0.02, 0.19, 0.55), (0.97, 0.97, 0.97), (0.60, 0.02, 0.07)
_TOP = 1000


def checkerboard(fixed_node: Any, warped_node: Any, scene: Any, tiles: int = 8) -> Any:
    """Show both volumes in turn, in cubes, as one volume on the fixed grid; return its node.

    Each volume is brought to the range 0 to 1000 by its own percentiles. An earlier checkerboard of the same result is
    replaced, so that the scene does not fill up.

    Parameters
    ----------
    fixed_node, warped_node : scalar volumes; the second is resampled if it lies on another grid.
    scene : vtkMRMLScene.
    tiles : cubes along the longest edge.

    Raises
    ------
    InputError : a volume cannot be used, or `tiles` is less than 2.
    """
    if tiles < 2:
        raise InputError(f"A checkerboard of {tiles} tiles shows nothing: take 2 or more.")
    fixed, warped = from_volume_node(fixed_node), from_volume_node(warped_node)
    grid = Geometry.of(fixed)
    if not Geometry.of(warped).matches(grid):
        warped = grid.resample(warped)
    edge_mm = max(grid.extent_mm) / tiles
    steps = [np.floor((np.arange(n) + 0.5) * s / edge_mm).astype(int) for n, s in zip(grid.size, grid.spacing, strict=True)]
    odd = (steps[2][:, None, None] + steps[1][None, :, None] + steps[0][None, None, :]) % 2 == 1
    mixed = np.where(odd, _common_range(warped), _common_range(fixed))
    image = grid.apply_to(sitk.GetImageFromArray(mixed))
    node = nodes_of_run(warped_node).get("checkerboard")
    if node is not None:
        update_volume_node(node, image)
        return node
    with all_or_none(scene):
        node = to_volume_node(image, scene, f"Checkerboard of {fixed_node.GetName()} and {warped_node.GetName()}")
        display = node.GetDisplayNode()
        display.AutoWindowLevelOff()
        display.SetWindowLevelMinMax(0, _TOP)
        _add_to_run(warped_node, "checkerboard", node)
        put_under(scene, [node], item_above(scene, warped_node))
    return node


def show_jacobian(jacobian_node: Any, scene: Any) -> Any:
    """Color a Jacobian determinant: white 1, blue below (tissue was stretched), red above (shrunk), yellow folded.

    Returns
    -------
    colors : vtkMRMLColorTableNode, made once for each scene.
    """
    colors = jacobian_colors(scene)
    jacobian_node.CreateDefaultDisplayNodes()
    display = jacobian_node.GetDisplayNode()
    display.SetAndObserveColorNodeID(colors.GetID())
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(*JACOBIAN_RANGE)
    return colors


def jacobian_colors(scene: Any) -> Any:
    """Return the color table of Jacobian determinants; add it to `scene` if it is not there yet."""
    found = scene.GetNodesByClass("vtkMRMLColorTableNode")
    # Slicer hands over a collection that nobody else lets go of, nor of the nodes in it.
    found.UnRegister(None)
    for n in range(found.GetNumberOfItems()):
        if found.GetItemAsObject(n).GetAttribute(ROLE) == _COLORS:
            return found.GetItemAsObject(n)
    node = scene.AddNewNodeByClass("vtkMRMLColorTableNode", scene.GetUniqueNameByString("Jacobian determinant colors"))
    node.SetTypeToUser()
    node.SetNumberOfColors(_COLOR_COUNT)
    low, high = JACOBIAN_RANGE
    for n in range(_COLOR_COUNT):
        value = low + (high - low) * n / (_COLOR_COUNT - 1)
        # All that is 0 or less comes to the first color.
        node.SetColor(n, f"{value:.2f}" if n else "folded", *(_diverging(value) if n else _FOLD), 1.0)
    node.SetAttribute(ROLE, _COLORS)
    node.SetDescription("White: volume is unchanged. Blue: tissue was stretched. Red: it was shrunk. Yellow: folded.")
    return node


def show_outlines(segmentation_node: Any, *, opacity: float = 1.0, thickness_px: int = 2) -> None:
    """Draw a segmentation, such as the folded voxels, in slice views as outlines without a fill."""
    segmentation_node.CreateDefaultDisplayNodes()
    display = segmentation_node.GetDisplayNode()
    display.SetVisibility(True)
    display.SetVisibility2DFill(False)
    display.SetVisibility2DOutline(True)
    display.SetOpacity2DOutline(opacity)
    display.SetSliceIntersectionThickness(thickness_px)


def show_grid(transform_node: Any, region_node: Any, *, visible: bool = True, spacing_mm: float | None = None) -> None:
    """Draw the deformed grid of a transform in slice views, or hide it.

    Parameters
    ----------
    transform_node : vtkMRMLTransformNode.
    region_node : the volume over which the grid is drawn: the fixed one.
    visible : whether to draw it.
    spacing_mm : distance of the grid's lines; by default such that there are about 20.
    """
    spacing = spacing_mm or max(1.0, round(max(volume_geometry(region_node).extent_mm) / 20))
    transform_node.CreateDefaultDisplayNodes()
    display = transform_node.GetDisplayNode()
    was_modifying = display.StartModify()
    display.SetVisualizationMode(display.VIS_MODE_GRID)
    display.SetGridSpacingMm(spacing)
    display.SetGridResolutionMm(spacing / 5)
    display.SetAndObserveRegionNode(region_node)
    display.SetVisibility(visible)
    display.SetVisibility2D(visible)
    display.SetVisibility3D(False)
    display.EndModify(was_modifying)


def show_deformation(
    transform_node: Any, region_node: Any, scene: Any, *, visible: bool = True, spacing_mm: float | None = None
) -> Any:
    """Draw the grid of a registration's deformable step alone in slice views, or hide it; return the node that is drawn.

    The affine step, which is the first to bring the volumes together, would shift the whole grid out of the picture and hide
    what the deformable step did. The deformation is added as a hidden transform of its own at the first call, which is not saved
    with the scene; a transform that has no such part is drawn itself.

    Parameters
    ----------
    transform_node : of a registration.
    region_node, visible, spacing_mm : see `show_grid`.
    scene : vtkMRMLScene.
    """
    node = nodes_of_run(transform_node).get("deformation")
    if node is None and not visible:
        return transform_node
    if node is None:
        whole = from_transform_node(transform_node)
        field = field_of(whole)
        if field is None or whole.GetTransformEnum() != sitk.sitkComposite:
            node = transform_node
        else:
            with all_or_none(scene):
                node = to_transform_node(field_transform(field), scene, f"{transform_node.GetName()}, deformation alone")
                node.SetDescription("For the grid in slice views: without the affine step, it does not register anything.")
                # Nothing to choose or to keep: it is made in a moment from the transform that it is a part of.
                node.SetHideFromEditors(True)
                _add_to_run(transform_node, "deformation", node)
    show_grid(node, region_node, visible=visible, spacing_mm=spacing_mm)
    if node is not transform_node:
        keep_out_of_files(node)
    return node


def _common_range(image: sitk.Image) -> np.ndarray:
    """Return voxels as whole numbers from 0, the image's lowest value, to 1000, what is bright in it."""
    voxels = sitk.GetArrayViewFromImage(image).astype(np.float32)
    low = float(voxels.min())
    # Air, which fills much of most images, would pull the percentile down.
    inside = voxels[voxels > low]
    high = float(np.percentile(inside, 99.5)) if inside.size else low + 1.0
    return np.rint(np.clip((voxels - low) / max(high - low, 1e-12), 0, 1) * _TOP).astype(np.int16)


def _diverging(value: float) -> tuple[float, float, float]:
    """Return the color of a determinant: from blue at 0 over white at 1 to red at 2."""
    end = _LOSS if value < 1 else _GAIN
    # Below 1, so that changes of a tenth can be seen.
    share = min(abs(value - 1), 1.0) ** 0.7
    red, green, blue = ((1 - share) * a + share * b for a, b in zip(_SAME, end, strict=True))
    return red, green, blue


def _add_to_run(sibling: Any, role: str, node: Any) -> None:
    """Let a node be found, and removed, with the result that a sibling is of, if it is of one."""
    report = report_of(sibling)
    if report is not None:
        mark_run(report, {role: node})
