"""The Python that runs code in a process of its own; inside Slicer it is not the program that runs.

Needs nothing but Python's own library.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# The empty entry of sys.path, the current folder, might hold a file that takes the place of a library.
_FROM_HERE = "import sys; sys.path[:] = filter(None, sys.path)"


def this_python() -> str:
    """Return the Python to run code with: Slicer's own inside Slicer, else that of this process.

    Raises
    ------
    OSError : there is none.
    """
    # Slicer's own executable is no Python; the one beside it sets the same libraries up.
    if getattr(sys.modules.get("slicer"), "app", None) is not None and (found := shutil.which("PythonSlicer")):
        return found
    if "python" in Path(sys.executable or "").name.lower():
        return sys.executable
    raise OSError("PythonSlicer was not found")


def exit_code_of(code: str, arguments: Sequence[str], seconds: float) -> int:
    """Run code that may crash in a process of its own, which hears and says nothing, and return its exit code.

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
