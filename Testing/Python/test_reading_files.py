"""What is no readable file is named as the input that it is, before ITK gets it; nothing is waited for, nothing is written."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import SimpleITK as sitk
from conftest import FIXED_GRID, blob_image, job_of
from HyperPredictRegLib import workflow
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.spatial.images import read_header, read_image
from HyperPredictRegLib.spatial.labels import embedded_label_names, read_label_names
from HyperPredictRegLib.spatial.reading.files import named_in_errors
from HyperPredictRegLib.spatial.transforms import read_transform
from reading_samples import Nifti, Slices

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="this system has no such files")

READERS: list[Callable[[Path | str], object]] = [
    lambda path: read_image(path, "fixed image"),
    lambda path: read_header(path, "fixed image"),
    lambda path: read_transform(path, "fixed image"),
]


def a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.nrrd")
    return folder / "pipe.nrrd"


def a_socket(folder: Path) -> Path:
    place = Path.cwd()
    try:
        os.chdir(folder)  # the path of a socket may not be long
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("s.nrrd")
    finally:
        os.chdir(place)
    return folder / "s.nrrd"


def a_circle(folder: Path) -> Path:
    (folder / "a.nrrd").symlink_to("b.nrrd")
    (folder / "b.nrrd").symlink_to("a.nrrd")
    return folder / "a.nrrd"


def an_empty_file(folder: Path) -> Path:
    (folder / "empty.nrrd").touch()
    return folder / "empty.nrrd"


@needs_posix
@pytest.mark.parametrize("reader", READERS, ids=["image", "header", "transform"])
@pytest.mark.parametrize(
    ("make", "match"),
    [
        (a_pipe, "is a named pipe, not a file"),
        (a_socket, "is a socket, not a file"),
        (a_circle, "leads back to itself"),
        (an_empty_file, "is empty"),
        (lambda _: Path("/dev/zero"), "is a device, not a file"),
        (lambda _: Path("/dev/random"), "is a device, not a file"),
        (lambda folder: folder / ("n" * 300 + ".nrrd"), "longer than the file system allows"),
        (lambda folder: folder / "absent.nrrd", "does not exist"),
        (lambda folder: folder / "a\0b.nrrd", "NUL"),
        (lambda folder: folder / os.fsdecode(b"caf\xe9.nrrd"), "not valid UTF-8"),
        (lambda folder: an_empty_file(folder) / "below.nrrd", "does not exist"),
    ],
    ids=["pipe", "socket", "circle", "empty", "zero", "random", "long", "absent", "NUL", "bytes", "below a file"],
)  # fmt: skip
def test_what_is_no_file_is_refused(
    tmp_path: Path, make: Callable[[Path], Path], match: str, reader: Callable[[Path], object]
) -> None:
    with pytest.raises(InputError, match=match) as caught:
        reader(make(tmp_path))
    assert "fixed image" in str(caught.value)
    str(caught.value).encode()


def test_a_folder_is_no_transform_and_no_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder: give a file"):
        read_transform(tmp_path, "transform")
    with pytest.raises(InputError, match="is a folder: give a file"):
        read_label_names(tmp_path)


@needs_posix
@pytest.mark.parametrize(("named", "beside"), [("a.hdr", "a.img"), ("a.img", "a.hdr"), ("a.img", "a.hdr.gz")])
def test_a_pipe_in_place_of_half_a_pair_is_not_waited_for(tmp_path: Path, named: str, beside: str) -> None:
    (tmp_path / named).write_bytes(bytes(400))
    os.mkfifo(tmp_path / beside)
    with pytest.raises(InputError, match=f"file that belongs to the fixed image '.*{beside}' is a named pipe"):
        read_image(tmp_path / named, "fixed image")


@pytest.mark.parametrize("reader", READERS, ids=["image", "header", "transform"])
def test_no_path_is_not_the_current_folder(reader: Callable[[str], object]) -> None:
    for path in ("", " "):
        with pytest.raises(InputError, match="The path of the fixed image is empty"):
            reader(path)


def test_an_error_of_the_disk_names_the_input(tmp_path: Path) -> None:
    match = r"The moving mask 'm.nrrd' could not be read \(Input/output error\)"
    with pytest.raises(InputError, match=match), named_in_errors("m.nrrd", "moving mask"):
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize("name", ["fixed.nrrd", "moving-labels.nrrd", "fixed.csv", "fixed-mask.nrrd", "names.csv", "start.tfm"])
def test_an_input_that_may_not_be_read_is_not_blamed_on_the_results(
    files: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files / "start.tfm").write_text("#Insight Transform File V1.0\n")
    real = Path.open

    def refused(self: Path, *arguments: object, **options: object) -> object:
        if self.name == name:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", refused)
    job = job_of(files, tmp_path / "out", fixed_mask=str(files / "fixed-mask.nrrd"), initial_transform=str(files / "start.tfm"))
    with pytest.raises(InputError, match=f"{name}' cannot be read: check its permissions"):
        workflow.run(job)
    assert not (tmp_path / "out").exists()


@needs_posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become someone else")
def test_permissions_hold_for_someone_who_is_not_root(tmp_path: Path) -> None:
    secret = tmp_path / "secret.nrrd"
    sitk.WriteImage(blob_image(FIXED_GRID), str(secret))
    secret.chmod(0o000)
    code = (
        "import os, sys\nfrom HyperPredictRegLib.spatial.images import read_image\nos.setuid(65534)\n"
        "try:\n    read_image(sys.argv[1], 'fixed image')\nexcept Exception as error:\n    print(type(error).__name__, error)\n"
    )
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    message = subprocess.run([sys.executable, "-c", code, str(secret)], capture_output=True, text=True, check=False)
    assert "InputError The fixed image" in message.stdout, message.stderr
    assert "cannot be read: check its permissions" in message.stdout


@pytest.mark.parametrize("row", ["²,two", "9" * 5000 + ",many", "-1,negative", "1.5,half"])
def test_rows_without_a_label_are_passed_over(tmp_path: Path, row: str) -> None:
    (tmp_path / "names.csv").write_text(f"label,name\n1,liver\n{row}\n", encoding="utf-8")
    assert read_label_names(tmp_path / "names.csv") == {1: "liver"}


@needs_posix
def test_names_of_labels_are_not_read_without_end(tmp_path: Path) -> None:
    with (tmp_path / "names.csv").open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(InputError, match=r"table of label names '.*' is longer than 8 MB"):
        read_label_names(tmp_path / "names.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(InputError, match="is a named pipe"):
        read_label_names(tmp_path / "pipe.csv")


@pytest.mark.parametrize("content", [b"1," + b"x" * 200_000 + b"\n", b"\xff\xfe1,a\n", b"name\n", b'1,"a\n' * 3])
def test_a_table_that_is_none_is_refused_or_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "names.csv").write_bytes(content)
    try:
        assert read_label_names(tmp_path / "names.csv")
    except InputError as error:
        assert "names.csv" in str(error)


def test_a_segment_without_a_number_has_no_name() -> None:
    image = sitk.Image(4, 4, 4, sitk.sitkUInt8)
    for key, value in (("0_Name", "Liver"), ("0_LabelValue", "one"), ("1_Name", "Spleen"), ("1_LabelValue", "2")):
        image.SetMetaData(f"Segment{key}", value)
    assert embedded_label_names(image) == {2: "Spleen"}


def test_what_was_taken_for_granted_stands_in_the_report(files: Path, tmp_path: Path) -> None:
    fixed = sitk.ReadImage(str(files / "fixed.nrrd"))
    voxels = sitk.GetArrayFromImage(fixed).T
    size, origin = fixed.GetSize(), fixed.GetOrigin()
    rows = ((-2.0, 0, 0, -origin[0]), (0, -2.0, 0, -origin[1]), (0, 0, 2.0, origin[2]))
    Nifti(rows, units=0).write(tmp_path / "fixed.nii", voxels)
    labels = sitk.Cast(sitk.ReadImage(str(files / "fixed-labels.nrrd")), sitk.sitkFloat32) * 1.0001
    sitk.WriteImage(labels, str(tmp_path / "labels.nrrd"))
    job = job_of(files, tmp_path / "out", fixed=str(tmp_path / "fixed.nii"), fixed_labels=str(tmp_path / "labels.nrrd"))
    report = workflow.run(job)
    notes = report.inputs[0].notes
    assert ["no unit of length" in notes[0], "were rounded" in notes[1], len(notes)] == [True, True, 2]
    assert report.inputs[1].notes == ()
    assert set(notes) <= set(report.warnings)
    assert report.inputs[0].size == size
    assert "no unit of length" in (tmp_path / "out" / "report.json").read_text(encoding="utf-8")


def test_a_bad_series_ends_the_command_with_a_sentence_and_code_2(files: Path, tmp_path: Path) -> None:
    folder = Slices(tilt_degrees=18).write(tmp_path / "dicom")
    words = [sys.executable, "-m", "HyperPredictRegLib.cli", "register", str(folder), str(files / "moving.nrrd")]
    ended = subprocess.run([*words, "-o", str(tmp_path / "out")], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "tilted gantry" in " ".join(ended.stderr.split())
    assert not (tmp_path / "out").exists()
