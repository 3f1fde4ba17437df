"""The sentences and rows of text about a result or a prediction: every number in them comes from the report or the prediction."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from HyperPredictRegLib.core.formatting import DASH, distance, number, spread
from HyperPredictRegLib.core.search_space import SearchSpace
from HyperPredictRegLib.quality.metrics import SAME_DICE
from HyperPredictRegLib.reporting.outlook import expectation_parts
from HyperPredictRegLib.results.formatting import banded, banded_gain, banded_mm, banded_percent, percent, short
from HyperPredictRegLib.results.job import Criterion
from HyperPredictRegLib.results.prediction import BOOTSTRAP, BandValue, Predicted, Prediction, Reliability
from HyperPredictRegLib.results.report import Comparison, FoldingPercent, Report
from HyperPredictRegLib.selection.choice import ERROR_SHARE, ERROR_VOXELS, GAIN_SHARE, chooses_default
from HyperPredictRegLib.selection.comparison import is_at, measured_text, surprise_words, surprises, what_words
from HyperPredictRegLib.workflow.choosing import AGAINST, NOT_AS_ALIGNED

__all__ = [
    "DASH", "ComparisonRow", "TrialRow", "all_warnings", "benefit_line", "benefit_reasons", "calls_for_attention",
    "comparison_rows", "criterion_words", "distance", "file_name", "first_line", "first_line_of_prediction", "glossary",
    "is_unreliable", "landmark_title", "landmark_words", "measured_dice", "name", "needs_attention", "number", "percent",
    "predicted_dice", "prediction_glossary", "printable", "reliability_meaning", "reliability_words", "setting", "short",
    "spread", "start_of", "subject", "trial_rows", "verdict", "voxel_mm", "was_chosen", "who_chose", "why_no_overlap",
]  # fmt: skip

_NO_BREAK = "\N{NO-BREAK SPACE}"
_RULES = {
    "plateau": "the most regularized setting whose predicted Dice is within {tolerance:g} of the best",
    "maximum": "the setting of highest predicted Dice",
    "knee": "the knee of predicted Dice against predicted folding",
}
_RULES_OF_ERRORS = {
    "plateau": f"the most regularized setting whose expected error is within {100 * ERROR_SHARE:g} % or {ERROR_VOXELS:g} voxels "
    "of the least",
    "maximum": "the setting of least expected error",
    "knee": "the knee of expected error against predicted folding",
}
_RULES_OF_GAINS = {
    "plateau": f"the most regularized setting whose expected gain of overlap is within {100 * GAIN_SHARE:g} % of what "
    "the affine step leaves of the best",
    "maximum": "the setting of highest expected gain of overlap",
    "knee": "the knee of expected gain of overlap against predicted folding",
}
_LEVELS = {
    "reliable": "This pair is like those that the predictor was trained on.",
    "uncertain": "This pair is unusual: what is predicted is less certain, and its bands are wider.",
    "unreliable": "What was measured of this pair speaks against any prediction: nothing predicted is to be trusted here.",
}
_LEVELS_OF_BOOTSTRAP = {
    **_LEVELS,
    "reliable": "Nothing that was measured of this pair speaks against it.",
    "uncertain": "What is known of this pair leaves doubts: what is predicted is less certain.",
}

_TERMS = {
    "Dice": "Overlap of two outlines of one structure: 0 is none, 1 is perfect. For the same error in mm, small or thin "
    "structures score lower.",
    "HD95": "95 % of the surface of one outline lies within this many mm of the other. It shows the worst places, but not single "
    "stray voxels.",
    "Mean surface distance": "How far apart the two outlines are on average, in mm.",
    "Jacobian determinant": "Local change of volume from fixed to moving: 1 keeps it; 2 means that moving tissue was shrunk to "
    "half its volume to fit; 0.5 that it was stretched to double.",
    "Folding": "Share of voxels whose Jacobian determinant is 0 or less: there space is turned inside out, which anatomy cannot "
    "do.",
    "Inverse consistency": "How far from its start a point of the fixed image ends after going to the moving image and back.",
    "Expected error": "How far the result is expected to lie from the true deformation: the median over the points of the fixed "
    "foreground, in mm.",
    "Foreground and grid": "The foreground is the anatomy of the fixed image; the grid is the whole working grid, background "
    "included.",
    "Affine only": "The result of the affine alignment without the deformable step. It is written beside the registered one, and "
    "is the better one where deforming did not help.",
    "Before and after": "Before: with the start alone, which as a rule is an affine alignment that moves, turns, scales and "
    "shears the image as a whole. After: with the deformable registration on top.",
}
_TERMS_OF_PREDICTIONS = ("Expected error", "Affine only", "Dice", "Jacobian determinant", "Folding", "Foreground and grid")
_BAND = (
    "90 % band",
    "About 9 in 10 true values are expected inside it, for pairs like those that the predictor was trained on.",
)


@dataclass(frozen=True)
class ComparisonRow:
    """A predicted number beside the measured one, all as text."""

    setting: str
    what: str
    predicted: str
    measured: str
    remark: str
    surprising: bool


@dataclass(frozen=True)
class TrialRow:
    """One registration of the closed loop, as text."""

    number: int
    setting: str
    foreground: str
    grid: str
    spread: str
    outcome: str
    over: bool
    seconds: str


# Names and settings


def name(value: object) -> str:
    """Return a name, or a dash for None, NaN and an empty one."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return DASH
    return printable(str(value)).strip() or DASH


