"""Which poses are tried as starts, and which of the refined ones is taken."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from HyperPredictRegLib.alignment.frame import OBJECT_UNITS
from HyperPredictRegLib.alignment.search import Comparer, Comparison
from HyperPredictRegLib.core.progress import CancelCheck, stop_if
from HyperPredictRegLib.spatial.geometry import Geometry

COMPARE_UNITS = 6.0
"""Voxel edge at which poses are compared."""
_COMPARED = 100
_APART_UNITS = 25.0
_OTHER_UNITS = 40.0
"""Poses of which the object's points lie further apart on average are different poses, not one that is refined differently."""
_BETTER = 1.03
_LEAST_TURNED = 0.07
"""What a pose that turns the image by 180 degrees must have more in information, as a share: headers are often right."""
_RIVALS, _RIVAL_SHARE = 3, 0.65
_NEARLY_EQUAL = 0.85
_PLATE, _PLATE_STEP_DEGREES = 0.2, 15.0
"""A field of view so thin for its width is a plate."""
_REFINED_ROTATIONS = 8
_CONVINCING_MUTUAL, _CONVINCING_SHOWN, _CONVINCING_INNER = 0.65, 0.7, 0.5
_PSI = 1.533751168755204288118041


@dataclass(frozen=True)
class Chosen:
    """The start that was taken.

    Attributes
    ----------
    matrix : fixed-to-moving, of the frame, shape (4, 4).
    comparison : of the images in that pose.
    rival : the best that was found in a different pose, and how many degrees away that is; None if there was no other.
    tried : how many starts were compared.
    """

    matrix: np.ndarray
    comparison: Comparison
    rival: tuple[Comparison, float] | None
    tried: int


def rotations(range_degrees: float, step_degrees: float) -> np.ndarray:
    """Return evenly spread rotations of at most `range_degrees`, the identity first, shape (n, 3, 3).

    Neighbours are about `step_degrees` apart. The spread is the super-Fibonacci spiral of M. Alexa, "Super-Fibonacci Spirals:
    Fast, Low-Discrepancy Sampling of SO(3)", CVPR 2022, doi:10.1109/CVPR52688.2022.00811.
    """
    count = math.ceil(math.pi**2 / (math.radians(step_degrees) / 2) ** 3)
    s = np.arange(count) + 0.5
    radius, rest = np.sqrt(s / count), np.sqrt(1 - s / count)
    alpha, beta = 2 * math.pi * s / math.sqrt(2), 2 * math.pi * s / _PSI
    quaternions = np.stack([radius * np.sin(alpha), radius * np.cos(alpha), rest * np.sin(beta), rest * np.cos(beta)], axis=1)
    spread = Rotation.from_quat(quaternions)
    near = np.degrees(spread.magnitude()) <= range_degrees
    return np.concatenate([np.eye(3)[None], spread[near].as_matrix()])


def search_rotations(fixed: Geometry, moving: Geometry, range_degrees: float, step_degrees: float) -> np.ndarray:
    """Return the rotations to search for two fields of view, shape (n, 3, 3): evenly spread ones and those that match their axes.

    Two plates are laid on each other, either side up, and turned in their plane: tilted ones would share a line only.
    """
    ends = moving.direction_matrix, fixed.direction_matrix
    signs = [np.diag(s) for s in itertools.product((1.0, -1.0), repeat=3)]
    turns = [p[:, order] for p in signs for order in map(list, itertools.permutations(range(3)))]
    matched = [ends[0] @ turn @ ends[1].T for turn in turns if np.linalg.det(ends[0] @ turn @ ends[1].T) > 0]
    extents = [np.array(grid.extent_mm) for grid in (fixed, moving)]
    if all(extent.min() < _PLATE * extent.max() for extent in extents):
        normals = [end[:, int(extent.argmin())] for end, extent in zip(ends, (extents[1], extents[0]), strict=True)]
        laid = [turn for turn in matched if abs(normals[0] @ turn @ normals[1]) > 0.5]
        angles = np.radians(np.arange(0, 90, _PLATE_STEP_DEGREES))
        found = np.stack([turn @ Rotation.from_rotvec(a * normals[1]).as_matrix() for turn in laid for a in angles])
    else:
        found = np.concatenate([rotations(range_degrees, step_degrees), np.stack(matched)])
    return found[np.degrees(Rotation.from_matrix(found).magnitude()) <= range_degrees + 1e-6]


def neighbours(poses: np.ndarray, step_degrees: float) -> np.ndarray:
    """Return rotations a good third of a step about each axis from those of the best `poses` (n, 4, 4), shape (m, 3, 3)."""
    chosen: list[np.ndarray] = []
    for pose in poses:
        if len(chosen) < _REFINED_ROTATIONS and all(_degrees(pose, other) > 0.5 * step_degrees for other in chosen):
            chosen.append(pose)
    small = np.radians(0.4 * step_degrees) * np.concatenate([np.eye(3), -np.eye(3)])
    tilts = Rotation.from_rotvec(small).as_matrix()
    return np.array([pose[:3, :3] @ tilt for pose in chosen for tilt in tilts]).reshape(-1, 3, 3)


