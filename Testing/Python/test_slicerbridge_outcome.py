"""A registration in a scene that a user works in: nothing of theirs changes, all or nothing comes in, all is found again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import vtk

slicer = pytest.importorskip("slicer", reason="needs slicer-core or Slicer")

from HyperPredictRegLib.core.errors import InputError  # noqa: E402
from HyperPredictRegLib.quality.metrics import jacobian_determinant  # noqa: E402
from HyperPredictRegLib.results.outcome import Outcome  # noqa: E402
from HyperPredictRegLib.results.report import FoldingPercent  # noqa: E402
from HyperPredictRegLib.slicerbridge import outcome_nodes, together  # noqa: E402
from HyperPredictRegLib.slicerbridge.outcome_nodes import (  # noqa: E402
    FIELD_DIFFERENCE,
    INVERSE_RESIDUAL,
    OutcomeNodes,
    add_outcome,
    read_back,
    remove_outcome,
)
from HyperPredictRegLib.slicerbridge.provenance import ENGINE, moved_since  # noqa: E402
from HyperPredictRegLib.slicerbridge.scene import application_logic, open_scene, save_scene  # noqa: E402
from HyperPredictRegLib.slicerbridge.segmentations import from_segmentation_node, to_segmentation_node  # noqa: E402
from HyperPredictRegLib.slicerbridge.tables import TraceNodes  # noqa: E402
from HyperPredictRegLib.slicerbridge.together import ROLE, node_ids_of_runs, report_of  # noqa: E402
from HyperPredictRegLib.slicerbridge.transforms import simple_parts, to_transform_node  # noqa: E402
from HyperPredictRegLib.slicerbridge.volumes import to_volume_node  # noqa: E402
from HyperPredictRegLib.spatial.geometry import Geometry  # noqa: E402
from HyperPredictRegLib.spatial.transforms import displacement_field, inverted, transformed_points  # noqa: E402
from slicerbridge_samples import (  # noqa: E402
    OBLIQUE,
    ROTATION,
    outcome,
    random_points,
    through_node,
)


@pytest.fixture(scope="module")
def done() -> Outcome:
    """A registration with the determinant and the inverse of its own transform."""
    whole = outcome()
    jacobian = jacobian_determinant(displacement_field(whole.transform, OBLIQUE))
    return replace(whole, jacobian=jacobian, inverse=inverted(whole.transform, OBLIQUE))


@pytest.fixture(params=["manually", "as the application"])
def scene(request) -> Iterator[Any]:
    """A scene that makes no subject hierarchy items, and one that makes and removes them by itself, as the application does."""
    made = slicer.vtkMRMLScene()
    with application_logic(made):
        if request.param == "as the application":
            _make_items(made)
        yield made
        made.RemoveAllObservers()


def _make_items(scene: Any) -> None:
    kinds = ("vtkMRMLTransformableNode", "vtkMRMLTableNode", "vtkMRMLTextNode", "vtkMRMLPlotChartNode", "vtkMRMLPlotSeriesNode")

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def added(caller: Any, event: str, node: Any) -> None:
        if any(node.IsA(kind) for kind in kinds):
            hierarchy_of(scene).CreateItem(hierarchy_of(scene).GetSceneItemID(), node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def removed(caller: Any, event: str, node: Any) -> None:
        item = hierarchy_of(scene).GetItemByDataNode(node)
        if item:
            hierarchy_of(scene).RemoveItem(item, False, False)

    scene.AddObserver(scene.NodeAddedEvent, added)
    scene.AddObserver(scene.NodeAboutToBeRemovedEvent, removed)


def hierarchy_of(scene: Any) -> Any:
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)


def given(scene: Any, done: Outcome) -> dict[str, Any]:
    """Add a user's volumes and segmentations, the moving volume in a study."""
    nodes = {
        "fixed_node": to_volume_node(done.fixed, scene, "Atlas"),
        "moving_node": to_volume_node(done.moving, scene, "Ann"),
        "segmentation_node": to_segmentation_node(done.moving_labels, scene, "Parts of Ann", names={17: "Hippocampus"}),
        "fixed_segmentation_node": to_segmentation_node(done.fixed_labels, scene, "Parts of Atlas"),
    }
    hierarchy = hierarchy_of(scene)
    subject = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Patient")
    study = hierarchy.CreateStudyItem(subject, "Study")
    for name, node in nodes.items():
        parent = study if name == "moving_node" else hierarchy.GetSceneItemID()
        if hierarchy.GetItemByDataNode(node):
            hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), parent)
        else:
            hierarchy.CreateItem(parent, node)
    return nodes


