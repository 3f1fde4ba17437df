"""The predictor as it is used: features of a pair in, curves over λ and a reliability out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from HyperPredictRegLib.alignment import AlignmentSettings
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.json_records import from_plain
from HyperPredictRegLib.core.search_space import SearchSpace
from HyperPredictRegLib.engines.base import Engine, settings_hash
from HyperPredictRegLib.predictor.bands import (
    LEAST_DICE_REACH,
    chances,
    dice_band,
    error_bands,
    falling_band,
    gain_band,
    log_band,
    outlook_of,
)
from HyperPredictRegLib.predictor.bootstrap import DOUBTED, failed_by, failed_words
from HyperPredictRegLib.predictor.bundle import Bundle, load_bundle
from HyperPredictRegLib.predictor.card import USUAL_POINTS
from HyperPredictRegLib.predictor.evidence import VERSION as EVIDENCE_VERSION
from HyperPredictRegLib.predictor.features import VERSION, PairFeatures
from HyperPredictRegLib.predictor.network import MemberCurves, named_row
from HyperPredictRegLib.predictor.ood import UNCERTAIN_WIDENING, at_most
from HyperPredictRegLib.predictor.usual import leaning
from HyperPredictRegLib.preprocessing import VERSION as PREPROCESSING_VERSION
from HyperPredictRegLib.results.prediction import Band, Outlook, PredictionSurface, Reliability

GRID = 300
"""Settings per surface over one parameter where none are asked for: finer than any difference that could be seen."""

GRID_OF_SEVERAL = 64
"""Settings per parameter of a surface over several."""

EVIDENCE = "evidence_"
"""How the names of what was learned begin that is evidence about a pair."""

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
            (same and card.held == held, f"the engine's parameters have changed since it was trained: {newer}"),
            (
                card.serves(preset),
                f"it predicts another preset ('{card.preset}', the job has '{preset}'): choose that one",
            ),
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
            (
                card.evidence_version in ("", EVIDENCE_VERSION),
                f"it reads other evidence (version {card.evidence_version}, this is {EVIDENCE_VERSION}): {newer}",
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
        evidence: Mapping[str, float] | None = None,
        within: SearchSpace | None = None,
        doubts: Sequence[str] = (),
        refusals: Sequence[str] = (),
    ) -> tuple[PredictionSurface, Reliability, tuple[str, ...]]:
        """Predict Dice, error, folding and SD log-Jacobian for all settings in one call; return reliability and warnings, too.

        Parameters
        ----------
        features : of the pair; its tokens decide which structures are predicted. Without any, those that were trained on are.
        values : settings, shape (n, h), rising where h is 1; default: a regular grid over the trained range, `GRID` or
            `GRID_OF_SEVERAL` a side, along the parameters that are to be chosen, see `Card.chosen`; the others are held.
        evidence : as `evidence.as_features` gives it; needed where `reads_evidence`.
        names : of the structures of the tokens, by label value; see `Card.identified`.
        within : what the engine accepts for this pair: nothing else is predicted.
        doubts, refusals : sentences on the pair, which make it uncertain at best, or unreliable.

        Raises
        ------
        InputError : a value lies outside of the range that the predictor was trained on, or of `within`, nothing is left of that
            range, or the bundle gives no finite numbers.
        """
        card = self.bundle.card
        space = self._space(within)
        told = space if values is not None or not card.chosen else space.only(card.chosen)
        if values is None:
            values = told.grid(GRID if len(told) == 1 else GRID_OF_SEVERAL)
        values = np.asarray(values, dtype=float).reshape(-1, len(told))
        self._check_range(values, told)
        labels = tuple(features.tokens) or self.bundle.ensemble.labels
        if features.tokens:
            codes, called, note = card.identified(labels, names or {})
        else:
            codes, called, note = {label: label for label in labels}, {label: card.structures[str(label)] for label in labels}, ""
        numbers = self.bundle.ensemble.structure_numbers([codes.get(label, -1) for label in labels])
        found = self._found(features, evidence, labels, numbers, self._whole(told, values))
        reliability = self._reliability(found, features, evidence, doubts, refusals)
        # Who was taught no names told all structures by their shape, so all of them are what was calibrated.
        nameless = not self.bundle.ensemble.labels
        surface = self._surface(found, told, values, called, bool(features.tokens), reliability, (numbers > 0) | nameless)
        if found.outlook is not None and self.bundle.widths.outlook is not None:
            named = self._named(features, evidence)
            bands = error_bands(found.outlook, self.bundle.widths.outlook, _wide(reliability), _unit_mm(named))
            surface = replace(
                surface,
                mean_dice=surface.mean_dice if called else None,
                error_mm=bands[0],
                error_95_mm=bands[1],
                overlap_gain=gain_band(found.outlook, self.bundle.widths.outlook, _wide(reliability)),
                voxel_mm=math.exp(named.get("log_voxel_mm", 0.0)),
            )
        if not _finite(surface):
            raise InputError(f"The predictor '{card.name}' gives numbers that are not finite: it is damaged. Install it again.")
        unknown = [called[label] for label, number in zip(labels, numbers, strict=True) if number == 0 and not nameless]
        warnings = [note] if note and not nameless else []
        if unknown:
            warnings.append(
                f"Not among the structures that the predictor '{card.name}' was trained on, so predicted from their shape "
                f"and edges alone: {', '.join(unknown)}."
            )
        return surface, reliability, tuple(warnings)

    def outlook(
        self,
        features: PairFeatures,
        surface: PredictionSurface,
        reliability: Reliability,
        evidence: Mapping[str, float] | None = None,
    ) -> Outlook | None:
        """Return what to expect of a pair whatever the setting, None from a bundle that does not tell.

        Parameters
        ----------
        surface, reliability : what `predict` returned for `features` and `evidence`.
        """
        widths = self.bundle.widths.outlook
        if widths is None:
            return None
        settings = self._whole(surface.space, surface.values)
        found = self._found(features, evidence, (), np.zeros(0, dtype=int), settings).outlook
        unit_mm = _unit_mm(self._named(features, evidence))
        return None if found is None else outlook_of(found, widths, _wide(reliability), unit_mm)

    def _found(
        self,
        features: PairFeatures,
        evidence: Mapping[str, float] | None,
        labels: Sequence[int],
        numbers: np.ndarray,
        values: np.ndarray,
    ) -> MemberCurves:
        ensemble, reading = self.bundle.ensemble, self.bundle.ensemble.reading
        row = named_row(self.bundle.card.assumed | self._named(features, evidence), reading.features)[None]
        rows = [named_row(features.tokens.get(label, {}), reading.tokens) for label in labels]
        tokens = np.array(rows, dtype=float).reshape(1, len(labels), len(reading.tokens))
        coefficients = ensemble.coefficients(row, tokens, numbers[None])
        found, usual = ensemble.predict(coefficients, values), self.bundle.card.usual
        if not usual:
            return found
        space = self.bundle.card.space
        line = np.tile(space.rows([space.defaults]), (USUAL_POINTS, 1))
        line[:, 0] = space.first.from_unit(np.linspace(0, 1, USUAL_POINTS))
        return leaning(found, ensemble.predict(coefficients, line), usual, space.first.to_unit(values[:, 0]))

    @property
    def reads_evidence(self) -> bool:
        """Tell whether it needs the evidence about a pair, which takes longer to find than features."""
        return bool(self.bundle.card.evidence_version)

    @property
    def reads_features(self) -> bool:
        """Tell whether it needs features of the pair beside its evidence and its geometry."""
        bundle = self.bundle
        told = {*bundle.ensemble.reading.features, *bundle.ood.features} - bundle.card.assumed.keys()
        return not all(name.startswith(EVIDENCE) for name in told)

    @property
    def reads_tokens(self) -> bool:
        """Tell whether it tells structures apart by their features."""
        return bool(self.bundle.ensemble.reading.tokens)

    def knows_nothing_like(self, features: Mapping[str, float]) -> bool:
        """Tell whether a pair is unreliable to predict by some of its features already, whatever the others are."""
        return self.bundle.widths.outlook is None and self.bundle.ood.surely_unlike(features)

    def _named(self, features: PairFeatures, evidence: Mapping[str, float] | None) -> dict[str, float]:
        """Return features and evidence by the names under which they were learned."""
        if self.reads_evidence and evidence is None:
            raise InputError(f"The predictor '{self.bundle.card.name}' reads evidence about the pair: give it, or use none.")
        return features.pair | {f"{EVIDENCE}{name}": value for name, value in (evidence or {}).items()}

    def _reliability(
        self,
        found: MemberCurves,
        features: PairFeatures,
        evidence: Mapping[str, float] | None,
        doubts: Sequence[str],
        refusals: Sequence[str],
    ) -> Reliability:
        """Judge a pair: with an outlook by what was measured of this very pair, else by how unlike the training pairs it is."""
        widths = self.bundle.widths.outlook
        named = self._named(features, evidence)
        if widths is None or found.outlook is None:
            return at_most(self.bundle.ood.reliability(named), doubts, refusals)
        failed, _ = chances(found.outlook, widths)
        if failed >= widths.failed:
            why = f"The alignment has probably failed (chance {100 * failed:.0f} %): check it before anything else."
            refusals = (*refusals, why)
        if evidence is not None and {"unexplained", "shell"} <= evidence.keys():
            # The rule finds more of the failed starts than the network does, and calls as few good ones failed.
            by_rule = failed_by(evidence["unexplained"], evidence["shell"])
            doubts = (*doubts, failed_words(by_rule)) if by_rule >= DOUBTED else doubts
        return at_most(self.bundle.ood.reliability(named, unlike_is_uncertain=True), doubts, refusals)

    def _space(self, within: SearchSpace | None) -> SearchSpace:
        space = self.bundle.card.space
        for accepted in () if within is None else within.only(space.names):
            space = space.narrowed(accepted.name, accepted.low, accepted.high)
        return space

    def _whole(self, told: SearchSpace, values: np.ndarray) -> np.ndarray:
        """Return settings (n, h) of some of the parameters with the others at their defaults."""
        if len(told) == len(self.bundle.card.space):
            return values
        columns = [
            values[:, told.names.index(p.name)] if p.name in told.names else np.full(len(values), p.default)
            for p in self.bundle.card.space
        ]
        return np.stack(columns, axis=1)

    def _check_range(self, values: np.ndarray, space: SearchSpace) -> None:
        for column, parameter in enumerate(space):
            wrong = values[~parameter.holds(values[:, column]), column]
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
        wide = _wide(reliability)
        dice_width = widths.dice if segmented else widths.dice_unsegmented
        mean_width = widths.mean_dice if segmented else widths.mean_dice_unsegmented
        mean = found.mean_dice[0]
        dice = dice_band(found.dice_logit[0], wide * dice_width * found.dice_scale[0])
        # Calibrated is the mean of what was trained on. Of what was not, only each band is known, so errors may go together.
        share = float(trained.mean()) if len(trained) else 1.0
        reach = np.maximum(wide * mean_width * found.mean_scale[0], LEAST_DICE_REACH)
        below, above = (share * reach + (~trained[:, None] * one).sum(axis=0) / max(len(trained), 1)
                        for one in (dice.value - dice.lower, dice.upper - dice.value))  # fmt: skip
        return PredictionSurface(
            space=space,
            values=values,
            structures=tuple(called.values()),
            labels=tuple(called),
            dice=dice,
            mean_dice=Band(mean, np.clip(mean - below, 0, 1), np.clip(mean + above, 0, 1)),
            folding_foreground=falling_band(found, 0, wide * widths.curves[0], space, values),
            folding_grid=falling_band(found, 1, wide * widths.curves[1], space, values),
            sd_log_jacobian=log_band(found.curves[0, 2], wide * widths.curves[2] * found.curves_scale[0, 2]),
            held=self.bundle.card.held | {p.name: p.default for p in self.bundle.card.space if p.name not in space.names},
        )


def _wide(reliability: Reliability) -> float:
    return 1.0 if reliability.level == "reliable" else UNCERTAIN_WIDENING


def _unit_mm(named: Mapping[str, float]) -> float:
    """Return the length in which errors were learned: a voxel of the evidence's grid, or of the working grid without any."""
    return math.exp(named.get(f"{EVIDENCE}log_spacing_mm", named.get("log_voxel_mm", 0.0)))


def _finite(surface: PredictionSurface) -> bool:
    return all(np.isfinite(part).all() for band in surface.bands.values() for part in (band.value, band.lower, band.upper))
