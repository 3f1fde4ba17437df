"""Work on nodes of a scene that a child process does, while the application goes on."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import slicer

from HyperPredictRegLib.child import Child, ChildEvent, Ending, new_workplace, remove_workplace
from HyperPredictRegLib.errors import Cancelled, InputError, RegistrationError
from HyperPredictRegLib.outcome import Outcome
from HyperPredictRegLib.prediction import Foresight
from HyperPredictRegLib.saved import read_foresight, read_outcome
from HyperPredictRegLib.slicerbridge.placement import Given, at_start, places_of
from HyperPredictRegLib.slicerbridge.request import JOB_NAME, Request, write_job

_KINDS = {"register": "registration", "predict": "prediction"}


class Task:
    """A registration or prediction that has begun. The scene is not touched until its result is fetched.

    Call `poll` from time to time, or `wait`; then fetch the result, then `close`, which removes every file of it.

    Attributes
    ----------
    kind : "register" or "predict".
    request : what was asked; its nodes are not changed.
    job : the same for the child process, with files in place of nodes.
    places : where its volumes lay when it was begun, see `placement.places_of`.
    given : the nodes that its result belongs to; for a registration also how they were at the start.
    """

    def __init__(self, kind: str, request: Request) -> None:
        """Write the inputs into a temporary folder and start the child process.

        Raises
        ------
        InputError : a node or an option cannot be used, or there is no such kind of task; the sentence names it.
        """
        if kind not in _KINDS:
            raise InputError(f"There is no task '{kind}': choose {' or '.join(_KINDS)}.")
        self.kind = kind
        self.request = request
        # Marked as ours, so that a child whose Slicer has crashed removes it.
        self._workplace = new_workplace(_temporary_folder())
        try:
            self.job = write_job(request, self._workplace)
            self.places = places_of(request)
            moving, segmentations = request.moving, (request.fixed_segmentation, request.moving_segmentation)
            # A prediction needs none of it.
            start = at_start(moving, segmentations[1], segmentations[0]) if kind == "register" else None
            self.given = Given(request.fixed, moving, *segmentations, start)
            self._child = Child(kind, self._workplace / JOB_NAME, workplace=self._workplace)
        except BaseException:
            remove_workplace(self._workplace)
            raise
        # For those who forget to close a task: its files hold copies of the user's images.
        self._forgotten = weakref.finalize(self, remove_workplace, self._workplace)

    @property
    def folder(self) -> Path:
        """Return where the child leaves its results."""
        return Path(self.job.out)

    @property
    def ending(self) -> Ending | None:
        """Return how it ended, or None while it runs; its sentence names nodes, not files."""
        ending = self._child.ending
        return None if ending is None else replace(ending, sentence=self._named(ending.sentence))

    @property
    def log(self) -> str:
        """Return what the child said beside its progress."""
        return self._child.log

    def poll(self) -> list[ChildEvent]:
        """Return the progress since the last call, at once."""
        return self._child.poll()

    def wait(self, on_event: Callable[[ChildEvent], None] | None = None) -> None:
        """Wait for the end.

        Raises
        ------
        InputError : an input cannot be used.
        RegistrationError : no valid result came out.
        Cancelled : it was cancelled.
        """
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
        nodes |= {"initial_transform": self.request.initial_transform}
        for role, node in nodes.items():
            path = getattr(self.job, role)
            if path is not None and node is not None:
                sentence = sentence.replace(path, node.GetName())
        return sentence

    def foresight(self) -> Foresight:
        """Return the prediction of a "predict" task that is done.

        Raises
        ------
        InputError : as `outcome` does.
        """
        self._check_done("predict")
        return read_foresight(self.folder)

    def outcome(self) -> Outcome:
        """Return the registration of a "register" task that is done.

        Raises
        ------
        InputError : the task is of another kind or still runs, the volumes that it was for have left the scene in the meantime,
            or its files are damaged.
        """
        self._check_done("register")
        return read_outcome(self.folder)

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
        """Start to draw the report page of a "register" task that is done; its files must still be there."""
        return PageTask(self)

    def cancel(self) -> None:
        """End the child process for certain, within a second, and remove what it has written."""
        self._child.kill()
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


def _temporary_folder() -> Path | None:
    """Return the application's folder for temporary files, or None for the system's."""
    application = getattr(slicer, "app", None)
    return None if application is None else Path(application.temporaryPath)
