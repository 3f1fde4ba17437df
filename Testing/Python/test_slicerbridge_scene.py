"""A finished registration as a scene bundle, provenance and tables; and Slicer's traps around them."""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import vtk

slicer = pytest.importorskip("slicer", reason="needs slicer-core or Slicer")

from HyperPredictRegLib.core.errors import InputError  # noqa: E402
from HyperPredictRegLib.slicerbridge.applying import apply_to_nodes  # noqa: E402
from HyperPredictRegLib.slicerbridge.outcome_nodes import add_outcome, read_back  # noqa: E402
from HyperPredictRegLib.slicerbridge.provenance import ENGINE, SEED, SETTING, VERSIONS, add_report_node, read_report_node  # noqa: E402
from HyperPredictRegLib.slicerbridge.scene import application_logic, open_scene, save_scene, write_scene  # noqa: E402
from HyperPredictRegLib.slicerbridge.segmentations import from_segmentation_node, to_segmentation_node  # noqa: E402
from HyperPredictRegLib.slicerbridge.showing import show_deformation  # noqa: E402
from HyperPredictRegLib.slicerbridge.tables import add_table_node, add_trace  # noqa: E402
from HyperPredictRegLib.slicerbridge.together import drop_items_without_node  # noqa: E402
from HyperPredictRegLib.slicerbridge.transforms import cubic_reload_difference_mm, restore_linear_interpolation, to_transform_node  # noqa: E402
from HyperPredictRegLib.slicerbridge.volumes import from_volume_node, to_volume_node, volume_geometry  # noqa: E402
from HyperPredictRegLib.spatial.geometry import Geometry  # noqa: E402
from HyperPredictRegLib.spatial.transforms import field_of, field_transform, transformed_points  # noqa: E402
from slicerbridge_samples import (  # noqa: E402
    OBLIQUE,
    ROTATION,
    field,
    image,
    outcome,
    random_points,
    through_node,
    vtk_errors_fail,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The path of a written scene."""
    path = tmp_path_factory.mktemp("scene") / "registration.mrb"
    with vtk_errors_fail():
        write_scene(outcome(), path)
    return path


@pytest.fixture(scope="module")
def opened(bundle):
    """The written scene, read again."""
    with vtk_errors_fail():
        return open_scene(bundle)


def named(scene, name: str):
    node = scene.GetFirstNodeByName(name)
    assert node is not None, name
    return node


@pytest.mark.parametrize("name, part", [("Fixed", "fixed"), ("Moving", "moving"), ("Moving registered to Fixed", "warped")])
def test_volumes_come_back(opened, name, part) -> None:
    original = getattr(outcome(), part)
    node = named(opened, name)
    assert np.array_equal(sitk.GetArrayFromImage(from_volume_node(node)), sitk.GetArrayFromImage(original))
    assert volume_geometry(node).matches(OBLIQUE, 1e-6)
    assert node.GetParentTransformNode() is None


def test_the_transform_comes_back_linear_with_its_images(opened) -> None:
    node, points = named(opened, "Moving to Fixed"), random_points(OBLIQUE)
    assert np.abs(through_node(node, points) - transformed_points(outcome().transform, points)).max() <= 1e-3
    roles = slicer.vtkMRMLTransformNode
    assert node.GetNodeReference(roles.GetFixedNodeReferenceRole()).GetName() == "Fixed"
    assert node.GetNodeReference(roles.GetMovingNodeReferenceRole()).GetName() == "Moving"


def test_the_transform_says_what_a_plain_reload_costs(opened) -> None:
    text = named(opened, "Moving to Fixed").GetDescription()
    mean, most = (float(word) for word in re.findall(r"([\d.e-]+) mm", text))
    grid_points = random_points(OBLIQUE, margin_voxels=1.0)
    apart = cubic_reload_difference_mm(outcome().transform, grid_points)
    assert 0.3 * apart.mean() < mean < 3 * apart.mean()
    assert apart.max() / 3 < most < 3 * apart.max()


@pytest.mark.parametrize("name, part", [
    ("Segmentation of Fixed", "fixed_labels"),
    ("Segmentation of Moving", "moving_labels"),
    ("Segmentation of Moving in Fixed space", "warped_labels"),
])
def test_segmentations_come_back(opened, name, part) -> None:
    back = from_segmentation_node(named(opened, name), OBLIQUE)
    assert np.array_equal(sitk.GetArrayFromImage(back.image), sitk.GetArrayFromImage(getattr(outcome(), part)))
    assert back.names == {3: "Links <&> ö", 17: "Right", 300: "Label 300"}


def test_the_report_comes_back_whole(opened) -> None:
    assert read_report_node(named(opened, "Registration report (Moving to Fixed)")) == outcome().report


def test_outputs_say_where_they_came_from_and_inputs_do_not(opened) -> None:
    for name in (
        "Moving registered to Fixed", "Moving to Fixed", "Segmentation of Moving in Fixed space", "Structures (Moving to Fixed)",
        "Jacobian determinant (Moving to Fixed)", "Stages (Moving to Fixed)",
    ):
        node = named(opened, name)
        assert node.GetAttribute(ENGINE) == "demons 1"
        assert json.loads(node.GetAttribute(SETTING)) == {"regularization_weight": 1.5}
        assert node.GetAttribute(SEED) == "99"
        assert json.loads(node.GetAttribute(VERSIONS)) == {"SimpleITK": "2.5"}
    assert all(named(opened, name).GetAttribute(ENGINE) is None for name in ("Fixed", "Moving", "Segmentation of Moving"))


def test_a_displacement_field_is_saved_once(tmp_path) -> None:
    """Slicer writes fields uncompressed, 24 bytes a voxel: the inverse and the grid's picture would each take as much again."""
    scene, done = slicer.vtkMRMLScene(), outcome()
    with application_logic(scene):
        nodes = add_outcome(scene, done)
        shown = show_deformation(nodes.transform, nodes.fixed, scene)
        with vtk_errors_fail():
            save_scene(scene, tmp_path / "a.mrb")
            opened = open_scene(tmp_path / "a.mrb")
        # What is open stays as it is.
        assert nodes.inverse.GetScene() is scene and shown.GetDisplayNode().GetVisibility2D()
    with zipfile.ZipFile(tmp_path / "a.mrb") as bundle:
        sizes = {entry.filename: entry.file_size for entry in bundle.infolist() if entry.filename.endswith(".h5")}
    fields = {name: size for name, size in sizes.items() if "affine only" not in name}
    voxels = np.prod(field_of(done.transform).GetSize())
    assert list(fields) == ["a/Data/Moving to Fixed.h5"]
    assert fields["a/Data/Moving to Fixed.h5"] < 24 * voxels + 50_000
    assert opened.GetNumberOfNodesByClass("vtkMRMLTransformNode") == 2  # of the result, and affine only
    assert opened.GetNumberOfNodesByClass("vtkMRMLTransformDisplayNode") == 0


def test_what_is_not_saved_is_not_listed_either_and_made_anew_on_demand(tmp_path) -> None:
    scene, done = slicer.vtkMRMLScene(), outcome()
    with application_logic(scene):
        nodes = add_outcome(scene, done)
        show_deformation(nodes.transform, nodes.fixed, scene)
        save_scene(scene, tmp_path / "a.mrb")
    opened = open_scene(tmp_path / "a.mrb")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(opened)
    items = vtk.vtkIdList()
    hierarchy.GetItemChildren(hierarchy.GetSceneItemID(), items, True)
    names = [hierarchy.GetItemName(items.GetId(n)) for n in range(items.GetNumberOfIds())]
    assert "Moving to Fixed" in names and not any("inverse" in name or "alone" in name for name in names)
    assert "Registration of Moving to Fixed" in names
    assert drop_items_without_node(opened) == 0
    back = read_back(opened, named(opened, "Registration report (Moving to Fixed)"))
    assert back.inverse is None
    points = random_points(OBLIQUE, 100)
    alone = transformed_points(field_transform(field_of(done.transform)), points)
    again = show_deformation(back.transform, back.fixed, opened)
    assert np.abs(through_node(again, points) - alone).max() < 1e-4  # mm
    applied = opened.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Tip")
    applied.AddControlPoint(*(points[0] * (-1, -1, 1)))
    (there,) = apply_to_nodes(opened, [applied], back, backward=True).nodes
    expected = transformed_points(done.transform, points[:1])[0]
    assert np.array(there.GetNthControlPointPosition(0)) * (-1, -1, 1) == pytest.approx(expected, abs=1e-3)  # mm


def test_the_table_of_structures_comes_back_with_its_types(opened) -> None:
    table = named(opened, "Structures (Moving to Fixed)").GetTable()
    assert table.GetNumberOfRows() == 2
    assert table.GetColumnByName("Structure").GetValue(0) == "Links <&> ö"
    assert table.GetColumnByName("Label").GetValue(1) == 17
    assert table.GetColumnByName("Dice").GetValue(0) == 0.8
    assert np.isnan(table.GetColumnByName("HD95 (mm)").GetValue(0))
    assert table.GetColumnByName("HD95 (mm)").GetValue(1) == 2.5


def test_charts_come_back_with_a_curve_for_each_level(opened) -> None:
    chart = named(opened, "Registration metric (Moving to Fixed) chart")
    assert chart.GetNumberOfPlotSeriesNodes() == 2
    second = chart.GetNthPlotSeriesNode(1)
    table = second.GetTableNode().GetTable()
    x, y = table.GetColumnByName(second.GetXColumnName()), table.GetColumnByName(second.GetYColumnName())
    assert [x.GetValue(n) for n in range(x.GetNumberOfTuples())] == [5, 6, 7, 8, 9, 10, 11]
    assert [y.GetValue(n) for n in range(7)] == pytest.approx(outcome().report.registration[1].values)
    trace = named(opened, "Registration metric (Moving to Fixed)").GetTable()
    assert trace.GetNumberOfRows() == 4 + 7
    assert trace.GetColumnByName("Stage").GetValue(10) == "deformable"


def test_everything_lies_in_one_folder(opened) -> None:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(opened)
    folder = hierarchy.GetItemChildWithName(hierarchy.GetSceneItemID(), "Registration of Moving to Fixed")
    assert folder != hierarchy.GetInvalidItemID()
    for name in (
        "Fixed", "Moving registered to Fixed", "Moving to Fixed", "Segmentation of Moving in Fixed space",
        "Registration report (Moving to Fixed)",
    ):
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(named(opened, name))) == folder


