"""Transforms applied to what need not be registrable: small and empty things, holes, segmentations, points, other scales."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.results import results_folder
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.points import read_points, write_points
from HyperPredictRegLib.spatial.transforms import composed, field_transform, transformed_points
from HyperPredictRegLib.workflow import applying
from HyperPredictRegLib.workflow.applying import Application, Applied, apply
from scipy.ndimage import gaussian_filter

GRID = Geometry((24, 22, 20), (2.0, 2.5, 3.0), (-20.0, 11.0, 5.0), (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
Z, Y, X = np.indices(GRID.size[::-1])
BALL = ((X - 11) ** 2 + (Y - 11) ** 2 + (Z - 10) ** 2 < 36).astype(np.int16)


def on_grid(voxels: np.ndarray, grid: Geometry = GRID, is_vector: bool = False) -> sitk.Image:
    return grid.apply_to(sitk.GetImageFromArray(voxels, isVector=is_vector))


def shifted(i: float = 0.0) -> Geometry:
    """Return the grid moved by so many of its voxels along its first axis."""
    return Geometry(GRID.size, GRID.spacing, tuple(GRID.to_lps([i, 0.0, 0.0]).tolist()), GRID.direction)


class Folder:
    """A folder with a reference, an identity and what is to be applied to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        sitk.WriteImage(on_grid(BALL * 100), str(path / "reference.nrrd"))
        sitk.WriteTransform(sitk.AffineTransform(3), str(path / "identity.tfm"))

    def put(self, name: str, image: sitk.Image) -> str:
        sitk.WriteImage(image, str(self.path / name))
        return str(self.path / name)

    def apply(self, transform: str = "identity.tfm", *, overwrite: bool = False, backward: bool = False, reference: str | None =
              "reference.nrrd", out: str = "out", **items: str | tuple[str, ...]) -> Applied:  # fmt: skip
        given = {kind: (one,) if isinstance(one, str) else one for kind, one in items.items()}
        where = None if reference is None else str(self.path / reference)
        task = Application(str(self.path / transform), str(self.path / out), **given, reference=where, backward=backward)
        return apply(task, overwrite=overwrite)

    def voxels(self, name: str) -> np.ndarray:
        return sitk.GetArrayFromImage(sitk.ReadImage(str(self.path / "out" / name)))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


ANY = {
    "one voxel": np.where((X == 9) & (Y == 8) & (Z == 7), 1, 0).astype(np.uint8),
    "empty": np.zeros(BALL.shape, dtype=np.uint8),
    "constant": np.full(BALL.shape, 7, dtype=np.int16),
    "constant, real": np.full(BALL.shape, -1.5, dtype=np.float32),
    "one slice": BALL[:1],
    "a line": BALL[:1, :1],
    "noise": np.random.default_rng(0).normal(size=BALL.shape).astype(np.float32),
    "64 bits": BALL.astype(np.int64) * 2**40,
    "huge": (BALL * 1e35).astype(np.float32),
    "tiny": BALL * 1e-300,
}


@pytest.mark.parametrize("voxels", ANY.values(), ids=ANY.keys())
def test_any_finite_image_can_be_applied(folder: Folder, voxels: np.ndarray) -> None:
    grid = Geometry(voxels.shape[::-1], GRID.spacing, GRID.origin, GRID.direction)
    name = folder.put("thing.nrrd", on_grid(voxels, grid))
    done = folder.apply(images=name)
    found = folder.voxels("thing-warped.nrrd")
    inside = tuple(slice(0, n) for n in voxels.shape)
    assert found.dtype == voxels.dtype and found.shape == BALL.shape
    np.testing.assert_array_equal(found[inside], voxels)
    assert not done.warnings
    # Each is a reference, too.
    assert folder.apply(images=str(folder.path / "reference.nrrd"), reference="thing.nrrd", out="other").files


LABELS = {
    "one voxel": ANY["one voxel"],
    "empty": ANY["empty"],
    "negative": -BALL,
    "real": BALL.astype(np.float64) * 3,
    "with a slope": (BALL * 1.00002).astype(np.float32),
    "64 bits": BALL.astype(np.uint64) * 2**33,
}


