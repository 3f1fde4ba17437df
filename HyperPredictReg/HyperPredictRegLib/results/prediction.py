"""The predicted quality of registrations that were not made: the surface over all settings, and what was chosen by it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from HyperPredictRegLib.core.search_space import SearchSpace, Setting
from HyperPredictRegLib.core.trace import LevelTrace
from HyperPredictRegLib.results.job import READS, SCHEMA_VERSION, Criterion, EngineUsed, Job


@dataclass(frozen=True)
class Band:
    """A quantity with its 90 % band; three arrays of one shape.

    Attributes
    ----------
    value : the best guess (the median).
    lower, upper : about 90 % of true values lie between them.
    """

    value: np.ndarray
    lower: np.ndarray
    upper: np.ndarray

    def __getitem__(self, index: Any) -> Band:
        return Band(self.value[index], self.lower[index], self.upper[index])


MEASURES = ("mean_dice", "overlap_gain", "error_mm")
"""Fields of a surface that may tell how good a registration will be: of the last one less is better."""


@dataclass(frozen=True)
class PredictionSurface:
    """Predicted quality of one image pair for n settings of an engine's h parameters.

    Attributes
    ----------
    space : the parameters, h of them, with the ranges that the predictor was trained on.
    values : shape (n, h); for a single parameter in rising order.
    structures, labels : names and label values of the s structures.
    dice : Dice of each structure, shape (s, n).
    mean_dice : mean over these structures, shape (n,); None where no Dice is predicted.
    folding_foreground, folding_grid : folded voxels in percent of the domain, shape (n,); for a single parameter
        never rising as it regularizes more.
    sd_log_jacobian : standard deviation of the logarithm of the Jacobian determinant over the foreground, shape (n,).
    held : values of the engine's other parameters that all of it is for; empty where `space` has all.
    error_mm, error_95_mm : how far the finished transform is expected to lie from the true one over the fixed foreground: the
        median and the 95th percentile over its points, in mm, shape (n,); None where no error is predicted.
    voxel_mm : edge of a voxel of the working grid, the geometric mean of its three; 0 where it is not known.
    overlap_gain : share of what the affine step leaves of overlap, 1 - Dice, that deforming is expected to win, shape (n,), below
        0 where it loses; None where it is not predicted. It needs no segmentation.
    """

    space: SearchSpace
    values: np.ndarray
    structures: tuple[str, ...]
    labels: tuple[int, ...]
    dice: Band
    mean_dice: Band | None
    folding_foreground: Band
    folding_grid: Band
    sd_log_jacobian: Band
    held: Setting = field(default_factory=dict)
    error_mm: Band | None = None
    error_95_mm: Band | None = None
    voxel_mm: float = 0.0
    overlap_gain: Band | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the parameters."""
        return self.space.names

    @property
    def bands(self) -> dict[str, Band]:
        """Return every predicted quantity by the name of its field."""
        return {one.name: value for one in fields(self) if isinstance(value := getattr(self, one.name), Band)}

    def measure(self, goal: str = "auto") -> str:
        """Return the field that tells how good a registration will be for a goal of a `Criterion`, one of `MEASURES`.

        What suits the goal best of what is predicted: for "overlap" mean Dice, then the gain of overlap; for "accuracy" the
        expected error; for "auto" mean Dice, then the error. Where none of these is predicted, the other is told; for "overlap"
        it chooses nothing then (`selection.chooses_default`).
        """
        return _measure(self, goal)

    def quality(self, goal: str = "auto") -> Band:
        """Return the band of what counts for a goal, shape (n,); see `measure`."""
        found: Band = getattr(self, self.measure(goal))
        return found

    def folding(self, domain: str) -> Band:
        """Return folding in percent of `domain`: "foreground" or "grid"."""
        return {"foreground": self.folding_foreground, "grid": self.folding_grid}[domain]

    def __post_init__(self) -> None:
        n = len(self.values)
        if not self.structures and not self.dice.value.size:
            # A list without rows has lost how long they were.
            object.__setattr__(self, "dice", Band(*(np.zeros((0, n)) for _ in range(3))))
        if self.values.shape != (n, len(self.space)) or self.dice.value.shape != (len(self.structures), n):
            raise ValueError("Settings or Dice have another shape than the parameters and structures ask for.")
        if self.measure() == "error_mm" and self.structures:
            raise ValueError("Structures need their mean Dice.")
        if len(self.labels) != len(self.structures):
            raise ValueError("As many labels as structures are needed.")
        for name, band in self.bands.items():
            if not band.value.shape == band.lower.shape == band.upper.shape:
                raise ValueError(f"The bands of {name} differ in shape.")
            if band.value.shape[-1] != n:
                raise ValueError(f"{name} has {band.value.shape[-1]} points for {n} settings.")


