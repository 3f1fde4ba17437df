"""The stand-in's application answers as Slicer's does: dialogs, settings, slice views, sample data, packages."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("slicer")
pytest.importorskip("PySide6.QtWidgets", exc_type=ImportError)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import slicer
import slicerhost
from slicerhost import Host, HostError
from slicerhost_samples import write_module


@pytest.fixture
def host() -> Iterator[Host]:
    with slicerhost.watched() as running:
        yield running


def test_questions_are_answered_as_the_test_said(host: Host) -> None:
    host.dialogs.answer(True, False, True)
    assert slicer.util.confirmOkCancelDisplay("One?") is True
    assert slicer.util.confirmYesNoDisplay("Two?") is False
    assert slicer.util.confirmYesNoDisplay("Three?") is True
    slicer.util.infoDisplay("Done.", windowTitle="News")
    assert [(one.kind, one.text, one.shown) for one in host.dialogs.messages][2:] == [
        ("question", "Three?", True),
        ("info", "Done.", True),
    ]
    host.dialogs.answer(True)
    assert host.complaints() == ["1 answers were prepared, but not asked for"]
    host.dialogs.answers.clear()


def test_testing_mode_shows_nothing_and_asks_nothing(host: Host) -> None:
    host.app.testing = True
    assert not slicer.util.confirmOkCancelDisplay("Sure?")
    slicer.util.warningDisplay("Careful.")
    assert [one.shown for one in host.dialogs.messages] == [False, False]


def test_settings_and_temporary_folders_touch_nothing_of_the_user(host: Host) -> None:
    import qt

    assert slicer.util.settingsValue("HyperPredictReg/x", 5, converter=int) == 5
    qt.QSettings().setValue("HyperPredictReg/x", "7")
    assert slicer.util.settingsValue("HyperPredictReg/x", 5, converter=int) == 7
    folder = Path(slicer.util.tempDirectory())
    assert folder.is_dir()
    assert folder.parent == Path(slicer.app.temporaryPath)


def test_slice_views_show_what_they_are_told(host: Host) -> None:
    first, second = (slicer.util.addVolumeFromArray(np.ones((3, 4, 5)), name=name) for name in "ab")
    slicer.util.setSliceViewerLayers(
        background=first, foreground=second, foregroundOpacity=0.5, fit=True, rotateToVolumePlane=True
    )
    slicer.util.resetSliceViews()
    composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    assert len(composites) == 3
    assert {(one.GetBackgroundVolumeID(), one.GetForegroundVolumeID(), one.GetForegroundOpacity()) for one in composites} == {
        (first.GetID(), second.GetID(), 0.5)
    }
    host.app.has_main_window = False
    assert slicer.app.layoutManager() is None


def test_chart_is_shown_in_the_layout(host: Host) -> None:
    chart = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode")
    slicer.modules.plots.logic().ShowChartInLayout(chart)
    shown = [node.GetPlotChartNodeID() for node in slicer.util.getNodesByClass("vtkMRMLPlotViewNode")]
    assert chart.GetID() in shown


def test_nodes_are_in_the_subject_hierarchy_by_themselves(host: Host) -> None:
    volume = slicer.util.addVolumeFromArray(np.ones((3, 4, 5)), name="a")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    assert hierarchy.GetItemByDataNode(volume) != hierarchy.GetInvalidItemID()
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "Folder")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(volume), folder)
    slicer.mrmlScene.RemoveNode(volume)
    assert hierarchy.GetNumberOfItemChildren(folder) == 0


def test_segmentation_logic_is_the_real_one(host: Host) -> None:
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    volume = slicer.util.addVolumeFromArray(np.ones((4, 5, 6), dtype=np.int16), name="a")
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    name = segmentation.GetSegmentation().AddEmptySegment("ball")
    voxels = np.zeros((4, 5, 6), dtype=np.uint8)
    voxels[1:3, 2:4, 2:5] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(voxels, segmentation, name, volume)
    assert np.array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, name, volume), voxels)


def test_sample_data_is_registered_at_start_and_its_button_works(host: Host, tmp_path: Path) -> None:
    line = "slicer.app.connect('startupCompleted()', registerSampleData)"
    path = write_module(tmp_path, constructor=line)
    path.write_text(
        path.read_text(encoding="utf-8")
        + """

