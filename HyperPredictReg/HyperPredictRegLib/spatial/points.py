"""Point lists in files: tables of text, and the markups of 3D Slicer; read, and written again with all that was in them."""

from __future__ import annotations

import copy
import csv
import io
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.files import read_bounded
from HyperPredictRegLib.core.resources import available_bytes
from HyperPredictRegLib.spatial.reading.files import check_input

RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])

SYSTEMS = {"LPS": np.ones(3), "1": np.ones(3), "RAS": RAS_TO_LPS, "0": RAS_TO_LPS}
"""What makes LPS of a position, by how files of Slicer call its coordinate system."""

_LARGEST_MM = 1e12


class PointProblem(Exception):  # noqa: N818 - the reason, for the sentence that names the file
    """Say what is wrong with the content of a point file, as the part of a sentence."""


@dataclass(frozen=True)
class PointFile:
    """The points of a file that have a position.

    Attributes
    ----------
    points : shape (n, 3), LPS mm, of all lists one after another.
    lists : how many lists there are.
    without_position : points that are in a list but not placed; writing leaves them as they are.
    ending : of the file's name, in lower case: ".mrk.json", ".fcsv" or ".csv".
    rewritten : returns the text of the file for other positions, shape (n, 3), LPS mm; all else is as it was.
    """

    points: np.ndarray
    lists: int
    without_position: int
    ending: str
    rewritten: Callable[[np.ndarray], str]


def lps_factors(system: object) -> np.ndarray:
    """Return what a position in a coordinate system is multiplied by to be LPS, shape (3,).

    Raises
    ------
    PointProblem : there is no such system.
    """
    name = str(system).strip().upper() if isinstance(system, str | int) and not isinstance(system, bool) else ""
    if name not in SYSTEMS:
        raise PointProblem(f"its coordinate system is {_short(system)}, which is not known: it should be LPS or RAS")
    return SYSTEMS[name]


def check_coordinates(position: list[float], where: str) -> list[float]:
    """Return three coordinates in mm if they are usable numbers.

    Raises
    ------
    PointProblem : one of them is NaN, infinite, or larger than any place that could be meant.
    """
    if not all(math.isfinite(value) and abs(value) <= _LARGEST_MM for value in position):
        raise PointProblem(f"{where} has a coordinate that is NaN, infinite or absurdly large")
    return position


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