@dataclass(frozen=True)
class BandValue:
    """A predicted number with its 90 % band."""

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
    """What was predicted at one setting, before anything was registered. Folding in percent.

    Attributes
    ----------
    mean_dice : None where no Dice is predicted.
    counted_dice : the Dice that the criterion counts; None where it is the plain mean.
    error_mm, error_95_mm, overlap_gain : see `PredictionSurface`; None where they are not predicted.
    """

    predictor: str
    setting: Setting
    mean_dice: BandValue | None
    structures: tuple[PredictedStructure, ...]
    folding_foreground: BandValue
    folding_grid: BandValue
    sd_log_jacobian: BandValue
    counted_dice: BandValue | None = None
    error_mm: BandValue | None = None
    error_95_mm: BandValue | None = None
    overlap_gain: BandValue | None = None

    def measure(self, goal: str = "auto") -> str:
        """Return the field that counts for a goal; see `PredictionSurface.measure`."""
        return _measure(self, goal)

    def quality(self, goal: str = "auto") -> BandValue:
        """Return what counts for a goal; see `measure`."""
        found: BandValue = getattr(self, self.measure(goal))
        return found

    def folding(self, domain: str) -> BandValue:
        """Return folding in percent of `domain`: "foreground" or "grid"."""
        return {"foreground": self.folding_foreground, "grid": self.folding_grid}[domain]


def _measure(of: PredictionSurface | Predicted, goal: str) -> str:
    order = {"overlap": MEASURES, "accuracy": ("error_mm", "mean_dice"), "auto": ("mean_dice", "error_mm")}[goal]
    found = next((name for name in order if getattr(of, name) is not None), None)
    if found is None:
        raise ValueError("Neither Dice nor an error is predicted.")
    return found


BOOTSTRAP = "bootstrap"
"""What predicts without training: trial registrations of this very pair, coarse ones, against a truth that is known."""

SOURCES = ("network", BOOTSTRAP)


@dataclass(frozen=True)
class Outlook:
    """What to expect of a pair whatever the setting: chances from 0 to 1, None where nothing is known.

    Attributes
    ----------
    failed : that the alignment has failed, so that it lies over two voxels off where deforming cannot mend it.
    helps : that deforming, at its best setting, brings the images closer than the affine step alone.
    affine_error_mm : how far the affine step alone is expected to lie from the truth over the fixed foreground, its median in mm.
    gain_mm : what the setting of least expected error takes off that; below 0 where deforming does harm.
    source : who says so, one of `SOURCES`.
    """

    failed: float | None
    helps: float | None
    affine_error_mm: BandValue | None = None
    gain_mm: BandValue | None = None
    source: str = "network"

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"There is no source of an outlook '{self.source}'.")
        if any(chance is not None and not 0 <= chance <= 1 for chance in (self.failed, self.helps)):
            raise ValueError("A chance of an outlook lies outside of 0 to 1.")


LEVELS = ("reliable", "uncertain", "unreliable")


@dataclass(frozen=True)
class Reliability:
    """Whether a prediction can be relied on.

    Attributes
    ----------
    level : "reliable", "uncertain" (bands are wider) or "unreliable": what was measured speaks against it, such as an alignment
        that failed, noise, or no overlap; then no suggestion is made, and the fixed setting is used.
    reasons : sentences.
    """

    level: str
    reasons: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"There is no reliability '{self.level}'.")


@dataclass(frozen=True)
class Choice:
    """A setting to register with, and how it came about.

    Attributes
    ----------
    setting : a value for each parameter.
    sentence : why this one, for the user.
    by : "user"; "predictor", a trained one; `BOOTSTRAP`; or "fixed".
    feasible : whether any setting is predicted to keep the folding limit; True where nothing is predicted.
    predicted : what is predicted there; None unless it was chosen by that.
    fixed : the cross-validated setting of those who do not predict, for comparison; empty where the user chose.
    """

    setting: Setting
    sentence: str
    by: str = "predictor"
    feasible: bool = True
    predicted: Predicted | None = None
    fixed: Setting = field(default_factory=dict)


