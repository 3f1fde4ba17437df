"""NiftyReg's ``reg_f3d``: a cubic B-spline with penalties on bending energy and linear elasticity, on any two contrasts.

Source: Modat et al., Comput. Methods Programs Biomed. 98 (2010) 278, doi:10.1016/j.cmpb.2009.09.002; with `velocity`, Modat et
al., SPIE 8314 (2012). In the program the similarity weighs 1 - be - le, which leaves nothing of it from be + le = 1 on, and the
bending energy weighs be / 16 per level above the finest one.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.core.errors import InputError, RegistrationError
from HyperPredictRegLib.core.files import shown
from HyperPredictRegLib.core.progress import Progress, ProgressEvent, stop_if
from HyperPredictRegLib.core.search_space import Parameter, SearchSpace, Setting
from HyperPredictRegLib.core.trace import LevelTrace
from HyperPredictRegLib.engines.base import EngineInfo, Registration, RegistrationTask
from HyperPredictRegLib.engines.external.coefficients import bspline_transform
from HyperPredictRegLib.engines.external.program import Found, Program, ProgramSettings
from HyperPredictRegLib.engines.external.running import Run, new_folder, thread_count, write_image
from HyperPredictRegLib.engines.given_images import check_images, filled, seen
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.reading.nifti import check_complete, read_nifti_header
from HyperPredictRegLib.spatial.transforms import field_transform

PROGRAM = Program(
    engine="niftyreg",
    title="NiftyReg",
    executables=("reg_f3d",),
    variable="HYPERPREDICTREG_NIFTYREG",
    remedy="install NiftyReg 1.5 (https://github.com/KCL-BMEIS/niftyreg; `pip install niftyreg` builds it)",
    versions=("1.5",),
)

SIMILARITIES = {
    "nmi": ("--nmi", "--rbn", "64", "--fbn", "64"),
    "lncc": ("--lncc", "-2.5"),
    "ssd": ("--ssd",),
    "mind": ("--mind", "1"),
}
"""Arguments of each similarity; the width of the local window is negative, as the program has widths in voxels."""

LEAST = 1e-6
"""The lower end of both weights, at which the penalty is left out: a logarithmic scale has no 0."""

_ONE_MASK = (
    "NiftyReg knows a mask of the fixed image only: the images were compared where both masks are, and outside of its mask the "
    "moving image was replaced by a blur of what is inside."
)
_SPLINE, _DISPLACEMENT = 2, 1
_FLOATS = {16: np.float32, 64: np.float64}
_LEVEL = re.compile(r"Current level: (\d+) / (\d+)")
_LIMIT = re.compile(r"Maximum iteration number: (\d+)")
_NUMBER = r"(-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)"
_SPACING = re.compile(rf"image spacing: {_NUMBER} x")
_VALUE = re.compile(rf"(?:\[(\d+)\] Current|Initial) objective function: {_NUMBER} =")


@dataclass(frozen=True)
class NiftyRegSettings(ProgramSettings):
    """How ``reg_f3d`` runs, its two weights apart; see there.

    Attributes
    ----------
    similarity : "nmi" (64 bins, for any two contrasts), "lncc" (Gaussian window of 2.5 voxels), "ssd" or "mind".
    spacing_voxels : between control points on the finest level (``-sx``); voxels, because every working grid has others.
    levels : of the pyramid (``-ln``).
    pyramid : whether coarser levels have coarser images (not ``-nopy``).
    iterations : most evaluations on the finest level (``-maxit``); twice as many on each coarser one.
    velocity : whether the control points are those of a velocity field (``-vel``): hardly ever folds, several times as long.
    """

    similarity: str = "nmi"
    spacing_voxels: float = 5.0
    levels: int = 3
    pyramid: bool = True
    iterations: int = 150
    velocity: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.similarity not in SIMILARITIES:
            raise InputError(
                f"The similarity '{self.similarity}' is unknown to the engine 'niftyreg': use {', '.join(SIMILARITIES)}."
            )
        if not 1 <= self.spacing_voxels <= 100:
            raise InputError(f"The control points of 'niftyreg' are {self.spacing_voxels:g} voxels apart: give from 1 to 100.")
        if not (1 <= self.levels <= 10 and 1 <= self.iterations <= 100_000):
            raise InputError("The engine 'niftyreg' takes 1 to 10 levels of 1 to 100000 iterations.")

    def identity(self) -> dict[str, Any]:
        """Return what results depend on; see `settings_hash`."""
        return PROGRAM.identity(self)


def _weight(name: str, high: float, default: float, what: str) -> Parameter:
    return Parameter(
        name=name, symbol=name, unit="", scale="log", low=LEAST, high=high, default=default, regularizes="up",
        title=what[0].upper() + what[1:],
        tooltip=f"Weight of the {what}; what both weights leave of 1 is that of the similarity. {LEAST:g} leaves it out.",
    )  # fmt: skip


class NiftyRegEngine:
    """Free-form deformation by NiftyReg's ``reg_f3d``, which the user installs."""

    info: ClassVar[EngineInfo] = EngineInfo(
        name="niftyreg",
        version="1",
        title="NiftyReg",
        summary="Free-form deformation by the program reg_f3d of NiftyReg, for images of any contrast.",
        contrasts="any",
        # Their highest values add up to less than 1, so that some similarity is always left.
        search_space=SearchSpace((_weight("be", 0.5, 0.001, "bending energy"), _weight("le", 0.4, 0.01, "linear elasticity"))),
        kind="program",
        program=PROGRAM.missing,
        # In a process of its own: 54 MB on a brain at 2 mm, so there is much to spare.
        extra_bytes=0.5e9,
        seconds_per_million_voxels=30.0,
    )
    settings_type: ClassVar[type] = NiftyRegSettings

    def search_space(self, grid: Geometry, settings: NiftyRegSettings) -> SearchSpace:
        """Return the whole range: weights suit any grid."""
        return self.info.search_space

    def register(self, task: RegistrationTask) -> Registration:
        """Register the moving image to the fixed one; see `Engine.register`.

        The program gets the pair on a grid along the axes of space, and its result is turned back, so that nothing depends on how
        it reads orientations. The transform is its own cubic B-spline, exactly; with `velocity`, the displacements at the voxels
        that ``reg_transform`` makes of it. The images are compared where both masks and the view are; outside of its mask an
        image is replaced by a blur of what is inside. The program has no randomness: the seed is not used.

        Raises
        ------
        InputError : as `Engine.register`, the weights leave nothing of the similarity, or the program cannot be run.
        RegistrationError : the program failed, did not end in time, or left no valid result.
        Cancelled : the caller asked to stop.
        """
        started = time.perf_counter()
        settings: NiftyRegSettings = task.settings
        values = self._checked(task.setting)
        stop_if(task.cancelled)
        found = PROGRAM.found(settings.program)
        version = PROGRAM.version(found)
        check_images(task.fixed, task.moving, task.fixed_mask, task.moving_mask)
        grid = Geometry.of(task.fixed)
        listener = _Listener(settings, task.progress, min(grid.spacing))
        with new_folder(PROGRAM.title) as folder:
            mask = _write_pair(task, folder)
            command = [*found.command, *_arguments(values, settings, mask)]
            Run(PROGRAM.title, command, folder, settings.time_limit_minutes, task.cancelled).execute(listener)
            if settings.velocity:
                transform: sitk.Transform = _dense(found, task, folder)
            else:
                transform = _spline(folder / "grid.nii", grid, settings.spacing_voxels)
        task.progress(ProgressEvent("register", 1.0, "registered"))
        seconds = time.perf_counter() - started
        notes = () if task.moving_mask is None else (_ONE_MASK,)
        versions = {PROGRAM.title: version}
        return Registration(transform, listener.levels(), values, seconds, task.seed, notes=notes, versions=versions)

    def _checked(self, setting: Mapping[str, float]) -> Setting:
        given = {**self.info.search_space.defaults, **setting}
        together = given["be"] + given["le"]
        if together >= 1 and set(given) == {"be", "le"}:
            raise InputError(
                f"be + le = {together:g} leaves nothing of the similarity, which has the weight 1 - be - le, so that nothing "
                "would move: choose a value from what together is below 1."
            )
        return self.info.search_space.complete(setting, self.info.name)


