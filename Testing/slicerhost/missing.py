"""How the stand-in says that it lacks something, instead of quietly pretending."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any


class MissingInHost(AttributeError):  # noqa: N818 - it reads as what it says.
    """The stand-in has no such name; Slicer may have it."""


class HostError(RuntimeError):
    """The module did something that Slicer would refuse, ignore or answer with an empty picture."""


def missing(owner: str, name: str) -> MissingInHost:
    """Return the error that names what the stand-in lacks."""
    return MissingInHost(f"slicerhost has no {owner}.{name}, Slicer may have it: add it after reading Slicer's source.")


def refuse_unknown(owner: str) -> Callable[[str], Any]:
    """Return a module-level `__getattr__` that says what the stand-in lacks."""

    def __getattr__(name: str) -> Any:  # noqa: N807 - Python looks for this name in a module.
        if name.startswith("__"):
            raise AttributeError(name)
        raise missing(owner, name)

    return __getattr__


def strict_module(name: str, contents: dict[str, Any], doc: str) -> ModuleType:
    """Make a module object out of `contents` that names what it lacks."""
    module = ModuleType(name, doc)
    vars(module).update(contents)
    module.__getattr__ = refuse_unknown(name)  # type: ignore[method-assign]
    return module


class Strict:
    """A base class of objects whose unknown attributes are named, not only refused."""

    _host_name = "slicer.something"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise missing(self._host_name, name)
