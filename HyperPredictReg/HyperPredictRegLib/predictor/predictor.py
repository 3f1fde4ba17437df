"""The predictor as it is used: features of a pair in, curves over λ and a traffic light out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from HyperPredictRegLib.curves import Band, Curves
from HyperPredictRegLib.engines.base import Engine, settings_hash
from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.job import Verdict
from HyperPredictRegLib.predictor.bands import LEAST_FOLDING
from HyperPredictRegLib.predictor.bundle import Bundle, load_bundle
from HyperPredictRegLib.predictor.ensemble import Foreseen, named_row
from HyperPredictRegLib.predictor.features import VERSION, PairFeatures
from HyperPredictRegLib.predictor.novelty import AMBER_WIDENING, at_most
from HyperPredictRegLib.predictor.structures import known_code

GRID = 300
"""λ per curve where none are asked for: finer than any difference that could be seen."""

LEAST_DICE_REACH, LEAST_LOG_REACH = 0.001, 0.01
"""Bands reach at least so far to either side, however sure the networks are: in Dice, and of SD log-Jacobian as a share.

Calibration cannot vouch for less: where λ is chosen, a Dice of 0.001 counts as no difference. Folding is known to `LEAST_FOLDING`
only, because in calibration everything below counted as none.
"""


@dataclass(frozen=True)
class Forecast:
    """Curves of one pair, the traffic light, and warnings about structures."""

    curves: Curves
    verdict: Verdict
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Predictor:
    """A loaded bundle."""

    bundle: Bundle

    @classmethod
    def load(cls, folder: Path | str) -> Predictor:
        """Load a bundle; see `load_bundle`."""
        return cls(load_bundle(folder))

    @property
    def name(self) -> str:
        """Name and version, for reports."""
        return f"{self.bundle.card.name} {self.bundle.card.version}"

    def check(self, engine: Engine, settings: Any, preset: str) -> None:
        """Make sure that this predictor foresees just this engine.

        Raises
        ------
        InputError : it was trained for another engine, version, settings or preset, or reads other features.
        """
        card = self.bundle.card
        for what, has, wants in (
            ("engine", card.engine, engine.name),
            ("engine version", card.engine_version, engine.version),
            ("preset", card.preset, preset),
            ("engine settings", card.settings_hash, settings_hash(engine, settings)),
            ("version of the features", card.features_version, VERSION),
        ):
            if has != wants:
                raise InputError(f"The predictor '{card.name}' foresees another {what} ({has}, this job has {wants}).")

    @cached_property
    def _default_values(self) -> np.ndarray:
        return np.geomspace(self.bundle.card.lower, self.bundle.card.upper, GRID)

    def forecast(
        self,
        features: PairFeatures,
        values: np.ndarray | None = None,
        names: Mapping[int, str] | None = None,
        *,
        doubts: Sequence[str] = (),
        refusals: Sequence[str] = (),
    ) -> Forecast:
        """Foresee Dice, folding and SD log-Jacobian for all λ in one call.

        Parameters
        ----------
        features : of the pair; its tokens decide which structures are foreseen. Without any, those that were trained on are.
        values : λ, shape (n,) or (n, 1), rising; default: `GRID` over the trained range.
        names : of structures, by label value; the bundle's where it has none.
        doubts, refusals : sentences on the pair, for which the light is amber at best, or red.

        Raises
        ------
        InputError : a λ lies outside of the range that the predictor was trained on, or the bundle gives no finite numbers.
        """
        card, ensemble = self.bundle.card, self.bundle.ensemble
        values = self._default_values if values is None else np.asarray(values, dtype=float).reshape(-1)
        self._check_range(values)
        labels = tuple(features.tokens) or ensemble.labels
        reading = ensemble.reading
        row = named_row(card.assumed | features.pair, reading.features)[None]
        tokens = np.array([[named_row(features.tokens.get(label, {}), reading.tokens) for label in labels]])
        numbers = ensemble.structure_numbers(self._codes(labels, names or {}))
        found = ensemble.foresee(ensemble.coefficients(row, tokens, numbers[None]), values)
        verdict = at_most(self.bundle.novelty.verdict(features.pair), doubts, refusals)
        curves = self._curves(found, values, labels, names or {}, bool(features.tokens), verdict, numbers > 0)
        if not _finite(curves):
            raise InputError(f"The predictor '{card.name}' gives numbers that are not finite: it is damaged. Install it again.")
        unknown = [self._name(label, names or {}) for label, number in zip(labels, numbers, strict=True) if number == 0]
        warnings = []
        if unknown:
            warnings.append(
                f"Not among the structures that the predictor '{card.name}' was trained on, so foreseen from their shape "
                f"and edges alone: {', '.join(unknown)}."
            )
        return Forecast(curves, verdict, tuple(warnings))

    def _codes(self, labels: tuple[int, ...], names: Mapping[int, str]) -> list[int]:
        """Return what each label is among the structures that were trained on; -1 for those that were not."""
        known = {int(label): name for label, name in self.bundle.card.structures.items()}
        codes = [known_code(label, names.get(label, ""), known) for label in labels]
        return [-1 if code is None else code for code in codes]

    def _check_range(self, values: np.ndarray) -> None:
        card = self.bundle.card
        outside = values[(values < card.lower * (1 - 1e-9)) | (values > card.upper * (1 + 1e-9)) | np.isnan(values)]
        if outside.size:
            raise InputError(
                f"λ = {outside[0]:g} lies outside of what the predictor '{card.name}' was trained on ({card.lower:g} to "
                f"{card.upper:g}): it will not extrapolate."
            )

    def _curves(
        self,
        found: Foreseen,
        values: np.ndarray,
        labels: tuple[int, ...],
        names: Mapping[int, str],
        segmented: bool,
        verdict: Verdict,
        trained: np.ndarray,
    ) -> Curves:
        widths = self.bundle.widths
        wide = 1.0 if verdict.light == "green" else AMBER_WIDENING
        dice_width = widths.dice if segmented else widths.dice_unsegmented
        mean_width = widths.mean_dice if segmented else widths.mean_dice_unsegmented
        mean = found.mean_dice[0]
        dice = _dice_band(found.dice_logit[0], wide * dice_width * found.dice_scale[0])
        # Calibrated is the mean of what was trained on. Of what was not, only each band is known, so errors may go together.
        share = float(trained.mean())
        reach = np.maximum(wide * mean_width * found.mean_scale[0], LEAST_DICE_REACH)
        below, above = (share * reach + (~trained[:, None] * one).sum(axis=0) / len(trained)
                        for one in (dice.value - dice.lower, dice.upper - dice.value))  # fmt: skip
        return Curves(
            names=(self.bundle.card.hyperparameter,),
            values=values[:, None],
            structures=tuple(self._name(label, names) for label in labels),
            labels=labels,
            dice=dice,
            mean_dice=Band(mean, np.clip(mean - below, 0, 1), np.clip(mean + above, 0, 1)),
            folding_foreground=_falling_band(found, 0, wide * widths.curves[0]),
            folding_box=_falling_band(found, 1, wide * widths.curves[1]),
            sd_log_jacobian=_log_band(found.curves[0, 2], wide * widths.curves[2] * found.curves_scale[0, 2]),
        )

    def _name(self, label: int, names: Mapping[int, str]) -> str:
        return names.get(label) or self.bundle.card.structures.get(str(label)) or f"label {label}"


def _finite(curves: Curves) -> bool:
    bands = (curves.dice, curves.mean_dice, curves.folding_foreground, curves.folding_box, curves.sd_log_jacobian)
    return all(np.isfinite(part).all() for band in bands for part in (band.value, band.lower, band.upper))


def _dice_band(logit: np.ndarray, reach: np.ndarray) -> Band:
    centre = torch.as_tensor(logit)
    half = torch.as_tensor(reach)
    value, lower, upper = (torch.sigmoid(part).numpy() for part in (centre, centre - half, centre + half))
    lower = np.clip(np.minimum(lower, value - LEAST_DICE_REACH), 0, 1)
    return Band(value, lower, np.clip(np.maximum(upper, value + LEAST_DICE_REACH), 0, 1))


def _log_band(logarithm: np.ndarray, reach: np.ndarray) -> Band:
    reach = np.maximum(reach, LEAST_LOG_REACH)
    return Band(np.exp(logarithm), np.exp(logarithm - reach), np.exp(logarithm + reach))


def _falling_band(found: Foreseen, number: int, width: float) -> Band:
    """Folding in percent; less than can be told from none is none, and none is known to that only. Nothing rises with λ."""
    band = _log_band(found.curves[0, number], width * found.curves_scale[0, number])
    lower = np.minimum.accumulate(band.lower)
    upper = np.maximum.accumulate(band.upper[::-1])[::-1]
    value, lower = (np.where(part < LEAST_FOLDING, 0.0, np.minimum(part, 100.0)) for part in (band.value, lower))
    upper = np.clip(upper, LEAST_FOLDING, 100.0)
    return Band(value, np.clip(lower, 0.0, upper - LEAST_FOLDING), upper)
