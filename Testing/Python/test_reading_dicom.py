"""Folders of DICOM slices: a volume is made only of slices that lie evenly, straight and once; nothing is left out in silence."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.spatial.images import read_header, read_image
from reading_samples import Slices, without_tag

SAGITTAL = "0\\1\\0\\0\\0\\-1"
LOCALIZER = {"0008|0008": "ORIGINAL\\PRIMARY\\LOCALIZER"}


@pytest.mark.parametrize(
    ("slices", "origin"),
    [
        (Slices(), (-5.0, 3.0, 7.0)),
        (Slices(positions=tuple(-2.5 * k for k in range(10))), (-5.0, 3.0, -15.5)),
        (Slices(positions=tuple(2.5 * k + 0.01 * (k % 3) for k in range(10))), (-5.0, 3.0, 7.0)),
        (Slices(orientation="0.8\\0.6\\0\\-0.6\\0.8\\0"), (-5.0, 3.0, 7.0)),
        (Slices(orientation="1\\0\\0\\0\\0\\-1"), (-5.0, 3.0, 7.0)),
        (Slices(tags=LOCALIZER), (-5.0, 3.0, 7.0)),
    ],
    ids=["usual", "downward", "rounded", "turned", "coronal", "nothing but localizers"],
)
def test_a_whole_series_is_read_where_it_lies(tmp_path: Path, slices: Slices, origin: tuple[float, ...]) -> None:
    notes: list[str] = []
    image = read_image(slices.write(tmp_path), "fixed image", notes)
    assert image.GetSize() == (12, 11, 10) == read_header(tmp_path, "fixed image").size
    np.testing.assert_allclose(image.GetSpacing(), (1.5, 1.5, 2.5), atol=0.003)
    np.testing.assert_allclose(image.GetOrigin(), origin, atol=1e-6)
    assert notes == []


def without(*missing: int) -> tuple[float, ...]:
    return tuple(2.5 * k for k in range(12) if k not in missing)


@pytest.mark.parametrize(
    ("slices", "match"),
    [
        (Slices(without(4, 5, 6)), r"2\.5 mm apart, but '0004.dcm' and '0005.dcm' \(at 14.5 and 24.5 .* 10 mm; 3 slices seem"),
        (Slices(without(4)), r"'0004.dcm' and '0005.dcm' .* 5 mm; 1 slice seems to be missing there\."),
        (Slices(without(1)), "'0001.dcm' and '0002.dcm' .* 1 slice seems"),
        (Slices(without(10)), "'0010.dcm' and '0011.dcm' .* 1 slice seems"),
        (Slices(without(3, 7)), "1 slice seems to be missing there, and 1 more distance differs too"),
        (Slices((0, 2.5, 5, 7.5, 10, 12.5, 17.5, 22.5, 27.5)), r"2\.5 mm apart, but '0006.dcm' and .* 5 mm, and 2 more"),
        (Slices(tuple(2.5 * k + 0.02 * k * k for k in range(10))), "not evenly spaced"),
        (Slices(tilt_degrees=18.0), "tilted gantry: its slices are stacked at 18 degrees"),
        (Slices(tilt_degrees=-3.0), "stacked at 3 degrees .* 1.18 mm off"),
        (Slices(sideways=((4, 3.0),)), "shifted sideways against each other, by up to 3 mm"),
        (Slices((5.0,) * 10), "10 images at each position"),
        (Slices((0.0,)), "a single slice"),
    ],
)  # fmt: skip
def test_slices_that_are_not_even_are_refused(tmp_path: Path, slices: Slices, match: str) -> None:
    for read in (read_image, read_header):
        with pytest.raises(InputError, match=match):
            read(slices.write(tmp_path), "fixed image")


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (Slices(first_number=100), r"2 images at each position \(20 images at 10 positions, for example '0001.dcm' and"),
        (Slices(first_number=100, tags={"0018|0081": "20"}), "They differ in echo times 10, 20"),
        (Slices((5.0,), first_number=100), "2 images at 1 of 10 positions"),
        (Slices((0.0, 3.0), first_number=100, orientation=SAGITTAL), r"2 different directions \(10 and 2 slices; '0100.dcm'"),
        (Slices((25.0,), first_number=100, size=(20, 20)), "2 different sizes"),
        (Slices((25.0,), first_number=100, spacing=1.6), "2 different pixel spacings"),
        (Slices(series="9.9", first_number=100, tags={"0008|103e": "PD"}), "2 DICOM series .*'PD' with 10 images"),
    ],
)
def test_several_volumes_in_one_folder_are_refused(tmp_path: Path, more: Slices, match: str) -> None:
    Slices(tags={"0018|0081": "10"}).write(tmp_path)
    more.write(tmp_path)
    with pytest.raises(InputError, match=match):
        read_image(tmp_path, "moving image")


@pytest.mark.parametrize("series", ["1.2.3.4", "9.9"])
def test_localizers_are_left_out_and_it_is_said(tmp_path: Path, series: str) -> None:
    Slices().write(tmp_path)
    Slices((0.0, 3.0), series=series, first_number=100, tags=LOCALIZER, orientation=SAGITTAL).write(tmp_path)
    notes: list[str] = []
    image = read_image(tmp_path, "fixed image", notes)
    assert image.GetSize() == (12, 11, 10)
    assert len(notes) == 1
    assert "holds 2 localizer images beside the volume of 10 slices: left out" in notes[0]


def test_the_same_file_twice_is_read_once_and_it_is_said(tmp_path: Path) -> None:
    Slices().write(tmp_path)
    shutil.copy(tmp_path / "0003.dcm", tmp_path / "copy.dcm")
    notes: list[str] = []
    image = read_image(tmp_path, "fixed image", notes)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image)[:, 0, 0], np.arange(10))
    assert len(notes) == 1
    assert "holds 1 image twice" in notes[0]


def test_two_contents_under_one_name_are_no_copies(tmp_path: Path) -> None:
    Slices().write(tmp_path / "a")
    Slices((5.0,), first_number=3).write(tmp_path / "b")
    shutil.copy(tmp_path / "b" / "0003.dcm", tmp_path / "a" / "other.dcm")
    with pytest.raises(InputError, match="2 images at 1 of 10 positions"):
        read_image(tmp_path / "a", "fixed image")


@pytest.mark.parametrize(
    ("element", "match"),
    [((0x20, 0x32), "state no position"), ((0x20, 0x37), "state no direction"), ((0x28, 0x30), "state no pixel spacing")],
)
def test_a_slice_that_does_not_state_its_place_is_refused(tmp_path: Path, element: tuple[int, int], match: str) -> None:
    Slices().write(tmp_path)
    without_tag(tmp_path / "0003.dcm", *element)
    with pytest.raises(InputError, match=f"1 slice of 10 {match} .*'0003.dcm'|1 slice of 10 {match}, for example '0003.dcm'"):
        read_image(tmp_path, "fixed image")


def test_what_is_no_dicom_may_lie_beside(tmp_path: Path) -> None:
    Slices().write(tmp_path)
    (tmp_path / "readme.txt").write_text("from the scanner")
    (tmp_path / "empty.dcm").write_bytes(b"")
    (tmp_path / "junk.dcm").write_bytes(bytes(range(256)) * 8)
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    assert read_image(tmp_path, "fixed image").GetSize() == (12, 11, 10)


def test_a_report_among_the_slices_is_left_out_and_it_is_said(tmp_path: Path) -> None:
    Slices().write(tmp_path)
    top = (tmp_path / "0001.dcm").read_bytes()
    at = top.find(b"\x08\x00\x60\x00")
    (tmp_path / "sr.dcm").write_bytes(top[:at] + b"\x08\x00\x60\x00\x02\x00\x00\x00SR")
    notes: list[str] = []
    image = read_image(tmp_path, "fixed image", notes)
    assert image.GetSize() == (12, 11, 10)
    assert "1 DICOM file without an image" in notes[0]


@pytest.mark.parametrize("retained", [-100, 300])
def test_the_last_slice_cut_short_is_not_passed_over(tmp_path: Path, retained: int) -> None:
    last = Slices().write(tmp_path) / "0010.dcm"
    last.write_bytes(last.read_bytes()[:retained])
    with pytest.raises(InputError, match=r"holds '0010.dcm', a damaged DICOM file"):
        read_image(tmp_path, "fixed image")


@pytest.mark.parametrize("where", ["modality", "first element"])
def test_an_element_that_states_more_than_the_file_holds_is_refused(tmp_path: Path, where: str) -> None:
    one = Slices().write(tmp_path) / "0004.dcm"
    raw = bytearray(one.read_bytes())
    # GDCM would reserve as much memory as the length says.
    at = 132 if where == "first element" else raw.find(b"\x08\x00\x60\x00")
    struct.pack_into("<I", raw, at + 4, 0x00040000 if where == "first element" else 3_500_000_000)
    one.write_bytes(raw)
    for path, match in ((tmp_path, "holds '0004.dcm', a damaged"), (one, "0004.dcm' is a damaged")):
        with pytest.raises(InputError, match=f"{match} DICOM file"):
            read_image(path, "fixed image")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_the_folder_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(Slices().write(tmp_path) / "pipe")
    with pytest.raises(InputError, match="holds 'pipe', which is a pipe"):
        read_header(tmp_path, "fixed image")


def test_several_frames_in_one_file_are_read_and_it_is_said(tmp_path: Path) -> None:
    frames = sitk.GetImageFromArray(np.arange(6 * 11 * 12, dtype=np.uint16).reshape(6, 11, 12))
    frames.SetSpacing((1, 1, 3))
    sitk.WriteImage(frames, str(tmp_path / "one.dcm"))
    for path in (tmp_path, tmp_path / "one.dcm"):
        notes: list[str] = []
        image = read_image(path, "fixed image", notes)
        assert image.GetSize() == (12, 11, 6)
        assert image.GetSpacing() == (1, 1, 3)
        assert "one DICOM file of 6 frames" in notes[0]
        assert read_header(path, "fixed image").size == (12, 11, 6)


def test_a_color_slice_is_refused(tmp_path: Path) -> None:
    gray = sitk.Cast(sitk.GaussianSource(sitk.sitkFloat32, [9, 9, 1]), sitk.sitkUInt8)
    sitk.WriteImage(sitk.Compose(gray, gray, gray), str(tmp_path / "one.dcm"))
    with pytest.raises(InputError, match="3 values per voxel"):
        read_image(tmp_path, "fixed image")