@dataclass(frozen=True)
class StructureChoice:
    """What would be chosen if only one structure counted, by the same criterion.

    Attributes
    ----------
    label, name : of the structure.
    setting : its own.
    dice : predicted there.
    dice_at_choice : predicted at the setting chosen for all structures together.
    """

    label: int
    name: str
    setting: Setting
    dice: BandValue
    dice_at_choice: BandValue


@dataclass(frozen=True)
class StabilityMeasure:
    """How far affine steps with different seeds lie apart over the fixed foreground, in mm from their mean."""

    seeds: tuple[int, ...]
    mean_spread_mm: float
    largest_spread_mm: float
    limit_mm: float


@dataclass(frozen=True)
class LandmarkStart:
    """What the affine step started from where landmarks led it; mean distances at them in mm.

    Attributes
    ----------
    fit : "rigid", "similarity" or "affine".
    count : how many pairs.
    fit_mm : after the fit.
    left_out_mm : of each pair after a fit to all others, which is an honest error of the fit; None for three pairs.
    aligned_mm : after the affine step that started from the fit.
    retained : whether the fit itself was taken, because the affine step led away from the landmarks.
    """

    fit: str
    count: int
    fit_mm: float
    left_out_mm: float | None
    aligned_mm: float
    retained: bool = False


@dataclass(frozen=True)
class AlignmentUsed:
    """The affine step: its settings, trace and outcome; enough to take it again without aligning.

    Attributes
    ----------
    settings : fields of `AlignmentSettings`.
    metric : what the last stage compared.
    stages : the trace of every level that led to the result.
    matrix : 4x4, row by row, fixed to moving points in LPS mm, for people; rounded in its last digits.
    starts_tried : how many starts were compared.
    warnings : sentences, doubts and refusals among them.
    stability : spread over seeds, if it was measured.
    contrast : "same", "different" or "unclear": whether equal tissue has similar intensities in both images.
    parameters, center : the affine transform to the last bit: ITK's 12 parameters, and the point that it turns about, LPS mm.
    doubts, refusals : warnings that speak against relying on what follows from this alignment, and that forbid it.
    from_prediction : whether it was taken from a finished prediction and not computed by this job.
    landmarks : the start that landmarks gave; None where they did not lead.
    """

    settings: dict[str, Any]
    metric: str
    stages: tuple[LevelTrace, ...]
    matrix: tuple[float, ...]
    starts_tried: int
    warnings: tuple[str, ...] = ()
    stability: StabilityMeasure | None = None
    contrast: str = "unclear"
    parameters: tuple[float, ...] = ()
    center: tuple[float, ...] = ()
    doubts: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    from_prediction: bool = False
    landmarks: LandmarkStart | None = None


@dataclass(frozen=True)
class Prediction:
    """What was predicted for a pair, and what was chosen by it: the content of ``prediction.json``.

    Attributes
    ----------
    job : what was asked; `out` is where this went.
    engine : whose result is predicted.
    predictor : name and version of the bundle, or `BOOTSTRAP`.
    bundle_sha256 : checksum of the bundle's model file; "" without one.
    reliability : whether it can be relied on.
    criterion : by which was chosen.
    choice : the setting to take; the bundle's fixed one where the prediction is unreliable.
    structures : each structure's own choice; empty where the prediction is unreliable.
    surface : the predicted quality for all settings.
    seconds : wall-clock time by stage.
    warnings : sentences; those of the inputs and of the alignment first.
    alignment : the affine step that the prediction is for; None where this was made without one, and no job can take it up.
    inputs : SHA-256 of every input file, by its field in the job.
    notes : sentences on what was taken for granted when the inputs were read.
    versions : of the libraries that only a prediction needs.
    outlook : what to expect whatever the setting; None where nothing of it is predicted.
    further : name and version of the bundle that tells what `predictor` does not, such as the expected error; "" without one.
    """

    job: Job
    engine: EngineUsed
    predictor: str
    bundle_sha256: str
    reliability: Reliability
    criterion: Criterion
    choice: Choice
    structures: tuple[StructureChoice, ...]
    surface: PredictionSurface
    seconds: dict[str, float]
    warnings: tuple[str, ...] = ()
    alignment: AlignmentUsed | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    outlook: Outlook | None = None
    further: str = ""
    schema_version: int = field(default=SCHEMA_VERSION, metadata=READS)
