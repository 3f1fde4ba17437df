"""Work on nodes of a scene that a child process does while the application goes on, and its result put where it belongs."""

from __future__ import annotations

import re
import shutil
import time
import traceback
import weakref
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import slicer

from HyperPredictRegLib.core.errors import Cancelled, InputError, RegistrationError
from HyperPredictRegLib.results.exchange import read_prediction, read_result
from HyperPredictRegLib.results.job import Job, channel_paths
from HyperPredictRegLib.results.outcome import Result
from HyperPredictRegLib.results.prediction import Prediction
from HyperPredictRegLib.slicerbridge import predictions
from HyperPredictRegLib.slicerbridge.outcome_nodes import OutcomeNodes, add_outcome_for
from HyperPredictRegLib.slicerbridge.provenance import Given, at_start
from HyperPredictRegLib.slicerbridge.request import (
    JOB_NAME,
    RESULTS_NAME,
    Request,
    channel_volumes,
    check_request,
    places_of,
    record_inputs,
    write_job,
)
from HyperPredictRegLib.worker import Child, ChildEvent, Ending, new_workplace, remove_workplace

_KINDS = {"register": "registration", "predict": "prediction", "preview": "preview"}
_PATIENCE_SECONDS = 0.05
_LONGEST_NAME = 100
_PAGE_FILES = ("report.html", "report.json", "*.png")