def state(scene: Any) -> tuple[list[str], list[tuple[int, str, int]]]:
    """Return all nodes and all subject hierarchy items with their parents."""
    hierarchy, ids = hierarchy_of(scene), vtk.vtkIdList()
    hierarchy.GetItemChildren(hierarchy.GetSceneItemID(), ids, True)
    items = [ids.GetId(n) for n in range(ids.GetNumberOfIds())]
    nodes = sorted(scene.GetNthNode(n).GetID() for n in range(scene.GetNumberOfNodes()))
    return nodes, [(item, hierarchy.GetItemName(item), hierarchy.GetItemParent(item)) for item in items]


def folded(done: Outcome, *, limit_on: str = "foreground") -> Outcome:
    """Plant folded voxels: one inside of the foreground, one outside of it, and one that is not a number inside."""
    voxels = np.abs(sitk.GetArrayFromImage(done.jacobian)) + 0.1
    inside = np.argwhere(sitk.GetArrayFromImage(done.foreground) > 0)
    voxels[tuple(inside[10])], voxels[tuple(inside[40])], voxels[0, 0, 0] = -0.2, np.nan, 0.0
    job = replace(done.report.job, criterion=replace(done.report.job.criterion, domain=limit_on))
    jacobian = Geometry.of(done.jacobian).apply_to(sitk.GetImageFromArray(voxels))
    return replace(done, jacobian=jacobian, report=replace(done.report, job=job))


def test_everything_says_what_it_is_and_of_which_volumes(scene, done) -> None:
    nodes = add_outcome(scene, done, **given(scene, done))
    assert nodes.warped.GetName() == "Ann registered to Atlas"
    assert nodes.transform.GetName() == "Ann to Atlas"
    assert nodes.inverse.GetName() == "Atlas to Ann, inverse"
    assert nodes.propagated_segmentation.GetName() == "Parts of Ann in Atlas space"
    for node in (nodes.jacobian, nodes.structures, nodes.measures, nodes.stages, nodes.report, nodes.registration_trace.chart):
        assert "(Ann to Atlas)" in node.GetName()


def test_what_was_there_is_used_and_not_touched(scene, done) -> None:
    theirs = given(scene, done)
    before = {name: node.GetMTime() for name, node in theirs.items()}
    nodes = add_outcome(scene, done, **theirs)
    assert nodes.fixed_segmentation is theirs["fixed_segmentation_node"]
    assert nodes.moving_segmentation is theirs["segmentation_node"]
    assert {name: node.GetMTime() for name, node in theirs.items()} == before
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 4  # two given, two propagated
    assert all(node.GetAttribute(ROLE) is None for node in theirs.values())
    assert not {node.GetID() for node in theirs.values()} & node_ids_of_runs(scene)


def test_one_folder_lies_beside_the_moving_volume(scene, done) -> None:
    theirs = given(scene, done)
    nodes, hierarchy = add_outcome(scene, done, **theirs), hierarchy_of(scene)
    study = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(theirs["moving_node"]))
    assert hierarchy.GetItemName(study) == "Study"
    folder = hierarchy.GetItemChildWithName(study, "Registration of Ann to Atlas")
    ours = [node for node in nodes.all() if not any(node is other for other in theirs.values())]
    assert len(ours) > 10
    assert {hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) for node in ours} == {folder}