def registerSampleData():
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataCategory("Sample", title=_("Sample"))
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="Sample", sampleName="Pair", uris=["file:a", "file:b"], fileNames=["a", "b"], nodeNames=["A", "B"],
        customDownloader=makeNodes)


def makeNodes(source):
    return [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", name) for name in source.nodeNames]
"""
    )
    host.open_module(path)
    with pytest.raises(HostError, match="No sample data 'Pair'"):
        slicerhost.press_button("Pair")
    host.startup()
    host.startup()
    assert [len(sources) for sources in slicer.modules.sampleDataSources.values()] == [1]
    assert [node.GetName() for node in slicerhost.press_button("Pair")] == ["A", "B"]


@pytest.mark.parametrize(
    ("fields", "error"),
    [({"uris": ["a", "b"], "fileNames": ["a"]}, ValueError), ({}, TypeError), ({"uris": "a", "filenames": "a"}, TypeError),
     ({"uris": "a", "fileNames": "a", "thumbnailFileName": "nowhere.png"}, HostError)],
)  # fmt: skip
def test_bad_sample_data_is_an_error(host: Host, fields: dict[str, Any], error: type[Exception]) -> None:
    import SampleData

    with pytest.raises(error):
        SampleData.SampleDataLogic.registerCustomSampleDataSource(category="Sample", sampleName="Bad", **fields)


def test_packages_are_asked_for_and_never_installed(host: Host, tmp_path: Path) -> None:
    import slicer.packaging

    path = tmp_path / "requirements.txt"
    path.write_text("# what is needed\nnumpy>=1.0\n\nno-such-package>=1  # really\n")
    expected = slicer.packaging.load_requirements(str(path))
    assert slicer.packaging.pip_check("numpy>=1.0")
    assert not slicer.packaging.pip_check("numpy>=1000")
    host.dialogs.answer(False)
    with pytest.raises(RuntimeError, match="declined"):
        slicer.packaging.pip_ensure(expected, requester="Sample")
    assert host.packages.asked == [(["numpy>=1.0", "no-such-package>=1"], "Sample")]
    host.dialogs.answer(True)
    with pytest.raises(HostError, match="installs nothing"):
        slicer.packaging.pip_ensure(expected)
    host.app.testing = True
    slicer.packaging.pip_ensure(expected)


def test_module_is_found_as_others_find_it(host: Host, tmp_path: Path) -> None:
    panel = host.open_module(write_module(tmp_path))
    slicer.util.selectModule("Sample")
    assert host.selected_modules == ["Sample"]
    assert slicer.util.getModuleWidget("Sample") is panel.widget
    assert slicer.util.getModuleLogic("Sample") is panel.logic
    assert slicer.util.modulePath("Sample") == str(panel.path)
    assert slicer.util.getModuleLogic(slicer.modules.transforms).IsA("vtkSlicerTransformLogic")
    with pytest.raises(HostError, match="no module 'Sampel'"):
        slicer.util.selectModule("Sampel")
    panel.close()
    with pytest.raises(RuntimeError, match="Could not find module"):
        slicer.util.getModuleWidget("Sample")


def test_wait_cursor_that_is_left_on_is_reported(host: Host) -> None:
    import qt

    slicer.app.setOverrideCursor(qt.Qt.WaitCursor)
    assert host.complaints() == ["1 wait cursors are left on"]
    slicer.app.restoreOverrideCursor()


def test_file_dialogs_and_addresses_go_to_the_test(host: Host, tmp_path: Path) -> None:
    import qt

    with pytest.raises(HostError, match="asks for a folder"):
        qt.QFileDialog.getExistingDirectory(None, "Where?")
    qt.QFileDialog.answers.append(str(tmp_path))
    assert qt.QFileDialog.getExistingDirectory(None, "Where?") == str(tmp_path)
    qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(tmp_path / "report.html")))
    assert qt.QDesktopServices.opened == [f"file://{tmp_path}/report.html"]
