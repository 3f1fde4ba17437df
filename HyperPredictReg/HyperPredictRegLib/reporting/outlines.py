"""The picture of the structures' outlines on the fixed image: as labelled there, and as propagated from the moving image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.geometry import Geometry
from HyperPredictRegLib.outcome import Outcome
from HyperPredictRegLib.reporting.sheet import FIXED_COLOUR, MOVING_COLOUR, annotate, new_sheet, scale_bar, show
from HyperPredictRegLib.reporting.views import Plane, centre_of, planes_of


def draw_outlines(outcome: Outcome) -> Any:
    """Draw the fixed image with the outlines of fixed (green) and propagated (magenta) structures, whichever exist."""
    geometry = Geometry.of(outcome.fixed)
    planes = planes_of(geometry)
    positions = _telling_slices(outcome, planes, _centre(outcome, geometry))
    sheet = new_sheet(planes, ("",))
    maps = [
        (labels, text, colour)
        for labels, text, colour in (
            (outcome.fixed_labels, "fixed labels", FIXED_COLOUR),
            (outcome.warped_labels, "labels propagated from the moving image", MOVING_COLOUR),
        )
        if labels is not None
    ]
    sheet.header([(text, colour) for _, text, colour in maps])
    voxels = sitk.GetArrayViewFromImage(outcome.fixed)
    for panel, plane in zip(sheet.panels[0], planes, strict=True):
        position = positions[plane.name]
        show(panel, plane, _grey_slice(plane.cut(voxels, position)), cmap="gray", vmin=0, vmax=1)
        for labels, _, colour in maps:
            _draw_edges(panel, plane, plane.cut(sitk.GetArrayViewFromImage(labels), position), colour)
        annotate(panel, plane, position)
    scale_bar(sheet.panels[0][0], planes[0])
    return sheet.figure


def label_edges(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixel sides between different labels of a slice, shape (rows, columns).

    Returns
    -------
    Where a label differs from the one to its right, shape (n, 2), and from the one below it, shape (m, 2), each as
    (row, column) of the pixel on the left or above.
    """
    return np.argwhere(labels[:, :-1] != labels[:, 1:]), np.argwhere(labels[:-1] != labels[1:])


def _draw_edges(panel: Any, plane: Plane, labels: np.ndarray, colour: str) -> None:
    from matplotlib.collections import LineCollection

    width, height = (plane.geometry.spacing[axis] for axis in (plane.across, plane.down))
    upright, level = label_edges(labels)
    x, y = (upright[:, 1] + 1) * width, upright[:, 0] * height
    upright_lines = np.stack([np.stack([x, y], axis=-1), np.stack([x, y + height], axis=-1)], axis=1)
    x, y = level[:, 1] * width, (level[:, 0] + 1) * height
    level_lines = np.stack([np.stack([x, y], axis=-1), np.stack([x + width, y], axis=-1)], axis=1)
    panel.add_collection(
        LineCollection(list(np.concatenate([upright_lines, level_lines])), colors=colour, linewidths=0.9, capstyle="projecting"),
        autolim=False,
    )


def _telling_slices(outcome: Outcome, planes: Sequence[Plane], centre: tuple[int, int, int]) -> dict[str, int]:
    """Return for each plane the slice that shows most structures; of several, the one nearest to the centre."""
    labels = outcome.fixed_labels if outcome.fixed_labels is not None else outcome.warped_labels
    values = sitk.GetArrayViewFromImage(labels)
    positions = {}
    for plane in planes:
        counts = structures_per_slice(values, 2 - plane.through)
        away = np.abs(np.arange(len(counts)) - centre[plane.through])
        positions[plane.name] = int(np.lexsort((away, -counts))[0])
    return positions


def structures_per_slice(labels: np.ndarray, axis: int) -> np.ndarray:
    """Return how many structures each slice across `axis` cuts at half of their largest area or more, shape (slices,).

    Every other voxel of a slice is looked at. Counting all that a slice touches would favour the plane between two
    halves of a body, where everything is grazed and nothing can be seen.
    """
    across = np.moveaxis(labels, axis, 0)[:, ::2, ::2]
    count = across.shape[0]
    found, numbers = np.unique(across, return_inverse=True)
    slices = np.broadcast_to(np.arange(count)[:, None, None], across.shape)
    areas = np.bincount(numbers.ravel() * count + slices.ravel(), minlength=len(found) * count).reshape(len(found), count)
    areas = areas[found != 0]
    return (2 * areas >= np.maximum(areas.max(axis=1, keepdims=True), 1)).sum(axis=0)


def _centre(outcome: Outcome, geometry: Geometry) -> tuple[int, int, int]:
    """Return the voxel of the fixed image at the centre that the other pictures use."""
    grid = Geometry.of(outcome.foreground)
    point = grid.to_lps(centre_of(sitk.GetArrayViewFromImage(outcome.foreground)))
    i, j, k = np.clip(np.round(geometry.to_index(point)), 0, np.array(geometry.size) - 1).astype(int)
    return int(i), int(j), int(k)


def _grey_slice(values: np.ndarray) -> np.ndarray:
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (1, 99.5)) if finite.size else (0.0, 1.0)
    return np.clip((np.nan_to_num(values.astype(float), nan=low) - low) / max(high - low, 1e-12), 0, 1)
