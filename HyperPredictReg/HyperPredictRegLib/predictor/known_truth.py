"""A pair of images whose true deformation is known, made of a pair whose is not: a parametric bootstrap of registration.

Given the moving image M, the fixed image F and a registration u of the two, the images are modelled as

    F(x) = g(M(x + u(x))) + r(x)

with g the mean fixed intensity at each moving intensity, so that any relation of two contrasts will do, and r what is left:
noise, missing and other anatomy. With R and S two reflections of the grid, each along one or more axes, the pair that is made is

    F*(x) = g(M(x + v(x))) + r(S x),    v(x) = R u(R x),    and M as it is.

v is as large, as smooth and as rough as u, but does not follow the edges of the place that it comes to; r is as structured as
it was, but says nothing of v. Registering M to F* must find v, and how far it is from it is known in mm everywhere. R and S are
those along which the anatomy's outline is most like its mirror image while its inside is not: along the axis of a symmetric
brain, both images, and with them the whole problem, would come back as they were. Source of the idea of resampling from the
fitted model: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 6.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from HyperPredictRegLib.predictor.coarse_pair import CoarsePair
from HyperPredictRegLib.quality.measurement import nearest
from HyperPredictRegLib.spatial.transforms import field_transform

_LEVELS = 16
"""Intensities at which the relation of the two images is known; between them it is linear."""
_EDGES_VOXELS = 0.7
"""Standard deviation of the Gaussian before slopes are taken."""


@dataclass(frozen=True)
class KnownTruth:
    """A pair and its true deformation.

    Attributes
    ----------
    pair : its fixed image and foreground were made.
    displacement : the truth, shape (k, j, i, 3), LPS mm, fixed to moving points.
    slopes : of the moving image as the truth deforms it, same shape, LPS: long and across the edges at edges.
    residual : standard deviation of what the relation of the two images leaves unexplained, over that of the fixed image,
        inside its foreground.
    """

    pair: CoarsePair
    displacement: np.ndarray
    slopes: np.ndarray
    residual: float

    def error_mm(self, field: sitk.Image | None) -> np.ndarray:
        """Return how far a field (LPS mm), or doing nothing, is from the truth at each foreground voxel, shape (n,), mm."""
        return np.asarray(np.linalg.norm(self._off(field), axis=-1))

    def edge_error_mm(self, field: sitk.Image | None) -> float:
        """Return how far edges of the anatomy are from where the truth has them, across the edge, mean over clear edges, mm.

        This is what the overlap of structures feels, while displacements along edges and in even regions are lost on it.
        """
        slopes = self.slopes[self.pair.inside]
        whole = float(np.linalg.norm(slopes, axis=-1).sum())
        return float(np.abs((self._off(field) * slopes).sum(axis=-1)).sum()) / whole if whole > 0 else 0.0

    def _off(self, field: sitk.Image | None) -> np.ndarray:
        off = self.displacement if field is None else sitk.GetArrayViewFromImage(field) - self.displacement
        return np.asarray(off[self.pair.inside])


def with_known_truth(pair: CoarsePair, field: sitk.Image) -> KnownTruth:
    """Make a pair with a known truth of a pair and a registration of it (displacements, LPS mm, on its grid)."""
    grid = pair.grid
    fixed = sitk.GetArrayFromImage(pair.fixed)
    axes, others = _reflections(fixed, pair.inside)
    there, warped = _warped(pair, field)
    relation = _relation(warped[there], fixed[there]) if there.any() else None
    residual = fixed - _related(warped, there, relation)
    truth = mirrored(sitk.GetArrayFromImage(field), grid.direction_matrix, axes)
    shown, warped = _warped(pair, grid.holding(truth, vectors=True))
    made = _related(warped, shown, relation) + np.flip(residual, others)
    # A truth that leads out of the image must not leave nothing to measure on.
    foreground = grid.holding(shown.astype(np.uint8)) if shown.any() else pair.foreground
    spread = float(fixed[pair.inside].std())
    left = float(residual[pair.inside].std()) / spread if spread > 0 else 0.0
    simulated = replace(pair, fixed=grid.holding(made.astype(np.float32)), foreground=foreground)
    slopes = np.stack(np.gradient(ndimage.gaussian_filter(warped, _EDGES_VOXELS))[::-1], axis=-1) @ grid.direction_matrix.T
    return KnownTruth(simulated, truth, slopes, left)


def mirrored(vectors: np.ndarray, direction: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Reflect a vector field (k, j, i, 3), LPS, in the middle of axes of its array; `direction` is the grid's (3, 3)."""
    flipped = np.flip(vectors, axes)
    for axis in axes:
        along = direction[:, 2 - axis]
        flipped = flipped - 2 * (flipped @ along)[..., None] * along
    return flipped


def _reflections(image: np.ndarray, inside: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the two best reflections, as axes of the array: the outline stays where it is, the intensities do not."""
    scores = []
    for axes in (some for count in (1, 2, 3) for some in itertools.combinations(range(3), count)):
        both = inside & np.flip(inside, axes)
        one, other = image[both], np.flip(image, axes)[both]
        alike = 0.0
        if one.size and min(one.std(), other.std()) > 0:
            alike = max(float(np.corrcoef(one, other)[0, 1]), 0.0)
        scores.append((both.sum() / inside.sum() * (1 - alike), axes))
    best = sorted(scores, key=lambda scored: -scored[0])
    return best[0][1], best[1][1]


def _warped(pair: CoarsePair, field: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """Return where the moving foreground comes to by a field (boolean), and the moving image there and elsewhere."""
    warp = field_transform(field)
    there = sitk.GetArrayFromImage(nearest(pair.moving_foreground, pair.grid, warp)) != 0
    return there, sitk.GetArrayFromImage(pair.grid.resample(pair.moving, warp))


def _related(moving: np.ndarray, there: np.ndarray, relation: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
    """Return moving intensities as the fixed image has them in the anatomy, and as they are elsewhere."""
    return moving if relation is None else np.where(there, np.interp(moving, *relation), moving)


def _relation(given: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return intensities, rising, and the mean of `asked` where `given` has about these, both (n,)."""
    edges = np.unique(np.quantile(given, np.linspace(0, 1, _LEVELS + 1)[1:-1]))
    place = np.searchsorted(edges, given)
    counts = np.bincount(place, minlength=len(edges) + 1)
    there = counts > 0
    centers, means = (
        np.bincount(place, weights=values, minlength=len(counts))[there] / counts[there] for values in (given, asked)
    )
    return centers, means
