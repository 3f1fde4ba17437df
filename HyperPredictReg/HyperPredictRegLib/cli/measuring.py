"""`hyperpredictreg measure`."""

from __future__ import annotations

from typing import Annotated

import typer

from HyperPredictRegLib.cli import options, showing
from HyperPredictRegLib.cli.command import app
from HyperPredictRegLib.cli.watching import watched
from HyperPredictRegLib.files import printable


@app.command()
def measure(  # noqa: PLR0913 - one parameter per option of the command
    fixed: Annotated[str, typer.Argument(help="Fixed image.")],
    moving: Annotated[str, typer.Argument(help="Moving image.")],
    transform: Annotated[str, typer.Option("--transform", "-t", help="Transform or displacement field, by any tool.")],
    fixed_labels: options.FixedLabels = None,
    moving_labels: options.MovingLabels = None,
    fixed_mask: options.FixedMask = None,
    moving_mask: options.MovingMask = None,
    fixed_landmarks: options.FixedLandmarks = None,
    moving_landmarks: options.MovingLandmarks = None,
    label_names: options.LabelNames = None,
    preset: Annotated[str, typer.Option(help="Grid for a transform that is not a displacement field.")] = "fast",
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure any transform on a pair: Dice, surface distances, landmarks, folding, Jacobian, inverse consistency."""
    from HyperPredictRegLib import measurement, transforms
    from HyperPredictRegLib.inputs import read_inputs
    from HyperPredictRegLib.job import Job
    from HyperPredictRegLib.progress import ProgressEvent, stop_if
    from HyperPredictRegLib.records import to_json

    task = Job(
        fixed, moving, "", fixed_labels, moving_labels, fixed_mask, moving_mask, fixed_landmarks, moving_landmarks, label_names
    )
    with watched(quiet or as_json, abandoned=True) as (progress, cancelled):
        progress(ProgressEvent("read", 0.0))
        inputs = read_inputs(task)
        found, notes = transforms.read_transform_noted(transform, "transform")
        stop_if(cancelled)
        progress(ProgressEvent("measure", 0.0))
        grid = measurement.measuring_grid(inputs, found, preset)
        measured = measurement.measure(inputs, found, measurement.linear_start(found), grid).measured
    for note in (*inputs.notes, *notes):
        typer.echo(printable(f"Warning: {note}"), err=True)
    if as_json:
        typer.echo(to_json(measured), nl=False)
    else:
        showing.show_measured(measured)
