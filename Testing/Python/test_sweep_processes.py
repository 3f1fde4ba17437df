"""The processes of a sweep: nobody else can reach them, they end with it, and they leave nothing in the temporary folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from HyperPredictRegLib.core.errors import InputError
from sweep_samples import listening, process_tree, write_manifest, write_organs
from worker_samples import is_alive, seconds_until

from HyperPredictRegLab.sweep.cluster import check_workers, dask_client

# Long enough for any machine under any load; what is tested is what happens, not how fast.
PATIENCE = 300.0

SCRIPT = """
import sys
from HyperPredictRegLab.sweep.design import Design
from HyperPredictRegLab.sweep.runs import SweepSettings
from HyperPredictRegLab.sweep.running import sweep
if __name__ == "__main__":
    own = SweepSettings("demons", alignment={"multi_start": False})
    def say(event):
        print(event.message, flush=True)
    sweep(sys.argv[1], sys.argv[2], settings=own, design=Design(values=(0.7, 2.0)), workers=1, progress=say)
"""

needs_proc = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="asks /proc, which this system does not have")


@pytest.fixture(scope="module")
def organs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_organs(tmp_path_factory.mktemp("organs"))


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_a_sweep_from_python_listens_to_itself_alone_and_leaves_nothing(
    organs: Path, tmp_path: Path, number: signal.Signals
) -> None:
    temporary, out = tmp_path / "temporary", tmp_path / "out"
    temporary.mkdir()
    names = [(f"{a}-{b}-{n}", a, b) for n in range(4) for a in ("anna", "bert", "carl") for b in ("anna", "bert", "carl")]
    manifest = write_manifest(organs / "many.csv", names)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(manifest), str(out)]
    environment = os.environ | {"TMPDIR": str(temporary)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", env=environment, start_new_session=True
    ) as it:
        assert it.stdout is not None
        assert "pairs to do on 1 cores" in it.stdout.readline()
        seen = [(tree, listening(tree)) for tree in (process_tree(it.pid),)]
        assert "1 of 36 pairs" in it.stdout.readline()
        seen.append((tree := process_tree(it.pid), listening(tree)))
        assert any(temporary.iterdir())
        if number == signal.SIGKILL:
            it.kill()  # it alone: its workers must notice by themselves
        else:
            os.killpg(it.pid, number)  # as Ctrl+C in a terminal, which reaches the workers too
        message = it.communicate(timeout=PATIENCE)[1]
    for tree, addresses in seen:
        assert len(tree) >= 2
        assert addresses and all(address.is_loopback for address in addresses), addresses
    everyone = seen[0][0] | seen[1][0]
    assert seconds_until(lambda: not any(is_alive(pid) for pid in everyone), PATIENCE) < PATIENCE
    assert list(temporary.iterdir()) == []
    assert 1 <= len(list(out.glob("parts/runs/*.parquet"))) < 36
    if number == signal.SIGINT:
        assert it.returncode == -signal.SIGINT or it.returncode == 1
        assert message.rstrip().endswith("KeyboardInterrupt")


@needs_proc
def test_the_question_to_the_system_sees_what_others_can_reach() -> None:
    with socket.socket() as closed, socket.socket() as reachable, socket.socket(type=socket.SOCK_DGRAM) as bound:
        closed.bind(("127.0.0.1", 0))
        closed.listen()
        assert {str(address) for address in listening({os.getpid()})} == {"127.0.0.1"}
        bound.bind(("127.0.0.2", 0))
        reachable.bind(("0.0.0.0", 0))
        reachable.listen()
        found = {str(address) for address in listening({os.getpid()})}
        assert {"127.0.0.1", "127.0.0.2", "0.0.0.0"} <= found


def test_processes_that_end_in_peace_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with dask_client(None, 1) as client:
        assert client.submit(abs, -3).result() == 3
        assert len(list(tmp_path.iterdir())) == 1
        assert client.scheduler_info()["services"] == {} or "127.0.0.1" in client.dashboard_link
        # Below these, memory of every array would be given back to the system and asked for again.
        sizes = [client.submit(os.getenv, f"MALLOC_{name}_THRESHOLD_").result() for name in ("TRIM", "MMAP")]
        assert min(int(size) for size in sizes) >= 2**25
    deadline = time.monotonic() + PATIENCE
    while list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("workers", [0, -1, 10**6, 10**30])
def test_an_absurd_number_of_processes_is_refused(workers: int) -> None:
    with pytest.raises(InputError, match=rf"^{workers} worker processes cannot be used: take 1 to \d+ on this computer"):
        check_workers(workers)