@pytest.mark.parametrize("voxels", LABELS.values(), ids=LABELS.keys())
def test_any_label_map_can_be_applied(folder: Folder, voxels: np.ndarray) -> None:
    done = folder.apply(labels=folder.put("parts.nii.gz", on_grid(voxels)))
    found = folder.voxels("parts-warped.nrrd")
    np.testing.assert_array_equal(found, np.rint(voxels))
    assert found.dtype.kind in "iu" and not done.warnings


WRONG = {
    "fractions": ("labels", on_grid(BALL * 0.5), "not whole numbers"),
    "labels of NaN": ("labels", on_grid(np.where(BALL, np.nan, 0.0)), "NaN, infinite"),
    "vector labels": ("labels", on_grid(np.stack([BALL, BALL], axis=-1), is_vector=True), "2 values per voxel"),
    "color": ("images", on_grid(np.stack([BALL] * 3, axis=-1), is_vector=True), "3 values per voxel"),
    "complex": ("images", on_grid(BALL.astype(np.complex64)), "complex"),
    "2-D": ("images", sitk.GetImageFromArray(BALL[10]), "2-D"),
    "4-D": ("images", sitk.JoinSeries([on_grid(BALL)] * 2), "4-D"),
}


@pytest.mark.parametrize(("kind", "image", "reason"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_applied_is_said_and_nothing_is_written(folder: Folder, kind: str, image: sitk.Image, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        folder.apply(**{kind: folder.put("thing.nrrd", image)})
    assert not (folder.path / "out").exists()


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf])
def test_holes_stay_holes_and_do_not_spread(folder: Folder, hole: float) -> None:
    voxels = np.where((X > 8) & (X < 12) & (Y > 8) & (Y < 12), hole, 5.0 + X).astype(np.float32)
    sitk.WriteTransform(sitk.TranslationTransform(3, (GRID.to_lps([0.25, 0, 0]) - GRID.to_lps([0, 0, 0])).tolist()),
                        str(folder.path / "quarter.tfm"))
    folder.apply("quarter.tfm", images=folder.put("map.nrrd", on_grid(voxels)))
    found = folder.voxels("map-warped.nrrd")
    np.testing.assert_array_equal(np.isfinite(found)[:, :, :-1], np.isfinite(voxels)[:, :, :-1])
    far = np.isfinite(voxels) & ((X < 7) | ((X > 13) & (X < 23)))
    np.testing.assert_allclose(found[far], voxels[far] + 0.25, atol=1e-5)


def segmentation(layers: int = 1, **fields: str) -> sitk.Image:
    """Return a segmentation with all the header fields that Slicer writes, of one or two layers."""
    one = (BALL + (BALL * (X > 11))).astype(np.uint8)
    voxels = one if layers == 1 else np.stack([one, BALL.astype(np.uint8)], axis=-1)
    image = on_grid(voxels, is_vector=layers > 1)
    tags = "TerminologyEntry:Segmentation category and type~SCT^85756007^Tissue~SCT^10200004^Liver~^^~list~^^~^^|"
    described = [("Segment_1", "Leber ä|&:=", "1", "0"), ("s2", "right", "2", "0"), ("all", "whole", "1", "1")]
    for n, (own_id, name, value, layer) in enumerate(described[: layers + 1]):
        own = {
            "ID": own_id, "Name": name, "NameAutoGenerated": "0", "Color": "0.5 0.25 1", "ColorAutoGenerated": "1",
            "Extent": "0 1 0 1 0 1", "LabelValue": value, "Layer": layer, "Tags": tags,
        }  # fmt: skip
        for key, text in own.items():
            image.SetMetaData(f"Segment{n}_{key}", text)
    container = {
        "ReferenceImageExtentOffset": "3 4 5", "MasterRepresentation": "Binary labelmap",
        "SourceRepresentation": "Binary labelmap", "ContainedRepresentationNames": "Binary labelmap|Closed surface|",
        "ConversionParameters": "Smoothing factor|0.5|How smooth.&Reference image geometry|1;0;0;0;|Where.&Joint|0|No.&",
    }  # fmt: skip
    for key, text in (container | fields).items():
        image.SetMetaData(f"Segmentation_{key}", text)
    return image


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("name", ["named.seg.nrrd", "Named.SEG.NRRD", "named.nrrd"])
def test_segmentations_keep_all_that_is_said_of_their_segments(folder: Folder, layers: int, name: str) -> None:
    given = segmentation(layers)
    sitk.WriteImage(given, str(folder.path / "in.nrrd"))
    (folder.path / "in.nrrd").rename(folder.path / name)
    done = folder.apply(labels=str(folder.path / name))
    assert [Path(file).name for file in done.files] == [f"{name.partition('.')[0]}-warped.seg.nrrd"]
    found = sitk.ReadImage(done.files[0])
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(given))
    known = {key: found.GetMetaData(key) for key in found.GetMetaDataKeys() if key.startswith("Segment")}
    expected = {key: given.GetMetaData(key) for key in given.GetMetaDataKeys() if key.startswith("Segment")}
    geometry = known["Segmentation_ConversionParameters"].split("|Where.")[0].split("geometry|")[1]
    np.testing.assert_allclose(
        np.array(geometry.rstrip(";").split(";"), dtype=float)[:12],
        (np.diag([-1.0, -1.0, 1.0, 1.0]) @ GRID.index_to_lps)[:3].ravel(), atol=1e-12,
    )
    assert geometry.endswith(";0;23;0;21;0;19;")
    known["Segmentation_ConversionParameters"] = known["Segmentation_ConversionParameters"].replace(geometry, "1;0;0;0;")
    expected |= {"Segmentation_ReferenceImageExtentOffset": "0 0 0", "Segment0_Extent": "6 11 6 16 5 15",
               "Segment1_Extent": "12 16 6 16 5 15"}  # fmt: skip
    if layers == 2:
        expected["Segment2_Extent"] = "6 16 6 16 5 15"
    assert known == expected


