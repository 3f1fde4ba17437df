"""What to do (`Job`) and what came out (`Report`): the one description shared by command line, Slicer and sweeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.files import checked_path
from HyperPredictRegLib.trace import LevelTrace

SCHEMA_VERSION = 1

RULES = ("plateau", "maximum", "knee")
DOMAINS = ("foreground", "box")
COMBINATIONS = ("mean", "worst")
LARGEST_WEIGHT = 1e6


@dataclass(frozen=True)
class Criterion:
    """How λ* is chosen from the foreseen curves, and which folding limit must hold in the end.

    Attributes
    ----------
    rule : "plateau": the largest λ whose Dice lies within `tolerance` of the best that the limit allows;
        "maximum": the λ of highest Dice that the limit allows (HyperPredict, MELBA 2024, Equation 3);
        "knee": the point of the Pareto front of Dice against folding that lies farthest from its chord.
    folding_limit : folded voxels in percent that may not be exceeded; None is no limit.
    domain : what the percentage is of: "foreground" or "box" (the whole working grid, as in the paper).
    cautious : hold the upper end of the 90 % band under the limit, not just the best guess.
    structures : weight of each structure that counts, by name; empty is the plain mean of all.
    combine : "mean", weighted, or "worst": the lowest Dice among the structures counts.
    tolerance : foreseen Dice that may be given up for a smoother field, rule "plateau" only. Foreseen curves are flatter than
        true ones: on 152 pairs of real people 0.001 foreseen came out as 0.0029 against the best λ.
    """

    rule: str = "plateau"
    folding_limit: float | None = 0.5
    domain: str = "foreground"
    cautious: bool = True
    structures: dict[str, float] = field(default_factory=dict)
    combine: str = "mean"
    tolerance: float = 0.001

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("rule", self.rule, RULES),
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
class Job:
    """One registration, complete: running the same job again gives the same result.

    Attributes
    ----------
    fixed, moving : image files or DICOM folders.
    fixed_labels, moving_labels : label maps on the grid of their image; the moving one is propagated, Dice needs both.
    fixed_mask, moving_mask : non-zero where the images may be compared.
    fixed_landmarks, moving_landmarks : point files with as many points, in the same order, for the target registration error.
    label_names : CSV of label,name for tables and segment names.
    initial_transform : transform file that maps fixed to moving points (LPS), used instead of a computed start.
    engine : name of a registered engine.
    hyperparameters : values by name; an engine's default stands in for each one left out. Empty: λ is chosen by `criterion`,
        and corrected until the folding limit holds.
    predictor : "bundled", the folder of another bundle, or "none": start from the engine's fixed default instead.
    criterion : how λ* is chosen where no hyperparameters are given.
    engine_settings : fields of the engine's settings that differ from the preset's.
    preset : "fast", "standard" or "fine": the spacing of the working grid.
    alignment : fields of `AlignmentSettings` that differ from its defaults.
    seed : fixes every random choice; not 0, which would mean the clock.
    stability_seeds : repeat the affine step with this many seeds in all and report how far the results lie apart; 0 is off.
    reproducible : compute with one thread, so that results are equal bit for bit.
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
    engine: str = "demons"
    hyperparameters: dict[str, float] = field(default_factory=dict)
    engine_settings: dict[str, Any] = field(default_factory=dict)
    predictor: str = "bundled"
    criterion: Criterion = field(default_factory=Criterion)
    preset: str = "fast"
    alignment: dict[str, Any] = field(default_factory=dict)
    seed: int = 20240901
    stability_seeds: int = 0
    reproducible: bool = False
    scene: str | None = None
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise InputError(
                f"This job has schema version {self.schema_version}, but this program reads version {SCHEMA_VERSION}: "
                "use the version of HyperPredictReg that wrote it, or write the job again."
            )


PATHS = (
    "fixed", "moving", "out", "fixed_labels", "moving_labels", "fixed_mask", "moving_mask", "fixed_landmarks",
    "moving_landmarks", "label_names", "initial_transform",
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


@dataclass(frozen=True)
class StructureMeasure:
    """Agreement of one structure between the fixed labels and the propagated moving labels; distances in mm."""

    label: int
    name: str
    dice: float
    dice_before: float
    hd95_mm: float | None
    mean_surface_distance_mm: float | None
    fixed_volume_ml: float
    warped_volume_ml: float


@dataclass(frozen=True)
class DiceMeasure:
    """Dice: mean over the structures present in both label maps; those absent from one are named and left out."""

    mean: float
    mean_before: float
    structures: tuple[StructureMeasure, ...]
    absent: tuple[str, ...] = ()


@dataclass(frozen=True)
class FoldingPercent:
    """Share of voxels with a Jacobian determinant <= 0, in percent of the fixed foreground and of the working grid."""

    foreground: float
    box: float


@dataclass(frozen=True)
class Distances:
    """Summary of a set of distances in mm."""

    mean: float
    p95: float
    maximum: float


@dataclass(frozen=True)
class Measured:
    """The quality of a registration. Dice, landmarks and their parts are None where no labels or landmarks were given.

    Similarity is the normalised mutual information of the images inside the foreground, from 1 (none) to 2.
    """

    folding_percent: FoldingPercent
    sd_log_jacobian: float
    jacobian_minimum: float
    jacobian_maximum: float
    inverse_consistency_mm: Distances
    displacement_mm: Distances
    similarity_before: float
    similarity_after: float
    dice: DiceMeasure | None = None
    tre_mm: Distances | None = None
    tre_before_mm: Distances | None = None


@dataclass(frozen=True)
class EngineUsed:
    """Which engine ran, with which settings."""

    name: str
    version: str
    settings: dict[str, Any]
    settings_hash: str


@dataclass(frozen=True)
class StabilityMeasure:
    """How far affine steps with different seeds lie apart over the fixed foreground, in mm from their mean."""

    seeds: tuple[int, ...]
    mean_spread_mm: float
    largest_spread_mm: float
    limit_mm: float


@dataclass(frozen=True)
class AlignmentUsed:
    """The affine step: its settings, trace and outcome. `matrix` is 4x4, row by row, fixed to moving points in LPS mm."""

    settings: dict[str, Any]
    metric: str
    stages: tuple[LevelTrace, ...]
    matrix: tuple[float, ...]
    starts_tried: int
    warnings: tuple[str, ...] = ()
    stability: StabilityMeasure | None = None


@dataclass(frozen=True)
class GridUsed:
    """The working grid."""

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]


