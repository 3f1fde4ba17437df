"""What two images have in common, as channels that are compared voxel by voxel, and the force that brings them together.

The force is the symmetric one of demons (the mean of both images' slopes, so that a step is right to second order:
Vercauteren et al., NeuroImage 45 (2009) S61, doi:10.1016/j.neuroimage.2008.10.040) summed over channels. Arrays as in
`voxel_fields`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from HyperPredictRegLib.engines.voxel_fields import Part, Workers, parts_along, slopes, window_sum

SIMILARITIES = {
    "lncc": "local correlation: intensities less their mean over windows, in units of their standard deviation there",
    "mind": "self-similarity (MIND-SSC): how much each place resembles its surroundings, whatever the contrast",
    "ssd": "squared difference of intensities, for images of one scale",
}
"""The similarities by name, with what is compared."""

SMOOTHING = {"mind": 1.6}
"""How many times as wide the Gaussian on the displacements is for the same λ: the force of twelve channels is noisier. Else 1."""

FLAT = 1e-4
"""Squared slopes below this are noise: no force is divided by less."""


@dataclass(frozen=True)
class Similarity:
    """How images are compared.

    Attributes
    ----------
    name : a key of `SIMILARITIES`.
    windows : radii of each window of "lncc" along each axis, in voxels.
    contrast_floor : added to the local standard deviation (in squares), so that noise in flat regions is not blown up; for
        windows of radius 1, and in proportion less for wider ones, whose standard deviation is less noisy.
    relative_spacing : voxel edge along each axis in units of the shortest one.
    """

    name: str
    windows: tuple[tuple[int, ...], ...]
    contrast_floor: float
    relative_spacing: tuple[float, ...]

    def channels(self, image: np.ndarray, weight: np.ndarray | None, workers: Workers) -> list[np.ndarray]:
        """Return what is compared of an image.

        Parameters
        ----------
        weight : 0 where the image must not be looked at, or None.
        """
        if self.name == "lncc":
            return [self._locally_normalized(image, weight, radii, workers) for radii in self.windows]
        if self.name == "mind":
            return self._self_similarity(image, workers)
        return [image]

    def _locally_normalized(
        self, image: np.ndarray, weight: np.ndarray | None, radii: tuple[int, ...], workers: Workers
    ) -> np.ndarray:
        total = None if weight is None else window_sum(weight.copy(), radii, workers)
        mean = image.copy() if weight is None else image * weight
        square = image * mean
        share = np.float32(1 / math.prod(2 * radius + 1 for radius in radii))
        window_sum(mean, radii, workers)
        window_sum(square, radii, workers)
        result = np.empty_like(image)
        floor = np.float32((self.contrast_floor / max(radii)) ** 2)

        def normalize(part: Part) -> None:
            middle, spread = mean[part], square[part]
            seen = share if total is None else 1 / np.maximum(total[part], np.float32(1e-3))
            middle *= seen
            spread *= seen
            spread -= middle * middle
            np.maximum(spread, 0, out=spread)
            spread += floor
            np.sqrt(spread, out=spread)
            np.subtract(image[part], middle, out=result[part])
            result[part] /= spread

        workers.each(normalize, parts_along(image.shape, 2))
        return result

    def _self_similarity(self, image: np.ndarray, workers: Workers) -> list[np.ndarray]:
        """Return twelve channels exp(-D / V): D is the squared difference of two neighbors of a voxel, V the mean of D.

        The neighbors are those six that share a face with the voxel, in pairs that share an edge. Patches of one voxel did
        better than patches of 27 or 125: the images have been smoothed already. Source: Heinrich et al., MICCAI 2013,
        doi:10.1007/978-3-642-40811-3_24.
        """
        offsets = neighbor_offsets()
        edged = np.pad(image, 1, mode="edge")
        results = [np.empty_like(image) for _ in offsets]
        level = np.float32(0.1 * self.contrast_floor**2)

        def describe(part: Part) -> None:
            start, stop, _ = part[0].indices(len(image))
            for result, (one, other) in zip(results, offsets, strict=True):
                view = result[part]
                np.subtract(_moved(edged, one, start, stop), _moved(edged, other, start, stop), out=view)
                view *= view
            views = [result[part] for result in results]
            lowest = np.minimum.reduce(views)
            scale = np.add.reduce(views)
            scale *= np.float32(1 / len(views))
            scale += level
            np.divide(np.float32(-1), scale, out=scale)
            for view in views:
                view -= lowest
                view *= scale
                np.exp(view, out=view)

        workers.each(describe, parts_along(image.shape, 2))
        return results

    def force(
        self,
        fixed: Sequence[np.ndarray],
        moving: Sequence[np.ndarray],
        weight: np.ndarray | None,
        longest: float,
        workers: Workers,
    ) -> tuple[np.ndarray, float]:
        """Return the update that every voxel asks for, shape (3, k, j, i), in voxels, and the mean squared difference.

        Parameters
        ----------
        fixed, moving : the channels, those of the moving image already warped.
        weight : of each voxel's force, 0 to 1, or None.
        longest : no update is longer, in voxels of the finest axis.
        """
        shape = fixed[0].shape
        update = np.empty((3, *shape), np.float32)
        scales = [np.float32(0.25 / spacing**2) for spacing in self.relative_spacing]

        def of_part(part: Part) -> tuple[float, float]:
            start, stop, _ = part[0].indices(shape[0])
            pulls = update[:, start:stop]
            pulls[...] = 0
            steepness = np.full(pulls.shape[1:], np.float32(FLAT))
            squared = sum_up(pulls, steepness, fixed, moving, start, scales)
            total = squared if weight is None else squared * weight[start:stop]
            found = float(total.sum(dtype=np.float64)), float(
                total.size if weight is None else weight[start:stop].sum(dtype=np.float64)
            )
            steepness += squared * np.float32(1 / (4 * longest**2))
            if weight is None:
                np.divide(np.float32(1), steepness, out=steepness)
            else:
                np.divide(weight[start:stop], steepness, out=steepness)
            for pull, scale in zip(pulls, scales, strict=True):
                steep = steepness * scale
                pull *= steep
            return found

        found = workers.each(of_part, parts_along(shape, 2))
        return update, sum(total for total, _ in found) / max(sum(count for _, count in found), 1.0)

    def steepness(self, image: np.ndarray, weight: np.ndarray | None, workers: Workers) -> float:
        """Return the mean of the squared slopes of what is compared of an image, summed up, where its weight is not 0.

        `weight` : not 0 somewhere, or None.
        """
        inside = slice(None) if weight is None else weight > 0
        return sum(
            float(np.square(slope[inside], dtype=np.float64).mean())
            for compared in self.channels(image, weight, workers)
            for slope in slopes(compared, slice(0, len(compared)))
        )


def sum_up(
    pulls: np.ndarray, steepness: np.ndarray, fixed: Sequence[np.ndarray], moving: Sequence[np.ndarray], start: int,
    scales: Sequence[np.float32],
) -> np.ndarray:
    """Add the pull and the squared slopes of what is compared to planes from `start` on; return the squared differences there.

    Parameters
    ----------
    pulls, steepness : shapes (3, planes, j, i) and (planes, j, i); changed in place.
    scales : a quarter of the squared inverse voxel edge along each axis.
    """
    stop, count = start + len(steepness), len(fixed[0])
    low, high = max(start - 1, 0), min(stop + 1, count)
    squared = np.zeros_like(steepness)
    for f, m in zip(fixed, moving, strict=True):
        difference = f[start:stop] - m[start:stop]
        both = f[low:high] + m[low:high]
        for pull, slope, scale in zip(pulls, slopes(both, slice(start - low, stop - low)), scales, strict=True):
            # Twice the central difference of twice the mean: a quarter of it is the mean slope.
            pull += difference * slope
            slope *= slope
            slope *= scale * np.float32(0.25)
            steepness += slope
        difference *= difference
        squared += difference
    return squared


def neighbor_offsets() -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return the pairs of a voxel's neighbors that self-similarity compares."""
    return [
        (_along(first, flip), _along(second, flip * sign))
        for first, second in ((0, 1), (0, 2), (1, 2))
        for sign in (1, -1)
        for flip in (1, -1)
    ]


def _along(axis: int, step: int) -> tuple[int, ...]:
    return tuple(step if n == axis else 0 for n in range(3))


def _moved(edged: np.ndarray, offset: tuple[int, ...], start: int, stop: int) -> np.ndarray:
    """Return planes `start` to `stop` of an image, each voxel's value from the one at `offset`; `edged` is one voxel wider."""
    k, j, i = offset
    _, height, width = edged.shape
    return edged[start + 1 + k : stop + 1 + k, 1 + j : height - 1 + j, 1 + i : width - 1 + i]


def inner_weight(mask: np.ndarray) -> np.ndarray:
    """Return 1 where a mask and all 26 neighbors are not 0, as float32."""
    inside = np.asarray(mask != 0)
    for axis in range(3):
        inner = inside.copy()
        rows, inner_rows = inside.swapaxes(0, axis), inner.swapaxes(0, axis)
        inner_rows[1:] &= rows[:-1]
        inner_rows[:-1] &= rows[1:]
        inside = inner
    return inside.astype(np.float32)
