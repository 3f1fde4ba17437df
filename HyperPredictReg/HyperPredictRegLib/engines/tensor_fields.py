"""The arithmetic of `voxel_fields` and the forces of `similarity` on torch tensors, on any device that torch computes on.

Whoever imports this needs torch; `fields.computed_on` does so once another device than "cpu" is asked for. What is linear along
an axis (Gaussians, window sums, sampling at given places) is one matrix per axis, and that matrix is what `voxel_fields` makes of
unit vectors: the two cannot drift apart. Every operation here is one that torch documents as giving the same result each time.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn import functional

from HyperPredictRegLib.engines import voxel_fields
from HyperPredictRegLib.engines.joint_force import Compared
from HyperPredictRegLib.engines.similarity import FLAT, Similarity, neighbor_offsets
from HyperPredictRegLib.engines.voxel_fields import Array, Workers


class TensorFields:
    """Operations on float32 tensors, indexed (k, j, i), on one device; see `fields.Fields`.

    Parameters
    ----------
    device : as torch names it, such as "cuda"; "cpu" serves for tests, since NumPy is faster there.
    """

    versions: ClassVar[Mapping[str, str]] = {"torch": str(torch.__version__)}

    def __init__(self, device: str) -> None:
        self.device = device
        self._matrices: dict[tuple[str, int, float], torch.Tensor] = {}

    def given(self, voxels: np.ndarray) -> torch.Tensor:
        """Return an array of the host as a tensor of the device."""
        return torch.from_numpy(np.ascontiguousarray(voxels)).to(self.device, torch.float32, copy=True)

    def numpy(self, array: torch.Tensor) -> np.ndarray:
        """Return a tensor as an array of the host."""
        return np.asarray(array.cpu().numpy())

    def zeros(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Return a tensor of zeros."""
        return torch.zeros(shape, dtype=torch.float32, device=self.device)

    def stack(self, arrays: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return tensors of one shape as one, along a new first axis."""
        return torch.stack(tuple(arrays))

    def copy(self, array: torch.Tensor) -> torch.Tensor:
        """Return a copy."""
        return array.clone()

    def within(self, voxels: torch.Tensor, share: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return voxels over their share and 1 where that is at least one half, and both 0 elsewhere."""
        seen = share >= 0.5
        return torch.where(seen, voxels / share.clamp(min=0.5), 0.0), seen.to(torch.float32)

    def smooth(self, array: torch.Tensor, sigmas: Sequence[float], workers: Workers) -> torch.Tensor:
        """Smooth a three-dimensional tensor in place; see `voxel_fields.smooth`."""
        for axis, sigma in enumerate(sigmas):
            if sigma > 0 and array.shape[axis] > 1:
                array.copy_(self._times(array, axis, "smooth", sigma, workers))
        return array

    def window_sum(self, array: torch.Tensor, radii: Sequence[int], workers: Workers) -> torch.Tensor:
        """Replace a three-dimensional tensor by its sums over boxes; see `voxel_fields.window_sum`."""
        for axis, radius in enumerate(radii):
            if radius > 0:
                array.copy_(self._times(array, axis, "window_sum", radius, workers))
        return array

    def sampled(self, array: torch.Tensor, places: Sequence[np.ndarray], workers: Workers) -> torch.Tensor:
        """Sample a three-dimensional tensor on a grid of continuous indices; see `voxel_fields.sampled`."""
        for axis, along in enumerate(places):
            workers.ask()
            units = _units(array.shape[axis])
            matrix = voxel_fields.sampled(units, (along, np.arange(units.shape[1]), np.zeros(1)), Workers())
            array = _product(self.given(matrix[..., 0]), array, axis)
        return array

    def sampler(self, images: Sequence[torch.Tensor], sharp: int = 0) -> TensorSampler:
        """Return images on one grid, prepared for being sampled many times."""
        return TensorSampler(images, sharp)

    def compose(self, displacement: torch.Tensor, update: torch.Tensor, workers: Workers) -> None:
        """Replace `displacement` u by x -> u(x + v) + v, in place; see `voxel_fields.compose`."""
        for axis, step in enumerate(update):
            length = step.shape[axis]
            if length < 2:
                continue
            workers.ask()
            ahead = step.clamp(min=0).narrow(axis, 0, length - 1)
            behind = step.clamp(max=0).narrow(axis, 1, length - 1)
            for component in displacement:
                near, far = component.narrow(axis, 0, length - 1), component.narrow(axis, 1, length - 1)
                rise = far - near
                near += rise * ahead
                far += rise * behind
        displacement += update

    def scale_update(self, update: torch.Tensor, gain: float, longest: float, workers: Workers) -> None:
        """Multiply an update by `gain`, or by less, in place; see `voxel_fields.scale_update`."""
        workers.ask()
        length = torch.linalg.vector_norm(update, dim=0).amax()
        update *= (longest / length).clamp(max=gain)

    def inner_weight(self, mask: torch.Tensor) -> torch.Tensor:
        """Return 1 where a mask and all 26 neighbors are not 0, as float32."""
        outside = (mask == 0).to(torch.float32)
        return 1 - functional.max_pool3d(outside[None], 3, stride=1, padding=1)[0]

    def joint_force(
        self, channels: Sequence[Compared], relative_spacing: Sequence[float], longest: float, workers: Workers
    ) -> tuple[torch.Tensor, float]:
        """Return the update that all channels ask for together, and the metric; see `joint_force.joint_force`."""
        update = self.zeros((3, *channels[0].fixed[0].shape))
        steepness, most, present = (torch.zeros_like(update[0]) for _ in range(3))
        scales = [0.25 / spacing**2 for spacing in relative_spacing]
        value = 0.0
        for channel in channels:
            pulls, steep, squared = _summed_up(channel.fixed, channel.moving, scales, workers)
            weight = torch.ones_like(most) if channel.weight is None else channel.weight
            value += channel.share * _mean(squared, channel.weight)
            share = channel.share * weight
            pulls *= share
            update += pulls
            steepness += (steep + squared / (4 * longest**2)) * share
            present += share
            most = most.maximum(weight)
        factor = torch.where(most > 0, most / (steepness + present * FLAT), 0.0)
        for pull, scale in zip(update, scales, strict=True):
            pull *= factor * scale
        return update, value

    def similarity(self, *settings: Any) -> TensorSimilarity:
        """Return how images are compared; arguments are those of `Similarity`."""
        return TensorSimilarity(*(*settings, self))

    def _times(self, array: torch.Tensor, axis: int, operation: str, size: float, workers: Workers) -> torch.Tensor:
        """Return what an operation of `voxel_fields` along one axis makes of an array."""
        workers.ask()
        count = array.shape[axis]
        key = (operation, count, size)
        if key not in self._matrices:
            made: Callable[..., np.ndarray] = getattr(voxel_fields, operation)
            self._matrices[key] = self.given(made(_units(count), (size, 0, 0), Workers())[..., 0])
        return _product(self._matrices[key], array, axis)


class TensorSampler:
    """Images on one grid, prepared for being sampled many times; see `voxel_fields.Sampler`.

    Torch's own `grid_sample` is not used: it takes places from -1 to 1, and what rounding makes of these gives weights beside
    a mask that are not quite 0.
    """

    def __init__(self, images: Sequence[torch.Tensor], sharp: int = 0) -> None:
        self._images = images
        self._second_differences = [
            [_second_difference(image, axis) for axis in range(3)] if n < sharp else [] for n, image in enumerate(images)
        ]
        shape = images[0].shape
        places = [torch.arange(n, dtype=torch.float32, device=images[0].device) for n in shape]
        self._along = torch.meshgrid(*places, indexing="ij")
        # To the next voxel along each axis; there is none along an axis of one.
        self._steps = [math.prod(shape[axis + 1 :]) if n > 1 else 0 for axis, n in enumerate(shape)]

    def warped(self, displacement: torch.Tensor, workers: Workers) -> list[torch.Tensor]:
        """Sample the images at the voxels' displaced places; see `voxel_fields.Sampler.warped`."""
        workers.ask()
        shape, fractions = self._images[0].shape, []
        index = torch.zeros(shape, dtype=torch.int32, device=displacement.device)
        for component, along, step, n in zip(displacement, self._along, self._steps, shape, strict=True):
            place = (component + along).clamp(0, n - 1)
            # Twice, because a place that is no number becomes any whole one.
            cell = place.to(torch.int32).clamp(0, max(n - 2, 0))
            fractions.append(place - cell)
            index += cell * step
        results = []
        for image, seconds in zip(self._images, self._second_differences, strict=True):
            result = self._mixed(image, index, fractions)
            for share, second in zip(fractions, seconds, strict=False):
                result -= self._mixed(second, index, fractions) * (share * (0.5 - 0.5 * share))
            results.append(result)
        return results

    def _mixed(self, image: torch.Tensor, index: torch.Tensor, fractions: list[torch.Tensor], axis: int = 0) -> torch.Tensor:
        """Return the mean of the voxels from `index` on, weighted by `fractions` along `axis` and those after it."""
        if axis == len(fractions):
            return image.reshape(-1).index_select(0, index.reshape(-1)).reshape(index.shape)
        near = self._mixed(image, index, fractions, axis + 1)
        far = self._mixed(image, index + self._steps[axis], fractions, axis + 1)
        return near + (far - near) * fractions[axis]


def _second_difference(image: torch.Tensor, axis: int) -> torch.Tensor:
    """Return the next voxel along an axis plus the one before less twice the voxel itself; edges repeated."""
    result = torch.zeros_like(image)
    if (count := image.shape[axis] - 1) > 0:
        rise = image.narrow(axis, 1, count) - image.narrow(axis, 0, count)
        result.narrow(axis, 0, count).copy_(rise)
        result.narrow(axis, 1, count).sub_(rise)
    return result


def _units(count: int) -> np.ndarray:
    """Return the unit vectors of an axis of `count` voxels, side by side."""
    return np.eye(count, dtype=np.float32)[..., None].copy()


def _product(matrix: torch.Tensor, array: torch.Tensor, axis: int) -> torch.Tensor:
    """Multiply every row of an array along an axis by a matrix of shape (voxels afterwards, voxels before)."""
    shape = array.shape
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    if inner == 1:
        product = array.reshape(outer, shape[axis]) @ matrix.T
    else:
        product = torch.bmm(matrix.expand(outer, *matrix.shape), array.reshape(outer, shape[axis], inner))
    return product.reshape(*shape[:axis], len(matrix), *shape[axis + 1 :])


@dataclass(frozen=True)
class TensorSimilarity(Similarity):
    """How images are compared, whole tensors at a time.

    Attributes
    ----------
    fields : operations on tensors.
    """

    fields: TensorFields

    def _locally_normalized(self, image: Array, weight: Array | None, radii: tuple[int, ...], workers: Workers) -> Array:
        mean = image.clone() if weight is None else image * weight
        square = self.fields.window_sum(image * mean, radii, workers)
        self.fields.window_sum(mean, radii, workers)
        if weight is None:
            seen: Array = 1 / math.prod(2 * radius + 1 for radius in radii)
        else:
            seen = 1 / self.fields.window_sum(weight.clone(), radii, workers).clamp(min=1e-3)
        mean *= seen
        spread = (square * seen - mean * mean).clamp(min=0) + (self.contrast_floor / max(radii)) ** 2
        return (image - mean) / spread.sqrt()

    def _self_similarity(self, image: Array, workers: Workers) -> list[Array]:
        edged = functional.pad(image[None, None], (1,) * 6, mode="replicate")[0, 0]

        def moved(offset: tuple[int, ...]) -> torch.Tensor:
            k, j, i = (slice(1 + step, 1 + step + n) for step, n in zip(offset, image.shape, strict=True))
            return edged[k, j, i]

        workers.ask()
        distances = torch.stack([(moved(one) - moved(other)) ** 2 for one, other in neighbor_offsets()])
        workers.ask()
        scale = distances.mean(dim=0) + 0.1 * self.contrast_floor**2
        return list(((distances.amin(dim=0) - distances) / scale).exp())

    def force(
        self,
        fixed: Sequence[Array],
        moving: Sequence[Array],
        weight: Array | None,
        longest: float,
        workers: Workers,
    ) -> tuple[Array, float]:
        """Return the update that every voxel asks for, and the mean squared difference; see `Similarity.force`."""
        scales = [0.25 / spacing**2 for spacing in self.relative_spacing]
        update, steepness, squared = _summed_up(fixed, moving, scales, workers)
        share = (1 if weight is None else weight) / (steepness + FLAT + squared / (4 * longest**2))
        for pull, scale in zip(update, scales, strict=True):
            pull *= share * scale
        return update, _mean(squared, weight)

    def steepness(self, image: Array, weight: Array | None, workers: Workers) -> float:
        """Return the mean of the squared slopes of what is compared of an image; see `Similarity.steepness`."""
        inside: Any = ... if weight is None else weight > 0
        return sum(
            float(_slopes(compared, axis)[inside].to(torch.float64).square().mean())
            for compared in self.channels(image, weight, workers)
            for axis in range(3)
        )


def _summed_up(
    fixed: Sequence[torch.Tensor], moving: Sequence[torch.Tensor], scales: Sequence[float], workers: Workers
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the pull, the squared slopes and the squared differences of what is compared; see `similarity.sum_up`."""
    pulls = torch.stack([torch.zeros_like(fixed[0])] * 3)
    steepness, squared = torch.zeros_like(pulls[0]), torch.zeros_like(pulls[0])
    for f, m in zip(fixed, moving, strict=True):
        workers.ask()
        difference, both = f - m, f + m
        for axis, (pull, scale) in enumerate(zip(pulls, scales, strict=True)):
            slope = _slopes(both, axis)
            pull += difference * slope
            steepness += slope * slope * (0.25 * scale)
        squared += difference * difference
    return pulls, steepness, squared


def _mean(squared: torch.Tensor, weight: torch.Tensor | None) -> float:
    """Return the weighted mean, summed up in double precision."""
    total = squared if weight is None else squared * weight
    count = squared.numel() if weight is None else float(weight.sum(dtype=torch.float64))
    return float(total.sum(dtype=torch.float64)) / max(count, 1.0)


def _slopes(array: Array, axis: int) -> torch.Tensor:
    """Return twice the central differences along an axis, 0 at the faces."""
    slopes, count = torch.zeros_like(array), array.shape[axis] - 2
    if count > 0:
        slopes.narrow(axis, 1, count).copy_(array.narrow(axis, 2, count) - array.narrow(axis, 0, count))
    return slopes


@contextmanager
def opened(device: str) -> Iterator[TensorFields]:
    """Make a device ready for work inside a ``with`` block: no gradients, and no products in less than float32 (TF32).

    Raises
    ------
    RuntimeError : torch finds no such device, or it does not work.
    """
    _check(device)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.inference_mode():
            yield TensorFields(device)
    finally:
        torch.set_float32_matmul_precision(before)
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def _check(device: str) -> None:
    """Raise `RuntimeError`, with the reason, unless torch can compute on a device."""
    if torch.device(device).type == "cuda":
        if torch.version.cuda is None and torch.version.hip is None:
            raise RuntimeError("the installed PyTorch was built without CUDA")
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always")
            found = torch.cuda.is_available()
        if not found:
            raise RuntimeError(str(notes[0].message) if notes else "PyTorch finds no graphics card that it can use")
    # A card too old or too new for this torch is found, but has no code to run.
    if float((torch.ones(2, device=device) * 2).sum()) != 4:
        raise RuntimeError("the graphics card gave a wrong result in a trial")
