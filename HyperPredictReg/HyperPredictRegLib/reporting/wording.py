"""The words of a report: its verdict, and what its terms mean."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from HyperPredictRegLib.engines.base import Hyperparameter
from HyperPredictRegLib.job import Report
from HyperPredictRegLib.lengths import DASH, distance, number, spread
from HyperPredictRegLib.quality import SAME_DICE
from HyperPredictRegLib.selection.printed import percent, short

__all__ = [
    "DASH", "all_warnings", "distance", "file_name", "glossary", "name", "needs_attention", "number", "outcome_words", "percent",
    "prediction_glossary", "printable", "short", "spread", "start_of", "verdict", "voxel_mm", "why_no_overlap",
]


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


def voxel_mm(report: Report) -> float:
    """Return the smallest spacing of the working grid, in mm, beside which distances are printed."""
    return min(report.working_grid.spacing)


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
        parts.append(f"going there and back misses the start by {distance(there_and_back, voxel_mm=voxel_mm(report))} on average")
    count = len(all_warnings(report))
    warned = {0: "there are no warnings", 1: "there is 1 warning to read below"}
    parts.append(warned.get(count, f"there are {count} warnings to read below"))
    return "; ".join(parts) + "."


def outcome_words(report: Report) -> tuple[str, ...]:
    """Say in parts of a sentence what a registration with a given λ came to: folding, and agreement where it was measured."""
    measured = report.measured
    folded, agreement = _folding(measured.folding_percent.foreground), _agreement(report)
    if (measured.dice is None or not measured.dice.structures) and measured.tre_mm is None:
        return (folded,)
    return folded, agreement[0].lower() + agreement[1:]


def needs_attention(report: Report) -> bool:
    """Tell whether anything calls for a second look: folds beyond the limit, a warning, or an agreement that got worse."""
    measured = report.measured
    dice, landmarks, landmarks_before = measured.dice, measured.tre_mm, measured.tre_before_mm
    worse = dice is not None and dice.mean < dice.mean_before - SAME_DICE
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
        if abs(change) < SAME_DICE:
            return f"Registration left {what} about where it was, {course}"
        return f"Registration {'raised' if change > 0 else 'lowered'} {what} {course}"
    if tre is not None and tre_before is not None:
        before, after = (distance(one.mean, voxel_mm=voxel_mm(report)) for one in (tre_before, tre))
        return f"Registration took the mean landmark error from {before} to {after}"
    return f"Registration finished; overlap was not measured, because {why_no_overlap(report)}"


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
