"""From nodes to a job: everything lies in world space, structures keep their names, and what cannot be used is named."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import vtk

slicer = pytest.importorskip("slicer", reason="needs slicer-core or Slicer")

from HyperPredictRegLib.core.errors import InputError  # noqa: E402
from HyperPredictRegLib.core.json_records import from_json  # noqa: E402
from HyperPredictRegLib.preprocessing.image_set import read_inputs  # noqa: E402
from HyperPredictRegLib.results.job import Channel, Job  # noqa: E402
from HyperPredictRegLib.slicerbridge.request import (  # noqa: E402
    JOB_NAME,
    ChannelChoice,
    MaskChoice,
    Request,
    check_request,
    difference,
    places_of,
    record_inputs,
    write_job,
)
from HyperPredictRegLib.slicerbridge.segmentations import register_conversions, to_segmentation_node  # noqa: E402
from HyperPredictRegLib.slicerbridge.transforms import to_transform_node  # noqa: E402
from HyperPredictRegLib.slicerbridge.volumes import LPS_RAS, from_volume_node, to_volume_node  # noqa: E402
from HyperPredictRegLib.spatial.geometry import Geometry  # noqa: E402
from HyperPredictRegLib.spatial.structures import identity  # noqa: E402
from HyperPredictRegLib.spatial.transforms import field_transform, linear_matrix, read_transform, transformed_points  # noqa: E402
from slicerbridge_samples import (  # noqa: E402
    LEFT_HANDED,
    OBLIQUE,
    ROTATION,
    affine,
    field,
    image,
    labels,
    random_points,
    transforms,
)

FLIP = np.diag(LPS_RAS)[:3]
FIXED_NAMES = {3: "Left-Caudate", 17: "Putamen", 300: "Only fixed"}
MOVING_NAMES = {3: "putamen", 17: " caudate (LEFT)", 300: "Only moving"}


@dataclass
class Pair:
    """A scene with an oblique fixed and a left-handed moving volume and a segmentation of each."""

    scene: Any
    request: Request

    def job(self, folder: Path, **changes: Any) -> Job:
        return self.written(folder, **changes)[0]

    def written(self, folder: Path, **changes: Any) -> tuple[Job, tuple[str, ...]]:
        request = replace(self.request, **changes)
        check_request(request)
        writing = write_job(request, folder / "workplace")
        while True:
            try:
                next(writing)
            except StopIteration as end:
                return end.value


@pytest.fixture
def pair() -> Pair:
    scene = slicer.vtkMRMLScene()
    request = Request(
        fixed=to_volume_node(image(OBLIQUE), scene, "My fixed"),
        moving=to_volume_node(image(LEFT_HANDED, seed=6), scene, "My moving"),
        fixed_segmentation=to_segmentation_node(labels(OBLIQUE), scene, "Fixed parts", names=FIXED_NAMES),
        moving_segmentation=to_segmentation_node(labels(LEFT_HANDED), scene, "Moving parts", names=MOVING_NAMES),
    )
    return Pair(scene, request)


def put_under(node: Any, transform: sitk.Transform, scene: Any) -> Any:
    """Put a node under a transform that moves it by the inverse of `transform` (fixed to moving); return the transform's node."""
    above = to_transform_node(transform, scene, f"Above {node.GetName()}")
    node.SetAndObserveTransformNodeID(above.GetID())
    return above


def overlapping(scene: Any, geometry: Geometry, name: str) -> Any:
    """Return a segmentation of which one segment shares voxels with the others."""
    register_conversions()
    node = to_segmentation_node(labels(geometry), scene, name, names={3: "One", 17: "Two", 300: "Three"})
    other = to_segmentation_node(sitk.Cast(labels(geometry) > 0, sitk.sitkUInt8), scene, "Whole", names={1: "Whole"})
    node.GetSegmentation().CopySegmentFromSegmentation(other.GetSegmentation(), "label_1")
    scene.RemoveNode(other)
    return node


