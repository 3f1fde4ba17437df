"""PySide6 with the manners of PythonQt, which is what Slicer's Python sees of Qt.

In PythonQt a Qt property is an attribute (`label.text`, not `label.text()`), `obj.connect("clicked(bool)", f)` names a
signal by its C++ signature, a slot gets no more arguments than it takes, and a widget refuses attributes it does not have.
`adopt` changes PySide6's own classes so, and `Undo` changes them back.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

from slicerhost.missing import HostError

# Python and Qt itself call these of our own widgets, as functions.
_LEFT_ALONE = frozenset({"sizeHint", "minimumSizeHint"})
# In Qt 6 only, while Slicer 5.12 is built with Qt 5.15.
_NEWER_THAN_SLICER = frozenset({"checkStateChanged(Qt::CheckState)"})
# What the stand-in itself keeps on a widget begins so.
OWN = "_sh_"


class Undo:
    """What was there before, put back in reverse order."""

    def __init__(self) -> None:
        self._steps: list[Callable[[], Any]] = []

    def later(self, step: Callable[[], Any]) -> None:
        """Remember what to do at the end."""
        self._steps.append(step)

    def set_attribute(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute of a class or module, to be taken back."""
        if name in vars(owner):
            before = vars(owner)[name]
            self.later(lambda: setattr(owner, name, before))
        else:
            self.later(lambda: delattr(owner, name))
        setattr(owner, name, value)

    def set_item(self, owner: dict[str, Any], key: str, value: Any) -> None:
        """Set an item of a dictionary, to be taken back."""
        if key in owner:
            before = owner[key]
            self.later(lambda: owner.__setitem__(key, before))
        else:
            self.later(lambda: owner.pop(key, None))
        owner[key] = value

    def run(self) -> None:
        """Take everything back."""
        while self._steps:
            self._steps.pop()()


def _classes() -> Iterable[type]:
    for module in (QtCore, QtGui, QtWidgets):
        # By name, because PySide6 makes its classes when they are asked for.
        for value in [getattr(module, name) for name in dir(module)]:
            known = isinstance(value, type) and issubclass(value, QtCore.QObject)
            # The application object is no widget, and its static calls stay as they are.
            if known and not issubclass(value, QtCore.QCoreApplication):
                yield value


@cache
def own_properties(kind: type) -> dict[str, bool]:
    """Return the names of the Qt properties that a class adds to its parent's, and whether they can be set."""
    meta = kind.staticMetaObject  # type: ignore[attr-defined]
    found = [meta.property(index) for index in range(meta.propertyOffset(), meta.propertyCount())]
    return {one.name(): one.isWritable() for one in found}


def has_property(kind: type, name: str) -> bool:
    """Say whether a widget class has a Qt property."""
    return any(name in own_properties(one) for one in kind.__mro__ if hasattr(one, "staticMetaObject"))


@cache
def _every_property() -> list[tuple[type, str, bool]]:
    # Read once, because PySide6 forgets the meta-objects of classes when it destroys their objects.
    return [(kind, name, writable) for kind in _classes() for name, writable in own_properties(kind).items()]


def _as_attribute(kind: type, name: str, writable: bool) -> property:
    setter = getattr(kind, f"set{name[0].upper()}{name[1:]}", None)
    getter = getattr(kind, name, None)

    def read(self: Any) -> Any:
        # Some getters are virtual (QProgressBar.text): asked by property(), Qt would come back here for an override.
        return getter(self) if callable(getter) else self.property(name)

    def write(self: Any, value: Any) -> None:
        if setter is not None:
            setter(self, value)
        elif not self.setProperty(name, value):
            raise TypeError(f"The property {name} of {kind.__name__} cannot be set to {value!r}.")

    return property(read, write if writable else None)


def _refuse_position(event: Any) -> Any:
    raise HostError("QMouseEvent.position() is of Qt 6; Slicer's Qt 5 knows pos().")


class _SingleShot:
    """`QTimer.singleShot(ms, f)` of the class, and the property `timer.singleShot` of a timer."""

    def __init__(self) -> None:
        self._call = QtCore.QTimer.singleShot

    def __get__(self, timer: Any, kind: type | None = None) -> Any:
        return self._call if timer is None else timer.property("singleShot")

    def __set__(self, timer: Any, value: bool) -> None:
        timer.setSingleShot(value)


