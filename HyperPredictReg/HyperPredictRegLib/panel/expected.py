"""How long a registration will take: a rough estimate that learns from each run on this computer."""

import math
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from HyperPredictRegLib.grid import PRESETS
from HyperPredictRegLib.job import Report

_SETTING = "HyperPredictReg/SecondsPerMillionVoxels/{engine}"
_BRAIN_MM = 150.0

# For computers on which nothing has run yet: a whole job on two cores, sample pair, seconds for each million voxels of the box.
_AT_FIRST = {"demons": 20.0, "bspline": 60.0}


def learn(report: Report) -> None:
    """Remember how long a finished registration took here."""
    voxels = math.prod(report.working_grid.size) / 1e6
    tries = max(len(report.trials), 1)
    seconds = sum(s for s in report.seconds.values() if math.isfinite(s)) - report.seconds.get("stability", 0.0)
    if voxels > 0 and seconds > 0:
        qt.QSettings().setValue(_SETTING.format(engine=report.engine.name), f"{seconds / voxels / tries:.4g}")


def expected_seconds(volume: Any, engine: str, preset: str) -> float | None:
    """Return about how long a registration takes, in seconds; None for a volume without voxels.

    Parameters
    ----------
    volume : the fixed volume node.
    engine, preset : names.
    """
    if volume is None or volume.GetImageData() is None:
        return None
    spacing = volume.GetSpacing()
    extents = [n * s for n, s in zip(volume.GetImageData().GetDimensions(), spacing, strict=True)]
    cubic_mm = math.prod(extents)
    if cubic_mm <= 0:
        return None
    # As the working grid is chosen (see `grid.working_spacing`), for a box that is taken as full of anatomy.
    halvings = max(0, round(math.log2(_BRAIN_MM / cubic_mm ** (1 / 3))))
    edge = max(min(spacing), PRESETS[preset] / 2**halvings)
    rate = slicer.util.settingsValue(_SETTING.format(engine=engine), _AT_FIRST.get(engine, 60.0), converter=float)
    return cubic_mm / edge**3 / 1e6 * rate


def expected_words(volume: Any, engine: str, preset: str) -> str:
    """Say how long a registration will take, or nothing if that cannot be told."""
    seconds = expected_seconds(volume, engine, preset)
    if seconds is None:
        return ""
    if seconds < 90:
        return _("Registering will take about {seconds:.0f} s.").format(seconds=max(5, 5 * round(seconds / 5)))
    return _("Registering will take about {minutes:.0f} min.").format(minutes=math.ceil(seconds / 60))