def points_node(scene: Any, points_lps: np.ndarray, name: str) -> Any:
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    for point in points_lps * FLIP:
        node.AddControlPointWorld(*point.tolist())
    return node


def test_volumes_arrive_voxel_by_voxel(pair, tmp_path) -> None:
    job = pair.job(tmp_path)
    for path, original in ((job.fixed, image(OBLIQUE)), (job.moving, image(LEFT_HANDED, seed=6))):
        written = sitk.ReadImage(path)
        assert written.GetPixelID() == original.GetPixelID()
        assert Geometry.of(written).matches(Geometry.of(original), 1e-6)
        assert np.array_equal(sitk.GetArrayViewFromImage(written), sitk.GetArrayFromImage(original))


def test_the_job_is_there_as_a_file_and_reads_as_a_whole(pair, tmp_path) -> None:
    job = pair.job(tmp_path, options={"predictor": "none", "seed": 5, "criterion": {"rule": "knee", "folding_limit": None}})
    folder = tmp_path / "workplace"
    assert from_json(Job, (folder / JOB_NAME).read_text(encoding="utf-8"), "job") == job
    assert (job.out, job.seed, job.criterion.rule, job.criterion.folding_limit) == (str(folder / "out"), 5, "knee", None)
    read_inputs(job)


def test_linear_parents_are_applied(pair, tmp_path) -> None:
    """A voxel is written where Slicer shows it: at the parent's image of its own place."""
    parent = put_under(pair.request.fixed, ROTATION, pair.scene)
    pair.request.fixed_segmentation.SetAndObserveTransformNodeID(parent.GetID())
    inputs = read_inputs(pair.job(tmp_path))
    points = random_points(OBLIQUE, 50)
    shown = transformed_points(ROTATION.GetInverse(), points)
    places = Geometry.of(inputs.fixed.image).to_index(shown)
    assert np.abs(places - OBLIQUE.to_index(points)).max() * max(OBLIQUE.spacing) < 1e-5  # mm
    assert np.array_equal(sitk.GetArrayViewFromImage(inputs.fixed.labels) > 0, sitk.GetArrayFromImage(labels(OBLIQUE)) > 0)


@pytest.mark.parametrize("turned", [(0.3, -0.7, 1.1), (2.0, 0.1, -0.4)])
def test_a_volume_that_is_saved_and_loaded_is_written_as_before(pair, tmp_path, turned) -> None:
    """Its grid comes back with other last digits, but a prediction in the saved scene is still one of these images."""
    scan = sitk.Image([7, 6, 5], sitk.sitkInt16) + 1
    scan[1, 2, 3] = 9
    scan.SetSpacing((0.9765625, 0.7, 1.1))
    scan.SetOrigin((-71.3, 12.7, 100.1))
    scan.SetDirection(sitk.Euler3DTransform((0.0, 0.0, 0.0), *turned).GetMatrix())
    node = to_volume_node(scan, pair.scene, "Oblique")
    again = pair.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Oblique")
    for method, volume in (("WriteData", node), ("ReadData", again)):
        storage = pair.scene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
        storage.SetFileName(str(tmp_path / "saved.nrrd"))
        assert getattr(storage, method)(volume)
    assert from_volume_node(again).GetDirection() != from_volume_node(node).GetDirection()
    requests = [replace(pair.request, fixed=one, fixed_segmentation=None) for one in (node, again)]
    assert places_of(requests[0]) == places_of(requests[1])
    files = [Path(pair.job(tmp_path / str(n), fixed=one, fixed_segmentation=None).fixed) for n, one in enumerate((node, again))]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_parents_that_deform_or_shear_are_refused_by_name(pair, tmp_path) -> None:
    put_under(pair.request.moving, field_transform(field()), pair.scene)
    with pytest.raises(InputError, match="'My moving' is under the transform 'Above My moving', which is not linear"):
        pair.job(tmp_path)
    put_under(pair.request.moving, affine(), pair.scene)
    with pytest.raises(InputError, match="The volume 'My moving' is sheared"):
        pair.job(tmp_path)