_POINT_LISTS = ("Fiducial", "Line", "Angle", "Curve", "ClosedCurve")
_NOT_POINTS = {"Plane": "a plane", "ROI": "a box (ROI)"}
_MM = {"m": 1e3, "dm": 1e2, "cm": 10.0, "mm": 1.0, "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "nm": 1e-6}
_PLACED = "defined"
_NOT_PLACED = ("undefined", "preview", "missing")
_COMPUTED = ("length", "angle", "area", "volume", "curvature", "torsion")


def parsed_markups(text: str) -> PointFile:
    """Return the points of a markups file.

    Raises
    ------
    PointProblem : it is damaged, or holds something else than lists of points whose place is known.
    """
    try:
        content = json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        reason = "its JSON is nested too deeply" if isinstance(error, RecursionError) else f"it is not valid JSON ({error})"
        raise PointProblem(reason) from error
    markups = content.get("markups") if isinstance(content, dict) else None
    if not isinstance(markups, list) or not markups or not all(isinstance(markup, dict) for markup in markups):
        raise PointProblem("it holds no list 'markups' as 3D Slicer writes it")
    places: list[list[float]] = []
    # The list and the number of each placed point, and what its position is multiplied by to be LPS mm.
    whose: list[tuple[int, int]] = []
    factors: list[np.ndarray] = []
    unplaced = 0
    for n, markup in enumerate(markups):
        factor = _to_lps_mm(markup)
        for m, point in enumerate(_control_points(markup)):
            where = f"point {m + 1}" if len(markups) == 1 else f"point {m + 1} of list {n + 1}"
            if not _is_placed(point, where):
                unplaced += 1
                continue
            place = _position(point, where)
            places.append(check_coordinates([float(p * f) for p, f in zip(place, factor, strict=True)], where))
            whose.append((n, m))
            factors.append(factor)

    def rewritten(points_lps: np.ndarray) -> str:
        changed = copy.deepcopy(content)
        for (n, m), factor, place in zip(whose, factors, points_lps, strict=True):
            changed["markups"][n]["controlPoints"][m]["position"] = [float(v) + 0.0 for v in place / factor]
        for markup in changed["markups"]:
            _forget_measured(markup)
        return json.dumps(changed, indent=4) + "\n"

    points = np.array(places, dtype=float).reshape(-1, 3)
    return PointFile(points, len(markups), unplaced, ".mrk.json", rewritten)


def _to_lps_mm(markup: dict[str, Any]) -> np.ndarray:
    kind = markup.get("type", _POINT_LISTS[0])
    if isinstance(kind, str) and kind in _NOT_POINTS:
        raise PointProblem(f"it holds {_NOT_POINTS[kind]}, which is more than a list of points and would not stay one")
    if kind not in _POINT_LISTS:
        raise PointProblem(f"it holds markups of the type {str(kind)[:40]!r}, but only {', '.join(_POINT_LISTS)} are known")
    # Slicer writes a name; a coded entry such as ["mm", "UCUM", "millimeter"] begins with one.
    unit = markup.get("coordinateUnits", "mm")
    unit = unit[0] if isinstance(unit, list) and unit else unit
    if not isinstance(unit, str) or unit.strip() not in _MM:
        raise PointProblem(f"its unit of length is {str(unit)[:40]!r}, but only {', '.join(dict.fromkeys(_MM))} are known")
    return lps_factors(markup.get("coordinateSystem", "LPS")) * _MM[unit.strip()]


def _control_points(markup: dict[str, Any]) -> list[dict[str, Any]]:
    points = markup.get("controlPoints", [])
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise PointProblem("its 'controlPoints' are no list of points")
    return points


def _is_placed(point: dict[str, Any], where: str) -> bool:
    status = point.get("positionStatus", _PLACED)
    if status != _PLACED and status not in _NOT_PLACED:
        raise PointProblem(f"{where} has the position status {str(status)[:40]!r}, which is not known")
    return bool(status == _PLACED)


def _position(point: dict[str, Any], where: str) -> list[float]:
    place = point.get("position")
    if not isinstance(place, list) or len(place) != 3:
        raise PointProblem(f"the position of {where} should be three numbers")
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in place):
        raise PointProblem(f"the position of {where} should be three numbers")
    try:
        return [float(value) for value in place]
    except OverflowError:
        return [float("inf")] * 3


def _forget_measured(markup: dict[str, Any]) -> None:
    """Remove what was measured at the old places, such as a line's length; Slicer measures anew when it opens the file."""
    measurements = markup.get("measurements")
    for one in measurements if isinstance(measurements, list) else []:
        if isinstance(one, dict) and str(one.get("name", "")).startswith(_COMPUTED):
            one.pop("value", None)


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE | re.ASCII)
_FREE = ("x", "y", "z")
"""Names that do not say a coordinate system."""
_AXES = {_FREE: np.ones(3), ("l", "p", "s"): np.ones(3), ("r", "a", "s"): RAS_TO_LPS}
_NUMBERED = 4
_PLACED_WORDS = {"1": True, "true": True, "yes": True, "": True, "0": False, "false": False, "no": False}
_HOW = "give it a header line with the names x, y, z (LPS mm), l, p, s or r, a, s"

_FCSV_COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
_FCSV_PLACED = 2


@dataclass(frozen=True)
class _Table:
    """A text as rows of fields.

    Attributes
    ----------
    lines : in their order, each a comment or an empty line as it stands, or a list of fields.
    delimiter, newline : what is between fields, and after lines.
    start : a byte order mark, or nothing.
    """

    lines: list[str | list[str]]
    delimiter: str
    newline: str
    start: str

    @property
    def rows(self) -> list[list[str]]:
        return [line for line in self.lines if isinstance(line, list)]

    @property
    def comments(self) -> list[str]:
        return [line for line in self.lines if isinstance(line, str) and line.startswith("#")]

    def text(self) -> str:
        stream = io.StringIO()
        writer = csv.writer(stream, delimiter=self.delimiter, lineterminator=self.newline)
        for line in self.lines:
            if isinstance(line, str):
                stream.write(line + self.newline)
            else:
                writer.writerow(line)
        return self.start + stream.getvalue()


