"""Write what was foreseen for a registration that was not made: numbers, tables, pictures and a page."""

from __future__ import annotations

import csv
import io
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from HyperPredictRegLib.curves import Band, Curves
from HyperPredictRegLib.engines.base import Hyperparameter
from HyperPredictRegLib.prediction import Foresight
from HyperPredictRegLib.records import to_json
from HyperPredictRegLib.reporting import captions, choice_wording, curve_figures, page, prediction_page, wording
from HyperPredictRegLib.reporting.making import made_picture, reason, replace_file, write_pictures
from HyperPredictRegLib.reporting.sheet import DARK, LIGHT, Theme

_log = logging.getLogger(__name__)


def write_prediction(foresight: Foresight, folder: Path, hyperparameters: Sequence[Hyperparameter] = ()) -> dict[str, str]:
    """Write a prediction into a folder: prediction.json, curves.csv, two pictures and prediction.html.

    The numbers are written first. What cannot be drawn, because matplotlib is missing or for any other reason, is named in the
    page with the reason; without jinja2 the page is a bare one.

    Parameters
    ----------
    foresight : the prediction and the curves it was read from.
    folder : where to write; made if it does not exist. Files of the same names are replaced.
    hyperparameters : ``engine.hyperparameters``, for symbols, units and ranges.

    Returns
    -------
    The file name in `folder` for each role: "prediction", "curves_table" and "prediction_page" always, and "curves_picture" and
    "structures_picture" where they could be made.

    Raises
    ------
    OSError : the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = {"prediction": "prediction.json", "curves_table": "curves.csv"}
    replace_file(folder / written["prediction"], to_json(foresight.prediction).encode("utf-8", errors="replace"))
    replace_file(folder / written["curves_table"], curves_table(foresight.curves).encode("utf-8", errors="replace"))
    pictures = _pictures(foresight, hyperparameters)
    written |= write_pictures(pictures, folder)
    try:
        text = prediction_page.render_page(foresight, pictures, hyperparameters)
    except Exception as error:  # a bare page is better than a prediction lost at its last step
        _log.warning("the page of the prediction could not be made", exc_info=True)
        text = prediction_page.plain_page(foresight.prediction, reason(error))
    written["prediction_page"] = "prediction.html"
    replace_file(folder / "prediction.html", text.encode("utf-8", errors="replace"))
    return written


def curves_table(curves: Curves) -> str:
    """Return the curves as CSV text, one row per setting, in their order; a number that is missing is an empty cell.

    Columns, each quantity followed by its 90 % band as ``<quantity>_lower`` and ``<quantity>_upper``:

    - one per hyperparameter, by its name, for example ``regularization_weight``; no band;
    - ``mean_dice`` : mean Dice of the structures below, 0 to 1;
    - ``folding_foreground_percent``, ``folding_box_percent`` : folded voxels in percent of the fixed foreground, and of the whole
      working grid;
    - ``sd_log_jacobian`` : standard deviation of the logarithm of the Jacobian determinant over the foreground;
    - ``dice_<label>_<name>`` : Dice of one structure, by label value and name, 0 to 1.
    """
    columns: list[tuple[str, np.ndarray]] = [(name, curves.values[:, n]) for n, name in enumerate(curves.names)]
    columns += _banded("mean_dice", curves.mean_dice)
    columns += _banded("folding_foreground_percent", curves.folding_foreground)
    columns += _banded("folding_box_percent", curves.folding_box)
    columns += _banded("sd_log_jacobian", curves.sd_log_jacobian)
    for row, (name, label) in enumerate(zip(curves.structures, curves.labels, strict=True)):
        columns += _banded(f"dice_{label}_{' '.join(wording.name(name).split())}", curves.dice[row])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([name for name, _ in columns])
    for n in range(len(curves.values)):
        writer.writerow([_cell(float(values[n])) for _, values in columns])
    return text.getvalue()


def _banded(name: str, band: Band) -> list[tuple[str, np.ndarray]]:
    return [(name, band.value), (f"{name}_lower", band.lower), (f"{name}_upper", band.upper)]


def _cell(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else ""


def _pictures(foresight: Foresight, hyperparameters: Sequence[Hyperparameter]) -> list[page.Picture]:
    prediction, curves = foresight.prediction, foresight.curves
    name, red = curves.names[0], choice_wording.is_red(prediction)
    marks = curve_figures.Marks(
        chosen=None if red else prediction.hyperparameters.get(name),
        fixed=prediction.fixed_hyperparameters.get(name),
        trusted=not red,
        hyperparameter=next((h for h in hyperparameters if h.name == name), None),
    )

    def draw_curves(theme: Theme) -> Callable[[], Any]:
        return lambda: curve_figures.draw_curves(curves, prediction.criterion, marks, theme)

    def draw_structures(theme: Theme) -> Callable[[], Any]:
        return lambda: curve_figures.draw_structures(curves, prediction.structures, marks, theme)

    pictures = [made_picture(captions.curves_caption(trusted=not red), draw_curves(LIGHT), draw_curves(DARK))]
    if curves.structures:
        caption = captions.structures_caption(trusted=not red)
        pictures.append(made_picture(caption, draw_structures(LIGHT), draw_structures(DARK)))
    return pictures
