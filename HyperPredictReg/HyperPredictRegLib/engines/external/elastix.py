"""elastix: a cubic B-spline with a penalty on bending energy, moved by stochastic gradient descent on random samples.

It is the program ``elastix``, or the Python package itk-elastix in a process of its own. References: Klein et al., IEEE TMI 29
(2010) 196, doi:10.1109/TMI.2009.2035616; the optimiser: Klein et al., IJCV 81 (2009) 227, doi:10.1007/s11263-008-0168-y; the
penalty: Rueckert et al., IEEE TMI 18 (1999) 712, doi:10.1109/42.796284.
"""

from __future__ import annotations

import importlib.util
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.core.errors import InputError, RegistrationError
from HyperPredictRegLib.core.progress import Progress, ProgressEvent, stop_if
from HyperPredictRegLib.core.resources import this_python
from HyperPredictRegLib.core.search_space import Parameter, SearchSpace
from HyperPredictRegLib.core.trace import LevelTrace
from HyperPredictRegLib.engines.base import EngineInfo, Registration, RegistrationTask
from HyperPredictRegLib.engines.external import elastix_child
from HyperPredictRegLib.engines.external.coefficients import bspline_transform
from HyperPredictRegLib.engines.external.program import Program, ProgramSettings
from HyperPredictRegLib.engines.external.running import Run, new_folder, thread_count, write_image
from HyperPredictRegLib.engines.given_images import check_images, filled, seen
from HyperPredictRegLib.preprocessing.intensity import foreground
from HyperPredictRegLib.spatial.geometry import Geometry

METRICS = {"mattes": "AdvancedMattesMutualInformation", "correlation": "AdvancedNormalizedCorrelation"}

_MOST_FILE_BYTES = 1 << 30
_LEVEL = re.compile(r"^Resolution: (\d+)")
_ROW = re.compile(r"^(\d+)\s+(-?\d+\.\d+(?:e[+-]?\d+)?)\s")
_STOP = re.compile(r"Stopping condition: (.*)")
_ENTRY = re.compile(r"^\((\w+)\s+(.*)\)\s*$", re.MULTILINE)


def _command(path: Path) -> tuple[str, ...]:
    is_python = "python" in path.name.lower()
    return (str(path), elastix_child.__file__) if is_python else (str(path),)


def _own_python() -> Path | None:
    """Return this Python if it has the package, which is not imported."""
    with suppress(metadata.PackageNotFoundError, OSError):
        if metadata.version(elastix_child.DISTRIBUTION) and importlib.util.find_spec("itk") is not None:
            return Path(this_python())
    return None


PROGRAM = Program(
    engine="elastix",
    title="elastix",
    executables=("elastix",),
    variable="HYPERPREDICTREG_ELASTIX",
    remedy="install elastix 5 (https://elastix.dev; or `pip install itk-elastix` into any Python, and name that Python)",
    versions=("5", "0"),
    command=_command,
    otherwise=_own_python,
)


@dataclass(frozen=True)
class ElastixSettings(ProgramSettings):
    """How elastix runs, the weight of the bending energy apart.

    Attributes
    ----------
    metric : "mattes" (mutual information of 32 bins, for any two contrasts) or "correlation".
    spacing_voxels : between control points on the finest level, in voxels of the working grid.
    levels : of the pyramid, each half as fine as the next.
    iterations : on every level.
    samples : points at which the metric is evaluated, drawn anew in each iteration.
    dilation_voxels : where no fixed mask is given, samples lie in the fixed foreground, dilated by this many voxels.
    """

    metric: str = "correlation"
    spacing_voxels: float = 5.0
    levels: int = 3
    iterations: int = 250
    samples: int = 2048
    dilation_voxels: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.metric not in METRICS:
            raise InputError(f"The metric '{self.metric}' is unknown to the engine 'elastix': use {', '.join(METRICS)}.")
        if not 1 <= self.spacing_voxels <= 100:
            raise InputError(f"The control points of 'elastix' are {self.spacing_voxels:g} voxels apart: give from 1 to 100.")
        if not (1 <= self.levels <= 10 and 1 <= self.iterations <= 100_000 and 100 <= self.samples <= 10_000_000):
            raise InputError("The engine 'elastix' takes 1 to 10 levels of 1 to 100000 iterations on 100 to 10 million samples.")
        if not 0 <= self.dilation_voxels <= 100:
            raise InputError(f"The engine 'elastix' cannot dilate by {self.dilation_voxels} voxels: give from 0 to 100.")

    def identity(self) -> dict[str, Any]:
        """Return what results depend on; see `settings_hash`."""
        return PROGRAM.identity(self)


