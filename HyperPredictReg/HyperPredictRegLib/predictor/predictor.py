"""The predictor as it is used: features of a pair in, curves over λ and a reliability out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from HyperPredictRegLib.alignment import AlignmentSettings
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.json_records import from_plain
from HyperPredictRegLib.core.search_space import Parameter, SearchSpace
from HyperPredictRegLib.engines.base import Engine, settings_hash
from HyperPredictRegLib.predictor.bundle import LEAST_FOLDING, Bundle, load_bundle
from HyperPredictRegLib.predictor.features import VERSION, PairFeatures
from HyperPredictRegLib.predictor.network import MemberCurves, named_row
from HyperPredictRegLib.predictor.ood import UNCERTAIN_WIDENING, at_most
from HyperPredictRegLib.preprocessing import VERSION as PREPROCESSING_VERSION
from HyperPredictRegLib.results.prediction import Band, PredictionSurface, Reliability

GRID = 300
"""Settings per surface where none are asked for: finer than any difference that could be seen."""

LEAST_DICE_REACH, LEAST_LOG_REACH = 0.001, 0.01
"""Bands reach at least so far to either side, however sure the networks are: in Dice, and of SD log-Jacobian as a share.

Calibration cannot vouch for less: where a setting is chosen, a Dice of 0.001 counts as no difference. Folding is known to
`LEAST_FOLDING` only, because in calibration everything below counted as none.
"""

_STARTS = ("start", "multi_start")
"""How fields of `AlignmentSettings` begin that say from where to search, but not for what."""


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
        """Return name and version, for reports."""
        return f"{self.bundle.card.name} {self.bundle.card.version}"

    def check(self, engine: Engine, settings: Any, preset: str, alignment: AlignmentSettings) -> None:
        """Make sure that this predictor predicts just what a job will do; where its alignment starts from is no matter.

        Raises
        ------
        InputError : it was trained for another engine, version, parameters, settings or preset, or on pairs that were prepared or
            aligned otherwise, or it reads other features.
        """
        card, info = self.bundle.card, engine.info
        own = {p.name: (p.scale, p.regularizes) for p in info.search_space}
        same = all(own.get(p.name) == (p.scale, p.regularizes) for p in card.space)
        held = {name: value for name, value in info.search_space.defaults.items() if name not in card.space.names}
        newer = "install or train the predictor that belongs to this version of HyperPredictReg"
        for fits, reason in (
            (
                card.engine == info.name,
                f"it predicts another engine ('{card.engine}', the job has '{info.name}'): choose that one",
            ),
            (
                card.engine_version == info.version,
                f"it predicts another version of the engine ({card.engine_version}, this is {info.version}): {newer}",
            ),
            (len(card.space) == 1, "it predicts several parameters at once: update HyperPredictReg"),
            (same and card.held == held, f"the engine's parameters have changed since it was trained: {newer}"),
            (card.preset == preset, f"it predicts another preset ('{card.preset}', the job has '{preset}'): choose that one"),
            (
                card.settings_hash == settings_hash(engine, settings),
                "it predicts the engine with other settings: leave these as they were when it was trained",
            ),
            (
                card.preprocessing == PREPROCESSING_VERSION,
                f"it was trained on pairs that were prepared otherwise (version {card.preprocessing} of preprocessing, this is "
                f"{PREPROCESSING_VERSION}): {newer}",
            ),
            (
                card.features_version == VERSION,
                f"it reads other features (version {card.features_version}, this is {VERSION}): {newer}",
            ),
        ):
            if not fits:
                raise InputError(f"The predictor '{card.name}' cannot be used here, because {reason}, or use none.")
        trained = asdict(from_plain(AlignmentSettings, card.alignment, f"the alignment of the predictor '{card.name}'"))
        others = [name for name, value in asdict(alignment).items() if value != trained[name] and not name.startswith(_STARTS)]
        if others:
            settings_then = ", ".join(f"{name} = {trained[name]}" for name in others)
            raise InputError(
                f"The predictor '{card.name}' cannot be used here, because it was trained on pairs that were aligned otherwise: "
                f"set the alignment's {settings_then}, or use none."
            )

    def predict(
        self,
        features: PairFeatures,
        values: np.ndarray | None = None,
        names: Mapping[int, str] | None = None,
        *,
        within: SearchSpace | None = None,
        doubts: Sequence[str] = (),
        refusals: Sequence[str] = (),
    ) -> tuple[PredictionSurface, Reliability, tuple[str, ...]]:
        """Predict Dice, folding and SD log-Jacobian for all settings in one call; return reliability and warnings, too.

        Parameters
        ----------
        features : of the pair; its tokens decide which structures are predicted. Without any, those that were trained on are.
        values : settings, shape (n, 1), rising; default: `GRID` over the trained range.
        names : of the structures of the tokens, by label value; see `Card.identified`.
        within : what the engine accepts for this pair: nothing else is predicted.
        doubts, refusals : sentences on the pair, which make it uncertain at best, or unreliable.

        Raises
        ------
        InputError : a value lies outside of the range that the predictor was trained on, or of `within`, nothing is left of that
            range, or the bundle gives no finite numbers.
        """
        card, ensemble = self.bundle.card, self.bundle.ensemble
        space = self._space(within)
        values = space.grid(GRID) if values is None else np.asarray(values, dtype=float).reshape(-1, 1)
        self._check_range(values, space.first)
        labels = tuple(features.tokens) or ensemble.labels
        reading = ensemble.reading
        row = named_row(card.assumed | features.pair, reading.features)[None]
        tokens = np.array([[named_row(features.tokens.get(label, {}), reading.tokens) for label in labels]])
        if features.tokens:
            codes, called, note = card.identified(labels, names or {})
        else:
            codes, called, note = {label: label for label in labels}, {label: card.structures[str(label)] for label in labels}, ""
        numbers = ensemble.structure_numbers([codes.get(label, -1) for label in labels])
        found = ensemble.predict(ensemble.coefficients(row, tokens, numbers[None]), values[:, 0])
        reliability = at_most(self.bundle.ood.reliability(features.pair), doubts, refusals)
        surface = self._surface(found, space, values, called, bool(features.tokens), reliability, numbers > 0)
        if not _finite(surface):
            raise InputError(f"The predictor '{card.name}' gives numbers that are not finite: it is damaged. Install it again.")
        unknown = [called[label] for label, number in zip(labels, numbers, strict=True) if number == 0]
        warnings = [note] if note else []
        if unknown:
            warnings.append(
                f"Not among the structures that the predictor '{card.name}' was trained on, so predicted from their shape "
                f"and edges alone: {', '.join(unknown)}."
            )
        return surface, reliability, tuple(warnings)

    def _space(self, within: SearchSpace | None) -> SearchSpace:
        space = self.bundle.card.space
        for accepted in () if within is None else within.only(space.names):
            space = space.narrowed(accepted.name, accepted.low, accepted.high)
        return space

    def _check_range(self, values: np.ndarray, parameter: Parameter) -> None:
        wrong = values[~parameter.holds(values)]
        if wrong.size:
            raise InputError(
                f"{parameter.text(wrong[0])} lies outside of what the predictor '{self.bundle.card.name}' was trained on "
                f"({parameter.low:g} to {parameter.high:g}): it will not extrapolate."
            )

    def _surface(
        self,
        found: MemberCurves,
        space: SearchSpace,
        values: np.ndarray,
        called: Mapping[int, str],
        segmented: bool,
        reliability: Reliability,
        trained: np.ndarray,
    ) -> PredictionSurface:
        widths = self.bundle.widths
        wide = 1.0 if reliability.level == "reliable" else UNCERTAIN_WIDENING
        dice_width = widths.dice if segmented else widths.dice_unsegmented
        mean_width = widths.mean_dice if segmented else widths.mean_dice_unsegmented
        mean = found.mean_dice[0]
        dice = _dice_band(found.dice_logit[0], wide * dice_width * found.dice_scale[0])
        # Calibrated is the mean of what was trained on. Of what was not, only each band is known, so errors may go together.
        share = float(trained.mean())
        reach = np.maximum(wide * mean_width * found.mean_scale[0], LEAST_DICE_REACH)
        below, above = (share * reach + (~trained[:, None] * one).sum(axis=0) / len(trained)
                        for one in (dice.value - dice.lower, dice.upper - dice.value))  # fmt: skip
        return PredictionSurface(
            space=space,
            values=values,
            structures=tuple(called.values()),
            labels=tuple(called),
            dice=dice,
            mean_dice=Band(mean, np.clip(mean - below, 0, 1), np.clip(mean + above, 0, 1)),
            folding_foreground=_falling_band(found, 0, wide * widths.curves[0], space.first),
            folding_grid=_falling_band(found, 1, wide * widths.curves[1], space.first),
            sd_log_jacobian=_log_band(found.curves[0, 2], wide * widths.curves[2] * found.curves_scale[0, 2]),
            held=self.bundle.card.held,
        )


def _finite(surface: PredictionSurface) -> bool:
    return all(np.isfinite(part).all() for band in surface.bands.values() for part in (band.value, band.lower, band.upper))


def _dice_band(logit: np.ndarray, reach: np.ndarray) -> Band:
    centre = torch.as_tensor(logit)
    half = torch.as_tensor(reach)
    value, lower, upper = (torch.sigmoid(part).numpy() for part in (centre, centre - half, centre + half))
    lower = np.clip(np.minimum(lower, value - LEAST_DICE_REACH), 0, 1)
    return Band(value, lower, np.clip(np.maximum(upper, value + LEAST_DICE_REACH), 0, 1))


def _log_band(logarithm: np.ndarray, reach: np.ndarray) -> Band:
    reach = np.maximum(reach, LEAST_LOG_REACH)
    return Band(np.exp(logarithm), np.exp(logarithm - reach), np.exp(logarithm + reach))


def _falling_band(found: MemberCurves, number: int, width: float, parameter: Parameter) -> Band:
    """Return folding in percent, never rising as the parameter regularizes more.

    Less than can be told from none is none, and none is known to that only.
    """
    toward_strong = slice(None, None, parameter.sign)
    band = _log_band(found.curves[0, number], width * found.curves_scale[0, number])[toward_strong]
    lower = np.minimum.accumulate(band.lower)
    upper = np.maximum.accumulate(band.upper[::-1])[::-1]
    value, lower = (np.where(part < LEAST_FOLDING, 0.0, np.minimum(part, 100.0)) for part in (band.value, lower))
    upper = np.clip(upper, LEAST_FOLDING, 100.0)
    return Band(value, np.clip(lower, 0.0, upper - LEAST_FOLDING), upper)[toward_strong]