def test_a_segment_that_falls_outside_stays_as_an_empty_one(folder: Folder) -> None:
    folder.put("far.nrrd", on_grid(BALL, shifted(8)))
    done = folder.apply(labels=folder.put("named.seg.nrrd", segmentation()), reference="far.nrrd")
    found = sitk.ReadImage(done.files[0])
    assert found.GetMetaData("Segment0_Extent") == "0 3 6 16 5 15" and found.GetMetaData("Segment0_Name") == "Leber ä|&:="
    folder.put("farther.nrrd", on_grid(BALL, shifted(14)))
    done = folder.apply(labels=str(folder.path / "named.seg.nrrd"), reference="farther.nrrd", out="again")
    assert sitk.ReadImage(done.files[0]).GetMetaData("Segment0_Extent") == "0 -1 0 -1 0 -1"


def test_names_in_another_encoding_are_kept(folder: Folder) -> None:
    path = Path(folder.put("named.seg.nrrd", segmentation()))
    path.write_bytes(path.read_bytes().replace("Leber ä".encode(), b"Leber \xe4"))
    found = sitk.ReadImage(folder.apply(labels=str(path)).files[0])
    assert found.GetMetaData("Segment0_Name") == "Leber ä|&:="


def test_layers_are_a_list_as_slicer_writes_them(folder: Folder) -> None:
    done = folder.apply(labels=folder.put("named.seg.nrrd", segmentation(2)))
    assert b"kinds: list domain domain domain" in Path(done.files[0]).read_bytes()


def test_labels_that_are_lost_between_voxels_are_said(folder: Folder) -> None:
    coarse = Geometry((6, 6, 5), (8.0, 10.0, 12.0), GRID.origin, GRID.direction)
    folder.put("coarse.nrrd", on_grid(np.zeros((5, 6, 6), np.uint8), coarse))
    lesion = folder.put("lesion.nrrd", on_grid(np.where((X == 9) & (Y == 9) & (Z == 9), 3, 0).astype(np.uint8)))
    done = folder.apply(labels=lesion, reference="coarse.nrrd")
    assert len(done.warnings) == 1 and "the label 3 left no voxel on the reference" in done.warnings[0]
    done = folder.apply(images=lesion, reference="coarse.nrrd", out="image")
    assert len(done.warnings) == 1 and "falls between its voxels" in done.warnings[0]
    named = segmentation(2)
    named[9, 9, 9] = (3, 1)
    named.SetMetaData("Segment1_LabelValue", "3")
    done = folder.apply(labels=folder.put("named.seg.nrrd", named), reference="coarse.nrrd", out="named")
    assert len(done.warnings) == 1 and "the label 'right' left no voxel" in done.warnings[0]


