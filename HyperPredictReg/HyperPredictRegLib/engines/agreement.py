"""Do two similarities pull the same way: what tells a pair of one contrast from one whose contrast changes from place to place.

Where bright is bright in both images, comparing intensities and comparing self-similarity ask for much the same motion. Where a
tissue has changed its grey value, they do not, even if the two images still correlate as wholes.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from HyperPredictRegLib.engines.similarity import Similarity
from HyperPredictRegLib.engines.voxel_fields import Workers

_SLAB_VOXELS = 120_000
"""Of larger grids, whole planes through the middle of the anatomy are looked at, as many as hold about so many voxels."""

_LEAST_PLANES = 12
_NOISE_SIGMA, _FORCE_SIGMA = 0.6, 2.5
"""In voxels: of the Gaussians on both images, because self-similarity suffers more from noise, and on what either asks for."""

_LONGEST = 0.5
_CONTRAST_FLOOR = 0.1


def agreement(
    fixed: np.ndarray, moving: np.ndarray, inside: np.ndarray, spacing: tuple[float, ...], names: tuple[str, str]
) -> float:
    """Return the cosine, -1 to 1, of the motions that two similarities ask for, summed up inside; 1 where neither asks for any.

    Parameters
    ----------
    fixed, moving : aligned, intensities about 0 to 1, shape (k, j, i), float32.
    inside : where to look, boolean, same shape.
    spacing : voxel edges along k, j, i.
    names : of the two, keys of `SIMILARITIES`.
    """
    planes = _planes(inside)
    images = [ndimage.gaussian_filter(image[planes], _NOISE_SIGMA, truncate=3.0) for image in (fixed, moving)]
    within = inside[planes]
    relative = tuple(edge / min(spacing) for edge in spacing)
    windows = (tuple(round(1 / edge) for edge in relative),)
    asked = []
    # One thread: the same to the last bit, and there is little to share.
    with Workers(1) as workers:
        for name in names:
            similarity = Similarity(name, windows, _CONTRAST_FLOOR, relative)
            channels = [similarity.channels(image, None, workers) for image in images]
            update, _ = similarity.force(channels[0], channels[1], within.astype(np.float32), _LONGEST, workers)
            asked.append([ndimage.gaussian_filter(part, _FORCE_SIGMA, truncate=3.0)[within] for part in update])
    together, one, other = (
        sum(float(np.dot(a, b)) for a, b in zip(*pair, strict=True))
        for pair in ((asked[0], asked[1]), (asked[0], asked[0]), (asked[1], asked[1]))
    )
    return together / float(np.sqrt(one * other)) if one * other > 0 else 1.0


def _planes(inside: np.ndarray) -> slice:
    """Return which planes along the first axis to look at."""
    count = len(inside)
    taken = min(count, max(_LEAST_PLANES, _SLAB_VOXELS // inside[0].size))
    weights = inside.sum(axis=(1, 2), dtype=np.int64)
    middle = int(np.average(np.arange(count), weights=weights)) if weights.any() else count // 2
    start = min(max(0, middle - taken // 2), count - taken)
    return slice(start, start + taken)