def printable(text: str) -> str:
    """Return `text` with every character that no page may hold (control characters, half surrogates) as U+FFFD."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\ufffd", text)


def file_name(path: str) -> str:
    """Return the last part of a path of either system."""
    return name(path.replace("\\", "/").rstrip("/").rpartition("/")[2])


def setting(space: SearchSpace, values: Mapping[str, float]) -> str:
    """Return a setting as `SearchSpace.text` does, such as "λ = 0.55", so that no line end tears it apart."""
    texts = []
    for parameter in space:
        if parameter.name in values:
            value = values[parameter.name]
            text = parameter.text(value) if math.isfinite(value) else f"{parameter.symbol} = {DASH}"
            texts.append(text.replace(" ", _NO_BREAK))
    return ", ".join(texts)


def subject(space: SearchSpace, article: str = "the ") -> str:
    """Return what is chosen: the symbol of a single parameter, else "the setting"."""
    return space.first.symbol if len(space) == 1 else f"{article}setting"


# What came out


def first_line(report: Report) -> str:
    """Say what came out: first what was not as predicted, then whether the folding limit was kept and what was predicted.

    Terminal, panel and pages all say this sentence.
    """
    criterion = report.criterion or report.job.criterion
    here = setting(report.engine.space, report.setting)
    surprise = surprise_words(report.comparisons)
    if was_chosen(report):
        share = percent(_of(report.measured.folding_percent, criterion))
        folded = f"{share} of the {criterion.domain} is folded at {here}"
        parts = [_limit_words(report, criterion, folded), *_comparison_words(report, criterion)]
    else:
        parts = [f"{here} was given", *_outcome_words(report)]
    return f"{f'{surprise}. ' if surprise else ''}{'; '.join(parts)}."


def verdict(report: Report) -> str:
    """Say in one sentence how well the images agree, what is folded, and whether there are warnings."""
    parts = [_agreement(report), _folding(report.measured.folding_percent.foreground)]
    there_and_back = report.measured.inverse_consistency_mm.mean
    if math.isfinite(there_and_back):
        parts.append(f"going there and back misses the start by {distance(there_and_back, voxel_mm=voxel_mm(report))} on average")
    count = len(all_warnings(report))
    warned = {0: "there are no warnings", 1: "there is 1 warning to read below"}
    parts.append(warned.get(count, f"there are {count} warnings to read below"))
    return "; ".join(parts) + "."


def benefit_line(report: Report) -> str:
    """Say whether deforming helped and, if it did not, which result to keep; "" if that was not judged."""
    return "" if report.benefit is None else report.benefit.sentence


def benefit_reasons(report: Report) -> tuple[str, ...]:
    """Return what speaks for `benefit_line`, in sentences."""
    return () if report.benefit is None else report.benefit.reasons


def calls_for_attention(report: Report) -> bool:
    """Tell whether the first lines hold bad news: no help, a limit that was not kept, or a result that is not as predicted."""
    useless = report.benefit is not None and report.benefit.level in ("did not help", "nonsense")
    return useless or report.limit_met is False or bool(surprises(report.comparisons))


def needs_attention(report: Report) -> bool:
    """Tell whether anything calls for a second look: folding beyond the limit, a warning, or an agreement that got worse."""
    measured = report.measured
    dice, landmarks, landmarks_before = measured.dice, measured.tre_mm, measured.tre_before_mm
    worse = dice is not None and dice.mean < dice.mean_before - SAME_DICE
    astray = landmarks is not None and landmarks_before is not None and landmarks.mean > landmarks_before.mean
    # Written so that folding that could not be measured counts as well. Folding that the user's limit allows does not.
    folded = report.limit_met is not True and measured.folding_percent.foreground != 0
    return worse or astray or folded or bool(all_warnings(report))


def all_warnings(report: Report) -> tuple[str, ...]:
    """Return the warnings of the job and of its alignment, each once."""
    return tuple(dict.fromkeys((*report.warnings, *report.alignment.warnings)))


def start_of(report: Report) -> str:
    """Say what the moving image had been through before the deformable step."""
    return "affine alignment" if report.job.initial_transform is None else "the given initial transform"


def landmark_title(report: Report) -> str:
    """Return what the distances at the landmarks are called: an error only where the landmarks did not lead to the result."""
    return "At landmarks used" if report.job.uses_landmarks else "Landmark error"


def landmark_words(report: Report) -> tuple[str, ...]:
    """Say how landmarks led the registration, how far off they were, and what that is worth; nothing if they did not lead it."""
    start, pull = report.alignment.landmarks, report.landmark_pull
    words = []
    if start is not None:
        fit, left_out, aligned = (_at(report, value) for value in (start.fit_mm, start.left_out_mm, start.aligned_mm))
        honest = "" if start.left_out_mm is None else f", and by {left_out} where each is left out of the fit"
        then = "the affine step left them by" if not start.retained else "the affine step, which was not taken, left them by"
        words.append(
            f"The alignment started from {'an' if start.fit == 'affine' else 'a'} {start.fit} fit of {start.count} landmarks, "
            f"which misses them by {fit} on average{honest}; {then} {aligned}."
        )
    if pull is not None:
        before, pulled, left_out, after = (
            _at(report, value) for value in (pull.before_mm, pull.pulled_mm, pull.left_out_mm, pull.registered_mm)
        )
        again = ", and they pulled once more" if pull.again else ""
        words.append(
            f"The landmarks pulled the deformation, from {before} to {pulled} at them on average ({left_out} where each is left "
            f"out); registering left them by {after}{again}."
        )
    if report.job.uses_landmarks:
        words.append("Because they were used, the distances at the landmarks are no independent check of the result.")
    return tuple(words)


def _at(report: Report, value: float | None) -> str:
    return distance(value, voxel_mm=voxel_mm(report))


def voxel_mm(report: Report) -> float:
    """Return the smallest spacing of the working grid, in mm, beside which distances are printed."""
    return min(report.working_grid.spacing)


def why_no_overlap(report: Report) -> str:
    """Say why Dice was not measured."""
    if report.job.fixed_labels is None or report.job.moving_labels is None:
        return "labels were not given for both images"
    return "no structure is present in both label maps"


def _outcome_words(report: Report) -> tuple[str, ...]:
    """Say in parts of a sentence what a given setting came to: folding, and agreement where it was measured."""
    measured = report.measured
    folded, agreement = _folding(measured.folding_percent.foreground), _agreement(report)
    if (measured.dice is None or not measured.dice.structures) and measured.tre_mm is None:
        return (folded,)
    return folded, agreement[0].lower() + agreement[1:]


def _agreement(report: Report) -> str:
    measured = report.measured
    dice, tre, tre_before = measured.dice, measured.tre_mm, measured.tre_before_mm
    if dice is not None and dice.structures and math.isfinite(dice.mean):
        count = len(dice.structures)
        what = f"the mean Dice of {count} structures" if count > 1 else "the Dice of the one structure"
        if not math.isfinite(dice.mean_before):
            return f"After registration {what} is {number(dice.mean, 3)}"
        change = dice.mean - dice.mean_before
        from_to = f"from {number(dice.mean_before, 3)} to {number(dice.mean, 3)}"
        if abs(change) < SAME_DICE:
            return f"Registration left {what} about where it was, {from_to}"
        return f"Registration {'raised' if change > 0 else 'lowered'} {what} {from_to}"
    if tre is not None and tre_before is not None:
        before, after = (distance(one.mean, voxel_mm=voxel_mm(report)) for one in (tre_before, tre))
        if report.job.uses_landmarks:
            return f"At the landmarks that were used, registration took the mean distance from {before} to {after}"
        return f"Registration took the mean landmark error from {before} to {after}"
    return f"Registration finished; overlap was not measured, because {why_no_overlap(report)}"


def _folding(foreground: float) -> str:
    if not math.isfinite(foreground):
        return "folding could not be measured"
    if foreground == 0:
        return "no voxel of the foreground is folded"
    return f"{percent(foreground)} of the foreground is folded"


def _limit_words(report: Report, criterion: Criterion, folded: str) -> str:
    limit, given, space = criterion.folding_limit, report.choice.by == "user", report.engine.space
    allowed = f"at most {limit:g} %" if limit is not None else "the limit"
    if report.limit_met is None:
        return f"{_capital(f'{subject(space)} was given') if given else 'No folding limit was set'}, and {folded}"
    if report.limit_met:
        first = report.trials[0].setting if len(report.trials) > 1 and report.choice.predicted is None else None
        changed = "" if first is None else f", {_changed(space, first, report.setting)}, at which too much was folded"
        return f"The folding limit was kept: {folded}{changed}, and {allowed} was allowed"
    if given:
        return f"The folding limit was not kept: {folded}, and {allowed} was allowed"
    tried = f", the last of {len(report.trials)} values tried" if len(report.trials) > 1 else ""
    who = _capital(subject(space))
    return f"{who} could not be chosen so that {allowed} of the {criterion.domain} is folded: {folded}{tried}"


def _changed(space: SearchSpace, first: Mapping[str, float], last: Mapping[str, float]) -> str:
    key = space.first.name
    how = "changed" if len(space) > 1 else "raised" if last.get(key, math.nan) > first.get(key, math.nan) else "lowered"
    return f"{how} from {setting(space, first)}"


def _comparison_words(report: Report, criterion: Criterion) -> list[str]:
    if report.choice.predicted is None:
        if report.reliability is not None and report.reliability.level == "unreliable":
            why = NOT_AS_ALIGNED if NOT_AS_ALIGNED in report.choice.sentence else AGAINST
            return [f"the prediction was not used, because {why}"]
        return ["no prediction was made"] if report.choice.by == "fixed" else []
    folding = f"folding_{criterion.domain}"
    words = []
    for one in report.comparisons:
        if one.what == folding and not one.at_result:
            tried = f"at {setting(report.engine.space, one.setting)}, tried first"
            words.append(f"{tried}, {banded_percent(one.predicted)} was predicted and {measured_text(one)} measured")
        elif one.what == folding and is_at(report.choice.predicted.setting, report.setting):
            words.insert(0, f"{banded_percent(one.predicted)} was predicted")
        elif one.what == "dice" and one.lies in ("inside", ""):
            words.append(f"{what_words(one)} is {measured_text(one)}, and {banded(one.predicted)} was predicted")
    return words


def _of(folding: FoldingPercent, criterion: Criterion) -> float:
    return folding.foreground if criterion.domain == "foreground" else folding.grid


def _capital(text: str) -> str:
    # A symbol such as λ or h stays as it is.
    return text[0].upper() + text[1:] if text.startswith("the ") else text


# How the setting was chosen


def was_chosen(report: Report) -> bool:
    """Tell whether there is anything to say about the choice: a user's own number needs no reasons."""
    return report.choice.by != "user" or report.choice.predicted is not None or report.limit_met is not None


