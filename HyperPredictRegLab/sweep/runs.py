"""One pair of a sweep: align once, register with every setting of the design, measure and describe it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from HyperPredictRegLib.alignment import AlignmentSettings, align
from HyperPredictRegLib.alignment.aligned_pair import AlignedPair
from HyperPredictRegLib.alignment.frame import check_seed
from HyperPredictRegLib.core.errors import HyperPredictRegError, InputError
from HyperPredictRegLib.engines import engine_settings, get_engine
from HyperPredictRegLib.engines.base import Engine, Registration, RegistrationTask, for_pair, settings_hash, settled
from HyperPredictRegLib.predictor.card import read_record
from HyperPredictRegLib.predictor.evidence import VERSION as EVIDENCE_VERSION
from HyperPredictRegLib.predictor.evidence import as_features, pair_evidence
from HyperPredictRegLib.predictor.features import VERSION as FEATURES_VERSION
from HyperPredictRegLib.predictor.features import pair_features
from HyperPredictRegLib.preprocessing.image_set import Inputs, read_inputs
from HyperPredictRegLib.quality.measurement import nearest
from HyperPredictRegLib.quality.metrics import (
    dice_coefficients,
    folding_percent,
    jacobian_determinant,
    mutual_information,
    sd_log_jacobian,
    surface_distances,
)
from HyperPredictRegLib.results.job import DEFAULT_ENGINE, Job
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import displacement_field, linear_matrix, read_transform
from scipy import ndimage

from HyperPredictRegLab.manifest import ManifestPair
from HyperPredictRegLab.sweep.design import Design
from HyperPredictRegLab.sweep.truths import KnownTransform

SURFACE_POINTS = 2000
"""HD95 is measured from at most this many points of each surface: its 95th percentile does not need more."""

Row = dict[str, Any]


@dataclass(frozen=True)
class SweepSettings:
    """What all pairs of a sweep have in common; a sweep's folder belongs to one of these.

    Attributes
    ----------
    engine, engine_settings, preset, alignment, seed : as in `Job`.
    evidence : whether to find the evidence that some predictors read, see `predictor.evidence`.
    """

    engine: str = DEFAULT_ENGINE
    engine_settings: dict[str, Any] = field(default_factory=dict)
    preset: str = "fast"
    alignment: dict[str, Any] = field(default_factory=dict)
    seed: int = 20240901
    evidence: bool = False

    def __post_init__(self) -> None:
        check_seed(self.seed)


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep folder holds: the settings of all its runs and the design of their settings.

    Attributes
    ----------
    engine_hash : of the engine, its version and its settings.
    preprocessing : version of foreground, intensities and working grid; "1" where none was written down yet.
    """

    settings: SweepSettings = field(default_factory=SweepSettings)
    design: Design = field(default_factory=Design)
    engine_hash: str = ""
    preprocessing: str = "1"


PLAN = "sweep.json"
_MOST_PLAN_BYTES = 1_000_000


def read_plan(folder: Path) -> SweepPlan | None:
    """Return the plan of the sweep in a folder, None if there is none; raise `InputError` for one that cannot be read."""
    path = folder / PLAN
    return read_record(SweepPlan, path, "The sweep's plan", _MOST_PLAN_BYTES) if os.path.lexists(path) else None


def common_columns(pair: ManifestPair, settings: SweepSettings) -> Row:
    """Return what all rows of a pair have in common, whatever came out."""
    engine = get_engine(settings.engine, settings.engine_settings)
    return {
        "pair": pair.pair,
        "fixed_subject": pair.fixed_subject,
        "moving_subject": pair.moving_subject,
        "group": pair.group,
        **({} if pair.label_noise_mm is None else {"label_noise_mm": pair.label_noise_mm}),
        **({"domain": pair.domain} if pair.domain else {}),
        **({"start": "given" if pair.start else "product"} if pair.domain or pair.start else {}),
        "engine": engine.info.name,
        "settings_hash": settings_hash(engine, engine_settings(engine, settings.engine_settings)),
        "preset": settings.preset,
        "seed": settings.seed,
    }


