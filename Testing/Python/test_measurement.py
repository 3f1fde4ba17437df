"""Transforms that nobody should measure: a sentence, or numbers that are true; never an error of the machinery."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import blob_image
from HyperPredictRegLib.cli import app
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.spatial.geometry import Geometry
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

GRID = Geometry((26, 24, 22), (2.0, 2.0, 2.0), (-25.0, -23.0, -21.0))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("measured") / "image.nrrd"
    sitk.WriteImage(sitk.Cast(blob_image(GRID) * 5, sitk.sitkInt16), str(path))
    return str(path)


def field(grid: Geometry = GRID, scale: float = 1.0, shift: float = 0.0) -> sitk.Image:
    """Return a smooth field of 1.5 mm at most, scaled and shifted."""
    random = np.random.default_rng(0)
    vectors = np.stack([gaussian_filter(random.normal(size=grid.size[::-1]), 3) for _ in range(3)], axis=-1)
    return grid.apply_to(sitk.GetImageFromArray(1.5 * scale * vectors / np.abs(vectors).max() + shift, isVector=True))


def affine(scale: float = 1.0, shift: float = 0.0) -> sitk.Transform:
    transform = sitk.AffineTransform(3)
    transform.SetMatrix((scale * np.eye(3)).ravel().tolist())
    transform.SetTranslation((shift, 0.0, 0.0))
    return transform


def at(origin: float, spacing: float = 2.0) -> Geometry:
    return Geometry(GRID.size, (spacing,) * 3, (origin,) * 3)


def measured(image: str, transform: sitk.Image | sitk.Transform, folder: Path) -> dict:
    if isinstance(transform, sitk.Image):
        path = folder / "field.nrrd"
        sitk.WriteImage(transform, str(path))
    else:
        path = folder / "transform.h5"
        sitk.WriteTransform(transform, str(path))
    done = CliRunner().invoke(app, ["measure", image, image, "--transform", str(path), "--json", "--quiet"])
    if done.exception is not None:
        raise done.exception
    return json.loads(done.stdout)


REFUSED = {
    "beside": (field(at(500.0)), "lies beside the anatomy"),
    "far beside": (field(at(2e6)), "lies beside the anatomy"),
    "touching": (field(at(24.0)), "lies beside the anatomy"),
    "coarser than the image": (field(at(-1.05e6, 1e5)), "none lies in the anatomy"),
    "field shifted by 1e300": (field(shift=1e300), "leads 1.0e.300 mm away"),
    "field shifted by 1e20": (field(shift=1e20), "mm away"),
    "field scaled by 1e300": (field(scale=1e300), "mm away"),
    "scaled by 1e-9": (affine(1e-9), "mm away"),
    "scaled by 1e9": (affine(1e9), "mm away"),
    "scaled by 1e300": (affine(1e300), "away"),
    "scaled by 0": (affine(0.0), "flattens space"),
    "scaled by 1e-200": (affine(1e-200), "flattens space|away|out of all numbers"),
    "shifted by 1e300": (affine(shift=1e300), "mm away"),
    "shifted by 1e308 and scaled": (affine(1e200, 1e308), "away|out of all numbers"),
}


@pytest.mark.parametrize(("transform", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_transforms_that_lead_nowhere_are_refused(
    image: str, transform: sitk.Image | sitk.Transform, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=reason):
        measured(image, transform, tmp_path)


LINEAR = {name: row for name, row in REFUSED.items() if isinstance(row[0], sitk.Transform)}


@pytest.mark.parametrize(("transform", "reason"), LINEAR.values(), ids=LINEAR.keys())
def test_so_are_those_before_a_field(image: str, transform: sitk.Transform, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason):
        measured(image, sitk.CompositeTransform([transform, sitk.DisplacementFieldTransform(field())]), tmp_path)


@pytest.mark.parametrize("scale", [1e-9, 1e-300])
def test_the_roughness_of_next_to_nothing_is_next_to_nothing(image: str, scale: float, tmp_path: Path) -> None:
    whole = measured(image, field(), tmp_path)
    found = measured(image, field(scale=scale), tmp_path)
    assert found["folding_percent"] == {"foreground": 0.0, "grid": 0.0}
    assert found["displacement_mm"]["maximum"] == pytest.approx(scale * whole["displacement_mm"]["maximum"], rel=1e-9)
    # The logarithm of a small strain is the strain, and single precision would have 1e-8 of noise in it.
    assert found["sd_log_jacobian"] == pytest.approx(scale * whole["sd_log_jacobian"], rel=0.05, abs=1e-14)


def test_far_shifts_are_measured_as_what_they_are(image: str, tmp_path: Path) -> None:
    found = measured(image, field(shift=1e5), tmp_path)
    assert found["folding_percent"]["foreground"] == 0
    assert found["displacement_mm"]["mean"] == pytest.approx(math.sqrt(3) * 1e5, rel=1e-3)