def who_chose(report: Report) -> str:
    """Say who chose the setting."""
    space = report.engine.space
    if report.choice.by == "predictor":
        which = f" {name(report.predictor)}" if report.predictor else ""
        counted = report.choice.predicted
        by_other = counted is not None and report.criterion is not None and counted.measure(report.criterion.goal) != "mean_dice"
        by = f", by what {name(report.further)} expects" if report.further and by_other else ""
        return f"The predictor{which} chose {subject(space)} before anything was registered{by}."
    if report.choice.by == BOOTSTRAP:
        predicted = report.choice.predicted
        if predicted is not None and report.criterion is not None and chooses_default(predicted, report.criterion):
            return (
                f"{_capital(subject(space))} was chosen before this registration, by its nearness to the engine's default: the "
                "goal is overlap, of which coarse trial registrations of the pair tell nothing (the bootstrap rule)."
            )
        return (
            f"{_capital(subject(space))} was chosen before this registration, by coarse trial registrations of the pair against "
            "a truth that is known (the bootstrap rule)."
        )
    if report.choice.by == "fixed":
        return f"No prediction could be used, so the first {subject(space, '')} was the fixed one, the same for every pair."
    return f"{_capital(subject(space))} was given by the user."


def criterion_words(criterion: Criterion, measure: str = "mean_dice") -> str:
    """Say by what a setting is chosen; `measure` : what counts, one of `prediction.MEASURES`."""
    by_default = criterion.goal == "overlap" and measure == "error_mm"
    rules = {"mean_dice": _RULES, "overlap_gain": _RULES_OF_GAINS, "error_mm": _RULES_OF_ERRORS}[measure]
    words = "nearest to the engine's default" if by_default else rules[criterion.rule].format(tolerance=criterion.tolerance)
    counted = {structure: weight for structure, weight in criterion.structures.items() if weight > 0}
    kind = "lowest" if criterion.combine == "worst" else "weighted mean" if counted else "mean"
    among = ", ".join(f"{name(one)} (weight {weight:g})" for one, weight in counted.items()) or "all structures"
    counts = {
        "mean_dice": f"Dice is the {kind} of {among}",
        "overlap_gain": "the goal is overlap, as a share of what the affine step leaves",
        "error_mm": {
            "accuracy": "the goal is accuracy in mm",
            "overlap": "the goal is overlap, of which nothing is predicted",
            "auto": "no Dice is predicted",
        }[criterion.goal],
    }[measure]
    if criterion.folding_limit is None:
        return f"{words}; {counts}; no folding limit"
    end = f"the upper end of the 90{_NO_BREAK}% band" if criterion.cautious else "the best guess"
    limit = f"{end} of folding under {criterion.folding_limit:g} % of the {criterion.domain}"
    return f"{words}, with {limit}; {counts}"


