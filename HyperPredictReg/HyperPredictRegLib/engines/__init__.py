"""The registry of deformable engines: which exist, and which can run here."""

from __future__ import annotations

import importlib
from typing import Any

from HyperPredictRegLib.engines.base import Engine
from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.records import from_plain

_ENGINES = {
    "demons": "HyperPredictRegLib.engines.demons:DemonsEngine",
    "bspline": "HyperPredictRegLib.engines.bspline:BSplineEngine",
}


def engine_names() -> tuple[str, ...]:
    """Return the names of all engines, the default first."""
    return tuple(_ENGINES)


def get_engine(name: str) -> Engine:
    """Return the engine of that name.

    Raises
    ------
    InputError : there is none, or a package that it needs is missing.
    """
    if name not in _ENGINES:
        raise InputError(f"There is no engine '{name}': choose one of {', '.join(_ENGINES)}.")
    module, _, kind = _ENGINES[name].partition(":")
    try:
        return getattr(importlib.import_module(module), kind)()
    except ModuleNotFoundError as error:
        raise InputError(f"The engine '{name}' needs the Python package '{error.name}', which is not installed.") from error


def engine_settings(engine: Engine, given: dict[str, Any]) -> Any:
    """Return the engine's settings with the `given` fields (as JSON holds them) in place of their defaults.

    Raises
    ------
    InputError : an unknown field, or a value that the engine refuses.
    """
    return from_plain(engine.settings_type, given, f"the settings of engine '{engine.name}'")
