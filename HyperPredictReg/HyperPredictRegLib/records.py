"""Frozen dataclasses to JSON and back, with a sentence for whatever does not fit."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from typing import Any, TypeVar

from HyperPredictRegLib.errors import InputError

T = TypeVar("T")


def to_json(record: Any) -> str:
    """Return a dataclass as indented JSON. Numbers that are not finite become null, which JSON has a word for."""
    return json.dumps(to_plain(record), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_plain(record: Any) -> dict[str, Any]:
    """Return a dataclass as the dicts, lists and numbers that its JSON holds."""
    return _plain(dataclasses.asdict(record))


def from_json(kind: type[T], text: str, what: str) -> T:
    """Build the dataclass `kind` from JSON text.

    Parameters
    ----------
    kind : a dataclass whose fields are plain values, tuples, dicts or dataclasses.
    text : JSON.
    what : how to call the input in an error, for example "job.json".

    Raises
    ------
    InputError : the text is not JSON, or a field is unknown, missing or of the wrong type.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{what} is not valid JSON ({error}).") from error
    return from_plain(kind, data, what)


def from_plain(kind: Any, data: Any, where: str) -> Any:
    """Build a value of type `kind` (a dataclass, tuple, dict or plain type) from what JSON holds; see `from_json`."""
    origin = typing.get_origin(kind)
    if kind is Any:
        return data
    if origin in (types.UnionType, typing.Union):
        options = typing.get_args(kind)
        if data is None and type(None) in options:
            return None
        return from_plain(next(o for o in options if o is not type(None)), data, where)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, data, where)
    if origin is tuple:
        _expect(isinstance(data, list), where, "a list", data)
        item_kind = typing.get_args(kind)
        kinds = [item_kind[0]] * len(data) if len(item_kind) == 2 and item_kind[1] is Ellipsis else list(item_kind)
        _expect(len(kinds) == len(data), where, f"a list of {len(kinds)}", data)
        return tuple(from_plain(k, item, f"{where}[{n}]") for n, (k, item) in enumerate(zip(kinds, data, strict=True)))
    if origin is dict:
        _expect(isinstance(data, dict), where, "an object", data)
        value_kind = typing.get_args(kind)[1]
        return {str(key): from_plain(value_kind, item, f"{where}.{key}") for key, item in data.items()}
    if kind is float:
        _expect(isinstance(data, int | float) and not isinstance(data, bool), where, "a number", data)
        return float(data)
    _expect(isinstance(data, kind) and (kind is bool or not isinstance(data, bool)), where, f"of type {kind.__name__}", data)
    return data


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _build_dataclass(kind: Any, data: Any, where: str) -> Any:
    _expect(isinstance(data, dict), where, "an object", data)
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise InputError(f"{where} has an unknown field '{unknown[0]}'; known are: {', '.join(fields)}.")
    missing = [
        name for name, f in fields.items()
        if name not in data and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f"{where} lacks the field '{missing[0]}'.")
    return kind(**{name: from_plain(hints[name], value, f"{where}.{name}") for name, value in data.items()})


def _expect(condition: bool, where: str, wanted: str, data: Any) -> None:
    if not condition:
        raise InputError(f"{where} should be {wanted}, but it is {json.dumps(data)[:60]}.")