class Task:
    """A registration or prediction that has begun. The scene is not touched until its result is fetched.

    Call `poll` from time to time, or `wait`; then fetch the result, then `close`, which removes every file of it. What it
    works on is copied by the first calls of `poll`, so that an application can show in between what happens.

    Attributes
    ----------
    kind : "register", "predict" or, of a `previewing.PreviewTask`, "preview".
    request : what was asked; its nodes are not changed.
    job : the same for the child process, with files in place of nodes; None until they are copied.
    places : where its volumes lay when it began, see `request.places_of`.
    given : the nodes that its result belongs to; for a registration also, once they are copied, how they were at the start.
    """

    def __init__(self, kind: str, request: Request) -> None:
        """Check what is asked; nothing is copied yet.

        A prediction that the request names is not taken by another prediction.

        Raises
        ------
        InputError : a node or an option cannot be used, or there is no such kind of task; the sentence names it.
        """
        if kind not in _KINDS:
            raise InputError(f"There is no task '{kind}': choose register or predict.")
        check_request(request)
        self.kind = kind
        self.request = replace(request, prediction=None) if kind == "predict" else request
        self.job: Job | None = None
        self.places = places_of(request)
        self.given = Given(request.fixed, request.moving, request.fixed_segmentation, request.moving_segmentation)
        self._notes: tuple[str, ...] = ()
        self._child: Child | None = None
        self._ending: Ending | None = None
        # Marked as ours, so that a child whose Slicer has crashed removes it.
        self._workplace = new_workplace(_temporary_folder())
        self._copying = self._copy()
        # For those who forget to close a task: its files hold copies of the user's images.
        self._forgotten = weakref.finalize(self, remove_workplace, self._workplace)

    def _copy(self) -> Generator[str, None, None]:
        """Copy the inputs, piece by piece, and start the child process; yields what comes next."""
        self.job, self._notes = yield from write_job(self.request, self._workplace)
        if self.kind == "register":
            # A prediction needs none of it.
            self.given = replace(self.given, start=at_start(self.given))
        if places_of(self.request) != self.places:
            raise InputError("A volume was moved, or a mask changed, while the volumes were copied: start once more.")
        self._child = Child(self.kind, self._workplace / JOB_NAME, workplace=self._workplace)

    @property
    def folder(self) -> Path:
        """Return where the child leaves its results."""
        return self._workplace / RESULTS_NAME

    @property
    def ending(self) -> Ending | None:
        """Return how it ended, or None while it runs; its sentence names nodes, not files."""
        if self._child is None:
            return self._ending
        ending = self._child.ending
        return None if ending is None else replace(ending, sentence=self._named(ending.sentence))

    @property
    def log(self) -> str:
        """Return what the child said beside its progress."""
        return "" if self._child is None else self._child.log

    def poll(self) -> list[ChildEvent]:
        """Return the progress since the last call; while inputs are copied, copy a piece first."""
        if self._child is not None:
            return self._child.poll()
        events: list[ChildEvent] = []
        until = time.monotonic() + _PATIENCE_SECONDS
        try:
            while self._ending is None and self._child is None:
                if (message := next(self._copying, None)) is not None:
                    events.append(ChildEvent("read", 0.0, message, None))
                if time.monotonic() > until:
                    break
        except InputError as error:
            self._ending = Ending("failed", str(error), "", True)
            remove_workplace(self._workplace)
        except BaseException:
            self._ending = Ending("failed", f"The {_KINDS[self.kind]} could not be started.", traceback.format_exc(), False)
            remove_workplace(self._workplace)
            raise
        return events

    def wait(self, on_event: Callable[[ChildEvent], None] | None = None) -> None:
        """Wait for the end.

        Raises
        ------
        InputError : an input cannot be used.
        RegistrationError : no valid result came out.
        Cancelled : it was cancelled.
        """
        while self._child is None and self._ending is None:
            for event in self.poll():
                if on_event is not None:
                    on_event(event)
        if self._child is not None:
            self._child.wait(on_event)
        self.check()

    def check(self) -> None:
        """Raise what `wait` raises if the work has ended without a result."""
        ending = self.ending
        if ending is None or ending.outcome == "done":
            return
        if ending.outcome == "cancelled":
            raise Cancelled(ending.sentence)
        raise (InputError if ending.bad_input else RegistrationError)(ending.sentence)

    def _named(self, sentence: str) -> str:
        """Return a sentence of the child with the nodes' names in place of the files that it was given."""
        nodes = {"fixed": self.request.fixed, "moving": self.request.moving}
        nodes |= {"fixed_labels": self.request.fixed_segmentation, "moving_labels": self.request.moving_segmentation}
        nodes |= {"initial_transform": self.request.initial_transform, "prediction": self.request.prediction}
        masks = {"fixed_mask": self.request.fixed_mask, "moving_mask": self.request.moving_mask}
        nodes |= {role: mask.node for role, mask in masks.items() if mask is not None}
        for role, node in nodes.items():
            path = None if self.job is None else getattr(self.job, role)
            if path is not None and node is not None:
                sentence = sentence.replace(path, node.GetName())
        volumes = channel_volumes(self.request)
        for key, path in {} if self.job is None else channel_paths(self.job).items():
            sentence = sentence.replace(path, volumes[key].GetName())
        return sentence

    def prediction(self) -> Prediction:
        """Return the prediction of a "predict" task that is done.

        Raises
        ------
        InputError : as `outcome` does.
        """
        self._check_done("predict")
        found = read_prediction(self.folder / "prediction.json")
        return replace(found, warnings=(*found.warnings, *self._notes))

    def outcome(self) -> Result:
        """Return what came out of a "register" task that is done; its inputs, which are in the scene, are not read again.

        Raises
        ------
        InputError : the task is of another kind or still runs, the volumes that it was for have left the scene in the meantime,
            or its files are damaged.
        """
        self._check_done("register")
        found = read_result(self.folder)
        return replace(found, report=replace(found.report, warnings=(*found.report.warnings, *self._notes)))

    def _check_done(self, kind: str) -> None:
        what = _KINDS[kind]
        if self.kind != kind:
            raise InputError(f"This is no {what} but a {_KINDS[self.kind]}: begin one of the kind '{kind}'.")
        for role, node in (("fixed", self.request.fixed), ("moving", self.request.moving)):
            if node.GetScene() is None:
                raise InputError(
                    f"The {role} volume '{node.GetName()}' was removed from the scene while the {what} ran: "
                    "load it again and start once more."
                )
        if self.ending is None:
            raise InputError(f"The {what} still runs: wait for its end.")
        self.check()

    def draw_page(self) -> PageTask:
        """Start drawing the report page of a "register" task that is done; its files must still be there."""
        return PageTask(self)

    def cancel(self) -> None:
        """End the child process for certain, within a second, and remove what it has written."""
        if self._child is not None:
            self._child.kill()
        elif self._ending is None:
            self._ending = Ending("cancelled", f"The {_KINDS[self.kind]} was cancelled.", "", False)
            self._copying.close()
        remove_workplace(self._workplace)

    def close(self) -> None:
        """Remove all files of the task; a child that still runs is ended first."""
        self.cancel()


