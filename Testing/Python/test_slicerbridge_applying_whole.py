"""What is given wrongly is said at once, what fails leaves nothing behind, and voxels without a number stay so."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

slicer = pytest.importorskip("slicer", reason="needs slicer-core or Slicer")

from applying_samples import MIRRORED, Result, markups, model, nodes_of, registered  # noqa: E402
from HyperPredictRegLib.core.errors import InputError  # noqa: E402
from HyperPredictRegLib.slicerbridge import applying  # noqa: E402
from HyperPredictRegLib.slicerbridge.applying import apply_to_nodes  # noqa: E402
from HyperPredictRegLib.slicerbridge.segmentations import to_segmentation_node  # noqa: E402
from HyperPredictRegLib.slicerbridge.volumes import from_volume_node, to_volume_node  # noqa: E402
from HyperPredictRegLib.spatial.geometry import Geometry  # noqa: E402
from HyperPredictRegLib.spatial.transforms import transformed_points  # noqa: E402
from slicerbridge_samples import OBLIQUE, image, labels, random_points  # noqa: E402

FAR = Geometry(MIRRORED.size, MIRRORED.spacing, (3000.0, 0.0, 0.0), MIRRORED.direction)


@pytest.fixture
def result() -> Result:
    return registered()


def good_points(result: Result):
    return markups(result.scene, "Fiducial", transformed_points(result.map, random_points(OBLIQUE, 3)))


def applied_voxels(result: Result, voxels: np.ndarray) -> np.ndarray:
    node = to_volume_node(MIRRORED.apply_to(sitk.GetImageFromArray(voxels)), result.scene, "Map")
    return sitk.GetArrayFromImage(from_volume_node(result.one(node)))


def through(voxels: np.ndarray, result: Result, how: int, beyond: float) -> np.ndarray:
    source = MIRRORED.apply_to(sitk.GetImageFromArray(voxels))
    return sitk.GetArrayFromImage(OBLIQUE.resample(source, result.map, interpolator=how, default_value=beyond))


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("framed", [False, True])
def test_voxels_without_a_number_stay_so_and_do_not_spread(result, hole, framed) -> None:
    voxels = sitk.GetArrayFromImage(image(MIRRORED)).astype(np.float32) + 100
    gone = np.zeros(voxels.shape, dtype=bool)
    gone[8:12, 8:12, 8:12] = True
    if framed:
        gone[:3] = gone[-3:] = gone[:, :3] = gone[:, -3:] = gone[:, :, :3] = gone[:, :, -3:] = True
    found = applied_voxels(result, np.where(gone, np.float32(hole), voxels))
    nearest = through(gone.astype(np.uint8), result, sitk.sitkNearestNeighbor, 2)
    assert np.array_equal(found[nearest == 1], np.full((nearest == 1).sum(), hole), equal_nan=True)
    numbers = found[nearest == 0]
    assert np.isfinite(numbers).all() and numbers.min() >= 100 and numbers.max() <= 199
    # Away from all holes it is plain interpolation.
    apart = (through(gone.astype(np.float32), result, sitk.sitkLinear, 1.0) == 0) & (nearest == 0)
    assert apart.sum() > 1000
    assert np.allclose(found[apart], through(voxels, result, sitk.sitkLinear, 0.0)[apart], atol=1e-3)
    beyond = found[nearest == 2]
    assert len(beyond) and (np.isnan(beyond).all() if framed and np.isnan(hole) else np.isfinite(beyond).all())


@pytest.mark.parametrize("value", [7.0, np.nan])
def test_a_constant_stays_what_it_is(result, value) -> None:
    found = applied_voxels(result, np.full(MIRRORED.size[::-1], value))
    assert np.array_equal(found, np.full(OBLIQUE.size[::-1], value), equal_nan=True)


@pytest.mark.parametrize("label_map", [False, True])
def test_volumes_that_lie_elsewhere_are_refused(result, label_map) -> None:
    make = labels if label_map else image
    far = to_volume_node(make(FAR), result.scene, "Far", label_map=label_map)
    done = result.apply_to_nodes(far)
    assert not done.nodes and "'Far' was left out: no part of it comes to lie in the space of 'Atlas'" in done.refused[0][1]
    # One value throughout is no reason, if it lies there.
    near = to_volume_node(make(MIRRORED) * 0, result.scene, "Near", label_map=label_map)
    assert len(result.apply_to_nodes(near).nodes) == 1


def test_segmentations_that_lie_elsewhere_are_refused(result) -> None:
    done = result.apply_to_nodes(to_segmentation_node(labels(FAR), result.scene, "Far"))
    assert not done.nodes and "no voxel of its segments comes to lie in the space of 'Atlas'" in done.refused[0][1]


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_points_without_a_place_are_refused_and_the_others_are_transformed(result, bad, backward) -> None:
    points = random_points(OBLIQUE, 4)
    points[1, 2] = bad
    items = [markups(result.scene, "Fiducial", points), model(result.scene, points), good_points(result)]
    done = result.apply_to_nodes(*items, backward=backward)
    assert len(done.nodes) == 1 and [node for node, _ in done.refused] == items[:2]
    for (_, sentence), what in zip(done.refused, ("points", "vertices"), strict=True):
        assert f"1 of its 4 {what} have coordinates that are NaN or infinite" in sentence


def test_what_fails_without_a_sentence_leaves_nothing_behind(result, monkeypatch) -> None:
    def fail(*args) -> None:
        args[0].AddNewNodeByClass("vtkMRMLModelNode", "Half")
        raise RuntimeError("unexpected")

    monkeypatch.setattr(applying, "applied_model", fail)
    items = [good_points(result), model(result.scene, random_points(OBLIQUE, 4))]
    before = nodes_of(result.scene)
    with pytest.raises(RuntimeError, match="unexpected"):
        result.apply_to_nodes(*items)
    assert nodes_of(result.scene) == before


def test_a_single_node_and_a_collection_are_lists_too(result) -> None:
    points = good_points(result)
    assert len(apply_to_nodes(result.scene, points, result.nodes).nodes) == 1
    found = result.scene.GetNodesByName(points.GetName())
    found.UnRegister(None)
    assert len(apply_to_nodes(result.scene, found, result.nodes).nodes) == 1


def test_what_is_no_node_of_the_scene_or_of_another_kind_is_said_before_anything_is_done(result) -> None:
    scene, points = result.scene, good_points(result)
    table = scene.AddNewNodeByClass("vtkMRMLTableNode", "Numbers")
    other = markups(slicer.vtkMRMLScene(), "Fiducial", np.zeros((1, 3)))
    before = nodes_of(scene)
    wrong = {
        "None is no node": [points, None],
        "'F' is no node": "F",
        "5 is no node": 5,
        r"'Numbers' is of a kind \(Table\)": [points, table],
        "'My Fiducial' is not in the scene": [points, other],
    }
    for sentence, given in wrong.items():
        with pytest.raises(InputError, match=f"{sentence}.*choose volumes"):
            apply_to_nodes(scene, given, result.nodes)
    with pytest.raises(InputError, match="None is no node"):
        apply_to_nodes(scene, None, result.nodes)
    with pytest.raises(InputError, match="the nodes of its registration are needed"):
        apply_to_nodes(scene, points, result.nodes.transform)
    assert nodes_of(scene) == before


def test_a_result_is_used_without_the_nodes_that_were_removed(result) -> None:
    scene, nodes = result.scene, result.nodes
    points, still = good_points(result), markups(result.scene, "Fiducial", random_points(OBLIQUE, 3))
    for node in (nodes.report, nodes.jacobian, nodes.inverse):
        scene.RemoveNode(node)
    assert len(apply_to_nodes(scene, points, nodes).nodes) == 1
    scene.RemoveNode(nodes.moving)
    with pytest.raises(InputError, match="The moving volume of this registration is no longer in the scene"):
        apply_to_nodes(scene, still, nodes, backward=True)
    assert len(apply_to_nodes(scene, points, nodes).nodes) == 1
    scene.RemoveNode(nodes.transform)
    # A node that was removed tells of no scene.
    for told in (scene, nodes.transform.GetScene()):
        with pytest.raises(InputError, match="The transform of this registration is no longer in the scene"):
            apply_to_nodes(told, points, nodes)