def test_slice_views_will_show_the_warped_volume_over_the_fixed_one(opened) -> None:
    composites = opened.GetNodesByClass("vtkMRMLSliceCompositeNode")
    shown = {composites.GetItemAsObject(n).GetLayoutName(): composites.GetItemAsObject(n) for n in range(3)}
    assert set(shown) == {"Red", "Yellow", "Green"}
    for composite in shown.values():
        assert composite.GetBackgroundVolumeID() == named(opened, "Fixed").GetID()
        assert composite.GetForegroundVolumeID() == named(opened, "Moving registered to Fixed").GetID()


def test_the_bundle_is_a_zip_with_relative_paths_only(bundle) -> None:
    with zipfile.ZipFile(bundle) as archive:
        assert archive.testzip() is None
        assert {name.split("/")[0] for name in archive.namelist()} == {"registration"}
        mrml = next(archive.read(name).decode() for name in archive.namelist() if name.endswith(".mrml"))
    assert str(bundle.parent) not in mrml
    assert [p.name for p in bundle.parent.iterdir()] == [bundle.name]


def test_registrations_without_labels_or_trace_make_scenes_too(tmp_path) -> None:
    whole = outcome()
    report = replace(
        whole.report,
        registration=(),
        measured=replace(whole.report.measured, dice=None),
        alignment=replace(whole.report.alignment, stages=()),
    )
    bare = replace(whole, report=report, fixed_labels=None, moving_labels=None, warped_labels=None, label_names={})
    write_scene(bare, tmp_path / "bare.mrb")
    scene = open_scene(tmp_path / "bare.mrb")
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0
    assert scene.GetNumberOfNodesByClass("vtkMRMLPlotChartNode") == 0
    assert scene.GetFirstNodeByName("Structures (Moving to Fixed)") is None
    assert named(scene, "Measures (Moving to Fixed)").GetTable().GetNumberOfRows() == 11


