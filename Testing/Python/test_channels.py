"""Several channels in one job: what may be given, where they must lie, what an engine gets, and what is kept of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import FIXED_GRID, MOVING_GRID, blob_image, job_of
from HyperPredictRegLib import workflow
from HyperPredictRegLib.alignment.aligned_pair import AlignedPair
from HyperPredictRegLib.cli import options
from HyperPredictRegLib.cli.commands import app
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.json_records import from_json, to_json
from HyperPredictRegLib.engines import engine_infos
from HyperPredictRegLib.preprocessing.image_set import read_inputs
from HyperPredictRegLib.preprocessing.working_grid import field_of_view
from HyperPredictRegLib.results.job import MOST_CHANNELS, Channel, Job
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.workflow import reusing
from HyperPredictRegLib.workflow.planning import Plan
from reporting_samples import make_prediction
from typer.testing import CliRunner

SEVERAL = next(info.name for info in engine_infos() if info.channels)
ONE_PAIR = next(info.name for info in engine_infos() if not info.channels)
# Half of the fixed grid, with voxels of another size that lie askew to it.
HALF = Geometry((18, 32, 15), (2.0, 2.0, 4.0), FIXED_GRID.origin)
FAR = Geometry((20, 20, 20), (2.0, 2.0, 2.0), (900.0, 900.0, 900.0))


def recolored(grid: Geometry, **shape: Any) -> sitk.Image:
    """Return the organ in another contrast, whole numbers."""
    voxels = np.interp(sitk.GetArrayFromImage(blob_image(grid, **shape)), (0, 50, 100, 160), (10, 900, 500, 100))
    return grid.apply_to(sitk.GetImageFromArray(voxels.astype(np.int16)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("channels")
    deformed = {"shift_mm": (4.0, -3.0, 2.0), "deform": 0.4}
    images = {
        "fixed": recolored(FIXED_GRID),
        "moving": recolored(MOVING_GRID, **deformed),
        "half": HALF.resample(recolored(FIXED_GRID), interpolator=sitk.sitkNearestNeighbor),
        "far": recolored(FAR),
        "flat": FIXED_GRID.apply_to(sitk.Image(FIXED_GRID.size, sitk.sitkInt16) + 7),
    }
    holed = sitk.GetArrayFromImage(images["fixed"]).astype(np.float32)
    holed[4, 5, 6] = np.nan
    images["holed"] = FIXED_GRID.apply_to(sitk.GetImageFromArray(holed))
    for name, image in images.items():
        sitk.WriteImage(image, str(made / f"{name}.nrrd"))
    return made


@pytest.fixture
def job(files: Path, folder: Path, tmp_path: Path) -> Callable[..., Job]:
    def with_channels(*names: tuple[Any, ...], **changes: Any) -> Job:
        channels = tuple(Channel(str(folder / f"{f}.nrrd"), str(folder / f"{m}.nrrd"), *w) for f, m, *w in names)
        return job_of(files, tmp_path / "out", engine=SEVERAL, channels=channels, **changes)

    return with_channels


def pair_of(job: Job) -> AlignedPair:
    return AlignedPair.of(read_inputs(job), sitk.AffineTransform(3), "fast")


def test_a_job_with_channels_is_the_same_after_its_json(job: Callable[..., Job]) -> None:
    made = job(("fixed", "moving", 0.5), ("half", "moving"))
    assert from_json(Job, to_json(made), "job") == made
    assert [channel.weight for channel in made.channels] == [0.5, 1.0]
    plain = json.loads(to_json(made))
    del plain["channels"]
    assert from_json(Job, json.dumps(plain), "a job of before") == replace(made, channels=())


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf"), 1e7])
def test_weights_that_mean_nothing_are_refused(weight: float) -> None:
    with pytest.raises(InputError, match=r"The weight of a channel is .*: give more than 0"):
        Channel("f", "m", weight)


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ([{"fixed": "a.nrrd"}], "channels.0. lacks the field 'moving'"),
        ([{"fixed": "a.nrrd", "moving": "b.nrrd", "weight": "2"}], "weight should be a number"),
        ([{"fixed": "a.nrrd", "moving": "b.nrrd", "weight": -2}], "give more than 0"),
        ({"fixed": "a.nrrd", "moving": "b.nrrd"}, "channels should be a list"),
        ([{"fixed": "a.nrrd", "moving": ""}], "path of the moving channel is empty"),
    ],
)
def test_a_channel_in_a_file_must_be_whole(tmp_path: Path, channels: object, message: str) -> None:
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"fixed": "f.nrrd", "moving": "m.nrrd", "out": "o", "channels": channels}), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        options.read_job(str(path))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("far", "moving"), "The fixed image of channel 2 '.*far.nrrd' shows nothing where the fixed image '.*' shows anatomy"),
        (("fixed", "far"), "The moving image of channel 2 '.*far.nrrd' shows nothing where the moving image '.*' shows anatomy"),
        (("flat", "moving"), "The fixed image of channel 2 '.*flat.nrrd' is constant"),
        (("holed", "moving"), "The fixed image of channel 2 '.*holed.nrrd' has 1 voxels that are NaN"),
        (("fixed", "absent"), "The moving image of channel 2 '.*absent.nrrd' does not exist"),
    ],
)
def test_a_channel_that_cannot_be_used_is_refused_by_its_number(
    job: Callable[..., Job], names: tuple[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_inputs(job(names))
    with pytest.raises(InputError, match=message.replace("channel 2", "channel 3")):
        read_inputs(job(("fixed", "moving"), names))


def test_plans_refuse_engines_of_one_pair_and_channels_without_end(job: Callable[..., Job]) -> None:
    with pytest.raises(InputError, match=f"'{ONE_PAIR}' compares one pair of images only: .*choose the engine .*'{SEVERAL}'"):
        Plan.of(replace(job(("fixed", "moving")), engine=ONE_PAIR))
    with pytest.raises(InputError, match=f"has {MOST_CHANNELS} channels beside the first pair"):
        Plan.of(job(*[("fixed", "moving")] * MOST_CHANNELS))
    assert Plan.of(job(("fixed", "moving"))).inputs[-2:] == [Path(job(("fixed", "moving")).channels[0].fixed).with_name(
        f"{side}.nrrd") for side in ("fixed", "moving")]  # fmt: skip


def test_what_is_read_of_a_channel_is_normalised_by_itself_and_recorded(job: Callable[..., Job]) -> None:
    inputs = read_inputs(job(("half", "moving", 3.0)))
    channel, = inputs.channels
    assert (channel.number, channel.weight) == (2, 3.0)
    voxels = sitk.GetArrayViewFromImage(channel.fixed.normalised)
    assert voxels.max() == pytest.approx(1.0, abs=0.1) and voxels.min() >= 0
    assert Geometry.of(channel.fixed.image).matches(HALF)
    assert [used.role for used in inputs.used] == [
        "fixed image", "moving image", "fixed image of channel 2", "moving image of channel 2",
    ]  # fmt: skip
    assert len({used.sha256 for used in inputs.used} & set(inputs.checksums.values())) == 4
    assert inputs.checksums["fixed_channel_2"] == inputs.used[2].sha256
    note, = channel.fixed.notes
    assert "covers about" in note and "% of the anatomy of the fixed image" in note
    assert note in inputs.notes


def test_beyond_its_own_images_a_channel_has_a_mask(job: Callable[..., Job]) -> None:
    same = {"moving": job().fixed, "moving_labels": None}
    alone, pair = pair_of(job(**same)), pair_of(job(("half", "fixed"), ("fixed", "fixed"), **same))
    assert pair.grid == alone.grid
    for name in ("fixed", "moving"):
        assert sitk.Hash(getattr(pair, name)) == sitk.Hash(getattr(alone, name)), "the first pair is as it is without the others"
    half, whole = pair.channels
    for image in (half.fixed, half.moving, half.fixed_mask, half.moving_mask, whole.fixed):
        assert Geometry.of(image).matches(pair.grid)
    covered = sitk.GetArrayViewFromImage(half.fixed_mask).mean()
    assert 0.1 < covered < 0.8 and covered < sitk.GetArrayViewFromImage(whole.fixed_mask).mean()
    assert not sitk.GetArrayFromImage(half.fixed)[sitk.GetArrayViewFromImage(half.fixed_mask) == 0].any()


def test_masks_of_the_pair_are_those_of_every_channel(job: Callable[..., Job], files: Path) -> None:
    fixed, mask = str(files / "fixed.nrrd"), str(files / "fixed-mask.nrrd")
    masked = job(("half", "fixed"), moving=fixed, moving_labels=None, fixed_mask=mask, moving_mask=mask)
    pair, channel = pair_of(masked), read_inputs(masked).channels[0]
    for side in ("fixed", "moving"):
        view = field_of_view(getattr(channel, side).image, None, pair.grid)
        expected = sitk.And(getattr(pair, f"{side}_mask"), view)
        assert sitk.Hash(getattr(pair.channels[0], f"{side}_mask")) == sitk.Hash(expected)
    outside = sitk.GetArrayViewFromImage(channel.fixed.mask) == 0
    assert outside.any() and not sitk.GetArrayViewFromImage(channel.fixed.foreground)[outside].any()


def test_channels_whose_images_never_meet_are_refused(job: Callable[..., Job], folder: Path) -> None:
    other = Geometry(HALF.size, HALF.spacing, tuple(FIXED_GRID.to_lps((19, 0, 0))))
    sitk.WriteImage(other.resample(recolored(FIXED_GRID)), str(folder / "other-half.nrrd"))
    apart = job(("half", "other-half"))
    with pytest.raises(InputError, match="The two images of channel 2 have no place in common once the pair is aligned"):
        pair_of(replace(apart, moving=apart.fixed, moving_labels=None))


def test_an_image_that_lies_elsewhere_is_said(job: Callable[..., Job], folder: Path) -> None:
    beside = Geometry(FIXED_GRID.size, FIXED_GRID.spacing, tuple(np.add(FIXED_GRID.origin, (34.0, 0.0, 0.0))))
    image = beside.apply_to(recolored(FIXED_GRID))
    sitk.WriteImage(image, str(folder / "beside.nrrd"))
    notes = read_inputs(job(("beside", "moving"))).notes
    assert any("shows anatomy mostly where the fixed image" in note and "only the first is aligned" in note for note in notes)
    assert not any("mostly where" in note for note in read_inputs(job(("fixed", "moving"))).notes)


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[list[Job], Any]:
    """Run the command up to its job."""
    asked: list[Job] = []
    monkeypatch.setattr(workflow, "run", lambda job, **others: asked.append(job))
    return asked, CliRunner().invoke(app, ["register", "f.nrrd", "m.nrrd", "--out", "o", "--quiet", *words]).exception


def test_the_command_takes_channels_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--fixed-channel", "a,1.nrrd", "--moving-channel", "b:2.nrrd"]
    words += ["--fixed-channel", "c.nrrd", "--moving-channel", "d.nrrd"]
    asked, _ = command(monkeypatch, "--engine", SEVERAL, *words)
    assert asked[0].channels == tuple(
        Channel(str(Path(f).absolute()), str(Path(m).absolute())) for f, m in (("a,1.nrrd", "b:2.nrrd"), ("c.nrrd", "d.nrrd"))
    )
    asked, _ = command(monkeypatch, *words, "--channel-weight", "2", "--channel-weight", "0.5")
    assert [channel.weight for channel in asked[0].channels] == [2.0, 0.5]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--fixed-channel", "a.nrrd"), "1 --fixed-channel and 0 --moving-channel are given"),
        (("--fixed-channel", "a", "--moving-channel", "b", "--channel-weight", "1", "--channel-weight", "2"), "for 1 channels"),
        (("--channel-weight", "2"), "1 --channel-weight for 0 channels"),
        (("--fixed-channel", "a", "--moving-channel", "b", "--channel-weight", "0"), "The weight of a channel is 0"),
        (("--fixed-channel", "a", "--moving-channel", ""), "--moving-channel is empty"),
    ],
)
def test_the_command_refuses_half_a_channel(monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str) -> None:
    asked, error = command(monkeypatch, *words)
    assert isinstance(error, InputError) and message in str(error)
    assert asked == []


def test_a_prediction_with_other_channels_is_of_other_inputs(job: Callable[..., Job]) -> None:
    made = job(("fixed", "moving", 2.0))
    prediction = replace(make_prediction(job=made), inputs=read_inputs(made).checksums)
    check = reusing._check_inputs
    check(made, prediction, "The prediction")
    for other, message in (
        (job(), "was made with fixed image of channel 2, but this job names none"),
        (job(("fixed", "moving", 1.0)), "was made with other weights of its channels"),
        (job(("half", "moving", 2.0)), "the fixed image of channel 2 '.*half.nrrd' has another content"),
        (job(("fixed", "moving", 2.0), ("fixed", "moving")), "was made without the fixed image of channel 3"),
    ):
        with pytest.raises(reusing.OtherInputsError, match=message):
            check(other, prediction, "The prediction")


def test_a_registration_with_a_channel_reports_it(job: Callable[..., Job], tmp_path: Path) -> None:
    made = job(("fixed", "moving", 2.0), setting={}, engine_settings={"iterations": [15]})
    report = workflow.run(made)
    one, = report.measured.channels
    assert (one.number, one.weight) == (2, 2.0) and one.similarity_after > one.similarity_before > 1
    assert report.job.channels == made.channels
    assert [used.role for used in report.inputs][2:] == ["fixed image of channel 2", "moving image of channel 2"]
    alone = workflow.compute(replace(made, channels=())).report
    assert alone.measured.channels == () and alone.measured.displacement_mm != report.measured.displacement_mm
    assert alone.alignment.matrix == report.alignment.matrix, "only the first pair is aligned"
