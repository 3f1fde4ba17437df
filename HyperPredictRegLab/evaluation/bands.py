"""Do bands hold what they promise? Table T4, and the traffic light's counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from HyperPredictRegLib.curves import Band
from HyperPredictRegLib.predictor.bands import LEAST_FOLDING

from HyperPredictRegLab.evaluation.foretold import Foretold
from HyperPredictRegLab.evaluation.measured import Measured
from HyperPredictRegLab.evaluation.sets import OURS, UNSEGMENTED, PairSet
from HyperPredictRegLab.evaluation.table import Cell, Table

LIGHTS = ("green", "amber", "red")
_LEVELS = ((OURS, 90), ("ours at 80 %", 80), (UNSEGMENTED, 90))


def covered(band: Band, true: np.ndarray, folding: bool = False) -> np.ndarray:
    """Tell where the measured value lies in the band, as 0 or 1, NaN where there is none; tiny folding is none."""
    floor = LEAST_FOLDING * 1.001 if folding else 1e-9
    inside = (true >= band.lower - floor) & (true <= band.upper + floor)
    return np.where(np.isfinite(true) & np.isfinite(band.upper), inside, np.nan)


def quantities(told: Foretold, measured: Measured) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield the name of each quantity, where its band covers, and its width, with pairs first and λ last."""
    m = measured
    for name, band, true, folding in (
        ("mean Dice", told.mean, m.mean, False),
        ("Dice of structures", told.dice[:, m.counted], m.dice[:, m.counted], False),
        ("folding in foreground", told.foreground, m.foreground, True),
        ("folding in box", told.box, m.box, True),
        ("SD log-Jacobian", told.sd, m.sd, False),
    ):
        width = np.where(np.isfinite(band.value), band.upper - band.lower, np.nan)
        yield name, covered(band, true[..., m.choice], folding), width


def calibration_table(sets: Sequence[PairSet]) -> Table:
    """Return T4."""
    rows: list[tuple[Cell, ...]] = []
    for found in sets:
        r, m = found.resampling, found.measured
        thirds = np.array_split(np.arange(len(m.values)), 3)
        at = found.choosing.overall[OURS].first
        for method, level in _LEVELS:
            told = found.foretold[method]
            for name, inside, width in quantities(told, m):
                per_pair = _mean_rest(inside)
                by_light = [_percent(per_pair[told.lights == light]) for light in LIGHTS]
                rows.append((
                    m.name, method.removesuffix(" at 80 %"), name, level,
                    r.mean(100 * per_pair), *(_percent(inside[..., third]) for third in thirds),
                    r.mean(100 * _mean_rest(_nearest(m, inside, at)[..., None])), *by_light,
                    float(np.nanmean(width)), float(np.nanmean(m.read(width, at))),
                ))  # fmt: skip
    columns = (
        "pairs", "method", "of", "level, %", "covered, %", "small λ", "middle λ", "large λ", "at λ*", "green", "amber", "red",
        "width", "width at λ*",
    )  # fmt: skip
    note = (
        "Share of measured values inside their bands. Bands of held-out maps were calibrated on the people of the other folds. "
        "Where both foretold and measured folding are less than can be told from none, the band covers."
    )
    return Table("t4-calibration", "T4. Calibration", columns, tuple(rows), note)


def _nearest(measured: Measured, inside: np.ndarray, at: np.ndarray) -> np.ndarray:
    place = np.abs(np.log(measured.values) - np.log(at)[:, None]).argmin(axis=1)
    return np.take_along_axis(inside, place.reshape(-1, *[1] * (inside.ndim - 1)), axis=-1)[..., 0]


def _mean_rest(values: np.ndarray) -> np.ndarray:
    flat = values.reshape(len(values), -1)
    known = np.isfinite(flat).sum(axis=1)
    return np.where(known > 0, np.nansum(flat, axis=1) / np.maximum(known, 1), np.nan)


def _percent(values: np.ndarray) -> float:
    known = np.isfinite(values)
    return float(100 * values[known].mean()) if known.any() else float("nan")
