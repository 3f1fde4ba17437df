"""What Slicer would show the user: noted down; questions are answered as the test said."""
# ruff: noqa: N803 - Slicer's names.

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import slicer
import slicer.util
from PySide6 import QtWidgets

from slicerhost.missing import HostError
from slicerhost.pythonqt import Undo


@dataclass(frozen=True)
class Message:
    """A message box: `kind` is info, warning, error, question or box; `shown` is False in testing mode, as in Slicer."""

    kind: str
    text: str
    title: str
    detail: str
    shown: bool


class Dialogs:
    """The messages of a run, and the answers to the questions."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.status: list[str] = []
        self.answers: list[bool] = []

    def answer(self, *answers: bool) -> None:
        """Say how the next questions are answered: True for OK or Yes."""
        self.answers += answers

    def texts(self, kind: str) -> list[str]:
        """Return the texts of one kind of message."""
        return [message.text for message in self.messages if message.kind == kind]

    def install(self, undo: Undo, note: Callable[[str], None]) -> None:
        """Put these into slicer.util."""

        def message_display(logLevel: int, text: str, testingReturnValue: Any, mainWindowNeeded: bool = False, parent: Any = None,
                            windowTitle: str | None = None, **kwargs: Any) -> Any:  # fmt: skip
            if not isinstance(text, str):
                raise HostError(f"A message is to show {text!r}, which is no text.")
            testing = slicer.app.testingEnabled()
            question = testingReturnValue is not None
            kind = "question" if question else logging.getLevelName(logLevel).lower()
            detail = str(kwargs.get("detailedText", ""))
            self.messages.append(Message(kind, text, windowTitle or "", detail, shown=not testing))
            if testing or not question:
                return testingReturnValue
            return self._answered(text, kwargs["standardButtons"])

        def message_box(text: str, parent: Any = None, **kwargs: Any) -> Any:
            self.messages.append(Message("box", text, str(kwargs.get("windowTitle", "")), "", shown=True))
            return QtWidgets.QMessageBox.StandardButton.Ok

        def show_status(message: str, duration: int = 0) -> bool:
            if not isinstance(message, str) or not isinstance(duration, int):
                raise TypeError(f"showStatusMessage takes a text and milliseconds, not {message!r} and {duration!r}.")
            self.status.append(message)
            return True

        def delay_display(message: str, autoCloseMsec: int = 1000, parent: Any = None, **kwargs: Any) -> None:
            self.status.append(message)
            slicer.app.processEvents()

        def no_pip(*arguments: Any, **kwargs: Any) -> None:
            raise HostError(f"A test must not install packages: {arguments}")

        undo.set_attribute(slicer.util, "_messageDisplay", message_display)
        undo.set_attribute(slicer.util, "messageBox", message_box)
        undo.set_attribute(slicer.util, "showStatusMessage", show_status)
        undo.set_attribute(slicer.util, "delayDisplay", delay_display)
        undo.set_attribute(slicer.util, "pip_install", no_pip)
        undo.set_attribute(slicer.util, "pip_uninstall", no_pip)

    def _answered(self, text: str, buttons: Any) -> Any:
        if not self.answers:
            raise HostError(f"The module asks '{text}', and the test did not say the answer: host.dialogs.answer(...) first.")
        kinds = QtWidgets.QMessageBox.StandardButton
        yes = kinds.Ok if buttons & kinds.Ok else kinds.Yes
        no = kinds.Cancel if buttons & kinds.Cancel else kinds.No
        return yes if self.answers.pop(0) else no