class ElastixEngine:
    """B-spline registration by elastix, which the user installs."""

    info: ClassVar[EngineInfo] = EngineInfo(
        name="elastix",
        version="1",
        title="elastix",
        summary="B-spline registration by the program elastix, or by the package itk-elastix.",
        contrasts="any",
        search_space=SearchSpace(
            (
                Parameter(
                    name="regularization_weight", symbol="λ", unit="", scale="log", low=0.01, high=1000.0, default=1.0,
                    regularizes="up", title="Regularization weight",
                    tooltip="Weight of the bending energy beside the metric's 1: higher is more regularized.",
                ),
            )
        ),
        kind="program",
        program=PROGRAM.missing,
        # In a process of its own: 0.87 GB on a brain at 2 mm, ITK's Python included.
        extra_bytes=1.5e9,
        seconds_per_million_voxels=60.0,
    )  # fmt: skip
    settings_type: ClassVar[type] = ElastixSettings

    def search_space(self, grid: Geometry, settings: ElastixSettings) -> SearchSpace:
        """Return the whole range, whose meaning depends on the size of the anatomy in mm."""
        return self.info.search_space

    def register(self, task: RegistrationTask) -> Registration:
        """Register the moving image to the fixed one; see `Engine.register`.

        The transform is the program's own cubic B-spline, with as many digits as it writes. The seed is the program's.

        Raises
        ------
        InputError : as `Engine.register`, the seed cannot be used, or the program cannot be run.
        RegistrationError : the program failed, did not end in time, or left no valid result.
        Cancelled : the caller asked to stop.
        """
        started = time.perf_counter()
        settings: ElastixSettings = task.settings
        values = self.info.search_space.complete(task.setting, self.info.name)
        if not 0 < task.seed < 2**31:
            raise InputError(f"The seed {task.seed} cannot be used: give a whole number from 1 to {2**31 - 1}.")
        stop_if(task.cancelled)
        found = PROGRAM.found(settings.program)
        version = PROGRAM.version(found)
        check_images(task.fixed, task.moving, task.fixed_mask, task.moving_mask)
        listener = _Listener(settings, task.progress)
        with new_folder(PROGRAM.title) as folder:
            masks = _write_pair(task, folder)
            text = parameter_text(settings, values["regularization_weight"], task.seed, bool(masks))
            (folder / "parameters.txt").write_text(text, encoding="ascii")
            (folder / "out").mkdir()
            command = [*found.command, "-f", "fixed.mha", "-m", "moving.mha", *masks, "-p", "parameters.txt", "-out", "out"]
            command += ["-threads", str(thread_count())]
            Run(PROGRAM.title, command, folder, settings.time_limit_minutes, task.cancelled).execute(listener)
            transform = read_spline(folder / "out" / "TransformParameters.0.txt", Geometry.of(task.fixed))
        task.progress(ProgressEvent("register", 1.0, "registered"))
        seconds = time.perf_counter() - started
        return Registration(transform, listener.levels(), values, seconds, task.seed, versions={PROGRAM.title: version})


def parameter_text(settings: ElastixSettings, weight: float, seed: int, masked: bool) -> str:
    """Return elastix's parameter file for a run."""
    steps = [2.0 ** (settings.levels - 1 - level) for level in range(settings.levels)]
    metrics = (METRICS[settings.metric], "TransformBendingEnergyPenalty")
    entries: dict[str, tuple[object, ...]] = {
        "Registration": ("MultiMetricMultiResolutionRegistration",),
        "FixedImagePyramid": ("FixedSmoothingImagePyramid",) * 2,
        "MovingImagePyramid": ("MovingSmoothingImagePyramid",) * 2,
        "ImagePyramidSchedule": tuple(f"{step:g}" for step in steps for _ in range(3)),
        "Interpolator": ("LinearInterpolator",) * 2,
        "ImageSampler": ("RandomCoordinate",) * 2,
        "NumberOfSpatialSamples": (settings.samples,),
        "NewSamplesEveryIteration": ("true",),
        "NumberOfHistogramBins": (32,),
        "Metric": metrics,
        "Metric0Weight": (1.0,),
        "Metric1Weight": (repr(weight),),
        "Optimizer": ("AdaptiveStochasticGradientDescent",),
        "AutomaticParameterEstimation": ("true",),
        "MaximumNumberOfIterations": (settings.iterations,),
        "NumberOfResolutions": (settings.levels,),
        "RandomSeed": (seed,),
        "Transform": ("BSplineTransform",),
        "BSplineTransformSplineOrder": (3,),
        "FinalGridSpacingInVoxels": (f"{settings.spacing_voxels:g}",),
        "GridSpacingSchedule": tuple(f"{step:g}" for step in steps),
        "HowToCombineTransforms": ("Compose",),
        "ErodeMask": ("false",),
        "Resampler": ("DefaultResampler",),
        "ResampleInterpolator": ("FinalLinearInterpolator",),
        "WriteResultImage": ("false",),
        "DefaultOutputPrecision": (12,),
        # Masks and a lack of them alike: that many samples see nothing is no fault.
        "RequiredRatioOfValidSamples": (0.01 if masked else 0.1,),
    }
    return "".join(f"({name} {' '.join(map(_quoted, values))})\n" for name, values in entries.items())


