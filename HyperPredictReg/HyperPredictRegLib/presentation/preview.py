"""What is said of a live preview: whether there can be one, what it is called, and how coarse it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from HyperPredictRegLib.core.search_space import SearchSpace
from HyperPredictRegLib.engines import engine_infos


@dataclass(frozen=True)
class PreviewView:
    """Whether the live preview can be switched on, and what it does or why it cannot."""

    enabled: bool
    tooltip: str


def preview_view(engine: str, symbol: str, why_not: str) -> PreviewView:
    """Return whether there can be a preview.

    Parameters
    ----------
    engine : name of the one that is chosen.
    symbol : of its first parameter.
    why_not : why nothing can run now, as a sentence; "" if it can.
    """
    able = [info for info in engine_infos() if info.preview_voxels and not info.unavailable]
    if engine not in [info.name for info in able]:
        titles = " or ".join(info.title for info in able) or "no preview"
        return PreviewView(False, f"This method is not quick enough to follow {symbol} while it is moved: choose {titles}.")
    if why_not:
        return PreviewView(False, why_not)
    return PreviewView(
        True,
        f"Show, while {symbol} is moved, about what it would make of the moving volume: registered on a coarse grid, over the "
        "fixed volume in the slice views. The volume is not saved; it goes when this is unticked, when a registration starts and "
        "when you leave the module.",
    )


def preview_name(space: SearchSpace, setting: Mapping[str, float]) -> str:
    """Return the name of the volume that a preview is shown in."""
    return f"Preview, {space.text(setting)}, coarse"


def preview_words(space: SearchSpace, setting: Mapping[str, float], spacing_mm: float, seconds: float) -> str:
    """Say what a preview shows."""
    return (
        f"Preview of {space.text(setting)} on a grid of {spacing_mm:.2g} mm, after {seconds:.1f} s. It shows about what to "
        "expect; only a registration is measured."
    )
