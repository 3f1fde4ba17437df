"""The command that all others hang on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from HyperPredictRegLib import __version__
from HyperPredictRegLib.core.errors import InputError

# Everything else is imported inside the commands, so that --help answers at once.
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Deformable image registration: predict, choose λ, align, register, measure, and say what came out.",
)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False) -> None:
    if version:
        typer.echo(f"hyperpredictreg {__version__}")
        raise typer.Exit


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