def _quoted(value: object) -> str:
    text = str(value)
    return text if re.fullmatch(r"-?[\d.]+(e[+-]?\d+)?", text) else f'"{text}"'


def _write_pair(task: RegistrationTask, folder: Path) -> list[str]:
    """Write the images of a task for the program; return the arguments that name the masks."""
    fixed_mask, moving_mask = (seen(mask, task.view) for mask in (task.fixed_mask, task.moving_mask))
    write_image(sitk.Cast(filled(task.fixed, fixed_mask), sitk.sitkFloat32), folder / "fixed.mha")
    write_image(sitk.Cast(filled(task.moving, moving_mask), sitk.sitkFloat32), folder / "moving.mha")
    if task.fixed_mask is None:
        around = sitk.BinaryDilate(foreground(task.fixed), [task.settings.dilation_voxels] * 3)
        fixed_mask = seen(around, task.view)
    arguments = []
    for option, name, mask in (("-fMask", "fixed-mask.mha", fixed_mask), ("-mMask", "moving-mask.mha", moving_mask)):
        if mask is not None:
            write_image(sitk.Cast(mask, sitk.sitkUInt8), folder / name)
            arguments += [option, name]
    return arguments


def read_spline(path: Path, grid: Geometry) -> sitk.BSplineTransform:
    """Return the transform of a parameter file that elastix left; `grid` is the working grid.

    Raises
    ------
    RegistrationError : there is none, or it is not of the kind or on the image that was asked for.
    """
    if not path.is_file():
        raise RegistrationError(
            f"{PROGRAM.title} ended without a fault, but left no transform: is the disk full? In a terminal you see what it says."
        )
    entries = {name: text.split() for name, text in _ENTRY.findall(path.read_text(encoding="utf-8", errors="replace"))}
    try:
        kind, order = entries["Transform"][0].strip('"'), int(entries["BSplineTransformSplineOrder"][0])
        size, image_size = (tuple(map(int, entries[name])) for name in ("GridSize", "Size"))
        spacing, origin, columns, values = (
            np.array(entries[name], dtype=float) for name in ("GridSpacing", "GridOrigin", "GridDirection", "TransformParameters")
        )
        # elastix writes directions column by column.
        points = Geometry(size, tuple(spacing), tuple(origin), tuple(columns.reshape(3, 3).T.ravel()))  # type: ignore[arg-type]
        components = values.reshape(3, *size[::-1])
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise RegistrationError(f"{PROGRAM.title} left a transform that cannot be read: is the disk full?") from error
    inside = points.to_index(grid.corners_lps())
    covered = inside.min() >= 0 and (inside <= np.array(size) - 1).all()
    if "BSpline" not in kind or order != 3 or image_size != grid.size or not covered:
        raise RegistrationError(
            f"{PROGRAM.title} left another grid or another kind of transform than it was asked for ('{kind}' of order {order} on "
            f"{' x '.join(map(str, image_size))} voxels instead of {' x '.join(map(str, grid.size))}): is this version one that "
            "the engine knows?"
        )
    return bspline_transform(points, np.moveaxis(components, 0, -1), grid, PROGRAM.title)


@dataclass
class _Level:
    """What was heard of one level."""

    started: float
    values: list[float] = field(default_factory=list)
    stop: str = ""


class _Listener:
    """Makes progress and a trace of what the program prints."""

    def __init__(self, settings: ElastixSettings, progress: Progress) -> None:
        self._settings, self._progress = settings, progress
        self._heard: list[_Level] = []
        self._ended = time.perf_counter()

    def __call__(self, line: str) -> None:
        """Take a line."""
        self._ended = time.perf_counter()
        if _LEVEL.match(line):
            self._heard.append(_Level(self._ended))
        if not self._heard:
            return
        level, count = self._heard[-1], max(self._settings.levels, len(self._heard))
        if found := _ROW.match(line):
            level.values.append(float(found.group(2)))
            share = (len(self._heard) - 1 + min(len(level.values) / self._settings.iterations, 1.0)) / count
            self._progress(ProgressEvent("register", share, f"level {len(self._heard)} of {count}", level.values[-1]))
        elif found := _STOP.search(line):
            level.stop = found.group(1).strip()

    def levels(self) -> tuple[LevelTrace, ...]:
        """Return the trace of what was heard."""
        ends = [level.started for level in self._heard[1:]] + [self._ended]
        return tuple(
            LevelTrace(
                stage="deformable",
                level=number,
                shrink_factor=1.0,
                smoothing_sigma_mm=0.0,
                metric=f"{self._settings.metric} and penalty",
                values=tuple(level.values),
                # The metric is another random sample's each time.
                end_value=None,
                iteration_limit=self._settings.iterations,
                stop_reason=level.stop or "It did not say.",
                seconds=end - level.started,
            )
            for number, (level, end) in enumerate(zip(self._heard, ends, strict=True))
        )
