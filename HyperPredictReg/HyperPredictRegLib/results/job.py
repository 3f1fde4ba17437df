"""What to do: the one description of work shared by panel, command line, sweeps and tests."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.files import checked_path
from HyperPredictRegLib.core.search_space import SearchSpace, Setting

SCHEMA_VERSION = 3
"""Of jobs, predictions and reports. Version 3 added fields, all with defaults, so that files of version 2 can be read as well."""

READS = {"oldest": 2}
"""For the field that holds the version: see `core.json_records`."""

DEFAULT_ENGINE = "diffeo"
"""The engine of jobs that name none; a job that is written down names it, and gives the same result when this changes."""

RULES = ("plateau", "maximum", "knee")
GOALS = ("auto", "overlap", "accuracy")
DOMAINS = ("foreground", "grid")
COMBINATIONS = ("mean", "worst")
DEVICES = ("cpu", "cuda")
LARGEST_WEIGHT = 1e6
LANDMARK_USES = ("measuring", "start", "start and deformation")
MOST_CHANNELS = 16
"""Pairs of images of one job, the first one included."""


@dataclass(frozen=True)
class Criterion:
    """How λ* is chosen from the predicted curves, and which folding limit must hold in the end.

    Attributes
    ----------
    rule : "plateau": the largest λ whose Dice lies within `tolerance` of the best that the limit allows;
        "maximum": the λ of highest Dice that the limit allows (HyperPredict, MELBA 2024, Equation 3);
        "knee": the point of the Pareto front of Dice against folding that lies farthest from its chord.
    folding_limit : folded voxels in percent that may not be exceeded; None is no limit.
    domain : what the percentage is of: "foreground" or "grid" (the whole working grid, as in the paper).
    cautious : hold the upper end of the 90 % band under the limit, not just the best guess.
    structures : weight of each structure that counts, by name; empty is the plain mean of all.
    combine : "mean", weighted, or "worst": the lowest Dice among the structures counts.
    goal : what counts where several are predicted: "overlap" of structures, as Dice measures it, "accuracy" of every point in mm,
        or "auto": Dice where it is predicted, else the error in mm. The two ask for different λ: see
        `PredictionSurface.measure`.
    tolerance : predicted Dice that may be given up for a smoother field, rule "plateau" only. Predicted curves are flatter than
        true ones: on 152 pairs of real people 0.001 predicted came out as 0.0029 against the best λ.
    """

    rule: str = "maximum"
    folding_limit: float | None = 0.5
    domain: str = "foreground"
    cautious: bool = True
    structures: dict[str, float] = field(default_factory=dict)
    combine: str = "mean"
    tolerance: float = 0.001
    goal: str = "auto"

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("rule", self.rule, RULES),
            ("goal", self.goal, GOALS),
            ("domain", self.domain, DOMAINS),
            ("way to combine structures", self.combine, COMBINATIONS),
        ):
            if value not in choices:
                raise InputError(f"There is no {name} '{value}' to choose λ by: take one of {', '.join(choices)}.")
        if self.folding_limit is not None and not 0 < self.folding_limit <= 100:
            raise InputError(f"The folding limit is {self.folding_limit:g} %: give more than 0 and at most 100, or none.")
        if not 0 <= self.tolerance < 1:
            raise InputError(f"The Dice tolerance is {self.tolerance:g}: give 0 or more, and less than 1.")
        weights = self.structures.values()
        if any(not 0 <= weight <= LARGEST_WEIGHT for weight in weights) or (weights and not any(weights)):
            raise InputError(
                f"The weights of the structures must be from 0 to {LARGEST_WEIGHT:g}, and at least one of them above 0."
            )


@dataclass(frozen=True)
class Channel:
    """One more pair of images of what the first pair shows, such as T2 beside T1: both are registered by one transform.

    Attributes
    ----------
    fixed, moving : image files or DICOM folders, of any grid, each in the world space of the image of its side.
    weight : of this channel's force; the first pair's is 1.
    """

    fixed: str
    moving: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and 0 < self.weight <= LARGEST_WEIGHT):
            raise InputError(
                f"The weight of a channel is {self.weight:g}: give more than 0 (the first pair's is 1) and at most "
                f"{LARGEST_WEIGHT:g}, or leave the channel out."
            )


@dataclass(frozen=True)
class Job:
    """One registration, complete: running the same job again gives the same result.

    Attributes
    ----------
    fixed, moving : image files or DICOM folders.
    fixed_labels, moving_labels : label maps on the grid of their image; the moving one is propagated, Dice needs both.
    fixed_mask, moving_mask : non-zero where the images may be compared.
    fixed_landmarks, moving_landmarks : point files with as many points, in the same order, for the target registration error.
    landmarks_for : "measuring" alone; "start": the affine step starts from a fit to them, without rotated starts; or "start and
        deformation": they also pull the deformation. Landmarks that are used are no independent check of the result.
    label_names : CSV of label,name for tables and segment names.
    initial_transform : transform file that maps fixed to moving points (LPS), used instead of a computed start.
    channels : further pairs of images that pull at the deformation together with the first; the alignment uses the first only.
    engine : name of a registered engine.
    setting : values by name; an engine's default stands in for each one left out. Empty: λ is chosen by `criterion`,
        and corrected until the folding limit holds.
    predictor : "bundled", the folder of another bundle, or "none": start from the engine's fixed default instead. Where the
        bundle does not fit the job, or does not know such pairs, trial registrations predict (the bootstrap rule).
    trials : whether they do so in a registration by an engine that is not built in, too, where they may take minutes; whoever
        asks for a prediction always gets them. A job that takes a finished `prediction` repeats it by them in its report.
    criterion : how λ* is chosen where no setting is given.
    engine_settings : fields of the engine's settings that differ from the preset's.
    preset : "fast", "standard" or "fine": the spacing of the working grid.
    alignment : fields of `AlignmentSettings` that differ from its defaults.
    prediction : finished prediction of these inputs, ``prediction.json`` or the folder that holds it: its alignment and curves
        are taken, so that nothing is aligned or predicted again, and its setting where `criterion` is the same; or None.
    seed : fixes every random choice; not 0, which would mean the clock.
    stability_seeds : repeat the affine step with this many seeds in all and report how far the results lie apart; 0 is off.
    reproducible : compute with one thread, so that results are equal bit for bit.
    device : one of `DEVICES`, for the deformable step; where it turns out to be of no use the CPU computes, with a warning.
    out : output folder.
    scene : file name of a Slicer scene (.mrb) to write, or None.
    """

    fixed: str
    moving: str
    out: str
    fixed_labels: str | None = None
    moving_labels: str | None = None
    fixed_mask: str | None = None
    moving_mask: str | None = None
    fixed_landmarks: str | None = None
    moving_landmarks: str | None = None
    label_names: str | None = None
    initial_transform: str | None = None
    landmarks_for: str = LANDMARK_USES[0]
    channels: tuple[Channel, ...] = ()
    engine: str = DEFAULT_ENGINE
    setting: Setting = field(default_factory=dict)
    engine_settings: dict[str, Any] = field(default_factory=dict)
    predictor: str = "bundled"
    trials: bool = False
    prediction: str | None = None
    criterion: Criterion = field(default_factory=Criterion)
    preset: str = "fast"
    alignment: dict[str, Any] = field(default_factory=dict)
    seed: int = 20240901
    stability_seeds: int = 0
    reproducible: bool = False
    device: str = "cpu"
    scene: str | None = None
    schema_version: int = field(default=SCHEMA_VERSION, metadata=READS)

    @property
    def uses_landmarks(self) -> bool:
        """Tell whether landmarks led to the result, so that they are no independent check of it."""
        return self.landmarks_for != LANDMARK_USES[0]


def check_landmarks(use: str, fixed: object | None, moving: object | None, initial_transform: object | None) -> None:
    """Refuse a use of landmarks that there is not, or that what else is given leaves no room for; None is what is not given.

    Raises
    ------
    InputError : see above.
    """
    if use not in LANDMARK_USES:
        raise InputError(f"Landmarks cannot be used for '{use}': choose one of {', '.join(LANDMARK_USES)}.")
    if use == LANDMARK_USES[0]:
        return
    if fixed is None or moving is None:
        raise InputError(
            f"The alignment is to begin with landmarks ('{use}'), but they are not given for both images: give fixed and moving "
            "landmarks, or use them for measuring only."
        )
    if initial_transform is not None:
        raise InputError(
            "The alignment can begin with the initial transform or with a fit to the landmarks, but both are given: leave out "
            "the initial transform, or use the landmarks for measuring only."
        )


PATHS = (
    "fixed", "moving", "out", "fixed_labels", "moving_labels", "fixed_mask", "moving_mask", "fixed_landmarks",
    "moving_landmarks", "label_names", "initial_transform", "prediction",
)  # fmt: skip
"""Fields of a job that are paths of files or folders; the predictor may be one, too."""


def check_paths(job: Job) -> None:
    """Raise `InputError` if a path of a job can be none, before any work: empty, too long, not UTF-8. Nothing is looked up."""
    for name in PATHS:
        path = getattr(job, name)
        # Work in memory needs no output folder; who writes asks for it.
        if path is not None and not (name == "out" and not path.strip()):
            checked_path(path, name.replace("_", " ") if name != "out" else "output folder")
    checked_path(job.predictor, "predictor")
    if len(job.channels) >= MOST_CHANNELS:
        raise InputError(f"The job has {len(job.channels)} channels beside the first pair: give at most {MOST_CHANNELS - 1}.")
    for role, path in channel_paths(job).items():
        checked_path(path, channel_role(role))


def check_trials(job: Job) -> None:
    """Raise `InputError` if trial registrations are asked for in a job that is not to predict."""
    if job.trials and job.predictor == "none":
        raise InputError(
            "Trial registrations are to choose λ (trials), but the predictor is 'none', with which nothing is tried: leave out "
            "the trials, or leave out the predictor 'none'."
        )


def channel_paths(job: Job) -> dict[str, str]:
    """Return the images of a job's channels by "fixed_channel_2", "moving_channel_2" and so on: the first pair is channel 1."""
    return {
        f"{side}_channel_{number}": path
        for number, channel in enumerate(job.channels, start=2)
        for side, path in (("fixed", channel.fixed), ("moving", channel.moving))
    }


def channel_role(key: str) -> str:
    """Return how to call an image of `channel_paths` in a sentence: "fixed image of channel 2"."""
    side, _, number = key.partition("_channel_")
    return f"{side} image of channel {number}"


@dataclass(frozen=True)
class EngineUsed:
    """Which engine ran, with which settings, and how it describes its parameters."""

    name: str
    version: str
    title: str
    space: SearchSpace
    settings: dict[str, Any]
    settings_hash: str
