"""Sweeps of pairs whose true transform is known, or whose alignment is given: errors in mm, the start, the evidence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import FIXED_GRID, blob_image
from HyperPredictRegLib.alignment.aligned_pair import AlignedPair
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.engines import get_engine
from HyperPredictRegLib.predictor.evidence import VERSION as EVIDENCE_VERSION
from HyperPredictRegLib.quality.metrics import dice_coefficients
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import displacement_field, field_transform
from scipy import ndimage
from sweep_samples import write_organs

from HyperPredictRegLab.manifest import ManifestPair, read_manifest
from HyperPredictRegLab.sweep import runs
from HyperPredictRegLab.sweep.design import Design
from HyperPredictRegLab.sweep.parts import PairRows, Parts
from HyperPredictRegLab.sweep.runs import PreparedPair, SweepSettings, common_columns, feature_rows, run_rows
from HyperPredictRegLab.sweep.truths import KnownTransform

SETTINGS = SweepSettings("demons", seed=5)


def shifted(millimetres: tuple[float, float, float]) -> sitk.Transform:
    return sitk.TranslationTransform(3, millimetres)


def bump(size_mm: float) -> sitk.Transform:
    """Return a deformation of the organs' grid: a push along i that fades toward the border."""
    grid = FIXED_GRID
    k, j, i = (np.linspace(-1, 1, n) for n in grid.size[::-1])
    fall = (1 - k[:, None, None] ** 2) * (1 - j[None, :, None] ** 2) * (1 - i[None, None, :] ** 2)
    push = size_mm * fall[..., None] * grid.direction_matrix[:, 0]
    return field_transform(grid.holding(push, vectors=True))


