"""A search over all displacements of a coarse grid: for motion so large that forces, which look no farther than a voxel, miss it.

Every place is compared with every place around it, and what the places choose is made smooth step by step: choose the
displacement that costs least together with its distance from the smooth field, smooth the choices, and let the distance count
more (coupled convex optimization: Heinrich, Papież, Schnabel and Handels, WBIR 2014, LNCS 8545, 51-61). Both directions are
searched and made to agree (Heinrich, Jenkinson, Brady and Schnabel, MICCAI 2012, LNCS 7512, 115-122). Arrays as in
`voxel_fields`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from HyperPredictRegLib.engines.voxel_fields import Array, Part, Workers, sampled, smooth

MOST_VOXELS = 20_000
"""The search takes place on the finest level of a pyramid that has no more voxels than this."""

JUDGED_VOXELS = 150_000
"""Whether the search helped is judged on the finest level with no more."""

UNEXPLAINED = 0.06
"""The search is worth trying where a plain registration leaves a larger mean squared difference of local intensities (`lncc`).

Tuning pairs: other people's atria .084 to .127, hearts of two people .067 and .073; hearts, hippocampi, mice, fetal brains and
brains of one kind at most .046.
"""

BETTER = 0.98
"""A start that was searched for is taken if it leaves less than this share of the difference that the plain one leaves."""

_RADIUS = 4
"""Displacements reach this many voxels of the level: a sixth to a quarter of the grid, 20 mm for the atria."""

_BLOCK = 2
_PATCH = 3
_ATTRACTIONS = (0.012, 0.04, 0.12, 0.4, 1.2, 4.0)
"""Weights of the squared distance from the smooth field, in voxels, beside costs in units of their standard deviation."""

_ROUNDS_TO_AGREE = 10
_LEAST_SEEN = 0.125
"""What a place costs is measured if this share of what is around it is seen in both images."""

_LEAST_JACOBIAN = 0.1
_MOST_SMOOTHING = 20
"""A field that still folds after so many rounds of smoothing is no start."""


@dataclass(frozen=True)
class Side:
    """What is compared of one image: channels, indexed k, j, i, and 1 where they count (None is everywhere)."""

    channels: Sequence[Array]
    weight: Array | None = None

    def coarser(self, places: Sequence[Array], sigmas: Sequence[float], workers: Workers) -> Side:
        """Return the same on a coarser grid, whose voxels lie at `places`: means of what counts around them."""

        def at_places(array: Array) -> Array:
            return sampled(smooth(array, sigmas, workers), places, workers)

        if self.weight is None:
            return Side([at_places(channel.copy()) for channel in self.channels])
        weight = at_places(self.weight.copy())
        share = np.maximum(weight, np.float32(1e-3))
        return Side([at_places(channel * self.weight) / share for channel in self.channels], weight)


@dataclass(frozen=True)
class Start:
    """Where a registration begins: the number of a level, and displacements there, in its voxels, shape (3, k, j, i)."""

    number: int
    field: Array


def searched(fixed: Side, moving: Side, relative: Sequence[float], workers: Workers) -> Array:
    """Return displacements that were searched for, shape (3, k, j, i), in voxels, from fixed to moving; nowhere folded.

    Parameters
    ----------
    fixed, moving : of one shape; best channels that hold for any contrast, such as those of "mind".
    relative : voxel edge along each axis in units of the shortest one.
    """
    shape = fixed.channels[0].shape
    edges = np.asarray(relative, np.float32)
    reach = [min(max(1, round(_RADIUS / edge)), n // 2) for edge, n in zip(edges, shape, strict=True)]
    steps = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), axis=-1).reshape(-1, 3)
    forward, back = (_chosen(costs, steps * edges, workers) for costs in _costs(fixed, moving, steps, workers))
    field = _agreed(forward, back, edges)
    for _ in range(_MOST_SMOOTHING):
        if _least_jacobian(field, edges) > _LEAST_JACOBIAN:
            break
        field = _smoothed(field, 0.5)
    else:
        field = np.zeros_like(field)
    field /= edges[:, None, None, None]
    places = [(np.arange(n) - (_BLOCK - 1) / 2) / _BLOCK for n in shape]
    return np.stack([sampled(component, places, workers) for component in field])


def _costs(fixed: Side, moving: Side, steps: np.ndarray, workers: Workers) -> tuple[Array, Array]:
    """Return the mean squared difference around each block for each step, of fixed blocks and of moving ones: (steps, k, j, i).

    Steps of moving blocks are taken backwards by the same places; where too little is seen of both, a block costs what it
    costs on average.
    """
    channels = [np.ascontiguousarray(np.stack(side.channels), np.float32) for side in (fixed, moving)]
    shape = channels[0].shape[1:]
    weights = [np.ones(shape, np.float32) if side.weight is None else side.weight for side in (fixed, moving)]
    blocks = tuple(-(-n // _BLOCK) for n in shape)
    costs = np.zeros((2, len(steps), *blocks), np.float32)
    seen = np.zeros_like(costs)

    every = (slice(None),)

    def compare(part: Part) -> None:
        workers.ask()
        for number in range(*part[0].indices(len(steps))):
            step = steps[number]
            here = tuple(slice(max(0, -d), n - max(0, d)) for d, n in zip(step, shape, strict=True))
            there = tuple(slice(max(0, d), n - max(0, -d)) for d, n in zip(step, shape, strict=True))
            difference = channels[0][every + here] - channels[1][every + there]
            squared = np.einsum("ckji,ckji->kji", difference, difference)
            weight = weights[0][here] * weights[1][there]
            squared *= weight
            for side, (place, row) in enumerate(((here, number), (there, len(steps) - 1 - number))):
                _add_blocks(squared, place, costs[side, row])
                _add_blocks(weight, place, seen[side, row])

    workers.each(compare, [(slice(start, start + 32),) for start in range(0, len(steps), 32)])
    for array in (costs, seen):
        for axis in range(2, 5):
            ndimage.uniform_filter1d(array, _PATCH, axis=axis, output=array, mode="constant")
    enough = seen >= _LEAST_SEEN * _BLOCK**3
    costs /= np.maximum(seen, 1e-3)
    for each, there_is in zip(costs, enough, strict=True):
        mean = (each * there_is).sum(axis=0) / np.maximum(there_is.sum(axis=0), 1)
        np.copyto(each, mean, where=~there_is)
    return costs[0], costs[1]


def _add_blocks(values: Array, place: Part, blocks: Array) -> None:
    """Add up values at a place of the grid over blocks, in place."""
    whole = np.zeros([n * _BLOCK for n in blocks.shape], np.float32)
    whole[place] = values
    for offset in np.ndindex(_BLOCK, _BLOCK, _BLOCK):
        blocks += whole[tuple(slice(start, None, _BLOCK) for start in offset)]


def _chosen(costs: Array, lengths: np.ndarray, workers: Workers) -> Array:
    """Return a smooth field of what costs little, shape (3, k, j, i), in voxels of the finest axis.

    `lengths` : of each step along each axis, shape (steps, 3), in the same.
    """
    shape = costs.shape[1:]
    costs = costs.reshape(len(lengths), -1)
    costs = costs * np.float32(1 / max(float(costs.std(axis=0).mean()), 1e-9))
    lengths = lengths.astype(np.float32)
    squares = np.square(lengths).sum(axis=1)
    field = np.zeros((3, *shape), np.float32)
    for attraction in np.asarray(_ATTRACTIONS, np.float32):
        workers.ask()
        total = (-2 * attraction * lengths) @ field.reshape(3, -1)
        total += costs
        total += (attraction * squares)[:, None]
        field = _smoothed(lengths[total.argmin(axis=0)].T.reshape(3, *shape), 1.0)
    return field


def _agreed(forward: Array, back: Array, edges: np.ndarray) -> Array:
    """Return the field forward, after both were brought half as near to each other's inverse many times."""
    for _ in range(_ROUNDS_TO_AGREE):
        forward, back = (
            0.5 * (forward - _followed(back, forward, edges)),
            0.5 * (back - _followed(forward, back, edges)),
        )
    return forward


def _followed(field: Array, by: Array, edges: np.ndarray) -> Array:
    """Return a field at displaced blocks."""
    places = np.indices(by.shape[1:], np.float32) + by / (_BLOCK * edges[:, None, None, None])
    return np.stack([ndimage.map_coordinates(component, places, order=1, mode="nearest") for component in field])


def _smoothed(field: Array, sigma: float) -> Array:
    return np.stack([ndimage.gaussian_filter(component, sigma, mode="nearest") for component in field])


def _least_jacobian(field: Array, edges: np.ndarray) -> float:
    """Return the least Jacobian determinant of a field, in voxels of the finest axis on blocks."""
    field = field / (_BLOCK * edges[:, None, None, None])
    slopes = [[_slope(component, axis) for axis in range(3)] for component in field]
    matrix = np.moveaxis(np.array(slopes), (0, 1), (-2, -1)) + np.eye(3)
    return float(np.linalg.det(matrix).min())


def _slope(component: Array, axis: int) -> Array:
    return np.gradient(component, axis=axis) if component.shape[axis] > 1 else np.zeros_like(component)