def _arguments(values: Setting, settings: NiftyRegSettings, mask: bool) -> list[str]:
    be, le = (0.0 if value <= LEAST else value for value in (values["be"], values["le"]))
    return [
        "-ref", "fixed.nii", "-flo", "moving.nii", "-cpp", "grid.nii", "-res", "warped.nii",
        *(("-rmask", "mask.nii") if mask else ()),
        *SIMILARITIES[settings.similarity],
        "-be", repr(be), "-le", repr(le), "-sx", f"{-settings.spacing_voxels:g}", "-ln", str(settings.levels),
        "-maxit", str(settings.iterations), "-omp", str(thread_count()),
        *(() if settings.pyramid else ("-nopy",)),
        *(("-vel",) if settings.velocity else ()),
    ]  # fmt: skip


def upright(grid: Geometry) -> Geometry:
    """Return a grid of the same voxels whose axes are those of RAS, its first voxel at 0."""
    return Geometry(grid.size, grid.spacing, direction=(-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))


def _write_pair(task: RegistrationTask, folder: Path) -> bool:
    """Write the images of a task for the program; return whether there is a mask."""
    place = upright(Geometry.of(task.fixed))
    fixed_mask, moving_mask = (seen(mask, task.view) for mask in (task.fixed_mask, task.moving_mask))
    # The program reads voxels without a value as 0, and knows masks of the fixed image only.
    for name, image, mask in (("fixed", task.fixed, fixed_mask), ("moving", task.moving, moving_mask)):
        write_image(place.apply_to(sitk.Cast(filled(image, mask), sitk.sitkFloat32)), folder / f"{name}.nii")
    both = seen(fixed_mask, moving_mask)
    if both is not None:
        write_image(place.apply_to(sitk.Cast(both, sitk.sitkUInt8)), folder / "mask.nii")
    return both is not None


