"""Arithmetic on whole voxel arrays, in parts that fit a processor's cache and that several threads may share.

Arrays are float32, indexed (k, j, i); displacements have shape (3, k, j, i), components in that order, in voxels. What a part
becomes does not depend on who works on it, so results are equal bit for bit with any number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from scipy import ndimage

from HyperPredictRegLib.core.progress import CancelCheck, never, stop_if

Part = tuple[slice, ...]
Result = TypeVar("Result")

Array = Any
"""Such an array in code that also runs on torch's: `numpy.ndarray` or `torch.Tensor`."""

_PART_VOXELS = 98_304
"""Some hundred kilobytes per array: a few of them fit a core's own cache, which makes simple arithmetic three times as fast."""

_PARTS_PER_QUESTION = 32
"""Whether to stop is asked this often: a few tenths of a second at the most, however large the arrays are."""

_MOST_REPEATS = 6
"""More than this many three-point averages take longer than one long kernel."""


class Workers:
    """Threads that work on parts of arrays, asking between steps whether the user wants to stop."""

    def __init__(self, threads: int = 1, cancelled: CancelCheck = never) -> None:
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._cancelled = cancelled

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def ask(self) -> None:
        """Raise `Cancelled` if the user asked to stop."""
        stop_if(self._cancelled)

    def each(self, work: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
        """Return what `work` gives for every part, in their order.

        Raises
        ------
        Cancelled : the user asked to stop.
        """
        if len(parts) == 1:
            self.ask()
            return [work(parts[0])]
        results: list[Result] = []
        for start in range(0, len(parts), _PARTS_PER_QUESTION):
            self.ask()
            some = parts[start : start + _PARTS_PER_QUESTION]
            results += map(work, some) if self._pool is None else self._pool.map(work, some)
        return results


def parts_along(shape: tuple[int, ...], axis: int) -> tuple[Part, ...]:
    """Cut a three-dimensional array into slabs that are whole along `axis`."""
    return _slabs(shape, axis, _PART_VOXELS)


@lru_cache(maxsize=64)
def _slabs(shape: tuple[int, ...], axis: int, voxels: int) -> tuple[Part, ...]:
    across = 1 if axis == 0 else 0
    thick = max(1, voxels * shape[across] // math.prod(shape))
    cuts = [slice(start, min(start + thick, shape[across])) for start in range(0, shape[across], thick)]
    return tuple((slice(None), cut) if across == 1 else (cut,) for cut in cuts)


def smooth(array: np.ndarray, sigmas: Sequence[float], workers: Workers) -> np.ndarray:
    """Smooth a three-dimensional array in place by a Gaussian, edges repeated; return it.

    Short Gaussians are repeated three-point averages of exactly that variance, which keep maxima within those of the array.

    Parameters
    ----------
    sigmas : standard deviation along each axis in voxels; 0 leaves an axis as it is.
    """
    for axis, sigma in enumerate(sigmas):
        if sigma <= 0 or array.shape[axis] < 2:
            continue
        repeats = max(1, math.ceil(2 * sigma**2 - 1e-9))

        def along(part: Part, axis: int = axis, sigma: float = sigma, repeats: int = repeats) -> None:
            view = array[part]
            if repeats > _MOST_REPEATS:
                view[...] = ndimage.gaussian_filter1d(view, sigma, axis, mode="nearest", truncate=3.0)
                return
            block = np.ascontiguousarray(view)
            _average(block, axis, sigma**2 / (2 * repeats), repeats)
            if block is not view:
                view[...] = block

        workers.each(along, parts_along(array.shape, axis))
    return array


def _average(block: np.ndarray, axis: int, side: float, repeats: int) -> None:
    """Replace each value by 1 - 2 `side` of itself and `side` of either neighbor along `axis`, `repeats` times, in place.

    In a contiguous block neighbors along any axis lie a fixed stride apart, so one long sum serves all rows; what it takes from
    the next row at the ends is then written over.
    """
    step = math.prod(block.shape[axis + 1 :])
    flat = block.reshape(-1)
    sides = np.empty_like(flat)
    rows, row_sides = block.swapaxes(0, axis), sides.reshape(block.shape).swapaxes(0, axis)
    ahead, behind, between = flat[2 * step :], flat[: -2 * step], sides[step:-step]
    ends = (rows[0], rows[1], row_sides[0]), (rows[-1], rows[-2], row_sides[-1])
    share = np.float32(side / (1 - 2 * side))
    for _ in range(repeats):
        np.add(ahead, behind, out=between)
        for end, neighbor, sum_there in ends:
            np.add(end, neighbor, out=sum_there)
        sides *= share
        flat += sides
    flat *= np.float32((1 - 2 * side) ** repeats)


def window_sum(array: np.ndarray, radii: Sequence[int], workers: Workers) -> np.ndarray:
    """Replace a three-dimensional array by its sums over boxes of 2 `radii` + 1 voxels, edges repeated; return it."""
    for axis, radius in enumerate(radii):
        if radius < 1:
            continue

        def along(part: Part, axis: int = axis, radius: int = radius) -> None:
            array[part] = _sums(np.ascontiguousarray(array[part]), axis, radius)

        workers.each(along, parts_along(array.shape, axis))
    return array


def _sums(block: np.ndarray, axis: int, radius: int) -> np.ndarray:
    """Return the sums of 2 `radius` + 1 neighbors along an axis of a contiguous block."""
    step = math.prod(block.shape[axis + 1 :])
    flat = block.reshape(-1)
    result = np.empty_like(block)
    # All but the ends of the array, whose rows are written below.
    begin, end = radius * step, flat.size - radius * step
    inner = result.reshape(-1)[begin : max(begin, end)]
    for shift in range(step, begin + 1, step) if end > begin else ():
        np.add(flat[begin:end] if shift == step else inner, flat[begin + shift : end + shift], out=inner)
        inner += flat[begin - shift : end - shift]
    rows, sums = block.swapaxes(0, axis), result.swapaxes(0, axis)
    last = len(rows) - 1
    for row in {*range(min(radius, last + 1)), *range(max(last - radius + 1, 0), last + 1)}:
        first, second, *others = (rows[min(max(place, 0), last)] for place in range(row - radius, row + radius + 1))
        here = first + second
        for other in others:
            here += other
        sums[row] = here
    return result


def slopes(slab: np.ndarray, inner: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return twice the central differences of `slab[inner]` along k, j and i; 0 at the faces of the slab."""
    count = len(slab)
    along_k = np.zeros_like(slab[inner])
    first, last = max(inner.start, 1), min(inner.stop, count - 1)
    np.subtract(slab[first + 1 : last + 1], slab[first - 1 : last - 1], out=along_k[first - inner.start : last - inner.start])
    middle = slab[inner]
    along_j, along_i = np.zeros_like(middle), np.zeros_like(middle)
    np.subtract(middle[:, 2:], middle[:, :-2], out=along_j[:, 1:-1])
    np.subtract(middle[:, :, 2:], middle[:, :, :-2], out=along_i[:, :, 1:-1])
    return along_k, along_j, along_i


class Sampler:
    """Images on one grid, prepared for being sampled many times.

    Linear interpolation blurs, most between voxels and not at all on them, so that an image warped by it differs from what it is
    compared with. At a share f of the way from one voxel to the next it loses f (1 - f) / 2 of the second difference there; of
    `sharp` images that is taken off along each axis, which brings it close to a cubic spline.

    Parameters
    ----------
    images : of one shape.
    sharp : how many of them, from the first on, are interpolated so; the others linearly, which keeps weights from 0 to 1.
    """

    def __init__(self, images: Sequence[np.ndarray], sharp: int = 0) -> None:
        self._shape = images[0].shape
        self._pairs = [_neighbor_pairs(image) for image in images]
        self._curvatures = [
            [_neighbor_pairs(second_difference(image, axis)) for axis in range(3)] if n < sharp else []
            for n, image in enumerate(images)
        ]

    def warped(self, displacement: np.ndarray, workers: Workers) -> list[np.ndarray]:
        """Sample the images at the voxels' displaced places, places beyond a face on that face.

        Parameters
        ----------
        displacement : shape (3, k, j, i), voxels, on the images' grid.
        """
        shape = self._shape
        results = [np.empty(shape, np.float32) for _ in self._pairs]
        steps = (shape[1] * shape[2], shape[2], 1)

        def sample(part: Part) -> None:
            start, stop, _ = part[0].indices(shape[0])
            axes = np.ix_(np.arange(start, stop), np.arange(shape[1]), np.arange(shape[2]))
            fractions, index = [], np.zeros(1, np.int32)
            for axis, (along, step) in enumerate(zip(axes, steps, strict=True)):
                place = displacement[axis, start:stop] + along.astype(np.float32)
                # Not by np.clip, whose own work is the longer one on coarse levels.
                np.maximum(place, np.float32(0), out=place)
                np.minimum(place, np.float32(shape[axis] - 1), out=place)
                # The last voxel has no further neighbor: its place is the far end of the cell before it.
                cell = place.astype(np.int32)
                np.minimum(cell, np.int32(max(shape[axis] - 2, 0)), out=cell)
                place -= cell.astype(np.float32)
                fractions.append(place)
                cell *= np.int32(step)
                index = cell + index
            index = index.astype(np.intp)
            plane, row, _ = steps
            rows = index, index + row, index + plane, index + (plane + row)
            for pairs, curvatures, result in zip(self._pairs, self._curvatures, results, strict=True):
                _mix(pairs, rows, fractions, result[start:stop])
                for along_axis, curvature in zip(fractions, curvatures, strict=False):
                    blur = np.empty_like(along_axis)
                    _mix(curvature, rows, fractions, blur)
                    share = np.float32(0.5) * along_axis
                    np.subtract(np.float32(0.5), share, out=share)
                    share *= along_axis
                    blur *= share
                    result[start:stop] -= blur

        workers.each(sample, parts_along(shape, 2))
        return results


def second_difference(image: np.ndarray, axis: int) -> np.ndarray:
    """Return the next voxel along an axis plus the one before less twice the voxel itself; edges repeated."""
    rows = np.moveaxis(image, axis, 0)
    result = np.zeros_like(image)
    curvatures = np.moveaxis(result, axis, 0)
    np.subtract(rows[1:], rows[:-1], out=curvatures[:-1])
    curvatures[1:] -= rows[1:] - rows[:-1]
    return result


def _neighbor_pairs(image: np.ndarray) -> np.ndarray:
    """Return every voxel with the next one along i as the parts of one complex number: one look-up finds both."""
    pairs = np.empty(image.shape, np.complex64)
    pairs.real = image
    pairs.imag[:, :, :-1] = image[:, :, 1:]
    pairs.imag[:, :, -1] = image[:, :, -1]
    return pairs.ravel()


def _mix(pairs: np.ndarray, rows: Sequence[np.ndarray], fractions: Sequence[np.ndarray], result: np.ndarray) -> None:
    """Write the mean of the eight voxels of each cell into `result`, weighted by `fractions` along k, j and i.

    Parameters
    ----------
    rows : where in `pairs` the cell's four rows along i begin: its first plane's first and second one, then its second plane's.
    """
    along_k, along_j, along_i = fractions

    def of_row(first: np.ndarray) -> np.ndarray:
        found = pairs.take(first, mode="clip")
        start = found.real
        mixed = found.imag - start
        mixed *= along_i
        mixed += start
        return mixed

    def of_plane(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        near, far = of_row(first), of_row(second)
        far -= near
        far *= along_j
        near += far
        return near

    near, far = of_plane(*rows[:2]), of_plane(*rows[2:])
    far -= near
    far *= along_k
    np.add(near, far, out=result)


def compose(displacement: np.ndarray, update: np.ndarray, workers: Workers) -> None:
    """Replace `displacement` u by x -> u(x + v) + v of an `update` v shorter than a voxel, in place.

    Displacements are interpolated along one axis after the other: so short a step only ever reaches the next voxel, and no
    look-up of places is needed. Each of the three steps is invertible where v changes by less than a voxel per voxel.
    """
    shape = displacement.shape[1:]
    axes = [axis for axis in range(3) if shape[axis] > 1]
    last = axes[-1]
    for axis in axes:

        def along(part: Part, axis: int = axis) -> None:
            step = np.ascontiguousarray(update[axis][part])
            stride = math.prod(step.shape[axis + 1 :])
            forward, back = np.maximum(step, 0), np.minimum(step, 0)
            # Beyond the end of a row the next number belongs to another row.
            forward.swapaxes(0, axis)[-1] = 0
            back.swapaxes(0, axis)[0] = 0
            ahead, behind = forward.reshape(-1)[:-stride], back.reshape(-1)[stride:]
            rise, change = np.empty_like(ahead), np.empty_like(ahead)
            for component, added in zip(displacement, update, strict=True):
                view = component[part]
                block = np.ascontiguousarray(view)
                values = block.reshape(-1)
                np.subtract(values[stride:], values[:-stride], out=rise)
                np.multiply(rise, ahead, out=change)
                values[:-stride] += change
                rise *= behind
                values[stride:] += rise
                if axis == last:
                    block += added[part]
                if block is not view:
                    view[...] = block

        workers.each(along, parts_along(shape, axis))


def scale_update(update: np.ndarray, gain: float, longest: float, workers: Workers) -> None:
    """Multiply an update by `gain`, or by less, so that none of its vectors is longer than `longest` voxels, in place."""
    shape = update.shape[1:]

    def longest_squared(part: Part) -> float:
        inside = update[:, part[0]]
        squared = inside[0] * inside[0]
        for component in inside[1:]:
            squared += component * component
        return float(squared.max())

    length = math.sqrt(max(workers.each(longest_squared, parts_along(shape, 2))))
    scale = np.float32(min(gain, longest / length) if length > 0 else gain)

    def multiply(part: Part) -> None:
        update[:, part[0]] *= scale

    workers.each(multiply, parts_along(shape, 2))


def sampled(array: np.ndarray, places: Sequence[np.ndarray], workers: Workers) -> np.ndarray:
    """Sample a three-dimensional array on a grid of continuous indices, one list per axis, linearly; edges repeated."""
    for axis, along in enumerate(places):
        workers.ask()
        last = array.shape[axis] - 1
        along = np.clip(along, 0, last)
        cell = np.minimum(along.astype(int), max(last - 1, 0))
        near = np.take(array, cell, axis)
        far = np.take(array, np.minimum(cell + 1, last), axis)
        far -= near
        far *= (along - cell).astype(np.float32).reshape([-1 if n == axis else 1 for n in range(3)])
        near += far
        array = near
    return array