@pytest.mark.parametrize(
    ("room", "broken"),
    [
        (outcome_nodes, "add_report_node"),
        (outcome_nodes, "record_provenance"),
        (outcome_nodes, "put_in_folder"),
        (together, "put_under"),
    ],
)
def test_a_failure_on_the_way_leaves_the_scene_as_it_was(scene, done, monkeypatch, room, broken) -> None:
    theirs = given(scene, done)
    before = state(scene)

    def fail(*arguments: Any, **options: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(room, broken, fail)
    with pytest.raises(MemoryError):
        add_outcome(scene, folded(done), **theirs)
    assert state(scene) == before
    assert not scene.IsBatchProcessing()


def test_views_hear_of_it_once(scene, done) -> None:
    heard: list[str] = []
    scene.AddObserver(scene.EndBatchProcessEvent, lambda *_: heard.append("end"))
    scene.AddObserver(scene.NodeAddedEvent, lambda *_: heard.append("batch" if scene.IsBatchProcessing() else "alone"))
    add_outcome(scene, done)
    assert heard.count("end") == 1 and "alone" not in heard and heard[-1] == "end"


def test_registering_again_adds_a_second_folder(scene, done) -> None:
    theirs = given(scene, done)
    first, second = (add_outcome(scene, done, **theirs) for _ in range(2))
    assert first.warped is not second.warped
    assert first.warped.GetName() != second.warped.GetName()
    assert report_of(first.warped) is first.report and report_of(second.warped) is second.report


def test_removing_one_leaves_the_other_and_what_was_there(scene, done) -> None:
    theirs = given(scene, done)
    before = state(scene)
    first = add_outcome(scene, folded(done), **theirs)
    with_first = state(scene)
    second = add_outcome(scene, folded(done), **theirs)
    remove_outcome(scene, second)
    assert state(scene) == with_first
    remove_outcome(scene, first)
    assert state(scene) == before


def test_a_saved_scene_gives_all_nodes_back(scene, done, tmp_path) -> None:
    theirs = given(scene, done)
    nodes = add_outcome(scene, folded(done), **theirs)
    add_outcome(scene, done, **theirs)
    save_scene(scene, tmp_path / "a.mrb")
    opened = open_scene(tmp_path / "a.mrb")
    back = read_back(opened, opened.GetFirstNodeByName(nodes.report.GetName()))
    for name in (f.name for f in fields(OutcomeNodes)):
        before, after = getattr(nodes, name), getattr(back, name)
        if name == "inverse":
            # Not saved: it would take as much room as the transform, which leads both ways.
            assert after is None
            continue
        if isinstance(before, TraceNodes):
            assert [n.GetName() for n in before.series] == [n.GetName() for n in after.series]
            before, after = before.chart, after.chart
        assert after.GetName() == before.GetName() and after.GetScene() is opened, name


def test_nodes_that_are_gone_come_back_as_none(scene, done) -> None:
    nodes = add_outcome(scene, done, **given(scene, done))
    for node in (nodes.jacobian, nodes.fixed, nodes.registration_trace.table):
        scene.RemoveNode(node)
    back = read_back(scene, nodes.report)
    assert (back.jacobian, back.fixed, back.registration_trace) == (None, None, None)
    assert back.warped is nodes.warped and back.moving is nodes.moving
    with pytest.raises(InputError, match=f"'{back.measures.GetName()}".replace("(", r"\(").replace(")", r"\)")):
        read_back(scene, back.measures)


def test_the_inverse_leads_back_and_says_how_exactly(scene, done) -> None:
    nodes = add_outcome(scene, done)
    points = random_points(OBLIQUE, 300)
    there = transformed_points(done.transform, points)
    assert np.abs(through_node(nodes.inverse, there) - transformed_points(done.inverse, there)).max() < 1e-3  # mm
    # A numerical inverse on voxels of 2 to 3 mm of a field of up to 4 mm; the other direction would be mm away.
    assert np.linalg.norm(through_node(nodes.inverse, there) - points, axis=1).mean() < 0.2  # mm
    assert json.loads(nodes.inverse.GetAttribute(INVERSE_RESIDUAL)) == {"mean": 1.0, "p95": 2.0, "maximum": 3.0}
    assert "misses the start by 1 mm on average over the foreground, by 3 mm at most" in nodes.inverse.GetDescription()
    assert nodes.inverse.GetNodeReference(slicer.vtkMRMLTransformNode.GetFixedNodeReferenceRole()) is nodes.moving


@pytest.mark.parametrize(("spacing", "most_mm"), [(None, 1e-4), (1.0, 0.1), (0.5, 0.05)])
def test_one_field_says_how_far_it_is_from_the_exact_transform(scene, done, spacing, most_mm) -> None:
    """At the voxels of the fixed volume, where it is used."""
    nodes = add_outcome(scene, done, transform_as="field", field_spacing_mm=spacing)
    grid = nodes.transform.GetTransformFromParent()
    assert grid.IsA("vtkOrientedGridTransform")
    edges = [spacing] * 3 if spacing else done.report.working_grid.spacing
    assert grid.GetDisplacementGrid().GetSpacing() == pytest.approx(edges)
    inside = np.argwhere(sitk.GetArrayFromImage(done.foreground) > 0)[:, ::-1]
    points = OBLIQUE.to_lps(inside)
    apart = np.linalg.norm(through_node(nodes.transform, points) - transformed_points(done.transform, points), axis=1)
    stated = json.loads(nodes.transform.GetAttribute(FIELD_DIFFERENCE))
    assert stated["mean"] == pytest.approx(apart.mean(), rel=1e-3, abs=1e-4)
    assert stated["maximum"] == pytest.approx(apart.max(), rel=1e-3, abs=1e-4)
    words = f"by {stated['mean']:.2g} mm on average over the foreground" if spacing else "there it is exact"
    assert words in nodes.transform.GetDescription()
    assert apart.mean() < most_mm and (not spacing or apart.mean() > 0)


@pytest.mark.parametrize("transform_as", ["composite", "field"])
def test_what_a_cubic_reload_changes_is_said_of_the_transform_that_is_stored(done, transform_as) -> None:
    scene = slicer.vtkMRMLScene()
    node = add_outcome(scene, done, transform_as=transform_as).transform
    inside = np.argwhere(sitk.GetArrayFromImage(done.foreground) > 0)[:, ::-1]
    points = OBLIQUE.to_lps(inside + np.random.default_rng(1).uniform(-0.5, 0.5, inside.shape))
    linear = through_node(node, points)
    for part in simple_parts(node.GetTransformFromParent()):
        if part.IsA("vtkGridTransform"):
            part.SetInterpolationModeToCubic()
    moved = np.linalg.norm(through_node(node, points) - linear, axis=1).mean()
    found = re.search(r"moves points of the foreground by (\S+) mm on average", node.GetDescription())
    assert found is not None and float(found[1]) == pytest.approx(moved, rel=0.1)


def test_unknown_ways_to_store_a_transform_are_sentences(scene, done) -> None:
    before = state(scene)
    with pytest.raises(InputError, match="stored as 'bspline': choose composite or field"):
        add_outcome(scene, done, transform_as="bspline")
    with pytest.raises(InputError, match="spacing of the displacement field is 0 mm"):
        add_outcome(scene, done, transform_as="field", field_spacing_mm=0.0)
    assert state(scene) == before


@pytest.mark.parametrize(("domain", "count"), [("foreground", 2), ("grid", 3)])
def test_folded_voxels_are_one_red_segment_in_the_domain_that_is_limited(scene, done, domain, count) -> None:
    nodes = add_outcome(scene, folded(done, limit_on=domain))
    found = from_segmentation_node(nodes.folded_voxels, OBLIQUE)
    assert int((sitk.GetArrayFromImage(found.image) > 0).sum()) == count
    assert list(found.names.values()) == ["Folded"]
    red, green, blue = found.colors[1]
    assert red > 0.8 and max(green, blue) < 0.2
    assert not nodes.folded_voxels.GetDisplayNode().GetVisibility2DFill()


def test_without_folded_voxels_there_is_no_such_segmentation(scene, done) -> None:
    assert add_outcome(scene, outcome()).folded_voxels is None


def test_stages_say_in_plain_words_why_they_stopped(scene, done) -> None:
    trace = replace(done.report.registration[0], stop_reason="Maximum number of iterations (4) exceeded.")
    report = replace(done.report, registration=(trace, *done.report.registration[1:]))
    table = add_outcome(scene, replace(done, report=report)).stages.GetTable()
    assert [table.GetColumnByName("Stage").GetValue(n) for n in range(4)] == ["affine", "affine", "deformable", "deformable"]
    assert [table.GetColumnByName("Iterations").GetValue(n) for n in range(4)] == [5, 3, 4, 7]
    assert table.GetColumnByName("Why it stopped").GetValue(2).startswith("It used all the iterations it was allowed")
    assert table.GetColumnByName("In the optimizer's words").GetValue(2) == trace.stop_reason


def test_a_moving_volume_under_a_transform_is_explained(scene, done) -> None:
    theirs = given(scene, done)
    above, top = (to_transform_node(ROTATION, scene, name) for name in ("First look", "Scanner"))
    theirs["moving_node"].SetAndObserveTransformNodeID(above.GetID())
    nodes = add_outcome(scene, done, **theirs)
    assert "put 'First look' under this transform" in nodes.transform.GetDescription()
    above.SetAndObserveTransformNodeID(top.GetID())
    # Under this one alone, the upper one would no longer count.
    assert "put 'Scanner' under this transform" in add_outcome(scene, done, **theirs).transform.GetDescription()
    assert nodes.warped.GetParentTransformNode() is None and theirs["moving_node"].GetParentTransformNode() is above


@pytest.mark.parametrize(("percent", "says"), [(0.5, None), (0.6, "0.6 % of"), (12.34, "12.3 % of"), (100.0, "100 % of")])
@pytest.mark.parametrize("transform_as", ["composite", "field"])
def test_many_folded_voxels_are_said_on_what_was_moved(done, percent, says, transform_as) -> None:
    scene = slicer.vtkMRMLScene()
    measured = replace(done.report.measured, folding_percent=FoldingPercent(percent, 0.2))
    with application_logic(scene):
        nodes = add_outcome(scene, replace(done, report=replace(done.report, measured=measured)), transform_as=transform_as)
    for node in (nodes.transform, nodes.inverse, nodes.warped, nodes.propagated_segmentation):
        text = node.GetDescription() or ""
        assert ("near folded voxels neither the image nor its segments can be relied on" in text) == (says is not None), text
        assert says is None or says in text
    assert "misses the start by" in nodes.inverse.GetDescription()
    assert not nodes.fixed.GetDescription()


def test_the_places_of_registration_are_those_of_the_images(scene, done) -> None:
    """Not those of the nodes, which may have been moved while it ran; and they are found again in a saved scene."""
    theirs = given(scene, done)
    theirs["moving_node"].SetOrigin(1.0, 2.0, 3.0)
    nodes = add_outcome(scene, done, **theirs)
    report = read_back(scene, nodes.report).report
    assert moved_since(report, "fixed", nodes.fixed) is None
    assert "'Ann' lies elsewhere" in moved_since(report, "moving", nodes.moving)


def test_the_warped_volume_looks_like_the_moving_one(scene, done) -> None:
    theirs = given(scene, done)
    display = theirs["moving_node"].GetDisplayNode()
    display.AutoWindowLevelOff()
    display.SetWindowLevel(33.0, 21.0)
    shown = add_outcome(scene, done, **theirs).warped.GetDisplayNode()
    assert (shown.GetWindow(), shown.GetLevel(), shown.GetAutoWindowLevel()) == (33.0, 21.0, 0)


def test_outputs_know_run_role_and_engine(scene, done) -> None:
    nodes = add_outcome(scene, done, **given(scene, done))
    for role, node in nodes.by_role().items():
        if role in ("fixed", "moving", "fixed_segmentation", "moving_segmentation"):
            continue
        assert node.GetAttribute(ROLE) == role and node.GetAttribute(ENGINE) == "demons 1", role
