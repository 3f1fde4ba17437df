"""The words about how λ was chosen: first lines, traffic light, foreseen against measured, every λ that was tried."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from HyperPredictRegLib.curves import Curves
from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.job import BandValue, Criterion, DiceMeasure, FoldingPercent, Predicted, Report, StructureMeasure, Verdict
from HyperPredictRegLib.prediction import Prediction
from HyperPredictRegLib.reporting import wording
from HyperPredictRegLib.selection import NO_FOLDING_PERCENT
from HyperPredictRegLib.selection.readout import foreseen, word_for

_RULES = {
    "plateau": "the stiffest setting whose foreseen Dice is within {tolerance:g} of the best",
    "maximum": "the setting of highest foreseen Dice",
    "knee": "the knee of foreseen Dice against foreseen folding",
}
_LIGHTS = {
    "green": "This pair is like those that the predictor was trained on.",
    "amber": "This pair is unusual: what is foreseen is less certain, and its bands are wider.",
    "red": "This pair is unlike those that the predictor was trained on: nothing that it foresees is to be trusted here.",
}


@dataclass(frozen=True)
class Light:
    """A traffic light in words: its colour, which is also the word beside it, what it means, and why it shows."""

    colour: str
    meaning: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class ComparisonRow:
    """A foreseen number beside the measured one, all as text."""

    setting: str
    what: str
    foreseen: str
    measured: str
    remark: str
    surprising: bool


@dataclass(frozen=True)
class TrialRow:
    """One registration of the closed loop, as text."""

    number: int
    setting: str
    foreground: str
    box: str
    spread: str
    outcome: str
    over: bool
    seconds: str


def setting(values: Mapping[str, float]) -> str:
    """Return hyperparameters as "λ = 0.55", which no line end tears apart."""
    return ", ".join(f"{word_for(name)}\u00a0=\u00a0{significant(value)}" for name, value in values.items())


def significant(value: float | None) -> str:
    """Return a setting with three significant digits, as the sentences of the choice write it."""
    return wording.DASH if value is None or not math.isfinite(value) else f"{value:.3g}"


def banded(value: BandValue, digits: int = 3) -> str:
    """Return a number and, in brackets, its 90 % band."""
    lower, upper = wording.number(value.lower, digits), wording.number(value.upper, digits)
    return f"{wording.number(value.value, digits)} ({lower} to {upper})"


def banded_percent(value: BandValue) -> str:
    """Return a share in percent and, in brackets, its 90 % band."""
    return f"{wording.percent(value.value)} ({wording.percent(value.lower)} to {wording.percent(value.upper)})"


def criterion_words(criterion: Criterion) -> str:
    """Say by what λ is chosen."""
    words = _RULES[criterion.rule].format(tolerance=criterion.tolerance)
    counted = {name: weight for name, weight in criterion.structures.items() if weight > 0}
    kind = "lowest" if criterion.combine == "worst" else "weighted mean" if counted else "mean"
    among = ", ".join(f"{wording.name(name)} (weight {weight:g})" for name, weight in counted.items()) or "all structures"
    if criterion.folding_limit is None:
        return f"{words}; Dice is the {kind} of {among}; no folding limit"
    end = "the upper end of the 90\u00a0% band" if criterion.cautious else "the best guess"
    limit = f"{end} of folding under {criterion.folding_limit:g} % of the {criterion.domain}"
    return f"{words}, with {limit}; Dice is the {kind} of {among}"


def light(verdict: Verdict) -> Light:
    """Return a traffic light in words; a colour that is none counts as red."""
    colour = verdict.light if verdict.light in _LIGHTS else "red"
    return Light(colour, _LIGHTS[colour], verdict.reasons)


def was_chosen(report: Report) -> bool:
    """Tell whether there is anything to say about the choice of λ: a user's own number needs no reasons."""
    return report.chosen_by != "user" or report.predicted is not None or report.limit_kept is not None


def first_line(report: Report, curves: Curves | None = None) -> str:
    """Say in one sentence whether the folding limit was kept and what was foreseen; nothing where λ was simply given.

    With the curves, measured structures are matched to foreseen ones by label, and by name without them.
    """
    if not was_chosen(report):
        return ""
    criterion = report.criterion or report.job.criterion
    here = setting(report.hyperparameters)
    folded = f"{wording.percent(_of(report.measured.folding_percent, criterion))} of the {criterion.domain} is folded at {here}"
    parts = [_limit_words(report, criterion, folded), *_comparison_words(report, criterion, curves)]
    return "; ".join(parts) + "."


