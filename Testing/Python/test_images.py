"""Reading and writing: formats round trip, and whatever cannot be registered is refused with a sentence."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import blob_image, blob_labels
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.images import file_sha256, read_header, read_image, read_labels, read_mask, write_image
from HyperPredictRegLib.spatial.labels import label_extents, names_given_twice, renumbered_like

LEFT_HANDED = Geometry((9, 8, 7), (1.0, 1.5, 3.0), (5.0, -4.0, 3.0), (-1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))


def ramp(grid: Geometry, kind: type) -> sitk.Image:
    voxels = np.arange(grid.voxel_count).reshape(grid.size[::-1]) % 120
    return grid.apply_to(sitk.GetImageFromArray(voxels.astype(kind)))


@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz", ".nii", ".mha"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("geometry", ["oblique", "left-handed"])
def test_voxels_and_geometry_survive_a_file(
    tmp_path: Path, oblique: Geometry, suffix: str, kind: type, geometry: str
) -> None:
    grid = oblique if geometry == "oblique" else LEFT_HANDED
    image = ramp(grid, kind)
    write_image(image, tmp_path / f"image{suffix}")
    again = read_image(tmp_path / f"image{suffix}", "fixed image")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(again), sitk.GetArrayFromImage(image))
    assert Geometry.of(again).matches(grid, tolerance_voxels=1e-4)
    assert again.GetPixelID() == image.GetPixelID()


def test_a_dicom_folder_is_read_as_one_volume(tmp_path: Path) -> None:
    image = ramp(Geometry((16, 15, 6), (0.8, 0.8, 2.5), (1.0, 2.0, 3.0)), np.int16)
    write_dicom_series(image, tmp_path, "1.2.826.0.1.3680043.2.1125.1")
    again = read_image(tmp_path, "fixed image")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(again), sitk.GetArrayFromImage(image))
    np.testing.assert_allclose(again.GetSpacing(), image.GetSpacing(), atol=1e-6)
    assert read_header(tmp_path, "fixed image").size == (16, 15, 6)


def test_two_dicom_series_in_one_folder_are_refused(tmp_path: Path) -> None:
    image = ramp(Geometry((16, 15, 6), (0.8, 0.8, 2.5)), np.int16)
    for number in (1, 2):
        write_dicom_series(image, tmp_path, f"1.2.826.0.1.3680043.2.1125.{number}")
    with pytest.raises(InputError, match="2 DICOM series"):
        read_image(tmp_path, "fixed image")


def write_dicom_series(image: sitk.Image, folder: Path, series: str) -> None:
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(image.GetSize()[2]):
        piece = image[:, :, k]
        position = "\\".join(str(v) for v in image.TransformIndexToPhysicalPoint((0, 0, k)))
        tags = {
            "0008|0060": "MR",
            "0020|000e": series,
            "0020|000d": f"{series}.0",
            "0020|0013": str(k),
            "0008|0018": f"{series}.9.{k}",
            "0020|0032": position,
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0018|0050": str(image.GetSpacing()[2]),
        }
        for tag, value in tags.items():
            piece.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{series}-{k}.dcm"))
        writer.Execute(piece)


def bad_image(name: str) -> sitk.Image:
    good = blob_image(Geometry((12, 12, 12), (1.0, 1.0, 1.0)))
    voxels = sitk.GetArrayFromImage(good)
    if name == "nan":
        voxels[3, 4, 5] = np.nan
        return sitk.GetImageFromArray(voxels)
    if name == "inf":
        voxels[3, 4, 5] = np.inf
        return sitk.GetImageFromArray(voxels)
    return {
        "2-D": good[:, :, 5],
        "4-D": sitk.JoinSeries([good, good]),
        "vector": sitk.Compose(good, good),
        "constant": good * 0 + 3,
        "thin": good[:, :, 5:6],
        "complex": sitk.RealAndImaginaryToComplex(good, good),
    }[name]


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("nan", "1 voxels that are NaN or infinite"),
        ("inf", "1 voxels that are NaN or infinite"),
        ("2-D", "is 2-D: only 3-D"),
        ("4-D", "is 4-D with 2 frames"),
        ("vector", "2 values per voxel"),
        ("constant", "is constant: every voxel is 3"),
        ("thin", "at least 4 are needed"),
        ("complex", "complex"),
    ],
)
def test_an_image_that_cannot_be_registered_is_refused(tmp_path: Path, name: str, match: str) -> None:
    sitk.WriteImage(bad_image(name), str(tmp_path / "bad.nrrd"))
    with pytest.raises(InputError, match=match) as caught:
        read_header(tmp_path / "bad.nrrd", "moving image")
        read_image(tmp_path / "bad.nrrd", "moving image")
    assert "bad.nrrd" in str(caught.value)
    assert "moving image" in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["missing.nrrd", "text.nrrd", "cut.nii.gz", "cut.nii", "cut.nrrd", "cut.mha", "empty-folder", "zero-spacing.mha"],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "text.nrrd":
        path.write_text("this is no image")
    elif name.startswith("cut"):
        whole = tmp_path / name.replace("cut", "whole")
        sitk.WriteImage(blob_image(Geometry((12, 12, 12), (1.0, 1.0, 1.0))), str(whole))
        path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    elif name == "empty-folder":
        path.mkdir()
    elif name == "zero-spacing.mha":
        lines = "ObjectType = Image\nNDims = 3\nDimSize = 5 5 5\nElementSpacing = 1 0 1\n"
        path.write_bytes(f"{lines}ElementType = MET_UCHAR\nElementDataFile = LOCAL\n".encode() + bytes(range(125)))
    with pytest.raises(InputError, match="fixed image"):
        read_image(path, "fixed image")


@pytest.mark.parametrize("name", ["zero.nii", "negative.nii.gz", "negative.mha", "zero.mha", "negative.nrrd"])
def test_a_spacing_that_is_not_above_zero_is_refused(tmp_path: Path, name: str) -> None:
    value = -2.0 if name.startswith("negative") else 0.0
    path = tmp_path / name
    sitk.WriteImage(blob_image(Geometry((12, 12, 12), (1.0, 1.0, 1.0))), str(path))
    if ".nii" in name:
        content = bytearray(gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes())
        struct.pack_into("<f", content, 84, value)
        path.write_bytes(gzip.compress(bytes(content)) if name.endswith(".gz") else bytes(content))
    elif name.endswith(".mha"):
        path.write_bytes(path.read_bytes().replace(b"ElementSpacing = 1 1 1", f"ElementSpacing = 1 {value:g} 1".encode()))
    else:
        header = f"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 5 5 5\nspacings: 1 {value:g} 1\nencoding: raw\n\n"
        path.write_bytes(header.encode() + bytes(range(125)))
    with pytest.raises(InputError, match=f"1 x {value:g} x 1 mm: it must be above 0"):
        read_image(path, "fixed image")


def test_a_four_dimensional_file_with_one_frame_is_a_volume(tmp_path: Path) -> None:
    image = blob_image(Geometry((12, 11, 10), (1.0, 1.0, 1.0)))
    sitk.WriteImage(sitk.JoinSeries([image]), str(tmp_path / "one.nrrd"))
    assert read_image(tmp_path / "one.nrrd", "fixed image").GetSize() == (12, 11, 10)


def test_labels_stored_as_floats_are_read_as_whole_numbers(tmp_path: Path, oblique: Geometry) -> None:
    labels = blob_labels(blob_image(oblique))
    sitk.WriteImage(sitk.Cast(labels, sitk.sitkFloat32), str(tmp_path / "labels.nii.gz"))
    again = read_labels(tmp_path / "labels.nii.gz", oblique, "fixed labels")
    assert again.GetPixelID() == sitk.sitkUInt16
    np.testing.assert_array_equal(sitk.GetArrayFromImage(again), sitk.GetArrayFromImage(labels))


def test_labels_cropped_to_their_extent_are_put_back_on_the_grid(tmp_path: Path, oblique: Geometry) -> None:
    labels = blob_labels(blob_image(oblique))
    sitk.WriteImage(labels[5:24, 4:20, 3:18], str(tmp_path / "cropped.nrrd"))
    again = read_labels(tmp_path / "cropped.nrrd", oblique, "fixed labels")
    assert Geometry.of(again).matches(oblique)
    expected = sitk.GetArrayFromImage(labels)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(again)[3:18, 4:20, 5:24], expected[3:18, 4:20, 5:24])


@pytest.mark.parametrize(
    ("voxels", "match"),
    [
        (np.full((20, 24, 28), 0, np.uint8), "no labelled voxel"),
        (np.full((20, 24, 28), -2, np.int16), "negative labels"),
        (np.full((20, 24, 28), 0.5, np.float32), "not whole numbers"),
    ],
)
def test_bad_labels_are_refused(tmp_path: Path, oblique: Geometry, voxels: np.ndarray, match: str) -> None:
    sitk.WriteImage(oblique.apply_to(sitk.GetImageFromArray(voxels)), str(tmp_path / "labels.nrrd"))
    with pytest.raises(InputError, match=match):
        read_labels(tmp_path / "labels.nrrd", oblique, "fixed labels")


def test_labels_and_masks_of_another_grid_are_refused(tmp_path: Path, oblique: Geometry) -> None:
    other = Geometry(oblique.size, oblique.spacing, (0.0, 0.0, 0.0), oblique.direction)
    sitk.WriteImage(other.apply_to(sitk.Image(oblique.size, sitk.sitkUInt8) + 1), str(tmp_path / "other.nrrd"))
    with pytest.raises(InputError, match="does not lie on the grid"):
        read_labels(tmp_path / "other.nrrd", oblique, "moving labels")
    with pytest.raises(InputError, match="does not lie on the grid"):
        read_mask(tmp_path / "other.nrrd", oblique, "moving mask")


def test_an_empty_mask_is_refused(tmp_path: Path, oblique: Geometry) -> None:
    sitk.WriteImage(oblique.apply_to(sitk.Image(oblique.size, sitk.sitkUInt8)), str(tmp_path / "mask.nrrd"))
    with pytest.raises(InputError, match="no voxel set"):
        read_mask(tmp_path / "mask.nrrd", oblique, "fixed mask")


def test_any_value_but_zero_is_inside_a_mask(tmp_path: Path, oblique: Geometry) -> None:
    labels = blob_labels(blob_image(oblique))
    sitk.WriteImage(labels, str(tmp_path / "mask.nrrd"))
    mask = sitk.GetArrayFromImage(read_mask(tmp_path / "mask.nrrd", oblique, "fixed mask"))
    np.testing.assert_array_equal(mask, sitk.GetArrayFromImage(labels) != 0)


def test_an_unfinished_write_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, oblique: Geometry) -> None:
    def cut(image: sitk.Image, name: str, useCompression: bool) -> None:  # noqa: N803 - SimpleITK's own name
        Path(name).write_bytes(gzip.compress(b"half"))

    monkeypatch.setattr(sitk, "WriteImage", cut)
    with pytest.raises(OSError, match=r"image\.nrrd"):
        write_image(blob_image(oblique), tmp_path / "image.nrrd")


def test_file_sha256_is_the_standard_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def named_labels(names: dict[int, str], grid: Geometry = LEFT_HANDED) -> sitk.Image:
    """Return slabs with these labels from the first plane up, named as 3D Slicer names them in a file."""
    voxels = np.zeros(grid.size[::-1], dtype=np.uint16)
    for place, label in enumerate(names):
        voxels[place + 1] = label
    image = grid.apply_to(sitk.GetImageFromArray(voxels))
    for number, (label, name) in enumerate(names.items()):
        image.SetMetaData(f"Segment{number}_Name", name)
        image.SetMetaData(f"Segment{number}_LabelValue", str(label))
    return image


@pytest.mark.parametrize(
    ("fixed", "moving", "planes"),
    [
        ({1: "Left-Hippocampus", 2: "cyst"}, {1: "left hippocampus", 3: "right hippocampus"}, [1, 2]),
        ({2: "Left-Hippocampus", 1: "cyst"}, {1: "left hippocampus", 3: "right hippocampus"}, [1, 4]),
        ({5: "right hippocampus", 3: "cyst"}, {3: "Hippocampus (R)"}, [3, 6]),
        ({1: "Segment_1", 2: "Segment_2"}, {1: "Segment_1", 2: "Segment-2"}, [1, 3]),
        ({5: "Liver", 4: "liver"}, {4: "liver"}, [5, 4]),
        ({4: "Liver", 5: "LIVER"}, {4: "liver"}, [6, 5]),
    ],
    ids=["by value", "renumbered", "value taken", "placeholders", "exactly one", "ambiguous"],
)
def test_fixed_labels_are_numbered_by_name_as_the_moving_ones(fixed, moving, planes) -> None:
    found, names, notes = renumbered_like(named_labels(fixed), named_labels(moving))
    voxels = sitk.GetArrayViewFromImage(found)
    assert [int(voxels[n + 1].min()) for n in range(2)] == [int(voxels[n + 1].max()) for n in range(2)] == planes
    assert names.items() >= moving.items()
    assert set(names) == {*moving, *planes}
    assert bool(notes) is (planes != list(fixed))


def test_labels_without_names_stay_as_they_are_unless_their_value_is_needed() -> None:
    fixed = named_labels({2: "liver", 7: "spleen", 9: "?"})
    fixed.EraseMetaData("Segment2_Name")
    fixed.EraseMetaData("Segment2_LabelValue")
    found, names, notes = renumbered_like(fixed, named_labels({9: "Liver", 7: "SPLEEN"}))
    assert np.unique(sitk.GetArrayViewFromImage(found)).tolist() == [0, 7, 9, 10]
    assert names == {7: "SPLEEN", 9: "Liver"}
    assert notes[0].startswith("2 of the fixed labels were given other values, such as 9 in place of 2 to 'liver'")


def test_a_label_with_two_names_is_told() -> None:
    assert names_given_twice({1: "Left-Putamen", 2: "cyst", 3: "x"}, {1: "putamen left", 2: "tumor", 4: "y"}) == (
        "The label 2 is called 'cyst' in the segmentation and 'tumor' in the table of label names: the table counts.",
    )


@pytest.mark.parametrize("high", [300, 100_000], ids=["few", "many"])
def test_extents_of_labels(high: int) -> None:
    voxels = np.zeros((5, 6, 7), dtype=np.uint32)
    voxels[1:3, 2, 4:] = high
    voxels[4, 0, 0] = 2
    assert label_extents(voxels) == {2: (slice(4, 5), slice(0, 1), slice(0, 1)), high: (slice(1, 3), slice(2, 3), slice(4, 7))}
    assert label_extents(np.zeros((2, 2, 2), dtype=np.uint8)) == {}
