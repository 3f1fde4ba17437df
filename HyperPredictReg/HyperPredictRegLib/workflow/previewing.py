"""A quick look at what a setting would do: the moving image deformed on a coarse grid, for engines that are quick there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import SimpleITK as sitk

from HyperPredictRegLib.alignment.aligned_pair import AlignedPair
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.progress import CancelCheck, Progress, interruptible, never, silent
from HyperPredictRegLib.core.resources import threads
from HyperPredictRegLib.engines import engine_infos
from HyperPredictRegLib.engines.base import Registration, RegistrationTask, for_pair
from HyperPredictRegLib.preprocessing.working_grid import on_grid
from HyperPredictRegLib.quality.benefit import coarse_grid
from HyperPredictRegLib.quality.measurement import nearest
from HyperPredictRegLib.results.job import Job
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.slabs import resampled
from HyperPredictRegLib.spatial.transforms import displacement_field, field_transform
from HyperPredictRegLib.workflow.planning import Plan, working
from HyperPredictRegLib.workflow.preparing import Clock, Prepared, prepare, settled_settings


@dataclass(frozen=True)
class Preview:
    """The moving image as a setting would deform it, about.

    Attributes
    ----------
    image : float32, on the working grid; 0 where the moving image has no voxels.
    setting : of every parameter of the engine.
    spacing_mm : of the coarse grid that was registered on.
    seconds : that it took, without reading and aligning.
    warnings : sentences for the user, for example that the device cannot be used.
    """

    image: sitk.Image
    setting: dict[str, float]
    spacing_mm: float
    seconds: float
    warnings: tuple[str, ...] = ()


@dataclass
class _Stop:
    """What the look of now asks whether to stop; each look brings its own."""

    asked: CancelCheck = never

    def __call__(self) -> bool:
        return self.asked()


@dataclass(frozen=True)
class Previewer:
    """A pair that is read and aligned, ready to be looked at with any setting, one at a time; make one with `of`."""

    plan: Plan
    prepared: Prepared
    coarse: AlignedPair
    moving: sitk.Image
    _stop: _Stop = field(default_factory=_Stop, repr=False)

    @classmethod
    def of(cls, job: Job, *, progress: Progress = silent, cancelled: CancelCheck = never) -> Previewer:
        """Read and align a job's pair, or take the alignment of the prediction that it names, and sample it coarsely.

        Further channels are left out, and so is the pull of landmarks on the deformation.

        Raises
        ------
        InputError : an input or option cannot be used, or the engine is not quick enough.
        RegistrationError : the pair could not be aligned.
        Cancelled : the caller asked to stop.
        """
        plan = Plan.of(replace(job, setting={}))
        check_previews(job.engine)
        with working(), threads(1 if job.reproducible else None):
            prepared = prepare(plan, Clock(), progress, cancelled)
            pair = prepared.pair
            grid = coarse_grid(pair.grid, plan.engine.info.preview_voxels)
            coarse = interruptible(lambda: sampled(pair, grid), cancelled)
        return cls(plan, prepared, coarse, sitk.Cast(prepared.inputs.moving.image, sitk.sitkFloat32))

    def at(self, setting: Mapping[str, float], *, cancelled: CancelCheck = never) -> Preview:
        """Register the coarse pair with a setting and deform the moving image by what comes out.

        Raises
        ------
        InputError : the engine cannot use the setting.
        RegistrationError : the run diverged.
        Cancelled : the caller asked to stop.
        """
        started = time.perf_counter()
        plan, pair, grid = self.plan, self.coarse, self.prepared.pair.grid
        with threads(1 if plan.job.reproducible else None):
            self._stop.asked = cancelled
            found = self._register(setting)
            whole = interruptible(lambda: pair.whole_transform(found, self.prepared.affine), cancelled)
            # One look-up in place of a chain of transforms for each voxel.
            flat = interruptible(lambda: field_transform(displacement_field(whole, pair.grid)), cancelled)
            image = resampled(self.moving, grid, flat, cancelled=cancelled)
        return Preview(image, dict(found.setting), pair.grid.spacing[0], time.perf_counter() - started, found.warnings)

    @cached_property
    def _register(self) -> Callable[[Mapping[str, float]], Registration]:
        """Return what registers the coarse pair; what all settings share is worked out once."""
        plan, pair = self.plan, self.coarse
        # What the engine chooses on the working grid: on the coarse one it might choose otherwise.
        settings = settled_settings(plan, self.prepared, self._stop)
        task = RegistrationTask(
            pair.fixed, pair.moving, {}, settings, plan.job.seed, pair.fixed_mask, pair.moving_mask,
            view=pair.view, moving_smoothed=pair.moving_smoothed, device=plan.job.device, cancelled=self._stop,
        )  # fmt: skip
        return for_pair(plan.engine, task)


def preview(job: Job, setting: Mapping[str, float], *, progress: Progress = silent, cancelled: CancelCheck = never) -> Preview:
    """Look at one setting; for several of one pair make a `Previewer`, which reads and aligns once. Errors are its own."""
    return Previewer.of(job, progress=progress, cancelled=cancelled).at(setting, cancelled=cancelled)


def check_previews(engine: str) -> None:
    """Raise `InputError` if an engine is not quick enough on any grid to be looked at while a setting is moved."""
    able = [f"'{info.name}'" for info in engine_infos() if info.preview_voxels and not info.unavailable]
    if f"'{engine}'" not in able:
        raise InputError(f"The engine '{engine}' is not quick enough for a preview: choose {' or '.join(able) or 'no preview'}.")


def sampled(pair: AlignedPair, grid: Geometry) -> AlignedPair:
    """Return the first channel of a pair on another grid."""
    view, fixed_mask, moving_mask = (
        None if mask is None else nearest(mask, grid) for mask in (pair.view, pair.fixed_mask, pair.moving_mask)
    )
    smoothed = pair.moving_smoothed or grid is not pair.grid
    return AlignedPair(
        grid, on_grid(pair.fixed, grid), on_grid(pair.moving, grid), fixed_mask, moving_mask, (), view, smoothed
    )
