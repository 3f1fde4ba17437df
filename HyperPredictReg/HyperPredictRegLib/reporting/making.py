"""Make the parts of a page and write them: a part that fails is named, and no half a file ever bears the right name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from HyperPredictRegLib.reporting import captions, page
from HyperPredictRegLib.reporting.sheet import compact, png

_log = logging.getLogger(__name__)


def made_picture(
    caption: captions.Caption, draw: Callable[[], Any], draw_dark: Callable[[], Any] | None = None
) -> page.Picture:
    """Draw a picture, and its version for dark paper if it needs one; what cannot be drawn is kept as a reason."""
    try:
        light = png(draw())
        dark = compact(png(draw_dark())) if draw_dark is not None else None
        return page.Picture(caption, png=light, shown=compact(light), shown_dark=dark)
    except Exception as error:  # whatever a drawing library may raise, the numbers themselves are fine
        _log.warning("the picture '%s' could not be made", caption.role, exc_info=True)
        return page.Picture(caption, problem=reason(error))


def write_pictures(pictures: Sequence[page.Picture], folder: Path) -> dict[str, str]:
    """Write the pictures that could be made as PNG files; return their names by role."""
    written = {}
    for picture in pictures:
        if picture.png is not None:
            role = picture.caption.role
            written[role] = role.removesuffix("_picture") + ".png"
            replace_file(folder / written[role], picture.png)
    return written


def reason(error: Exception) -> str:
    """Say why a part could not be made."""
    if isinstance(error, ImportError):
        library = (error.name or "a library").partition(".")[0]
        return f"{library} could not be loaded; install it and write the report again."
    return f"{error}" if str(error) else type(error).__name__


def replace_file(path: Path, content: bytes) -> None:
    """Write under a temporary name first, so that no half a file ever bears the right one."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(content)
    temporary.replace(path)