def test_existing_volumes_are_used_and_left_alone() -> None:
    scene = slicer.vtkMRMLScene()
    with application_logic(scene):
        fixed, moving = to_volume_node(image(), scene, "My fixed"), to_volume_node(image(seed=6), scene, "My moving")
        nodes = add_outcome(scene, outcome(), fixed_node=fixed, moving_node=moving)
    assert nodes.fixed is fixed
    assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 5
    assert nodes.moving.GetParentTransformNode() is None
    assert nodes.warped.GetParentTransformNode() is None
    assert fixed.GetAttribute(ENGINE) is None
    assert nodes.transform.GetNodeReferenceID(slicer.vtkMRMLTransformNode.GetFixedNodeReferenceRole()) == fixed.GetID()


def test_a_segmentation_node_is_applied_with_its_segments() -> None:
    scene, done = slicer.vtkMRMLScene(), outcome()
    with application_logic(scene):
        moving = to_volume_node(done.moving, scene, "My moving")
        mine = to_segmentation_node(done.moving_labels, scene, "Mine", names={17: "Hippocampus"})
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        study = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "My study")
        hierarchy.CreateItem(study, mine)
        nodes = add_outcome(scene, done, moving_node=moving, segmentation_node=mine)
    assert nodes.moving_segmentation is mine
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(mine)) == study
    before, after = (node.GetSegmentation() for node in (mine, nodes.propagated_segmentation))
    assert after.GetNumberOfSegments() == before.GetNumberOfSegments() > 0
    for number in range(before.GetNumberOfSegments()):
        assert after.GetNthSegmentID(number) == before.GetNthSegmentID(number)
        assert after.GetNthSegment(number).GetName() == before.GetNthSegment(number).GetName()
    direct = from_segmentation_node(nodes.propagated_segmentation, Geometry.of(done.fixed)).image
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(direct) != 0, sitk.GetArrayFromImage(done.warped_labels) != 0
    )


