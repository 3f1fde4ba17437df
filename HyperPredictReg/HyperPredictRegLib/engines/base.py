"""The contract of a deformable registration engine, and how an engine describes itself.

The module of an engine can be imported wherever this library can: packages that it may lack are imported when it registers.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Protocol

import SimpleITK as sitk

from HyperPredictRegLib.core.json_records import to_plain
from HyperPredictRegLib.core.progress import CancelCheck, Progress, never, silent
from HyperPredictRegLib.core.search_space import SearchSpace, Setting
from HyperPredictRegLib.core.trace import LevelTrace
from HyperPredictRegLib.results.job import EngineUsed
from HyperPredictRegLib.spatial.geometry import Geometry

PROGRAM_SETTING = "program"
"""The field of an engine's settings that names the program which it runs."""


@dataclass(frozen=True)
class EngineInfo:
    """All that the rest of this library knows of an engine: nothing outside of `engines` knows its name.

    Attributes
    ----------
    name : in jobs, reports and on the command line.
    version : changes whenever its results change.
    title : its name for people.
    summary : one sentence: what it is for.
    contrasts : "same" if it compares intensities directly, "any" if it may also be given images of different contrast.
    search_space : its parameters, for any pair; see `Engine.search_space` for one pair.
    masks : whether voxels outside of a mask are ignored.
    channels : whether several pairs of images, such as T1 and T2, may be registered together.
    deterministic : whether any number of threads gives the same result bit for bit; with one thread every engine does.
    devices : on which it can compute, the default first: "cpu", "cuda".
    kind : "built-in", "program" (one that the user installs) or "network" (weights that the user provides).
    packages : Python packages that it needs beside those of this library, with the remedy where one is missing.
    program : returns why the program that it runs cannot be run here, with the remedy, or "", from the path that its settings
        name; None where it runs none.
    extra_bytes : memory that it takes beyond what every registration takes for images and working grid.
    seconds_per_million_voxels : on two cores with default settings; a first guess for the progress bar, replaced by measurement.
    preview_voxels : the most voxels of a grid on which it is quick enough to be looked at while a setting is moved, well below a
        second on one core; 0 where it is on none, or knows no other grid than its own.
    sweep_strata : shares of the first parameter's range between which settings for training are drawn, narrow where quality
        changes quickly; empty for evenly spaced ones.
    """

    name: str
    version: str
    title: str
    summary: str
    contrasts: str
    search_space: SearchSpace
    masks: bool = True
    channels: bool = False
    deterministic: bool = False
    devices: tuple[str, ...] = ("cpu",)
    kind: str = "built-in"
    packages: Mapping[str, str] | None = None
    program: Callable[[str], str] | None = None
    extra_bytes: float = 0.0
    seconds_per_million_voxels: float = 30.0
    preview_voxels: int = 0
    sweep_strata: tuple[float, ...] = ()

    @property
    def unavailable(self) -> str:
        """Return why the engine cannot run here, with the remedy, or ""."""
        return self.lacking({})

    def lacking(self, given: Mapping[str, Any]) -> str:
        """Return why the engine cannot run here with such fields of its settings, which may name its program, or ""."""
        for package, remedy in (self.packages or {}).items():
            if importlib.util.find_spec(package) is None:
                return f"The engine '{self.name}' needs the Python package '{package}', which is not installed: {remedy}."
        return "" if self.program is None else self.program(str(given.get(PROGRAM_SETTING, "")))


@dataclass(frozen=True)
class ImageChannel:
    """One more pair of images to register together with the first: all but the weight is as in `RegistrationTask`.

    Its force counts `weight` times as much as that of the first pair.
    """

    fixed: sitk.Image
    moving: sitk.Image
    weight: float = 1.0
    fixed_mask: sitk.Image | None = None
    moving_mask: sitk.Image | None = None
    moving_smoothed: bool = False