@pytest.mark.parametrize("what", ["fixed", "moving", "fixed_segmentation", "moving_segmentation", "moving_mask"])
def test_parents_that_mirror_are_refused_by_name(pair, tmp_path, what) -> None:
    """The moving grid of this pair is left-handed itself, and is fine."""
    mask = to_segmentation_node(labels(LEFT_HANDED), pair.scene, "Region")
    node = mask if what == "moving_mask" else getattr(pair.request, what)
    above = put_under(node, sitk.ScaleTransform(3, (-1.0, 1.0, 1.0)), pair.scene)
    kind = "volume" if what in ("fixed", "moving") else "segmentation"
    expected = f"The {kind} '{node.GetName()}' is under the transform '{above.GetName()}', which mirrors"
    with pytest.raises(InputError, match=expected):
        pair.job(tmp_path, moving_mask=MaskChoice(mask))
    # Two mirrors are none; hardened, the node is what it is.
    second = put_under(above, sitk.ScaleTransform(3, (-1.0, 1.0, 1.0)), pair.scene)
    pair.job(tmp_path, moving_mask=MaskChoice(mask))
    second.SetAndObserveTransformNodeID(None)
    node.SetAndObserveTransformNodeID(None)
    pair.job(tmp_path, moving_mask=MaskChoice(mask))


def test_names_of_one_structure_get_one_label(pair, tmp_path) -> None:
    inputs = read_inputs(pair.job(tmp_path))
    by_name = {identity(name): label for label, name in inputs.label_names.items()}
    assert set(by_name) == {"caudate left", "putamen", "fixed only", "moving only"}
    for side, original, names in (
        (inputs.fixed, labels(OBLIQUE), FIXED_NAMES), (inputs.moving, labels(LEFT_HANDED), MOVING_NAMES)
    ):
        found, expected = sitk.GetArrayViewFromImage(side.labels), sitk.GetArrayViewFromImage(original)
        for value, name in names.items():
            assert np.array_equal(found == by_name[identity(name)], expected == value), name


def test_own_label_values_stay_where_they_agree(pair, tmp_path) -> None:
    same = to_segmentation_node(labels(LEFT_HANDED), pair.scene, "Same", names=FIXED_NAMES)
    inputs = read_inputs(pair.job(tmp_path, moving_segmentation=same))
    assert inputs.label_names == FIXED_NAMES
    alone = read_inputs(pair.job(tmp_path / "alone", fixed_segmentation=None))
    assert {label: name.strip() for label, name in MOVING_NAMES.items()} == alone.label_names


def test_two_segments_of_a_shared_name_are_asked_about(pair, tmp_path) -> None:
    twice = to_segmentation_node(labels(LEFT_HANDED), pair.scene, "Twice", names={3: "Putamen", 17: "putamen", 300: "x"})
    with pytest.raises(InputError, match="'Twice' several segments are called 'Putamen'"):
        pair.job(tmp_path, moving_segmentation=twice)
    harmless = to_segmentation_node(labels(LEFT_HANDED), pair.scene, "Harmless", names={3: "y", 17: "y", 300: "Putamen"})
    names = read_inputs(pair.job(tmp_path / "2", moving_segmentation=harmless)).label_names
    assert sorted(names.values()) == ["Left-Caudate", "Only fixed", "Putamen", "y", "y"]


def test_segments_that_only_programs_have_named_are_compared_by_that_name(pair, tmp_path) -> None:
    names = {3: "Segment_1", 17: "Segment_2", 300: "label 3"}
    fixed = to_segmentation_node(labels(OBLIQUE), pair.scene, "F", names=names)
    moving = to_segmentation_node(labels(LEFT_HANDED), pair.scene, "M", names={**names, 300: "Segment 3"})
    inputs = read_inputs(pair.job(tmp_path, fixed_segmentation=fixed, moving_segmentation=moving))
    assert inputs.label_names == {3: "Segment_1", 17: "Segment_2", 300: "Segment 3", 301: "label 3"}


