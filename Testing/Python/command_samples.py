"""The command, run as from a terminal; many runs are forked from one process that has loaded the libraries once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Each run has a process, standard streams and an exit code of its own, as if it had been started; only its imports are done.
SERVER = """
import json, os, sys
from HyperPredictRegLib import engines, workflow
from HyperPredictRegLib.quality import measurement
from HyperPredictRegLib.results import results_folder
from HyperPredictRegLib.spatial import points
from HyperPredictRegLib.workflow import applying
from HyperPredictRegLib.cli import commands

for line in sys.stdin:
    task = json.loads(line)
    pid = os.fork()
    if pid == 0:
        for number, name in ((0, os.devnull), (1, task["stdout"]), (2, task["stderr"])):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
        os.chdir(task["folder"])
        sys.argv = ["hyperpredictreg", *task["words"]]
        from HyperPredictRegLib.cli import main
        try:
            main()
        except SystemExit as ended:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(ended.code or 0)
        os._exit(99)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Command:
    """Runs the command, by words as on a command line."""

    def __init__(self, server: subprocess.Popen[str] | None) -> None:
        self._server = server

    def __call__(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Run the command in the current folder; return its exit code and what it said."""
        given = [str(word) for word in words]
        if self._server is None:
            return started(*given)
        assert self._server.stdin is not None and self._server.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            message = {name: Path(folder) / name for name in ("stdout", "stderr")}
            task = {"words": given, "folder": os.getcwd(), **{name: str(path) for name, path in message.items()}}  # noqa: PTH109
            self._server.stdin.write(json.dumps(task) + "\n")
            self._server.stdin.flush()
            code = int(self._server.stdout.readline())
            texts = {name: path.read_text(encoding="utf-8") for name, path in message.items()}
        return subprocess.CompletedProcess(given, code, **texts)


def started(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a process that starts from nothing."""
    return subprocess.run(
        [sys.executable, "-m", "HyperPredictRegLib.cli", *map(str, words)], capture_output=True, encoding="utf-8", check=False
    )


@contextmanager
def command_server() -> Iterator[Command]:
    """Load the libraries once for all runs within the block; where processes cannot fork, each run starts from nothing."""
    if not hasattr(os, "fork"):
        yield Command(None)
        return
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as server:
        yield Command(server)