@dataclass(frozen=True)
class RegistrationTask:
    """What an engine is asked to do.

    Attributes
    ----------
    fixed, moving : float images on one isotropic grid, the moving one aligned and resampled, intensities about 0 to 1 (see
        `intensity.normalised`).
    setting : values of the engine's parameters; missing ones take their default.
    settings : an instance of the engine's `settings_type`.
    seed : above 0; fixes every random choice.
    device : one of the engine's `EngineInfo.devices`; one that cannot be used is replaced by "cpu", with a warning.
    fixed_mask, moving_mask : where the images may be compared, uint8 on the same grid, or None.
    channels : further pairs on that grid, for engines whose `EngineInfo.channels` is true; none for others.
    moving_smoothed : whether the moving image was smoothed for this grid, so that it holds no noise from voxel to voxel.
    view : where both images have voxels, uint8 on the same grid, or None for everywhere; elsewhere both are 0, which is no edge.
    progress, cancelled : see `core.progress`; `Cancelled` is raised within two seconds of `cancelled()` being true.
    """

    fixed: sitk.Image
    moving: sitk.Image
    setting: Mapping[str, float]
    settings: Any
    seed: int
    fixed_mask: sitk.Image | None = None
    moving_mask: sitk.Image | None = None
    channels: tuple[ImageChannel, ...] = ()
    view: sitk.Image | None = None
    moving_smoothed: bool = False
    device: str = "cpu"
    progress: Progress = silent
    cancelled: CancelCheck = never


@dataclass(frozen=True)
class Registration:
    """The result of a deformable registration.

    Attributes
    ----------
    transform : maps fixed points to points of the (already aligned) moving image given to the engine, LPS mm.
    levels : the trace, coarsest level first.
    setting : the values that were used.
    seconds : wall-clock time of the whole engine run.
    seed : the seed that was given.
    warnings : sentences for the user.
    notes : sentences on what the engine chose itself, for the report.
    device : on which it was computed.
    versions : of the libraries that it needed beside those that every registration needs, by name.
    """

    transform: sitk.Transform
    levels: tuple[LevelTrace, ...]
    setting: Setting
    seconds: float
    seed: int
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    device: str = "cpu"
    versions: Mapping[str, str] = field(default_factory=dict)


class Engine(Protocol):
    """A deformable registration algorithm; it knows nothing of predictors, files or MRML.

    `register` is pure: the same task gives the same transform; with one thread bit for bit. Settings are a frozen dataclass of
    the engine's own; `settings_type()` is the default.
    """

    info: ClassVar[EngineInfo]
    settings_type: ClassVar[type]

    def search_space(self, grid: Geometry, settings: Any) -> SearchSpace:
        """Return what the engine accepts on a working grid: `register` refuses nothing of it, and all that lies outside.

        Raises
        ------
        InputError : it can do nothing on such a grid.
        """
        ...

    def register(self, task: RegistrationTask) -> Registration:
        """Register the moving image of a task to the fixed one.

        Raises
        ------
        InputError : a value is out of range or a setting makes no sense.
        RegistrationError : the run diverged.
        Cancelled : the caller asked to stop.
        """
        ...


def for_pair(engine: Engine, task: RegistrationTask) -> Callable[[Mapping[str, float]], Registration]:
    """Return what registers the pair of a task with any setting; the task's own one is not looked at.

    An engine that can share work between settings has a method `for_pair` of this kind; it gives the results of `register`.
    """
    own: Callable[[RegistrationTask], Callable[[Mapping[str, float]], Registration]] | None = getattr(engine, "for_pair", None)
    return (lambda setting: engine.register(replace(task, setting=setting))) if own is None else own(task)


def settled(engine: Engine, task: RegistrationTask) -> Any:
    """Return a task's settings with all chosen for its first pair that the engine chooses for each pair, as `register` chooses.

    For registrations of the same pair on coarser grids, where details are blurred by which it would choose otherwise. An engine
    that chooses anything has a method `settled` of this kind; of others they are the settings of the task.

    Raises
    ------
    InputError : an image cannot be registered.
    Cancelled : the caller asked to stop.
    """
    own: Callable[[RegistrationTask], Any] | None = getattr(engine, "settled", None)
    return task.settings if own is None else own(task)


def settings_hash(engine: Engine, settings: Any) -> str:
    """Return a short hash that changes when the engine, its version or any of its settings changes.

    Settings that name a program have a method `identity`, which returns what results depend on in their place: the version of the
    program, and not where it lies.

    Raises
    ------
    InputError : the program cannot tell its version, or is one that the engine does not know.
    """
    identity = getattr(settings, "identity", None)
    chosen = asdict(settings) if identity is None else identity()
    text = json.dumps([engine.info.name, engine.info.version, chosen], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def engine_used(engine: Engine, settings: Any) -> EngineUsed:
    """Return what a report says of an engine."""
    info = engine.info
    return EngineUsed(info.name, info.version, info.title, info.search_space, to_plain(settings), settings_hash(engine, settings))