def test_overlaps_are_named_or_left_to_propagation(pair, tmp_path) -> None:
    moving = overlapping(pair.scene, LEFT_HANDED, "Overlapping")
    with pytest.raises(InputError, match=r"'Overlapping' the segments '\w+' and 'Whole' overlap.* leave the fixed segmentation"):
        pair.job(tmp_path, moving_segmentation=moving)
    job, notes = pair.written(tmp_path, fixed_segmentation=None, moving_segmentation=moving)
    assert job.moving_labels is None and job.label_names is None
    assert notes[0].startswith("In the segmentation 'Overlapping' the segments")
    assert notes[0].endswith("propagated as it is, but nothing is predicted or measured for its segments.")
    with pytest.raises(InputError, match="'Over there' the segments"):
        pair.job(tmp_path, fixed_segmentation=overlapping(pair.scene, OBLIQUE, "Over there"))


@pytest.mark.parametrize("kind", ["segment", "segmentation", "label map", "volume"])
def test_masks_of_every_kind_lie_on_the_grid_of_their_image(pair, tmp_path, kind) -> None:
    whole = sitk.GetArrayFromImage(labels(OBLIQUE))
    # On a grid of its own: every other voxel of the volume's along i.
    sparse = sitk.Cast(labels(OBLIQUE)[::2, :, :], sitk.sitkInt16)
    choice = {
        "segment": lambda: MaskChoice(pair.request.fixed_segmentation, "label_17"),
        "segmentation": lambda: MaskChoice(overlapping(pair.scene, OBLIQUE, "Overlapping")),
        "label map": lambda: MaskChoice(to_volume_node(labels(OBLIQUE), pair.scene, "L", label_map=True)),
        "volume": lambda: MaskChoice(to_volume_node(sparse, pair.scene, "V")),
    }[kind]()
    mask = read_inputs(pair.job(tmp_path, fixed_mask=choice)).fixed.mask
    found = sitk.GetArrayViewFromImage(mask)
    if kind == "volume":
        assert np.array_equal(found[..., ::2], whole[..., ::2] > 0)
    else:
        assert np.array_equal(found, whole == 17 if kind == "segment" else whole > 0)
    assert Geometry.of(mask).matches(OBLIQUE, 1e-6)


def test_empty_masks_name_node_and_segment(pair, tmp_path) -> None:
    elsewhere = Geometry(OBLIQUE.size, OBLIQUE.spacing, (5000.0, 0.0, 0.0))
    far = to_segmentation_node(labels(elsewhere), pair.scene, "Far", names={3: "A"})
    with pytest.raises(InputError, match="mask the segment 'A' of 'Far' has no voxel inside the volume 'My moving'"):
        pair.job(tmp_path, moving_mask=MaskChoice(far, "label_3"))
    with pytest.raises(InputError, match="'Fixed parts' has no segment 'nothing'"):
        pair.job(tmp_path, fixed_mask=MaskChoice(pair.request.fixed_segmentation, "nothing"))
    with pytest.raises(InputError, match="segmentation 'Far' has no voxel inside the volume 'My fixed'"):
        pair.job(tmp_path, fixed_segmentation=far)


@pytest.mark.parametrize("kind", ["euler", "affine", "bspline", "field", "composite-field"])
def test_initial_transforms_arrive_from_parent(pair, tmp_path, kind) -> None:
    start = transforms(LEFT_HANDED)[kind]
    job = pair.job(tmp_path, initial_transform=to_transform_node(start, pair.scene, "Start"))
    points = random_points(LEFT_HANDED, 200)
    apart = transformed_points(read_transform(job.initial_transform, "t"), points) - transformed_points(start, points)
    assert np.abs(apart).max() < 1e-5  # mm


