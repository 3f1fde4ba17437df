"""Points in tables of text: CSV, as Slicer exports it and as others write it, and Slicer's older .fcsv."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from HyperPredictRegLib.points.file import RAS_TO_LPS, PointFile, PointProblem, check_coordinates, lps_factors

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE | re.ASCII)
_FREE = ("x", "y", "z")
"""Names that do not say a coordinate system."""
_AXES = {_FREE: np.ones(3), ("l", "p", "s"): np.ones(3), ("r", "a", "s"): RAS_TO_LPS}
_NUMBERED = 4
_PLACED = {"1": True, "true": True, "yes": True, "": True, "0": False, "false": False, "no": False}
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
    return _points(table, columns, rows[1:] if has_header else rows, ".csv", lambda field: _PLACED[field.strip().lower()])


def parsed_fcsv(text: str) -> PointFile:
    """Return the points of a .fcsv file: its comment lines say what its columns are, and in which coordinate system.

    Raises
    ------
    PointProblem : the coordinate system is unknown, or there are no such columns, or these are not numbers.
    """
    table = _table(text, ",")
    # Slicer before 4.11 counted its systems, and before 4.3 had none but RAS.
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
            # One at a time, so that only what stands between quotes goes on over several lines.
            following = (f"{part}\n" for part in itertools.chain([line], waiting))
            lines.append(next(csv.reader(following, delimiter=delimiter)))
    except csv.Error as error:
        raise PointProblem(f"its rows could not be told apart ({error})") from error
    while lines and isinstance(lines[-1], str) and not lines[-1].strip():
        lines.pop()
    return _Table(lines, delimiter or ",", newline, start)


def _delimiter(line: str) -> str:
    # Where there are two of them, commas stand in numbers or words.
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
