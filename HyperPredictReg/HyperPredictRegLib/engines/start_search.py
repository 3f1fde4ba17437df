"""The search for a start of a pair, and registrations on coarse levels that tell whether it pays; see `large_motion`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from HyperPredictRegLib.engines.diffeo_scheme import ArrayChannel, Scheme
from HyperPredictRegLib.engines.large_motion import JUDGED_VOXELS, MOST_VOXELS, Start
from HyperPredictRegLib.engines.pyramid import Level, finest_within
from HyperPredictRegLib.engines.voxel_fields import Array, Workers


@dataclass(frozen=True)
class Reached:
    """How far a registration has come: the number of a level, the displacements there, and the mean squared difference left."""

    number: int
    field: Array
    left: float


@dataclass(frozen=True)
class StartSearch:
    """The search for a start of one pair of NumPy arrays, and registrations on coarse levels to judge it by."""

    scheme: Scheme
    channel: ArrayChannel
    workers: Workers

    @cached_property
    def levels(self) -> list[Level]:
        """Return the whole pyramid, the coarsest level first."""
        return self.scheme.levels(self.channel.fixed.voxels.shape)

    @property
    def at(self) -> int:
        """Return the number of the level that is searched."""
        return finest_within(self.levels, MOST_VOXELS)

    @property
    def possible(self) -> bool:
        """Tell whether that level is coarse enough."""
        return self.levels[self.at].voxels <= MOST_VOXELS

    def plain(self) -> Reached:
        """Register without a start, down to the level that is searched."""
        return self._through(0, self.at, np.zeros((3, *self.levels[0].shape), np.float32))

    def onward(self, reached: Reached) -> float:
        """Return what is left of the difference on the level where starts are judged."""
        judged = finest_within(self.levels, JUDGED_VOXELS)
        if judged == reached.number:
            return reached.left
        before, level = self.levels[reached.number : reached.number + 2]
        return self._through(level.number, judged, self.scheme.resampled(reached.field, before, level, self.workers)).left

    def best(self) -> tuple[Start, float]:
        """Return the better start of two, by details of the level that is searched and of the next one, and what it leaves."""
        level = self.levels[self.at]
        found = []
        for finer in self.levels[self.at : self.at + 2]:
            field = self.scheme.searched(level, finer, self.channel, self.workers)
            found.append((self.onward(self._through(self.at, self.at, field.copy())), field))
        left, field = min(found, key=lambda one: one[0])
        return Start(self.at, field), left

    def farthest(self, start: Start) -> float:
        """Return the length of a start's longest displacement in mm."""
        level = self.levels[start.number]
        edges = [factor * edge for factor, edge in zip(level.factors, self.scheme.spacing, strict=True)]
        return float(np.sqrt(np.einsum("ckji,c->kji", np.square(start.field), np.square(edges)).max()))

    def _through(self, first: int, last: int, field: Array) -> Reached:
        field, traces = self.scheme.through(self.levels[first : last + 1], [self.channel], field, self.workers)
        return Reached(last, field, traces[-1].values[-1])