def test_a_start_that_the_moving_volume_lies_under_is_not_applied_twice(pair, tmp_path) -> None:
    above = put_under(pair.request.moving, ROTATION, pair.scene)
    pair.request.moving_segmentation.SetAndObserveTransformNodeID(above.GetID())
    job = pair.job(tmp_path, initial_transform=above)
    assert np.abs(linear_matrix(read_transform(job.initial_transform, "t")) - np.eye(4)).max() < 1e-12
    other = to_transform_node(ROTATION, pair.scene, "Other")
    other.SetAndObserveTransformNodeID(above.GetID())
    with pytest.raises(InputError, match="'Other' is under the transform 'Above My moving'"):
        pair.job(tmp_path, initial_transform=other)


def test_landmarks_are_written_where_they_are_shown(pair, tmp_path) -> None:
    points = random_points(OBLIQUE, 4)
    fixed, moving = points_node(pair.scene, points, "F points"), points_node(pair.scene, points[::-1], "M points")
    put_under(moving, ROTATION, pair.scene)
    moving.AddControlPoint(0.0, 0.0, 0.0)
    moving.UnsetNthControlPointPosition(4)
    inputs = read_inputs(pair.job(tmp_path, fixed_landmarks=fixed, moving_landmarks=moving))
    assert np.abs(inputs.fixed.landmarks - points).max() < 1e-9  # mm
    shown = transformed_points(ROTATION.GetInverse(), points[::-1])
    assert np.abs(inputs.moving.landmarks - shown).max() < 1e-9  # mm


def test_a_prediction_counts_for_the_landmarks_that_it_used(pair, tmp_path) -> None:
    points = random_points(OBLIQUE, 4)
    fixed, moving = points_node(pair.scene, points, "F points"), points_node(pair.scene, points[::-1], "M points")
    for use, moved in (("measuring", ""), ("start", "inputs")):
        request = replace(pair.request, fixed_landmarks=fixed, moving_landmarks=moving, options={"landmarks_for": use})
        node = pair.scene.AddNewNodeByClass("vtkMRMLTextNode")
        record_inputs(node, request, places_of(request))
        assert difference(node, request) == ""
        before = fixed.GetNthControlPointPosition(1)
        fixed.SetNthControlPointPosition(1, before[0] + 1.0, before[1], before[2])
        assert difference(node, request) == moved
        fixed.SetNthControlPointPosition(1, *before)
        assert difference(node, request) == ""
    assert difference(node, replace(request, options={"landmarks_for": "measuring"})) == "inputs"
    assert difference(node, replace(request, options={"landmarks_for": "start and deformation"})) == "inputs"


def test_landmarks_that_are_no_pairs_are_named(pair, tmp_path) -> None:
    two, three = (points_node(pair.scene, random_points(OBLIQUE, n), f"{n} points") for n in (2, 3))
    for fixed, moving, sentence in (
        (two, three, "'2 points' has 2 points but '3 points' has 3"),
        (two, None, r"one volume only \('2 points'\)"),
        (two, two, "'2 points' is chosen for both"),
        (two, points_node(pair.scene, np.zeros((0, 3)), "None"), "'None' holds no points"),
    ):
        with pytest.raises(InputError, match=sentence):
            pair.job(tmp_path, fixed_landmarks=fixed, moving_landmarks=moving)


def test_wrong_choices_are_sentences(pair, tmp_path) -> None:
    constant = to_volume_node(OBLIQUE.apply_to(sitk.Image(OBLIQUE.size, sitk.sitkUInt8)), pair.scene, "Flat")
    for changes, sentence in (
        ({"moving": pair.request.fixed}, "'My fixed' is chosen as fixed and as moving"),
        ({"moving": None}, "No moving volume is chosen"),
        ({"fixed": constant}, "The fixed volume 'Flat' is constant"),
        ({"moving_segmentation": pair.request.fixed_segmentation}, "'Fixed parts' is chosen for the fixed and for the moving"),
        ({"options": {"lambda": 3}}, "no option 'lambda'; known are: alignment, criterion"),
        ({"options": {"fixed": "a.nrrd"}}, "no option 'fixed' in Slicer, where inputs are nodes"),
        ({"options": {"scene": "a.mrb"}}, "no option 'scene' in Slicer, where .* results go into the scene; known are: align"),
        ({"options": {"seed": "many"}}, "options.seed should be of type int"),
        ({"options": {"criterion": {"rule": "luck"}}}, "no rule 'luck'"),
    ):
        with pytest.raises(InputError, match=sentence):
            pair.job(tmp_path, **changes)


