"""Measure how long the panel takes for one move of the λ slider, with a made-up prediction on the sample pair.

    python benchmarks/slider.py

It runs on the stand-in for Slicer (Testing/slicerhost), without a screen. More than 10 ms would be felt while dragging.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
TOP = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TOP / "Testing"), str(TOP / "Testing" / "Python")]

import slicer  # noqa: E402
import slicerhost  # noqa: E402
from panel_samples import MODULE_FILE, take_prediction  # noqa: E402

WARM_UP, TICKS = 5, 100


def measured() -> float:
    """Return the milliseconds of processor time that one move of the slider takes."""
    with slicerhost.start() as host:
        panel = host.open_module(MODULE_FILE)
        host.startup()
        slicerhost.press_button("SampleBrainPair")
        for name in ("fixed", "moving"):
            getattr(panel.ui, f"{name}Selector").setCurrentNode(slicer.util.getNode(f"Brain{name.capitalize()}"))
        take_prediction(host, panel)
        for name in ("best", "criterion"):
            getattr(panel.ui, f"{name}CollapsibleButton").setCollapsed(False)
        host.let_qt_work()
        for tick in range(WARM_UP):
            panel.ui.weightSlider.setValue(tick)
        began = time.process_time()
        for tick in range(TICKS):
            panel.ui.weightSlider.setValue(WARM_UP + 3 * tick)
        seconds = time.process_time() - began
        for one in host.panels:
            one.close()
    return 1000 * seconds / TICKS


if __name__ == "__main__":
    print(f"{measured():.1f} ms per move of the slider")