def who_chose(report: Report) -> str:
    """Say who chose λ."""
    if report.chosen_by == "predictor":
        name = f" {wording.name(report.predicted.predictor)}" if report.predicted is not None else ""
        return f"The predictor{name} chose λ before anything was registered."
    if report.chosen_by == "fixed":
        return "No prediction could be used, so the first λ was the fixed one, the same for every pair."
    return "λ was given by the user."


def comparison_rows(report: Report, curves: Curves | None) -> list[ComparisonRow]:
    """Return what was foreseen beside what was measured, at the first λ and, where it had to be corrected, at the last.

    Dice is measured for the result alone, so it is compared there; without curves a corrected λ has nothing foreseen for it.
    """
    if report.predicted is None:
        return []
    rows, last = [], foreseen_at_result(report, curves)
    if not _is_at_result(report.predicted, report) and report.trials:
        first = report.trials[0]
        rows += _folding_rows(report.predicted, first.folding_percent, first.sd_log_jacobian)
    if last is not None:
        rows += _dice_rows(last, report.measured.dice, curves)
        rows += _folding_rows(last, report.measured.folding_percent, report.measured.sd_log_jacobian)
    return rows


def foreseen_at_result(report: Report, curves: Curves | None) -> Predicted | None:
    """Return what was foreseen, before any correction, for the λ of the result; None if nothing was."""
    if report.predicted is None or _is_at_result(report.predicted, report):
        return report.predicted
    if curves is None or any(name not in report.hyperparameters for name in curves.names):
        return None
    try:
        return foreseen(curves, report.hyperparameters, report.predicted.predictor)
    except InputError:  # a corrected λ may lie beyond the curves
        return None


def measured_dice(report: Report, curves: Curves | None) -> float | None:
    """Return the measured mean Dice that may stand beside the foreseen one: over the structures that were foreseen."""
    found = _comparable_dice(report.predicted, report.measured.dice, curves) if report.predicted is not None else None
    return found[0] if found is not None else None


def foreseen_dice(report: Report, curves: Curves | None) -> dict[int, BandValue]:
    """Return the Dice that was foreseen, at the λ of the result, for each measured structure that has one, by label."""
    predicted, dice = foreseen_at_result(report, curves), report.measured.dice
    if predicted is None or dice is None:
        return {}
    names = {s.label: _name_foreseen(s, curves) for s in dice.structures}
    return {label: predicted.dice[name] for label, name in names.items() if name in predicted.dice}


def trial_rows(report: Report) -> list[TrialRow]:
    """Return every λ that was registered with."""
    limited = report.criterion is not None and report.criterion.folding_limit is not None
    return [
        TrialRow(
            number,
            setting(trial.hyperparameters),
            wording.percent(trial.folding_percent.foreground),
            wording.percent(trial.folding_percent.box),
            wording.number(trial.sd_log_jacobian, 3),
            ("kept" if trial.within_limit else "over the limit") if limited else "no limit",
            limited and not trial.within_limit,
            wording.number(trial.seconds, 1),
        )
        for number, trial in enumerate(report.trials, start=1)
    ]


def first_line_of_prediction(prediction: Prediction) -> str:
    """Say in one sentence what is suggested; with a red light, first of all, that nothing is."""
    predicted, criterion = prediction.predicted, prediction.criterion
    fixed = setting(prediction.fixed_hyperparameters)
    if is_red(prediction) or predicted is None:
        return (
            "No λ is suggested, because this pair is unlike those that the predictor was trained on: start from the fixed "
            f"{fixed} and measure what comes out."
        )
    here = setting(prediction.hyperparameters)
    folding = predicted.folding_foreground if criterion.domain == "foreground" else predicted.folding_box
    dice = f"a mean Dice of {banded(predicted.mean_dice)}"
    what = f"foreseen are {dice} and {banded_percent(folding)} of the {criterion.domain} folded"
    if not prediction.feasible and criterion.folding_limit is not None:
        return (
            f"No λ is foreseen to keep folding under {criterion.folding_limit:g} % of the {criterion.domain}; "
            f"{here} should fold least: {what}."
        )
    return f"{here} is suggested: {what}."


def is_red(prediction: Prediction) -> bool:
    """Tell whether the predictor declines to suggest anything."""
    return light(prediction.verdict).colour == "red"


def _limit_words(report: Report, criterion: Criterion, folded: str) -> str:
    limit, given = criterion.folding_limit, report.chosen_by == "user"
    word = ", ".join(word_for(name) for name in report.hyperparameters)
    allowed = f"at most {limit:g} %" if limit is not None else "the limit"
    if report.limit_kept is None:
        return f"{f'{word} was given' if given else 'No folding limit was set'}, and {folded}"
    if report.limit_kept:
        first = report.trials[0].hyperparameters if len(report.trials) > 1 and report.predicted is None else None
        raised = "" if first is None else f", raised from {setting(first)}, at which too much was folded"
        return f"The folding limit was kept: {folded}{raised}, and {allowed} was allowed"
    if given:
        return f"The folding limit was not kept: {folded}, and {allowed} was allowed"
    count = len(report.trials)
    tried = f", the last of {count} values tried" if count > 1 else ""
    return f"{word} could not be chosen so that {allowed} of the {criterion.domain} is folded: {folded}{tried}"


