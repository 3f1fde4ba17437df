"""How much memory a registration will take, is left, and was taken."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_BYTES_PER_IMAGE_VOXEL = 40
_BYTES_PER_GRID_VOXEL = 330
_BASE_BYTES = 350e6


def estimated_bytes(image_voxels: int, grid_voxels: int, engine_bytes: float = 0.0) -> float:
    """Return an upper estimate of the peak memory of a registration in bytes.

    Parameters
    ----------
    image_voxels : voxels of the fixed and the moving image together.
    grid_voxels : voxels of the working grid.
    engine_bytes : what the engine itself takes beyond that.

    Notes
    -----
    The constants are measured peaks with a third added; ``benchmarks/one_pair.py`` prints estimate and peak side by side.
    """
    return _BASE_BYTES + engine_bytes + _BYTES_PER_IMAGE_VOXEL * image_voxels + _BYTES_PER_GRID_VOXEL * grid_voxels


def available_bytes() -> float | None:
    """Return the memory that is free for new work, in bytes, or None where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    except OSError:
        pass
    names = getattr(os, "sysconf_names", {})
    if "SC_AVPHYS_PAGES" in names:
        return float(os.sysconf("SC_AVPHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    return None


def peak_mb() -> float | None:
    """Return the most memory this process has held so far, in MB, or None on systems that do not tell (Windows)."""
    try:
        import resource
    except ModuleNotFoundError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in kB, macOS in bytes.
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
