"""Frozen dataclasses to JSON and back, with a sentence for whatever does not fit."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import types
import typing
from typing import Any, TypeVar

import numpy as np

from HyperPredictRegLib.core.errors import InputError

T = TypeVar("T")

_MOST_DIGITS = 400
_LARGEST = sys.float_info.max
_VERSION = "schema_version"


def to_json(record: Any, indent: int | None = 2) -> str:
    """Return a dataclass as JSON, arrays as lists. Numbers that are not finite become null, which JSON has a word for."""
    return json.dumps(to_plain(record), indent=indent, ensure_ascii=False, allow_nan=False) + "\n"


def to_plain(record: Any) -> dict[str, Any]:
    """Return a dataclass as the dicts, lists and numbers that its JSON holds."""
    plain: dict[str, Any] = _plain(dataclasses.asdict(record))
    return plain


def from_json(kind: type[T], text: str, what: str, *, any_number: bool = False) -> T:
    """Build the dataclass `kind` from JSON text.

    Parameters
    ----------
    kind : a dataclass whose fields are plain values, tuples, dicts or dataclasses.
    text : JSON.
    what : how to call the input in an error, for example "job.json".
    any_number : whether the numbers may be NaN or infinite, which `to_json` writes as null and Python in words of its own; for
        what we wrote ourselves. A null that stands for a number comes back as NaN.

    Raises
    ------
    InputError : the text is not JSON, of another version of this program, or a field is unknown, missing or of the wrong type.
    """
    return from_plain(kind, parsed_json(text, what, any_number=any_number), what, any_number=any_number)


def parsed_json(text: str, what: str, *, any_number: bool = False) -> Any:
    """Return what JSON text holds, strictly: no number that is none, no key twice, no half a character.

    Parameters
    ----------
    any_number : see `from_json`.

    Raises
    ------
    InputError : the text is not JSON, is nested deeper than Python can follow, or holds what no record of ours has.
    """
    what = _short(what, 300)
    try:
        constant = float if any_number else _no_number
        data = json.loads(
            text, parse_constant=constant, parse_int=_whole, parse_float=_real, object_pairs_hook=_without_doubles
        )
        json.dumps(data, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise InputError(f"{what} is nested too deeply to be one of ours: check which file you gave.") from error
    except UnicodeEncodeError as error:
        raise InputError(f"{what} holds half a character (a lone surrogate): write it again.") from error
    except ValueError as error:
        raise InputError(f"{what} is not valid JSON ({error}).") from error
    return data


def from_plain(kind: Any, data: Any, where: str, *, any_number: bool = False) -> Any:
    """Build a value of type `kind` (a dataclass, tuple, dict or plain type) from what JSON holds; see `from_json`.

    Parameters
    ----------
    any_number : see there.
    """
    origin = typing.get_origin(kind)
    if kind is Any:
        return data
    if origin in (types.UnionType, typing.Union):
        options = typing.get_args(kind)
        if data is None and type(None) in options:
            return None
        return from_plain(next(o for o in options if o is not type(None)), data, where, any_number=any_number)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, data, where, any_number)
    if origin is tuple:
        _expect(isinstance(data, list), where, "a list", data)
        item_kind = typing.get_args(kind)
        kinds = [item_kind[0]] * len(data) if len(item_kind) == 2 and item_kind[1] is Ellipsis else list(item_kind)
        _expect(len(kinds) == len(data), where, f"a list of {len(kinds)}", data)
        return tuple(
            from_plain(k, item, f"{where}[{n}]", any_number=any_number)
            for n, (k, item) in enumerate(zip(kinds, data, strict=True))
        )
    if origin is dict:
        _expect(isinstance(data, dict), where, "an object", data)
        value_kind = typing.get_args(kind)[1]
        return {str(key): from_plain(value_kind, item, f"{where}.{key}", any_number=any_number) for key, item in data.items()}
    if kind is np.ndarray:
        return _array(data, where, any_number)
    if kind is float:
        if data is None and any_number:
            return math.nan
        _expect(isinstance(data, int | float) and not isinstance(data, bool), where, "a number", data)
        unbounded = any_number and isinstance(data, float)
        _expect(unbounded or abs(data) <= _LARGEST, where, "a number that a computer can reckon with", data)
        return float(data)
    _expect(isinstance(data, kind) and (kind is bool or not isinstance(data, bool)), where, f"of type {kind.__name__}", data)
    return data


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _build_dataclass(kind: Any, data: Any, where: str, any_number: bool) -> Any:
    _expect(isinstance(data, dict), where, "an object", data)
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}
    _check_version(fields, data, where)
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise InputError(f"{where} has an unknown field '{_short(unknown[0])}'; known are: {', '.join(fields)}.")
    missing = [
        name for name, f in fields.items()
        if name not in data and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f"{where} lacks the field '{missing[0]}'.")
    values = {name: from_plain(hints[name], value, f"{where}.{name}", any_number=any_number) for name, value in data.items()}
    if _VERSION in values:
        # What is written from here on may hold what an older version had no field for.
        values[_VERSION] = fields[_VERSION].default
    try:
        return kind(**values)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{where} is damaged ({str(error).rstrip('.')}): make it again.") from error


def _check_version(fields: dict[str, Any], data: dict[str, Any], where: str) -> None:
    """Refuse a record of another version before its fields are looked at: by any other name they would only confuse.

    The version of a record is the default of its field; the field's metadata may name the "oldest" that can be read as well,
    where later ones only added fields with defaults.
    """
    if _VERSION not in fields:
        return
    newest = fields[_VERSION].default
    oldest = fields[_VERSION].metadata.get("oldest", newest)
    found = data.get(_VERSION, newest)
    if isinstance(found, bool) or found not in range(oldest, newest + 1):
        reads = f"version {newest}" if oldest == newest else f"versions {oldest} to {newest}"
        raise InputError(
            f"{where} has schema version {_short(json.dumps(found))}, but this program reads {reads}: use the version of "
            "HyperPredictReg that wrote it, or do the work again."
        )


def _array(data: Any, where: str, any_number: bool) -> np.ndarray:
    """Return nested lists of numbers as an array of floats; null stands for NaN where any number may stand."""
    _expect(isinstance(data, list), where, "a list of numbers", data)
    try:
        array = np.array(data, dtype=float)
    except (ValueError, TypeError, OverflowError):
        array = np.array(math.nan)
    _expect(array.ndim > 0, where, "a list of numbers, or of lists of equal length", data)
    _expect(any_number or bool(np.isfinite(array).all()), where, "a list of finite numbers", data)
    return array


def _expect(condition: bool, where: str, expected: str, data: Any) -> None:
    if not condition:
        raise InputError(f"{_short(where, 200)} should be {expected}, but it is {_short(json.dumps(data))}.")


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[:most]} …"


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _whole(text: str) -> int:
    # Longer ones cost much time to read, and Python refuses some by a message of its own.
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _real(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{_short(text)} is too large a number")
    return value


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field '{_short(twice)}' is there twice")
    return found
