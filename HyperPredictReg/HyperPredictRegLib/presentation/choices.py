"""What can be chosen from lists, in words, and how long a registration with it will take."""

from __future__ import annotations

import math

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.search_space import SearchSpace, Setting
from HyperPredictRegLib.engines import engine_infos, get_engine
from HyperPredictRegLib.engines.base import EngineInfo
from HyperPredictRegLib.predictor.card import Card, bundled, read_card
from HyperPredictRegLib.preprocessing.working_grid import spacing_for
from HyperPredictRegLib.results.report import Report
from HyperPredictRegLib.spatial.geometry import Geometry

_CONTRASTS = {"same": "same contrast", "any": "any contrast"}
_PRESET_TITLES = {"fast": "Fast", "standard": "Standard", "fine": "Fine"}

LABELS: dict[str, dict[str, str]] = {
    "engine": {
        info.name: f"{info.title}: not installed" if info.unavailable else f"{info.title}: {_CONTRASTS[info.contrasts]}"
        for info in engine_infos()
    },
    "preset": {
        "fast": "Fast (2 mm for a brain)",
        "standard": "Standard (1.5 mm)",
        "fine": "Fine (as the fixed volume)",
    },
    "goal": {
        "auto": "Automatic",
        "overlap": "Overlap of structures",
        "accuracy": "Accuracy of every point",
    },
    "rule": {
        "plateau": "Smooth, nearly the best",
        "maximum": "The best",
        "knee": "Balanced against folding",
    },
    "domain": {"foreground": "of the foreground", "grid": "of the working grid"},
    "combine": {"mean": "Their (weighted) mean counts", "worst": "The worst of them counts"},
    "landmarksfor": {
        "measuring": "Measuring",
        "start": "Starting",
        "start and deformation": "Starting and pulling",
    },
    "device": {"cpu": "Processor (CPU)", "cuda": "Graphics card (CUDA)"},
    "transform": {"composite": "Affine and deformable (exact)", "field": "One displacement field"},
}
"""By parameter: the words for each of its values, in the order of the list."""


def engine_info(name: str) -> EngineInfo:
    """Return an engine's description, also of one that cannot run here."""
    return next(info for info in engine_infos() if info.name == name)


def engines_tooltip() -> str:
    """Say in a line for each engine what it is for or, where it cannot run here, what to do about it."""
    return "\n".join(f"{info.title}: {info.unavailable or info.summary}" for info in engine_infos())


def channel_engines() -> str:
    """Return ", or choose ..." with the engines that take several channels; "" if there are none."""
    able = " or ".join(info.title for info in engine_infos() if info.channels and not info.unavailable)
    return f", or choose {able}" if able else ""


def has_predictor(engine: str, preset: str) -> bool:
    """Tell whether a trained predictor is installed for an engine at a preset."""
    return bundled(engine, preset) is not None


def predictable_words() -> str:
    """Name the engines and presets that a predictor is installed for, such as "Demons at \"Fast\""; "" if there is none."""
    found = []
    for info in engine_infos():
        served = [f'"{title}"' for preset, title in _PRESET_TITLES.items() if has_predictor(info.name, preset)]
        if served:
            found.append(f"{info.title} at {'any preset' if len(served) == len(_PRESET_TITLES) else ' or '.join(served)}")
    return " or ".join(found)


def estimated_grid(fixed: Geometry, preset: str) -> Geometry:
    """Return about the working grid that a fixed volume will get, taken as full of anatomy."""
    edge = spacing_for(math.prod(fixed.extent_mm) ** (1 / 3), min(fixed.spacing), preset)
    i, j, k = (max(1, math.ceil(extent / edge)) for extent in fixed.extent_mm)
    return Geometry((i, j, k), (edge, edge, edge), fixed.origin, fixed.direction)


def estimated_space(engine: str, grid: Geometry | None) -> SearchSpace:
    """Return what an engine can be given on an estimated working grid, or in general where none is known."""
    info = engine_info(engine)
    if grid is None or info.unavailable:
        return info.search_space
    found = get_engine(engine)
    try:
        return found.search_space(grid, found.settings_type())
    except InputError:
        # The true grid is smaller than the estimate; if that does not help, the registration says so.
        return info.search_space


def unpredicted_setting(engine: str, preset: str, space: SearchSpace) -> Setting:
    """Return the setting that a registration without a prediction begins with, inside of `space`."""
    card = _card(engine, preset)
    known = {} if card is None else card.fixed
    return {p.name: min(max(known.get(p.name, p.default), p.low), p.high) for p in space}


def structures_of(engine: str, preset: str) -> tuple[str, ...]:
    """Return the structures that are predicted for a moving volume without a segmentation."""
    card = _card(engine, preset)
    return () if card is None else tuple(card.structures.values())


def _card(engine: str, preset: str) -> Card | None:
    folder = bundled(engine, preset)
    try:
        return None if folder is None else read_card(folder)
    except InputError:
        # Whoever predicts or registers hears of the damage.
        return None


def expected_words(engine: str, grid: Geometry | None, seconds_per_million_voxels: float | None = None) -> str:
    """Say how long a registration will take, or nothing if that cannot be told.

    Parameters
    ----------
    engine : its name.
    grid : the estimated working grid.
    seconds_per_million_voxels : as measured on this computer; the engine's own first guess if None.
    """
    if grid is None:
        return ""
    rate = seconds_per_million_voxels or engine_info(engine).seconds_per_million_voxels
    seconds = math.prod(grid.size) / 1e6 * rate
    if seconds < 90:
        return f"Registering will take about {max(5, 5 * round(seconds / 5)):.0f} s."
    return f"Registering will take about {math.ceil(seconds / 60):.0f} min."


def measured_rate(report: Report) -> float | None:
    """Return how many seconds a finished registration took for each million voxels and try; None if that cannot be told."""
    voxels = math.prod(report.working_grid.size) / 1e6
    seconds = sum(s for s in report.seconds.values() if math.isfinite(s)) - report.seconds.get("stability", 0.0)
    return seconds / voxels / max(len(report.trials), 1) if voxels > 0 and seconds > 0 else None
