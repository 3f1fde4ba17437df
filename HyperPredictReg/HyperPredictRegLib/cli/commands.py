"""All commands, each with its options checked before it begins."""

from __future__ import annotations

import importlib.metadata
import math
from contextlib import suppress
from typing import Any

from typer.core import TyperCommand

from HyperPredictRegLib.cli import (  # noqa: F401 - importing a file adds its command
    applying,
    measuring,
    predicting,
    registering,
)
from HyperPredictRegLib.cli.command import app
from HyperPredictRegLib.errors import Cancelled, InputError
from HyperPredictRegLib.files import checked_path, shown

__all__ = ["app"]

LARGEST_WHOLE = 2**31 - 1
LARGEST = 1e9
"""No option of ours means anything beyond these, and libraries below crash on such numbers."""

_PATHS = frozenset(
    [
        "fixed", "moving", "out", "fixed_labels", "moving_labels", "fixed_mask", "moving_mask", "fixed_landmarks",
        "moving_landmarks", "label_names", "initial_transform", "predictor", "scene", "job", "transform", "image", "points",
        "reference", "manifest", "labelmaps", "sweep", "train", "tests", "bundle", "stranger",
    ]
)  # fmt: skip


class CheckedCommand(TyperCommand):
    """A command that refuses texts and numbers which no option of it can mean."""

    def invoke(self, ctx: Any) -> Any:
        """Check the options, then do the work."""
        for parameter in self.params:
            name = parameter.name or ""
            given = ctx.params.get(name)
            written = parameter.opts[0] if parameter.opts and parameter.opts[0].startswith("-") else name.upper()
            for value in given if isinstance(given, list | tuple) else [given]:
                _check(value, written, is_path=name in _PATHS or (name == "labels" and not isinstance(given, str)))
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stopped:
            raise Cancelled("Stopped at once.") from stopped


def _check(value: Any, written: str, *, is_path: bool) -> None:
    if isinstance(value, str):
        if not value.strip():
            raise InputError(f"{written} is empty: give a value, or leave it out.")
        if is_path:
            checked_path(value, written)
        elif "\0" in value:
            raise InputError(f"{written} '{shown(value)}' holds a NUL character: give another value.")
    elif isinstance(value, float) and not (math.isfinite(value) and abs(value) <= LARGEST):
        raise InputError(f"{written} is {value:g}: give a number of at most {LARGEST:g}.")
    elif isinstance(value, int) and abs(value) > LARGEST_WHOLE:
        raise InputError(f"{written} is too large: give a whole number of at most {LARGEST_WHOLE}.")


# Other installed packages enter commands of their own, such as the laboratory; one that cannot be loaded takes none of ours away.
for _entry in importlib.metadata.entry_points(group="hyperpredictreg.commands"):
    with suppress(ImportError):
        _entry.load()

for _command in app.registered_commands:
    _command.cls = CheckedCommand
