"""What all pages share: pictures with captions, templates, and writing: a part that fails is named, and no half a file stays."""

from __future__ import annotations

import base64
import html
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from HyperPredictRegLib.core.search_space import SearchSpace
from HyperPredictRegLib.reporting import wording
from HyperPredictRegLib.reporting.sheet import DARK, LIGHT, Theme, compact, png
from HyperPredictRegLib.results.formatting import QUALITY_WORDS, banded

_log = logging.getLogger(__name__)

_FOLDER = Path(__file__).parent
_MOST_DRAWN = 2


@dataclass(frozen=True)
class Caption:
    """The words of one picture, by its role among the outputs."""

    role: str
    title: str
    text: str
    alternative: str


@dataclass(frozen=True)
class Picture:
    """A part of the page that is drawn.

    Attributes
    ----------
    caption : its role in the job's outputs and its words.
    png : the picture as it is written beside the page, or None where it could not be made.
    shown : the picture as the page holds it, PNG or JPEG.
    shown_dark : another version for dark paper, if it needs one.
    problem : why it could not be made.
    """

    caption: Caption
    png: bytes | None = None
    shown: bytes | None = None
    shown_dark: bytes | None = None
    problem: str = ""

    @property
    def source(self) -> str:
        """The picture as a data URI."""
        return _data_uri(self.shown)

    @property
    def dark_source(self) -> str:
        """The dark version as a data URI, or an empty text."""
        return _data_uri(self.shown_dark)


@dataclass(frozen=True)
class KeyNumber:
    """One of the main numbers: what it is, its value, and a remark in small print."""

    title: str
    value: str
    remark: str = ""


def curves_caption(space: SearchSpace, *, trusted: bool, measure: str = "mean_dice") -> Caption:
    """Return the words of the picture of what was predicted for every setting; see `can_be_drawn`.

    `measure` : what it shows beside folding, one of `prediction.MEASURES`.
    """
    quality = QUALITY_WORDS[measure] if measure == "mean_dice" else f"the expected {QUALITY_WORDS[measure]}"
    what = f"What was predicted for every {wording.subject(space, '')} before anything was registered."
    scale = "The scale of folding is logarithmic down to 0.001 %, which counts as none"
    if len(space) == 1:
        bands = "About 90 % of true values lie inside the bands." if trusted else "Neither curves nor bands hold for this pair."
        return Caption(
            "curves_picture", "Predicted curves", f"{what} {bands} {scale}, and linear from there to 0.",
            f"Curves of {quality} and of folding over {space.first.symbol}, with their bands, the folding limit and the choice",
        )  # fmt: skip
    axes = " and ".join(parameter.symbol for parameter in space)
    limit = "Along the line the upper end of the 90 % band of folding is at the limit; beyond it, hatched, it is above."
    return Caption(
        "curves_picture", "Predicted maps", f"{what} {limit if trusted else 'It does not hold for this pair.'} {scale}.",
        f"Maps of {quality} and of folding over {axes}, with the folding limit and the choice",
    )  # fmt: skip


def can_be_drawn(space: SearchSpace) -> bool:
    """Tell whether a picture can show a prediction for all settings: curves for one parameter, maps for two."""
    return len(space) <= _MOST_DRAWN


def made_picture(caption: Caption, draw: Callable[[], Any], draw_dark: Callable[[], Any] | None = None) -> Picture:
    """Draw a picture, and its version for dark paper if it needs one; where it cannot be drawn, the picture holds the reason."""
    try:
        light = png(draw())
        dark = compact(png(draw_dark())) if draw_dark is not None else None
        return Picture(caption, png=light, shown=compact(light), shown_dark=dark)
    except Exception as error:  # whatever a drawing library may raise, the numbers themselves are fine
        _log.warning("the picture '%s' could not be made", caption.role, exc_info=True)
        return Picture(caption, problem=_reason(error))


def themed_picture(caption: Caption, draw: Callable[[Theme], Any]) -> Picture:
    """Draw a picture for light and for dark paper, see `made_picture`."""
    return made_picture(caption, lambda: draw(LIGHT), lambda: draw(DARK))


def write_pictures(pictures: Sequence[Picture], folder: Path) -> dict[str, str]:
    """Write the pictures that could be made as PNG files; return their names by role."""
    written = {}
    for picture in pictures:
        if picture.png is not None:
            role = picture.caption.role
            written[role] = role.removesuffix("_picture") + ".png"
            replace_file(folder / written[role], picture.png)
    return written


def write_page(path: Path, full: Callable[[], str], plain: Callable[[str], str]) -> None:
    """Write a page, or, where it cannot be made, the plain one, which is given the reason."""
    try:
        text = full()
    except Exception as error:  # a bare page is better than work lost at its last step
        _log.warning("the page '%s' could not be made", path.name, exc_info=True)
        text = plain(_reason(error))
    replace_file(path, text.encode("utf-8", errors="replace"))


def replace_file(path: Path, content: bytes) -> None:
    """Write under a temporary name first, so that no half a file ever bears the right one."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(content)
    temporary.replace(path)


def render_template(template: str, **values: Any) -> str:
    """Return a page from a template beside this file, given the style and the filters that all pages share.

    Raises
    ------
    ImportError : jinja2 is not installed.
    """
    import jinja2

    # select_autoescape goes by file endings and would leave a .jinja file unescaped.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=_shown,
    )  # fmt: skip
    environment.filters.update(
        number=wording.number, short=wording.short, percent=wording.percent, name=wording.name, file_name=wording.file_name,
        words=lambda text: text.replace("_", " "), banded=banded,
        bar=lambda value: f"{100 * min(1.0, max(0.0, value)):.1f}%" if value == value else "0%",
    )  # fmt: skip
    style = (_FOLDER / "report.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(style=style, **values)


def plain_page(title: str, lines: Sequence[str], warnings: Sequence[str], problem: str) -> str:
    """Return a bare page of sentences and warnings, which needs nothing; it ends with why the full one could not be made."""
    title = html.escape(title)
    first, *rest = [f"<p>{html.escape(wording.printable(line))}</p>" for line in lines if line]
    items = "".join(f"<li>{html.escape(wording.name(text))}</li>" for text in warnings)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/><title>{title}</title></head><body>{first}'
        f"<h1>{title}</h1>" + "".join(rest) + (f"<ul>{items}</ul>" if items else "")
        + f"<p>The full page could not be made {html.escape(wording.printable(problem))}</p></body></html>\n"
    )  # fmt: skip


def _reason(error: Exception) -> str:
    if isinstance(error, ImportError):
        library = (error.name or "a library").partition(".")[0]
        return f"{library} could not be loaded; install it and write the report again."
    return f"{error}" if str(error) else type(error).__name__


def _shown(value: Any) -> Any:
    """Keep markup and numbers as they are; clean every other text on its way into the page."""
    if value is None or (isinstance(value, float) and value != value):
        return wording.DASH
    # No line end tears a number from its unit.
    return re.sub(r"(?<=\d) (?=%|mm\b)", "\N{NO-BREAK SPACE}", wording.printable(value)) if type(value) is str else value


def _data_uri(image: bytes | None) -> str:
    if not image:
        return ""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"
