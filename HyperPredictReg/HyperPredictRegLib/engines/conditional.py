"""Registration by a trained network that takes the weight of its regularizer as an input: the user provides the weights.

Source: Mok & Chung, "Conditional Deformable Image Registration with Convolutional Neural Network" (cLapIRN), MICCAI 2021,
doi:10.1007/978-3-030-87202-1_4; what is known of the training of the public weights is in docs/engine-clapirn.md.
"""

from __future__ import annotations

import hashlib
import math
import os
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from HyperPredictRegLib.core.errors import InputError, RegistrationError
from HyperPredictRegLib.core.files import read_bounded, shown
from HyperPredictRegLib.core.progress import ProgressEvent, stop_if
from HyperPredictRegLib.core.search_space import Parameter, SearchSpace, Setting
from HyperPredictRegLib.core.trace import LevelTrace
from HyperPredictRegLib.engines.base import EngineInfo, Registration, RegistrationTask
from HyperPredictRegLib.engines.fields import Fields, computed_on
from HyperPredictRegLib.engines.masked_array import MaskedArray
from HyperPredictRegLib.preprocessing.intensity import foreground
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import field_transform

if TYPE_CHECKING:
    from HyperPredictRegLib.engines.conditional_network import EncodedPair, PyramidNetwork

WEIGHTS_VARIABLE = "HYPERPREDICTREG_CLAPIRN_WEIGHTS"
"""Environment variable that names the file of the weights where the settings name none."""

MOST_BYTES = 100_000_000
"""Of a file of weights; the public ones have 2 MB."""

