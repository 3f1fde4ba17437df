"""Rotated starts on the coarsest level, to leave a local minimum."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.spatial.transform import Rotation

from HyperPredictRegLib.alignment.frame import Level
from HyperPredictRegLib.alignment.settings import AlignmentSettings
from HyperPredictRegLib.alignment.stages import affine_of, make_method
from HyperPredictRegLib.progress import CancelCheck, stop_if
from HyperPredictRegLib.trace import LevelTrace

_PSI = 1.533751168755204288118041


def rotations(range_degrees: float, step_degrees: float) -> np.ndarray:
    """Return evenly spread rotations, the identity first, shape (n, 3, 3).

    The spread is the super-Fibonacci spiral of M. Alexa, "Super-Fibonacci Spirals: Fast, Low-Discrepancy Sampling of SO(3)",
    CVPR 2022, doi:10.1109/CVPR52688.2022.00811.

    Parameters
    ----------
    range_degrees : largest angle of rotation.
    step_degrees : about the angle between neighbours.
    """
    count = math.ceil(math.pi**2 / (math.radians(step_degrees) / 2) ** 3)
    s = np.arange(count) + 0.5
    radius, rest = np.sqrt(s / count), np.sqrt(1 - s / count)
    alpha, beta = 2 * math.pi * s / math.sqrt(2), 2 * math.pi * s / _PSI
    quaternions = np.stack([radius * np.sin(alpha), radius * np.cos(alpha), rest * np.sin(beta), rest * np.cos(beta)], axis=1)
    spread = Rotation.from_quat(quaternions)
    kept = np.degrees(spread.magnitude()) <= range_degrees
    return np.concatenate([np.eye(3)[None], spread[kept].as_matrix()])


def scores(
    level: Level, starts: np.ndarray, settings: AlignmentSettings, *, metric: str, cancelled: CancelCheck
) -> np.ndarray:
    """Return the metric of each start (n, 4, 4) on one level, shape (n,); infinite where the images do not overlap."""
    method = make_method(level, settings, metric, seed=1)
    values = np.full(len(starts), np.inf)
    for n, start in enumerate(starts):
        stop_if(cancelled)
        method.SetInitialTransform(affine_of(start))
        try:
            value = method.MetricEvaluate(level.fixed, level.moving)
        except RuntimeError:
            continue
        if math.isfinite(value):
            values[n] = value
    return values


def rotated(start: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Return `start` (4, 4) after each rotation (n, 3, 3) about the centre of the fixed object, shape (n, 4, 4)."""
    result = np.tile(np.eye(4), (len(turns), 1, 1))
    result[:, :3, :3] = turns
    return start @ result


def find_start(
    level: Level,
    start: np.ndarray,
    settings: AlignmentSettings,
    refine: Callable[[np.ndarray], tuple[np.ndarray, LevelTrace]],
    *,
    metric: str,
    cancelled: CancelCheck,
) -> tuple[np.ndarray, int]:
    """Refine `start` and the best of its rotated copies; return the best result and how many were compared.

    Parameters
    ----------
    level : images to rank the starts on.
    start : fixed-to-moving matrix (4, 4) of the frame.
    refine : runs the first stage from a start on the coarsest level.
    metric : the metric that ranks the starts.
    cancelled : see `progress`.
    """
    turns = rotations(settings.multi_start_range_degrees, settings.multi_start_step_degrees)
    starts = rotated(start, turns)
    values = scores(level, starts, settings, metric=metric, cancelled=cancelled)
    best_matrix, trace = refine(start)
    least = _value(trace)
    for n in _best_apart(turns, values, settings.multi_start_refined, settings.multi_start_step_degrees):
        matrix, trace = refine(starts[n])
        if _value(trace) < least:
            best_matrix, least = matrix, _value(trace)
    return best_matrix, len(starts)


def _value(trace: LevelTrace) -> float:
    return math.inf if trace.end_value is None else trace.end_value


def _best_apart(turns: np.ndarray, values: np.ndarray, count: int, least_degrees: float) -> list[int]:
    """Return the indices of the best rotations that are no neighbours of each other or of the first, the identity."""
    kept = [0]
    for n in np.argsort(values, kind="stable"):
        if len(kept) > count or not math.isfinite(values[n]):
            break
        traces = np.einsum("kij,ij->k", turns[kept], turns[n])
        angles = np.degrees(np.arccos(np.clip((traces - 1) / 2, -1, 1)))
        if angles.min() > 0.8 * least_degrees:
            kept.append(int(n))
    return kept[1:]
