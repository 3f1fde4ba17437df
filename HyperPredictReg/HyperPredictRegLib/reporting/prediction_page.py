"""The page about a prediction, with its table of numbers and the pictures beside it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.formatting import distance
from HyperPredictRegLib.reporting import prediction_figures, wording
from HyperPredictRegLib.reporting.outlook import affine_error, chances, gain_at
from HyperPredictRegLib.reporting.page import (
    Caption,
    KeyNumber,
    Picture,
    can_be_drawn,
    curves_caption,
    plain_page,
    render_template,
    replace_file,
    themed_picture,
    write_page,
    write_pictures,
)
from HyperPredictRegLib.results.exchange import prediction_to_json
from HyperPredictRegLib.results.formatting import (
    QUALITY_WORDS,
    band,
    banded,
    gain_percent,
    percent_band,
    predicted_percent,
    quality_text,
)
from HyperPredictRegLib.results.prediction import (
    BOOTSTRAP,
    Band,
    Outlook,
    Predicted,
    Prediction,
    PredictionSurface,
    StructureChoice,
)
from HyperPredictRegLib.selection.interpolation import predict_at

_SAME_DICE = 0.0005


@dataclass(frozen=True)
class StructureRow:
    """One structure with its own choice, as text; Dice with its band."""

    name: str
    label: int
    setting: str
    dice: str
    dice_at_choice: str
    gain: str


def write_prediction(prediction: Prediction, folder: Path) -> dict[str, str]:
    """Write a prediction into a folder: prediction.json, curves.csv, pictures and prediction.html.

    The numbers are written first. What cannot be drawn, because matplotlib is missing or for any other reason, is named in the
    page with the reason; without jinja2 the page is a bare one.

    Parameters
    ----------
    prediction : what was predicted and chosen.
    folder : where to write; made if it does not exist. Files of the same names are replaced.

    Returns
    -------
    The file name in `folder` for each role: "prediction", "curves_table" and "prediction_page" always, "curves_picture" for one
    or two parameters and "structures_picture" for one, where they could be made.

    Raises
    ------
    OSError : the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = {"prediction": "prediction.json", "curves_table": "curves.csv"}
    replace_file(folder / written["prediction"], prediction_to_json(prediction).encode("utf-8", errors="replace"))
    replace_file(folder / written["curves_table"], curves_table(prediction.surface).encode("utf-8", errors="replace"))
    pictures = _pictures(prediction)
    written |= write_pictures(pictures, folder)
    written["prediction_page"] = "prediction.html"
    write_page(
        folder / "prediction.html",
        lambda: render_prediction(prediction, pictures),
        lambda problem: plain_prediction(prediction, problem),
    )
    return written


def render_prediction(prediction: Prediction, pictures: Sequence[Picture]) -> str:
    """Return the page as HTML text; with an unreliable prediction it suggests nothing and says so first.

    Parameters
    ----------
    prediction : what was predicted and chosen.
    pictures : in the order of the page; those without a PNG are named with their problem.

    Raises
    ------
    ImportError : jinja2 is not installed; `plain_prediction` needs nothing.
    """
    unreliable, space = wording.is_unreliable(prediction), prediction.surface.space
    return render_template(
        "prediction.html.jinja",
        prediction=prediction,
        title=_title(prediction),
        unreliable=unreliable,
        attention=not prediction.choice.feasible or prediction.reliability.level != "reliable",
        first_line=wording.first_line_of_prediction(prediction),
        chances=chances(prediction.outlook),
        made_by=_made_by(prediction),
        reliability_meaning=wording.reliability_meaning(prediction.reliability, prediction.predictor),
        key_numbers=[] if unreliable else _key_numbers(prediction),
        chosen=wording.setting(space, prediction.choice.setting),
        structures=[] if unreliable else _structure_rows(prediction),
        criterion=wording.criterion_words(prediction.criterion, prediction.surface.measure(prediction.criterion.goal)),
        fixed=wording.setting(space, prediction.choice.fixed),
        given=_given(prediction),
        pictures=pictures,
        problems=[picture for picture in pictures if picture.problem],
        undrawn=() if can_be_drawn(space) else tuple(parameter.symbol for parameter in space),
        total_seconds=sum(prediction.seconds.values()),
        glossary=wording.prediction_glossary(space),
    )