def _spline(path: Path, grid: Geometry, spacing_voxels: float) -> sitk.Transform:
    """Return the transform of a grid of control points: their positions in mm, in RAS, as `upright` has them."""
    spacing = tuple(spacing_voxels * s for s in grid.spacing)
    # One before the image, and as many as it takes to have two beyond its end.
    size = tuple(int(np.ceil(n / spacing_voxels + 3 - 1e-6)) for n in grid.size)
    origin = tuple(grid.to_lps([-spacing_voxels] * 3).tolist())
    points = Geometry(size, spacing, origin, grid.direction)  # type: ignore[arg-type]
    positions = _vectors(path, size, _SPLINE)
    k, j, i = np.indices(points.size[::-1])
    along_axes = positions - (np.stack([i, j, k], axis=-1) - 1) * np.array(spacing)
    return bspline_transform(points, along_axes @ grid.direction_matrix.T, grid, PROGRAM.title)


def _dense(found: Found, task: RegistrationTask, folder: Path) -> sitk.Transform:
    """Return the transform of the displacements at the voxels that the program's own tool makes of a velocity field."""
    tool = found.path.with_name(found.path.name.replace("reg_f3d", "reg_transform"))
    if not tool.is_file():
        raise InputError(f"With 'velocity' reg_transform is needed beside '{shown(found.path)}': install NiftyReg as a whole.")
    settings, grid = task.settings, Geometry.of(task.fixed)
    command = [str(tool), "-ref", "fixed.nii", "-disp", "grid.nii", "field.nii"]
    Run(PROGRAM.title, command, folder, settings.time_limit_minutes, task.cancelled).execute(lambda line: None)
    along_axes = _vectors(folder / "field.nii", grid.size, _DISPLACEMENT)
    if not np.isfinite(along_axes).all():
        raise RegistrationError(f"{PROGRAM.title} gave displacements that are NaN or infinite: choose a higher be.")
    return field_transform(grid.holding(along_axes @ grid.direction_matrix.T, vectors=True))


