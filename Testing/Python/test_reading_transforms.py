"""Transform files of every kind: sizes that lie do not end the process, and fields are taken for what their headers say."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.images import read_image
from HyperPredictRegLib.spatial.reading import transform_files
from HyperPredictRegLib.spatial.transforms import field_transform, read_transform, transformed_points
from reading_samples import IN_PLACE, SLANTED, UPRIGHT, Nifti, nrrd

SIZE = (6, 5, 7)
GRID = Geometry(SIZE, (2.0, 2.0, 2.0), (9.0, 8.0, -7.0), (-1.0, 0, 0, 0, -1, 0, 0, 0, 1))
POINTS = GRID.to_lps(np.array([[1.0, 2, 3], [2.5, 1.25, 4.75], [4, 3, 5.5]]))
AXES = "1 0 0 0 1 0 0 0 1"


def ras_places() -> np.ndarray:
    """Return the position of each voxel [i, j, k, 1, xyz] of `UPRIGHT`, RAS mm."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in SIZE], indexing="ij"), -1)
    rows = np.array(UPRIGHT)
    return (index @ rows[:, :3].T + rows[:, 3])[:, :, :, None, :]


def linear_displacement(places: np.ndarray) -> np.ndarray:
    """Return a displacement in RAS mm for each place; linear, so that it is exact between voxels too."""
    return places @ np.array([[0.1, 0.02, 0], [0, -0.05, 0.1], [0.03, 0, 0.2]]) + (1.0, -2.0, 0.5)


def expected() -> np.ndarray:
    ras = POINTS * (-1, -1, 1)
    return (ras + linear_displacement(ras)) * (-1, -1, 1)


def niftyreg(path: Path, vectors: np.ndarray, kind: float, **changes: object) -> Path:
    return Nifti(intent=1007, intent_name=b"NREG_TRANS", intent_p1=kind, **changes).write(path, vectors)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["f.nii", "f.nii.gz"])
def test_niftyreg_positions_that_stay_are_the_identity(tmp_path: Path, name: str) -> None:
    notes: list[str] = []
    transform = read_transform(niftyreg(tmp_path / name, ras_places(), 0), "transform", notes)
    np.testing.assert_allclose(transformed_points(transform, POINTS), POINTS, atol=1e-9)
    assert "deformation field by NiftyReg: positions in RAS mm" in notes[0]


def test_niftyreg_fields_are_taken_for_what_they_are(tmp_path: Path) -> None:
    displacements = linear_displacement(ras_places())
    for kind, vectors in ((0, ras_places() + displacements), (1, displacements)):
        transform = read_transform(niftyreg(tmp_path / f"{kind}.nii", vectors, kind), "transform")
        np.testing.assert_allclose(transformed_points(transform, POINTS), expected(), atol=1e-5)


def test_a_deformation_by_spm_is_taken_for_positions(tmp_path: Path) -> None:
    vectors = ras_places() + linear_displacement(ras_places())
    path = Nifti(intent=1007, intent_name=b"Mapping").write(tmp_path / "y_one.nii", vectors)
    np.testing.assert_allclose(transformed_points(read_transform(path, "transform"), POINTS), expected(), atol=1e-5)


