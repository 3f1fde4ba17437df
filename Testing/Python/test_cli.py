"""The command as a user meets it: help, exit codes, sentences, files."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from command_samples import Command, started
from conftest import blob_image, blob_labels
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.points import read_points, write_points
from HyperPredictRegLib.spatial.transforms import transformed_points

GRID = Geometry((28, 26, 24), (2.0, 2.0, 2.0), (-30.0, 11.0, 5.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair with labels, and a finished registration of it in `done`."""
    folder = tmp_path_factory.mktemp("cli")
    for name, image in (("fixed", blob_image(GRID)), ("moving", blob_image(GRID, (3.0, -2.0, 1.0), deform=0.3))):
        sitk.WriteImage(sitk.Cast(image * 5, sitk.sitkInt16), str(folder / f"{name}.nii.gz"))
        sitk.WriteImage(blob_labels(image), str(folder / f"{name}-labels.nii.gz"))
    done = started(
        "register", folder / "fixed.nii.gz", folder / "moving.nii.gz", "--out", folder / "done", "--json",
        "--fixed-labels", folder / "fixed-labels.nii.gz", "--moving-labels", folder / "moving-labels.nii.gz",
        "--set-alignment", "multi_start=false", "--reproducible", "--weight", "0.9", "--scene", "scene.mrb",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder / "stdout.json").write_text(done.stdout, encoding="utf-8")
    return folder


def test_help_names_the_commands_and_loads_nothing_heavy() -> None:
    script = (
        "import sys; from HyperPredictRegLib.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'SimpleITK', 'numpy', 'pandas', 'dask', 'matplotlib', 'slicer'} & set(sys.modules)))"
    )
    message = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True).stdout
    for name in ("register", "predict", "apply", "measure", "sweep", "synthesize", "train", "evaluate"):
        assert name in message
    assert message.strip().endswith("[]")


def test_json_on_standard_output_is_the_report(folder: Path) -> None:
    message = json.loads((folder / "stdout.json").read_text(encoding="utf-8"))
    assert message == json.loads((folder / "done" / "report.json").read_text(encoding="utf-8"))
    assert message["setting"] == {"regularization_weight": 0.9, "fluid_sigma": 1.2}
    assert message["alignment"]["settings"]["multi_start"] is False


def test_page_pictures_and_scene_are_there(folder: Path) -> None:
    names = {path.name for path in (folder / "done").iterdir()}
    assert {"report.html", "overlay.png", "scene.mrb", "transform.h5", "warped-labels.nrrd"} <= names


def test_a_report_can_be_run_again(command: Command, folder: Path, tmp_path: Path) -> None:
    done = command("register", "--job", folder / "done" / "report.json", "--out", tmp_path / "again", "--no-page")
    assert done.returncode == 0, done.stderr
    reports = [(place / "report.json").read_text(encoding="utf-8") for place in (folder / "done", tmp_path / "again")]
    one, other = (json.loads(report)["measured"] for report in reports)
    assert one == other
    assert "Mean Dice" in done.stdout


