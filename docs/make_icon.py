"""Draw the extension's icon: a deformed grid under the curve of quality against λ, its best point marked.

Run `python docs/make_icon.py` from anywhere; it writes the icon of the extension and of the module, 128 x 128 pixels.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

TOP = Path(__file__).resolve().parent.parent
TARGETS = (TOP / "HyperPredictReg.png", TOP / "HyperPredictReg" / "Resources" / "Icons" / "HyperPredictReg.png")
PIXELS = 128
NIGHT, MIST, AMBER = "#14304f", "#8fc4e8", "#ffb632"


def deformed(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move points of the unit square by a smooth swirl that fades to nothing at the border.

    Parameters
    ----------
    x, y : coordinates from 0 to 1, any one shape.
    """
    dx, dy = x - 0.5, y - 0.5
    turn = 1.15 * np.exp(-(dx**2 + dy**2) / 0.055)
    return 0.5 + dx * np.cos(turn) - dy * np.sin(turn), 0.5 + dx * np.sin(turn) + dy * np.cos(turn)


def draw_grid(axes: Axes, lines: int = 6) -> None:
    """Draw the deformed grid inside the tile."""
    along = np.linspace(0.0, 1.0, 200)
    for position in np.linspace(0.0, 1.0, lines):
        across = np.full_like(along, position)
        for x, y in (deformed(along, across), deformed(across, along)):
            axes.plot(0.12 + 0.76 * x, 0.12 + 0.76 * y, color=MIST, linewidth=1.5, alpha=0.85, solid_capstyle="round")


def draw_curve(axes: Axes) -> None:
    """Draw quality against λ, and a ring around its best point."""
    x = np.linspace(0.1, 0.9, 200)
    peak = 0.44
    width = np.where(x < peak, 0.19, 0.33)
    y = 0.17 + 0.54 * np.exp(-(((x - peak) / width) ** 2))
    axes.plot(x, y, color=NIGHT, linewidth=9.0, solid_capstyle="round")
    axes.plot(x, y, color=AMBER, linewidth=5.4, solid_capstyle="round")
    axes.plot(peak, y.max(), "o", markersize=19, color=NIGHT)
    axes.plot(peak, y.max(), "o", markersize=14.5, color="white", markeredgecolor=AMBER, markeredgewidth=4.0)


def main() -> None:
    """Write the icon to each of its places."""
    figure = plt.figure(figsize=(1.28, 1.28), dpi=100)
    figure.patch.set_alpha(0.0)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.axis("off")
    tile = FancyBboxPatch((0.06, 0.06), 0.88, 0.88, boxstyle="round,pad=0.04,rounding_size=0.2", color=NIGHT, linewidth=0)
    axes.add_patch(tile)
    draw_grid(axes)
    draw_curve(axes)
    for target in TARGETS:
        figure.savefig(target, dpi=PIXELS / 1.28, transparent=True, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