_AXES = (0.0, 0.0, 1.0, -1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
"""Directions of the network's grid, row by row: i to anterior, j to inferior, k to the left, as the training images lie."""

_QUANTILES = (0.01, 0.99)
_MULTIPLE = 8
_MOST_VOXELS = 30_000_000
_ORDINARY_SPACING = (0.65, 1.35)
"""Voxels of the network's grid beyond these edges in mm mean that the anatomy has another size than what was trained on."""

_COARSER = 1.3


@dataclass(frozen=True)
class ConditionalSettings:
    """How the network is used, the regularization weight apart; the defaults were measured on two images of its training.

    Attributes
    ----------
    weights : path of the file of the weights; "" for the one that `WEIGHTS_VARIABLE` names.
    size : voxels of the training images to the left, inferior and anterior, each a multiple of 8.
    center : where in a training image, in voxels along the same axes, the anatomy has its middle.
    extent : how many voxels lie between its 1st and 99th percentile along each of them.
    brightness : what the 99.5th percentile of the anatomy's intensities was in training, where 1 is the largest of all.
    """

    weights: str = ""
    size: tuple[int, int, int] = (160, 192, 224)
    center: tuple[float, float, float] = (79.5, 90.25, 105.75)
    extent: tuple[float, float, float] = (131.0, 130.5, 164.5)
    brightness: float = 0.535

    def __post_init__(self) -> None:
        if any(n < 4 * _MULTIPLE or n % _MULTIPLE for n in self.size) or math.prod(self.size) > _MOST_VOXELS:
            raise InputError(
                f"The network's grid of {self.size} voxels cannot be: give three multiples of {_MULTIPLE}, each "
                f"{4 * _MULTIPLE} or more, and at most {_MOST_VOXELS / 1e6:g} million voxels in all."
            )
        # Written so that a NaN is refused, too.
        places = zip(self.extent, self.center, self.size, strict=True)
        if not all(0 < extent <= n and 0 <= middle < n for extent, middle, n in places):
            raise InputError("The anatomy's center and extent must lie inside of the network's grid.")
        if not 0 < self.brightness <= 1:
            raise InputError(f"The brightness is {self.brightness:g}: give more than 0 and at most 1.")

    def identity(self) -> dict[str, Any]:
        """Return what results depend on: the SHA-256 of the weights in place of where they lie.

        Raises
        ------
        InputError : they cannot be read.
        """
        return {**asdict(self), "weights": hashlib.sha256(weights_of(self)[1]).hexdigest()}


@dataclass(frozen=True)
class NetworkInfo(EngineInfo):
    """The description of an engine that needs weights."""

    def lacking(self, given: Mapping[str, Any]) -> str:
        """Return why the engine cannot run here with such fields of its settings, which may name the weights, or ""."""
        if reason := super().lacking(given):
            return reason
        path = str(given.get("weights") or os.environ.get(WEIGHTS_VARIABLE, ""))
        remedy = f"name their file by its setting 'weights' or by the environment variable {WEIGHTS_VARIABLE}"
        if not path:
            return f"The engine '{self.name}' needs the weights of a trained network, which are not part of it: {remedy}."
        try:
            there = Path(path).is_file()
        except (OSError, ValueError):
            there = False
        if not there:
            return f"The weights of the engine '{self.name}' are not at '{shown(path)}': {remedy}."
        return ""


def weights_of(settings: ConditionalSettings) -> tuple[Path, bytes]:
    """Return the path of the weights and what the file holds.

    Raises
    ------
    InputError : there are none, or they cannot be read.
    """
    if lacking := ConditionalEngine.info.lacking({"weights": settings.weights}):
        raise InputError(lacking)
    path = Path(settings.weights or os.environ.get(WEIGHTS_VARIABLE, ""))
    return path, read_bounded(path, "file of weights", MOST_BYTES)


class ConditionalEngine:
    """A conditional network: one pass for each weight, nothing is optimized."""

    info: ClassVar[EngineInfo] = NetworkInfo(
        name="clapirn",
        version="1",
        title="cLapIRN",
        summary="A trained network, conditioned on λ, with weights that you provide: for images like those it was trained on.",
        contrasts="same",
        search_space=SearchSpace(
            (
                Parameter(
                    name="regularization_weight", symbol="λ", unit="", scale="linear", low=0.0, high=1.0, default=0.1,
                    regularizes="up", title="Regularization weight",
                    tooltip="Share of the largest weight of the smoothness term that the network was trained with.",
                ),
            )
        ),
        devices=("cpu", "cuda"),
        kind="network",
        packages={"torch": "install the extension PyTorch, or the package 'torch' with pip"},
        extra_bytes=1.5e9,
        seconds_per_million_voxels=10.0,
    )  # fmt: skip
    settings_type: ClassVar[type] = ConditionalSettings

    def search_space(self, grid: Geometry, settings: ConditionalSettings) -> SearchSpace:
        """Return the whole range: the network has a grid of its own."""
        return self.info.search_space

    def register(self, task: RegistrationTask) -> Registration:
        """Register the moving image to the fixed one; see `Engine.register`.

        Outside its mask an image counts as background, as it does beyond the common view.
        """
        return self.for_pair(task)(task.setting)

    def for_pair(self, task: RegistrationTask) -> Callable[[Mapping[str, float]], Registration]:
        """Return what registers a pair with any setting; see `base.for_pair`."""
        return PairOnNetwork(task)


@dataclass
class PairOnNetwork:
    """A pair on the network's grid: read, sampled and encoded once for all settings."""

    task: RegistrationTask
    _images: tuple[np.ndarray, np.ndarray] | None = None
    _grid: Geometry | None = None
    _network: tuple[str, PyramidNetwork] | None = None
    _encoded: dict[str, tuple[PyramidNetwork, EncodedPair]] = field(default_factory=dict)

    def __call__(self, setting: Mapping[str, float]) -> Registration:
        """Register with a setting; errors are those of `Engine.register`."""
        started = time.perf_counter()
        task = self.task
        values = ConditionalEngine.info.search_space.complete(setting, ConditionalEngine.info.name)
        stop_if(task.cancelled)
        name, network = self._network = self._network or _opened(task.settings)
        grid, images = self._sampled()
        watch = _Watch(task, network.work(task.settings.size))

        def work(fields: Fields) -> np.ndarray:
            return self._displacement(network, images, values, fields.device, watch)

        try:
            with _torch_threads():
                done = computed_on(task.device, work)
        except RuntimeError as error:
            reason = textwrap.shorten(str(error).rstrip(".") or type(error).__name__, 160)
            raise RegistrationError(f"The network could not be computed: {reason}.") from error
        size = " x ".join(map(str, task.settings.size))
        edges = " x ".join(f"{edge:.2f}" for edge in grid.spacing[::-1])
        notes = [f"Weights '{name}'; the network's grid has {size} voxels of {edges} mm."]
        own = Geometry.of(task.fixed)
        if own.spacing[0] > _COARSER * max(grid.spacing):
            notes.append(
                f"The network looks at finer voxels than those of the working grid ({own.spacing[0]:.2f} mm): a finer preset "
                "shows it more."
            )
        return Registration(
            field_transform(on_working_grid(done.result, grid, own)),
            watch.traces(),
            values,
            time.perf_counter() - started,
            task.seed,
            (*_unusual(grid, task.settings), *done.warnings),
            tuple(notes),
            device=done.device,
            versions=_versions(),
        )

    def _sampled(self) -> tuple[Geometry, tuple[np.ndarray, np.ndarray]]:
        """Return the network's grid and both images on it, intensities as in training."""
        if self._grid is None or self._images is None:
            task, settings = self.task, self.task.settings
            own = Geometry.of(task.fixed)
            fixed, moving = (
                # Beyond the common view they are 0 already.
                own.holding(MaskedArray.of(image, mask, role).voxels)
                for image, mask, role in ((task.fixed, task.fixed_mask, "fixed"), (task.moving, task.moving_mask, "moving"))
            )
            self._grid = grid = network_grid(fixed, settings)
            first, second = (
                np.clip(sitk.GetArrayFromImage(grid.resample(image)) * np.float32(settings.brightness), 0, 1).astype(np.float32)
                for image in (fixed, moving)
            )
            self._images = first, second
        return self._grid, self._images

    def _displacement(
        self, network: PyramidNetwork, images: tuple[np.ndarray, np.ndarray], values: Setting, device: str, watch: _Watch
    ) -> np.ndarray:
        """Return displacements in unit coordinates, shape (3, k, j, i)."""
        import torch

        watch.begin()
        with torch.inference_mode():
            if device not in self._encoded:
                there = network.on(device)
                fixed, moving = (torch.from_numpy(image).to(device)[None, None] for image in images)
                self._encoded[device] = there, there.encoded(moving, fixed, watch.step)
            there, pair = self._encoded[device]
            found = there.displacement(pair, values["regularization_weight"], watch.step, watch.level_begins)
            return np.asarray(found[0].cpu().numpy())


class _Watch:
    """Progress, cancellation and the trace of one pass."""

    def __init__(self, task: RegistrationTask, total: float) -> None:
        self._task, self._total = task, total
        self.begin()

    def begin(self) -> None:
        """Begin, or begin again on another device."""
        self._done = 0.0
        self._levels: list[tuple[float, float]] = []
        self.step(0.0)

    def step(self, voxels: float) -> None:
        """Tell of work done; raise `Cancelled` if the user asked to stop."""
        stop_if(self._task.cancelled)
        self._done += voxels
        metric = self._levels[-1][0] if self._levels else None
        share = min(self._done / self._total, 1.0)
        self._task.progress(ProgressEvent("register", share, f"level {max(len(self._levels), 1)} of 3", metric))

    def level_begins(self, metric: float) -> None:
        """Take down the mean squared difference that a level begins with."""
        self._levels.append((metric, time.perf_counter()))

    def traces(self) -> tuple[LevelTrace, ...]:
        """Return the trace of each level."""
        ends = [begun for _, begun in self._levels[1:]] + [time.perf_counter()]
        return tuple(
            LevelTrace(
                stage="deformable",
                level=number,
                shrink_factor=2.0 ** (len(self._levels) - 1 - number),
                smoothing_sigma_mm=0.0,
                metric="mean squared intensity difference",
                values=(metric,),
                # The metric is that of the displacements before the level.
                end_value=None,
                iteration_limit=1,
                stop_reason="A network computes in one pass.",
                seconds=end - begun,
            )
            for number, ((metric, begun), end) in enumerate(zip(self._levels, ends, strict=True))
        )


def network_grid(fixed: sitk.Image, settings: ConditionalSettings) -> Geometry:
    """Return the network's grid over a fixed image: axes as in training, the anatomy where it lay, and as large as it was, there.

    The public weights were trained on brains that an affine step had brought to one size. So the edges of the voxels are chosen,
    axis by axis, for the anatomy to reach over as many of them.

    Parameters
    ----------
    fixed : background 0, on the working grid.
    settings : see there.
    """
    axes = np.array(_AXES).reshape(3, 3)
    inside = np.argwhere(sitk.GetArrayFromImage(foreground(fixed)))
    along = Geometry.of(fixed).to_lps(inside[:, ::-1]) @ axes
    low, high = np.quantile(along, _QUANTILES, axis=0)
    # Settings are ordered to the left, inferior and anterior; the axes i, j and k of the grid the other way round.
    size, center, extent = (np.array(values[::-1], float) for values in (settings.size, settings.center, settings.extent))
    least = np.array(fixed.GetSpacing()).min() / 4
    spacing = np.maximum((high - low) / extent, least)
    origin = axes @ ((low + high) / 2 - center * spacing)
    i, j, k = (int(n) for n in size)
    return Geometry((i, j, k), tuple(spacing.tolist()), tuple(origin.tolist()), _AXES)


def on_working_grid(displacement: np.ndarray, grid: Geometry, working: Geometry) -> sitk.Image:
    """Return the network's displacements as an image of LPS mm on the working grid; beyond its own grid they go on as they end.

    Parameters
    ----------
    displacement : shape (3, k, j, i) on `grid`, components along i, j and k, where 2 is from the first to the last voxel centre.
    grid, working : the network's and the working grid.
    """
    k, j, i = np.indices(working.size[::-1], np.float32)
    places = grid.to_index(working.to_lps(np.stack([i, j, k], axis=-1)))
    at = np.moveaxis(places[..., ::-1], -1, 0)
    voxels = [
        ndimage.map_coordinates(component, at, order=1, mode="nearest") * ((n - 1) / 2)
        for component, n in zip(displacement, grid.size, strict=True)
    ]
    return working.holding(np.stack(voxels, axis=-1) @ grid.index_to_lps[:3, :3].T, vectors=True)


def _opened(settings: ConditionalSettings) -> tuple[str, PyramidNetwork]:
    """Return the name of the file of the weights, and the network.

    Raises
    ------
    InputError : torch cannot be loaded, or the file does not hold such a network.
    """
    path, data = weights_of(settings)
    try:
        from HyperPredictRegLib.engines.conditional_network import read_network
    except (ImportError, OSError) as error:
        raise InputError(f"PyTorch could not be loaded ({error}): install it again.") from error
    try:
        return f"{shown(path.name)} ({hashlib.sha256(data).hexdigest()[:8]})", read_network(data)
    except Exception as error:  # what a damaged file makes its readers raise cannot be listed
        reason = (str(error).strip().splitlines() or [""])[0][:160] or type(error).__name__
        raise InputError(
            f"'{shown(path)}' does not hold the weights of this network ({reason}); nothing in it was run. Give the file that "
            "the training of cLapIRN for volumes wrote."
        ) from error


def _unusual(grid: Geometry, settings: ConditionalSettings) -> tuple[str, ...]:
    """Warn of anatomy that is much smaller or larger than what the network was trained on."""
    low, high = _ORDINARY_SPACING
    if low <= min(grid.spacing) and max(grid.spacing) <= high:
        return ()
    found = " x ".join(f"{edge * n:.0f}" for edge, n in zip(grid.spacing[::-1], settings.extent, strict=True))
    return (
        f"The anatomy of the fixed image measures {found} mm (to the left, inferior, anterior), unlike what the network was "
        "trained on: its result means little.",
    )


def _versions() -> dict[str, str]:
    import torch

    return {"torch": str(torch.__version__)}


@contextmanager
def _torch_threads() -> Iterator[None]:
    """Let torch use as many threads as SimpleITK does."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(sitk.ProcessObject.GetGlobalDefaultNumberOfThreads())
    try:
        yield
    finally:
        torch.set_num_threads(before)
