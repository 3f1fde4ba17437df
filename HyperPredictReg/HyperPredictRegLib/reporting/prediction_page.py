"""The HTML page of a prediction, in the look of the report's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from HyperPredictRegLib.engines.base import Hyperparameter
from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.job import Predicted
from HyperPredictRegLib.prediction import Foresight, Prediction, StructureChoice
from HyperPredictRegLib.reporting import choice_wording, page, wording
from HyperPredictRegLib.selection.printed import band, banded, percent_band, predicted_percent
from HyperPredictRegLib.selection.readout import foreseen

_SAME_DICE = 0.0005


@dataclass(frozen=True)
class StructureRow:
    """One structure with its own λ*, as text; Dice with its band."""

    name: str
    label: int
    setting: str
    dice: str
    dice_at_choice: str
    gain: str


def render_page(foresight: Foresight, pictures: Sequence[page.Picture], hyperparameters: Sequence[Hyperparameter]) -> str:
    """Return the page as HTML text; with a red light it suggests nothing and says so first.

    Parameters
    ----------
    foresight : the prediction and its curves.
    pictures : in the order of the page; those without a PNG are named with their problem.
    hyperparameters : the engine's own description of its hyperparameters, for the glossary.

    Raises
    ------
    ImportError : jinja2 is not installed; `plain_page` needs nothing.
    """
    prediction = foresight.prediction
    red = choice_wording.is_red(prediction)
    return page.render_template(
        "prediction.html.jinja",
        prediction=prediction,
        title=_title(prediction),
        red=red,
        attention=red or not prediction.feasible or prediction.verdict.light == "amber",
        first_line=choice_wording.first_line_of_prediction(prediction),
        light=choice_wording.light(prediction.verdict),
        key_numbers=[] if red else _key_numbers(prediction, at_fixed(foresight)),
        structures=[] if red else structure_rows(prediction.structures),
        criterion=choice_wording.criterion_words(prediction.criterion),
        fixed=choice_wording.setting(prediction.fixed_hyperparameters),
        given=_given(prediction),
        pictures=pictures,
        problems=[picture for picture in pictures if picture.problem],
        total_seconds=sum(prediction.seconds.values()),
        glossary=wording.prediction_glossary(hyperparameters),
    )


def plain_page(prediction: Prediction, problem: str) -> str:
    """Return a bare page with the sentences alone, for where the full one cannot be made."""
    light = choice_wording.light(prediction.verdict)
    lines = (
        choice_wording.first_line_of_prediction(prediction),
        f"{light.colour.capitalize()}: {' '.join((light.meaning, *light.reasons))}",
        prediction.choice,
    )
    where = f"({wording.name(problem)}). All numbers are in prediction.json and curves.csv."
    return page.plain_text_page(_title(prediction), lines, prediction.warnings, where)


def structure_rows(structures: Sequence[StructureChoice]) -> list[StructureRow]:
    """Return each structure's own λ*, largest gain first; the gain is over its Dice at the λ* of all structures together."""
    return [
        StructureRow(
            wording.name(s.name),
            s.label,
            choice_wording.setting(s.hyperparameters),
            banded(s.dice),
            banded(s.dice_at_choice),
            _signed(s.dice.value - s.dice_at_choice.value),
        )
        for s in sorted(structures, key=lambda s: (_lost(s), s.label))
    ]


def at_fixed(foresight: Foresight) -> Predicted | None:
    """Return what is foreseen at the fixed λ, or None if the curves do not reach it."""
    fixed = foresight.prediction.fixed_hyperparameters
    if any(name not in fixed for name in foresight.curves.names):
        return None
    try:
        return foreseen(foresight.curves, fixed, foresight.prediction.predictor)
    except InputError:
        return None


def _title(prediction: Prediction) -> str:
    return f"Before registering {wording.file_name(prediction.job.moving)} to {wording.file_name(prediction.job.fixed)}"


def _lost(structure: StructureChoice) -> float:
    gain = structure.dice.value - structure.dice_at_choice.value
    return -gain if gain == gain else float("inf")


def _signed(value: float) -> str:
    if abs(value) < _SAME_DICE:
        return "0.000"
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}") if math.isfinite(value) else wording.DASH


def _key_numbers(prediction: Prediction, fixed: Predicted | None) -> list[page.KeyNumber]:
    predicted = prediction.predicted
    if predicted is None:
        return []
    word = choice_wording.setting(prediction.hyperparameters)
    number = wording.number
    chances = {"foreground": predicted.folding_foreground, "box": predicted.folding_box}
    at_fixed_words = choice_wording.setting(prediction.fixed_hyperparameters)
    dice_remark = f"90 % band {band(predicted.mean_dice)}"
    numbers = [
        page.KeyNumber("Suggested" if prediction.feasible else "Should fold least", word, f"the fixed one is {at_fixed_words}"),
        page.KeyNumber("Mean Dice", number(predicted.mean_dice.value, 3), dice_remark),
    ]
    for domain, share in chances.items():
        remark = f"90 % band {percent_band(share)}"
        numbers.append(page.KeyNumber(f"Folding of the {domain}", predicted_percent(share.value), remark))
    spread = predicted.sd_log_jacobian
    remark = f"of the logarithm of the Jacobian determinant; 90 % band {band(spread)}"
    numbers.append(page.KeyNumber("Spread", number(spread.value, 3), remark))
    if fixed is not None:
        folding = fixed.folding_foreground if prediction.criterion.domain == "foreground" else fixed.folding_box
        numbers.append(
            page.KeyNumber(
                f"At the fixed {at_fixed_words}",
                f"{number(fixed.mean_dice.value, 3)}; {predicted_percent(folding.value)}",
                f"mean Dice; folding of the {prediction.criterion.domain}, "
                f"90 % band {percent_band(folding)}",
            )
        )
    return numbers


def _given(prediction: Prediction) -> list[tuple[str, str]]:
    job = prediction.job
    files = (
        ("Fixed image", job.fixed), ("Moving image", job.moving),
        ("Fixed mask", job.fixed_mask), ("Moving mask", job.moving_mask), ("Initial transform", job.initial_transform),
    )
    return [(what, wording.name(path)) for what, path in files if path is not None]