def plain_prediction(prediction: Prediction, problem: str) -> str:
    """Return a bare page with the sentences alone, for where the full one cannot be made."""
    lines = (
        wording.first_line_of_prediction(prediction),
        wording.reliability_words(prediction.reliability, prediction.predictor),
        prediction.choice.sentence,
    )
    where = f"({wording.name(problem)}). All numbers are in prediction.json and curves.csv."
    return plain_page(_title(prediction), lines, prediction.warnings, where)


def curves_table(surface: PredictionSurface) -> str:
    """Return a predicted surface as CSV text, one row per setting, in their order; a number that is missing is an empty cell.

    Columns, each quantity followed by its 90 % band as ``<quantity>_lower`` and ``<quantity>_upper``:

    - one per parameter, by its name, for example ``regularization_weight``; no band;
    - ``mean_dice`` : mean Dice of the structures below, 0 to 1, where it is predicted;
    - ``overlap_gain`` : the share of what the affine step leaves of overlap that deforming is expected to win, where predicted;
    - ``error_mm``, ``error_95_mm`` : the expected error, median and 95th percentile over the fixed foreground, where predicted;
    - ``folding_foreground_percent``, ``folding_grid_percent`` : folded voxels in percent of the fixed foreground, and of the
      whole working grid;
    - ``sd_log_jacobian`` : standard deviation of the logarithm of the Jacobian determinant over the foreground;
    - ``dice_<label>_<name>`` : Dice of one structure, by label value and name, 0 to 1.
    """
    columns: list[tuple[str, np.ndarray]] = [(name, surface.values[:, n]) for n, name in enumerate(surface.names)]
    for name in ("mean_dice", "overlap_gain", "error_mm", "error_95_mm"):
        columns += [] if name not in surface.bands else _banded(name, surface.bands[name])
    columns += _banded("folding_foreground_percent", surface.folding_foreground)
    columns += _banded("folding_grid_percent", surface.folding_grid)
    columns += _banded("sd_log_jacobian", surface.sd_log_jacobian)
    for row, (name, label) in enumerate(zip(surface.structures, surface.labels, strict=True)):
        columns += _banded(f"dice_{label}_{' '.join(wording.name(name).split())}", surface.dice[row])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([name for name, _ in columns])
    for n in range(len(surface.values)):
        writer.writerow([_cell(float(values[n])) for _, values in columns])
    return text.getvalue()


def _banded(name: str, band: Band) -> list[tuple[str, np.ndarray]]:
    return [(name, band.value), (f"{name}_lower", band.lower), (f"{name}_upper", band.upper)]


