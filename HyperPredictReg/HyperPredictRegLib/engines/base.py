"""The contract of a deformable registration engine."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.progress import CancelCheck, Progress
from HyperPredictRegLib.trace import LevelTrace


@dataclass(frozen=True)
class Hyperparameter:
    """A number that a user (or a predictor) chooses per image pair, such as the regularisation weight λ.

    Attributes
    ----------
    name : key in the `hyperparameters` mapping.
    symbol : how it is written in figures and text.
    unit : its unit, or "" if it has none.
    lower, upper : the range within which the engine was tried.
    scale : "log" or "linear": how the range should be walked.
    default : the value for those who do not choose.
    meaning : one sentence for the user.
    """

    name: str
    symbol: str
    unit: str
    lower: float
    upper: float
    scale: str
    default: float
    meaning: str

    def check(self, value: float) -> float:
        """Return `value` as a float; raise `InputError` if it is not a number inside the range."""
        if not math.isfinite(value) or not self.lower <= value <= self.upper:
            raise InputError(
                f"{self.name} = {value:g} is outside of what this engine can use: "
                f"choose a value from {self.lower:g} to {self.upper:g} {self.unit}".rstrip() + "."
            )
        return float(value)

    def grid(self, count: int) -> np.ndarray:
        """Return `count` values over the range, evenly spaced on its scale, shape (count,)."""
        if self.scale == "log":
            return np.geomspace(self.lower, self.upper, count)
        return np.linspace(self.lower, self.upper, count)


@dataclass(frozen=True)
class Registration:
    """The result of a deformable registration.

    Attributes
    ----------
    transform : maps fixed points to points of the (already aligned) moving image given to the engine, LPS mm.
    levels : the trace, coarsest level first.
    hyperparameters : the values that were used.
    seconds : wall-clock time of the whole engine run.
    seed : the seed that was given.
    warnings : sentences for the user.
    """

    transform: sitk.Transform
    levels: tuple[LevelTrace, ...]
    hyperparameters: Mapping[str, float]
    seconds: float
    seed: int
    warnings: tuple[str, ...] = ()


class Engine(Protocol):
    """A deformable registration algorithm. Knows nothing of predictors, files or MRML.

    `register` is pure: the same images, values, settings and seed give the same transform; with one thread bit for bit.
    Settings are a frozen dataclass of the engine's own; `Settings()` is the default. `extra_bytes` is the memory that it takes
    beyond what any registration takes for images and working grid.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    summary: ClassVar[str]
    hyperparameters: ClassVar[tuple[Hyperparameter, ...]]
    settings_type: ClassVar[type]
    extra_bytes: ClassVar[float]

    def register(  # noqa: PLR0913 - two images, what may belong to either, and what every long call takes
        self,
        fixed: sitk.Image,
        moving: sitk.Image,
        hyperparameters: Mapping[str, float],
        settings: Any,
        *,
        seed: int,
        fixed_mask: sitk.Image | None = None,
        moving_mask: sitk.Image | None = None,
        start: sitk.Transform | None = None,
        progress: Progress = ...,
        cancelled: CancelCheck = ...,
    ) -> Registration:
        """Register `moving`, already aligned and resampled onto the grid of `fixed`.

        Parameters
        ----------
        fixed, moving : float images on one isotropic grid, intensities about 0 to 1 (see `intensity.normalised`).
        hyperparameters : one value for each of the engine's hyperparameters; missing ones take their default.
        settings : an instance of `settings_type`.
        seed : non-zero; fixes every random choice.
        fixed_mask, moving_mask : where the metric is evaluated, uint8 on the same grid.
        start : an earlier result for these images with another λ; an engine may save its coarse levels by starting from it.
        progress, cancelled : see `progress`; `Cancelled` is raised within two seconds of `cancelled()` being true.

        Raises
        ------
        InputError : a value is out of range or a setting makes no sense.
        RegistrationError : the run diverged.
        Cancelled : the caller asked to stop.
        """
        ...


def complete_hyperparameters(engine: Engine, given: Mapping[str, float]) -> dict[str, float]:
    """Return a checked value for each hyperparameter of `engine`, defaults where none was given.

    Raises
    ------
    InputError : an unknown name, or a value out of range.
    """
    known = {h.name: h for h in engine.hyperparameters}
    for name in given:
        if name not in known:
            raise InputError(
                f"The engine '{engine.name}' has no hyperparameter '{name}'; it has: {', '.join(known) or 'none'}."
            )
    return {name: h.check(given.get(name, h.default)) for name, h in known.items()}


def settings_hash(engine: Engine, settings: Any) -> str:
    """Return a short hash that changes when the engine, its version or any of its settings changes."""
    text = json.dumps([engine.name, engine.version, asdict(settings)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