def _comparison_words(report: Report, criterion: Criterion, curves: Curves | None) -> list[str]:
    predicted = report.predicted
    if predicted is None:
        red = report.verdict is not None and light(report.verdict).colour == "red"
        if red:
            return ["the prediction was not used, because this pair is unlike those that the predictor was trained on"]
        return ["no prediction was made"] if report.chosen_by == "fixed" else []
    folding = predicted.folding_foreground if criterion.domain == "foreground" else predicted.folding_box
    if not _is_at_result(predicted, report):
        if not report.trials:
            return []
        at_first = wording.percent(_of(report.trials[0].folding_percent, criterion))
        tried = f"at {setting(predicted.hyperparameters)}, tried first"
        return [f"{tried}, {banded_percent(folding)} was foreseen and {at_first} measured"]
    parts = [f"{banded_percent(folding)} was foreseen"]
    measured = _comparable_dice(predicted, report.measured.dice, curves)
    if measured is not None:
        parts.append(f"mean Dice is {wording.number(measured[0], 3)}, and {banded(predicted.mean_dice)} was foreseen")
    return parts


def _folding_rows(predicted: Predicted, folding: FoldingPercent, spread: float) -> list[ComparisonRow]:
    here, percent = setting(predicted.hyperparameters), wording.percent
    return [
        _row(here, "Folding of the foreground", predicted.folding_foreground, folding.foreground,
             (banded_percent(predicted.folding_foreground), percent(folding.foreground)), NO_FOLDING_PERCENT),
        _row(here, "Folding of the box", predicted.folding_box, folding.box,
             (banded_percent(predicted.folding_box), percent(folding.box)), NO_FOLDING_PERCENT),
        _row(here, "Spread of the logarithm of the Jacobian determinant", predicted.sd_log_jacobian, spread,
             (banded(predicted.sd_log_jacobian), wording.number(spread, 3))),
    ]


def _dice_rows(predicted: Predicted, dice: DiceMeasure | None, curves: Curves | None) -> list[ComparisonRow]:
    found = _comparable_dice(predicted, dice, curves)
    if found is None:
        return []
    measured, count = found
    what = f"Mean Dice of {count} structures" if count > 1 else "Dice of the one structure"
    if count < len(predicted.dice):
        what += f" (foreseen for {len(predicted.dice)})"
    texts = (banded(predicted.mean_dice), wording.number(measured, 3))
    return [_row(setting(predicted.hyperparameters), what, predicted.mean_dice, measured, texts)]


def _row(
    here: str, what: str, band: BandValue, measured: float, texts: tuple[str, str], nothing: float = -math.inf
) -> ComparisonRow:
    """Return a row whose remark counts everything below `nothing` as equal."""
    if not all(math.isfinite(value) for value in (band.lower, band.upper, measured)):
        return ComparisonRow(here, what, *texts, wording.DASH, False)
    lower, value, upper = (max(number, nothing) for number in (band.lower, measured, band.upper))
    inside = lower <= value <= upper
    remark = "inside the band" if inside else "below the band" if value < lower else "above the band"
    return ComparisonRow(here, what, *texts, remark, not inside)


def _name_foreseen(structure: StructureMeasure, curves: Curves | None) -> str:
    """Return what the predictor calls a structure: it may know a name where the label maps bear none."""
    if curves is not None and structure.label in curves.labels:
        return curves.structures[curves.labels.index(structure.label)]
    return structure.name


def _comparable_dice(
    predicted: Predicted, dice: DiceMeasure | None, curves: Curves | None
) -> tuple[float, int] | None:
    """Return the measured mean Dice of the structures that were foreseen, and how many those are."""
    if dice is None:
        return None
    shared = [s.dice for s in dice.structures if _name_foreseen(s, curves) in predicted.dice and math.isfinite(s.dice)]
    return (sum(shared) / len(shared), len(shared)) if shared else None


def _is_at_result(predicted: Predicted, report: Report) -> bool:
    """Tell whether the prediction is for the λ that the result was made with."""
    return all(
        math.isclose(value, report.hyperparameters.get(name, math.nan), rel_tol=1e-6)
        for name, value in predicted.hyperparameters.items()
    )


def _of(folding: FoldingPercent, criterion: Criterion) -> float:
    return folding.foreground if criterion.domain == "foreground" else folding.box
