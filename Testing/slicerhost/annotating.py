"""What a parameter's annotation may say besides its type: conditions, a default, how a spin box shows it."""

from __future__ import annotations

import abc
import typing
from dataclasses import dataclass
from typing import Any


class Validator(abc.ABC):
    """A condition on a value."""

    @abc.abstractmethod
    def validate(self, value: Any) -> None:
        """Raise ValueError if the value is not allowed."""


@dataclass
class WithinRange(Validator):
    """From minimum to maximum, both included."""

    minimum: float
    maximum: float

    def validate(self, value: Any) -> None:
        """Raise ValueError if the value is outside."""
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"The value must be from {self.minimum} to {self.maximum}, but is {value}.")


@dataclass
class Minimum(Validator):
    """At least the minimum."""

    minimum: float

    def validate(self, value: Any) -> None:
        """Raise ValueError if the value is below."""
        if value < self.minimum:
            raise ValueError(f"The value must be at least {self.minimum}, but is {value}.")


@dataclass
class Maximum(Validator):
    """At most the maximum."""

    maximum: float

    def validate(self, value: Any) -> None:
        """Raise ValueError if the value is above."""
        if value > self.maximum:
            raise ValueError(f"The value must be at most {self.maximum}, but is {value}.")


@dataclass
class Choice(Validator):
    """One of some values."""

    choices: Any

    def validate(self, value: Any) -> None:
        """Raise ValueError if the value is none of them."""
        if value not in self.choices:
            raise ValueError(f"The value {value!r} must be one of {self.choices}.")


class Default:
    """The value where the scene has none; a generator makes a new one each time."""

    def __init__(self, value: Any = None, *, generator: Any = None) -> None:
        self._value, self._generator = value, generator

    @property
    def value(self) -> Any:
        """The default value."""
        return self._generator() if self._generator is not None else self._value


@dataclass
class Decimals:
    """How many decimals a spin box shows."""

    value: int


@dataclass
class SingleStep:
    """By how much an arrow of a spin box or slider moves."""

    value: float


def split_annotations(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return a type hint's type and its annotations."""
    if typing.get_origin(hint) is typing.Annotated:
        kind, *annotations = typing.get_args(hint)
        return kind, tuple(annotations)
    return hint, ()
