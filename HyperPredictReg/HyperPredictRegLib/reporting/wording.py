"""The words of a report: its verdict, and what its terms mean."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from HyperPredictRegLib.engines.base import Hyperparameter
from HyperPredictRegLib.job import Distances, Report

DASH = "–"

_SAME_DICE = 0.005


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with fixed digits; a dash for one that is missing or not finite."""
    if value is None or not math.isfinite(value):
        return DASH
    text = f"{value:.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}") if float(text) != 0 else text.lstrip("-")


def short(value: float | None) -> str:
    """Return a number with four significant digits, for values of unknown size."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def percent(value: float | None) -> str:
    """Return a share in percent; a tiny one is never rounded to nothing."""
    if value is None or not math.isfinite(value):
        return DASH
    if 0 < value < 0.01:
        return "under 0.01 %"
    return "0 %" if value == 0 else f"{value:.2f} %"


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


def all_warnings(report: Report) -> tuple[str, ...]:
    """Return the warnings of the job and of its alignment, each once."""
    return tuple(dict.fromkeys((*report.warnings, *report.alignment.warnings)))


def start_of(report: Report) -> str:
    """Say what the moving image had been through before the deformable step."""
    return "affine alignment" if report.job.initial_transform is None else "the given initial transform"


def why_no_overlap(report: Report) -> str:
    """Say why Dice was not measured."""
    if report.job.fixed_labels is None or report.job.moving_labels is None:
        return "labels were not given for both images"
    return "no structure is present in both label maps"


def verdict(report: Report) -> str:
    """Say in one sentence what came out."""
    measured = report.measured
    parts = [_agreement(report), _folding(measured.folding_percent.foreground)]
    there_and_back = measured.inverse_consistency_mm.mean
    if math.isfinite(there_and_back):
        parts.append(f"going there and back misses the start by {number(there_and_back)} mm on average")
    count = len(all_warnings(report))
    warned = {0: "there are no warnings", 1: "there is 1 warning to read below"}
    parts.append(warned.get(count, f"there are {count} warnings to read below"))
    return "; ".join(parts) + "."


def needs_attention(report: Report) -> bool:
    """Tell whether anything calls for a second look: folds beyond the limit, a warning, or an agreement that got worse."""
    measured = report.measured
    dice, landmarks, landmarks_before = measured.dice, measured.tre_mm, measured.tre_before_mm
    worse = dice is not None and dice.mean < dice.mean_before - _SAME_DICE
    astray = landmarks is not None and landmarks_before is not None and landmarks.mean > landmarks_before.mean
    # Written so that a folding that could not be measured counts as well. Folds that the user's limit allows do not.
    folded = report.limit_kept is not True and measured.folding_percent.foreground != 0
    return worse or astray or folded or bool(all_warnings(report))


def _agreement(report: Report) -> str:
    measured = report.measured
    dice, tre, tre_before = measured.dice, measured.tre_mm, measured.tre_before_mm
    if dice is not None and dice.structures and math.isfinite(dice.mean):
        count = len(dice.structures)
        what = f"the mean Dice of {count} structures" if count > 1 else "the Dice of the one structure"
        if not math.isfinite(dice.mean_before):
            return f"After registration {what} is {number(dice.mean, 3)}"
        change = dice.mean - dice.mean_before
        course = f"from {number(dice.mean_before, 3)} to {number(dice.mean, 3)}"
        if abs(change) < _SAME_DICE:
            return f"Registration left {what} about where it was, {course}"
        return f"Registration {'raised' if change > 0 else 'lowered'} {what} {course}"
    if tre is not None and tre_before is not None:
        return f"Registration took the mean landmark error from {_mean(tre_before)} to {_mean(tre)}"
    return f"Registration finished; overlap was not measured, because {why_no_overlap(report)}"


def _mean(distances: Distances) -> str:
    return f"{number(distances.mean)} mm"


def _folding(foreground: float) -> str:
    if not math.isfinite(foreground):
        return "folding could not be measured"
    if foreground == 0:
        return "no voxel of the foreground is folded"
    return f"{percent(foreground)} of the foreground is folded"


def glossary(hyperparameters: Sequence[Hyperparameter]) -> tuple[tuple[str, str], ...]:
    """Return (term, meaning) pairs for the reader who is new to them."""
    own = tuple((f"{h.symbol} ({h.name.replace('_', ' ')})", h.meaning) for h in hyperparameters)
    return (*(own or (_WEIGHT,)), *_TERMS)


def prediction_glossary(hyperparameters: Sequence[Hyperparameter]) -> tuple[tuple[str, str], ...]:
    """Return (term, meaning) pairs for the reader of a prediction."""
    used = ("Dice", "Jacobian determinant", "Folding", "Foreground and box")
    return (*(pair for pair in glossary(hyperparameters) if pair not in _TERMS or pair[0] in used), _BAND)


_BAND = (
    "90 % band",
    "About 9 in 10 true values are expected inside it, for pairs like those that the predictor was trained on.",
)

_WEIGHT = (
    "λ (regularisation weight)",
    "How strongly the engine prefers a smooth deformation to a close fit. Larger is smoother.",
)

_TERMS = (
    (
        "Dice",
        "Overlap of two outlines of one structure: 0 is none, 1 is perfect. For the same error in mm, small or thin "
        "structures score lower.",
    ),
    (
        "HD95",
        "95 % of the surface of one outline lies within this many mm of the other. It shows the worst places, but not "
        "single stray voxels.",
    ),
    ("Mean surface distance", "How far apart the two outlines are on average, in mm."),
    (
        "Jacobian determinant",
        "Local change of volume from fixed to moving: 1 keeps it; 2 means that moving tissue was shrunk to half its "
        "volume to fit; 0.5 that it was stretched to double.",
    ),
    (
        "Folding",
        "Share of voxels whose Jacobian determinant is 0 or less: there space is turned inside out, which anatomy cannot do.",
    ),
    (
        "Inverse consistency",
        "How far from its start a point of the fixed image ends after going to the moving image and back.",
    ),
    (
        "Foreground and box",
        "The foreground is the anatomy of the fixed image; the box is the whole working grid, background included.",
    ),
    (
        "Before and after",
        "Before: with the start alone, which as a rule is an affine alignment that moves, turns, scales and shears the "
        "image as a whole. After: with the deformable registration on top.",
    ),
)
