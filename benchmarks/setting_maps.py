"""Measure how long the panel takes to draw its maps of a prediction over two parameters, and for a click on one.

    python benchmarks/setting_maps.py

A made-up prediction at 200 x 200 settings with two structures, on the stand-in for Slicer (Testing/slicerhost), without a screen.
Processor time, the least of several runs: both maps anew, as after a change of the limit; and a click, which moves the marks.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
TOP = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TOP / "Testing"), str(TOP / "Testing" / "Python")]

import slicerhost  # noqa: E402
from HyperPredictRegLib import engines  # noqa: E402
from HyperPredictRegLib.engines import get_engine  # noqa: E402
from panel_samples import MODULE_FILE, choose_pair, take_prediction  # noqa: E402
from two_parameter_engine import NAME, PLACE, SPACE, ripple_prediction, ripple_surface  # noqa: E402

SIDE, RUNS, WIDTH = 200, 7, 460


def least_ms(work: Callable[[int], object]) -> float:
    """Return the least processor time of several runs in milliseconds, after one to warm up; `work` is given their number."""
    times = []
    for run in range(RUNS + 1):
        started = time.process_time()
        work(run)
        times.append(time.process_time() - started)
    return 1000 * min(times[1:])


def main() -> None:
    """Print both times."""
    engines.ENGINES[NAME] = PLACE
    with slicerhost.start() as host:
        panel = host.open_module(MODULE_FILE)
        host.startup()
        choose_pair(host, panel)
        node = panel.widget._parameterNode
        node.engine = importlib.import_module("HyperPredictRegLib.panel.parameters").Engine.RIPPLE
        take_prediction(host, panel, replace(ripple_prediction(get_engine(NAME)), surface=ripple_surface(SPACE.grid(SIDE))))
        panel.frame.window().fit(WIDTH)
        host.let_qt_work()

        def change_limit(run: int) -> None:
            node.foldingLimit = 0.5 + 0.1 * run

        def click(run: int) -> None:
            panel.widget.panel.choice._map_clicked({"damping": 1.0 + run, "step": 0.1 + 0.1 * run})

        print(f"{SIDE} x {SIDE} settings, another limit: chosen and both maps drawn anew in {least_ms(change_limit):.0f} ms")
        print(f"a click on a map: {least_ms(click):.0f} ms")
        for one in host.panels:
            one.close()


if __name__ == "__main__":
    main()