def _vectors(path: Path, size: tuple[int, ...], kind: int) -> np.ndarray:
    """Return the vectors of a file by the program, shape (k, j, i, 3), as they are.

    Raises
    ------
    RegistrationError : it is not there, cannot be read, or is no file of such a kind and size.
    """
    try:
        header = read_nifti_header(path) if path.is_file() else None
        if header is not None:
            check_complete(path, header)
    except (OSError, EOFError) as error:
        raise RegistrationError(f"{PROGRAM.title} left a file that cannot be read ({path.name}): is the disk full?") from error
    if header is None:
        raise RegistrationError(
            f"{PROGRAM.title} ended without a fault, but left no transform: is the disk full? In a terminal you see what it says."
        )
    is_kind = header.intent_name == "NREG_TRANS" and header.intent_p1 == kind and header.datatype in _FLOATS
    if header.sizes != (*size, 1, 3) or not is_kind:
        stated, expected = (" x ".join(map(str, sizes[:3])) for sizes in (header.sizes, size))
        raise RegistrationError(
            f"{PROGRAM.title} left another grid of another kind than it was asked for ({stated} points of the kind "
            f"'{header.intent_name}' {header.intent_p1:g} instead of {expected}): is this version one that behaves as "
            f"{' or '.join(PROGRAM.versions)} does?"
        )
    # Not by ITK, which reads NaN as 0.
    values = np.fromfile(path, _FLOATS[header.datatype], 3 * math.prod(size), offset=int(header.offset))
    return np.moveaxis(values.reshape(3, *size[::-1]).astype(float), 0, -1)


@dataclass
class _Level:
    """What was heard of one level."""

    started: float
    limit: int = 0
    spacing: float = 0.0
    evaluations: int = 0
    values: list[float] = field(default_factory=list)


class _Listener:
    """Makes progress and a trace of what the program prints."""

    def __init__(self, settings: NiftyRegSettings, progress: Progress, finest_mm: float) -> None:
        self._settings, self._progress, self._finest_mm = settings, progress, finest_mm
        self._heard: list[_Level] = []
        self._ended = time.perf_counter()

    def __call__(self, line: str) -> None:
        """Take a line."""
        self._ended = time.perf_counter()
        if _LEVEL.search(line):
            self._heard.append(_Level(self._ended))
        if not self._heard:
            return
        level = self._heard[-1]
        if found := _LIMIT.search(line):
            level.limit = int(found.group(1))
        elif (found := _SPACING.search(line)) and not level.spacing:
            level.spacing = float(found.group(1))
        elif found := _VALUE.search(line):
            # The program maximises.
            level.values.append(-float(found.group(2)))
            level.evaluations = int(found.group(1) or 0)
            number, count = len(self._heard), max(self._settings.levels, len(self._heard))
            share = (number - 1 + min(level.evaluations / max(level.limit, 1), 1.0)) / count
            self._progress(ProgressEvent("register", share, f"level {number} of {count}", level.values[-1]))

    def levels(self) -> tuple[LevelTrace, ...]:
        """Return the trace of what was heard."""
        ends = [level.started for level in self._heard[1:]] + [self._ended]
        return tuple(
            LevelTrace(
                stage="deformable",
                level=number,
                shrink_factor=level.spacing / self._finest_mm if level.spacing else 1.0,
                smoothing_sigma_mm=0.0,
                metric=f"penalties less similarity ({self._settings.similarity})",
                values=tuple(level.values),
                end_value=level.values[-1] if level.values else None,
                iteration_limit=level.limit,
                stop_reason=(
                    f"Maximum number of iterations ({level.limit}) reached."
                    if level.evaluations >= level.limit
                    else "The step length became too small."
                ),
                seconds=end - level.started,
            )
            for number, (level, end) in enumerate(zip(self._heard, ends, strict=True))
        )
