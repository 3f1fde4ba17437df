"""Probes: the real engine at half the resolution, a fraction of a second each, whose outcome predicts the real run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.alignment.aligned_pair import AlignedPair
from HyperPredictRegLib.core.progress import CancelCheck, never
from HyperPredictRegLib.core.search_space import SearchSpace, Setting
from HyperPredictRegLib.engines.base import Engine, Registration, RegistrationTask
from HyperPredictRegLib.predictor.trials import trials
from HyperPredictRegLib.preprocessing.working_grid import on_grid
from HyperPredictRegLib.quality.measurement import nearest
from HyperPredictRegLib.quality.metrics import jacobian_determinant
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import displacement_field

SHARES = (0.02, 0.25, 0.6)
"""Where the probes lie in a parameter's range: where folding is certain, near its onset, and at the strongly regularized end."""


@dataclass(frozen=True)
class HalfPair:
    """An aligned pair on a grid of twice the spacing; arrays are (k, j, i).

    Attributes
    ----------
    grid : the coarser grid.
    fixed, moving : float32 images on it.
    foreground : of the fixed image, boolean array.
    view : where both images have voxels, uint8 on the grid; None if everywhere.
    """

    grid: Geometry
    fixed: sitk.Image
    moving: sitk.Image
    foreground: np.ndarray
    view: sitk.Image | None = None

    @classmethod
    def of(cls, pair: AlignedPair, foreground: sitk.Image) -> HalfPair:
        """Halve the resolution of a pair; `foreground` is the fixed image's, on the pair's grid."""
        spacing = 2 * pair.grid.spacing[0]
        centres = np.array([pair.grid.to_lps((0, 0, 0)), pair.grid.to_lps(np.array(pair.grid.size) - 1)])
        grid = pair.grid.covering(centres, spacing, 0.0)
        inside = sitk.GetArrayFromImage(nearest(foreground, grid)) != 0
        view = None if pair.view is None else nearest(pair.view, grid)
        return cls(grid, on_grid(pair.fixed, grid), on_grid(pair.moving, grid), inside, view)


@dataclass(frozen=True)
class Probe:
    """One registration at half resolution.

    Attributes
    ----------
    setting : its own.
    field : displacement field, LPS mm, on the half grid.
    displacement : the same in voxels of the half grid, shape (k, j, i, 3).
    jacobian : Jacobian determinant, shape (k, j, i).
    warped : the moving image after it, shape (k, j, i).
    """

    setting: Setting
    field: sitk.Image
    displacement: np.ndarray
    jacobian: np.ndarray
    warped: np.ndarray


def probe_settings(space: SearchSpace) -> tuple[Setting, ...]:
    """Return the settings of the probes, the most strongly regularized one last.

    `SHARES` of the first parameter's way from its least to its most regularizing end, on its scale; others keep their default.
    """
    first = space.first
    shares = np.array(SHARES) if first.regularizes == "up" else 1 - np.array(SHARES)
    return tuple({**space.defaults, first.name: float(value)} for value in first.from_unit(shares))


def run_probes(
    engine: Engine,
    settings: Any,
    half: HalfPair,
    values: Sequence[Setting],
    *,
    seed: int,
    cancelled: CancelCheck = never,
) -> tuple[Probe, ...]:
    """Register the half pair with each of `values`.

    Raises
    ------
    RegistrationError : a probe diverged.
    Cancelled : the caller asked to stop.
    """
    task = RegistrationTask(
        half.fixed, half.moving, {}, settings, seed, view=half.view, moving_smoothed=True, cancelled=cancelled
    )
    found = trials(engine, task, values, lambda: None)
    return tuple(_probe(one, half, value) for one, value in zip(found, values, strict=True))


def _probe(found: Registration, half: HalfPair, value: Setting) -> Probe:
    field = displacement_field(found.transform, half.grid)
    to_index = np.linalg.inv(half.grid.index_to_lps[:3, :3])
    return Probe(
        setting=value,
        field=field,
        displacement=(sitk.GetArrayViewFromImage(field) @ to_index.T).astype(np.float32),
        jacobian=sitk.GetArrayFromImage(jacobian_determinant(field)),
        warped=sitk.GetArrayFromImage(half.grid.resample(half.moving, found.transform)),
    )
