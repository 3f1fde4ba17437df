"""The command that all others hang on, and how it ends."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NoReturn

import typer

from HyperPredictRegLib import __version__
from HyperPredictRegLib.errors import Cancelled, HyperPredictRegError, InputError

# Everything else is imported inside the commands, so that --help answers at once.
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Deformable image registration: foresee, choose λ, align, register, measure, and say what came out.",
)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False) -> None:
    if version:
        typer.echo(f"hyperpredictreg {__version__}")
        raise typer.Exit


def load_further_commands() -> None:
    """Import what other installed packages enter under "hyperpredictreg.commands"; each adds its commands to `app`."""
    for entry in importlib.metadata.entry_points(group="hyperpredictreg.commands"):
        entry.load()


def main() -> None:
    """Run the command and end the process with its exit code: 0, 1, 2 or 130."""
    # In a terminal of another encoding a λ must not stop the work.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        app()
    except HyperPredictRegError as error:
        failed(error)
    except MemoryError:
        failed(HyperPredictRegError("there was not enough memory: choose a coarser --preset, or close other programs."))


def failed(error: HyperPredictRegError) -> NoReturn:
    """Say what went wrong and end the process at once."""
    typer.echo(str(error) if isinstance(error, Cancelled) else f"Error: {error}", err=True)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: after a write that failed, the HDF5 library inside ITK crashes in its own clean-up.
    os._exit(130 if isinstance(error, Cancelled) else 2 if isinstance(error, InputError) else 1)


@contextmanager
def packages(install: str, what: str) -> Iterator[None]:
    """Turn an import that fails inside a ``with`` block into a sentence that says what to install.

    Raises
    ------
    InputError : a package is missing.
    """
    try:
        yield
    except ImportError as error:
        missing = (error.name or "").split(".")[0]
        if missing in ("", "HyperPredictRegLib"):
            raise
        sentence = f"{what} needs the Python package '{missing}', which is not installed: pip install {install}."
        raise InputError(sentence) from error
