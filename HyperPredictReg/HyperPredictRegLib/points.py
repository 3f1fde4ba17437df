"""Point lists in files: CSV and the markups of 3D Slicer."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from HyperPredictRegLib.errors import InputError

_RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])


def read_points(path: Path | str, role: str) -> np.ndarray:
    """Read points as an array of shape (n, 3), LPS mm.

    Parameters
    ----------
    path : a Slicer markups file (.mrk.json or .fcsv, which state their own coordinate system), or a CSV file with the columns
        x, y, z in LPS mm (a column more is allowed and ignored).
    role : how to call the file in an error.

    Raises
    ------
    InputError : the file is missing or damaged, or holds no points or something else than finite numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"The {role} '{path}' does not exist: check the path.")
    readers = {".json": _from_markups, ".fcsv": _from_fcsv, ".csv": _from_csv}
    if path.suffix.lower() not in readers:
        raise InputError(f"The {role} '{path}' is not a point file that can be read: give .mrk.json, .fcsv or .csv.")
    try:
        points = np.array(readers[path.suffix.lower()](path), dtype=float)
        if points.size and (points.ndim != 2 or points.shape[1] != 3):
            raise ValueError(f"rows of shape {points.shape}")
    except (ValueError, KeyError, IndexError, TypeError, UnicodeDecodeError) as error:
        raise InputError(f"The {role} '{path}' could not be read as points: give one list, three numbers each.") from error
    if not len(points) or not np.isfinite(points).all():
        raise InputError(f"The {role} '{path}' holds no points, or some of its coordinates are not numbers.")
    return points


def write_points(points_lps: np.ndarray, path: Path) -> None:
    """Write points, shape (n, 3), LPS mm, as CSV or, if `path` ends in .mrk.json, as Slicer markups."""
    if path.name.endswith(".json"):
        control_points = [
            {"id": str(n + 1), "label": f"P-{n + 1}", "position": list(map(float, point))} for n, point in enumerate(points_lps)
        ]
        markup = {"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": control_points}
        path.write_text(json.dumps({"markups": [markup]}, indent=2))
        return
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["x", "y", "z"])
        writer.writerows([[repr(float(v)) for v in point] for point in points_lps])


def _from_markups(path: Path) -> list[list[float]]:
    markups = json.loads(path.read_text(encoding="utf-8"))["markups"]
    markup = markups[0]
    if len(markups) > 1 or any(p.get("positionStatus", "defined") != "defined" for p in markup["controlPoints"]):
        raise ValueError("several lists, or points without a position")
    points = np.array([p["position"] for p in markup["controlPoints"]], dtype=float).reshape(-1, 3)
    return (points if markup.get("coordinateSystem", "LPS") in ("LPS", "1") else points * _RAS_TO_LPS).tolist()


def _from_fcsv(path: Path) -> list[list[float]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    header = " ".join(line for line in lines if line.startswith("#"))
    system = header.partition("CoordinateSystem =")[2].split()[:1]
    points = np.array([row[1:4] for row in csv.reader(line for line in lines if line and not line.startswith("#"))], dtype=float)
    # Files of Slicer 4.11 and later say LPS; older ones say 0 or RAS.
    return (points if system in (["LPS"], ["1"]) else points * _RAS_TO_LPS).tolist()


def _from_csv(path: Path) -> list[list[float]]:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        rows = [row for row in csv.reader(stream) if row]
    names = [name.strip().lower() for name in rows[0]]
    if {"x", "y", "z"} <= set(names):
        places = [names.index(axis) for axis in "xyz"]
        return [[float(row[p]) for p in places] for row in rows[1:]]
    return [[float(v) for v in row[:3]] for row in rows]
