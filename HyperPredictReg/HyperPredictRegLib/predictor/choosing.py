"""λ* for a job: by the predictor where it can be trusted, else a fixed value, and always with the reason in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from HyperPredictRegLib.aligned_pair import AlignedPair
from HyperPredictRegLib.alignment import Alignment, Stability
from HyperPredictRegLib.curves import Curves
from HyperPredictRegLib.engines.base import Engine, complete_hyperparameters, settings_hash
from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.inputs import Inputs
from HyperPredictRegLib.job import Job, Predicted, Verdict
from HyperPredictRegLib.predictor.card import Card, read_card
from HyperPredictRegLib.predictor.paths import bundled
from HyperPredictRegLib.progress import CancelCheck, never
from HyperPredictRegLib.selection import choose
from HyperPredictRegLib.selection.comparison import predicted_choice

if TYPE_CHECKING:
    from HyperPredictRegLib.predictor.predictor import Forecast, Predictor

NO_TORCH = (
    "PyTorch is not installed, so nothing can be foreseen "
    "(in Slicer: install the extension PyTorch; elsewhere: pip install torch)"
)

NOT_AS_ALIGNED = "nothing can be predicted for this pair as it is aligned"
"""Why no prediction is used for a pair whose alignment is refused."""


@dataclass(frozen=True)
class ChosenLambda:
    """A λ to register with, and how it came about.

    Attributes
    ----------
    by : "user", "predictor" or "fixed".
    hyperparameters : a value for each of the engine's.
    sentence : why.
    feasible : whether any λ is foreseen to keep the folding limit; True where nothing is foreseen.
    forecast : curves and traffic light, or None.
    predicted : what is foreseen at the chosen λ; None unless the predictor chose it.
    predictor : name and version of the bundle that was used, or "".
    fixed : the λ of those who do not predict.
    warnings : sentences.
    """

    by: str
    hyperparameters: dict[str, float]
    sentence: str
    feasible: bool = True
    forecast: Forecast | None = None
    predicted: Predicted | None = None
    predictor: str = ""
    fixed: Mapping[str, float] | None = None
    warnings: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict | None:
        """Return the traffic light, if there was one."""
        return None if self.forecast is None else self.forecast.verdict

    @property
    def trusted_curves(self) -> Curves | None:
        """Return the curves if λ was chosen by them."""
        return self.forecast.curves if self.forecast is not None and self.by == "predictor" else None


def choose_lambda(
    job: Job,
    engine: Engine,
    settings: Any,
    inputs: Inputs,
    pair: AlignedPair,
    alignment: Alignment,
    *,
    spread: Stability | None = None,
    cancelled: CancelCheck = never,
) -> ChosenLambda:
    """Choose λ for an aligned pair by the job's criterion; what speaks against the alignment speaks against a prediction.

    `spread` tells how far repeated alignments lie apart, if that was measured.

    Raises
    ------
    InputError : the job names a bundle that cannot be used, or a structure that is not foreseen.
    RegistrationError : a probe diverged.
    Cancelled : the caller asked to stop.
    """
    if job.hyperparameters:
        values = complete_hyperparameters(engine, job.hyperparameters)
        return ChosenLambda("user", values, f"{_words(engine, values)} was given.")
    if job.predictor == "none":
        return _fixed(engine, None, "the job asks for no prediction")
    folder = bundled(engine.name, job.preset) if job.predictor == "bundled" else Path(job.predictor)
    if folder is None:
        return _fixed(engine, None, f"no predictor comes with the engine '{engine.name}' at the preset '{job.preset}'")
    try:
        predictor = load_predictor(folder, engine, settings, job.preset)
    except InputError as error:
        if job.predictor != "bundled":
            raise
        return _fixed(engine, fitting_card(folder, engine, settings), str(error).rstrip("."))
    card = predictor.bundle.card
    # Imported late: features need nothing that Slicer lacks, but whoever gives λ needs none of them.
    from HyperPredictRegLib.predictor.features import pair_features

    try:
        features = pair_features(inputs, pair, alignment.transform, engine, settings, seed=job.seed, cancelled=cancelled)
    except InputError as error:
        return _fixed(engine, card, str(error).rstrip("."))
    doubts = _doubts(engine, alignment, spread)
    try:
        forecast = predictor.forecast(features, names=inputs.label_names, doubts=doubts, refusals=alignment.refusals)
    except InputError as error:
        if job.predictor != "bundled":
            raise
        return _fixed(engine, None, str(error).rstrip("."))
    fixed = {card.hyperparameter: card.fixed_value}
    if forecast.verdict.light == "red":
        unlike = "this pair is too unlike those that the predictor was trained on for a suggestion"
        reason = NOT_AS_ALIGNED if alignment.refusals else unlike
        return replace(
            _fixed(engine, card, reason), forecast=forecast, predictor=predictor.name, fixed=fixed, warnings=forecast.warnings
        )
    best = choose(forecast.curves, job.criterion)
    values = complete_hyperparameters(engine, best.hyperparameters)
    return ChosenLambda(
        by="predictor",
        hyperparameters=values,
        sentence=best.sentence,
        feasible=best.feasible,
        forecast=forecast,
        predicted=predicted_choice(forecast.curves, best, job.criterion, predictor.name),
        predictor=predictor.name,
        fixed=fixed,
        warnings=forecast.warnings,
    )


def _doubts(engine: Engine, alignment: Alignment, spread: Stability | None) -> tuple[str, ...]:
    """Return sentences on what forbids a green light."""
    found = [*alignment.doubts, *(() if spread is None else spread.warnings)]
    if alignment.contrast == "different" and engine.name == "demons":
        found.append("Inside the anatomy the two images seem to differ in contrast, and demons compare intensities directly.")
    return tuple(found)


def load_predictor(folder: Path, engine: Engine, settings: Any, preset: str) -> Predictor:
    """Load a bundle and make sure that it foresees this engine.

    Raises
    ------
    InputError : torch is missing, or the bundle is damaged or foresees something else.
    """
    try:
        from HyperPredictRegLib.predictor.predictor import Predictor
    except ImportError as error:
        if (error.name or "").split(".")[0] != "torch":
            raise
        raise InputError(f"{NO_TORCH}.") from error
    predictor = Predictor.load(folder)
    predictor.check(engine, settings, preset)
    return predictor


def fitting_card(folder: Path, engine: Engine, settings: Any) -> Card | None:
    """Return a bundle's card if it is about just this engine, else None: then its fixed λ says nothing."""
    try:
        card = read_card(folder)
    except InputError:
        return None
    return card if (card.engine, card.settings_hash) == (engine.name, settings_hash(engine, settings)) else None


def _fixed(engine: Engine, card: Card | None, reason: str) -> ChosenLambda:
    given = {} if card is None else {card.hyperparameter: card.fixed_value}
    values = complete_hyperparameters(engine, given)
    origin = "the engine's default" if card is None else "the fixed value that suits the training pairs best"
    # A reason that was a sentence of its own starts with a capital; names such as PyTorch keep theirs.
    lowered = reason[0].lower() + reason[1:] if reason.startswith(("The ", "A ")) else reason
    return ChosenLambda("fixed", values, f"{_words(engine, values)} is {origin}, taken because {lowered}.", fixed=values)


def _words(engine: Engine, values: Mapping[str, float]) -> str:
    return ", ".join(f"{h.symbol} = {values[h.name]:.3g}" for h in engine.hyperparameters)
