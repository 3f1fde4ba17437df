"""Left and right exchanged in a label map, or an image that is mirrored: measured, and asked about; all else stays unasked."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import FAST
from HyperPredictRegLib import workflow
from HyperPredictRegLib.alignment import AlignmentSettings
from HyperPredictRegLib.core.json_records import from_json, to_json
from HyperPredictRegLib.engines import engine_settings
from HyperPredictRegLib.engines.base import engine_used
from HyperPredictRegLib.engines.demons import DemonsEngine
from HyperPredictRegLib.preprocessing.image_set import read_inputs
from HyperPredictRegLib.quality.measurement import measure
from HyperPredictRegLib.quality.metrics import dice_coefficients
from HyperPredictRegLib.results.job import DEFAULT_ENGINE, Job
from HyperPredictRegLib.results.prediction import Band, Choice, Prediction, PredictionSurface, Reliability
from HyperPredictRegLib.results.report import DiceMeasure, MirrorCheck, Report, StructureMeasure
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.structures import structure_name
from HyperPredictRegLib.workflow.mirrored import exchanged_labels, mirror_words, mirrored_image

GRID = Geometry((48, 40, 44), (2.5, 2.5, 2.5), (10.0, -20.0, 5.0), (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))
RIGID = FAST | {"stages": ["rigid"]}


def dice_of(fixed: sitk.Image, warped: sitk.Image, moving: sitk.Image | None = None) -> DiceMeasure:
    found = dice_coefficients(fixed, warped)
    had = {int(label) for label in np.unique(sitk.GetArrayViewFromImage(warped if moving is None else moving))}
    both = sorted(set(np.unique(sitk.GetArrayViewFromImage(fixed)).tolist()) & had - {0})
    rows = tuple(StructureMeasure(n, f"label {n}", found.get(n, 0.0), 0.0, None, None, 1.0, 1.0) for n in both)
    return DiceMeasure(float(np.mean([row.dice for row in rows])), 0.0, rows)


def cells_of(count: int) -> tuple[StructureMeasure, ...]:
    return tuple(StructureMeasure(n, f"cell {n}", 0.0, 0.0, None, None, 1.0, 1.0) for n in range(1, count + 1))


def flipped(image: sitk.Image, axis: int = 0) -> sitk.Image:
    mirrored = sitk.Flip(image, [n == axis for n in range(3)])
    mirrored.CopyInformation(image)
    return mirrored


def renumbered(labels: sitk.Image, change: dict[int, int]) -> sitk.Image:
    values = sitk.GetArrayFromImage(labels)
    new = values.copy()
    for old, label in change.items():
        new[values == old] = label
    result = sitk.GetImageFromArray(new)
    result.CopyInformation(labels)
    return result


def shifted(labels: sitk.Image, voxels: int) -> sitk.Image:
    result = sitk.GetImageFromArray(np.roll(sitk.GetArrayFromImage(labels), voxels, axis=1))
    result.CopyInformation(labels)
    return result


def heads() -> sitk.Image:
    """Six structures in pairs on either side of a middle one, numbered 1 to 7."""
    k, j, i = np.indices(GRID.size[::-1])
    labels = np.zeros(GRID.size[::-1], dtype=np.uint16)
    for number, (x, y, z, radius) in enumerate([(9, 12, 22, 6), (10, 28, 12, 5), (12, 26, 32, 4)], start=1):
        for label, place in ((number, x), (number + 3, GRID.size[0] - 1 - x)):
            labels[(i - place) ** 2 + (j - y) ** 2 + (k - z) ** 2 < radius**2] = label
    labels[(i - 23.5) ** 2 + (j - 20) ** 2 + (k - 22) ** 2 < 36] = 7
    return GRID.apply_to(sitk.GetImageFromArray(labels))


SWAP = {1: 4, 2: 5, 3: 6, 4: 1, 5: 2, 6: 3}


def test_a_mirrored_label_map_and_exchanged_numbers_are_found_whatever_they_are_called() -> None:
    fixed = heads()
    for moving in (flipped(fixed), renumbered(fixed, SWAP), shifted(renumbered(fixed, SWAP), 1)):
        dice = dice_of(fixed, moving)
        found = exchanged_labels(fixed, moving, dice)
        assert found is not None and found.pairs == ((1, 4), (2, 5), (3, 6))
        assert found.dice == dice.mean < 0.2
        assert found.dice_explained is not None and found.dice_explained > 0.7
    one = renumbered(fixed, {2: 5, 5: 2})
    found = exchanged_labels(fixed, one, dice_of(fixed, one))
    assert found == MirrorCheck(((2, 5),), pytest.approx(5 / 7), pytest.approx(1.0))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {1: 2, 2: 3, 3: 1},  # an order of its own is no exchange of two
        {1: 9, 4: 8},  # other structures altogether
        {1: 2, 2: 3},  # as vertebrae that are off by one
    ],
)
def test_what_lies_elsewhere_is_no_exchange(change: dict[int, int]) -> None:
    fixed = heads()
    for voxels in (0, 2, 5):
        moving = shifted(renumbered(fixed, change), voxels)
        assert exchanged_labels(fixed, moving, dice_of(fixed, moving)) is None
    k, j, i = np.indices((20, 20, 20))
    cells = sitk.GetImageFromArray((1 + i + 20 * j + 400 * k).astype(np.uint16))
    assert exchanged_labels(cells, flipped(cells), DiceMeasure(0.0, 0.0, cells_of(8000))) is None, "and takes no gigabytes"
    alone = renumbered(fixed, dict.fromkeys(range(2, 8), 0))
    assert exchanged_labels(alone, alone, dice_of(alone, alone)) is None


def test_the_question_uses_names_codes_or_numbers() -> None:
    check = MirrorCheck(((17, 53), (18, 54)), 0.12, 0.81)
    words = mirror_words(check, {})
    assert words.startswith("Left and right seem to be exchanged: 2 pairs such as 'left hippocampus' and 'right hippocampus' lie")
    assert "raise mean Dice from 0.120 to 0.810: is one of the images mirrored, or are left and right exchanged" in words
    named = {17: "HippocampusLeft", 53: "HippocampusRight", 18: "ctx-lh-insula", 54: "ctx-rh-insula"}
    assert mirror_words(check, named).startswith("Left and right seem to be exchanged: 2 pairs such as 'HippocampusLeft' and")
    others = mirror_words(replace(check, pairs=((1, 4),)), {1: "Kidney_L", 4: "Kidney_R"})
    assert others.startswith("Left and right seem to be exchanged: 'Kidney_L' and 'Kidney_R' lie in each other's place, and")
    numbers = mirror_words(replace(check, pairs=((101, 204),)), {})
    assert numbers.startswith("Structures seem to be exchanged: 'label 101' and 'label 204'")
    assert "labels, such as left and right, exchanged" in numbers


# Real label maps


def centred(path: Path, onto: sitk.Image) -> sitk.Image:
    """Read a label map and lay the centre of its labels onto that of another."""
    labels = sitk.ReadImage(str(path))
    centres = []
    for image in (onto, labels):
        at = np.argwhere(sitk.GetArrayViewFromImage(image) > 0)[::50].mean(axis=0)[::-1]
        centres.append(np.array(image.TransformContinuousIndexToPhysicalPoint(at.tolist())))
    move = sitk.TranslationTransform(3, (centres[1] - centres[0]).tolist())
    return sitk.Resample(labels, onto, move, sitk.sitkNearestNeighbor)


def coarse(path: Path) -> sitk.Image:
    return sitk.ReadImage(str(path))[::2, ::2, ::2]


@pytest.mark.data
@pytest.mark.parametrize(
    ("fixed", "moving"),
    [
        ("brain-t1-nmm/nmm_1000_aseg.nii.gz", "brain-t1-nmm/nmm_1001_aseg.nii.gz"),
        ("brain-t1-nmm/nmm_1006_aseg.nii.gz", "brain-t1-nmm/nmm_1017_aseg.nii.gz"),
        ("brain-t1-nmm/nmm_1007_labels.nii.gz", "brain-t1-nmm/nmm_1008_labels.nii.gz"),
        ("synthseg-labels/synthseg_01_head.nii.gz", "synthseg-labels/synthseg_07_head.nii.gz"),
        ("labels-mouse-development/p14_lab.nii.gz", "labels-mouse-development/p56_lab.nii.gz"),
    ],
)
def test_real_maps_of_two_people_lie_as_they_are(data_folder: Path, fixed: str, moving: str) -> None:
    here = coarse(data_folder / fixed)
    there = centred(data_folder / moving, here)
    assert exchanged_labels(here, there, dice_of(here, there)) is None


@pytest.mark.data
@pytest.mark.parametrize("how", ["mirrored", "renumbered"])
@pytest.mark.parametrize("set_name", ["brain-t1-nmm/nmm_1000_aseg", "synthseg-labels/synthseg_01_head"])
def test_real_maps_whose_sides_are_exchanged(data_folder: Path, set_name: str, how: str) -> None:
    here = coarse(data_folder / f"{set_name}.nii.gz")
    known = {structure_name(n): n for n in np.unique(sitk.GetArrayViewFromImage(here)).tolist()}
    sides = {n: known[name.replace("left", "right")] for name, n in known.items()
             if name.startswith("left") and name.replace("left", "right") in known}  # fmt: skip
    if how == "mirrored":
        at = np.argwhere(sitk.GetArrayViewFromImage(here) == 16)[:, 2].mean()  # the brain stem lies in the middle
        there = sitk.GetImageFromArray(np.roll(sitk.GetArrayFromImage(here)[..., ::-1], round(2 * at - here.GetWidth() + 1), 2))
        there.CopyInformation(here)
    else:
        there = renumbered(here, sides | {right: left for left, right in sides.items()})
    dice = dice_of(here, there)
    found = exchanged_labels(here, there, dice)
    assert found is not None
    assert len(set(found.pairs) & set(sides.items())) >= (len(sides) if how == "renumbered" else 8)
    assert found.dice_explained is not None and found.dice_explained > dice.mean + 0.2
    assert mirror_words(found, {}).startswith("Left and right seem") == (set(found.pairs) <= set(sides.items()))


# Images


def trunk(deform: float = 0.0) -> tuple[sitk.Image, sitk.Image]:
    """A body with a large organ on one side and two small ones elsewhere, none of which has a twin; and their labels."""
    k, j, i = np.indices(GRID.size[::-1]).astype(float)
    i = i + deform * np.sin(k / 7)
    body = ((i - 23.5) / 20) ** 2 + ((j - 19.5) / 14) ** 2 + ((k - 21.5) / 19) ** 2 < 1
    labels = np.zeros(body.shape, dtype=np.uint8)
    for label, (x, y, z, a, b, c) in enumerate(((13, 17, 22, 7, 8, 11), (34, 24, 12, 4, 4, 5), (33, 12, 31, 5, 4, 4)), start=1):
        labels[((i - x) / a) ** 2 + ((j - y) / b) ** 2 + ((k - z) / c) ** 2 < 1] = label
    brightness = np.select([labels == 1, labels == 2, labels == 3, body], [260.0, 320.0, 40.0, 100.0], 0.0)
    voxels = brightness + 10 * np.sin(i / 3) * np.cos(j / 4) * body
    return GRID.apply_to(sitk.GetImageFromArray(voxels.astype(np.float32))), GRID.apply_to(sitk.GetImageFromArray(labels))


def write_trunks(folder: Path, mirrored: bool) -> Job:
    for name, (image, labels) in (("fixed", trunk()), ("moving", trunk(1.5))):
        turned = mirrored and name == "moving"
        sitk.WriteImage(flipped(image) if turned else image, str(folder / f"{name}.nrrd"))
        sitk.WriteImage(flipped(labels) if turned else labels, str(folder / f"{name}-labels.nrrd"))
    return Job(
        str(folder / "fixed.nrrd"), str(folder / "moving.nrrd"), "unused", str(folder / "fixed-labels.nrrd"),
        str(folder / "moving-labels.nrrd"), setting={"regularization_weight": 1.0}, alignment=RIGID, reproducible=True,
    )  # fmt: skip


def report_of(folder: Path, mirrored: bool) -> Report:
    return workflow.compute(write_trunks(folder, mirrored)).report


def test_a_mirrored_body_without_sides_is_asked_about(tmp_path: Path) -> None:
    report = report_of(tmp_path, mirrored=True)
    check = report.mirror_check
    assert check is not None and check.pairs == ()
    assert report.measured.dice is not None and check.dice == report.measured.dice.mean
    assert check.dice_explained is not None and check.dice_explained > check.dice + 0.15
    asked = [warning for warning in report.warnings if "is one of the images mirrored" in warning]
    assert len(asked) == 1
    assert from_json(Report, to_json(report), "report") == report
    sided = replace(report, mirror_check=MirrorCheck(((1, 2),), 0.1, 0.9))
    assert from_json(Report, to_json(sided), "report") == sided
    assert f"mean Dice of {check.dice_explained:.3f} when it is merely aligned, against {check.dice:.3f} as it is" in asked[0]


def test_a_body_that_is_not_mirrored_is_not(tmp_path: Path) -> None:
    report = report_of(tmp_path, mirrored=False)
    assert report.mirror_check is None
    assert not [warning for warning in report.warnings if "mirrored" in warning]


@pytest.mark.parametrize("mirrored", [True, False])
def test_without_labels_the_images_themselves_tell(tmp_path: Path, mirrored: bool) -> None:
    job = replace(write_trunks(tmp_path, mirrored), fixed_labels=None, moving_labels=None)
    inputs, nothing = read_inputs(job), sitk.Transform(3, sitk.sitkIdentity)
    found = measure(inputs, nothing, nothing, Geometry.of(inputs.fixed.image))
    settings = AlignmentSettings(multi_start=False, stages=("rigid",))
    check = mirrored_image(inputs, found, Geometry.of(inputs.fixed.image), settings, seed=1)
    assert (check is not None) == mirrored
    if check is not None:
        assert "is far more similar to the fixed one" in mirror_words(check, {})


@pytest.mark.parametrize("mirrored", [True, False])
def test_a_mirrored_body_without_labels_is_asked_about_and_not_called_another_contrast(tmp_path: Path, mirrored: bool) -> None:
    job = replace(write_trunks(tmp_path, mirrored), fixed_labels=None, moving_labels=None)
    report = workflow.compute(job).report
    assert (report.mirror_check is not None) == mirrored
    message = " ".join(report.warnings)
    assert ("is one of the images mirrored" in message) == mirrored
    assert "contrast" not in message


@pytest.mark.parametrize("engine", [DEFAULT_ENGINE, "demons"])
def test_a_body_of_another_contrast_is_not_asked_about(tmp_path: Path, engine: str) -> None:
    job = replace(write_trunks(tmp_path, mirrored=False), fixed_labels=None, moving_labels=None, engine=engine)
    image = sitk.ReadImage(job.moving)
    values = sitk.GetArrayFromImage(image)
    other = sitk.GetImageFromArray(np.where(values > 0, 400 - values, 0).astype(np.float32))
    other.CopyInformation(image)
    sitk.WriteImage(other, job.moving)
    report = workflow.compute(job).report
    assert report.mirror_check is None
    # The default engine takes images of different contrast.
    assert any("seem to differ in contrast" in warning for warning in report.warnings) == (engine == "demons")


def test_nothing_is_reliable_where_an_image_may_be_mirrored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space, none, flat = DemonsEngine.info.search_space, Band(*(np.zeros((0, 2)),) * 3), Band(*(np.ones(2),) * 3)
    surface = PredictionSurface(space, np.array([[0.5], [2.0]]), (), (), none, flat, flat, flat, flat)
    choice = Choice({"regularization_weight": 1.0}, "as in every test")
    engine = engine_used(DemonsEngine(), engine_settings(DemonsEngine(), {}))
    reliable, job = Reliability("reliable"), Job("", "", "")
    prediction = Prediction(job, engine, "p 1", "abc", reliable, job.criterion, choice, (), surface, {})
    monkeypatch.setattr("HyperPredictRegLib.workflow.registering.choose_setting", lambda *_, **__: (choice, prediction))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(__version__="0"))
    report = report_of(tmp_path, mirrored=True)
    assert report.reliability is not None and report.reliability.level == "unreliable"
    assert "looks as if an image were mirrored" in report.reliability.reasons[0]
    assert report_of(tmp_path, mirrored=False).reliability == Reliability("reliable")