def adopt(undo: Undo) -> None:
    """Give PySide6's classes PythonQt's attributes and `connect`, until `undo` runs."""
    single_shot = _SingleShot()
    for kind, name, writable in _every_property():
        if name not in _LEFT_ALONE:
            undo.set_attribute(kind, name, _as_attribute(kind, name, writable))
    undo.set_attribute(QtCore.QTimer, "singleShot", single_shot)
    undo.set_attribute(QtCore.QObject, "name", _as_attribute(QtCore.QObject, "objectName", True))
    undo.set_attribute(QtCore.QObject, "className", lambda self: self.metaObject().className())
    # Qt 5 has no position(), and Qt 6 warns of pos().
    undo.set_attribute(QtGui.QMouseEvent, "pos", lambda self: QtGui.QSinglePointEvent.position(self).toPoint())
    undo.set_attribute(QtGui.QMouseEvent, "position", property(_refuse_position))

    plain = QtCore.QObject.__getattribute__

    def with_connect(self: Any, name: str) -> Any:
        # PySide6 answers `connect` before it looks into the class.
        if name == "connect":
            return lambda *arguments: connect(self, *arguments)
        if name == "disconnect":
            return lambda *arguments: disconnect(self, *arguments)
        return plain(self, name)

    QtCore.QObject.__getattribute__ = with_connect  # type: ignore[method-assign]
    undo.later(lambda: setattr(QtCore.QObject, "__getattribute__", plain))


def _normal(signature: str) -> str:
    found: Any = QtCore.QMetaObject.normalizedSignature(signature)
    return found if isinstance(found, str) else bytes(found).decode()


def find_signal(sender: Any, signature: str) -> tuple[Any, int]:
    """Return a signal by its C++ signature, and how many arguments it has.

    Raises
    ------
    HostError : there is no such signal; Slicer prints a line and connects nothing.
    """
    normal = _normal(signature)
    inside = normal[normal.find("(") + 1 : -1]
    count = inside.count(",") + 1 if inside else 0
    ours = getattr(type(sender), "slicer_signals", {})
    if normal in ours:
        return getattr(sender, ours[normal]), count
    meta = sender.metaObject()
    index = meta.indexOfSignal(normal)
    hidden = normal.split("(")[0] in ours.values()
    if index < 0 or normal in _NEWER_THAN_SLICER or hidden:
        names = [bytes(meta.method(i).methodSignature()).decode() for i in range(meta.methodCount())
                 if meta.method(i).methodType() == QtCore.QMetaMethod.MethodType.Signal]  # fmt: skip
        names = sorted({*ours, *(name for name in names if name.split("(")[0] not in ours.values())} - _NEWER_THAN_SLICER)
        raise HostError(f"{meta.className()} has no signal '{signature}'. It has: {', '.join(names)}")
    signal = getattr(sender, normal.split("(")[0])
    # PySide6 has `clicked()` and `clicked(bool)` under one name, and takes the shorter one if nobody says which.
    return (signal[inside] if inside else signal), count


def arguments_taken(slot: Callable[..., Any]) -> int | None:
    """Return how many positional arguments a callable takes, or None if any number."""
    try:
        parameters = inspect.signature(slot).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    return sum(parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD) for parameter in parameters)


def trimmed(slot: Callable[..., Any], count: int | None = None) -> Callable[..., None]:
    """Return `slot` so that it is called with no more arguments than it takes, as PythonQt does."""
    taken = arguments_taken(slot)

    def call(*arguments: Any) -> None:
        given = arguments if count is None else arguments[:count]
        slot(*(given if taken is None else given[:taken]))

    return call


def connect(sender: Any, signature: str, receiver: Any, *more: Any) -> bool:
    """Connect a signal, named by its signature, with a callable (or with a receiver's slot, named by its signature)."""
    if more:
        receiver = find_slot(receiver, more[0])
    if not callable(receiver):
        raise HostError(f"'{signature}' is to be connected with {receiver!r}, which cannot be called.")
    signal, count = find_signal(sender, signature)
    call = trimmed(receiver, count)
    signal.connect(call)
    sender.__dict__.setdefault(f"{OWN}connections", []).append((signature, receiver, call))
    return True


def disconnect(sender: Any, signature: str, receiver: Any) -> bool:
    """Undo `connect`; False if there was no such connection."""
    signal, _ = find_signal(sender, signature)
    connections = sender.__dict__.get(f"{OWN}connections", [])
    for entry in connections:
        if entry[0] == signature and entry[1] == receiver:
            signal.disconnect(entry[2])
            connections.remove(entry)
            return True
    return False


def find_slot(receiver: Any, signature: str) -> Callable[..., Any]:
    """Return a slot by its C++ signature.

    Raises
    ------
    HostError : there is no such slot.
    """
    normal = _normal(signature)
    ours = getattr(type(receiver), "slicer_slots", {})
    if normal in ours:
        return getattr(receiver, ours[normal])  # type: ignore[no-any-return]
    if receiver.metaObject().indexOfSlot(normal) < 0:
        raise HostError(f"{receiver.metaObject().className()} has no slot '{signature}'.")
    return getattr(receiver, normal.split("(")[0])  # type: ignore[no-any-return]


def stray_attributes(top: Any) -> list[str]:
    """Return what Python code set on `top` or a child of it that the widget does not have: there PythonQt raises."""
    found = []
    for thing in [top, *top.findChildren(QtCore.QObject)]:
        own = vars(thing).get(f"{OWN}given", ())
        for name, value in vars(thing).items():
            if name.startswith((OWN, "__")) or name in own or isinstance(value, QtCore.SignalInstance):
                continue
            found.append(f"{type(thing).__name__} '{thing.objectName}' has no attribute '{name}'")
    return found