@dataclass(frozen=True)
class _Columns:
    """Where in each row what stands.

    Attributes
    ----------
    places : the three coordinates.
    factor : what makes LPS mm of them, shape (3,).
    placed : whether the point has a position; None or beyond the row if all of them have.
    names_system : whether the names of the columns say the coordinate system.
    """

    places: tuple[int, int, int]
    factor: np.ndarray
    placed: int | None = None
    names_system: bool = False


def parsed_table(text: str) -> PointFile:
    """Return the points of a CSV table; see `read_point_file` for what its columns may be.

    Raises
    ------
    PointProblem : it is not clear which of its columns are the coordinates, or these are not numbers.
    """
    table = _table(text, None)
    rows = table.rows
    if not rows:
        raise PointProblem(f"it is empty; {_HOW}")
    has_header = not any(_NUMBER.fullmatch(field.strip()) for field in rows[0])
    columns = _named_columns(rows[0]) if has_header else _counted_columns(rows)
    columns = _in_stated_system(columns, table.comments)
    return _points(table, columns, rows[1:] if has_header else rows, ".csv", lambda field: _PLACED_WORDS[field.strip().lower()])


def parsed_fcsv(text: str) -> PointFile:
    """Return the points of a .fcsv file: its comment lines say what its columns are, and in which coordinate system.

    Raises
    ------
    PointProblem : the coordinate system is unknown, or there are no such columns, or these are not numbers.
    """
    table = _table(text, ",")
    # Slicer before 4.11 wrote numbers for the systems, and before 4.3 knew RAS only.
    factor = lps_factors(_stated(table.comments, "CoordinateSystem") or "RAS")
    names = [name.strip().lower() for name in (_stated(table.comments, "columns") or _FCSV_COLUMNS).split(",")]
    if any(names.count(axis) != 1 for axis in "xyz"):
        raise PointProblem("its line '# columns =' does not name x, y and z once each")
    # The two columns that Slicer adds to each row have no name: the first is the position's status.
    columns = _Columns((names.index("x"), names.index("y"), names.index("z")), factor, len(names))
    return _points(table, columns, table.rows, ".fcsv", lambda field: not field.strip() or int(field) == _FCSV_PLACED)


def _table(text: str, delimiter: str | None) -> _Table:
    start = "\ufeff" if text.startswith("\ufeff") else ""
    text = text.removeprefix(start)
    newline = "\r\n" if "\r\n" in text else "\n"
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines: list[str | list[str]] = []
    waiting = iter(text.split("\n"))
    try:
        for line in waiting:
            if not line.strip() or line.startswith("#"):
                lines.append(line)
                continue
            delimiter = delimiter or _delimiter(line)
            # One row at a time, so that a row takes further lines only where a quotation goes on.
            following = (f"{part}\n" for part in itertools.chain([line], waiting))
            lines.append(next(csv.reader(following, delimiter=delimiter)))
    except csv.Error as error:
        raise PointProblem(f"its rows could not be told apart ({error})") from error
    while lines and isinstance(lines[-1], str) and not lines[-1].strip():
        lines.pop()
    return _Table(lines, delimiter or ",", newline, start)


def _delimiter(line: str) -> str:
    # Semicolons and tabs come first, because commas may stand inside numbers or words.
    for delimiter in (";", "\t", ","):
        if line.count(delimiter) >= 2:
            return delimiter
    raise PointProblem("its columns should be separated by commas, three at least")


def _stated(comments: Sequence[str], name: str) -> str | None:
    found = [re.fullmatch(rf"#\s*{name}\s*=\s*(.*?)[\s,]*", comment, re.IGNORECASE) for comment in comments]
    stated = {match.group(1) for match in found if match is not None}
    if len(stated) > 1:
        raise PointProblem(f"it states two things as its '{name}'")
    return stated.pop() if stated else None


