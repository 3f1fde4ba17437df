"""The sample pair: the same each time and true to its truth; test_module_file.py registers it."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.quality.metrics import dice_coefficients
from HyperPredictRegLib.results.job import DEFAULT_ENGINE
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.workflow import sample
from HyperPredictRegLib.workflow.sample import SamplePair, error_against, made_pair

RESOURCES = Path(__file__).resolve().parents[2] / "HyperPredictReg" / "Resources"
IDENTITY = sitk.Transform(3, sitk.sitkIdentity)
IMAGES = ("fixed", "moving", "fixed_labels", "moving_labels")


@pytest.fixture(scope="module")
def pair() -> SamplePair:
    return made_pair()


def test_the_same_seed_makes_the_same_voxels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # From a coarser template, which takes less time.
    for file in sample._folder().glob("*.nrrd"):
        sitk.WriteImage(sitk.Shrink(sitk.ReadImage(str(file)), [3, 3, 3]), str(tmp_path / file.name))
    monkeypatch.setattr(sample, "_folder", lambda: tmp_path)
    monkeypatch.setattr(sample, "_MOVING_SPACING_MM", 3.0)
    pair, again, other = made_pair(), made_pair(), made_pair(seed=8)
    for name in IMAGES:
        assert sitk.Hash(getattr(again, name)) == sitk.Hash(getattr(pair, name)), name
        assert Geometry.of(getattr(again, name)) == Geometry.of(getattr(pair, name)), name
    for name in IMAGES:
        same = sitk.Hash(getattr(other, name)) == sitk.Hash(getattr(pair, name))
        assert same == (name == "fixed_labels"), name


def test_both_scans_are_of_one_millimeter_and_stripped(pair: SamplePair) -> None:
    """As most of what the predictor was trained on; the air around the brain is exactly 0, the fluid in it is not."""
    for image in (pair.fixed, pair.moving):
        assert image.GetSpacing() == (1.0, 1.0, 1.0)
        assert image.GetPixelID() == sitk.sitkUInt8
        voxels = sitk.GetArrayViewFromImage(image)
        inside = sitk.GetArrayViewFromImage(sitk.BinaryFillhole(image > 0)) != 0
        assert 1.6e6 < inside.sum() < 2.2e6  # mm³: a brain
        assert (voxels[inside] > 0).mean() > 0.999
        # Below, the template ends in the brain stem.
        assert not any(voxels.take(end, axis=axis).any() for axis, end in ((0, -1), (1, 0), (1, -1), (2, 0), (2, -1)))


def test_labels_lie_on_their_images_and_have_names(pair: SamplePair) -> None:
    for image, labels in ((pair.fixed, pair.fixed_labels), (pair.moving, pair.moving_labels)):
        assert Geometry.of(labels) == Geometry.of(image)
        assert set(np.unique(sitk.GetArrayViewFromImage(labels))) - {0} == set(pair.label_names)


def test_left_is_left(pair: SamplePair) -> None:
    grid = Geometry.of(pair.fixed_labels)
    for label, name in pair.label_names.items():
        k, j, i = np.nonzero(sitk.GetArrayViewFromImage(pair.fixed_labels) == label)
        x = grid.to_lps(np.stack([i, j, k], axis=-1))[:, 0]
        # LPS: the patient's left is where x is positive.
        if "ventricle" in name:
            assert (x.min() > 0) if name.startswith("left") else (x.max() < 0)
            assert 5 < len(x) / 1000 < 15  # ml; a young adult has 5 to 15 on each side
        else:
            assert (x.mean() > 20) if name.startswith("left") else (x.mean() < -20)
            assert 150 < len(x) / 1000 < 350  # ml; white matter of one hemisphere


def test_the_structures_are_called_as_the_predictor_calls_them(pair: SamplePair) -> None:
    card = json.loads((RESOURCES / "Models" / f"{DEFAULT_ENGINE}-fast" / "card.json").read_text(encoding="utf-8"))
    assert {str(label): name for label, name in pair.label_names.items()}.items() <= card["structures"].items()


def test_the_truth_brings_the_moving_labels_home(pair: SamplePair) -> None:
    grid = Geometry.of(pair.fixed)

    def mean_dice(transform: sitk.Transform) -> float:
        brought = grid.resample(pair.moving_labels, transform, interpolator=sitk.sitkNearestNeighbor)
        return float(np.mean(list(dice_coefficients(pair.fixed_labels, brought).values())))

    assert mean_dice(pair.truth) > 0.9
    assert mean_dice(IDENTITY) < 0.4


def test_the_truth_is_the_inverse_of_what_made_the_pair(pair: SamplePair) -> None:
    there_and_back = sitk.CompositeTransform([sample.true_warp(pair.fixed, 7), pair.truth])
    assert error_against(IDENTITY, there_and_back, pair.fixed).maximum < 0.1
    assert 15 < error_against(pair.truth, IDENTITY, pair.fixed).mean < 30


def test_error_is_the_distance_between_two_places(pair: SamplePair) -> None:
    shifted = sitk.CompositeTransform([sitk.TranslationTransform(3, (0.0, 3.0, 4.0)), pair.truth])
    error = error_against(pair.truth, shifted, pair.fixed)
    assert (error.mean, error.p95, error.maximum) == pytest.approx((5.0, 5.0, 5.0), abs=1e-6)


def test_a_missing_template_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sample, "__file__", str(tmp_path / "library" / "sample.py"))
    monkeypatch.setattr(sample.sys, "prefix", str(tmp_path))
    with pytest.raises(InputError, match=r"sample brain is in neither .* reinstall the extension"):
        made_pair()


def test_pip_puts_the_template_where_it_is_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read pyproject.toml by itself")
    top = RESOURCES.parent.parent
    data_files = tomllib.loads((top / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["data-files"]
    in_the_tree = sample._folder()
    monkeypatch.setattr(sample, "__file__", str(tmp_path / "library" / "sample.py"))
    monkeypatch.setattr(sample.sys, "prefix", str(tmp_path))
    for target, patterns in data_files.items():
        (tmp_path / target).mkdir(parents=True)
        for pattern in patterns:
            for file in top.glob(pattern):
                (tmp_path / target / file.name).write_bytes(file.read_bytes())
    installed = sample._folder()
    assert installed.is_relative_to(tmp_path)
    for name in ("brain.nrrd", "brain-labels.nrrd"):
        assert (installed / name).read_bytes() == (in_the_tree / name).read_bytes()


def test_the_licence_of_the_template_lies_beside_it() -> None:
    text = " ".join((RESOURCES / "SampleData" / "LICENSE-brain.txt").read_text(encoding="utf-8").split())
    assert "Copyright (C) 1993-2004 Louis Collins, McConnell Brain Imaging Centre" in text
    assert "provided that the above copyright notice appear in all copies" in text
    assert sum(file.stat().st_size for file in (RESOURCES / "SampleData").iterdir()) < 1_500_000


def test_the_thumbnail_has_the_size_that_slicer_shows() -> None:
    data = (RESOURCES / "Icons" / "SampleBrainPair.png").read_bytes()
    assert struct.unpack(">II", data[16:24]) == (260, 280)
