"""B-splines over the parameters of a setting: knots, basis, and coefficients that never rise with regularization."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

DEGREE = 3

Knots = tuple[tuple[float, ...], ...]
"""Of each parameter, rising, on the scale of `Parameter.strength`."""


def knots_for(values: np.ndarray, count: int) -> tuple[float, ...]:
    """Return `count` knots in rising order at even quantiles of `values` (n,), from the least to the greatest.

    Where a sweep tried many settings, because something changes there, a curve can turn more.
    """
    return tuple(np.quantile(np.asarray(values, dtype=float), np.linspace(0, 1, count)).tolist())


def basis_size(knots: Sequence[float]) -> int:
    """Return the number of basis functions over `knots`."""
    return len(knots) + DEGREE - 1


def basis_at(values: np.ndarray, knots: Sequence[float]) -> np.ndarray:
    """Evaluate the basis, shape (n, basis_size); each row is >= 0 and sums to 1.

    A curve with non-increasing coefficients does not increase (de Boor, A Practical Guide to Splines, 1978, chapter XI; by the
    recurrence of its chapter X). `values` (n,) beyond the outermost knots take the basis of the nearest one: a curve is constant
    there.
    """
    own = np.asarray(knots, dtype=float)
    padded = np.concatenate([np.repeat(own[0], DEGREE), own, np.repeat(own[-1], DEGREE)])
    inside = np.clip(np.asarray(values, dtype=float), own[0], own[-1])
    # The interval between two knots, of some length, that holds each value; the last knot belongs to the one before it.
    last = int(np.flatnonzero(np.diff(own))[-1])
    place = np.minimum(np.searchsorted(own, inside, side="right") - 1, last)
    local = [np.ones_like(inside)]
    for degree in range(1, DEGREE + 1):
        higher = [np.zeros_like(inside) for _ in range(degree + 1)]
        for n, part in enumerate(local):
            ahead = padded[place + DEGREE + 1 + n] - inside
            behind = inside - padded[place + DEGREE + 1 + n - degree]
            share = part / (ahead + behind)
            higher[n] += ahead * share
            higher[n + 1] += behind * share
        local = higher
    found = np.zeros((len(inside), basis_size(knots)), np.float32)
    rows = np.arange(len(inside))
    for n, part in enumerate(local):
        found[rows, place + n] = part
    return found


def tensor_basis(strengths: np.ndarray, knots: Knots) -> np.ndarray:
    """Evaluate the products of the parameters' bases, shape (n, K); the first parameter's basis changes slowest.

    Parameters
    ----------
    strengths : settings (n, h), on the scale of `Parameter.strength`.
    """
    found = basis_at(strengths[:, 0], knots[0])
    for column, own in enumerate(knots[1:], 1):
        found = (found[:, :, None] * basis_at(strengths[:, column], own)[:, None, :]).reshape(len(found), -1)
    return found


def grid_axes(values: np.ndarray) -> tuple[np.ndarray, ...] | None:
    """Return the axes of settings (n, h) that are a regular grid, as `SearchSpace.grid` gives it; None if they are none."""
    axes: list[np.ndarray] = []
    rest = values
    while rest.shape[1] > 1:
        length = int(np.argmax(np.append(rest[1:, 0] != rest[0, 0], True))) + 1
        if len(rest) % length:
            return None
        blocks = rest.reshape(-1, length, rest.shape[1])
        if (blocks[..., 0] != blocks[:, :1, 0]).any() or (blocks[..., 1:] != blocks[:1, :, 1:]).any():
            return None
        axes.append(blocks[:, 0, 0])
        rest = blocks[0, :, 1:]
    return (*axes, rest[:, 0])


def falling(steps: torch.Tensor, axes: Sequence[int] = ()) -> torch.Tensor:
    """Turn free numbers (..., K) into ones that do not rise along any parameter.

    Along the first parameter each further number lies softplus(step) lower; among several parameters a number is at most the
    least of those before it along each of them.

    Parameters
    ----------
    axes : size of each parameter's basis, whose product is K; one parameter if left out.
    """
    if len(axes) < 2:
        drops = torch.nn.functional.softplus(steps[..., 1:])
        return torch.cat([steps[..., :1], steps[..., :1] - drops.cumsum(dim=-1)], dim=-1)
    grid = steps.unflatten(-1, (axes[0], -1))
    first = falling(grid[..., :1, :], axes[1:])
    drops = torch.nn.functional.softplus(grid[..., 1:, :])
    grid = torch.cat([first, first - drops.cumsum(dim=-2)], dim=-2).unflatten(-1, tuple(axes[1:]))
    for axis in range(1, len(axes)):
        grid = grid.cummin(dim=-axis).values
    return grid.flatten(-len(axes))


def falling_steps(values: torch.Tensor, axes: Sequence[int] = (), least: float = 0.02) -> torch.Tensor:
    """Invert `falling`; where `values` (..., K) do not fall by at least `least` they are taken to."""
    if len(axes) < 2:
        drops = (values[..., :-1] - values[..., 1:]).clamp(min=least)
        return torch.cat([values[..., :1], _from_drops(drops)], dim=-1)
    grid = values.unflatten(-1, (axes[0], -1))
    drops = (grid[..., :-1, :] - grid[..., 1:, :]).clamp(min=least)
    return torch.cat([falling_steps(grid[..., :1, :], axes[1:], least), _from_drops(drops)], dim=-2).flatten(-2)


def _from_drops(drops: torch.Tensor) -> torch.Tensor:
    return drops + torch.log(-torch.expm1(-drops))