@pytest.mark.parametrize("size", [1e9, 1e150, 1e300])
def test_transforms_that_lead_nowhere_end_with_warnings_or_a_sentence(folder: Folder, size: float) -> None:
    vectors = np.random.default_rng(0).normal(size=(*BALL.shape, 3))
    affine = sitk.AffineTransform(3)
    affine.SetTranslation((size, 0.0, 0.0))
    deformed = field_transform(on_grid(vectors, is_vector=True))
    wild = field_transform(on_grid(vectors * size, is_vector=True))
    write_points(GRID.to_lps(np.array([[3.0, 3, 3], [9, 9, 9]])), folder.path / "points.csv")
    reference = str(folder.path / "reference.nrrd")
    for n, transform in enumerate((affine, composed(affine, deformed), wild)):
        sitk.WriteTransform(transform, str(folder.path / f"{n}.h5"))
        for backward in (False, True):
            try:
                done = folder.apply(f"{n}.h5", images=reference, points=str(folder.path / "points.csv"), backward=backward,
                                    overwrite=True)
            except InputError:
                continue
            assert done.warnings


def test_segments_of_old_files_have_layers_of_their_own(folder: Folder) -> None:
    image = segmentation(2)
    for n in range(3):
        for key in ("Layer", "LabelValue"):
            image.EraseMetaData(f"Segment{n}_{key}")
    for key in [key for key in image.GetMetaDataKeys() if key.startswith("Segment2_")]:
        image.EraseMetaData(key)
    found = sitk.ReadImage(folder.apply(labels=folder.put("old.seg.nrrd", image)).files[0])
    assert [found.GetMetaData(f"Segment{n}_Extent") for n in (0, 1)] == ["6 11 6 16 5 15", "6 16 6 16 5 15"]


@pytest.mark.parametrize(("field", "text"), [("Layer", "2"), ("Layer", "-1"), ("LabelValue", "²"), ("LabelValue", "9" * 5000)])
def test_damaged_descriptions_of_segments_are_refused(folder: Folder, field: str, text: str) -> None:
    image = segmentation(2)
    image.SetMetaData(f"Segment1_{field}", text)
    with pytest.raises(InputError, match="segment"):
        folder.apply(labels=folder.put("named.seg.nrrd", image))


@pytest.mark.parametrize("layers", [1, 2])
def test_slicer_opens_applied_segmentations_with_all_segments(folder: Folder, layers: int) -> None:
    slicer = pytest.importorskip("slicer", reason="needs slicer-core or Slicer")
    from HyperPredictRegLib.slicerbridge.segmentations import register_conversions, segments_mask

    register_conversions()
    done = folder.apply(labels=folder.put("named.seg.nrrd", segmentation(layers)))
    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = slicer.vtkMRMLSegmentationStorageNode()
    scene.AddNode(storage)
    storage.SetFileName(done.files[0])
    assert storage.ReadData(node) == 1
    own = node.GetSegmentation()
    assert list(own.GetSegmentIDs()) == ["Segment_1", "s2", "all"][: layers + 1]
    assert own.GetSegment("s2").GetName() == "right" and own.GetSegment("s2").GetColor() == (0.5, 0.25, 1.0)
    for own_id, inside in (("Segment_1", X <= 11), ("s2", X > 11), ("all", X > -1))[: layers + 1]:
        found = sitk.GetArrayFromImage(segments_mask(node, GRID, [own_id]))
        np.testing.assert_array_equal(found, BALL * inside)