@dataclass(frozen=True)
class InputUsed:
    """An input file as it was read.

    `notes` are sentences on what was taken for granted in it, and in the mask and the labels that belong to it.
    """

    role: str
    path: str
    size: tuple[int, ...]
    spacing: tuple[float, ...]
    sha256: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class BandValue:
    """A foreseen number with its 90 % band."""

    value: float
    lower: float
    upper: float


@dataclass(frozen=True)
class PredictedStructure:
    """The predicted Dice of one structure, known by its value in the label maps: names may be missing or shared."""

    label: int
    name: str
    dice: BandValue


@dataclass(frozen=True)
class Predicted:
    """What was predicted at one λ, before anything was registered. Folding in percent.

    Attributes
    ----------
    counted_dice : the Dice that the criterion counts; None where it is the plain mean.
    """

    predictor: str
    hyperparameters: dict[str, float]
    mean_dice: BandValue
    structures: tuple[PredictedStructure, ...]
    folding_foreground: BandValue
    folding_box: BandValue
    sd_log_jacobian: BandValue
    counted_dice: BandValue | None = None


@dataclass(frozen=True)
class Comparison:
    """A predicted number beside the measured one, at one λ.

    Attributes
    ----------
    what : "dice" (mean of `structures` structures), "folding_foreground", "folding_box" (both in percent) or "sd_log_jacobian".
    hyperparameters : the λ that both are for.
    predicted : over the same structures as `measured`.
    measured : what came out.
    lies : where the measured number lies: "inside" of the predicted band, "below" or "above" it; "" if that cannot be told.
    at_result : whether this λ is the one of the result.
    structures, structures_predicted : how many structures `dice` is the mean of, and how many were predicted; else 0.
    """

    what: str
    hyperparameters: dict[str, float]
    predicted: BandValue
    measured: float
    lies: str
    at_result: bool
    structures: int = 0
    structures_predicted: int = 0


@dataclass(frozen=True)
class MirrorCheck:
    """What would explain why a pair agrees so little: exchanged labels, or a mirrored image.

    Attributes
    ----------
    pairs : labels of which each lies where the other should; empty where it is the image that seems to be mirrored.
    dice, dice_explained : mean Dice as measured, and without the exchange or, for a mirrored image, after its mere alignment.
    similarity, similarity_explained : normalised mutual information after alignment of the image as it is, and mirrored.
    """

    pairs: tuple[tuple[int, int], ...] = ()
    dice: float | None = None
    dice_explained: float | None = None
    similarity: float | None = None
    similarity_explained: float | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether the pair is like those that the predictor was trained on.

    Attributes
    ----------
    light : "green", "amber" (unusual: bands are wider) or "red" (no suggestion is made, the fixed λ is used).
    reasons : sentences; for amber and red the most unusual features in words.
    """

    light: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trial:
    """One registration of the closed loop: its λ, and what it measured. Folding in percent of foreground and box."""

    hyperparameters: dict[str, float]
    folding_percent: FoldingPercent
    sd_log_jacobian: float
    within_limit: bool
    seconds: float


@dataclass(frozen=True)
class Report:
    """Everything that came out of a job, with the job itself.

    Attributes
    ----------
    outputs : maps a role to a file name in the output folder.
    chosen_by : who chose λ: "user", "predictor", or "fixed" (no prediction could be used).
    choice : why this λ, in a sentence.
    limit_kept : whether the measured folding is within the criterion's limit; None where there is none.
    criterion : what λ was chosen by; None where the user gave it.
    predicted : what was foreseen at the first λ that was tried, or None.
    predicted_at_result : what was predicted, before anything was registered, for the λ of the result; None if nothing was.
    comparisons : predicted beside measured: all that sentences, tables and warnings say of it.
    mirror_check : exchanged labels or a mirrored image, where one of these would explain a poor result; else None.
    verdict : the predictor's traffic light, or None.
    trials : every λ that was registered with, in order; the last one is the result.
    """

    job: Job
    engine: EngineUsed
    hyperparameters: dict[str, float]
    inputs: tuple[InputUsed, ...]
    working_grid: GridUsed
    alignment: AlignmentUsed
    registration: tuple[LevelTrace, ...]
    measured: Measured
    seconds: dict[str, float]
    peak_memory_mb: float | None
    warnings: tuple[str, ...]
    versions: dict[str, str]
    outputs: dict[str, str]
    chosen_by: str = "user"
    choice: str = ""
    limit_kept: bool | None = None
    criterion: Criterion | None = None
    predicted: Predicted | None = None
    predicted_at_result: Predicted | None = None
    comparisons: tuple[Comparison, ...] = ()
    mirror_check: MirrorCheck | None = None
    verdict: Verdict | None = None
    trials: tuple[Trial, ...] = ()
    schema_version: int = SCHEMA_VERSION
