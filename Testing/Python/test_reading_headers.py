"""Headers of NIfTI, NRRD and MetaImage files: what they say of place and unit is heeded, said or refused, and lies do no harm."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.images import read_header, read_image, read_labels
from reading_samples import IN_PLACE, SLANTED, UPRIGHT, Nifti, meta_image, nifti2, nrrd, ramp

NAN = float("nan")
LPS = ("space: left-posterior-superior", "space directions: (1,0,0) (0,1,0) (0,0,1)", "space origin: (1,2,3)")


@pytest.mark.parametrize(
    ("header", "origin", "spacing", "message"),
    [
        (Nifti(), (9, 8, -7), 2.0, ""),
        (Nifti(order=">"), (9, 8, -7), 2.0, ""),
        (Nifti(qform=IN_PLACE), (9, 8, -7), 2.0, ""),
        (Nifti(qform=(0, 0, 0, -9, -8, -7.15)), (9, 8, -7), 2.0, ""),
        (Nifti(qform=(0, 0, 0, -9, -8, -7.3)), (9, 8, -7), 2.0, "lie up to 0.3 mm apart: the sform was taken"),
        (Nifti(qform=(0, 0, 0, -9, -8, -7.3), sform_code=2), (9, 8, -7.3), 2.0, "lie up to 0.3 mm apart: the qform was taken"),
        (Nifti(qform=(0, 0, 0.05, -9, -8, -7)), (9, 8, -7), 2.0, "mm apart: the sform was taken"),
        (Nifti(sform=None, qform=IN_PLACE), (9, 8, -7), 2.0, ""),
        (Nifti(sform=None), (0, 0, 0), 2.0, "states neither position nor orientation"),
        (Nifti(sform=None, magic=b"\0\0\0\0"), (0, 0, 0), 2.0, "is an Analyze file, which states neither"),
        (Nifti(units=1), (9000, 8000, -7000), 2000.0, "in meters: its spacing of 2 x 2 x 2 was converted to 2000 x 2000 x"),
        (Nifti(units=3), (0.009, 0.008, -0.007), 0.002, "in micrometers: .* converted to 0.002 x 0.002 x 0.002 mm"),
        (Nifti(units=2 + 8), (9, 8, -7), 2.0, ""),
        (Nifti(units=0), (9, 8, -7), 2.0, "states no unit of length: its spacing of 2 x 2 x 2 was taken as mm"),
        (Nifti(units=7), (9, 8, -7), 2.0, "states no unit of length"),
    ],
)
def test_where_a_nifti_file_lies_is_heeded_and_said(
    tmp_path: Path, header: Nifti, origin: tuple[float, ...], spacing: float, message: str
) -> None:
    notes: list[str] = []
    image = read_image(header.write(tmp_path / "a.nii", ramp(6, 5, 7)), "fixed image", notes)
    np.testing.assert_allclose(image.GetOrigin(), origin, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(image.GetSpacing(), [spacing] * 3, rtol=1e-6)
    assert len(notes) == bool(message)
    if message:
        with pytest.raises(InputError, match=message):
            raise InputError(notes[0])
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, ramp(6, 5, 7))


@pytest.mark.parametrize(
    ("header", "match"),
    [
        (Nifti(SLANTED), "slanted slices: its sform holds a shear, its axes are up to 18 degrees"),
        (Nifti(SLANTED, IN_PLACE), "slanted slices: its sform holds a shear"),
        (Nifti(SLANTED, IN_PLACE, sform_code=4), "slanted slices: its sform holds a shear"),
        (Nifti(((3.0, 0, 0, 0), (0, 3, 0, 0), (0, 0, 3, 0))), "its sform gives voxels of 3 x 3 x 3 mm, its pixdim 2 x 2 x 2 mm"),
        (Nifti(((NAN, 0, 0, 0), (0, 2, 0, 0), (0, 0, 2, 0))), "sform with numbers that are NaN"),
        (Nifti(qform=(NAN, 0, 0, 0, 0, 0)), "qform with numbers that are NaN"),
        (Nifti(((0.0, 0, 0, 0),) * 3), "sform that flattens space"),
        (Nifti(slope=0, intercept=5), "intercept of 5 for its values but no slope"),
        (Nifti(slope=NAN, intercept=-1), "intercept of -1 for its values but no slope"),
        (Nifti(offset=NAN), "puts the voxels at byte nan"),
        (Nifti(offset=-352), "puts the voxels at byte -352"),
        (Nifti(offset=1e9), "is cut short"),
        (Nifti(dim=(3, 30000, 30000, 30000, 1, 1, 1, 1)), "promises 30000 x 30000 x 30000 voxels"),
        (Nifti(dim=(3, 7, 5, 7, 1, 1, 1, 1)), "is cut short .* 1192 bytes where its header promises 1332"),
        (Nifti(dim=(3, -6, 5, 7, 1, 1, 1, 1)), "could not be read"),
        (Nifti(dim=(9, 6, 5, 7, 1, 1, 1, 1)), "could not be read"),
        (Nifti(dim=(5, 6, 5, 7, 1, 3, 1, 1), datatype=(128, 24)), "several colors in each voxel"),
        (Nifti(dim=(4, 6, 5, 7, 2, 1, 1, 1), datatype=(2304, 32)), "several colors in each voxel"),
        (Nifti(intent=1006), "vectors, though of one value"),
        (Nifti(intent=1005), "could not be read"),
    ],
)
def test_a_nifti_header_that_cannot_be_followed_is_refused(tmp_path: Path, header: Nifti, match: str) -> None:
    for name in ("a.nii", "a.nii.gz"):
        path = header.write(tmp_path / name, ramp(6, 5, 7))
        with pytest.raises(InputError, match=match):
            read_image(path, "fixed image")


@pytest.mark.parametrize(
    ("slope", "intercept", "first", "second"),
    [(2.0, 1.0, 1.0, 3.0), (0.0, 0.0, 0.0, 1.0), (NAN, NAN, 0.0, 1.0), (-1.0, 0.0, 0.0, -1.0)],
)
def test_stored_values_are_scaled_as_nifti_says(
    tmp_path: Path, slope: float, intercept: float, first: float, second: float
) -> None:
    path = Nifti(slope=slope, intercept=intercept).write(tmp_path / "a.nii", ramp(6, 5, 7))
    voxels = sitk.GetArrayFromImage(read_image(path, "fixed image"))
    assert (voxels[0, 0, 0], voxels[1, 0, 0]) == (first, first + (second - first) * ramp(6, 5, 7)[0, 0, 1])


def test_pairs_of_header_and_voxels_are_whole_or_refused(tmp_path: Path) -> None:
    header = Nifti(magic=b"ni1\0", offset=0).write(tmp_path / "a.hdr", ramp(6, 5, 7))
    for path in (header, tmp_path / "a.img"):
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read_image(path, "fixed image")).T, ramp(6, 5, 7))
    (tmp_path / "a.img").write_bytes((tmp_path / "a.img").read_bytes()[:-4])
    with pytest.raises(InputError, match=r"is cut short \(a.img has 836 bytes where its header promises 840\)"):
        read_image(header, "fixed image")
    (tmp_path / "a.img").unlink()
    with pytest.raises(InputError, match="could not be read"):
        read_image(header, "fixed image")


def test_nifti_2_is_read_or_refused_by_name(tmp_path: Path) -> None:
    # SimpleITK may learn to read it; a shear must be refused then, too.
    with pytest.raises(InputError, match="slanted slices"):
        read_image(nifti2(tmp_path / "a.nii", ramp(6, 5, 7), SLANTED), "fixed image")
    path = nifti2(tmp_path / "b.nii", ramp(6, 5, 7))
    try:
        assert read_image(path, "fixed image").GetOrigin() == (9, 8, -7)
    except InputError as error:
        assert "is a NIfTI-2 file" in str(error)


def test_one_time_point_is_a_volume_and_more_are_refused(tmp_path: Path) -> None:
    for extra in ((1,), (1, 1)):
        path = Nifti().write(tmp_path / "one.nii", ramp(6, 5, 7, *extra))
        assert read_image(path, "fixed image").GetSize() == (6, 5, 7)
        assert read_header(path, "fixed image").size[:3] == (6, 5, 7)
    with pytest.raises(InputError, match="4-D with 2 frames"):
        read_image(Nifti().write(tmp_path / "two.nii", ramp(6, 5, 7, 2)), "fixed image")


@pytest.mark.parametrize("intent", [0, 1002, 1006, 1007])
def test_vector_labels_are_refused(tmp_path: Path, intent: int) -> None:
    grid = Geometry((6, 5, 7), (2.0, 2.0, 2.0), (9.0, 8.0, -7.0), (-1.0, 0, 0, 0, -1, 0, 0, 0, 1))
    path = Nifti(intent=intent).write(tmp_path / "labels.nii", ramp(6, 5, 7, 1, 3))
    with pytest.raises(InputError, match=r"The fixed labels '.*' has 3 values per voxel"):
        read_labels(path, grid, "fixed labels")


def test_a_stream_that_is_cut_or_goes_on_is_noticed(tmp_path: Path) -> None:
    whole = Nifti().write(tmp_path / "a.nii.gz", ramp(6, 5, 7)).read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[:-12])
    with pytest.raises(InputError, match="is cut short"):
        read_image(tmp_path / "cut.nii.gz", "fixed image")
    (tmp_path / "more.nii.gz").write_bytes(gzip.compress(gzip.decompress(whole) + bytes(1 << 26)))
    assert read_image(tmp_path / "more.nii.gz", "fixed image").GetSize() == (6, 5, 7)


@pytest.mark.parametrize(
    ("lines", "origin", "spacing", "message"),
    [
        (LPS, (1, 2, 3), (1, 1, 1), ""),
        (("space: RAS", *LPS[1:]), (-1, -2, 3), (1, 1, 1), ""),
        (("space: left-anterior-superior", *LPS[1:]), (1, -2, 3), (1, 1, 1), ""),
        (("space: scanner-xyz", *LPS[1:]), (1, 2, 3), (1, 1, 1), "lies in the space 'scanner-xyz'"),
        (("space dimension: 3", *LPS[1:]), (1, 2, 3), (1, 1, 1), "does not state in which space"),
        (("spacings: 1 2 3",), (0, 0, 0), (1, 2, 3), "does not state in which space"),
        ((*LPS, 'space units: "mm" "mm" "mm"'), (1, 2, 3), (1, 1, 1), ""),
        ((*LPS, 'space units: "um" "um" "um"'), (0.001, 0.002, 0.003), (0.001,) * 3, "is stated in um: its grid was converted"),
        ((*LPS, 'space units: "Meters" "Meters" "Meters"'), (1000, 2000, 3000), (1000,) * 3, "is stated in Meters"),
        ((*LPS, "key:=" + "x" * 100_000, "# " + "y" * 100_000), (1, 2, 3), (1, 1, 1), ""),
    ],
)
def test_where_a_nrrd_file_lies_is_heeded_and_said(
    tmp_path: Path, lines: tuple[str, ...], origin: tuple[float, ...], spacing: tuple[float, ...], message: str
) -> None:
    notes: list[str] = []
    image = read_image(nrrd(tmp_path / "a.nrrd", *lines), "fixed image", notes)
    np.testing.assert_allclose(image.GetOrigin(), origin)
    np.testing.assert_allclose(image.GetSpacing(), spacing)
    assert len(notes) == bool(message)
    assert not message or message in notes[0]


BODY = ("type: uint8", "dimension: 3", "sizes: 5 5 5", "encoding: raw")


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ((*BODY, LPS[0], "space directions: (1,0,0) (0.5,1,0) (0,0,1)"), "slanted slices: its header .* 26.6 degrees"),
        ((*BODY, *LPS, 'space units: "um" "mm" "um"'), "unit of length as 'mm', 'um'"),
        ((*BODY, *LPS, 'space units: "furlong" "furlong" "furlong"'), "unit of length as 'furlong'"),
        ((*BODY, "labels: " + '"x" ' * 1000), "line 6 of its header .* has 4008 characters"),
        ((*BODY, "kinds: " + "domain " * 100_000), "characters, more than the 500"),
        ((*BODY, "x" * 1500), "1500 characters"),
        (("type: " + "u" * 3000, *BODY[1:]), "line 2 of its header"),
        ((*BODY, *[f"k{n}:=v" for n in range(20_000)]), "lines in its header"),
        (("type: uint8", "dimension: 16", "sizes:" + " 5" * 16, "encoding: raw"), "states 16 dimensions"),
        (("type: uint8", "dimension: -3", "sizes: 5 5 5", "encoding: raw"), "states -3 dimensions"),
        (("type: uint8", "dimension: 3", "sizes: 1000000 1000000 1000000", "encoding: raw"), "promises 1000000 x 1000000 x"),
        (("type: uint8", "dimension: 3", "sizes: 1000 1000 1000", "encoding: gzip"), "promises 1000 x 1000 x 1000"),
        (("type: uint8", "dimension: 3", "sizes: 50 50 50", "encoding: raw"), "promises 50 x 50 x 50"),
        ((*BODY, "data file: /dev/zero"), "should lie in '/dev/zero'"),
        ((*BODY, "data file: nowhere.raw"), "should lie in 'nowhere.raw'"),
        ((*BODY, "data file: %s%s%n.raw 1 5 1"), "which is no pattern"),
        ((*BODY, "data file: LIST", "a.raw"), "should lie in 'a.raw'"),
    ],
)
def test_a_nrrd_header_that_cannot_be_followed_is_refused(tmp_path: Path, lines: tuple[str, ...], match: str) -> None:
    for name in ("a.nrrd", "a.nhdr"):
        with pytest.raises(InputError, match=match):
            read_image(nrrd(tmp_path / name, body=lines), "moving image")


def test_voxels_in_files_of_their_own_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(bytes(range(125)))
    for path in (
        nrrd(tmp_path / "a.nhdr", *LPS, "data file: a.raw", data=b""),
        meta_image(tmp_path / "a.mhd", data=b"", ElementDataFile="a.raw"),
    ):
        assert sitk.GetArrayFromImage(read_image(path, "fixed image")).ravel().tolist() == list(range(125))
    words = " ".join(map(str, range(125))).encode()
    text = nrrd(tmp_path / "text.nrrd", *LPS, body=(*BODY[:3], "encoding: ascii"), data=words)
    assert sitk.GetArrayFromImage(read_image(text, "fixed image")).ravel().tolist() == list(range(125))


def test_a_meta_image_is_taken_in_its_unit(tmp_path: Path) -> None:
    notes: list[str] = []
    image = read_image(meta_image(tmp_path / "a.mha", DistanceUnits="um", ElementSpacing="2 2 2"), "fixed image", notes)
    assert image.GetSpacing() == pytest.approx((0.002,) * 3)
    assert "is stated in um" in notes[0]


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("TransformMatrix", "1 0 0 0.447 0.894 0 0 0 1", "slanted slices: its header .* 26.6 degrees"),
        ("DistanceUnits", "parsec", "unit of length as 'parsec'"),
        ("DimSize", "1000000 1000000 1000000", "promises 1000000"),
        ("NDims", "-3", "states -3 dimensions"),
        ("NDims", "1000000000", "states 1000000000 dimensions"),
        ("ElementDataFile", "/dev/zero", "should lie in '/dev/zero'"),
        ("ElementDataFile", "%s%s%n.raw 1 5 1", "which is no pattern"),
        ("Comment", "x" * 1_000_000, "could not be read"),
    ],
)
def test_a_meta_image_header_that_cannot_be_followed_is_refused(tmp_path: Path, field: str, value: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        read_image(meta_image(tmp_path / "a.mha", **{field: value}), "moving image")


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (1.00002, "rounded"), (1.0009, "rounded"), (1.0011, "not whole numbers"), (NAN, "not whole numbers"),
        (float("inf"), "not whole numbers"), (1e30, "has a label above"), (-1.0, "negative labels"), (65536.0, ""),
    ],
)  # fmt: skip
def test_labels_a_hair_beside_whole_numbers_are_rounded_and_others_refused(tmp_path: Path, values: float, match: str) -> None:
    grid = Geometry((6, 5, 7), (2.0, 2.0, 2.0))
    voxels = np.zeros((7, 5, 6))
    voxels[2:4] = values
    sitk.WriteImage(grid.apply_to(sitk.GetImageFromArray(voxels)), str(tmp_path / "labels.nrrd"))
    if match not in ("rounded", ""):
        with pytest.raises(InputError, match=match):
            read_labels(tmp_path / "labels.nrrd", grid, "fixed labels")
        return
    notes: list[str] = []
    labels = read_labels(tmp_path / "labels.nrrd", grid, "fixed labels", notes)
    assert np.unique(sitk.GetArrayFromImage(labels)).tolist() == [0, round(values)]
    assert [match in note for note in notes] == ([True] if match else [])


def test_slopes_of_labels_in_nifti_are_rounded(tmp_path: Path) -> None:
    grid = Geometry((6, 5, 7), (2.0, 2.0, 2.0), (9.0, 8.0, -7.0), (-1.0, 0, 0, 0, -1, 0, 0, 0, 1))
    path = Nifti(UPRIGHT, slope=1.00002).write(tmp_path / "labels.nii", ramp(6, 5, 7) % 7)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_labels(path, grid, "fixed labels")).T, ramp(6, 5, 7) % 7)