def _cell(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else ""


def _pictures(prediction: Prediction) -> list[Picture]:
    surface, unreliable = prediction.surface, wording.is_unreliable(prediction)
    if not can_be_drawn(surface.space):
        return []
    marks = prediction_figures.Marks(
        chosen=None if unreliable else prediction.choice.setting, trusted=not unreliable,
        fixed=None if _at_fixed(prediction) is None else prediction.choice.fixed,
        affine_error_mm=affine_error(prediction.outlook),
    )  # fmt: skip
    pictures = [
        themed_picture(
            curves_caption(surface.space, trusted=not unreliable, measure=surface.measure(prediction.criterion.goal)),
            lambda theme: prediction_figures.draw_prediction(surface, prediction.criterion, marks, theme),
        )
    ]
    if surface.structures and len(surface.space) == 1:
        caption = _structures_caption(surface.space.first.symbol, trusted=not unreliable)
        pictures.append(
            themed_picture(
                caption, lambda theme: prediction_figures.draw_structures(surface, prediction.structures, marks, theme)
            )
        )
    return pictures


def _structures_caption(symbol: str, *, trusted: bool) -> Caption:
    own = f" The blue line and figure are the {symbol} that would suit that structure best under the same criterion."
    return Caption(
        "structures_picture",
        "Predicted Dice of every structure",
        "All panels span the same difference of Dice, each around its own curve, so that slopes compare by eye."
        + (own if trusted else ""),
        f"Small curves of the predicted Dice of every structure over {symbol}",
    )


def _title(prediction: Prediction) -> str:
    return f"Before registering {wording.file_name(prediction.job.moving)} to {wording.file_name(prediction.job.fixed)}"


def _made_by(prediction: Prediction) -> str:
    if prediction.predictor == BOOTSTRAP:
        return "from coarse trial registrations of this very pair against a known truth (the bootstrap rule)"
    more = f", errors and gain of overlap by {wording.name(prediction.further)}" if prediction.further else ""
    return f"by the predictor {wording.name(prediction.predictor)}{more}"


def _key_numbers(prediction: Prediction) -> list[KeyNumber]:
    choice, number, domain, space = prediction.choice, wording.number, prediction.criterion.domain, prediction.surface.space
    predicted = choice.predicted
    if predicted is None:
        return []
    fixed_words = wording.setting(space, choice.fixed)
    spread = predicted.sd_log_jacobian
    numbers = [
        KeyNumber(
            "Suggested" if choice.feasible else "Should fold least",
            wording.setting(space, choice.setting),
            f"the fixed one is {fixed_words}",
        ),
        *_quality_numbers(predicted, prediction.outlook),
        *(
            KeyNumber(f"Folding of the {of}", predicted_percent(share.value), f"90 % band {percent_band(share)}")
            for of, share in (("foreground", predicted.folding_foreground), ("grid", predicted.folding_grid))
        ),
        KeyNumber(
            "Spread", number(spread.value, 3), f"of the logarithm of the Jacobian determinant; 90 % band {band(spread)}"
        ),
    ]
    if (fixed := _at_fixed(prediction)) is not None:
        folding = fixed.folding_foreground if domain == "foreground" else fixed.folding_grid
        measure = fixed.measure(prediction.criterion.goal)
        what = QUALITY_WORDS[measure] if measure == "mean_dice" else f"expected {QUALITY_WORDS[measure]}"
        counted = quality_text(measure, fixed.quality(prediction.criterion.goal).value)
        numbers.append(
            KeyNumber(
                f"At the fixed {fixed_words}",
                f"{counted}; {predicted_percent(folding.value)}",
                f"{what}; folding of the {domain}, 90 % band {percent_band(folding)}",
            )
        )
    return numbers


def _quality_numbers(predicted: Predicted, outlook: Outlook | None) -> list[KeyNumber]:
    numbers = []
    if (dice := predicted.mean_dice) is not None:
        numbers.append(KeyNumber("Mean Dice", wording.number(dice.value, 3), f"90 % band {band(dice)}"))
    if (overlap := predicted.overlap_gain) is not None:
        remark = f"of what the affine step leaves of it; 90 % band {gain_percent(overlap.lower)} to {gain_percent(overlap.upper)}"
        numbers.append(KeyNumber("Gain of overlap", gain_percent(overlap.value), remark))
    if (error := predicted.error_mm) is not None:
        numbers.append(KeyNumber("Expected error", distance(error.value), f"median; 90 % band {band(error, 2)} mm"))
    gain = gain_at(predicted, outlook)
    if gain is not None and outlook is not None and outlook.affine_error_mm is not None:
        affine = outlook.affine_error_mm
        remark = f"off the {distance(affine.value)} ({band(affine, 2)}) of affine only"
        numbers.append(KeyNumber("Gain by deforming", distance(gain), remark))
    return numbers


def _at_fixed(prediction: Prediction) -> Predicted | None:
    """Return what is predicted for the fixed setting, or None if the prediction does not reach it."""
    fixed = prediction.choice.fixed
    if any(name not in fixed for name in prediction.surface.names):
        return None
    try:
        return predict_at(prediction.surface, fixed, prediction.predictor)
    except InputError:
        return None


def _structure_rows(prediction: Prediction) -> list[StructureRow]:
    """Return each structure's own choice, largest gain first: over its Dice at the choice of all structures together."""

    def lost(structure: StructureChoice) -> float:
        gain = structure.dice.value - structure.dice_at_choice.value
        return -gain if gain == gain else math.inf

    return [
        StructureRow(
            wording.name(s.name),
            s.label,
            wording.setting(prediction.surface.space, s.setting),
            banded(s.dice),
            banded(s.dice_at_choice),
            _signed(-lost(s)),
        )
        for s in sorted(prediction.structures, key=lambda s: (lost(s), s.label))
    ]


def _signed(value: float) -> str:
    if abs(value) < _SAME_DICE:
        return "0.000"
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}") if math.isfinite(value) else wording.DASH


def _given(prediction: Prediction) -> list[tuple[str, str]]:
    job = prediction.job
    files = (
        ("Fixed image", job.fixed), ("Moving image", job.moving), ("Moving labels", job.moving_labels),
        ("Fixed mask", job.fixed_mask), ("Moving mask", job.moving_mask), ("Initial transform", job.initial_transform),
        *((("Fixed landmarks", job.fixed_landmarks), ("Moving landmarks", job.moving_landmarks)) if job.uses_landmarks else ()),
    )  # fmt: skip
    return [(what, wording.name(path)) for what, path in files if path is not None]