def test_a_file_in_the_way_is_replaced_and_a_failure_leaves_it(tmp_path, vtk_errors) -> None:
    path = tmp_path / "a.mrb"
    path.write_text("old", encoding="utf-8")
    write_scene(outcome(), path)
    assert zipfile.is_zipfile(path)
    with pytest.raises(InputError, match=r"ends with \.mrb"):
        write_scene(outcome(), tmp_path / "a.zip")
    with pytest.raises(OSError):
        write_scene(outcome(), tmp_path / "nowhere" / "a.mrb")


def test_scenes_that_cannot_be_read_are_named(tmp_path, vtk_errors) -> None:
    with pytest.raises(InputError, match="does not exist"):
        open_scene(tmp_path / "missing.mrb")
    before = Path.cwd()
    with zipfile.ZipFile(tmp_path / "empty.mrb", "w") as archive:
        archive.writestr("a/readme.txt", "no scene")
    for name in ("broken.mrb", "broken.mrml", "empty.mrb"):
        if name.startswith("broken"):
            (tmp_path / name).write_text("nothing", encoding="utf-8")
        with pytest.raises(InputError, match=f"{name}' could not be read"):
            open_scene(tmp_path / name)
        assert Path.cwd() == before
    # Slicer logs the broken file as an error, and so it should.
    vtk_errors.clear()