@pytest.mark.parametrize(("away", "message"), [(0, ""), (12.5, "Only about"), (3000, "Nothing of")])
@pytest.mark.parametrize("kind", ["images", "labels"])
@pytest.mark.parametrize("deformed", [False, True])
def test_the_user_hears_how_much_of_an_item_arrives(folder: Folder, kind: str, away: float, message: str, deformed: bool) -> None:
    if deformed:
        folder.put("deformed.nrrd", on_grid(np.full((*BALL.shape, 3), 1e-3), is_vector=True))
    name = folder.put("thing.nrrd", on_grid(BALL * 100, shifted(away)))
    done = folder.apply("deformed.nrrd" if deformed else "identity.tfm", **{kind: name})
    assert len(done.files) == 1
    if not message:
        assert not done.warnings
        return
    assert len(done.warnings) == 1
    assert message in done.warnings[0] and "thing.nrrd" in done.warnings[0] and "reference.nrrd" in done.warnings[0]
    if "about" in message:
        # Half of the ball, but for its middle plane.
        assert abs(int(re.search(r"about (\d+) %", done.warnings[0]).group(1)) - 50) < 8


def test_the_reference_is_only_asked_where_it_is(folder: Folder) -> None:
    folder.put("layers.nrrd", segmentation(2))
    folder.put("holes.nrrd", on_grid(np.full(BALL.shape, np.nan)))
    for n, reference in enumerate(("layers.nrrd", "holes.nrrd")):
        assert not folder.apply(images=str(folder.path / "reference.nrrd"), reference=reference, out=f"out{n}").warnings


def test_points_beside_the_reference_are_said(folder: Folder) -> None:
    points = GRID.to_lps(np.array([[3.0, 3, 3], [-2, 3, 3], [5, 5, 500]]))
    write_points(points, folder.path / "points.csv")
    done = folder.apply(points=str(folder.path / "points.csv"))
    assert len(done.warnings) == 1 and done.warnings[0].startswith("2 of 3 points of")
    # Without a reference nothing is known of that.
    assert not folder.apply(points=str(folder.path / "points.csv"), reference=None, out="other").warnings


POINT_FILES = {
    "a.csv": "label,r,a,s,defined\nAC,1,2,3,1\nnone,0,0,0,0\n",
    "a.fcsv": "# CoordinateSystem = 0\n# columns = id,x,y,z,label\nF1,1,2,3,AC\n",
    "a.mrk.json": '{"markups": [{"type": "Curve", "coordinateSystem": "RAS", "coordinateUnits": "cm", "controlPoints": '
                  '[{"label": "AC", "position": [0.1, 0.2, 0.3]}]}]}',
    "A.MRK.JSON": '{"markups": [{"coordinateSystem": "RAS", "controlPoints": [{"label": "AC", "position": [1, 2, 3]}]}]}',
}  # fmt: skip


@pytest.mark.parametrize(("name", "text"), POINT_FILES.items(), ids=POINT_FILES)
def test_points_come_back_in_the_format_frame_and_unit_that_they_came_in(folder: Folder, name: str, text: str) -> None:
    (folder.path / name).write_text(text)
    sitk.WriteTransform(sitk.TranslationTransform(3, (10.0, 0.0, 0.0)), str(folder.path / "shift.tfm"))
    done = folder.apply("shift.tfm", points=str(folder.path / name), reference=None)
    assert Path(done.files[0]).name == f"{name[0]}-warped{name[1:].lower()}"
    # A moving point is where the fixed point is sent.
    np.testing.assert_allclose(read_one(done.files[0]), [[-11.0, -2.0, 3.0]], atol=1e-9)
    again = Path(done.files[0]).read_text(encoding="utf-8")
    assert "AC" in again and again.count("none,0,0,0,0") == text.count("none,0,0,0,0")
    if "cm" in text:
        np.testing.assert_allclose(json.loads(again)["markups"][0]["controlPoints"][0]["position"], [1.1, 0.2, 0.3])


def read_one(name: str) -> np.ndarray:
    from HyperPredictRegLib.spatial.points import read_point_file

    return read_point_file(name, "points").points