@pytest.mark.parametrize(
    ("header", "match"),
    [
        (Nifti(intent=1007, intent_name=b"NREG_TRANS", intent_p1=2), "is a cubic B-spline grid by NiftyReg"),
        (Nifti(intent=1007, intent_name=b"NREG_TRANS", intent_p1=3), "is a velocity field .* by NiftyReg"),
        (Nifti(intent=1007, intent_name=b"NREG_TRANS", intent_p1=4), "is a velocity field .* by NiftyReg"),
        (Nifti(intent=1007, intent_name=b"NREG_TRANS", intent_p1=5), "B-spline grid of velocities by NiftyReg"),
        (Nifti(intent=1007, intent_name=b"NREG_TRANS", intent_p1=6), "linear spline grid by NiftyReg"),
        (Nifti(intent=1007, intent_name=b"NREG_TRANS", intent_p1=0.5), "a file of the kind 'NREG_TRANS', 0.5"),
        (Nifti(intent=1007, intent_name=b"NREG_TRANS", intent_p1=float("nan")), "a file of the kind 'NREG_TRANS', nan"),
        (Nifti(intent=1007, intent_name=b"NREG_CPP_FILE"), "a file of the kind 'NREG_CPP_FILE'"),
        (Nifti(intent=1007, intent_name=b"NREG_VEL_STEP", intent_p1=6), "a file of the kind 'NREG_VEL_STEP'"),
        (Nifti(intent=2006), "an FSL displacement field"),
        (Nifti(intent=2007), "FSL's cubic spline"),
        (Nifti(SLANTED, intent=1007, intent_name=b"NREG_TRANS"), "slanted slices"),
        (Nifti(qform=(*IN_PLACE[:5], -6.0), intent=1007, intent_name=b"NREG_TRANS"), "two placements, sform and qform"),
        (Nifti(units=3, intent=1007), "another unit than millimeters"),
    ],
)
def test_vectors_that_are_no_field_are_refused_by_name(tmp_path: Path, header: Nifti, match: str) -> None:
    with pytest.raises(InputError, match=match):
        read_transform(header.write(tmp_path / "f.nii", ras_places()), "transform")


@pytest.mark.parametrize("name", ["f.nii", "f.nii.gz", "f.nrrd", "f.mha"])
def test_displacements_by_itk_and_ants_are_read_as_before(tmp_path: Path, name: str) -> None:
    vectors = np.random.default_rng(3).normal(size=(*SIZE[::-1], 3))
    field = GRID.apply_to(sitk.GetImageFromArray(vectors, isVector=True))
    sitk.WriteImage(field, str(tmp_path / name))
    notes: list[str] = []
    transform = read_transform(tmp_path / name, "transform", notes)
    np.testing.assert_allclose(
        transformed_points(transform, POINTS), transformed_points(field_transform(field), POINTS), atol=1e-5
    )
    assert notes == []


def test_displacements_of_intent_1006_are_read_as_itk_reads_them(tmp_path: Path) -> None:
    path = Nifti(intent=1006).write(tmp_path / "f.nii", linear_displacement(ras_places()))
    np.testing.assert_allclose(transformed_points(read_transform(path, "transform"), POINTS), expected(), atol=1e-5)


def test_a_field_in_micrometers_is_refused(tmp_path: Path) -> None:
    lines = (
        "type: float", "dimension: 4", "sizes: 3 5 5 5", "kinds: vector domain domain domain", "endian: little", "encoding: raw",
        "space: left-posterior-superior", "space directions: none (1,0,0) (0,1,0) (0,0,1)", 'space units: "um" "um" "um"',
    )  # fmt: skip
    with pytest.raises(InputError, match="another unit than millimeters"):
        read_transform(nrrd(tmp_path / "f.nrrd", body=lines, data=bytes(1500)), "transform")


def text(path: Path, kind: str, parameters: str, fixed: str) -> Path:
    top = f"#Insight Transform File V1.0\n#Transform 0\nTransform: {kind}_double_3_3\n"
    path.write_text(f"{top}Parameters: {parameters}\nFixedParameters: {fixed}\n")
    return path


@pytest.mark.parametrize(
    ("kind", "grid", "match"),
    [
        ("BSplineTransform", "1e9 1e9 1e9", "a grid of 1e\\+09 x 1e\\+09 x 1e\\+09 points, but holds 3 parameters"),
        ("BSplineTransform", "1000 1000 1000", "a grid of 1000 x 1000 x 1000 points"),
        ("BSplineTransform", "-8 8 8", "a grid of '-8' points"),
        ("BSplineTransform", "nan 8 8", "a grid of 'nan' points"),
        ("BSplineTransform", "1e400 8 8", "a grid of '1e400' points"),
        ("DisplacementFieldTransform", "100000 100000 1000", "a grid of 100000 x 100000 x 1000 points"),
    ],
)
def test_a_grid_of_absurd_size_is_refused_in_text_and_mat(tmp_path: Path, kind: str, grid: str, match: str) -> None:
    for suffix in (".tfm", ".txt"):
        with pytest.raises(InputError, match=match):
            read_transform(text(tmp_path / f"a{suffix}", kind, "0 0 0", f"{grid} 0 0 0 1 1 1 {AXES}"), "transform")
    numbers = [float(word) for word in f"{grid} 0 0 0 1 1 1 {AXES}".split()]
    title = f"{kind}_double_3_3".encode() + b"\0"
    records = struct.pack("<5i", 0, 3, 1, 0, len(title)) + title + struct.pack("<3d", 0, 0, 0)
    records += struct.pack("<5i", 0, 18, 1, 0, 6) + b"fixed\0" + struct.pack("<18d", *numbers)
    (tmp_path / "a.mat").write_bytes(records)
    with pytest.raises(InputError, match="is damaged: it states a grid of"):
        read_transform(tmp_path / "a.mat", "transform")