def _named_columns(header: Sequence[str]) -> _Columns:
    names = [name.strip().lower() for name in header]
    axes = [axes for axes in _AXES if set(axes) <= set(names)]
    if len(axes) != 1:
        what = "several sets of coordinates" if axes else "no set of coordinates that is known"
        raise PointProblem(f"its header line names {what}; {_HOW}")
    twice = [name for name in (*axes[0], "defined") if names.count(name) > 1]
    if twice:
        raise PointProblem(f"its header line names two columns '{twice[0]}'")
    i, j, k = (names.index(axis) for axis in axes[0])
    return _Columns((i, j, k), _AXES[axes[0]], names.index("defined") if "defined" in names else None, axes[0] != _FREE)


def _counted_columns(rows: Sequence[Sequence[str]]) -> _Columns:
    if len({len(row) for row in rows}) != 1:
        raise PointProblem(f"its rows differ in length; {_HOW}")
    numeric = [n for n in range(len(rows[0])) if all(_NUMBER.fullmatch(row[n].strip()) for row in rows)]
    if len(numeric) == _NUMBERED and len(rows) > 1:
        counting = [n for n in (numeric[0], numeric[-1]) if _counts(row[n].strip() for row in rows)]
        if len(counting) == 1:
            numeric.remove(counting[0])
    if len(numeric) != len(_FREE) or numeric[-1] - numeric[0] != len(_FREE) - 1:
        raise PointProblem(f"it is not clear which three of its columns are the coordinates; {_HOW}")
    i, j, k = numeric
    return _Columns((i, j, k), _AXES[_FREE])


def _counts(column: Iterable[str]) -> bool:
    """Tell whether a column counts the rows, from 0 or from 1."""
    found = list(column)
    return any(found == [str(n) for n in range(start, start + len(found))] for start in (0, 1))


def _in_stated_system(columns: _Columns, comments: Sequence[str]) -> _Columns:
    stated = _stated(comments, "CoordinateSystem")
    if stated is None:
        return columns
    factor = lps_factors(stated)
    if columns.names_system and (factor != columns.factor).any():
        raise PointProblem("the names of its columns and its line 'CoordinateSystem' contradict each other")
    return replace(columns, factor=factor)


def _points(
    table: _Table, columns: _Columns, rows: Sequence[list[str]], ending: str, is_placed: Callable[[str], bool]
) -> PointFile:
    places: list[list[float]] = []
    chosen: list[list[str]] = []
    for number, row in enumerate(rows, start=1):
        where = f"point {number}"
        if len(row) <= max(columns.places):
            raise PointProblem(f"{where} has only {len(row)} fields")
        if columns.placed is not None and columns.placed < len(row):
            try:
                placed = is_placed(row[columns.placed])
            except (KeyError, ValueError) as error:
                raise PointProblem(f"it is not clear whether {where} has a position: its status is no number") from error
            if not placed:
                continue
        given = [_number(row[column], where) for column in columns.places]
        places.append(check_coordinates([float(v * f) for v, f in zip(given, columns.factor, strict=True)], where))
        chosen.append(row)

    def rewritten(points_lps: np.ndarray) -> str:
        moved = {id(row): place / columns.factor for row, place in zip(chosen, points_lps, strict=True)}
        lines = [line if id(line) not in moved else _with_place(line, columns, moved[id(line)]) for line in table.lines]
        return replace(table, lines=lines).text()

    return PointFile(np.array(places, dtype=float).reshape(-1, 3), 1, len(rows) - len(chosen), ending, rewritten)


def _number(field: str, where: str) -> float:
    text = field.strip()
    if not _NUMBER.fullmatch(text):
        raise PointProblem(f"{where} has {text[:40]!r} where a number should be (with a decimal point, not a comma)")
    return float(text)


def _with_place(line: str | list[str], columns: _Columns, place: np.ndarray) -> list[str]:
    row = list(line)
    for column, value in zip(columns.places, place, strict=True):
        row[column] = repr(float(value) + 0.0)
    return row


_MOST_BYTES = 50_000_000
_MOST_LINES = 2_000_000
# Measured for short lines, reading and writing together.
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
