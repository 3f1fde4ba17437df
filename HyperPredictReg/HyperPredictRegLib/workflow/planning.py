"""A job whose options are checked: its engine, its settings, its predictor, and the finished prediction that it names."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.alignment import AlignmentSettings
from HyperPredictRegLib.core.errors import InputError, RegistrationError
from HyperPredictRegLib.core.files import reason, sentence_of
from HyperPredictRegLib.core.json_records import from_plain
from HyperPredictRegLib.engines import engine_infos, engine_settings, get_engine, one_pair_only
from HyperPredictRegLib.engines.base import Engine, settings_hash
from HyperPredictRegLib.predictor.card import Card, all_bundled, read_card
from HyperPredictRegLib.preprocessing.image_set import Inputs, input_paths
from HyperPredictRegLib.preprocessing.working_grid import PRESETS
from HyperPredictRegLib.results.exchange import prediction_file
from HyperPredictRegLib.results.job import DEVICES, Job, check_landmarks, check_paths, check_trials
from HyperPredictRegLib.results.prediction import Prediction
from HyperPredictRegLib.workflow.reusing import reusable_prediction

if TYPE_CHECKING:
    from HyperPredictRegLib.predictor.predictor import Predictor

MOST_SEED = 2**31 - 1001
"""The seeds of a stability check are counted on from it, and SimpleITK takes no more than 31 bits everywhere."""

MOST_STABILITY_SEEDS = 100
MOST_LEVELS = 32
LARGEST_SETTING = 1e6

NO_TORCH = (
    "PyTorch is not installed, so no trained predictor can be used "
    "(in Slicer: install the extension PyTorch; elsewhere: pip install torch)"
)


@dataclass(frozen=True)
class Plan:
    """A job whose every option has been checked.

    Attributes
    ----------
    job : what was asked.
    engine, engine_settings, alignment : what the job's names and settings mean.
    prediction : the finished prediction that the job names, with the choice by the job's criterion; else None.
    """

    job: Job
    engine: Engine
    engine_settings: Any
    alignment: AlignmentSettings
    prediction: Prediction | None = None

    @classmethod
    def of(cls, job: Job) -> Plan:
        """Check a job's options, and whether the prediction that it names is one of just this work.

        Raises
        ------
        InputError : an option or the prediction cannot be used.
        """
        check_paths(job)
        _check_numbers(job)
        check_trials(job)
        check_landmarks(job.landmarks_for, job.fixed_landmarks, job.moving_landmarks, job.initial_transform)
        engine = get_engine(job.engine, job.engine_settings)
        engine.info.search_space.complete(job.setting, engine.info.name)
        if job.channels and not engine.info.channels:
            raise InputError(one_pair_only(engine.info))
        _check_device(job.device, engine)
        settings = engine_settings(engine, job.engine_settings)
        _check_bounds(settings, f"The setting of the engine '{job.engine}'")
        alignment = from_plain(AlignmentSettings, job.alignment, "the alignment settings")
        with working():
            if job.prediction is not None:
                return cls(job, engine, settings, alignment, reusable_prediction(job, engine, settings, alignment))
            if not job.setting and job.predictor not in ("bundled", "none"):
                # A bundle that the user chose is refused before the affine step, not after it.
                load_predictor(Path(job.predictor), engine, settings, job.preset, alignment)
        return cls(job, engine, settings, alignment)

    @property
    def inputs(self) -> list[Path]:
        """Return every file and folder that is read and must stay as it is."""
        named = [] if self.job.prediction is None else [prediction_file(self.job.prediction)]
        return [*map(Path, input_paths(self.job).values()), *named]

    @property
    def out(self) -> Path:
        """Return the folder to write to; raise `InputError` if the job names none."""
        if not self.job.out.strip():
            raise InputError("The job names no output folder: give one.")
        return Path(self.job.out)


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


def bundle_folders(job: Job) -> tuple[Path, ...]:
    """Return the folders of the bundles that a job may predict with, those for the fewest kinds of pairs first."""
    return all_bundled(job.engine, job.preset) if job.predictor == "bundled" else (Path(job.predictor),)


def bundle_folder(job: Job) -> Path | None:
    """Return the first of these folders; None if none comes with the engine at the preset."""
    return next(iter(bundle_folders(job)), None)


def load_predictor(folder: Path, engine: Engine, settings: Any, preset: str, alignment: AlignmentSettings) -> Predictor:
    """Load a bundle and make sure that it predicts this engine after this affine step.

    Raises
    ------
    InputError : torch is missing, or the bundle is damaged or predicts something else.
    """
    try:
        from HyperPredictRegLib.predictor.predictor import Predictor
    except ImportError as error:
        if (error.name or "").split(".")[0] != "torch":
            raise
        raise InputError(f"{NO_TORCH}.") from error
    predictor = Predictor.load(folder)
    predictor.check(engine, settings, preset, alignment)
    return predictor


def fitting_card(folder: Path, engine: Engine, settings: Any) -> Card | None:
    """Return a bundle's card if it is about just this engine, else None: then its fixed λ says nothing."""
    try:
        card = read_card(folder)
    except InputError:
        return None
    return card if (card.engine, card.settings_hash) == (engine.info.name, settings_hash(engine, settings)) else None


def structure_names(folder: Path, inputs: Inputs) -> dict[int, str]:
    """Return what a bundle calls the labels of the moving segmentation; empty without one, or if its card is damaged."""
    if inputs.moving.labels is None:
        return {}
    try:
        card = read_card(folder)
    except InputError:  # told, or done without, where the bundle is loaded
        return {}
    labels = np.unique(sitk.GetArrayViewFromImage(inputs.moving.labels)).tolist()
    return card.identified([label for label in labels if label], inputs.label_names)[1]


def check_structures(plan: Plan, inputs: Inputs) -> None:
    """Refuse a criterion that weights a structure which will not be predicted, before the affine step.

    Raises
    ------
    InputError : there is such a structure.
    """
    job, asked = plan.job, plan.job.criterion.structures
    folder = bundle_folder(job)
    if not asked or job.setting or job.predictor == "none" or plan.prediction is not None or folder is None:
        return
    try:
        card = read_card(folder)
    except InputError:  # told, or done without, where the bundle is loaded
        return
    names = list(structure_names(folder, inputs).values()) or list(card.structures.values())
    unknown = next((name for name in asked if name not in names), None)
    if unknown is not None:
        raise InputError(f"The predictor does not predict the structure '{unknown}': choose among {', '.join(names) or 'none'}.")


def _check_numbers(job: Job) -> None:
    """Raise `InputError` for a seed, a preset or a number of seeds that cannot be used."""
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


def _check_device(device: str, engine: Engine) -> None:
    """Raise `InputError` for a device that there is not, or that the engine does not compute on."""
    if device not in DEVICES:
        raise InputError(f"There is no device '{device}': choose one of {', '.join(DEVICES)}.")
    if device not in engine.info.devices:
        able = [f", or the engine '{info.name}'" for info in engine_infos() if device in info.devices]
        raise InputError(
            f"The engine '{engine.info.name}' does not compute on the device '{device}': "
            f"choose {' or '.join(engine.info.devices)}{''.join(able)}."
        )


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