def test_a_part_of_a_composite_is_checked_too(tmp_path: Path) -> None:
    good = text(tmp_path / "a.tfm", "AffineTransform", "1 0 0 0 1 0 0 0 1 0 0 0", "0 0 0").read_text()
    bad = text(tmp_path / "b.tfm", "BSplineTransform", "0 0 0", f"1e9 1e9 1e9 0 0 0 1 1 1 {AXES}").read_text()
    (tmp_path / "c.tfm").write_text(good + bad.partition("\n")[2])
    with pytest.raises(InputError, match="a grid of 1e"):
        read_transform(tmp_path / "c.tfm", "transform")


@pytest.fixture(scope="module")
def spline() -> sitk.Transform:
    return sitk.BSplineTransformInitializer(GRID.apply_to(sitk.Image(SIZE, sitk.sitkFloat32)), [4, 4, 4])


@pytest.mark.parametrize("suffix", [".h5", ".tfm", ".mat", ".txt"])
def test_a_true_spline_is_read(tmp_path: Path, spline: sitk.Transform, suffix: str) -> None:
    spline.SetParameters(np.random.default_rng(1).normal(size=len(spline.GetParameters())).tolist())
    sitk.WriteTransform(spline, str(tmp_path / f"s{suffix}"))
    found = transformed_points(read_transform(tmp_path / f"s{suffix}", "transform"), POINTS)
    np.testing.assert_allclose(found, transformed_points(spline, POINTS), atol=1e-9)


@pytest.mark.parametrize("size", [1e9, 3000.0])
def test_a_grid_of_absurd_size_is_refused_in_hdf5(tmp_path: Path, spline: sitk.Transform, size: float) -> None:
    path = tmp_path / "s.h5"
    sitk.WriteTransform(spline, str(path))
    raw = path.read_bytes()
    true = struct.pack("<3d", 7, 7, 7)
    assert raw.count(true) == 1
    path.write_bytes(raw.replace(true, struct.pack("<3d", size, size, size)))
    with pytest.raises(InputError, match=r"The start '.*s\.h5' is damaged: the grid of its B-spline"):
        read_transform(path, "start")


@pytest.mark.parametrize("field", range(1, 5))
@pytest.mark.parametrize("value", [-1, 13, 2_000_000_000])
def test_a_mat_file_that_lies_of_its_sizes_is_refused(tmp_path: Path, field: int, value: int) -> None:
    path = tmp_path / "a.mat"
    sitk.WriteTransform(sitk.AffineTransform(3), str(path))
    raw = bytearray(path.read_bytes())
    struct.pack_into("<i", raw, 4 * field, value)
    path.write_bytes(raw)
    with pytest.raises(InputError, match="is damaged"):
        read_transform(path, "transform")


