"""Point lists in files: tables of text, and the markups of 3D Slicer; read, and written again with all that was in them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.files import read_bounded
from HyperPredictRegLib.memory import available_bytes
from HyperPredictRegLib.points.file import PointFile, PointProblem
from HyperPredictRegLib.points.markups import parsed_markups
from HyperPredictRegLib.points.tables import parsed_fcsv, parsed_table
from HyperPredictRegLib.reading.files import check_input

__all__ = ["PointFile", "read_point_file", "read_points", "write_points"]

_MOST_BYTES = 50_000_000
_MOST_LINES = 2_000_000
# Measured for short lines, with those that are written.
_MEMORY_PER_BYTE = 120
_PARSERS: dict[str, Callable[[str], PointFile]] = {".json": parsed_markups, ".fcsv": parsed_fcsv, ".csv": parsed_table}


def read_points(path: Path | str, role: str) -> np.ndarray:
    """Read one list of points as an array of shape (n, 3), LPS mm.

    Parameters
    ----------
    path : see `read_point_file`.
    role : how to call the file in an error.

    Raises
    ------
    InputError : as `read_point_file`; or there are no points, several lists, or points without a position, so that it would not
        be known which point belongs to which of another file.
    """
    found = read_point_file(path, role)
    what = f"The {role} '{path}'"
    if found.lists > 1:
        raise InputError(f"{what} could not be read as points: it holds {found.lists} lists, but one is needed.")
    if found.without_position:
        raise InputError(
            f"{what} could not be read as points: {found.without_position} of them have no position; place or remove them."
        )
    if not len(found.points):
        raise InputError(f"{what} holds no points.")
    return found.points


def read_point_file(path: Path | str, role: str) -> PointFile:
    """Read points with all that the file says of them, to be written again at other places.

    Parameters
    ----------
    path : a Slicer markups file (.mrk.json), whose lists state their own coordinate system and unit; the older .fcsv; or a CSV
        table of mm with the columns x, y, z (LPS), l, p, s or r, a, s, such as Slicer exports. Without a header line: three
        columns in LPS, before them a running number or after them one if need be.
    role : how to call the file in an error.

    Raises
    ------
    InputError : as `check_input`; or the file is too large or damaged, or does not say clearly where its points are.
    """
    check_input(path, role)
    path = Path(path)
    what = f"The {role} '{path}'"
    parse = _PARSERS.get(path.suffix.lower())
    if parse is None:
        raise InputError(f"{what} is not a point file that can be read: give .mrk.json, .fcsv or .csv.")
    data = read_bounded(path, role, _MOST_BYTES)
    _check_memory(len(data), what)
    try:
        text = data.decode("utf-8")
        if max(text.count("\n"), text.count("\r")) > _MOST_LINES:
            raise PointProblem(f"it has more than {_MOST_LINES:,} lines")
        if "\0" in text:
            raise PointProblem("it holds NUL characters, so it is no text file")
        return parse(text)
    except UnicodeDecodeError as error:
        raise InputError(f"{what} could not be read as points: it is not UTF-8 text. Save it again as UTF-8.") from error
    except PointProblem as error:
        raise InputError(f"{what} could not be read as points: {error}.") from error


def write_points(points_lps: np.ndarray, path: Path) -> None:
    """Write points, shape (n, 3), LPS mm, as CSV or, if `path` ends in .mrk.json, as Slicer markups."""
    if path.name.endswith(".json"):
        control_points = [
            {"id": str(n + 1), "label": f"P-{n + 1}", "position": list(map(float, point))} for n, point in enumerate(points_lps)
        ]
        markup = {"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": control_points}
        path.write_text(json.dumps({"markups": [markup]}, indent=2), encoding="utf-8")
        return
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["x", "y", "z"])
        writer.writerows([[repr(float(v)) for v in point] for point in points_lps])


def _check_memory(size: int, what: str) -> None:
    free = available_bytes()
    if free is not None and size * _MEMORY_PER_BYTE > free:
        raise InputError(
            f"{what} is so long that reading it could need {size * _MEMORY_PER_BYTE / 1e9:.1f} GB of memory, but only "
            f"{free / 1e9:.1f} GB are free: divide it, or close other programs."
        )
