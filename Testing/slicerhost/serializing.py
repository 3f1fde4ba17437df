"""How typed values lie in a parameter node: as strings and node references, in the form that Slicer 5.12 writes."""

from __future__ import annotations

import enum
import pathlib
import typing
from collections.abc import Iterator, MutableMapping, MutableSequence
from dataclasses import dataclass
from typing import Any

import slicer

from slicerhost.annotating import Validator, split_annotations


@dataclass(frozen=True)
class Simple:
    """A value that is one string of the parameter node."""

    kind: type
    cached = True

    def default(self) -> Any:
        """Return the value without another default."""
        if issubclass(self.kind, enum.Enum):
            return next(iter(self.kind))
        return 0 if self.kind in (int, float) else self.kind()

    def check(self, value: Any) -> None:
        """Raise ValueError for None and TypeError for another type."""
        if value is None:
            raise ValueError("The value must not be None.")
        allowed = (int, float) if self.kind is float else self.kind
        if not isinstance(value, allowed):
            raise TypeError(f"The value must be of type {self.kind.__name__}, but is {value!r} of {type(value).__name__}.")

    def is_in(self, node: Any, name: str) -> bool:
        """Say whether the node has the value."""
        return bool(node.HasParameter(name))

    def write(self, node: Any, name: str, value: Any) -> None:
        """Check the value and put it into the node."""
        self.check(value)
        node.SetParameter(name, value.name if isinstance(value, enum.Enum) else str(value))

    def read(self, node: Any, name: str) -> Any:
        """Return the value from the node."""
        text = node.GetParameter(name)
        if issubclass(self.kind, enum.Enum):
            if text not in self.kind.__members__:
                raise ValueError(f"The parameter node has '{text}' for {name}, which is no name in {self.kind.__name__}.")
            return self.kind[text]
        return text == "True" if self.kind is bool else self.kind(text)

    def remove(self, node: Any, name: str) -> None:
        """Take the value out of the node."""
        node.UnsetParameter(name)


@dataclass(frozen=True)
class NodeReference(Simple):
    """A node of the scene, or None."""

    def default(self) -> Any:
        """Return None."""
        return None

    def check(self, value: Any) -> None:
        """Raise TypeError for a node of another class."""
        if value is not None:
            super().check(value)

    def write(self, node: Any, name: str, value: Any) -> None:
        """Refer to the node."""
        self.check(value)
        # The empty string says that a choice was made, even if it is None.
        node.SetParameter(name, "")
        node.SetNodeReferenceID(name, None if value is None else value.GetID())

    def read(self, node: Any, name: str) -> Any:
        """Return the node, or None."""
        return node.GetNodeReference(name)

    def remove(self, node: Any, name: str) -> None:
        """Forget the reference."""
        node.UnsetParameter(name)
        node.RemoveNodeReferenceIDs(name)