def test_measure_gives_the_reports_own_numbers(command: Command, folder: Path) -> None:
    done = command(
        "measure", folder / "fixed.nii.gz", folder / "moving.nii.gz", "--transform", folder / "done" / "transform.h5", "--json",
        "--fixed-labels", folder / "fixed-labels.nii.gz", "--moving-labels", folder / "moving-labels.nii.gz",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found, report = json.loads(done.stdout), json.loads((folder / "done" / "report.json").read_text(encoding="utf-8"))["measured"]
    assert found["dice"]["mean"] == pytest.approx(report["dice"]["mean"], abs=1e-9)
    assert found["dice"]["mean_before"] == pytest.approx(report["dice"]["mean_before"], abs=1e-9)
    assert found["folding_percent"]["foreground"] == pytest.approx(report["folding_percent"]["foreground"], abs=1e-9)
    assert found["sd_log_jacobian"] == pytest.approx(report["sd_log_jacobian"], rel=1e-3)


def test_apply_takes_images_labels_and_points_forward(command: Command, folder: Path, tmp_path: Path) -> None:
    points = GRID.centre_lps + np.array([[0.0, 0, 0], [8, 0, 0], [0, 8, -5]])
    write_points(points, tmp_path / "points.mrk.json")
    done = command(
        "apply", folder / "done" / "transform.h5", "--reference", folder / "fixed.nii.gz", "--image", folder / "moving.nii.gz",
        "--labels", folder / "moving-labels.nii.gz", "--points", tmp_path / "points.mrk.json", "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    warped, expected = (sitk.ReadImage(str(p)) for p in (tmp_path / "out/moving-warped.nrrd", folder / "done/warped.nrrd"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(warped), sitk.GetArrayFromImage(expected))
    labels = sitk.ReadImage(str(tmp_path / "out/moving-labels-warped.nrrd"))
    expected = sitk.ReadImage(str(folder / "done/warped-labels.nrrd"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(labels), sitk.GetArrayFromImage(expected))
    # A moving point goes to the fixed point that the transform sends back to it.
    moved = read_points(tmp_path / "out" / "points-warped.mrk.json", "points")
    again = transformed_points(sitk.ReadTransform(str(folder / "done" / "transform.h5")), moved)
    np.testing.assert_allclose(again, points, atol=1e-5)


def test_apply_inverse_takes_fixed_points_to_the_moving_space(command: Command, folder: Path, tmp_path: Path) -> None:
    points = GRID.centre_lps + np.array([[0.0, 0, 0], [8, 0, 0]])
    write_points(points, tmp_path / "points.csv")
    transform = folder / "done" / "transform.h5"
    done = command("apply", transform, "--points", tmp_path / "points.csv", "--inverse", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    moved = read_points(tmp_path / "out" / "points-warped.csv", "points")
    np.testing.assert_allclose(moved, transformed_points(sitk.ReadTransform(str(transform)), points), atol=1e-9)


def test_points_in_a_fold_are_warned_of(command: Command, tmp_path: Path) -> None:
    voxels = np.zeros((*GRID.size[::-1], 3))
    voxels[8:16, 8:16, 10, 0], voxels[8:16, 8:16, 12, 0] = 12.0, -12.0
    sitk.WriteImage(GRID.apply_to(sitk.GetImageFromArray(voxels, isVector=True)), str(tmp_path / "fold.nrrd"))
    write_points(GRID.to_lps(np.array([[11.0, 12.0, 12.0]])), tmp_path / "points.csv")
    done = command("apply", tmp_path / "fold.nrrd", "--points", tmp_path / "points.csv", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "1 of 1 points" in done.stderr


def test_apply_keeps_existing_files_unless_told(command: Command, folder: Path, tmp_path: Path) -> None:
    words = ("apply", folder / "done/transform.h5", "--reference", folder / "fixed.nii.gz")
    words += ("--image", folder / "moving.nii.gz", "--out", tmp_path)
    (tmp_path / "moving-warped.nrrd").write_text("precious")
    done = command(*words)
    assert done.returncode == 2
    assert "exists already" in done.stderr
    assert (tmp_path / "moving-warped.nrrd").read_text(encoding="utf-8") == "precious"
    assert command(*words, "--overwrite").returncode == 0


BAD = [
    (("register", "absent.nrrd", "moving.nii.gz", "--out", "x"), "absent.nrrd' does not exist: check the path"),
    (("register", "fixed.nii.gz", "moving.nii.gz"), "--out FOLDER"),
    (("register", "fixed.nii.gz", "moving.nii.gz", "--out", "x", "--weight", "99"), "choose a value from"),
    (("register", "fixed.nii.gz", "moving.nii.gz", "--out", "x", "--engine", "magic"), "no engine 'magic'"),
    (("register", "fixed.nii.gz", "moving.nii.gz", "--out", "x", "--seed", "0"), "the clock"),
    (("register", "fixed.nii.gz", "moving.nii.gz", "--out", "x", "--preset", "quick"), "no preset 'quick'"),
    (("register", "fixed.nii.gz", "moving.nii.gz", "--out", "x", "--scene", "a/b.mrb"), "ends in .mrb"),
    (("register", "fixed.nii.gz", "moving.nii.gz", "--out", "x", "--set-engine", "iterations"), "NAME=VALUE"),
    (("register", "fixed.nii.gz", "moving.nii.gz", "--out", "x", "--set-engine", "speed=3"), "unknown field 'speed'"),
    (("register", "fixed.nii.gz", "moving.nii.gz", "--out", "fixed.nii.gz"), "is a file"),
    (("register", "--job", "absent.json"), "could not be read"),
    (("register", "--job", "fixed.nii.gz"), "is no UTF-8 text: check which file"),
    (("register", "--job", "done/report.json", "fixed.nii.gz"), "cannot stand beside --job"),
    (("register", "--job", "done/report.json", "--weight", "2"), "cannot stand beside --job"),
    (("measure", "fixed.nii.gz", "moving.nii.gz", "--transform", "fixed.nii.gz"), "three values per voxel"),
    (("apply", "done/transform.h5", "--out", "x"), "nothing to apply"),
    (("apply", "done/transform.h5", "--image", "moving.nii.gz", "--out", "x"), "--reference"),
    (("apply", "done/transform.h5", "--points", "fixed.nii.gz", "--out", "x"), "not a point file"),
]


@pytest.mark.parametrize(("words", "match"), BAD, ids=[" ".join(words)[:60] for words, _ in BAD])
def test_bad_input_ends_with_a_sentence_and_code_2(
    command: Command, folder: Path, words: tuple[str, ...], match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    done = command(*words)
    assert done.returncode == 2, done.stderr
    assert match in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("kind", [".csv", ".mrk.json"])
def test_points_survive_their_file(tmp_path: Path, kind: str) -> None:
    points = np.random.default_rng(1).normal(scale=100, size=(7, 3))
    write_points(points, tmp_path / f"points{kind}")
    np.testing.assert_allclose(read_points(tmp_path / f"points{kind}", "points"), points, atol=1e-12)


def test_points_in_ras_are_turned_to_lps(tmp_path: Path) -> None:
    markup = {"type": "Fiducial", "coordinateSystem": "RAS", "controlPoints": [{"position": [1, 2, 3]}]}
    (tmp_path / "ras.mrk.json").write_text(json.dumps({"markups": [markup]}))
    (tmp_path / "old.fcsv").write_text("# Markups fiducial file version = 4.6\n# CoordinateSystem = 0\n1,1,2,3,0,0,0,1\n")
    (tmp_path / "new.fcsv").write_text("# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n1,1,2,3,0,0,0,1\n")
    np.testing.assert_array_equal(read_points(tmp_path / "ras.mrk.json", "points"), [[-1, -2, 3]])
    np.testing.assert_array_equal(read_points(tmp_path / "old.fcsv", "points"), [[-1, -2, 3]])
    np.testing.assert_array_equal(read_points(tmp_path / "new.fcsv", "points"), [[1, 2, 3]])


@pytest.mark.parametrize("text", ["1,2\n3,4\n5,6\n", "7\n8\n9\n", "x,y,z\n1,2,up\n", "x,y,z\n"])
def test_rows_that_are_no_points_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(InputError, match="points"):
        read_points(tmp_path / "bad.csv", "points")


def test_columns_of_a_point_table_are_found_by_name(tmp_path: Path) -> None:
    with (tmp_path / "named.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["name", "z", "y", "x"], ["tip", "3", "2", "1"]])
    np.testing.assert_array_equal(read_points(tmp_path / "named.csv", "points"), [[1, 2, 3]])
