"""The words about how λ was chosen: first lines, traffic light, foreseen against measured, every λ that was tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from HyperPredictRegLib.job import BandValue, Comparison, Criterion, FoldingPercent, Report, Verdict
from HyperPredictRegLib.prediction import Prediction
from HyperPredictRegLib.predictor.choosing import NOT_AS_ALIGNED
from HyperPredictRegLib.reporting import wording
from HyperPredictRegLib.selection.comparison import is_at, measured_text, surprise_words, surprises, what_words
from HyperPredictRegLib.selection.printed import banded, banded_percent, significant
from HyperPredictRegLib.selection.readout import word_for

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


def first_line(report: Report) -> str:
    """Say what came out: first what was not as predicted, then whether the folding limit was kept and what was predicted.

    Every number comes from the report, so that terminal, panel and pages say the same.
    """
    criterion = report.criterion or report.job.criterion
    here = setting(report.hyperparameters)
    surprise = surprise_words(report.comparisons)
    if was_chosen(report):
        share = wording.percent(_of(report.measured.folding_percent, criterion))
        folded = f"{share} of the {criterion.domain} is folded at {here}"
        parts = [_limit_words(report, criterion, folded), *_comparison_words(report, criterion)]
    else:
        parts = [f"{here} was given", *wording.outcome_words(report)]
    return f"{f'{surprise}. ' if surprise else ''}{'; '.join(parts)}."


def calls_for_attention(report: Report) -> bool:
    """Tell whether the first line holds bad news: a limit that was not kept, or a result that is not as predicted."""
    return report.limit_kept is False or bool(surprises(report.comparisons))


def who_chose(report: Report) -> str:
    """Say who chose λ."""
    if report.chosen_by == "predictor":
        name = f" {wording.name(report.predicted.predictor)}" if report.predicted is not None else ""
        return f"The predictor{name} chose λ before anything was registered."
    if report.chosen_by == "fixed":
        return "No prediction could be used, so the first λ was the fixed one, the same for every pair."
    return "λ was given by the user."


def comparison_rows(report: Report) -> list[ComparisonRow]:
    """Return what was predicted beside what was measured, at the first λ and, where it had to be corrected, at the last.

    Dice is measured for the result alone, so it is compared there.
    """
    return [
        ComparisonRow(
            setting(one.hyperparameters),
            _row_title(one),
            banded_percent(one.predicted) if one.what.startswith("folding") else banded(one.predicted),
            measured_text(one),
            f"{one.lies} the band" if one.lies else wording.DASH,
            one.lies in ("below", "above"),
        )
        for one in report.comparisons
    ]


def predicted_dice(report: Report) -> dict[int, BandValue]:
    """Return the Dice that was predicted, at the λ of the result, for each measured structure that has one, by label."""
    predicted, dice = report.predicted_at_result, report.measured.dice
    if predicted is None or dice is None:
        return {}
    measured = {structure.label for structure in dice.structures}
    return {structure.label: structure.dice for structure in predicted.structures if structure.label in measured}


def measured_dice(report: Report) -> float | None:
    """Return the measured mean Dice that may stand beside the predicted one: over the structures that were predicted."""
    return next((one.measured for one in report.comparisons if one.what == "dice"), None)


def trial_rows(report: Report) -> list[TrialRow]:
    """Return every λ that was registered with."""
    limited = report.criterion is not None and report.criterion.folding_limit is not None
    return [
        TrialRow(
            number,
            setting(trial.hyperparameters),
            wording.percent(trial.folding_percent.foreground),
            wording.percent(trial.folding_percent.box),
            wording.spread(trial.sd_log_jacobian),
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


def _comparison_words(report: Report, criterion: Criterion) -> list[str]:
    if report.predicted is None:
        red = report.verdict is not None and light(report.verdict).colour == "red"
        if red:
            unlike = "this pair is unlike those that the predictor was trained on"
            return [f"the prediction was not used, because {NOT_AS_ALIGNED if NOT_AS_ALIGNED in report.choice else unlike}"]
        return ["no prediction was made"] if report.chosen_by == "fixed" else []
    folding = f"folding_{criterion.domain}"
    words = []
    for one in report.comparisons:
        if one.what == folding and not one.at_result:
            tried = f"at {setting(one.hyperparameters)}, tried first"
            words.append(f"{tried}, {banded_percent(one.predicted)} was foreseen and {measured_text(one)} measured")
        elif one.what == folding and is_at(report.predicted.hyperparameters, report.hyperparameters):
            words.insert(0, f"{banded_percent(one.predicted)} was foreseen")
        elif one.what == "dice" and one.lies in ("inside", ""):
            words.append(f"{what_words(one)} is {measured_text(one)}, and {banded(one.predicted)} was foreseen")
    return words


def _row_title(one: Comparison) -> str:
    words = what_words(one).removeprefix("the ")
    title = words[0].upper() + words[1:]
    return f"{title} (foreseen for {one.structures_predicted})" if one.structures < one.structures_predicted else title


def _of(folding: FoldingPercent, criterion: Criterion) -> float:
    return folding.foreground if criterion.domain == "foreground" else folding.box
