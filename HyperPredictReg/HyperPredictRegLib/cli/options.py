"""Options that several commands share, and how their text becomes values."""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer

from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.files import shown
from HyperPredictRegLib.records import parsed_json

Out = Annotated[str, typer.Option("--out", "-o", help="Folder for the results; made if it does not exist.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace earlier results.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output, and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]

FixedLabels = Annotated[str | None, typer.Option(help="Label map on the fixed image's grid, to measure Dice against.")]
MovingLabels = Annotated[str | None, typer.Option(help="Label map on the moving image's grid, to carry over.")]
FixedMask = Annotated[str | None, typer.Option(help="Where the fixed image may be compared (not 0).")]
MovingMask = Annotated[str | None, typer.Option(help="Where the moving image may be compared (not 0).")]
FixedLandmarks = Annotated[str | None, typer.Option(help="Points (.mrk.json, .fcsv, .csv), to measure distances in mm.")]
MovingLandmarks = Annotated[str | None, typer.Option(help="The same points in the moving image, in the same order.")]
LabelNames = Annotated[str | None, typer.Option(help="CSV file with the columns label,name.")]
InitialTransform = Annotated[str | None, typer.Option(help="Transform file to start from, fixed to moving points.")]

EngineName = Annotated[str, typer.Option("--engine", help="demons (same contrast) or bspline (any contrast).")]
Preset = Annotated[str, typer.Option(help="fast (2 mm for a brain), standard (1.5 mm) or fine (fixed image's own).")]
Seed = Annotated[int, typer.Option(help="Fixes every random choice; not 0.")]
Reproducible = Annotated[bool, typer.Option("--reproducible", help="One thread: equal results bit for bit.")]
SetAlignment = Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Alignment setting; may repeat.")]
SetEngine = Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Engine setting; may repeat.")]

Rule = Annotated[str, typer.Option("--criterion", help="How λ is chosen: plateau, maximum or knee.")]
Limit = Annotated[str, typer.Option("--limit", metavar="PERCENT", help="Folded voxels that may not be exceeded, or none.")]
Domain = Annotated[str, typer.Option(help="What the limit is a percentage of: foreground or box.")]
Structures = Annotated[
    str | None, typer.Option(metavar="NAMES", help="Which count, with weights: 'left hippocampus,53:2'. All if left out.")
]
Combine = Annotated[str, typer.Option(help="What counts of the structures' Dice: mean or worst.")]
Tolerance = Annotated[float, typer.Option(help="Dice that plateau may give up for a smoother field.")]
PredictorName = Annotated[str, typer.Option("--predictor", help="bundled, the folder of another bundle, or none.")]
NotCautious = Annotated[bool, typer.Option("--not-cautious", help="Hold the best guess, not its band, under the limit.")]

CHOOSING = ("rule", "limit", "domain", "structures", "combine", "tolerance", "predictor", "not_cautious")
"""Parameters that say how λ is chosen."""


def settings(pairs: list[str] | None) -> dict[str, Any]:
    """Turn NAME=VALUE into a dict; a value is JSON where it can be, else text."""
    found: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise InputError(f"'{pair}' is not a setting: write NAME=VALUE.")
        try:
            found[name] = parsed_json(text, f"The setting {shown(pair)}") if text.lstrip()[:1] not in ("N", "I") else text
        except InputError:
            if text.lstrip()[:1] in "[{-0123456789":
                raise
            found[name] = text
    return found


def numbers(text: str | None, option: str) -> tuple[float, ...]:
    """Turn "0.5,0.8" into numbers."""
    try:
        found = tuple(float(part) for part in (text or "").split(",") if part.strip())
        if not all(math.isfinite(value) for value in found):
            raise ValueError("not a number")
        return found
    except ValueError as error:
        raise InputError(f"{option} '{text}' should be numbers with commas between them, such as 0.5,0.8.") from error


def given(context: typer.Context, names: tuple[str, ...]) -> list[str]:
    """Return which of a command's parameters were written on the command line, as options are written."""
    options = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    sources = {name: context.get_parameter_source(name) for name in names if name in context.params}
    return [options.get(name, name) for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