def reliability_meaning(reliability: Reliability, predictor: str) -> str:
    """Say in a sentence what a level of reliability means, of the predictor of that name."""
    return (_LEVELS_OF_BOOTSTRAP if predictor == BOOTSTRAP else _LEVELS)[reliability.level]


def reliability_words(reliability: Reliability, predictor: str) -> str:
    """Say how reliable a prediction is, what that means, and why."""
    return f"{reliability.level.capitalize()}: {' '.join((reliability_meaning(reliability, predictor), *reliability.reasons))}"


def comparison_rows(report: Report) -> list[ComparisonRow]:
    """Return what was predicted beside what was measured, at the first setting and, where it had to be corrected, at the last.

    Dice is measured for the result alone, so it is compared there.
    """
    return [
        ComparisonRow(
            setting(report.engine.space, one.setting),
            _row_title(one),
            banded_percent(one.predicted) if one.what.startswith("folding") else banded(one.predicted),
            measured_text(one),
            f"{one.lies} the band" if one.lies else DASH,
            one.lies in ("below", "above"),
        )
        for one in report.comparisons
    ]


def predicted_dice(report: Report) -> dict[int, BandValue]:
    """Return the Dice that was predicted for the result, for each measured structure that has one, by label."""
    predicted, dice = report.predicted_at_result, report.measured.dice
    if predicted is None or dice is None:
        return {}
    measured = {structure.label for structure in dice.structures}
    return {structure.label: structure.dice for structure in predicted.structures if structure.label in measured}