@pytest.mark.parametrize(
    ("role", "what", "needed"),
    [
        ("fixed", "fixed volume", "a scalar volume"),
        ("moving", "moving volume", "a scalar volume"),
        ("fixed_segmentation", "fixed segmentation", "a segmentation"),
        ("moving_segmentation", "moving segmentation", "a segmentation"),
        ("fixed_mask", "fixed mask", "a segmentation, label map or scalar volume"),
        ("moving_mask", "moving mask", "a segmentation, label map or scalar volume"),
        ("initial_transform", "initial transform", "a transform"),
        ("fixed_landmarks", "fixed landmarks", "a point list"),
        ("moving_landmarks", "moving landmarks", "a point list"),
        ("channels", "fixed volume of channel 2", "a scalar volume"),
    ],
)
def test_nodes_of_a_wrong_kind_are_named_with_their_role(pair, tmp_path, role, what, needed) -> None:
    wrong = pair.scene.AddNewNodeByClass("vtkMRMLTableNode", "Numbers")
    mask = MaskChoice if role.endswith("mask") else lambda node: node
    if role == "channels":
        mask = lambda node: (ChannelChoice(node, pair.request.moving),)  # noqa: E731 - as short as the line above
    for given, sentence in (
        (mask(wrong), rf"As {what}, 'Numbers' \(Table\) is given, which is not {needed}: choose one"),
        (mask("Name"), rf"As {what}, 'Name' \(str\) is given: give the node itself, {needed}"),
    ):
        with pytest.raises(InputError, match=sentence):
            pair.job(tmp_path, **{role: given})


@pytest.fixture
def channel(pair: Pair) -> ChannelChoice:
    """T2 beside T1: the same places in another contrast."""
    volumes = [to_volume_node(255 - image(grid, seed=seed), pair.scene, name) for grid, seed, name in (
        (OBLIQUE, 5, "Fixed T2"), (LEFT_HANDED, 6, "Moving T2")
    )]  # fmt: skip
    return ChannelChoice(*volumes, 2.0)


def test_volumes_of_channels_arrive_where_slicer_shows_them(pair, channel, tmp_path) -> None:
    put_under(channel.fixed, ROTATION, pair.scene)
    job = pair.job(tmp_path, channels=(channel,))
    folder = tmp_path / "workplace"
    assert job.channels == (Channel(str(folder / "fixed-channel-2.nrrd"), str(folder / "moving-channel-2.nrrd"), 2.0),)
    for path, node in ((job.channels[0].fixed, channel.fixed), (job.channels[0].moving, channel.moving)):
        written, shown = sitk.ReadImage(path), from_volume_node(node)
        assert Geometry.of(written).matches(Geometry.of(shown), 1e-6)
        assert np.array_equal(sitk.GetArrayFromImage(written), sitk.GetArrayFromImage(shown))


def test_half_a_channel_is_refused(pair, channel, tmp_path) -> None:
    for given, sentence in (
        (ChannelChoice(None, channel.moving), "Channel 2 has no fixed volume"),
        (ChannelChoice(channel.fixed, None), "Channel 2 has no moving volume"),
        (ChannelChoice(channel.fixed, channel.fixed), "'Fixed T2' is chosen as fixed and as moving of channel 2"),
        (ChannelChoice(channel.fixed, channel.moving, 0.0), "The weight of a channel is 0"),
    ):
        with pytest.raises(InputError, match=sentence):
            pair.job(tmp_path, channels=(given,))
    with pytest.raises(InputError, match="There is no option 'channels' in Slicer"):
        pair.job(tmp_path, options={"channels": []})
    mirror = sitk.AffineTransform(3)
    mirror.SetMatrix([-1, 0, 0, 0, 1, 0, 0, 0, 1])
    put_under(channel.moving, mirror, pair.scene)
    with pytest.raises(InputError, match=r"The volume 'Moving T2' is under the transform .*, which mirrors it"):
        pair.job(tmp_path, channels=(channel,))


