"""Slicer's markups files (.mrk.json): lists of control points, each with its own coordinate system and unit."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np

from HyperPredictRegLib.points.file import PointFile, PointProblem, check_coordinates, lps_factors

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
    # Which control point each row is, and what brings that to LPS mm.
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
        raise PointProblem(f"it holds {_NOT_POINTS[kind]}, which is more than a list of points and would not stay one when bent")
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
