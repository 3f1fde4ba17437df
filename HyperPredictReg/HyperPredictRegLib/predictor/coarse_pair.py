"""An aligned pair on a coarse grid, and what the real engine makes of it there at a few settings, a fraction of a second each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.alignment.aligned_pair import AlignedPair
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.progress import CancelCheck, never
from HyperPredictRegLib.core.search_space import SearchSpace
from HyperPredictRegLib.engines.base import Engine, RegistrationTask
from HyperPredictRegLib.predictor.trials import trials
from HyperPredictRegLib.preprocessing.working_grid import on_grid
from HyperPredictRegLib.quality.benefit import coarse_grid
from HyperPredictRegLib.quality.measurement import nearest
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import displacement_field

MOST_VOXELS = 20_000
"""Of the coarse grid, margin included: some 25 registrations there take four seconds of one core."""

LEAST_VOXELS = 200
"""Of either foreground on the coarse grid; with fewer there is nothing to take statistics of."""

ALONG = (0.0, 0.18, 0.36, 0.55, 0.77, 1.0)
"""Shares of the first parameter's way from its least to its most regularizing end, the others at their defaults."""

ACROSS = (0.05, 0.75)
"""Shares of each further parameter's way, one at a time, the first at the share `CROSSED`."""

CROSSED = 1
"""Which of `ALONG` the further parameters are tried at."""


def coarse_settings(space: SearchSpace) -> np.ndarray:
    """Return the settings to try, shape (n, h): those along the first parameter, then two for each further one."""
    defaults = space.shares(space.rows([space.defaults]))[0]
    shares = [[share, *defaults[1:]] for share in ALONG]
    for column in range(1, len(space)):
        for share in ACROSS:
            row = [ALONG[CROSSED], *defaults[1:]]
            row[column] = share
            shares.append(row)
    return space.at_shares(np.array(shares))


@dataclass(frozen=True)
class CoarsePair:
    """A pair on a grid of at most about `MOST_VOXELS`.

    Attributes
    ----------
    grid : the coarse grid, isotropic.
    fixed, moving : float32 images on it, the moving one aligned.
    foreground, moving_foreground : uint8 on it.
    view, fixed_mask, moving_mask : uint8 on it, or None for everywhere.
    smoothed : whether the moving image was smoothed for its grid.
    """

    grid: Geometry
    fixed: sitk.Image
    moving: sitk.Image
    foreground: sitk.Image
    moving_foreground: sitk.Image
    view: sitk.Image | None = None
    fixed_mask: sitk.Image | None = None
    moving_mask: sitk.Image | None = None
    smoothed: bool = True

    @classmethod
    def of(cls, pair: AlignedPair, foreground: sitk.Image, moving_foreground: sitk.Image) -> CoarsePair:
        """Sample a pair, and the foregrounds of both images on its grid, more coarsely; further channels are left out.

        Raises
        ------
        InputError : a foreground is too small for such a grid, or the two have no voxel in common.
        """
        grid = coarse_grid(pair.grid, MOST_VOXELS)
        masks = [nearest(mask, grid) for mask in (foreground, moving_foreground)]
        inside = [sitk.GetArrayViewFromImage(mask) != 0 for mask in masks]
        for side, voxels in zip(("fixed", "moving"), inside, strict=True):
            if voxels.sum() < LEAST_VOXELS:
                raise InputError(
                    f"The foreground of the {side} image has {int(voxels.sum())} voxels on the coarse grid "
                    f"({grid.spacing[0]:.3g} mm), too few to predict from ({LEAST_VOXELS} are needed): choose a finer preset, or "
                    "give the setting yourself."
                )
        if not (inside[0] & inside[1]).any():
            raise InputError(
                "After the alignment the foregrounds of the two images do not overlap anywhere, so nothing can be predicted: "
                "give an initial transform, or landmarks."
            )
        view, fixed_mask, moving_mask = (
            None if mask is None else nearest(mask, grid) for mask in (pair.view, pair.fixed_mask, pair.moving_mask)
        )
        smoothed = pair.moving_smoothed or grid is not pair.grid
        images = on_grid(pair.fixed, grid), on_grid(pair.moving, grid)
        return cls(grid, *images, masks[0], masks[1], view, fixed_mask, moving_mask, smoothed)

    @property
    def inside(self) -> np.ndarray:
        """Return the fixed foreground as a boolean array (k, j, i)."""
        return np.asarray(sitk.GetArrayViewFromImage(self.foreground) != 0)

    def turned_round(self) -> CoarsePair:
        """Return the pair with its two images exchanged."""
        return replace(
            self, fixed=self.moving, moving=self.fixed, foreground=self.moving_foreground,
            moving_foreground=self.foreground, fixed_mask=self.moving_mask, moving_mask=self.fixed_mask,
        )  # fmt: skip


def coarse_fields(
    pair: CoarsePair,
    engine: Engine,
    settings: Any,
    values: Sequence[Sequence[float]] | np.ndarray,
    *,
    seed: int,
    done: Callable[[], None],
    cancelled: CancelCheck = never,
) -> list[sitk.Image]:
    """Register a coarse pair with each of `values` (n, h); return the displacement fields (LPS mm, float64, on its grid).

    `done` is called after each.

    Raises
    ------
    RegistrationError : a run diverged.
    Cancelled : the caller asked to stop.
    """
    task = RegistrationTask(
        pair.fixed, pair.moving, {}, settings, seed, pair.fixed_mask, pair.moving_mask,
        view=pair.view, moving_smoothed=pair.smoothed, cancelled=cancelled,
    )  # fmt: skip
    space = engine.search_space(pair.grid, settings)
    found = trials(engine, task, [space.setting(value) for value in values], done)
    return [displacement_field(one.transform, pair.grid) for one in found]