def test_a_prediction_knows_its_channels(pair, channel) -> None:
    alone, both = pair.request, replace(pair.request, channels=(channel,))
    node = pair.scene.AddNewNodeByClass("vtkMRMLTextNode", "Prediction")
    record_inputs(node, both, places_of(both))
    assert difference(node, both) == ""
    assert difference(node, alone) == "inputs"
    assert difference(node, replace(both, channels=(replace(channel, weight=1.0),))) == "inputs"
    assert difference(node, replace(both, channels=(replace(channel, fixed=alone.fixed),))) == "inputs"
    assert difference(node, replace(both, channels=(channel, channel))) == "inputs"
    record_inputs(node, alone, places_of(alone))
    assert (difference(node, alone), difference(node, both)) == ("", "inputs")
    record_inputs(node, both, places_of(both))
    put_under(channel.moving, ROTATION, pair.scene)
    assert difference(node, both) == "places"


def test_nodes_of_another_scene_are_named(pair, tmp_path) -> None:
    other = slicer.vtkMRMLScene()
    for node in (to_volume_node(image(LEFT_HANDED), other, "Elsewhere"), slicer.vtkMRMLScalarVolumeNode()):
        node.SetName("Elsewhere")
        with pytest.raises(InputError, match="As moving volume, 'Elsewhere' is given, which is not in one scene with the fixed"):
            pair.job(tmp_path, moving=node)
    with pytest.raises(InputError, match="As fixed volume, 'Elsewhere' is given, which is not in one scene"):
        pair.job(tmp_path, fixed=node)


def test_a_volume_without_scalars_is_a_sentence(pair, tmp_path) -> None:
    tensors = pair.scene.AddNewNodeByClass("vtkMRMLDiffusionTensorVolumeNode", "Tensors")
    voxels = vtk.vtkImageData()
    voxels.SetDimensions(4, 4, 4)
    array = vtk.vtkFloatArray()
    array.SetNumberOfComponents(9)
    array.SetNumberOfTuples(64)
    array.Fill(1.0)
    voxels.GetPointData().SetTensors(array)
    tensors.SetAndObserveImageData(voxels)
    with pytest.raises(InputError, match="'Tensors' has no voxels that hold one number each"):
        pair.job(tmp_path, moving=tensors)


def test_voxels_of_a_mask_that_are_no_numbers_are_outside(pair, tmp_path) -> None:
    voxels = np.zeros(OBLIQUE.size[::-1], dtype=np.float32)
    voxels[3:9, 4:12, 5:12], voxels[10:12] = 0.5, np.nan
    voxels[13] = -1.0
    node = to_volume_node(OBLIQUE.apply_to(sitk.GetImageFromArray(voxels)), pair.scene, "Floats")
    mask = read_inputs(pair.job(tmp_path, fixed_mask=MaskChoice(node))).fixed.mask
    assert np.array_equal(sitk.GetArrayViewFromImage(mask) != 0, np.nan_to_num(voxels) != 0)


def test_the_nodes_are_left_as_they_are(pair, tmp_path) -> None:
    put_under(pair.request.moving, ROTATION, pair.scene)
    nodes = [pair.scene.GetNthNode(n) for n in range(pair.scene.GetNumberOfNodes())]
    before = [(node.GetID(), node.GetMTime()) for node in nodes]
    pair.job(tmp_path, fixed_mask=MaskChoice(pair.request.fixed_segmentation))
    after = [pair.scene.GetNthNode(n) for n in range(pair.scene.GetNumberOfNodes())]
    assert [(node.GetID(), node.GetMTime()) for node in after] == before


def test_a_folder_that_cannot_be_written_is_a_sentence(pair, tmp_path) -> None:
    (tmp_path / "workplace").write_text("a file", encoding="utf-8")
    with pytest.raises(InputError, match="inputs could not be written to"):
        pair.job(tmp_path)