def run_rows(prepared: PreparedPair, settings: SweepSettings, values: Sequence[Mapping[str, float]]) -> list[Row]:
    """Register a prepared pair with every setting in `values`.

    Returns
    -------
    rows : one per setting, plain values by column name: the pair and its subjects, engine, settings hash, parameters,
        ``dice_<label>`` and their mean ``dice``, ``affine_<label>`` (Dice after the affine step), ``hd95_<label>`` in mm (on the
        working grid) and their mean, folding in percent of foreground and grid, SD log-Jacobian, similarity (normalised mutual
        information), seconds, the affine matrix (``affine_matrix_00`` ...), and ``error``, a sentence where a run failed. Where
        a true transform is known: ``error_mm_median`` and ``error_mm_95`` over the fixed foreground, the same of the affine
        step (``affine_error_mm_...``), and how far that is from the best affine transform (``global_misfit_mm``); with all, the
        edge of the working grid's voxels, ``spacing_mm``.
    """
    engine, rows = get_engine(settings.engine, settings.engine_settings), []
    register = for_pair(engine, _task(prepared, engine, settings))
    for value in values:
        row: Row = dict(value) | prepared.columns
        started = time.perf_counter()
        try:
            found = register(value)
        except HyperPredictRegError as error:
            rows.append(row | {"error": str(error)})
            continue
        seconds = time.perf_counter() - started
        rows.append(row | prepared.measured(found) | {"seconds": seconds, "error": ""})
    return rows


def _task(prepared: PreparedPair, engine: Engine, settings: SweepSettings) -> RegistrationTask:
    """Return the registration of a prepared pair, its setting still to be given."""
    pair, chosen = prepared.pair, engine_settings(engine, settings.engine_settings)
    return RegistrationTask(
        pair.fixed, pair.moving, {}, chosen, settings.seed, view=pair.view, moving_smoothed=pair.moving_smoothed
    )


@dataclass(frozen=True)
class PreparedPair:
    """A pair after the affine step, with labels where they are compared.

    Attributes
    ----------
    inputs, alignment, pair : as in a job.
    native : the fixed labels on the fixed image's own grid, without structures that the moving map lacks; Dice is measured there.
    on_grid : the same on the working grid.
    foreground : uint8, the fixed foreground on the working grid.
    columns : what all rows of the pair share.
    truth : the true transform, None where it is not known.
    """

    inputs: Inputs
    alignment: sitk.Transform
    pair: AlignedPair
    native: sitk.Image
    on_grid: sitk.Image
    foreground: sitk.Image
    columns: Row
    truth: KnownTransform | None = None

    @classmethod
    def of(cls, listed: ManifestPair, settings: SweepSettings, alignment: sitk.Transform | None = None) -> PreparedPair:
        """Read and align a pair; an `alignment` found earlier, or listed as its start, is taken as it is."""
        job = Job(listed.fixed, listed.moving, "", fixed_labels=listed.fixed_labels, moving_labels=listed.moving_labels)
        inputs = read_inputs(job)
        fixed, moving = inputs.fixed, inputs.moving
        if alignment is None and listed.start:
            alignment = read_transform(Path(listed.start), "start")
            if not alignment.IsLinear():
                raise InputError(f"The start '{listed.start}' is no linear transform: give a rigid or affine one.")
        if alignment is None:
            alignment = align(
                fixed.normalised,
                moving.normalised,
                AlignmentSettings(**settings.alignment),
                seed=settings.seed,
                fixed_foreground=fixed.foreground,
                moving_foreground=moving.foreground,
            ).transform
        pair = AlignedPair.of(inputs, alignment, settings.preset)
        labels = _shared(fixed.labels, moving.labels)
        affine = _dice(labels, nearest(moving.labels, Geometry.of(labels), alignment))
        matrix = linear_matrix(alignment)
        columns = {f"affine_{label}": value for label, value in affine.items()}
        columns |= {f"affine_matrix_{r}{c}": float(matrix[r, c]) for r in range(3) for c in range(4)}
        columns["affine_dice"] = float(np.mean(list(affine.values()))) if affine else float("nan")
        foreground = nearest(fixed.foreground, pair.grid)
        columns["spacing_mm"] = float(np.prod(pair.grid.spacing) ** (1 / 3))
        truth = KnownTransform.of(listed.truth, pair.grid, foreground, moving.image) if listed.truth else None
        if truth is not None:
            columns |= dict(zip(("affine_error_mm_median", "affine_error_mm_95"), truth.errors(alignment), strict=True))
            columns["global_misfit_mm"] = truth.global_misfit(alignment)
        return cls(inputs, alignment, pair, labels, nearest(labels, pair.grid), foreground, columns, truth)

    def measured(self, registration: Registration) -> Row:
        """Return the measures of one registration by column name."""
        grid, labels = self.pair.grid, self.inputs.moving.labels
        transform = self.pair.whole_transform(registration, self.alignment)
        jacobian = jacobian_determinant(displacement_field(transform, grid))
        folding = folding_percent(jacobian, self.foreground)
        dice = _dice(self.native, nearest(labels, Geometry.of(self.native), transform))
        hd95 = _hd95(self.on_grid, nearest(labels, grid, transform), dice)
        warped = grid.resample(self.pair.moving, registration.transform)
        return {
            "dice": float(np.mean(list(dice.values()))) if dice else float("nan"),
            "folding_foreground": folding.foreground,
            "folding_grid": folding.grid,
            "sd_log_jacobian": sd_log_jacobian(jacobian, self.foreground),
            "similarity": mutual_information(self.pair.fixed, warped, self.foreground),
            "hd95": float(np.mean(list(hd95.values()))) if hd95 else float("nan"),
            **self._errors(transform),
            **{f"dice_{label}": value for label, value in dice.items()},
            **{f"hd95_{label}": value for label, value in hd95.items()},
        }

    def _errors(self, transform: sitk.Transform) -> Row:
        if self.truth is None:
            return {}
        return dict(zip(("error_mm_median", "error_mm_95"), self.truth.errors(transform), strict=True))


