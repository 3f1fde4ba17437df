"""What `hyperpredictreg predict` writes: the foreseen quality of a registration that was not made."""

from __future__ import annotations

from dataclasses import dataclass

from HyperPredictRegLib.curves import Curves
from HyperPredictRegLib.job import BandValue, Criterion, EngineUsed, Job, Predicted, Verdict


@dataclass(frozen=True)
class StructureChoice:
    """The λ that would suit one structure best, by the same criterion.

    Attributes
    ----------
    label, name : of the structure.
    hyperparameters : its λ*.
    dice : foreseen there.
    dice_at_choice : foreseen at the λ* of all structures together.
    """

    label: int
    name: str
    hyperparameters: dict[str, float]
    dice: BandValue
    dice_at_choice: BandValue


@dataclass(frozen=True)
class Prediction:
    """The content of ``prediction.json``.

    Attributes
    ----------
    job : what was asked; `out` is where this went.
    engine : whose result is foreseen.
    predictor : name and version of the bundle.
    verdict : the traffic light.
    criterion : by which λ* was chosen.
    hyperparameters : the λ to take; with a red light the bundle's fixed one.
    feasible : whether any λ is foreseen to keep the folding limit.
    choice : why this λ, in a sentence.
    predicted : what is foreseen there; None with a red light.
    structures : each structure's own λ*; empty with a red light.
    fixed_hyperparameters : the cross-validated λ of those who do not predict, for comparison.
    seconds : wall-clock time by stage.
    warnings : sentences.
    """

    job: Job
    engine: EngineUsed
    predictor: str
    verdict: Verdict
    criterion: Criterion
    hyperparameters: dict[str, float]
    feasible: bool
    choice: str
    predicted: Predicted | None
    structures: tuple[StructureChoice, ...]
    fixed_hyperparameters: dict[str, float]
    seconds: dict[str, float]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Foresight:
    """A prediction with the curves it was read from."""

    prediction: Prediction
    curves: Curves
