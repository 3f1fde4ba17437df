"""How much memory a registration will take, is left, and was taken."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import SimpleITK as sitk

from HyperPredictRegLib.core.errors import InputError

# The empty entry of sys.path, the current folder, might hold a file that takes the place of a library.
_FROM_HERE = "import sys; sys.path[:] = filter(None, sys.path)"


def this_python() -> str:
    """Return the Python to run code with: Slicer's own inside Slicer, else that of this process.

    Raises
    ------
    OSError : there is none.
    """
    # Slicer's own executable is no Python; PythonSlicer beside it is one, with the same libraries.
    if getattr(sys.modules.get("slicer"), "app", None) is not None and (found := shutil.which("PythonSlicer")):
        return found
    if "python" in Path(sys.executable or "").name.lower():
        return sys.executable
    raise OSError("PythonSlicer was not found")


def exit_code_of(code: str, arguments: Sequence[str], seconds: float) -> int:
    """Run code that may crash in a process of its own, without any input or output, and return its exit code.

    Parameters
    ----------
    code : Python.
    arguments : its `sys.argv[1:]`; paths belong here, never into the code.
    seconds : how long it may run.

    Raises
    ------
    OSError : no process can be started.
    subprocess.TimeoutExpired : it ran for longer, and was ended.
    """
    command = [this_python(), "-c", f"{_FROM_HERE}\n{code}", *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=seconds).returncode


@contextmanager
def threads(count: int | None) -> Iterator[int]:
    """Let SimpleITK use `count` threads inside a ``with`` block, and restore the previous number afterwards.

    One thread makes every result of this library equal bit for bit, because sums are then added in one order.

    Parameters
    ----------
    count : number of threads, at least 1; None leaves the number as it is.

    Yields
    ------
    count : the number of threads in force.

    Raises
    ------
    InputError : `count` is less than 1.
    """
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    if count is None:
        yield before
        return
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(
            f"The number of threads is {count!r}, but it must be a whole number of at least 1 "
            f"(this computer offers {os.cpu_count()})."
        )
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(count)
    try:
        yield count
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


_BYTES_PER_IMAGE_VOXEL = 40
_BYTES_PER_REDUCED_VOXEL = 6
"""Images that are only analysed on a coarser copy are kept as they are, without floating-point copies."""
_BYTES_PER_GRID_VOXEL = 330
_BASE_BYTES = 350e6

CHANNEL_BYTES_PER_VOXEL = 200
"""What each channel beside the first pair takes for each voxel of the working grid: the measured peak with a third added."""


def estimated_bytes(image_voxels: int, grid_voxels: int, engine_bytes: float = 0.0, reduced_voxels: int = 0) -> float:
    """Return an upper estimate of the peak memory of a registration in bytes.

    Parameters
    ----------
    image_voxels : voxels of all images together that are worked on as they are.
    grid_voxels : voxels of the working grid.
    engine_bytes : what the engine itself takes beyond that.
    reduced_voxels : voxels of the other images, those that are so large that coarser copies stand for them.

    Notes
    -----
    The constants are measured peaks with a third added; ``benchmarks/one_pair.py`` prints estimate and peak side by side, and
    ``benchmarks/big_volume.py`` does for a pair of 512 x 512 x 300 voxels.
    """
    of_images = _BYTES_PER_IMAGE_VOXEL * image_voxels + _BYTES_PER_REDUCED_VOXEL * reduced_voxels
    return _BASE_BYTES + engine_bytes + of_images + _BYTES_PER_GRID_VOXEL * grid_voxels


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
