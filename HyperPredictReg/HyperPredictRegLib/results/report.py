"""What came out of a job, with the job itself: the content of ``report.json``."""

from __future__ import annotations

from dataclasses import dataclass, field

from HyperPredictRegLib.core.trace import LevelTrace
from HyperPredictRegLib.results.job import READS, SCHEMA_VERSION, Criterion, EngineUsed, Job
from HyperPredictRegLib.results.prediction import AlignmentUsed, BandValue, Choice, Outlook, Predicted, Reliability


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
    grid: float


@dataclass(frozen=True)
class Distances:
    """Summary of a set of distances in mm."""

    mean: float
    p95: float
    maximum: float


@dataclass(frozen=True)
class ChannelMeasure:
    """How similar the images of a channel beside the first pair are, where both show something; as in `Measured`."""

    number: int
    weight: float
    similarity_before: float
    similarity_after: float


@dataclass(frozen=True)
class Measured:
    """The quality of a registration. Dice, landmarks and their parts are None where no labels or landmarks were given.

    Landmarks that led the registration (`Job.uses_landmarks`) are no independent check: their distances are not its error.

    Similarity is the normalised mutual information of the images inside the foreground, from 1 (none) to 2; that of the first
    pair stands here, those of other channels in `channels`.
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
    channels: tuple[ChannelMeasure, ...] = ()


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
class Comparison:
    """A predicted number beside the measured one, at one λ.

    Attributes
    ----------
    what : "dice" (mean of `structures` structures), "folding_foreground", "folding_grid" (both in percent) or "sd_log_jacobian".
    setting : the λ that both are for.
    predicted : over the same structures as `measured`.
    measured : what came out.
    lies : where the measured number lies: "inside" of the predicted band, "below" or "above" it; "" if that cannot be told.
    at_result : whether this λ is the one of the result.
    structures, structures_predicted : how many structures `dice` is the mean of, and how many were predicted; else 0.
    """

    what: str
    setting: dict[str, float]
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
class Benefit:
    """Whether deforming helped, or the affine result is to be kept; see `quality.benefit`.

    Attributes
    ----------
    level : one of `BENEFITS`.
    sentence : the level in words, and which result to keep.
    reasons : what speaks for it, sentences with their numbers.
    evidence : the numbers by name, as `quality.benefit.Evidence` holds them.
    """

    level: str
    sentence: str
    reasons: tuple[str, ...] = ()
    evidence: dict[str, float] = field(default_factory=dict)


BENEFITS = ("helped", "unclear", "did not help", "nonsense")
"""Levels of `Benefit`, from the best to the worst."""


@dataclass(frozen=True)
class Trial:
    """One registration of the closed loop: its λ, and what it measured. Folding in percent of foreground and grid."""

    setting: dict[str, float]
    folding_percent: FoldingPercent
    sd_log_jacobian: float
    within_limit: bool
    seconds: float


@dataclass(frozen=True)
class LandmarkPull:
    """How landmarks pulled the deformation; mean distances at them in mm, the last of which is among what was measured.

    Attributes
    ----------
    before_mm : after the affine step.
    pulled_mm : after the pull, from which the engine went on.
    left_out_mm : of each landmark where only the others pull: below `before_mm` if they tell anything of what lies between them.
    registered_mm : after the engine.
    again : whether they pulled a second time, because the engine had moved them apart.
    weakened : whether the pull is weaker than asked for, so that nothing folds.
    """

    before_mm: float
    pulled_mm: float
    left_out_mm: float
    registered_mm: float
    again: bool = False
    weakened: bool = False


@dataclass(frozen=True)
class Report:
    """Everything that came out of a job, with the job itself.

    Attributes
    ----------
    job : what was done, without the file of a prediction that it may have taken: predicting again gives the same.
    outputs : maps a role to a file name in the output folder.
    choice : the setting that was tried first, who chose it and why, and what was predicted for it.
    predictor, bundle_sha256 : name and version of the bundle that was asked, and the checksum of its model; "" if none was.
    limit_met : whether the measured folding is within the criterion's limit; None where there is none.
    criterion : what λ was chosen by; None where the user gave it.
    predicted_at_result : what was predicted, before anything was registered, for the λ of the result; None if nothing was.
    comparisons : predicted beside measured: all that sentences, tables and warnings say of it.
    mirror_check : exchanged labels or a mirrored image, where one of these would explain a poor result; else None.
    benefit : whether deforming helped; None in reports of versions that did not judge it.
    reliability : of the prediction, or None.
    outlook : what was expected of the pair whatever the setting, or None.
    further : name and version of the bundle that told what `predictor` does not; see `Prediction`.
    trials : every λ that was registered with, in order; the last one is the result.
    landmark_pull : how landmarks pulled the deformation; None where they did not.
    engine_notes : sentences on what the engine chose itself, such as the similarity.
    device : on which the deformable step was computed; another one than the job's where that could not be used.
    """

    job: Job
    engine: EngineUsed
    setting: dict[str, float]
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
    choice: Choice
    limit_met: bool | None = None
    criterion: Criterion | None = None
    predictor: str = ""
    bundle_sha256: str = ""
    predicted_at_result: Predicted | None = None
    comparisons: tuple[Comparison, ...] = ()
    mirror_check: MirrorCheck | None = None
    benefit: Benefit | None = None
    reliability: Reliability | None = None
    trials: tuple[Trial, ...] = ()
    landmark_pull: LandmarkPull | None = None
    engine_notes: tuple[str, ...] = ()
    device: str = "cpu"
    outlook: Outlook | None = None
    further: str = ""
    schema_version: int = field(default=SCHEMA_VERSION, metadata=READS)
