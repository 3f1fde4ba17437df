"""What goes wrong with files is told in a sentence that blames the right one."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import SimpleITK as sitk
from conftest import job_of
from HyperPredictRegLib import workflow
from HyperPredictRegLib.core import files as file_words
from HyperPredictRegLib.core.errors import InputError, RegistrationError
from HyperPredictRegLib.results import results_folder
from HyperPredictRegLib.results.outcome import Outcome
from HyperPredictRegLib.results.report import Report

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="takes privileges and sizes away as Linux does")

FULL = [errno.ENOSPC, errno.EFBIG, errno.EDQUOT] if hasattr(errno, "EDQUOT") else [errno.ENOSPC, errno.EFBIG]


@pytest.mark.parametrize("number", FULL)
def test_a_full_disk_is_called_so_and_the_folder_named(tmp_path: Path, number: int) -> None:
    with (
        pytest.raises(InputError, match=rf"The disk is full .* could not be written to '{tmp_path}'"),
        file_words.writing_into(tmp_path, "results"),
    ):
        raise OSError(number, os.strerror(number), str(tmp_path / "a"))


def test_an_error_about_another_file_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "input.nrrd"
    with pytest.raises(InputError) as caught, file_words.writing_into(out, "results"):
        raise PermissionError(errno.EACCES, "Permission denied", str(elsewhere))
    assert str(elsewhere) in str(caught.value) and str(out) not in str(caught.value)
    for place in (out, out / "a", tmp_path, tmp_path / ".out.partial-abc" / "new" / "a"):
        with pytest.raises(InputError, match="The results could not be written to"), file_words.writing_into(out, "results"):
            raise PermissionError(errno.EACCES, "Permission denied", str(place))


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/in/a.nrrd"), InputError, "'/in/a.nrrd' could not be used"),
        (OSError(errno.ELOOP, "Too many levels", "/in/a.nrrd"), InputError, "links lead in a circle"),
        (OSError("libodd.so: cannot open shared object"), RegistrationError, "libodd.so"),
        (OSError(errno.EIO, "Input/output error"), RegistrationError, "Input/output error"),
    ],
)
def test_what_fails_in_the_work_is_not_blamed_on_the_output(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, kind: type[Exception], message: str
) -> None:
    def fail(*given: object) -> None:
        raise error

    monkeypatch.setattr("HyperPredictRegLib.workflow.registering.prepare", fail)
    with pytest.raises(kind, match=message) as caught:
        workflow.run(job_of(files, tmp_path / "out"))
    assert str(tmp_path / "out") not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_read_its_font_costs_only_itself(finished: tuple[Report, Path], tmp_path: Path) -> None:
    class Stands:
        report, warped_labels = finished[0], None
        transform = inverse = affine = sitk.TranslationTransform(3)
        affine_warped = affine_warped_labels = None
        warped = jacobian = sitk.Image(4, 4, 4, sitk.sitkFloat32)

    def draw(outcome: Outcome, folder: Path) -> dict[str, str]:
        raise PermissionError(errno.EACCES, "Permission denied", "/usr/share/fonts/odd.ttf")

    outputs_made = _write(Stands(), tmp_path, draw)
    assert any("odd.ttf" in warning for warning in outputs_made.warnings)

    def full(outcome: Outcome, folder: Path) -> dict[str, str]:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        _write(Stands(), tmp_path, full)


def _write(stands: object, folder: Path, writer: Callable[[Outcome, Path], dict[str, str]]) -> Report:
    import dataclasses
    from unittest.mock import patch

    def replaced(record: object, **changes: object) -> object:
        return record if record is stands else dataclasses.replace(record, **changes)  # type: ignore[type-var]

    with patch.object(results_folder, "replace", replaced):
        return results_folder.write_files(stands, folder, [writer])  # type: ignore[arg-type]


# Takes from root what lets it pass by permissions; does nothing to others, who have no such privilege.
def _without_privileges() -> None:
    libc = ctypes.CDLL(None)
    for capability in (1, 2):
        libc.prctl(24, capability, 0, 0, 0)


SCRIPT = """
import json, sys
from HyperPredictRegLib.cli.commands import app
for words in json.loads(sys.argv[1]):
    try:
        app(words, standalone_mode=False)
        print(json.dumps(["done", ""]))
    except BaseException as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""