def measured_dice(report: Report) -> float | None:
    """Return the measured mean Dice that may stand beside the predicted one: over the structures that were predicted."""
    return next((one.measured for one in report.comparisons if one.what == "dice"), None)


def trial_rows(report: Report) -> list[TrialRow]:
    """Return every setting that was registered with."""
    limited = report.criterion is not None and report.criterion.folding_limit is not None
    return [
        TrialRow(
            count,
            setting(report.engine.space, trial.setting),
            percent(trial.folding_percent.foreground),
            percent(trial.folding_percent.grid),
            spread(trial.sd_log_jacobian),
            ("kept" if trial.within_limit else "over the limit") if limited else "no limit",
            limited and not trial.within_limit,
            number(trial.seconds, 1),
        )
        for count, trial in enumerate(report.trials, start=1)
    ]


def _row_title(one: Comparison) -> str:
    words = what_words(one).removeprefix("the ")
    title = words[0].upper() + words[1:]
    return f"{title} (predicted for {one.structures_predicted})" if one.structures < one.structures_predicted else title


# What is predicted


def first_line_of_prediction(prediction: Prediction) -> str:
    """Say in one sentence what is suggested; with an unreliable prediction, first of all, that nothing is."""
    predicted, criterion, space = prediction.choice.predicted, prediction.criterion, prediction.surface.space
    none = f"No {subject(space, '')}"
    if is_unreliable(prediction) or predicted is None:
        fixed = setting(space, prediction.choice.fixed)
        return f"{none} is suggested, because {AGAINST}: start from the fixed {fixed} and measure what comes out."
    here = setting(space, prediction.choice.setting)
    if predicted.mean_dice is None and prediction.choice.feasible:
        parts = expectation_parts(predicted, prediction.outlook, criterion)
        return f"{here} is suggested: {', '.join(parts)}; {prediction.reliability.level}."
    folding = predicted.folding_foreground if criterion.domain == "foreground" else predicted.folding_grid
    quality = _quality_words(predicted, criterion.goal)
    what = f"predicted are {quality} and {banded_percent(folding)} of the {criterion.domain} folded"
    if not prediction.choice.feasible and criterion.folding_limit is not None:
        return (
            f"{none} is predicted to keep folding under {criterion.folding_limit:g} % of the {criterion.domain}; "
            f"{here} should fold least: {what}."
        )
    return f"{here} is suggested: {what}."


