"""A made-up engine with two parameters, one linear from 0, one logarithmic that regularizes downward, and predictions for it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import SimpleITK as sitk
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.progress import ProgressEvent, stop_if
from HyperPredictRegLib.core.search_space import Parameter, SearchSpace
from HyperPredictRegLib.core.trace import LevelTrace
from HyperPredictRegLib.engines.base import EngineInfo, Registration, RegistrationTask, engine_used
from HyperPredictRegLib.results.job import Criterion, Job
from HyperPredictRegLib.results.prediction import Band, Prediction, PredictionSurface, Reliability
from HyperPredictRegLib.selection import choose, per_structure
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import field_transform

NAME = "ripple"
PLACE = "two_parameter_engine:RippleEngine"
"""Where the registry of engines finds it."""

SPACE = SearchSpace(
    (
        Parameter("damping", "d", "", "linear", 0.0, 10.0, 0.0, "up", "Damping", "More of it is smoother."),
        Parameter("step", "s", "mm", "log", 0.05, 2.0, 1.0, "down", "Step", "Shorter ones are smoother."),
    )
)
WAVE_VOXELS = 12.0
STRONGEST = 2.5


def slope(setting: dict[str, float]) -> float:
    """Return the largest derivative of the displacement; from 1 on it folds."""
    return STRONGEST * setting["step"] / (1 + setting["damping"])


@dataclass(frozen=True)
class RippleSettings:
    """How the ripples run: `axis` 0 to 2."""

    axis: int = 0

    def __post_init__(self) -> None:
        if self.axis not in (0, 1, 2):
            raise InputError(f"The axis of the ripples is {self.axis}: choose 0, 1 or 2.")


class RippleEngine:
    """Ripples the image instead of registering it: the less damping and the longer the step, the more it folds."""

    info: ClassVar[EngineInfo] = EngineInfo(
        name=NAME, version="7", title="Ripples", summary="Ripples, for tests.", contrasts="any", search_space=SPACE,
        deterministic=True,
    )  # fmt: skip
    settings_type: ClassVar[type] = RippleSettings

    def search_space(self, grid: Geometry, settings: RippleSettings) -> SearchSpace:
        """Return all but steps of more than a voxel."""
        return SPACE.narrowed("step", 0.05, max(grid.spacing))

    def register(self, task: RegistrationTask) -> Registration:
        """Ripple the moving image."""
        started = time.perf_counter()
        grid = Geometry.of(task.fixed)
        values = self.search_space(grid, task.settings).complete(task.setting, NAME)
        stop_if(task.cancelled)
        length = WAVE_VOXELS * grid.spacing[0]
        k, j, i = np.indices(grid.size[::-1])
        at = (i, j, k)[task.settings.axis] * grid.spacing[0]
        field = np.zeros((*grid.size[::-1], 3))
        field[..., task.settings.axis] = slope(values) * length / (2 * np.pi) * np.sin(2 * np.pi * at / length)
        # Displacements are along the axes of the patient.
        field = field @ grid.direction_matrix.T
        task.progress(ProgressEvent("register", 1.0, "rippled"))
        trace = LevelTrace("deformable", 0, 1.0, 0.0, "none", (1.0,), 1.0, 1, "Maximum number of iterations (1) reached.", 0.0)
        transform = field_transform(grid.apply_to(sitk.GetImageFromArray(field, isVector=True)))
        return Registration(transform, (trace,), values, time.perf_counter() - started, task.seed)


def ripple_surface(values: np.ndarray | None = None) -> PredictionSurface:
    """Return a prediction for the engine on a grid of 15 x 15 settings: folding too low by half, Dice best in the middle."""
    values = SPACE.grid(15) if values is None else values
    steep = np.array([slope(SPACE.setting(row)) for row in values])
    folding = 40 * np.clip(steep - 1, 0, None) ** 2 / (1 + np.clip(steep - 1, 0, None) ** 2)
    best = np.array([0.6, 0.9])
    dice = np.stack([0.8 - 0.1 * (np.log(steep + 0.1) - np.log(one)) ** 2 for one in best])

    def band(value: np.ndarray, factor: float) -> Band:
        return Band(value, value / factor, value * factor)

    around = Band(dice, dice - 0.02, dice + 0.02)
    mean = Band(*(part.mean(axis=0) for part in (around.value, around.lower, around.upper)))
    return PredictionSurface(
        SPACE, values, ("shell", "core"), (1, 2), around, mean, band(folding, 1.5), band(folding / 3, 1.5), band(0.2 * steep, 1.1)
    )


def ripple_prediction(engine: Any, criterion: Criterion | None = None) -> Prediction:
    """Return a whole prediction by a made-up predictor."""
    criterion, surface = criterion or Criterion(), ripple_surface()
    return Prediction(
        job=Job("fixed.nrrd", "moving.nrrd", "out", engine=NAME, criterion=criterion),
        engine=engine_used(engine, RippleSettings()),
        predictor="ripple-fast 1",
        bundle_sha256="ab" * 32,
        reliability=Reliability("reliable"),
        criterion=criterion,
        choice=replace(choose(surface, criterion, "ripple-fast 1"), fixed=SPACE.defaults),
        structures=per_structure(surface, criterion),
        surface=surface,
        seconds={"predict": 1.0},
    )
