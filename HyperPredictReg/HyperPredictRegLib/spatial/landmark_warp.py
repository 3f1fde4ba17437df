"""A smooth displacement that draws points towards given places, and cannot fold space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy.spatial.distance import cdist

from HyperPredictRegLib.spatial.geometry import Geometry

SOFTNESS = 0.1
"""How far a point alone is left behind: about a tenth; chosen with the radius on mouse skulls (see docs/alignment.md)."""
STEEPEST = 0.5
"""Largest slope of the displacements (spectral norm): below 1 nothing folds, and half leaves room for the deformation."""

_COARSE_NODES, _NODES = 8, 24
"""Nodes of a grid from the middle of what one point moves to its rim."""
_LEAST_RADII = 4.0
_MOST_RADII_ACROSS = 6
"""More would need more memory than the images."""


@dataclass(frozen=True)
class LandmarkWarp:
    """A displacement that vanishes beyond `radius_mm` from all n points.

    Attributes
    ----------
    field : vector float64 image of displacements, LPS mm, zero at its border.
    radius_mm : how far each point draws its surroundings along.
    reached : shape (n, 3), the displacements at the points, mm.
    left_out_mm : shape (n,), how far from its place each point comes if it is left out.
    slope : the largest slope of the field (spectral norm), at most `STEEPEST`.
    weakened : whether the points were drawn less than asked for, so that nothing folds.
    """

    field: sitk.Image
    radius_mm: float
    reached: np.ndarray
    left_out_mm: np.ndarray
    slope: float
    weakened: bool


def landmark_warp(points: np.ndarray, displacements: np.ndarray, radius_mm: float) -> LandmarkWarp:
    """Return the smooth field that moves points by about given displacements.

    A sum of H. Wendland's functions of compact support ((1 - r)^4 (4 r + 1), Adv. Comput. Math. 4 (1995) 389,
    doi:10.1007/BF02123482), one for each point, with its coefficients damped as in ridge regression, so that points close to each
    other that are drawn apart give way. The damping is doubled until no slope exceeds `STEEPEST`.

    Parameters
    ----------
    points : shape (n, 3), LPS mm.
    displacements : shape (n, 3), mm.
    radius_mm : see `LandmarkWarp`; at least four times the longest displacement, and a sixth of how far the points spread.
    """
    points, displacements = np.asarray(points, dtype=float), np.asarray(displacements, dtype=float)
    longest, across = np.linalg.norm(displacements, axis=1).max(), np.ptp(points, axis=0).max()
    radius = float(max(radius_mm, _LEAST_RADII * longest, across / _MOST_RADII_ACROSS))
    kernel = _wendland(cdist(points, points) / radius)
    softness = SOFTNESS
    # Coarse grids tell nearly how soft it must be, in a fraction of the time; the field's own grid has the last word.
    for nodes in (_COARSE_NODES, _NODES):
        grid = _grid(points, radius, nodes)
        while True:
            inverse = np.linalg.inv(kernel + softness * np.eye(len(points)))
            coefficients = inverse @ displacements
            field = _sum(points, coefficients, radius, grid)
            slope = _steepest(field, grid)
            if slope <= STEEPEST:
                break
            softness *= 2
    return LandmarkWarp(
        field=grid.holding(field, vectors=True),
        radius_mm=radius,
        reached=kernel @ coefficients,
        left_out_mm=np.linalg.norm(coefficients / np.diag(inverse)[:, None], axis=1),
        slope=slope,
        weakened=softness > SOFTNESS,
    )


def _grid(points: np.ndarray, radius: float, nodes: int) -> Geometry:
    """Return a grid that reaches two nodes farther than the field does."""
    step = radius / nodes
    return Geometry((1, 1, 1), (1.0, 1.0, 1.0)).covering(points, step, radius + 2 * step)


def _wendland(r: np.ndarray) -> np.ndarray:
    inside = np.clip(1 - r, 0.0, None)
    return np.asarray(inside**4 * (4 * r + 1))


def _sum(points: np.ndarray, coefficients: np.ndarray, radius: float, grid: Geometry) -> np.ndarray:
    """Return the displacements at the nodes of the grid, shape (k, j, i, 3), adding up each point's around itself only."""
    field = np.zeros((*grid.size[::-1], 3))
    step = grid.spacing[0]
    for point, coefficient in zip(points, coefficients, strict=True):
        place = grid.to_index(point)
        low = np.maximum(np.ceil(place - radius / step).astype(int), 0)
        high = np.minimum(np.floor(place + radius / step).astype(int) + 1, grid.size)
        i, j, k = (np.arange(a, b) - c for a, b, c in zip(low, high, place, strict=True))
        r = np.sqrt(k[:, None, None] ** 2 + j[:, None] ** 2 + i**2) * step / radius
        here = tuple(slice(a, b) for a, b in zip(low[::-1], high[::-1], strict=True))
        field[here] += _wendland(r)[..., None] * coefficient
    return field


def _steepest(field: np.ndarray, grid: Geometry) -> float:
    """Return the largest spectral norm of the slopes of a field along the grid's axes."""
    columns = [np.diff(field, axis=axis)[tuple(slice(0, n - 1) for n in field.shape[:3])] for axis in (2, 1, 0)]
    slopes = np.stack(columns, axis=-1) / grid.spacing[0]
    # The Frobenius norm bounds the spectral one from above: only where it is large is the latter worked out.
    bounds = np.linalg.norm(slopes, axis=(-2, -1))
    steep = slopes[bounds >= bounds.max() / np.sqrt(3)]
    return float(np.linalg.norm(steep, ord=2, axis=(-2, -1)).max()) if len(steep) else 0.0
