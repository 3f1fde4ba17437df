"""Runs a program and sees to its end: a process of its own between an engine and the program, which outlives neither.

``python guardian.py FOLDER PROGRAM ARGUMENT ...`` runs the program in the folder. Its exit code is the program's, 128 more than
the signal that ended it, or 126 where it could not be started. As soon as its input ends, because whoever started it wants that
or is gone, however that died, it ends the program with all that that started, and removes the folder. Needs nothing but Python.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import NoReturn

NOT_STARTED = 126
_ATTEMPTS = 20


def main() -> NoReturn:
    """Do what is said above."""
    folder, *command = sys.argv[1:]
    try:
        program = subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=folder, start_new_session=True)
    except OSError as error:
        sys.stderr.write(f"{error.strerror}\n")
        sys.stderr.flush()
        os._exit(NOT_STARTED)
    alone = threading.Event()

    def watch() -> None:
        # Not sys.stdin, whose buffer a thread that ends with the process may not hold.
        while os.read(0, 1024):
            pass
        alone.set()
        end(program)
        for _ in range(_ATTEMPTS):
            shutil.rmtree(folder, ignore_errors=True)
            if not os.path.lexists(folder):
                return
            # What was just ended may hold its files for a moment more.
            time.sleep(0.02)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    code = program.wait()
    if alone.is_set():
        watcher.join()
    else:
        # A script may leave behind what it started.
        end(program)
    os._exit(code if code >= 0 else 128 - code)


def end(program: subprocess.Popen[bytes]) -> None:
    """End a program and all that it started."""
    if sys.platform == "win32":
        tree = ["taskkill", "/F", "/T", "/PID", str(program.pid)]
        with suppress(OSError):
            subprocess.run(tree, capture_output=True, check=False)
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(program.pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
