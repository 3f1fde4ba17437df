"""Turn an outcome into pictures and one page that a physician can show and a researcher can check."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from HyperPredictRegLib.engines.base import Hyperparameter
from HyperPredictRegLib.outcome import Outcome
from HyperPredictRegLib.reporting import captions, figures, outlines, page, traces
from HyperPredictRegLib.reporting.sheet import DARK, LIGHT, compact, png

__all__ = ["write_report"]

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
    "jacobian_picture", "deformed_grid_picture", "outlines_picture" and "trace_picture" where they could be made.

    Raises
    ------
    OSError : the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = _pictures(outcome)
    written = {}
    for picture in pictures:
        if picture.png is not None:
            role = picture.caption.role
            written[role] = role.removesuffix("_picture") + ".png"
            _replace(folder / written[role], picture.png)
    try:
        text = page.render_page(outcome.report, pictures, hyperparameters)
    except Exception as error:  # a page without pictures is better than a job lost at its last step
        _log.warning("the report page could not be made", exc_info=True)
        text = page.plain_page(outcome.report, _reason(error))
    written["report_page"] = "report.html"
    _replace(folder / "report.html", text.encode("utf-8", errors="replace"))
    return written


def _pictures(outcome: Outcome) -> list[page.Picture]:
    levels = (*outcome.report.alignment.stages, *outcome.report.registration)
    words = captions.captions(outcome)
    scene = functools.cache(lambda: figures.Scene.of(outcome))
    drawings: dict[str, tuple[Callable[[], Any], ...]] = {
        "overlay_picture": (lambda: figures.draw_overlay(scene()),),
        "checkerboard_picture": (lambda: figures.draw_checkerboard(scene()),),
        "jacobian_picture": (lambda: figures.draw_jacobian(scene()),),
        "deformed_grid_picture": (lambda: figures.draw_deformed_grid(scene(), outcome),),
        "outlines_picture": (lambda: outlines.draw_outlines(outcome),),
        "trace_picture": (lambda: traces.draw_trace(levels, LIGHT), lambda: traces.draw_trace(levels, DARK)),
    }
    return [_picture(caption, *drawings[role]) for role, caption in words.items()]


def _picture(caption: captions.Caption, draw: Callable[[], Any], draw_dark: Callable[[], Any] | None = None) -> page.Picture:
    try:
        light = png(draw())
        dark = compact(png(draw_dark())) if draw_dark is not None else None
        return page.Picture(caption, png=light, shown=compact(light), shown_dark=dark)
    except Exception as error:  # whatever a drawing library may raise, the registration itself is fine
        _log.warning("the picture '%s' could not be made", caption.role, exc_info=True)
        return page.Picture(caption, problem=_reason(error))


def _reason(error: Exception) -> str:
    if isinstance(error, ImportError):
        library = (error.name or "a library").partition(".")[0]
        return f"{library} could not be loaded; install it and write the report again."
    return f"{error}" if str(error) else type(error).__name__


def _replace(path: Path, content: bytes) -> None:
    """Write under a temporary name first, so that no half a file ever bears the right one."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(content)
    temporary.replace(path)