def _quality_words(predicted: Predicted, goal: str) -> str:
    counted = predicted.quality(goal)
    return {
        "mean_dice": lambda: f"a mean Dice of {banded(counted)}",
        "overlap_gain": lambda: f"a gain of overlap of {banded_gain(counted)}",
        "error_mm": lambda: f"an error of {banded_mm(counted)}",
    }[predicted.measure(goal)]()


def is_unreliable(prediction: Prediction) -> bool:
    """Tell whether the predictor declines to suggest anything."""
    return prediction.reliability.level == "unreliable"


# What the words mean


def glossary(space: SearchSpace) -> tuple[tuple[str, str], ...]:
    """Return (term, meaning) pairs for the reader who is new to them."""
    return (*_parameter_terms(space), *_TERMS.items())


def prediction_glossary(space: SearchSpace) -> tuple[tuple[str, str], ...]:
    """Return (term, meaning) pairs for the reader of a prediction."""
    return (*_parameter_terms(space), *((term, _TERMS[term]) for term in _TERMS_OF_PREDICTIONS), _BAND)


def _parameter_terms(space: SearchSpace) -> tuple[tuple[str, str], ...]:
    return tuple((f"{p.symbol} ({p.title[:1].lower()}{p.title[1:]})", p.tooltip) for p in space)
