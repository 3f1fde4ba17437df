"""Which nodes belong to which result: after an import of the same scene, beside copies, and where nodes are gone."""

from __future__ import annotations

from typing import Any

import pytest

slicer = pytest.importorskip("slicer", reason="needs slicer-core or Slicer")

from HyperPredictRegLib.core.errors import InputError  # noqa: E402
from HyperPredictRegLib.slicerbridge.outcome_nodes import OutcomeNodes, add_outcome, read_back, remove_outcome  # noqa: E402
from HyperPredictRegLib.slicerbridge.predictions import add_prediction, prediction_nodes_of  # noqa: E402
from HyperPredictRegLib.slicerbridge.scene import save_scene  # noqa: E402
from HyperPredictRegLib.slicerbridge.showing import checkerboard, show_deformation  # noqa: E402
from HyperPredictRegLib.slicerbridge.together import node_ids_of_runs, nodes_of_run, report_of  # noqa: E402
from HyperPredictRegLib.slicerbridge.volumes import to_volume_node  # noqa: E402
from reporting_samples import make_prediction  # noqa: E402
from slicerbridge_samples import outcome  # noqa: E402


@pytest.fixture
def nodes(scene: Any) -> OutcomeNodes:
    """Return a result of volumes that were in the scene already."""
    done = outcome()
    fixed, moving = to_volume_node(done.fixed, scene, "Atlas"), to_volume_node(done.moving, scene, "Ann")
    return add_outcome(scene, done, fixed_node=fixed, moving_node=moving)


def ids(scene: Any) -> set[str]:
    return {scene.GetNthNode(n).GetID() for n in range(scene.GetNumberOfNodes())}


def copy_of(node: Any) -> Any:
    """Return a copy of a node with its attributes and references, as Slicer's 'Clone' makes it."""
    clone = node.GetScene().AddNewNodeByClass(node.GetClassName(), "Copy")
    clone.Copy(node)
    return clone


@pytest.mark.parametrize("gone", [False, True])
def test_a_scene_imported_on_top_of_itself_holds_two_results(scene, nodes, tmp_path, gone) -> None:
    board, alone = checkerboard(nodes.fixed, nodes.warped, scene), show_deformation(nodes.transform, nodes.fixed, scene)
    prediction = add_prediction(scene, make_prediction())
    if gone:
        # A reference that was left behind could come to mean another node after the import.
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        hierarchy.RemoveItem(hierarchy.GetItemByDataNode(nodes.jacobian), False, False)
        scene.RemoveNode(nodes.jacobian)
    before = ids(scene)
    save_scene(scene, tmp_path / "a.mrb")
    assert scene.ReadFromMRB(str(tmp_path / "a.mrb"), False)
    new = ids(scene) - before
    (second,) = [node for node in (scene.GetNodeByID(one) for one in new) if node.GetName() == nodes.report.GetName()]
    first = read_back(scene, nodes.report).by_role()
    back = read_back(scene, second)
    # The inverse is not saved with a scene: the transform leads both ways.
    assert set(back.by_role()) == set(first) - {"inverse"} and {node.GetID() for node in back.all()} <= new
    assert not {node.GetID() for node in first.values()} & new
    assert (back.jacobian is None) == gone
    assert checkerboard(nodes.fixed, nodes.warped, scene) is board
    assert checkerboard(back.fixed, back.warped, scene).GetID() in new
    assert show_deformation(nodes.transform, nodes.fixed, scene) is alone
    # Nor is the grid's own field saved: the second result gets one of its own.
    assert show_deformation(back.transform, back.fixed, scene).GetID() not in before
    texts = [scene.GetNthNodeByClass(n, "vtkMRMLTextNode") for n in range(scene.GetNumberOfNodesByClass("vtkMRMLTextNode"))]
    (other,) = [one for one in texts if one.GetName() == prediction.report.GetName() and one is not prediction.report]
    assert {node.GetID() for node in prediction_nodes_of(other).all()} <= new
    fixed, moving = back.fixed, back.moving
    remove_outcome(scene, back)
    assert set(read_back(scene, nodes.report).by_role()) == set(first)
    assert fixed.GetScene() is scene and moving.GetScene() is scene


def test_a_copy_of_a_result_belongs_to_nothing_and_stays(scene, nodes) -> None:
    copies = [copy_of(node) for node in (nodes.propagated_segmentation, nodes.transform, nodes.report, nodes.warped)]
    assert not {node.GetID() for node in copies} & node_ids_of_runs(scene)
    assert [report_of(node) for node in copies] == [None] * 4
    assert report_of(nodes.warped) is nodes.report
    with pytest.raises(InputError, match="is no report of a registration"):
        read_back(scene, copies[2])
    remove_outcome(scene, nodes)
    assert all(node.GetScene() is scene for node in copies)
    assert node_ids_of_runs(scene) == set()


def test_what_runs_made_is_told_from_what_they_were_made_of(scene, nodes) -> None:
    prediction, done = add_prediction(scene, make_prediction()), outcome()
    board = checkerboard(nodes.fixed, nodes.warped, scene)
    # The result of one is the input of another.
    second = add_outcome(scene, done, fixed_node=nodes.fixed, moving_node=nodes.warped)
    theirs = (nodes.fixed, nodes.moving)
    made = [board, *prediction.all(), *(n for n in (*nodes.all(), *second.all()) if not any(n is one for one in theirs))]
    assert node_ids_of_runs(scene) == {node.GetID() for node in made}
    assert report_of(nodes.warped) is nodes.report
    remove_outcome(scene, second)
    assert nodes.warped.GetScene() is scene and read_back(scene, nodes.report).warped is nodes.warped
    remove_outcome(scene, nodes)
    assert board.GetScene() is None and all(node.GetScene() is scene for node in theirs)
    assert node_ids_of_runs(scene) == {node.GetID() for node in prediction.all()}


def test_volumes_that_a_run_brought_along_go_with_it(scene) -> None:
    nodes = add_outcome(scene, outcome())
    assert nodes.fixed.GetID() in node_ids_of_runs(scene)
    remove_outcome(scene, nodes)
    assert nodes.fixed.GetScene() is None


def test_nodes_that_are_gone_are_left_out(scene, nodes) -> None:
    scene.RemoveNode(nodes.jacobian)
    later = to_volume_node(outcome().fixed, scene, "Later")
    found = nodes_of_run(nodes.warped)
    assert "jacobian" not in found and not any(node is later for node in found.values())
    copy_of(nodes.report)
    scene.RemoveNode(nodes.report)
    assert nodes_of_run(nodes.warped) == {} and nodes_of_run(nodes.report) == {} and node_ids_of_runs(scene) == set()
    with pytest.raises(InputError, match="no longer in the scene: remove the rest of its result one by one"):
        remove_outcome(scene, nodes)
