"""Tasks on nodes: they begin at once, copy each input once, name what goes wrong, and read nothing back that is in the scene."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

slicer = pytest.importorskip("slicer", reason="needs slicer-core or Slicer")

from HyperPredictRegLib.core.errors import Cancelled, InputError  # noqa: E402
from HyperPredictRegLib.results.exchange import read_prediction, save_prediction, write_rest  # noqa: E402
from HyperPredictRegLib.results.outcome import Outcome, Result  # noqa: E402
from HyperPredictRegLib.results.results_folder import write_files  # noqa: E402
from HyperPredictRegLib.slicerbridge import request as requests  # noqa: E402
from HyperPredictRegLib.slicerbridge import task as tasks  # noqa: E402
from HyperPredictRegLib.slicerbridge.predictions import add_prediction  # noqa: E402
from HyperPredictRegLib.slicerbridge.provenance import read_report_node  # noqa: E402
from HyperPredictRegLib.slicerbridge.request import Request  # noqa: E402
from HyperPredictRegLib.slicerbridge.segmentations import to_segmentation_node  # noqa: E402
from HyperPredictRegLib.slicerbridge.task import Task, deliver_outcome, deliver_prediction  # noqa: E402
from HyperPredictRegLib.slicerbridge.transforms import to_transform_node  # noqa: E402
from HyperPredictRegLib.slicerbridge.volumes import to_volume_node  # noqa: E402
from HyperPredictRegLib.worker import Ending  # noqa: E402
from reporting_samples import make_prediction  # noqa: E402
from slicerbridge_samples import ROTATION, outcome  # noqa: E402


class DoneChild:
    """Stands for a child process that has done its work."""

    ending: Ending | None = Ending("done", "", "", False)
    log = ""

    def __init__(self, kind: str, path: Path, *, workplace: Path) -> None:
        self.path = path

    def poll(self) -> list[Any]:
        return []

    def wait(self, on_event: Any = None) -> None:
        """Nothing is waited for."""

    def kill(self) -> None:
        """Nothing runs."""


class BusyChild(DoneChild):
    """Stands for a child process that still works."""

    ending = None


@dataclass
class Begun:
    """A pair in a scene, and what would come out of it."""

    scene: Any
    request: Request
    done: Outcome

    def copied(self, kind: str = "register", **changes: Any) -> Task:
        """Return a task whose inputs are copied."""
        task = Task(kind, replace(self.request, **changes))
        while task.job is None and task.ending is None:
            task.poll()
        return task


@pytest.fixture
def begun(scene, monkeypatch) -> Iterator[Begun]:
    monkeypatch.setattr(tasks, "Child", DoneChild)
    done = outcome()
    request = Request(
        fixed=to_volume_node(done.fixed, scene, "Atlas"),
        moving=to_volume_node(done.moving, scene, "Ann"),
        fixed_segmentation=to_segmentation_node(done.fixed_labels, scene, "Parts of Atlas"),
        moving_segmentation=to_segmentation_node(done.moving_labels, scene, "Parts of Ann"),
    )
    yield Begun(scene, request, done)


def test_tasks_of_an_unknown_kind_do_not_start(begun) -> None:
    with pytest.raises(InputError, match="no task 'foo': choose register or predict"):
        Task("foo", begun.request)


def test_nothing_is_copied_before_the_first_poll_and_each_volume_once(begun, monkeypatch) -> None:
    copied = []

    def noted(node: Any, *arguments: Any) -> sitk.Image:
        copied.append(node.GetName())
        return original(node, *arguments)

    original = requests.from_volume_node
    monkeypatch.setattr(requests, "from_volume_node", noted)
    # So that each call does one piece, as with large volumes.
    monkeypatch.setattr(tasks, "_PATIENCE_SECONDS", -1.0)
    task = Task("register", begun.request)
    assert (copied, task.job, task.ending, task.log) == ([], None, None, "")
    told = []
    while task.job is None:
        done = len(copied)
        told += [event.message for event in task.poll()]
        assert len(copied) - done <= 1
    assert told == ["copying 'Atlas'", "copying 'Ann'", "copying what belongs to the volumes"]
    assert copied == ["Atlas", "Ann"]
    folder = task.folder.parent
    task.close()
    assert not folder.exists()


def test_a_task_knows_its_inputs_as_they_were(begun) -> None:
    register, predict = begun.copied(), begun.copied("predict")
    assert register.given.moving is begun.request.moving and predict.given.start is None
    assert register.given.start.segmentations.keys() == {"fixed_segmentation", "moving_segmentation"}
    with pytest.raises(InputError, match="This is no prediction but a registration"):
        register.prediction()
    for role in ("moving", "fixed"):
        node = getattr(begun.request, role)
        begun.scene.RemoveNode(node)
        for fetch in (register.outcome, predict.prediction):
            with pytest.raises(InputError, match=f"The {role} volume '{node.GetName()}' was removed from the scene while"):
                fetch()
        begun.scene.AddNode(node)
    register.close()
    predict.close()


def test_a_result_can_be_had_at_the_end_only(begun, monkeypatch) -> None:
    monkeypatch.setattr(tasks, "Child", BusyChild)
    for task in (Task("register", begun.request), begun.copied()):
        with pytest.raises(InputError, match="still runs: wait for its end"):
            task.outcome()
        task.close()


@pytest.mark.parametrize("how", ["constant", "moved"])
def test_what_shows_while_copying_ends_the_task_with_a_sentence(begun, how, monkeypatch) -> None:
    monkeypatch.setattr(tasks, "_PATIENCE_SECONDS", -1.0)
    changes, sentence = {}, "A volume was moved, or a mask changed, while the volumes were copied"
    if how == "constant":
        changes["moving"] = to_volume_node(begun.done.moving * 0, begun.scene, "Flat")
        sentence = "The moving volume 'Flat' is constant"
    task = Task("register", replace(begun.request, **changes))
    task.poll()
    if how == "moved":
        begun.request.fixed.SetAndObserveTransformNodeID(to_transform_node(ROTATION, begun.scene, "Later").GetID())
    with pytest.raises(InputError, match=sentence):
        task.wait()
    assert (task.ending.outcome, task.ending.bad_input) == ("failed", True)
    assert task.ending.sentence.startswith(sentence)
    assert not task.folder.parent.exists()


def test_a_task_is_cancelled_before_it_has_copied_anything(begun) -> None:
    task = Task("predict", begun.request)
    folder = task.folder.parent
    task.cancel()
    assert task.ending.outcome == "cancelled" and not folder.exists() and task.poll() == []
    with pytest.raises(Cancelled, match="The prediction was cancelled"):
        task.wait()


def test_a_prediction_of_the_scene_is_taken_by_a_registration(begun) -> None:
    prediction = make_prediction()
    node = add_prediction(begun.scene, prediction).report
    task, predict = begun.copied(prediction=node), begun.copied("predict", prediction=node)
    assert read_prediction(Path(task.job.prediction)).choice == prediction.choice
    assert json.loads((task.folder.parent / "job.json").read_text(encoding="utf-8"))["prediction"] == task.job.prediction
    assert predict.job.prediction is None
    task._child.ending = Ending("failed", f"The prediction '{task.job.prediction}' is old.", "", True)
    assert task.ending.sentence == f"The prediction '{node.GetName()}' is old."
    node.SetText("{}")
    broken = begun.copied(prediction=node)
    assert broken.ending.bad_input and broken.ending.sentence.startswith(f"The text '{node.GetName()}'")
    with pytest.raises(InputError, match=r"As prediction, 'Atlas' .* is given, which is not a text"):
        Task("register", replace(begun.request, prediction=begun.request.fixed))
    for one in (task, predict):
        one.close()


def test_the_same_inputs_make_the_same_files(begun) -> None:
    start = to_transform_node(ROTATION, begun.scene, "Start")
    one, other = begun.copied("predict", initial_transform=start), begun.copied(initial_transform=start)
    names = {path.name for path in one.folder.parent.iterdir() if not path.name.startswith(".")} - {"job.json"}
    assert len(names) == 6
    for name in names:
        assert (one.folder.parent / name).read_bytes() == (other.folder.parent / name).read_bytes(), name
    one.close()
    other.close()


def test_a_result_is_delivered_without_its_inputs_being_read(begun) -> None:
    task = begun.copied()
    task.folder.mkdir()
    write_files(begun.done, task.folder, [write_rest])
    for path in (task.job.fixed, task.job.moving, task.job.fixed_labels, task.job.moving_labels):
        Path(path).unlink()
    nodes, result = deliver_outcome(task)
    assert type(result) is Result and result.report.measured == begun.done.report.measured
    assert nodes.fixed is begun.request.fixed and nodes.moving is begun.request.moving
    assert np.array_equal(slicer.util.arrayFromVolume(nodes.warped), sitk.GetArrayViewFromImage(begun.done.warped))
    task.close()


def test_segments_that_overlap_are_told_in_the_result(begun) -> None:
    moving = begun.request.moving_segmentation
    whole = to_segmentation_node(sitk.Cast(begun.done.moving_labels > 0, sitk.sitkUInt8), begun.scene, "W", names={1: "Whole"})
    moving.GetSegmentation().CopySegmentFromSegmentation(whole.GetSegmentation(), "label_1")
    task, predict = (begun.copied(kind, fixed_segmentation=None) for kind in ("register", "predict"))
    for one, write in ((task, lambda folder: write_files(begun.done, folder, [write_rest])),
                       (predict, lambda folder: save_prediction(make_prediction(), folder))):
        one.folder.mkdir()
        write(one.folder)
    sentence = "'Whole' overlap, which one label map cannot hold, so it is propagated as it is, but nothing is predicted"
    nodes, _ = deliver_outcome(task)
    assert sentence in read_report_node(nodes.report).warnings[-1]
    assert nodes.propagated_segmentation.GetSegmentation().GetNumberOfSegments() == 4
    prediction = predict.prediction()
    assert sentence in prediction.warnings[-1]
    assert "overlap" in deliver_prediction(prediction, predict).GetText()
    task.close()
    predict.close()