@linux
def test_permissions_are_told_of_the_right_file(files: Path, tmp_path: Path) -> None:
    fixed, moving = str(files / "fixed.nrrd"), str(files / "moving.nrrd")
    private, locked, mine = tmp_path / "private", tmp_path / "locked", tmp_path / "mine"
    secret = tmp_path / "secret.json"
    for folder in (private, locked, mine, tmp_path / "old"):
        folder.mkdir()
    secret.write_text("{}")
    (private / "a.nrrd").touch()
    (tmp_path / "old" / "report.json").write_text('{"outputs": {}}')
    for path, mode in ((private, 0), (locked, 0o555), (secret, 0), (tmp_path / "old", 0o555)):
        path.chmod(mode)
    fast = ["--weight", "1", "-q", "--set-alignment", "multi_start=false"]
    out = ["-o", str(mine / "out"), *fast]
    cases = [
        (["register", fixed, moving, "-o", str(locked / "out"), *fast], locked / "out"),
        (["register", fixed, moving, "-o", str(locked), *fast], locked),
        (["register", fixed, moving, "-o", str(private / "deep" / "out"), *fast], private / "deep" / "out"),
        (["register", fixed, moving, "-o", str(tmp_path / "old"), "--overwrite", *fast], tmp_path / "old"),
        (["predict", fixed, moving, "-o", str(locked / "out"), "-q"], locked / "out"),
        (["register", str(secret), moving, *out], secret),
        (["register", fixed, str(private / "a.nrrd"), *out], private / "a.nrrd"),
        (["register", fixed, moving, "--label-names", str(secret), *out], secret),
        (["register", fixed, moving, "--initial-transform", str(private / "t.h5"), *out], private / "t.h5"),
        (["register", fixed, moving, "--predictor", str(private), "-o", str(mine / "out"), "-q"], private),
        (["register", "--job", str(secret)], secret),
        (["register", "--job", str(private / "job.json")], private / "job.json"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps([words for words, _ in cases])], preexec_fn=_without_privileges,
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    for path in (private, locked, secret, tmp_path / "old"):
        path.chmod(0o755)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(cases), done.stderr
    for (kind, message), (words, blamed) in zip(found, cases, strict=True):
        assert kind == "InputError" and f"'{blamed}" in message, (words, kind, message)
        assert "Errno" not in message and (str(mine) in message) == (blamed == mine), (words, message)
    assert list(mine.iterdir()) == [] and [path.name for path in (tmp_path / "old").iterdir()] == ["report.json"]


ROOM = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import numpy as np, SimpleITK as sitk
from HyperPredictRegLib.core.files import writing_into
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.spatial.images import write_image
from HyperPredictRegLib.spatial.transforms import write_transform, field_transform
from HyperPredictRegLib.results.exchange import _write_uncompressed
noise = np.random.default_rng(1).normal(size=(40, 40, 40, 3))
image, field = sitk.GetImageFromArray(noise[..., 0]), sitk.GetImageFromArray(noise, isVector=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
folder = Path(sys.argv[1])
for name, write in {"a.nrrd": lambda p: write_image(image, p), "b.h5": lambda p: write_transform(field_transform(field), p),
                    "c.nrrd": lambda p: _write_uncompressed(image, p), "d.txt": lambda p: p.write_text("x" * 200_000)}.items():
    try:
        with writing_into(folder, "results"):
            write(folder / name)
        print("written")
    except InputError as error:
        print(error)
"""


@linux
def test_every_kind_of_file_tells_of_a_full_disk(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ROOM, str(tmp_path)], capture_output=True, encoding="utf-8", check=False
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 4 and all(line.startswith("The disk is full") and str(tmp_path) in line for line in lines), done
    assert not list(tmp_path.glob(".*"))


def test_room_is_asked_for_without_leaving_anything(tmp_path: Path) -> None:
    file_words.require_room(tmp_path, 1000)
    with pytest.raises(OSError, match=r".") as caught:
        file_words.require_room(tmp_path, 1 << 60)
    assert caught.value.errno in FULL
    assert list(tmp_path.iterdir()) == []


def test_what_is_printed_does_not_command_a_terminal() -> None:
    assert file_words.printable("λ ä 'x\u00a0y'\n\tz") == "λ ä 'x\u00a0y'\n\tz"
    assert file_words.printable("\x1b[31mred\x07 \u202egnp.exe\r\0") == "\\x1b[31mred\\x07 \\u202egnp.exe\\r\\x00"