def feature_rows(prepared: PreparedPair, settings: SweepSettings) -> list[Row]:
    """Compute the features of a prepared pair.

    Returns
    -------
    rows : the first for the pair (``label`` 0, its features as ``pair_<name>``, evidence, where it is asked for, as
        ``evidence_<name>``), then one per structure of the moving segmentation (``token_<name>``). A pair that cannot be
        described has one row with the reason in ``error``.
    """
    engine = get_engine(settings.engine, settings.engine_settings)
    common: Row = {"features_version": FEATURES_VERSION, "error": "", "label": 0}
    try:
        # As in a job: what the engine chooses for the pair it chooses on the working grid.
        chosen = settled(engine, _task(prepared, engine, settings))
        found = pair_features(prepared.inputs, prepared.pair, prepared.alignment, engine, chosen, seed=settings.seed)
    except HyperPredictRegError as error:
        return [common | {"error": str(error)}]
    evidence = _evidence_columns(prepared, engine, chosen, settings) if settings.evidence else {}
    rows = [common | {f"pair_{name}": value for name, value in found.pair.items()} | evidence]
    return rows + [
        common | {"label": label} | {f"token_{name}": value for name, value in token.items()}
        for label, token in found.tokens.items()
    ]


def _evidence_columns(prepared: PreparedPair, engine: Engine, chosen: Any, settings: SweepSettings) -> Row:
    """Return the evidence about a pair as ``evidence_<name>``, or why there is none; `chosen` are the engine's settings."""
    pair = prepared.pair
    moving = nearest(prepared.inputs.moving.foreground, pair.grid, prepared.alignment)
    common: Row = {"evidence_version": EVIDENCE_VERSION, "evidence_error": ""}
    try:
        found = pair_evidence(pair, prepared.foreground, moving, engine, chosen, seed=settings.seed)
    except HyperPredictRegError as error:
        return common | {"evidence_error": str(error)}
    return common | {f"evidence_{name}": value for name, value in as_features(found).items()}


def affine_from(matrix: Mapping[str, float]) -> sitk.AffineTransform:
    """Return the transform whose matrix a sweep's table holds in its columns ``affine_matrix_00`` ... ``affine_matrix_23``."""
    values = np.array([[matrix[f"affine_matrix_{r}{c}"] for c in range(4)] for r in range(3)], dtype=float)
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(values[:, :3].ravel().tolist())
    transform.SetTranslation(values[:, 3].tolist())
    return transform


def _shared(fixed: sitk.Image, moving: sitk.Image) -> sitk.Image:
    """Return the fixed labels without those that the moving map never had: their Dice would say nothing."""
    one, other = (np.unique(sitk.GetArrayViewFromImage(labels)) for labels in (fixed, moving))
    lacking = np.setdiff1d(one, other)
    if not lacking.size:
        return fixed
    return sitk.ChangeLabel(fixed, {int(label): 0 for label in lacking})


def _dice(fixed: sitk.Image, warped: sitk.Image) -> dict[int, float]:
    """Return Dice of the structures that the fixed image has; one that the warped map lacks was lost and counts 0."""
    present = {int(label) for label in np.unique(sitk.GetArrayViewFromImage(fixed))} - {0}
    return {label: value for label, value in dice_coefficients(fixed, warped).items() if label in present}


def _hd95(fixed: sitk.Image, warped: sitk.Image, labels: Mapping[int, float]) -> dict[int, float]:
    one, other = sitk.GetArrayViewFromImage(fixed), sitk.GetArrayViewFromImage(warped)
    boxes = [dict(enumerate(ndimage.find_objects(array), 1)) for array in (one, other)]
    found = {}
    for label in labels:
        if boxes[0].get(label) is None or boxes[1].get(label) is None:
            continue
        grid = tuple(
            slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(boxes[0][label], boxes[1][label], strict=True)
        )
        found[label] = surface_distances(one[grid] == label, other[grid] == label, fixed.GetSpacing(), SURFACE_POINTS).hd95_mm
    return found