def test_bundles_need_the_logic_to_be_read(bundle, vtk_errors) -> None:
    """The trap: without a cache folder and a data manager a scene cannot unpack a bundle."""
    assert not slicer.vtkMRMLScene().ReadFromMRB(str(bundle))
    vtk_errors.clear()


def test_scene_files_without_a_bundle_open_too(tmp_path, bundle) -> None:
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path)
    scene = open_scene(tmp_path / "registration" / "registration.mrml")
    assert np.array_equal(
        sitk.GetArrayFromImage(from_volume_node(named(scene, "Fixed"))), sitk.GetArrayFromImage(outcome().fixed)
    )
    grid = named(scene, "Moving to Fixed").GetTransformFromParent().GetConcatenatedTransform(0)
    assert grid.GetInterpolationModeAsString() == "Linear"


def test_grids_are_linear_after_a_scene_is_opened(tmp_path) -> None:
    scene = slicer.vtkMRMLScene()
    with application_logic(scene):
        to_transform_node(field_transform(field()), scene, "t")
        save_scene(scene, tmp_path / "a.mrb")
    grid = named(open_scene(tmp_path / "a.mrb"), "t").GetTransformFromParent()
    assert grid.GetInterpolationModeAsString() == "Linear"


def test_only_our_grids_are_restored_where_slicer_opened_the_scene(tmp_path) -> None:
    scene = slicer.vtkMRMLScene()
    with application_logic(scene):
        for name in ("ours", "foreign"):
            to_transform_node(field_transform(field()), scene, name)
        scene.GetFirstNodeByName("foreign").RemoveAttribute("HyperPredictReg.interpolation")
        save_scene(scene, tmp_path / "a.mrb")

    def modes(within) -> list[str]:
        nodes = [named(within, name).GetTransformFromParent() for name in ("ours", "foreign")]
        return [node.GetInterpolationModeAsString() for node in nodes]

    as_slicer = slicer.vtkMRMLScene()
    with application_logic(as_slicer):
        assert as_slicer.ReadFromMRB(str(tmp_path / "a.mrb"))
    assert modes(as_slicer) == ["Cubic", "Cubic"]
    assert restore_linear_interpolation(as_slicer) == 1
    assert modes(as_slicer) == ["Linear", "Cubic"]


def test_clones_keep_their_parent_transform_and_warped_volumes_have_none() -> None:
    """The trap: a warped clone of a volume under a transform would be moved twice."""
    scene = slicer.vtkMRMLScene()
    with application_logic(scene) as logic:
        moving = to_volume_node(image(), scene, "Moving")
        moving.SetAndObserveTransformNodeID(to_transform_node(ROTATION, scene, "t").GetID())
        volumes = slicer.vtkSlicerVolumesLogic()
        volumes.SetMRMLApplicationLogic(logic)
        assert volumes.CloneVolume(scene, moving, "Clone").GetParentTransformNode() is not None
        nodes = add_outcome(scene, outcome(), moving_node=moving)
    assert nodes.warped.GetParentTransformNode() is None
    assert moving.GetParentTransformNode().GetName() == "t"


def test_reports_that_are_none_are_named() -> None:
    scene = slicer.vtkMRMLScene()
    node = add_report_node(scene, outcome().report)
    node.SetText("{}")
    with pytest.raises(InputError, match="The text 'Registration report' lacks"):
        read_report_node(node)


def test_empty_traces_make_no_chart() -> None:
    scene = slicer.vtkMRMLScene()
    assert add_trace(scene, (), "Metric") is None
    assert scene.GetNumberOfNodesByClass("vtkMRMLPlotChartNode") == 0


def test_tables_keep_rows_in_order() -> None:
    node = add_table_node(slicer.vtkMRMLScene(), "a", {"n": [3, 1, 2], "x": [0.5, None, 2.0], "s": ["a", "", "ö"]})
    table = node.GetTable()
    assert [table.GetColumnByName("n").GetValue(n) for n in range(3)] == [3, 1, 2]
    assert np.isnan(table.GetColumnByName("x").GetValue(1))
    assert table.GetColumnByName("s").GetValue(2) == "ö"
