"""What to do (`Job`) and what came out (`Report`): the one description shared by command line, Slicer and sweeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.trace import LevelTrace

SCHEMA_VERSION = 1


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
    hyperparameters : values by name; an engine's default stands in for each one left out.
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
    """An input file as it was read."""

    role: str
    path: str
    size: tuple[int, ...]
    spacing: tuple[float, ...]
    sha256: str


@dataclass(frozen=True)
class Report:
    """Everything that came out of a job, with the job itself. `outputs` maps a role to a file name in the output folder."""

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
    schema_version: int = SCHEMA_VERSION
