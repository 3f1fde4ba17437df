"""The levels of a pyramid of voxel arrays: how fine each is, and where its voxels lie on the finest grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Level:
    """One level of the pyramid.

    Attributes
    ----------
    number : 0 is the coarsest.
    factor : how much coarser than the finest level the finest axis is.
    factors : the same for each axis: coarse axes wait until the others have caught up.
    places : continuous indices of the level's voxels on the finest grid, along each axis.
    iterations : most of them.
    """

    number: int
    factor: int
    factors: tuple[float, ...]
    places: list[np.ndarray]
    iterations: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels along k, j and i."""
        return tuple(len(along) for along in self.places)

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)


def levels_of(shape: tuple[int, ...], spacing: Sequence[float], coarsest_voxels: int, limits: Sequence[int]) -> list[Level]:
    """Return the pyramid for a grid of this shape, the coarsest level first.

    Parameters
    ----------
    spacing : voxel edges along the axes of `shape`.
    coarsest_voxels : levels are added, each half as fine, while the shortest side keeps this many voxels.
    limits : most iterations per level, finest last; coarser levels than there are numbers use the first.
    """
    relative = [s / min(spacing) for s in spacing]
    shortest = min(n * r for n, r in zip(shape, relative, strict=True))
    count = 1 + max(0, int(math.log2(max(shortest / coarsest_voxels, 1))))
    made = []
    for number in range(count):
        factor = 2 ** (count - 1 - number)
        factors = tuple(max(1.0, factor / r) for r in relative)
        places = []
        for n, f in zip(shape, factors, strict=True):
            steps = math.ceil((n - 1) / f)
            places.append((n - 1 - steps * f) / 2 + f * np.arange(steps + 1))
        made.append(Level(number, factor, factors, places, limits[max(0, len(limits) - count + number)]))
    return made


def finest_within(levels: Sequence[Level], voxels: int) -> int:
    """Return the number of the finest level of at most so many voxels, or of the coarsest one."""
    return max((level.number for level in levels if level.voxels <= voxels), default=0)