def folding_field(unit: float) -> sitk.Image:
    """Return noise of two voxels in voxels of `unit` mm: folded nearly everywhere."""
    vectors = np.random.default_rng(0).normal(0, 2 * unit, (24, 24, 24, 3))
    return on_grid(vectors, Geometry((24, 24, 24), (unit,) * 3, (-12.0 * unit,) * 3), is_vector=True)


@pytest.mark.parametrize("backward", [False, True])
def test_as_many_points_are_doubted_in_micrometers_as_in_millimeters(folder: Folder, backward: bool) -> None:
    message = []
    for unit in (1.0, 1e-3, 1e-6, 1e3):
        folder.put("field.nrrd", folding_field(unit))
        places = np.random.default_rng(1).uniform(-8, 8, (100, 3)) * unit
        write_points(places, folder.path / "points.csv")
        items = {"points": str(folder.path / "points.csv"), "reference": None, "backward": backward}
        done = folder.apply("field.nrrd", out=f"out {unit}", **items)
        message.append(int(done.warnings[0].split()[0]))
    assert 20 < message[0] < 90
    assert max(message) - min(message) <= 1, message


def test_no_point_is_off_by_more_than_is_said(folder: Folder) -> None:
    """Steep and partly folded: what is not said to be off comes back to its place, and what is, by no more than is said."""
    noise = np.random.default_rng(2)
    vectors = np.stack([gaussian_filter(noise.normal(size=(30, 30, 30)), 2.0) for _ in range(3)], axis=-1)
    field = on_grid(vectors * 7 / np.abs(vectors).max(), Geometry((30, 30, 30), (1.0,) * 3), is_vector=True)
    transform = composed(sitk.AffineTransform(3), field_transform(field))
    sitk.WriteTransform(transform, str(folder.path / "steep.h5"))
    places = noise.uniform(6, 24, (1500, 3))
    write_points(places, folder.path / "points.csv")
    done = folder.apply("steep.h5", points=str(folder.path / "points.csv"), reference=None)
    found = read_points(done.files[0], "points")
    off = np.linalg.norm(transformed_points(transform, found) - places, axis=1)
    beside = off > 0.01
    assert beside.sum() > 3, "this field is too easy"
    sentence = r"Mapped forward again, (\d+) of them come to lie beside their place, by ([\d.]+) mm at most"
    message = re.search(sentence, done.warnings[0])
    assert int(message.group(1)) == beside.sum()
    assert float(message.group(2)) == pytest.approx(off.max(), rel=0.06)
    assert int(done.warnings[0].split()[0]) >= beside.sum()


