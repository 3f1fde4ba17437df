"""`hyperpredictreg apply`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from HyperPredictRegLib.cli import options
from HyperPredictRegLib.cli.command import app
from HyperPredictRegLib.cli.watching import watched
from HyperPredictRegLib.files import printable


@app.command()
def apply(  # noqa: PLR0913 - one parameter per option of the command
    transform: Annotated[str, typer.Argument(help="Transform file, fixed to moving points: transform.h5 of a registration.")],
    out: options.Out,
    image: Annotated[list[str] | None, typer.Option(help="Image to carry over, whatever it shows; may repeat.")] = None,
    labels: Annotated[list[str] | None, typer.Option(help="Label map or .seg.nrrd to carry over; may repeat.")] = None,
    points: Annotated[list[str] | None, typer.Option(help="Points to carry over (.mrk.json, .fcsv, .csv); may repeat.")] = None,
    reference: Annotated[str | None, typer.Option(help="Image whose grid images and labels are brought to.")] = None,
    inverse: Annotated[bool, typer.Option("--inverse", help="Carry from the fixed to the moving image's space.")] = False,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Carry images, label maps and points from the moving to the fixed image's space, or back with --inverse."""
    from HyperPredictRegLib import application

    task = application.Application(
        transform, out, tuple(image or ()), tuple(labels or ()), tuple(points or ()), reference, backward=inverse
    )
    with watched(quiet or as_json, abandoned=True) as (progress, cancelled):
        done = application.apply(task, overwrite=overwrite, progress=progress, cancelled=cancelled)
    if as_json:
        typer.echo(json.dumps({"files": done.files, "warnings": done.warnings}, indent=2, ensure_ascii=False))
        return
    for warning in done.warnings:
        typer.echo(printable(f"Warning: {warning}"), err=True)
    for name in done.files:
        typer.echo(printable(f"Written: {name}"))
