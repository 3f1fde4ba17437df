"""One pair of a sweep: align once, register with every λ of the design, measure each."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import SimpleITK as sitk
from HyperPredictRegLib.aligned_pair import AlignedPair
from HyperPredictRegLib.alignment import AlignmentSettings, align
from HyperPredictRegLib.alignment.settings import check_seed
from HyperPredictRegLib.engines import engine_settings, get_engine
from HyperPredictRegLib.engines.base import Registration, settings_hash
from HyperPredictRegLib.errors import HyperPredictRegError
from HyperPredictRegLib.geometry import Geometry
from HyperPredictRegLib.inputs import Inputs, read_inputs
from HyperPredictRegLib.job import Job
from HyperPredictRegLib.measurement import nearest
from HyperPredictRegLib.quality import (
    dice_coefficients,
    folding_percent,
    jacobian_determinant,
    mutual_information,
    sd_log_jacobian,
    surface_distances,
)
from HyperPredictRegLib.transforms import displacement_field, linear_matrix
from scipy import ndimage

from HyperPredictRegLab.manifest import ManifestPair

SURFACE_POINTS = 2000
"""HD95 is measured from at most this many points of each surface: its 95th percentile does not need more."""

Row = dict[str, Any]


@dataclass(frozen=True)
class SweepSettings:
    """What all pairs of a sweep have in common; a sweep's folder belongs to one of these.

    Attributes
    ----------
    engine, engine_settings, preset, alignment, seed : as in `Job`.
    """

    engine: str = "demons"
    engine_settings: dict[str, Any] = field(default_factory=dict)
    preset: str = "fast"
    alignment: dict[str, Any] = field(default_factory=dict)
    seed: int = 20240901

    def __post_init__(self) -> None:
        check_seed(self.seed)


def common_columns(pair: ManifestPair, settings: SweepSettings) -> Row:
    """Return what all rows of a pair have in common, whatever came out."""
    engine = get_engine(settings.engine)
    return {
        "pair": pair.pair,
        "fixed_subject": pair.fixed_subject,
        "moving_subject": pair.moving_subject,
        "group": pair.group,
        **({} if pair.label_noise_mm is None else {"label_noise_mm": pair.label_noise_mm}),
        "engine": engine.name,
        "settings_hash": settings_hash(engine, engine_settings(engine, settings.engine_settings)),
        "preset": settings.preset,
        "seed": settings.seed,
    }


def run_rows(prepared: PreparedPair, settings: SweepSettings, values: Sequence[Mapping[str, float]]) -> list[Row]:
    """Register a prepared pair with every hyperparameter setting in `values`.

    Returns
    -------
    rows : one per setting, plain values by column name: the pair and its subjects, engine, settings hash, hyperparameters,
        ``dice_<label>`` and their mean ``dice``, ``affine_<label>`` (Dice after the affine step), ``hd95_<label>`` in mm (on the
        working grid) and their mean, folding in percent of foreground and box, SD log-Jacobian, similarity (normalised mutual
        information), seconds, the affine matrix (``affine_matrix_00`` ...), and ``error``, a sentence where a run failed.
    """
    engine = get_engine(settings.engine)
    chosen = engine_settings(engine, settings.engine_settings)
    rows = []
    for value in values:
        row: Row = dict(value) | prepared.columns
        started = time.perf_counter()
        try:
            found = engine.register(prepared.pair.fixed, prepared.pair.moving, value, chosen, seed=settings.seed)
        except HyperPredictRegError as error:
            rows.append(row | {"error": str(error)})
            continue
        seconds = time.perf_counter() - started
        rows.append(row | prepared.measured(found) | {"seconds": seconds, "error": ""})
    return rows


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
    """

    inputs: Inputs
    alignment: sitk.Transform
    pair: AlignedPair
    native: sitk.Image
    on_grid: sitk.Image
    foreground: sitk.Image
    columns: Row

    @classmethod
    def of(cls, listed: ManifestPair, settings: SweepSettings, alignment: sitk.Transform | None = None) -> PreparedPair:
        """Read and align a pair; an `alignment` found earlier is taken as it is."""
        job = Job(listed.fixed, listed.moving, "", fixed_labels=listed.fixed_labels, moving_labels=listed.moving_labels)
        inputs = read_inputs(job)
        fixed, moving = inputs.fixed, inputs.moving
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
        return cls(inputs, alignment, pair, labels, nearest(labels, pair.grid), foreground, columns)

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
            "folding_box": folding.box,
            "sd_log_jacobian": sd_log_jacobian(jacobian, self.foreground),
            "similarity": mutual_information(self.pair.fixed, warped, self.foreground),
            "hd95": float(np.mean(list(hd95.values()))) if hd95 else float("nan"),
            **{f"dice_{label}": value for label, value in dice.items()},
            **{f"hd95_{label}": value for label, value in hd95.items()},
        }


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
        box = tuple(
            slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(boxes[0][label], boxes[1][label], strict=True)
        )
        found[label] = surface_distances(one[box] == label, other[box] == label, fixed.GetSpacing(), SURFACE_POINTS).hd95_mm
    return found