@pytest.fixture(scope="module")
def organs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write organs, one of them again as a known deformation moves it, the truth and two starts."""
    folder = write_organs(tmp_path_factory.mktemp("organs"))
    truth = bump(3 * FIXED_GRID.spacing[0])
    anna = sitk.ReadImage(str(folder / "anna.nrrd"))
    grain = ndimage.gaussian_filter(np.random.default_rng(3).standard_normal(FIXED_GRID.size[::-1]), 2)
    voxels = sitk.GetArrayFromImage(anna)
    anna = FIXED_GRID.holding(np.where(voxels > 0, voxels * (1 + 0.3 * grain / grain.std()), 0).astype(np.int16))
    sitk.WriteImage(anna, str(folder / "anna.nrrd"))
    labels = sitk.ReadImage(str(folder / "anna-labels.nrrd"))
    # What is deformed is the fixed image, so that the truth from fixed to moving points is the field itself.
    sitk.WriteImage(Geometry.of(anna).resample(anna, truth), str(folder / "pushed.nrrd"))
    moved = Geometry.of(anna).resample(labels, truth, interpolator=sitk.sitkNearestNeighbor)
    sitk.WriteImage(moved, str(folder / "pushed-labels.nrrd"))
    sitk.WriteImage(displacement_field(truth, FIXED_GRID), str(folder / "truth.mha"))
    sitk.WriteTransform(sitk.AffineTransform(3), str(folder / "near.tfm"))
    sitk.WriteTransform(shifted((-12.0, 0.0, 0.0)), str(folder / "far.tfm"))
    return folder


def listed(folder: Path, **changes: str) -> ManifestPair:
    pair = {
        "pair": "pushed", "fixed": "pushed.nrrd", "moving": "anna.nrrd", "fixed_labels": "pushed-labels.nrrd",
        "moving_labels": "anna-labels.nrrd", "fixed_subject": "anna", "moving_subject": "anna", "group": "known-warp",
        "domain": "organs", "truth": "truth.mha", "start": "near.tfm",
    } | changes  # fmt: skip
    path = folder / "manifest.csv"
    path.write_text(",".join(pair) + "\n" + ",".join(pair.values()) + "\n", encoding="utf-8")
    return read_manifest(path)[0]


def test_errors_in_mm_are_those_of_the_truth(organs: Path) -> None:
    pair = listed(organs)
    assert pair.domain == "organs" and Path(pair.truth) == organs / "truth.mha" and Path(pair.start) == organs / "near.tfm"
    prepared = PreparedPair.of(pair, SETTINGS)
    assert prepared.truth is not None
    # The start moves nothing, so its error is the truth's own length over the foreground.
    field = displacement_field(bump(3 * FIXED_GRID.spacing[0]), prepared.pair.grid)
    away = np.linalg.norm(sitk.GetArrayFromImage(field), axis=-1)
    inside = sitk.GetArrayFromImage(prepared.foreground) != 0
    assert prepared.columns["affine_error_mm_median"] == pytest.approx(np.median(away[inside]), rel=0.02)
    assert prepared.columns["affine_error_mm_95"] == pytest.approx(np.percentile(away[inside], 95), rel=0.05)
    assert prepared.columns["spacing_mm"] == pytest.approx(prepared.pair.grid.spacing[0])
    rows = run_rows(prepared, SETTINGS, [{"regularization_weight": 0.9}, {"regularization_weight": 3.0}])
    assert rows[0]["error_mm_median"] < 0.85 * rows[0]["affine_error_mm_median"]
    assert all(row["error_mm_median"] < row["error_mm_95"] < row["affine_error_mm_95"] for row in rows)
    common = common_columns(pair, SETTINGS)
    assert common["domain"] == "organs" and common["start"] == "given"


def test_a_given_start_is_taken_and_its_global_misfit_measured(organs: Path) -> None:
    near, far = (PreparedPair.of(listed(organs, start=name), SETTINGS) for name in ("near.tfm", "far.tfm"))
    assert far.columns["affine_matrix_03"] == pytest.approx(-12.0)
    assert far.columns["global_misfit_mm"] > 8 > 6 > near.columns["global_misfit_mm"] > 0
    sitk.WriteTransform(bump(1.0), str(organs / "curved.mha.tfm"))
    with pytest.raises(InputError, match="no linear transform"):
        PreparedPair.of(listed(organs, start="curved.mha.tfm"), SETTINGS)


def test_without_a_truth_nothing_is_said_of_errors(organs: Path) -> None:
    pair = listed(organs, truth="", start="", domain="")
    prepared = PreparedPair.of(replace(pair, start=str(organs / "near.tfm")), SETTINGS)
    assert not [name for name in prepared.columns if "error_mm" in name or "misfit" in name]
    assert set(common_columns(pair, SETTINGS)) & {"domain", "start"} == set()


def test_a_truth_that_leads_elsewhere_or_is_missing_is_refused(organs: Path) -> None:
    sitk.WriteImage(displacement_field(shifted((900.0, 0.0, 0.0)), FIXED_GRID), str(organs / "away.mha"))
    with pytest.raises(InputError, match="leads nowhere"):
        PreparedPair.of(listed(organs, truth="away.mha"), SETTINGS)
    with pytest.raises(InputError, match=r"names the truth 'nothing\.mha'"):
        listed(organs, truth="nothing.mha")


def test_places_that_the_truth_leads_out_of_the_moving_image_do_not_count(organs: Path, tmp_path: Path) -> None:
    image = blob_image(FIXED_GRID)
    half = image[: image.GetSize()[0] // 2, :, :]
    sitk.WriteImage(displacement_field(sitk.AffineTransform(3), FIXED_GRID), str(tmp_path / "same.mha"))
    everywhere = FIXED_GRID.apply_to(sitk.Image(FIXED_GRID.size, sitk.sitkUInt8) + 1)
    known = KnownTransform.of(str(tmp_path / "same.mha"), FIXED_GRID, everywhere, half)
    assert known.places.mean() == pytest.approx(half.GetSize()[0] / image.GetSize()[0])
    assert not known.places[..., half.GetSize()[0] :].any()
    assert known.errors(shifted((0.0, 3.0, 4.0))) == pytest.approx((5.0, 5.0))


def test_evidence_is_found_where_it_is_asked_for(organs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = replace(SETTINGS, evidence=True)
    pair = listed(organs)
    prepared = PreparedPair.of(pair, asked)

    def overlap(of: AlignedPair, fixed: sitk.Image, moving: sitk.Image, *_: object, seed: int) -> float:
        grids = [Geometry.of(image) for image in (fixed, moving)]
        assert all(grid.matches(of.grid) for grid in grids) and seed == asked.seed
        return dice_coefficients(fixed, moving)[1]

    # What evidence is, and that its features are flat, is tested where it is made; it takes its time.
    monkeypatch.setattr(runs, "pair_evidence", overlap)
    monkeypatch.setattr(runs, "as_features", lambda found: {"overlap": found})
    rows = feature_rows(prepared, asked)
    assert rows[0]["evidence_version"] == EVIDENCE_VERSION and rows[0]["evidence_error"] == ""
    assert 0.6 < rows[0]["evidence_overlap"] <= 1
    assert not [name for row in rows[1:] for name in row if name.startswith("evidence_")]

    def refuse(*_: object, **__: object) -> Any:
        raise InputError("too small to say anything.")

    monkeypatch.setattr(runs, "pair_evidence", refuse)
    without = feature_rows(prepared, asked)
    assert without[0]["evidence_error"] == "too small to say anything." and without[0]["error"] == ""
    plain = feature_rows(prepared, SETTINGS)
    assert not [name for name in plain[0] if name.startswith("evidence_")]
    # A part that lacks what is asked for is done again; registrations are kept.
    values = ({"regularization_weight": 0.9},)
    parts = Parts(tmp_path, asked, {"pushed": values})
    done = [common_columns(pair, asked) | row for row in run_rows(prepared, asked, values)]
    parts.write("pushed", PairRows(done, [{"pair": "pushed"} | row for row in plain]))
    task = parts.task(pair, False)
    assert task is not None and task.values == () and task.matrix is not None
    parts.write("pushed", PairRows(None, [{"pair": "pushed"} | row for row in rows]))
    assert parts.task(pair, False) is None


def test_some_settings_may_vary_the_first_parameter_only() -> None:
    engine = get_engine("diffeo")
    fluid = engine.info.search_space.defaults["fluid_sigma"]
    drawn = Design(count=6, along_first=4).settings(engine, "a")
    assert [s["fluid_sigma"] == fluid for s in drawn] == [True] * 4 + [False] * 2
    first = [s["regularization_weight"] for s in drawn[:4]]
    shares = engine.info.search_space.first.to_unit(np.array(first))
    assert np.array_equal(np.floor(shares * 4), np.arange(4))
    assert Design(count=6, along_first=4).settings(engine, "a") == drawn != Design(count=6).settings(engine, "a")
    with pytest.raises(InputError, match="7 settings along the first parameter"):
        Design(count=6, along_first=7)