class PageTask:
    """The report page of a finished registration, which a child process draws. Used like a `Task`."""

    kind = "page"

    def __init__(self, registration: Task) -> None:
        self.folder = registration.folder
        self.request = registration.request
        self._child = Child(self.kind, self.folder, workplace=self.folder.parent)

    @property
    def ending(self) -> Ending | None:
        """Return how it ended, or None while it runs."""
        return self._child.ending

    @property
    def log(self) -> str:
        """Return what the child said beside its progress."""
        return self._child.log

    def poll(self) -> list[ChildEvent]:
        """Return the progress since the last call, at once."""
        return self._child.poll()

    def cancel(self) -> None:
        """End the child process; the registration stays."""
        self._child.kill()

    def close(self) -> None:
        """End the child process if it still runs."""
        self._child.kill()


def deliver_prediction(prediction: Prediction, task: Task, *, earlier: Any = None) -> Any:
    """Put a prediction into the scene of its volumes, in place of an `earlier` one if that is whole; return its text node.

    Parameters
    ----------
    task : what made it.
    earlier : text node of a prediction, or None.
    """
    nodes = None
    if earlier is not None and earlier.GetScene() is not None:
        try:
            nodes = predictions.prediction_nodes_of(earlier)
        except InputError:
            nodes = None
    if nodes is None:
        nodes = predictions.add_prediction(task.request.fixed.GetScene(), prediction)
    else:
        predictions.update_prediction(nodes, prediction)
    record_inputs(nodes.report, task.request, task.places)
    return nodes.report


def deliver_outcome(
    task: Task, *, transform_as: str = "composite", field_spacing_mm: float | None = None
) -> tuple[OutcomeNodes, Result]:
    """Put the result of a finished registration into the scene of its volumes, all of it or nothing; see `add_outcome_for`.

    Raises
    ------
    InputError : its volumes have left the scene in the meantime.
    """
    outcome, scene = task.outcome(), task.request.fixed.GetScene()
    nodes = add_outcome_for(scene, outcome, task.given, transform_as=transform_as, field_spacing_mm=field_spacing_mm)
    return nodes, outcome


def save_page(results: Path, folder: Path, name: str) -> Path:
    """Copy a report page with its pictures and numbers into a new folder; return the page.

    Parameters
    ----------
    results : where the page was drawn.
    folder : an existing folder; nothing in it is changed.
    name : of the new folder in it; a number is added if it is taken.

    Raises
    ------
    InputError : it cannot be written there.
    """
    stem = re.sub(r'[\\/:*?"<>|\x00-\x1f]+', " ", name).strip(" .")[:_LONGEST_NAME] or "registration"
    try:
        target = Path(folder) / stem
        number = 1
        while target.exists():
            number += 1
            target = Path(folder) / f"{stem} {number}"
        target.mkdir()
        for pattern in _PAGE_FILES:
            for file in sorted(results.glob(pattern)):
                shutil.copy2(file, target / file.name)
    except OSError as error:
        raise InputError(f"The report could not be saved in '{folder}' ({error.strerror}): choose another folder.") from error
    return target / "report.html"


def _temporary_folder() -> Path | None:
    """Return the application's folder for temporary files, or None for the system's."""
    application = getattr(slicer, "app", None)
    return None if application is None else Path(application.temporaryPath)
