"""What tables of known deformations say beyond Dice and folding: errors in mm, failed alignments, whether deforming helped."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.predictor.features import VERSION

from HyperPredictRegLab.sweep.tables import check_columns, check_text, with_numbers

if TYPE_CHECKING:
    import pandas as pd

DOMAIN, VOXEL = "domain", "spacing_mm"
ERRORS = ("error_mm_median", "error_mm_95")
DICE = "dice"
LANDMARKS, AFFINE_LANDMARKS = "tre_mm", "affine_tre_mm"
AFFINE_ERROR = "affine_error_mm_median"
MISFIT = "global_misfit_mm"
"""Median over the foreground of how far the best affine correction of the alignment would move its points."""

OPTIONAL = (*ERRORS, LANDMARKS, AFFINE_LANDMARKS, AFFINE_ERROR, "affine_error_mm_95", MISFIT, "affine_dice")
"""Columns of a runs table that may be there beside `DOMAIN` and `VOXEL`."""

START_MISFIT = "start_misfit_voxels"

MEASURED = (*ERRORS, LANDMARKS, DICE)
"""Of each registration."""

FAILED_VOXELS = 2.0
"""An alignment whose global misfit is more has failed."""

LEAST_GAIN_VOXELS, LEAST_GAIN_SHARE, LEAST_GAIN_DICE = 0.05, 0.05, 0.005
"""Deforming helps if its best setting takes more than this off the error, and that share of it, or adds that much Dice."""


@dataclass(frozen=True)
class Outcomes:
    """Of P pairs with N settings each; NaN marks what is not known. Lengths in mm.

    Attributes
    ----------
    domains : kind of images, shape (P,).
    voxel_mm : edge of a voxel of the working grid, shape (P,).
    unit_mm : length in which errors are learned, that of a voxel of the evidence's grid where there is evidence, shape (P,).
    error, error_95 : median and 95th percentile over the foreground, or of landmarks the mean and nothing, shape (P, N).
    affine_error, affine_dice : of the affine step, shape (P,).
    failed : 1 where the alignment has failed, 0 where it has not, shape (P,).
    mean_dice : over a pair's structures, shape (P, N).
    uses : "tune" or "test" where a list of cases says so, else "", shape (P,).
    """

    domains: np.ndarray
    voxel_mm: np.ndarray
    unit_mm: np.ndarray
    error: np.ndarray
    error_95: np.ndarray
    affine_error: np.ndarray
    affine_dice: np.ndarray
    failed: np.ndarray
    mean_dice: np.ndarray
    uses: np.ndarray

    def chosen(self, rows: np.ndarray) -> Outcomes:
        """Return those of some of the pairs, by a mask or indices."""
        return replace(self, **{one.name: getattr(self, one.name)[rows] for one in fields(self)})

    @property
    def gain(self) -> np.ndarray:
        """Return the share of 1 - Dice of the affine step that deforming wins, shape (P, N)."""
        left = np.maximum(1 - self.affine_dice, 0.02)[:, None]
        return np.clip((self.mean_dice - self.affine_dice[:, None]) / left, -1, 1)

    @property
    def helps(self) -> np.ndarray:
        """Return 1 where the best of the tried settings helped, 0 where none did, shape (P,); errors tell before Dice."""
        won = self.affine_error - _least(self.error)
        more_dice = -_least(-self.mean_dice) - self.affine_dice
        by_error = won > np.maximum(LEAST_GAIN_VOXELS * self.voxel_mm, LEAST_GAIN_SHARE * self.affine_error)
        found = np.where(np.isnan(won), more_dice > LEAST_GAIN_DICE, by_error)
        return np.where(np.isnan(won) & np.isnan(more_dice), np.nan, found)


def read_outcomes(first: pd.DataFrame, columns: dict[str, np.ndarray], unit_mm: np.ndarray) -> Outcomes:
    """Arrange what was measured.

    Parameters
    ----------
    first : one row of the runs table per pair, as `checked_outcomes` returned it.
    columns : `MEASURED` of all settings, shape (P, N) each, NaN where there are none.
    unit_mm : see `Outcomes`; NaN stands for the voxel of the working grid.
    """

    def of_pair(name: str) -> np.ndarray:
        return first[name].to_numpy(dtype=float) if name in first else np.full(len(first), np.nan)

    voxel = of_pair(VOXEL)
    middle, outer = (columns[name] for name in ERRORS)
    affine = of_pair(AFFINE_ERROR)
    misfit = of_pair(MISFIT)
    return Outcomes(
        domains=first[DOMAIN].to_numpy(dtype=str),
        voxel_mm=voxel,
        unit_mm=np.where(np.isnan(unit_mm), voxel, unit_mm),
        error=np.where(np.isnan(middle), columns[LANDMARKS], middle),
        error_95=outer,
        affine_error=np.where(np.isnan(affine), of_pair(AFFINE_LANDMARKS), affine),
        affine_dice=of_pair("affine_dice"),
        failed=np.where(np.isnan(misfit), np.nan, misfit > FAILED_VOXELS * voxel),
        mean_dice=columns[DICE],
        uses=first["use"].astype(str).to_numpy(dtype=str) if "use" in first else np.full(len(first), ""),
    )


def completed(runs: pd.DataFrame, features: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return tables of several domains with the columns that lists of cases leave out because they are the same for all pairs.

    Cases say of their start by how many voxels it is off, beside the features; a sweep says it in mm beside the runs.
    """
    check_columns(runs, (DOMAIN, VOXEL), "runs table")
    features = features.assign(**{
        name: value for name, value in (("label", 0), ("features_version", VERSION), ("error", "")) if name not in features
    })
    if "error" not in runs:
        runs = runs.assign(error="")
    if "group" not in runs and "change" in runs:
        runs = runs.assign(group=runs["change"])
    if MISFIT not in runs and START_MISFIT in features:
        off = features[features["label"] == 0].set_index("pair")[START_MISFIT]
        runs = runs.assign(**{MISFIT: runs["pair"].map(off).astype(float) * runs[VOXEL].astype(float)})
    return runs, features


def checked_outcomes(runs: pd.DataFrame, what: str) -> pd.DataFrame:
    """Return a runs table of several domains with numbers in the columns of outcomes.

    Raises
    ------
    InputError : it lacks the spacing of its grids, or something else stands where numbers should be.
    """
    check_columns(runs, (DOMAIN, VOXEL), what)
    check_text(runs, (DOMAIN,), what)
    runs = with_numbers(runs, [name for name in OPTIONAL if name in runs], what)
    runs = with_numbers(runs, (VOXEL,), what, complete=True)
    if not (runs[VOXEL] > 0).all():
        raise InputError(f"The {what} holds a spacing of {runs[VOXEL].min():g} mm: take that pair out, or sweep it anew.")
    return runs


def _least(values: np.ndarray) -> np.ndarray:
    """Return the least of each row, NaN of an empty one."""
    return np.where(np.isnan(values).all(axis=1), np.nan, np.nanmin(np.where(np.isnan(values), np.inf, values), axis=1))
