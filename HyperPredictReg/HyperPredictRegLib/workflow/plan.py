"""A job whose options are checked, and what all kinds of work on it share: time, memory, the affine step."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from HyperPredictRegLib.aligned_pair import AlignedPair
from HyperPredictRegLib.alignment import Alignment, AlignmentSettings, align
from HyperPredictRegLib.engines import engine_settings, get_engine
from HyperPredictRegLib.engines.base import Engine, complete_hyperparameters
from HyperPredictRegLib.errors import InputError, RegistrationError
from HyperPredictRegLib.files import reason, sentence_of
from HyperPredictRegLib.geometry import Geometry
from HyperPredictRegLib.grid import MARGIN_VOXELS, PRESETS, working_spacing
from HyperPredictRegLib.inputs import Inputs, check_memory, read_inputs
from HyperPredictRegLib.intensity import points_of
from HyperPredictRegLib.job import Job, check_paths
from HyperPredictRegLib.predictor.choosing import load_predictor
from HyperPredictRegLib.progress import CancelCheck, Progress, ProgressEvent, stop_if
from HyperPredictRegLib.records import from_plain

MOST_SEED = 2**31 - 1001
"""The seeds of a stability check are counted on from it, and SimpleITK takes no more than 31 bits everywhere."""

MOST_STABILITY_SEEDS = 100
MOST_LEVELS = 32
LARGEST_SETTING = 1e6


@dataclass(frozen=True)
class Plan:
    """A job whose every option has been checked."""

    job: Job
    engine: Engine
    engine_settings: Any
    alignment: AlignmentSettings

    @classmethod
    def of(cls, job: Job) -> Plan:
        """Check a job's options.

        Raises
        ------
        InputError : an option cannot be used.
        """
        check_paths(job)
        if job.seed == 0:
            raise InputError(
                "The seed is 0, which SimpleITK takes for the clock, so that no result could be repeated: choose another number."
            )
        if not 1 <= job.seed <= MOST_SEED:
            raise InputError(f"The seed is {_number(job.seed)}: give a whole number from 1 to {MOST_SEED}.")
        if job.preset not in PRESETS:
            raise InputError(f"There is no preset '{job.preset}': choose one of {', '.join(PRESETS)}.")
        if not (job.stability_seeds == 0 or 2 <= job.stability_seeds <= MOST_STABILITY_SEEDS):
            raise InputError(
                f"A stability check with {_number(job.stability_seeds)} seeds says nothing: give 2 or more, at most "
                f"{MOST_STABILITY_SEEDS}, or 0 for none."
            )
        engine = get_engine(job.engine)
        complete_hyperparameters(engine, job.hyperparameters)
        if not job.hyperparameters and job.predictor not in ("bundled", "none"):
            # A bundle that the user chose is refused before the affine step, not after it.
            with working():
                load_predictor(Path(job.predictor), engine, engine_settings(engine, job.engine_settings), job.preset)
        settings = engine_settings(engine, job.engine_settings)
        _check_bounds(settings, f"The setting of the engine '{job.engine}'")
        return cls(
            job=job,
            engine=engine,
            engine_settings=settings,
            alignment=from_plain(AlignmentSettings, job.alignment, "the alignment settings"),
        )


@contextmanager
def working() -> Iterator[None]:
    """Keep errors of files that are read during the work from being blamed on the output folder.

    Raises
    ------
    InputError : in place of an `OSError` that tells of a file.
    RegistrationError : in place of any other `OSError`, for example of a library that could not be loaded.
    """
    try:
        yield
    except OSError as error:
        sentence = sentence_of(error)
        if sentence is not None:
            raise InputError(sentence) from error
        raise RegistrationError(f"The work failed ({type(error).__name__}: {reason(error)}), and nothing was written.") from error


def output_folder(job: Job) -> Path:
    """Return the folder that a job writes to; raise `InputError` if it names none."""
    if not job.out.strip():
        raise InputError("The job names no output folder: give one.")
    return Path(job.out)


def _check_bounds(settings: Any, what: str) -> None:
    """Raise `InputError` for a number in a record of settings that no engine can reckon with, or a list without an end."""
    for field in fields(settings):
        given = getattr(settings, field.name)
        values = given if isinstance(given, tuple) else (given,)
        if len(values) > MOST_LEVELS:
            raise InputError(f"{what}, {field.name}, has {len(values)} values: give at most {MOST_LEVELS}, one for each level.")
        for value in values:
            if isinstance(value, int | float) and not (math.isfinite(value) and abs(value) <= LARGEST_SETTING):
                raise InputError(f"{what}, {field.name}, is {_number(value)}: give a number of at most {LARGEST_SETTING:g}.")


def _number(value: float) -> str:
    text = str(value)
    return text if len(text) <= 30 else f"{text[:12]}… ({len(text)} digits)"


class Clock:
    """Wall-clock seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside a ``with`` block as stage `name`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = time.perf_counter() - started


@dataclass(frozen=True)
class Ready:
    """A job's images after the affine step."""

    inputs: Inputs
    alignment: Alignment
    pair: AlignedPair


def made_ready(plan: Plan, clock: Clock, progress: Progress, cancelled: CancelCheck) -> Ready:
    """Read the inputs and align them."""
    with clock.stage("read"):
        progress(ProgressEvent("read", 0.0, "reading images"))
        inputs = read_inputs(plan.job)
        check_grid_memory(plan, inputs)
    stop_if(cancelled)
    with clock.stage("align"):
        images = inputs.fixed.normalised, inputs.moving.normalised
        alignment = align(
            *images, plan.alignment, seed=plan.job.seed, progress=progress, cancelled=cancelled, **belongings(inputs)
        )
        pair = AlignedPair.of(inputs, alignment.transform, plan.job.preset, plan.engine.extra_bytes)
    return Ready(inputs, alignment, pair)


def check_grid_memory(plan: Plan, inputs: Inputs) -> None:
    """Refuse a preset that cannot fit before the affine step: the grid will hold at least the fixed anatomy."""
    fixed = inputs.fixed
    spacing = working_spacing(fixed.image, fixed.foreground, plan.job.preset)
    points = points_of(fixed.foreground)
    grid = Geometry.of(fixed.image).covering(points, spacing, MARGIN_VOXELS * spacing)
    images = fixed.image.GetNumberOfPixels() + inputs.moving.image.GetNumberOfPixels()
    check_memory(images, grid.voxel_count, f"The preset '{plan.job.preset}'", plan.engine.extra_bytes)


def belongings(inputs: Inputs) -> dict[str, Any]:
    """Return what `align` and `stability` take beside the images."""
    return {
        "fixed_foreground": inputs.fixed.foreground,
        "moving_foreground": inputs.moving.foreground,
        "fixed_mask": inputs.fixed.mask,
        "moving_mask": inputs.moving.mask,
        "initial_transform": inputs.initial_transform,
    }
