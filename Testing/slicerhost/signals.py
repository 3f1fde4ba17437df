"""Signals of things that are no widgets (the application, the module manager), and which widgets observe the scene."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import shiboken6

from slicerhost.missing import HostError, Strict
from slicerhost.pythonqt import arguments_taken

# Widgets that observe the scene: a scene that dies first would call observers that are being collected.
observing: WeakSet[Any] = WeakSet()


def let_go_of_scene() -> None:
    """Take the scene from every widget that has one."""
    for widget in list(observing):
        if shiboken6.isValid(widget):
            widget.setMRMLScene(None)
    observing.clear()


class HostSignal:
    """A list of callables; they get no more arguments than they take."""

    def __init__(self) -> None:
        self._slots: list[Callable[..., Any]] = []

    def connect(self, slot: Callable[..., Any]) -> None:
        """Call `slot` on every `emit`."""
        if not callable(slot):
            raise HostError(f"{slot!r} is to be connected, but cannot be called.")
        self._slots.append(slot)

    def disconnect(self, slot: Callable[..., Any]) -> bool:
        """Undo `connect`; False if there was no such connection."""
        if slot not in self._slots:
            return False
        self._slots.remove(slot)
        return True

    def emit(self, *arguments: Any) -> None:
        """Call everything that is connected."""
        for slot in list(self._slots):
            taken = arguments_taken(slot)
            slot(*(arguments if taken is None else arguments[:taken]))


class Sender(Strict):
    """Something that is no widget, with signals known by their C++ signature."""

    def __init__(self, *signatures: str) -> None:
        self._signals = {signature: HostSignal() for signature in signatures}

    def _signal(self, signature: str) -> HostSignal:
        if signature not in self._signals:
            raise HostError(f"{self._host_name} has no signal '{signature}'. Here it has: {', '.join(self._signals)}")
        return self._signals[signature]

    def connect(self, signature: str, slot: Callable[..., Any]) -> bool:
        """Connect a signal, named by its signature."""
        self._signal(signature).connect(slot)
        return True

    def disconnect(self, signature: str, slot: Callable[..., Any]) -> bool:
        """Undo `connect`."""
        return self._signal(signature).disconnect(slot)

    def fire(self, signature: str, *arguments: Any) -> None:
        """Emit a signal, for tests."""
        self._signal(signature).emit(*arguments)