@pytest.mark.parametrize("suffix", [".h5", ".mat", ".tfm"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_transform_that_is_cut_short_is_refused(tmp_path: Path, spline: sitk.Transform, suffix: str, share: float) -> None:
    path = tmp_path / f"s{suffix}"
    sitk.WriteTransform(spline, str(path))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(InputError, match=r"transform '.*' (is damaged|could not be read)"):
        read_transform(path, "transform")


@pytest.mark.parametrize("missing", ["Parameters", "FixedParameters"])
def test_parameters_that_itk_would_pass_over_are_missed(tmp_path: Path, missing: str) -> None:
    path = text(tmp_path / "a.tfm", "AffineTransform", "1 0 0 0 1 0 0 0 1 9 9 9", "0 0 0")
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if not line.startswith(missing)))
    with pytest.raises(InputError, match=f"AffineTransform_double_3_3 has no {missing}"):
        read_transform(path, "transform")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tfm"
    top = b"#Insight Transform File V1.0\nTransform: \xff\xfe\xfdTransform_double_3_3\n"
    path.write_bytes(top + b"Parameters: \xff\nFixedParameters:\n")
    with pytest.raises(InputError, match="could not be read"):
        read_transform(path, "transform")


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [("Euler3DTransform", "0 0 0 1 2 3 4"), ("Euler3DTransform", "0 0 0 1 2"), ("TranslationTransform", "1 2 3 4")],
)
def test_more_or_fewer_parameters_than_a_transform_has_are_refused(tmp_path: Path, kind: str, parameters: str) -> None:
    match = f"its {kind}_double_3_3 has {len(parameters.split())} parameters instead of"
    with pytest.raises(InputError, match=match):
        read_transform(text(tmp_path / "a.tfm", kind, parameters, "0 0 0"), "transform")


def test_every_linear_kind_has_the_parameters_that_are_asked_of_it(tmp_path: Path) -> None:
    kinds = [
        sitk.AffineTransform(3), sitk.Euler3DTransform(), sitk.ScaleSkewVersor3DTransform(), sitk.ScaleTransform(3),
        sitk.ScaleVersor3DTransform(), sitk.Similarity3DTransform(), sitk.TranslationTransform(3), sitk.VersorRigid3DTransform(),
        sitk.VersorTransform(), sitk.Transform(3, sitk.sitkIdentity),
    ]  # fmt: skip
    for kind in kinds:
        sitk.WriteTransform(kind, str(tmp_path / "a.tfm"))
        assert read_transform(tmp_path / "a.tfm", "transform").GetName() == kind.GetName()


def test_a_kind_that_simpleitk_does_not_know_is_told(tmp_path: Path) -> None:
    odd = sitk.ComposeScaleSkewVersor3DTransform()
    for transform in (odd, sitk.CompositeTransform([sitk.AffineTransform(3), odd])):
        sitk.WriteTransform(transform, str(tmp_path / "a.tfm"))
        with pytest.raises(InputError, match="of a kind that SimpleITK does not know"):
            read_transform(tmp_path / "a.tfm", "transform")


def test_a_composite_of_nothing_is_not_taken_for_the_identity(tmp_path: Path) -> None:
    for name in ("a.tfm", "a.h5"):
        sitk.WriteTransform(sitk.CompositeTransform(3), str(tmp_path / name))
        with pytest.raises(InputError, match="is a composite of no transforms"):
            read_transform(tmp_path / name, "transform")


@pytest.mark.parametrize("points", [1, 3])
def test_a_spline_without_a_cell_is_refused(tmp_path: Path, points: int) -> None:
    fixed = f"{points} {points} {points} 0 0 0 1 1 1 {AXES}"
    path = text(tmp_path / "a.tfm", "BSplineTransform", " ".join(["0"] * (3 * points**3)), fixed)
    with pytest.raises(InputError, match=f"B-spline of {points} x {points} x {points} points, but one of order 3 needs 4"):
        read_transform(path, "transform")


def test_damaged_hdf5_is_read_elsewhere_and_told_in_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sitk.WriteTransform(sitk.AffineTransform(3), str(tmp_path / "whole.h5"))
    content = (tmp_path / "whole.h5").read_bytes()
    (tmp_path / "half.h5").write_bytes(content[: len(content) // 2])
    for reader in (read_transform, read_image):
        with pytest.raises(InputError, match=r"half\.h5' is damaged: what it holds cannot be read"):
            reader(tmp_path / "half.h5", "input")
    assert capfd.readouterr() == ("", "")


def test_what_ends_the_trial_does_not_end_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sitk.WriteTransform(sitk.AffineTransform(3), str(tmp_path / "a.h5"))
    monkeypatch.setattr(transform_files, "_TRIAL", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(InputError, match=r"a\.h5' is damaged"):
        read_transform(tmp_path / "a.h5", "transform")
    assert read_transform(tmp_path / "a.h5", "transform", own=True).IsLinear()