def best_apart(turns: np.ndarray, values: np.ndarray, count: int, least_degrees: float) -> list[int]:
    """Return the indices of the best rotations that are no neighbours of each other or of the first, the identity."""
    chosen = [0]
    for n in np.argsort(values, kind="stable"):
        if len(chosen) > count or not math.isfinite(values[n]):
            break
        traces = np.einsum("kij,ij->k", turns[chosen], turns[n])
        angles = np.degrees(np.arccos(np.clip((traces - 1) / 2, -1, 1)))
        if angles.min() > 0.8 * least_degrees:
            chosen.append(int(n))
    return chosen[1:]


def best_poses(comparer: Comparer, poses: np.ndarray, count: int, cancelled: CancelCheck) -> list[np.ndarray]:
    """Return up to `count` poses that lie apart: by turns the best by information and the first of `poses` (n, 4, 4)."""
    information = []
    for pose in poses[:_COMPARED]:
        stop_if(cancelled)
        information.append(comparer.compare(pose).information)
    by_information = np.argsort(-np.array(information), kind="stable")
    chosen: list[np.ndarray] = []
    for pair in zip(by_information, range(len(information)), strict=True):
        for n in pair:
            if len(chosen) < count and all(_apart(poses[n], other) > _APART_UNITS for other in chosen):
                chosen.append(poses[n])
    return chosen


def convincing(found: Comparison, inner: float) -> bool:
    """Whether a pose is so good that no other one need be looked for; `inner` is the correlation well inside both objects.

    The shapes alone of two objects on an empty background tell much of each other in many poses.
    """
    return found.mutual >= _CONVINCING_MUTUAL and found.shown >= _CONVINCING_SHOWN and abs(inner) >= _CONVINCING_INNER


def choose(comparer: Comparer, first: np.ndarray, candidates: list[np.ndarray], tried: int) -> Chosen:
    """Return the candidate with the most information, or `first` where none is clearly better, and the best in another pose."""
    compared = [(first, comparer.compare(first))]
    compared += [(pose, comparer.compare(pose)) for pose in candidates]
    matrix, found = max(compared, key=lambda one: worth(*one))
    if worth(matrix, found) <= _BETTER * worth(*compared[0]):
        matrix, found = compared[0]
    rival = max((one for one in compared if _differ(one[0], matrix)), key=lambda one: worth(*one), default=None)
    return Chosen(matrix, found, None if rival is None else (rival[1], _degrees(rival[0], matrix)), tried)


def rivals(comparer: Comparer, candidates: list[np.ndarray]) -> list[np.ndarray]:
    """Return the best candidate and those in different poses that come near it, best first."""
    values = np.array([worth(pose, comparer.compare(pose)) for pose in candidates])
    chosen: list[np.ndarray] = []
    for n in np.argsort(-values, kind="stable"):
        near = values[n] >= _RIVAL_SHARE * values.max()
        if near and len(chosen) < _RIVALS and all(_differ(candidates[n], other) for other in chosen):
            chosen.append(candidates[n])
    return chosen


def worth(pose: np.ndarray, found: Comparison) -> float:
    """Return the information of a pose, a little less for one that is turned a long way."""
    return found.information * (1 - _LEAST_TURNED * _degrees(pose, np.eye(4)) / 180)


def ambiguity(chosen: Chosen) -> str | None:
    """Return a sentence if another pose fits nearly as well as the one that was taken."""
    if chosen.rival is None or not chosen.rival[0].information >= _NEARLY_EQUAL * chosen.comparison.information > 0:
        return None
    return (
        f"Two positions of the moving image fit nearly equally well, about {chosen.rival[1]:.0f} degrees apart: look at the "
        "result, and give a rough alignment as initial transform if it is the wrong one."
    )


def _differ(one: np.ndarray, other: np.ndarray) -> bool:
    return _apart(one, other) > _OTHER_UNITS


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mean distance, in units, between the points of a sphere as large as the object in two poses."""
    radius = 0.45 * OBJECT_UNITS
    points = radius * np.concatenate([np.eye(3), -np.eye(3)])
    return float(np.linalg.norm(points @ (one - other)[:3, :3].T + (one - other)[:3, 3], axis=1).mean())


def _degrees(one: np.ndarray, other: np.ndarray) -> float:
    u, _, v = np.linalg.svd(one[:3, :3].T @ other[:3, :3])
    return float(np.degrees(Rotation.from_matrix(u @ v).magnitude()))
