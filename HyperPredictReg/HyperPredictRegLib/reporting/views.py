"""Anatomical planes of a voxel grid, as they are laid on a screen.

Slices follow the grid's own axes, each named after the anatomical axis it is nearest to, so that nothing is resampled
for display. Screens are in radiological convention: the patient's right is on the viewer's left.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from HyperPredictRegLib.geometry import Geometry

LETTERS = (("L", "R"), ("P", "A"), ("S", "I"))
"""For each LPS axis: the letter at its positive end and at its negative end."""

# Name, LPS axis across the screen and its sign from left to right, LPS axis down the screen and its sign downwards.
_SCREENS = (
    ("axial", 0, 1, 1, 1),
    ("coronal", 0, 1, 2, -1),
    ("sagittal", 1, 1, 2, -1),
)


@dataclass(frozen=True)
class Plane:
    """One family of parallel slices of a grid and the way they are shown.

    Attributes
    ----------
    name : "axial", "coronal" or "sagittal".
    across, down, through : the index axes (0, 1, 2 for i, j, k) from left to right, from top to bottom, between slices.
    flip_across, flip_down : whether the index falls from left to right, or from top to bottom.
    letters : the patient's direction at the left, right, top and bottom edge of the screen.
    geometry : the grid.
    """

    name: str
    across: int
    down: int
    through: int
    flip_across: bool
    flip_down: bool
    letters: tuple[str, str, str, str]
    geometry: Geometry

    @property
    def size_mm(self) -> tuple[float, float]:
        """Width and height of a slice on the screen, in mm."""
        extent = self.geometry.extent_mm
        return extent[self.across], extent[self.down]

    @property
    def pixel_centres(self) -> tuple[np.ndarray, np.ndarray]:
        """Centres of a slice's columns and of its rows, in mm from its upper left corner."""
        geometry = self.geometry
        columns = (np.arange(geometry.size[self.across]) + 0.5) * geometry.spacing[self.across]
        rows = (np.arange(geometry.size[self.down]) + 0.5) * geometry.spacing[self.down]
        return columns, rows

    @property
    def slice_count(self) -> int:
        """Number of slices."""
        return self.geometry.size[self.through]

    def cut(self, voxels: np.ndarray, position: int) -> np.ndarray:
        """Return slice `position` of an array indexed (k, j, i) as it is shown: rows downwards, columns to the right."""
        axis = {index_axis: 2 - index_axis for index_axis in range(3)}
        ordered = voxels.transpose(axis[self.through], axis[self.down], axis[self.across])[position]
        return ordered[:: -1 if self.flip_down else 1, :: -1 if self.flip_across else 1]

    def to_screen(self, indices: np.ndarray) -> np.ndarray:
        """Map continuous indices (..., 3), order i, j, k, to mm right of and below the upper left corner, (..., 2)."""
        indices = np.asarray(indices, dtype=float)
        size, spacing = self.geometry.size, self.geometry.spacing
        x, y = indices[..., self.across], indices[..., self.down]
        x = size[self.across] - 1 - x if self.flip_across else x
        y = size[self.down] - 1 - y if self.flip_down else y
        return np.stack([(x + 0.5) * spacing[self.across], (y + 0.5) * spacing[self.down]], axis=-1)

    def slab(self, position: int) -> Geometry:
        """Return the grid of slice `position` alone: one voxel thick, in the grid's own orientation."""
        lower, upper = [0, 0, 0], [0, 0, 0]
        lower[self.through] = -position
        upper[self.through] = position + 1 - self.slice_count
        return self.geometry.padded(lower, upper)


def planes_of(geometry: Geometry) -> tuple[Plane, Plane, Plane]:
    """Return the axial, coronal and sagittal plane of a grid; oblique axes go by their nearest anatomical axis."""
    index_axis, sign = _nearest_axes(geometry)
    planes = []
    for name, across, across_sign, down, down_sign in _SCREENS:
        through = 3 - across - down
        left_right = LETTERS[across][::-1] if across_sign > 0 else LETTERS[across]
        top_bottom = LETTERS[down][::-1] if down_sign > 0 else LETTERS[down]
        planes.append(
            Plane(
                name=name,
                across=index_axis[across],
                down=index_axis[down],
                through=index_axis[through],
                flip_across=sign[across] != across_sign,
                flip_down=sign[down] != down_sign,
                letters=(left_right[0], left_right[1], top_bottom[0], top_bottom[1]),
                geometry=geometry,
            )
        )
    return planes[0], planes[1], planes[2]


def obliqueness_degrees(geometry: Geometry) -> float:
    """Return the largest angle between an axis of the grid and the anatomical axis that it is named after."""
    index_axis, _ = _nearest_axes(geometry)
    cosines = [abs(geometry.direction_matrix[lps, index_axis[lps]]) for lps in range(3)]
    return math.degrees(math.acos(min(1.0, min(cosines))))


def centre_of(mask: np.ndarray) -> tuple[int, int, int]:
    """Return the voxel (i, j, k) at the centroid of a mask indexed (k, j, i), or of the whole grid if it is empty."""
    filled = mask > 0
    if not filled.any():
        filled = np.ones_like(filled)
    centre = []
    for axis in (2, 1, 0):
        weights = filled.sum(axis=tuple(a for a in range(3) if a != axis))
        centre.append(round(float(np.average(np.arange(len(weights)), weights=weights))))
    return centre[0], centre[1], centre[2]


def _nearest_axes(geometry: Geometry) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return, for each LPS axis, the index axis nearest to it and whether that one runs with it (1) or against it (-1)."""
    direction = geometry.direction_matrix
    best = max(
        itertools.permutations(range(3)),
        key=lambda order: sum(abs(direction[lps, order[lps]]) for lps in range(3)),
    )
    return best, tuple(1 if direction[lps, best[lps]] >= 0 else -1 for lps in range(3))
