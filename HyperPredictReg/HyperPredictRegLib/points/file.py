"""Points as a file has them, and how that file is written with other positions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

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