def test_a_mirror_folds_nothing(folder: Folder) -> None:
    mirror = sitk.AffineTransform(3)
    mirror.SetMatrix((-1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    sitk.WriteTransform(mirror, str(folder.path / "mirror.tfm"))
    write_points(np.array([[1.0, 2, 3]]), folder.path / "points.csv")
    items = {"points": str(folder.path / "points.csv"), "reference": None, "overwrite": True}
    for backward in (False, True):
        done = folder.apply("mirror.tfm", backward=backward, **items)
        assert not done.warnings
        np.testing.assert_allclose(read_points(done.files[0], "points"), [[-1, 2, 3]], atol=1e-12)


@pytest.mark.parametrize("unit", [1.0, 1e-3])
def test_points_through_a_bspline_of_any_scale(folder: Folder, unit: float) -> None:
    grid = on_grid(BALL, Geometry(GRID.size, tuple(unit * s for s in GRID.spacing), tuple(unit * o for o in GRID.origin)))
    spline = sitk.BSplineTransformInitializer(grid, [4, 4, 4])
    spline.SetParameters((np.random.default_rng(3).normal(0, unit, len(spline.GetParameters()))).tolist())
    sitk.WriteTransform(spline, str(folder.path / "spline.tfm"))
    places = Geometry.of(grid).to_lps(np.random.default_rng(4).uniform(4, 16, (40, 3)))
    write_points(transformed_points(spline, places), folder.path / "points.csv")
    done = folder.apply("spline.tfm", points=str(folder.path / "points.csv"), reference=None)
    assert not done.warnings
    np.testing.assert_allclose(read_points(done.files[0], "points"), places, atol=1e-5 * unit)


def test_images_through_an_inverse_that_is_none_come_with_a_warning(folder: Folder) -> None:
    folder.put("fold.nrrd", folding_field(1.0))
    folder.put("there.nrrd", on_grid(BALL * 100, Geometry(GRID.size, (1.0,) * 3, (-12.0,) * 3)))
    name = str(folder.path / "there.nrrd")
    done = folder.apply("fold.nrrd", images=name, reference="there.nrrd", backward=True)
    assert any("no exact inverse in about" in one for one in done.warnings)
    folder.put("still.nrrd", on_grid(np.full((*BALL.shape, 3), 1e-3), is_vector=True))
    done = folder.apply("still.nrrd", images=str(folder.path / "reference.nrrd"), backward=True)
    assert not done.warnings


def test_points_that_leave_all_numbers_are_refused(folder: Folder) -> None:
    huge = sitk.AffineTransform(3)
    huge.SetMatrix((np.eye(3) * 1e300).ravel().tolist())
    sitk.WriteTransform(huge, str(folder.path / "huge.tfm"))
    write_points(np.array([[1e10, 2, 3]]), folder.path / "points.csv")
    with pytest.raises(InputError, match="out of all numbers"):
        folder.apply("huge.tfm", points=str(folder.path / "points.csv"), reference=None, backward=True)


def test_overwriting_replaces_all_or_nothing(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    names = tuple(folder.put(f"{n}.nrrd", on_grid(BALL * n)) for n in (1, 2, 3))
    folder.apply(images=names)
    (folder.path / "out" / "mine.txt").write_text("kept")
    (folder.path / "out" / "report.json").write_text("of a registration, kept")
    before = {path.name: path.read_bytes() for path in (folder.path / "out").iterdir()}
    for n, name in enumerate(names):
        sitk.WriteImage(on_grid(BALL * (10 + n)), name)
    writing = applying.write_image

    def full(image: sitk.Image, path: Path) -> None:
        if path.name.startswith("3"):
            raise OSError("No space left on device")
        writing(image, path)

    def torn(*_: object, **__: object) -> None:
        raise OSError("Input/output error")

    for attribute, failing in (("write_image", full), ("publish", torn)):
        with monkeypatch.context() as broken:
            broken.setattr(applying, attribute, failing)
            with pytest.raises(InputError, match="could not be written"):
                folder.apply(images=names, overwrite=True)
        assert {path.name: path.read_bytes() for path in (folder.path / "out").iterdir()} == before
    with pytest.raises(InputError, match="exists already"):
        folder.apply(images=names)
    folder.apply(images=names, overwrite=True)
    assert folder.voxels("2-warped.nrrd").max() == 11
    after = {path.name: path.read_bytes() for path in (folder.path / "out").iterdir()}
    assert after.keys() == before.keys()
    assert all(after[name] == before[name] for name in ("mine.txt", "report.json"))


def test_inputs_are_never_written_over(folder: Folder) -> None:
    name = folder.put("a-warped.nrrd", on_grid(BALL))
    folder.put("a.nrrd", on_grid(BALL))
    with pytest.raises(InputError, match="written over the input"):
        folder.apply(images=(str(folder.path / "a.nrrd"), name), out=".", overwrite=True)
    with pytest.raises(InputError, match="Two inputs"):
        (folder.path / "b").mkdir()
        sitk.WriteImage(on_grid(BALL), str(folder.path / "b" / "a.nrrd"))
        folder.apply(images=(str(folder.path / "a.nrrd"), str(folder.path / "b" / "a.nrrd")))


def test_results_can_lie_beside_the_transform(folder: Folder) -> None:
    """As after a registration: its own files are no obstacle, and stay."""
    (folder.path / "transform.h5").write_text("another")
    folder.apply(images=folder.put("a.nrrd", on_grid(BALL)), out=".")
    assert (folder.path / "a-warped.nrrd").exists() and (folder.path / "transform.h5").read_text(encoding="utf-8") == "another"
    assert results_folder.real_folder(folder.path) == Path(folder.path).resolve()