@dataclass(frozen=True)
class Checked:
    """Another serializer with conditions on the value."""

    inner: Any
    validators: tuple[Validator, ...]

    @property
    def cached(self) -> bool:
        """Whether the value may be kept."""
        return bool(self.inner.cached)

    def write(self, node: Any, name: str, value: Any) -> None:
        """Check the value and put it into the node."""
        if hasattr(self.inner, "check"):
            self.inner.check(value)
        for validator in self.validators:
            validator.validate(value)
        self.inner.write(node, name, value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@dataclass(frozen=True)
class ListOf:
    """A list: its length, and one entry for each element."""

    element: Any

    @property
    def cached(self) -> bool:
        """Whether the value may be kept."""
        return bool(self.element.cached)

    def default(self) -> list[Any]:
        """Return an empty list."""
        return []

    def is_in(self, node: Any, name: str) -> bool:
        """Say whether the node has the list."""
        return bool(node.HasParameter(f"{name}.len"))

    def _length(self, node: Any, name: str) -> int:
        return int(node.GetParameter(f"{name}.len")) if self.is_in(node, name) else 0

    def write(self, node: Any, name: str, values: Any) -> None:
        """Put the list into the node; on a bad element nothing is changed."""
        before = [self.element.read(node, f"{name}.{index}") for index in range(self._length(node, name))]
        with slicer.util.NodeModify(node):
            try:
                self._write_all(node, name, list(values))
            except (ValueError, TypeError):
                self._write_all(node, name, before)
                raise

    def _write_all(self, node: Any, name: str, values: list[Any]) -> None:
        old = self._length(node, name)
        for index, value in enumerate(values):
            self.element.write(node, f"{name}.{index}", value)
        node.SetParameter(f"{name}.len", str(len(values)))
        for index in range(len(values), old):
            self.element.remove(node, f"{name}.{index}")

    def read(self, node: Any, name: str) -> ObservedList:
        """Return the list; changes of it go into the node."""
        return ObservedList(self, node, name, [self.element.read(node, f"{name}.{i}") for i in range(self._length(node, name))])

    def remove(self, node: Any, name: str) -> None:
        """Take the list out of the node."""
        for index in range(self._length(node, name)):
            self.element.remove(node, f"{name}.{index}")
        node.UnsetParameter(f"{name}.len")


@dataclass(frozen=True)
class Tuple:
    """A tuple: one entry for each element."""

    elements: tuple[Any, ...]
    cached = True

    def default(self) -> tuple[Any, ...]:
        """Return the elements' defaults."""
        return tuple(element.default() for element in self.elements)

    def is_in(self, node: Any, name: str) -> bool:
        """Say whether the node has the tuple."""
        return bool(self.elements[0].is_in(node, f"{name}.0"))

    def write(self, node: Any, name: str, values: Any) -> None:
        """Put the tuple into the node."""
        values = tuple(values)
        if len(values) != len(self.elements):
            raise ValueError(f"{name} must have {len(self.elements)} values, but has {len(values)}.")
        with slicer.util.NodeModify(node):
            for index, (element, value) in enumerate(zip(self.elements, values, strict=True)):
                element.write(node, f"{name}.{index}", value)

    def read(self, node: Any, name: str) -> tuple[Any, ...]:
        """Return the tuple."""
        return tuple(element.read(node, f"{name}.{index}") for index, element in enumerate(self.elements))

    def remove(self, node: Any, name: str) -> None:
        """Take the tuple out of the node."""
        for index, element in enumerate(self.elements):
            element.remove(node, f"{name}.{index}")


@dataclass(frozen=True)
class DictOf(ListOf):
    """A dictionary, kept as a list of pairs."""

    def default(self) -> Any:
        """Return an empty dictionary."""
        return {}

    def write(self, node: Any, name: str, values: Any) -> None:
        """Put the dictionary into the node."""
        super().write(node, name, list(values.items()))

    def read(self, node: Any, name: str) -> Any:
        """Return the dictionary; changes of it go into the node."""
        return ObservedDict(self, node, name, dict(super().read(node, name)))


class ObservedList(MutableSequence[Any]):
    """A list whose changes go into the parameter node."""

    def __init__(self, serializer: Any, node: Any, name: str, values: list[Any]) -> None:
        self._serializer, self._node, self._name, self._values = serializer, node, name, values

    def _save(self) -> None:
        self._serializer.write(self._node, self._name, self._values)

    def __getitem__(self, index: Any) -> Any:
        return self._values[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._values[index] = value
        self._save()

    def __delitem__(self, index: Any) -> None:
        del self._values[index]
        self._save()

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        return self._values == (other._values if isinstance(other, ObservedList) else other)

    def insert(self, index: int, value: Any) -> None:
        """Insert a value."""
        self._values.insert(index, value)
        self._save()


class ObservedDict(MutableMapping[Any, Any]):
    """A dictionary whose changes go into the parameter node; as in Slicer, `get` and `pop` take no default."""

    def __init__(self, serializer: Any, node: Any, name: str, values: dict[Any, Any]) -> None:
        self._serializer, self._node, self._name, self._values = serializer, node, name, values

    def __getitem__(self, key: Any) -> Any:
        return self._values[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._values[key] = value
        self._serializer.write(self._node, self._name, self._values)

    def __delitem__(self, key: Any) -> None:
        del self._values[key]
        self._serializer.write(self._node, self._name, self._values)

    def get(self, key: Any) -> Any:  # type: ignore[override]
        """Return a value or None; Slicer's takes no default either."""
        return self._values.get(key)

    def pop(self, key: Any) -> Any:  # type: ignore[override]
        """Take a value out; Slicer's takes no default either."""
        value = self._values.pop(key)
        self._serializer.write(self._node, self._name, self._values)
        return value

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        return self._values == (other._values if isinstance(other, ObservedDict) else other)


def serializer_of(hint: Any) -> Any:
    """Return what reads and writes values of a type hint.

    Raises
    ------
    TypeError : the stand-in does not know the type.
    """
    kind, annotations = split_annotations(hint)
    inner = _serializer_of_type(kind)
    validators = tuple(one for one in annotations if isinstance(one, Validator))
    return Checked(inner, validators) if validators else inner


def _serializer_of_type(kind: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is list:
        return ListOf(serializer_of(arguments[0]))
    if origin is tuple:
        return Tuple(tuple(serializer_of(argument) for argument in arguments))
    if origin is dict:
        return DictOf(Tuple(tuple(serializer_of(argument) for argument in arguments)))
    if isinstance(kind, type):
        if issubclass(kind, slicer.vtkMRMLNode):
            return NodeReference(kind)
        if kind in (int, float, str, bool) or issubclass(kind, (enum.Enum, pathlib.PurePath)):
            return Simple(kind)
    raise TypeError(f"slicerhost cannot keep {kind} in a parameter node; Slicer may (unions, packs): read its serializers first.")
