"""Do two aligned images show the same thing, and is what is bright in one bright in the other: judged inside the anatomy.

Over a whole head, air, skull and scalp make any two contrasts correlate, while grey and white matter may well be exchanged. So
this looks at the inside, at its deep half apart, and asks two things: does the one intensity only ever rise with the other, and
do the two rise and fall together in small windows. `benchmarks/contrast.py` shows both on pairs of known contrast.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

_BINS = 24
_WINDOW_VOXELS = 2.0
_LEAST_VARIATION = 0.02
"""Standard deviation of intensities about 0 to 1 below which a window is flat."""
_CLEAR_CORRELATION = 0.3
_LEAST_VOXELS = 200

RELATED, UNRELATED = 0.1, 0.03
"""Share of the variance that the other image explains, from which on a relation can be judged, and below which there is none."""

MOST_REVERSED, MOST_OPPOSED = 0.12, 0.15
"""Chosen on the pairs of `benchmarks/contrast.py`: brains, hearts, hippocampi, slabs and CT of one contrast stay below both."""

LEAST_STRUCTURE = 0.1
"""Share of the variance that is left after smoothing with a Gaussian of 2 voxels: noise keeps .02, the noisiest real image .4."""
LEAST_VARIED = 0.1


@dataclass(frozen=True)
class Likeness:
    """What two aligned images have in common inside both foregrounds.

    Attributes
    ----------
    explained : share of one image's variance that the other explains, by any relation, 0 to 1; the largest of what was found.
    reversed : share of that which a rising relation cannot explain, where a relation can be judged; else 0.
    opposed : share of the small windows in which the two clearly rise and fall against each other.
    structure : how much of each image's variance is coarser than noise, 0 to 1; fixed and moving.
    varied : share of the anatomy in which both images are not flat.
    """

    explained: float
    reversed: float
    opposed: float
    structure: tuple[float, float]
    varied: float

    @property
    def contrast(self) -> str:
        """Return "same", "different", or "unclear" where the images have too little in common to tell."""
        if not self.explained >= RELATED:
            return "unclear"
        return "different" if self.reversed >= MOST_REVERSED or self.opposed >= MOST_OPPOSED else "same"

    @property
    def refusals(self) -> tuple[str, ...]:
        """Return sentences on why nothing can be predicted for such a pair; written so that NaN is a reason, too."""
        found = [
            f"Inside its anatomy the {side} image shows noise only, no structure that could be registered."
            for side, structure in zip(("fixed", "moving"), self.structure, strict=True)
            if not structure >= LEAST_STRUCTURE
        ]
        if not self.varied >= LEAST_VARIED:
            found.append("The images are nearly constant inside the anatomy.")
        if not self.explained >= UNRELATED:
            found.append("After the alignment the two images have hardly anything in common inside the anatomy.")
        return tuple(found)


def likeness(fixed: np.ndarray, moving: np.ndarray, inside: np.ndarray) -> Likeness:
    """Compare two aligned images.

    Parameters
    ----------
    fixed, moving : intensities about 0 to 1 on one isotropic grid, shape (k, j, i).
    inside : both foregrounds, boolean, same shape.
    """
    core = ndimage.binary_erosion(inside, iterations=2, border_value=1)
    # Of thin anatomy the erosion leaves hardly anything.
    core = core if core.sum() >= 0.1 * inside.sum() else inside
    if core.sum() < _LEAST_VOXELS:
        return Likeness(0.0, 0.0, 0.0, (0.0, 0.0), 0.0)
    depth = ndimage.distance_transform_edt(np.pad(core, 1, mode="edge"))[1:-1, 1:-1, 1:-1]
    explained, against = [0.0], [0.0]
    for zone in (core, core & (depth >= np.median(depth[core]))):
        both = [_relation(a[zone], b[zone]) for a, b in ((fixed, moving), (moving, fixed))]
        explained += [share for share, _ in both]
        if min(share for share, _ in both) >= RELATED:
            against += [lack for _, lack in both]
    varied, opposed = _opposed(fixed, moving, core)
    return Likeness(max(explained), max(against), opposed, (_structure(fixed, core), _structure(moving, core)), varied)


def _relation(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Return the correlation ratio of `other` given `one`, and the share of it that a rising relation cannot explain."""
    edges = np.quantile(one, np.linspace(0, 1, _BINS + 1)[1:-1])
    place = np.searchsorted(edges, one)
    counts = np.bincount(place, minlength=_BINS)
    means = np.bincount(place, weights=other, minlength=_BINS)[counts > 0] / counts[counts > 0]
    counts = counts[counts > 0].astype(float)
    middle, whole = float(other.mean()), float(other.var()) * other.size
    explained = float((counts * (means - middle) ** 2).sum())
    if not whole > 0 or not explained > 0:
        return 0.0, 0.0
    rising = _rising(means, counts)
    return explained / whole, 1 - float((counts * (rising - middle) ** 2).sum()) / explained


def _rising(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the nearest values that never fall, by pooling adjacent violators (Barlow et al., 1972)."""
    pools: list[tuple[float, float, int]] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        pools.append((value, weight, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, m, i), (b, n, j) = pools[-2:]
            pools[-2:] = [((a * m + b * n) / (m + n), m + n, i + j)]
    return np.repeat([value for value, _, _ in pools], [count for _, _, count in pools])


def _opposed(fixed: np.ndarray, moving: np.ndarray, core: np.ndarray) -> tuple[float, float]:
    """Return the share of windows in which both images vary, and the share of those with a clearly negative correlation."""
    weight = core.astype(np.float32)
    share = np.maximum(_smoothed(weight), 1e-3)

    def mean(image: np.ndarray) -> np.ndarray:
        return _smoothed(image * weight) / share

    means = mean(fixed), mean(moving)
    variances = [np.clip(mean(image * image) - m * m, 0, None) for image, m in zip((fixed, moving), means, strict=True)]
    covariance = mean(fixed * moving) - means[0] * means[1]
    varied = core & (np.minimum(*variances) > _LEAST_VARIATION**2)
    if not varied.any():
        return 0.0, 0.0
    correlation = covariance[varied] / np.sqrt(variances[0][varied] * variances[1][varied])
    return float(varied.sum() / core.sum()), float(np.mean(correlation < -_CLEAR_CORRELATION))


def _structure(image: np.ndarray, core: np.ndarray) -> float:
    weight = core.astype(np.float32)
    centred = (image - image[core].mean()) * weight
    whole = float(np.mean(centred[core] ** 2))
    if not whole > 0:
        return 0.0
    coarse = (_smoothed(centred) / np.maximum(_smoothed(weight), 1e-3))[core]
    return float(np.mean(coarse**2) / whole)


def _smoothed(image: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(image, _WINDOW_VOXELS, truncate=2.5)
