"""Turn an outcome into pictures and one page that a physician can show and a researcher can check."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from HyperPredictRegLib.engines.base import Hyperparameter
from HyperPredictRegLib.outcome import Outcome
from HyperPredictRegLib.reporting import captions, choice_wording, curve_figures, figures, outlines, page, traces
from HyperPredictRegLib.reporting.foresight import write_prediction
from HyperPredictRegLib.reporting.making import made_picture, reason, replace_file, write_pictures
from HyperPredictRegLib.reporting.sheet import DARK, LIGHT, Theme

__all__ = ["write_prediction", "write_report"]

_log = logging.getLogger(__name__)


def write_report(outcome: Outcome, folder: Path, hyperparameters: Sequence[Hyperparameter] = ()) -> dict[str, str]:
    """Write report.html and the pictures it shows into a folder.

    What cannot be drawn, because matplotlib is missing or for any other reason, is named in the page with the reason;
    only a folder that cannot be written to is an error.

    Parameters
    ----------
    outcome : what the job produced.
    folder : where to write; made if it does not exist. Files of the same names are replaced.
    hyperparameters : ``engine.hyperparameters``, for symbols, units and ranges.

    Returns
    -------
    The file name in `folder` for each role: "report_page" always, and "overlay_picture", "checkerboard_picture",
    "jacobian_picture", "deformed_grid_picture", "outlines_picture", "curves_picture" and "trace_picture" where they could be
    made.

    Raises
    ------
    OSError : the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = _pictures(outcome, hyperparameters)
    written = write_pictures(pictures, folder)
    try:
        text = page.render_page(outcome.report, pictures, hyperparameters)
    except Exception as error:  # a page without pictures is better than a job lost at its last step
        _log.warning("the report page could not be made", exc_info=True)
        text = page.plain_page(outcome.report, reason(error))
    written["report_page"] = "report.html"
    replace_file(folder / "report.html", text.encode("utf-8", errors="replace"))
    return written


def _pictures(outcome: Outcome, hyperparameters: Sequence[Hyperparameter] = ()) -> list[page.Picture]:
    levels = (*outcome.report.alignment.stages, *outcome.report.registration)
    words = captions.captions(outcome)
    scene = functools.cache(lambda: figures.Scene.of(outcome))
    drawings: dict[str, tuple[Callable[[], Any], ...]] = {
        "overlay_picture": (lambda: figures.draw_overlay(scene()),),
        "checkerboard_picture": (lambda: figures.draw_checkerboard(scene()),),
        "jacobian_picture": (lambda: figures.draw_jacobian(scene()),),
        "deformed_grid_picture": (lambda: figures.draw_deformed_grid(scene(), outcome),),
        "outlines_picture": (lambda: outlines.draw_outlines(outcome),),
        "curves_picture": (
            lambda: _draw_curves(outcome, hyperparameters, LIGHT), lambda: _draw_curves(outcome, hyperparameters, DARK),
        ),
        "trace_picture": (lambda: traces.draw_trace(levels, LIGHT), lambda: traces.draw_trace(levels, DARK)),
    }
    return [made_picture(caption, *drawings[role]) for role, caption in words.items()]


def _draw_curves(outcome: Outcome, hyperparameters: Sequence[Hyperparameter], theme: Theme) -> Any:
    report, curves = outcome.report, outcome.curves
    if curves is None:
        raise ValueError("There are no curves to draw.")
    name = curves.names[0]
    marks = curve_figures.Marks(
        chosen=report.predicted.hyperparameters.get(name) if report.predicted is not None else None,
        fixed=report.trials[0].hyperparameters.get(name) if report.chosen_by == "fixed" and report.trials else None,
        trials=report.trials,
        measured_dice=choice_wording.measured_dice(report),
        trusted=report.verdict is None or choice_wording.light(report.verdict).colour != "red",
        hyperparameter=next((h for h in hyperparameters if h.name == name), None),
    )
    return curve_figures.draw_curves(curves, report.criterion or report.job.criterion, marks, theme)
