"""The registry of deformable engines: which exist, and which can run here."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.json_records import from_plain
from HyperPredictRegLib.engines.base import Engine, EngineInfo

ENGINES = {
    "diffeo": "HyperPredictRegLib.engines.diffeo:DiffeoEngine",
    "demons": "HyperPredictRegLib.engines.demons:DemonsEngine",
    "bspline": "HyperPredictRegLib.engines.bspline:BSplineEngine",
    "niftyreg": "HyperPredictRegLib.engines.external.niftyreg:NiftyRegEngine",
    "elastix": "HyperPredictRegLib.engines.external.elastix:ElastixEngine",
    "clapirn": "HyperPredictRegLib.engines.conditional:ConditionalEngine",
}
"""Module and class of each engine by its name, the default first, which is also `results.job.DEFAULT_ENGINE`."""


def engine_names() -> tuple[str, ...]:
    """Return the names of all engines, the default first."""
    return tuple(ENGINES)


def engine_infos() -> tuple[EngineInfo, ...]:
    """Return the descriptions of all engines, the default first; `EngineInfo.unavailable` tells of one that cannot run here."""
    return tuple(_engine(name).info for name in ENGINES)


def get_engine(name: str, given: Mapping[str, Any] | None = None) -> Engine:
    """Return the engine of that name.

    Parameters
    ----------
    given : fields of the settings that it will get, which may name the program that it runs.

    Raises
    ------
    InputError : there is none, or it cannot run here: with the remedy.
    """
    if name not in ENGINES:
        raise InputError(f"There is no engine '{name}': choose one of {', '.join(ENGINES)}.")
    engine = _engine(name)
    if lacking := engine.info.lacking(given or {}):
        raise InputError(lacking)
    return engine


def one_pair_only(info: EngineInfo) -> str:
    """Say of an engine that it registers one pair of images only, and which engines take several channels."""
    able = [f"'{other.name}'" for other in engine_infos() if other.channels and not other.unavailable]
    others = f", or choose the engine {' or '.join(able)}" if able else ""
    return f"The engine '{info.name}' compares one pair of images only: leave the other channels out{others}."


def engine_settings(engine: Engine, given: dict[str, Any]) -> Any:
    """Return the engine's settings with the `given` fields (as JSON holds them) in place of their defaults.

    Raises
    ------
    InputError : an unknown field, or a value that the engine refuses.
    """
    return from_plain(engine.settings_type, given, f"the settings of engine '{engine.info.name}'")


def _engine(name: str) -> Engine:
    module, _, kind = ENGINES[name].partition(":")
    engine: Engine = getattr(importlib.import_module(module), kind)()
    return engine
