"""Nothing leaves the machine: no code of ours can open a connection, and a job runs where none can be opened."""

from __future__ import annotations

import ast
import socket
from pathlib import Path

import pytest
from conftest import job_of
from HyperPredictRegLib import workflow

MODULE = Path(__file__).resolve().parents[2] / "HyperPredictReg"
FILES = [MODULE / "HyperPredictReg.py", *sorted((MODULE / "HyperPredictRegLib").rglob("*.py"))]
TALKERS = frozenset(
    ["aiohttp", "asyncio", "ftplib", "http", "httpx", "imaplib", "paramiko", "poplib", "requests", "smtplib", "socket",
     "socketserver", "ssl", "telnetlib", "urllib", "urllib3", "webbrowser", "websockets", "xmlrpc"]
)  # fmt: skip
FETCHERS = frozenset(["pip_install", "download", "downloadFile", "downloadFromURL", "urlopen", "urlretrieve"])

# Installs PyTorch through Slicer's extension of that name, and what the report page needs, each only after asking.
ASKS_FIRST = MODULE / "HyperPredictRegLib" / "panel" / "packages.py"


def ways_out(code: str) -> list[str]:
    """List what in a piece of code could reach the network: imports of talkers, and calls that fetch."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in TALKERS]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in TALKERS and not node.level:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            found += [name] if name in FETCHERS | {"pip_ensure", "installTorch"} else []
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(MODULE).as_posix())
def test_no_code_of_ours_reaches_the_network(file: Path) -> None:
    found = set(ways_out(file.read_text(encoding="utf-8")))
    assert found <= ({"pip_ensure", "installTorch"} if file == ASKS_FIRST else set())


@pytest.mark.parametrize(
    "code", ["import urllib.request", "from http import client", "slicer.util.pip_install('x')", "logic.installTorch()"]
)
def test_the_search_can_find_something(code: str) -> None:
    assert ways_out(code)


def test_a_job_needs_no_network(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_arguments: object, **_options: object) -> None:
        raise AssertionError("something asked for the network")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)
    with pytest.raises(AssertionError, match="asked for the network"):
        socket.create_connection(("example.org", 80))
    report = workflow.run(job_of(files, tmp_path / "out", predictor="bundled", alignment={}))
    assert report.choice.by == "predictor"
