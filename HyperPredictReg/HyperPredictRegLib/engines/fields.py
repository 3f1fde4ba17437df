"""What the algorithm on voxel arrays needs of a library for arrays, so that one algorithm runs on NumPy and on torch."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np

from HyperPredictRegLib.core.errors import HyperPredictRegError
from HyperPredictRegLib.engines import voxel_fields
from HyperPredictRegLib.engines.joint_force import Compared, joint_force
from HyperPredictRegLib.engines.similarity import Similarity, inner_weight
from HyperPredictRegLib.engines.voxel_fields import Array, Workers

Result = TypeVar("Result")


class Fields(Protocol):
    """Operations on the arrays of one library on one device; what they mean is said in `voxel_fields` and `similarity`.

    Attributes
    ----------
    device : where the arrays are: "cpu" or "cuda".
    versions : of the library, beside those that every registration needs.
    """

    device: str
    versions: ClassVar[Mapping[str, str]]

    def given(self, voxels: np.ndarray) -> Array:
        """Return a NumPy array as an array of this library; what it was made of must not be changed afterwards."""
        ...

    def numpy(self, array: Array) -> np.ndarray:
        """Return an array of this library as a NumPy array."""
        ...

    def zeros(self, shape: tuple[int, ...]) -> Array:
        """Return an array of zeros."""
        ...

    def stack(self, arrays: Sequence[Array]) -> Array:
        """Return arrays of one shape as one, along a new first axis."""
        ...

    def copy(self, array: Array) -> Array:
        """Return a copy."""
        ...

    def within(self, voxels: Array, share: Array) -> tuple[Array, Array]:
        """Return voxels over their share and 1 where that is at least one half, and both 0 elsewhere."""
        ...

    def smooth(self, array: Array, sigmas: Sequence[float], workers: Workers) -> Array:
        """Smooth an array in place."""
        ...

    def sampled(self, array: Array, places: Sequence[np.ndarray], workers: Workers) -> Array:
        """Sample an array on a grid of continuous indices."""
        ...

    def sampler(self, images: Sequence[Array], sharp: int = 0) -> Any:
        """Return an object whose `warped(displacement, workers)` samples these images at displaced voxels."""
        ...

    def compose(self, displacement: Array, update: Array, workers: Workers) -> None:
        """Compose a displacement with an update, in place."""
        ...

    def scale_update(self, update: Array, gain: float, longest: float, workers: Workers) -> None:
        """Multiply an update and limit its length, in place."""
        ...

    def inner_weight(self, mask: Array) -> Array:
        """Return 1 where a mask and all 26 neighbors are not 0."""
        ...

    def joint_force(
        self, channels: Sequence[Compared], relative_spacing: Sequence[float], longest: float, workers: Workers
    ) -> tuple[Array, float]:
        """Return the update that all channels ask for together, and the metric; see `joint_force`."""
        ...

    def similarity(self, *settings: Any) -> Similarity:
        """Return how images are compared; arguments are those of `Similarity`."""
        ...


class ArrayFields:
    """NumPy and SciPy on the processor: what every installation has, and faster there than torch."""

    device = "cpu"
    versions: ClassVar[Mapping[str, str]] = {}
    smooth = staticmethod(voxel_fields.smooth)
    sampled = staticmethod(voxel_fields.sampled)
    sampler = voxel_fields.Sampler
    compose = staticmethod(voxel_fields.compose)
    scale_update = staticmethod(voxel_fields.scale_update)
    inner_weight = staticmethod(inner_weight)
    joint_force = staticmethod(joint_force)
    similarity = Similarity

    def given(self, voxels: np.ndarray) -> np.ndarray:
        """Return the array itself."""
        return voxels

    def numpy(self, array: np.ndarray) -> np.ndarray:
        """Return the array itself."""
        return array

    def zeros(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return an array of zeros."""
        return np.zeros(shape, np.float32)

    def stack(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Return arrays of one shape as one, along a new first axis."""
        return np.stack(arrays)

    def copy(self, array: np.ndarray) -> np.ndarray:
        """Return a copy."""
        return array.copy()

    def within(self, voxels: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return voxels over their share and 1 where that is at least one half, and both 0 elsewhere."""
        seen = share >= 0.5
        return np.where(seen, voxels / np.maximum(share, 0.5), np.float32(0)), seen.astype(np.float32)


NUMPY = ArrayFields()


@dataclass(frozen=True)
class Computed(Generic[Result]):
    """What came of some work, on which device, with which versions of further libraries, and sentences for the user."""

    result: Result
    device: str = "cpu"
    versions: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def computed_on(device: str, work: Callable[[Fields], Result]) -> Computed[Result]:
    """Do work on a device; where that cannot be used, or fails in the middle, do all of it on the processor, with a warning.

    Parameters
    ----------
    device : "cpu", or what torch computes on, such as "cuda".
    work : may be called twice, and must leave nothing behind if it is cut short; its own errors (`HyperPredictRegError`) go on.
    """
    if device == "cpu":
        return Computed(work(NUMPY))
    try:
        with _opened(device) as fields:
            return Computed(work(fields), device, fields.versions)
    except HyperPredictRegError:
        raise
    # Torch tells of a full memory, and of everything else that goes wrong on a device, by kinds of RuntimeError.
    except RuntimeError as error:
        reason = " ".join(str(error).split()) or type(error).__name__
    short = textwrap.shorten(reason.rstrip("."), 200, placeholder=" ...")
    warning = f"The device '{device}' could not be used ({short}), so the CPU computed everything, with the result of the CPU."
    return Computed(work(NUMPY), warnings=(warning,))


@contextmanager
def _opened(device: str) -> Iterator[Fields]:
    """Make a device ready for work inside a ``with`` block.

    Raises
    ------
    RuntimeError : torch is missing or broken, or finds no such device.
    """
    try:
        from HyperPredictRegLib.engines import tensor_fields
    except ImportError as error:
        missing = (error.name or "").split(".")[0] == "torch"
        raise RuntimeError("PyTorch is not installed" if missing else str(error)) from error
    except OSError as error:
        raise RuntimeError(f"PyTorch could not be loaded: {error}") from error
    with tensor_fields.opened(device) as fields:
        yield fields
