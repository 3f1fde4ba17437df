"""The force of several channels on one displacement: each pair of images is compared by itself, what they ask for is weighed.

The sums over what is compared, which `Similarity.force` divides, are added up over the channels before they are divided: so a
channel that shows nothing at a place does not dampen another that does. Arrays as in `voxel_fields`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from HyperPredictRegLib.engines.similarity import FLAT, Similarity, sum_up
from HyperPredictRegLib.engines.voxel_fields import Array, Part, Workers, parts_along


@dataclass(frozen=True)
class Compared:
    """One channel in one iteration.

    Attributes
    ----------
    fixed, moving : what is compared of the two images, see `Similarity.channels`; that of the moving image warped.
    weight : of each voxel's force, 0 to 1, or None.
    share : of this channel in the force; those of all channels sum up to 1.
    """

    fixed: Sequence[Array]
    moving: Sequence[Array]
    weight: Array | None
    share: float


def joint_force(
    channels: Sequence[Compared], relative_spacing: Sequence[float], longest: float, workers: Workers
) -> tuple[np.ndarray, float]:
    """Return the update that every voxel asks for, shape (3, k, j, i), in voxels, and the weighted mean squared difference.

    Parameters
    ----------
    channels : two or more.
    relative_spacing : voxel edge along each axis in units of the shortest one.
    longest : no update is longer, in voxels of the finest axis.
    """
    shape = channels[0].fixed[0].shape
    update = np.empty((3, *shape), np.float32)
    scales = [np.float32(0.25 / spacing**2) for spacing in relative_spacing]

    def of_part(part: Part) -> list[tuple[float, float]]:
        start, stop, _ = part[0].indices(shape[0])
        pulls = update[:, start:stop]
        pulls[...] = 0
        steepness, most, present = (np.zeros(pulls.shape[1:], np.float32) for _ in range(3))
        found = []
        for channel in channels:
            own, steep = np.zeros_like(pulls), np.zeros_like(steepness)
            squared = sum_up(own, steep, channel.fixed, channel.moving, start, scales)
            steep += squared * np.float32(1 / (4 * longest**2))
            share: np.ndarray | np.float32 = np.float32(channel.share)
            if channel.weight is None:
                most[...] = 1
                total, count = float(squared.sum(dtype=np.float64)), float(squared.size)
            else:
                weight = channel.weight[start:stop]
                np.maximum(most, weight, out=most)
                squared *= weight
                total, count = float(squared.sum(dtype=np.float64)), float(weight.sum(dtype=np.float64))
                share = share * weight
            found.append((total, count))
            present += share
            own *= share
            pulls += own
            steep *= share
            steepness += steep
        present *= np.float32(FLAT)
        steepness += present
        # Where all channels fade out, at the edges of their masks, the force does.
        np.divide(most, steepness, out=steepness, where=most > 0)
        for pull, scale in zip(pulls, scales, strict=True):
            pull *= steepness * scale
        return found

    found = workers.each(of_part, parts_along(shape, 2))
    value = 0.0
    for number, channel in enumerate(channels):
        total, count = (sum(part[number][n] for part in found) for n in (0, 1))
        value += channel.share * total / max(count, 1.0)
    return update, value


def shares(
    weights: Sequence[float], similarities: Sequence[Similarity], image: Array, weight: Array | None, workers: Workers
) -> list[float]:
    """Return the share of each channel in the force, 1 in all.

    What one similarity compares may be many times as steep as what another does. So that a weight means the same whatever the
    similarity, each is scaled by how steep it is on one and the same image.

    Parameters
    ----------
    weights, similarities : of each channel.
    image, weight : of the first channel's fixed image, and where it may be looked at (None, or nowhere at all, as where a small
        mask is gone from a coarse level: everywhere).
    """
    weight = None if weight is None or not (weight > 0).any() else weight
    names = {similarity.name: similarity for similarity in similarities}
    steepness = {}
    for name, similarity in names.items() if len(names) > 1 else ():
        steepness[name] = similarity.steepness(image, weight, workers)
    parts = [w / max(steepness.get(s.name, 1.0), _LEAST) for w, s in zip(weights, similarities, strict=True)]
    return [part / sum(parts) for part in parts]


_LEAST = 1e-12
"""No channel is scaled up by more than this allows."""
