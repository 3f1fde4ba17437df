"""Whether deforming helped: judged rightly on made-up pairs of which the truth is known, and said everywhere."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from HyperPredictRegLib.cli.output import show_report
from HyperPredictRegLib.core.json_records import from_json, to_json
from HyperPredictRegLib.presentation.result import result_view
from HyperPredictRegLib.quality.benefit import SENTENCES, Evidence, coarse_grid, evidence, judged, judged_alone
from HyperPredictRegLib.quality.metrics import SAME_DICE
from HyperPredictRegLib.reporting import wording
from HyperPredictRegLib.reporting.report_page import plain_report
from HyperPredictRegLib.results.outcome import affine_warped, affine_warped_labels
from HyperPredictRegLib.results.report import BENEFITS, Benefit, ChannelMeasure, Report
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import field_transform, parts_of, read_transform
from reporting_samples import check_page, make_outcome, render
from scipy import ndimage

GRID = Geometry((44, 40, 36), (2.0, 2.0, 2.0), (-20.0, 5.0, 3.0))
INSIDE = GRID.apply_to(sitk.GetImageFromArray(np.pad(np.ones((28, 32, 36), np.uint8), 4)))


def texture(seed: int) -> sitk.Image:
    """Return smooth blobs, 0 to about 1, within `INSIDE`."""
    voxels = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(GRID.size[::-1]), 2.0)
    return sitk.Mask(GRID.apply_to(sitk.GetImageFromArray((0.5 + 0.15 * voxels / voxels.std()).astype(np.float32))), INSIDE)


def noisy(image: sitk.Image, seed: int) -> sitk.Image:
    noise = 0.01 * np.random.default_rng(seed).standard_normal(GRID.size[::-1])
    return image + GRID.apply_to(sitk.GetImageFromArray(noise.astype(np.float32)))


def field(seed: int, millimeters: float) -> sitk.DisplacementFieldTransform:
    """Return a smooth random deformation of this root mean square length."""
    noise = np.random.default_rng(seed).standard_normal((3, *GRID.size[::-1]))
    vectors = np.stack([ndimage.gaussian_filter(one, 4.0) for one in noise], axis=-1)
    vectors *= millimeters / np.sqrt((vectors**2).sum(axis=-1).mean())
    return field_transform(GRID.apply_to(sitk.GetImageFromArray(vectors, isVector=True)))


def of(fixed: sitk.Image, moving: sitk.Image, deformation: sitk.Transform) -> Evidence:
    return evidence(fixed, moving, deformation, INSIDE, INSIDE)


@pytest.fixture(scope="module")
def right() -> Evidence:
    """A deformation that undoes what was done to the moving image."""
    deformation, moving = field(1, 3.0), texture(2)
    return of(noisy(GRID.resample(moving, deformation), 3), noisy(moving, 4), deformation)


@pytest.fixture(scope="module")
def wrong() -> Evidence:
    """A deformation where there is nothing to deform."""
    return of(noisy(texture(2), 3), noisy(texture(2), 4), field(5, 3.0))


@pytest.fixture(scope="module")
def unrelated() -> Evidence:
    """A deformation of one texture towards another."""
    return of(texture(2), texture(6), field(7, 3.0))


def test_a_right_deformation_helps(right: Evidence) -> None:
    assert right.improved_share > 0.8 and right.gain_share > 0.3
    assert right.information_before < right.information_held_out < right.information_after
    assert right.correlation_after > right.correlation_before + 0.2
    assert judged_alone(right) == "helped"


def test_a_wrong_deformation_does_not(wrong: Evidence) -> None:
    assert wrong.improved_share < 0.2 and wrong.information_after < wrong.information_before
    assert judged_alone(wrong) == "did not help"


def test_a_deformation_that_moves_nothing_has_not_helped() -> None:
    """Identical images leave nothing to gain, and the best deformation of them is none."""
    same = of(texture(2), texture(2), field(1, 0.0))
    assert same.sd_log_jacobian < 1e-6
    assert judged_alone(same) == "unclear"


@pytest.mark.parametrize("name", ["sd_log_jacobian", "information_held_out", "explained_after"])
def test_what_could_not_be_measured_decides_nothing(right: Evidence, name: str) -> None:
    assert judged_alone(replace(right, **{name: math.nan})) == "unclear"


def test_what_has_nothing_in_common_is_called_nonsense(unrelated: Evidence) -> None:
    assert abs(unrelated.improved_share - 0.5) < 0.15
    assert judged_alone(unrelated) == "nonsense"


def test_a_right_deformation_helps_whatever_is_bright() -> None:
    deformation, moving = field(1, 3.0), texture(2)
    fixed = GRID.resample(moving, deformation)
    other = sitk.Mask(1 - moving, INSIDE)
    assert judged_alone(of(fixed, other, deformation)) == "helped"


def test_a_block_is_not_asked_itself() -> None:
    """A deformation that improves each block by itself, and its surroundings not, keeps nothing of its gain when held out."""
    deformation, moving = field(1, 3.0), texture(2)
    fixed = GRID.resample(moving, deformation)
    vectors = sitk.GetArrayFromImage(deformation.GetDisplacementField())
    blocks = [(np.arange(n) // 4).reshape([-1 if k == axis else 1 for k in range(3)]) for axis, n in enumerate(vectors.shape[:3])]
    vectors[(sum(blocks) % 2) == 1] *= -1
    half = of(fixed, moving, field_transform(GRID.apply_to(sitk.GetImageFromArray(vectors, isVector=True))))
    assert half.gain_share < of(fixed, moving, deformation).gain_share - 0.2


def test_too_little_anatomy_is_unclear() -> None:
    few = np.zeros(GRID.size[::-1], np.uint8)
    few[10:16, 10:16, 10:16] = 1
    small = GRID.apply_to(sitk.GetImageFromArray(few))
    found = evidence(texture(2), texture(2), field(1, 1.0), small, small)
    assert judged_alone(found) == "unclear"
    assert "too small" in judged(found, make_outcome().report.measured, 2.0).reasons[-1]


def test_what_does_not_overlap_is_nonsense() -> None:
    halves = [np.zeros(GRID.size[::-1], np.uint8) for _ in range(2)]
    halves[0][4:14, 4:36, 4:40], halves[1][22:32, 4:36, 4:40] = 1, 1
    one, other = (GRID.apply_to(sitk.GetImageFromArray(half)) for half in halves)
    found = evidence(texture(2), texture(2), field(1, 1.0), one, other)
    assert found.foreground_before == 0 and judged_alone(found) == "nonsense"
    assert "overlap" in judged(found, make_outcome().report.measured, 2.0).reasons[-1]
    empty = evidence(texture(2), texture(2), field(1, 1.0), one * 0, other)
    assert empty.blocks == 0 and judged_alone(empty) == "nonsense"


def test_large_images_cost_no_more() -> None:
    large = Geometry((512, 512, 300), (0.7, 0.7, 1.0))
    assert 60_000 < coarse_grid(large).voxel_count < 150_000
    assert coarse_grid(GRID) == GRID


def test_labels_count(right: Evidence, wrong: Evidence) -> None:
    measured = make_outcome().report.measured
    dice = measured.dice
    assert dice is not None
    fell = replace(measured, dice=replace(dice, mean=0.5, mean_before=0.5 + 2 * SAME_DICE))
    rose = replace(measured, dice=replace(dice, mean=0.5, mean_before=0.5 - 2 * SAME_DICE))
    same = replace(measured, dice=replace(dice, mean=0.5, mean_before=0.5))
    levels = [judged(one, labels, 2.0).level for one in (right, wrong) for labels in (fell, same, rose)]
    assert levels == ["did not help", "helped", "helped", "did not help", "did not help", "unclear"]
    assert "Mean Dice went from 0.510 to 0.500." in judged(right, fell, 2.0).reasons
    landmarks = replace(measured, dice=None, tre_mm=measured.displacement_mm, tre_before_mm=measured.displacement_mm)
    farther = replace(landmarks, tre_mm=replace(measured.displacement_mm, mean=measured.displacement_mm.mean + 1))
    assert judged(right, farther, 2.0).level == "did not help"
    assert judged(right, farther, 100.0).level == "helped"


def test_the_first_pair_cannot_speak_for_channels(wrong: Evidence, unrelated: Evidence) -> None:
    measured = replace(make_outcome().report.measured, dice=None, tre_mm=None)
    risen, same = ChannelMeasure(2, 1.0, 1.05, 1.12), ChannelMeasure(3, 1.0, 1.05, 1.05)
    for numbers, alone in ((wrong, "did not help"), (unrelated, "nonsense")):
        assert judged(numbers, replace(measured, channels=(same,)), 1.0).level == alone
        found = judged(numbers, replace(measured, channels=(risen, same)), 1.0)
        assert found.level == "unclear"
        assert found.reasons[0].endswith("the images of channel 2 agree better than before.")
    assert not any("first pair" in reason for reason in judged(wrong, measured, 1.0).reasons)


def with_benefit(level: str) -> Report:
    return replace(make_outcome().report, benefit=Benefit(level, SENTENCES[level], ("Because & so.",), {"gain_share": 0.25}))


def test_every_level_has_its_words() -> None:
    assert set(SENTENCES) == set(BENEFITS)
    assert SENTENCES["did not help"] == "Deforming did not help: keep the affine result."


def test_a_report_keeps_it_and_may_lack_it() -> None:
    report = with_benefit("did not help")
    text = to_json(report)
    assert from_json(Report, text, "report").benefit == report.benefit
    older = json.loads(text)
    del older["benefit"]
    assert from_json(Report, json.dumps(older), "report").benefit is None


@pytest.mark.parametrize("level", BENEFITS)
def test_it_is_said_first(level: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = with_benefit(level)
    assert check_page(render(replace(make_outcome(), report=report))).split("Because")[0].count(SENTENCES[level]) == 2
    page = plain_report(report, "no jinja2")
    assert page.index(SENTENCES[level]) < page.index(wording.verdict(report)[:20])
    show_report(report)
    # Good news needs no reasons.
    reasons = "" if level == "helped" else "  Because & so.\n"
    assert capsys.readouterr().out.startswith(f"{SENTENCES[level]}\n{reasons}λ")
    view = result_view(report)
    assert view.verdict.index(SENTENCES[level]) < view.verdict.index("Limit")
    assert SENTENCES[level] in view.details and "Because &amp; so." in view.details
    assert wording.calls_for_attention(report) is (level in ("did not help", "nonsense"))


def test_without_it_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    report = make_outcome().report
    assert report.benefit is None and 'id="benefit' not in render(replace(make_outcome(), report=report))
    show_report(report)
    assert capsys.readouterr().out.startswith(wording.first_line(report).replace("\u00a0", " "))


def test_a_job_leaves_both_results(finished: tuple[Report, Path]) -> None:
    report, out = finished
    assert report.benefit is not None and report.benefit.level == "helped", report.benefit
    assert set(report.benefit.evidence) == set(Evidence.__dataclass_fields__)
    whole = read_transform(out / report.outputs["transform"], "transform", own=True)
    affine = read_transform(out / report.outputs["affine_transform"], "transform", own=True)
    assert affine.IsLinear()
    point = GRID.centre_lps.tolist()
    assert np.allclose(affine.TransformPoint(point), parts_of(whole)[0].TransformPoint(point), atol=1e-9)
    fixed, moving, labels = (sitk.ReadImage(report.job.__dict__[name]) for name in ("fixed", "moving", "moving_labels"))
    native = Geometry.of(fixed)
    ways = (("affine_warped", moving, sitk.sitkLinear), ("affine_warped_labels", labels, sitk.sitkNearestNeighbor))
    for role, image, how in ways:
        written = sitk.GetArrayFromImage(sitk.ReadImage(str(out / report.outputs[role])))
        expected = sitk.GetArrayFromImage(native.resample(image, affine, interpolator=how))
        # Beyond the moving image lies its background, which need not be 0.
        assert np.mean(written == expected) > 0.9


def test_an_outcome_makes_the_affine_result_when_asked() -> None:
    outcome = make_outcome()
    assert outcome.affine_warped is None
    image, labels = affine_warped(outcome), affine_warped_labels(outcome)
    assert image is not None and labels is not None
    expected = Geometry.of(outcome.warped).resample(outcome.moving, outcome.affine)
    assert np.array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(expected))
    assert affine_warped_labels(replace(outcome, moving_labels=None)) is None
    assert set(np.unique(sitk.GetArrayFromImage(labels))) == {0, 1, 2}
