"""`hyperpredictreg train`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from HyperPredictRegLib.cli import options
from HyperPredictRegLib.cli.command import app, packages
from HyperPredictRegLib.cli.watching import watched
from HyperPredictRegLib.errors import Cancelled, InputError
from HyperPredictRegLib.files import check_writable

if TYPE_CHECKING:
    from HyperPredictRegLib.predictor.card import Card

MOST_EPOCHS = 100_000


@app.command()
def train(  # noqa: PLR0913 - one parameter per option of the command
    sweep: Annotated[str, typer.Argument(help="Folder of a finished sweep.")],
    out: Annotated[str, typer.Option("--out", "-o", help="Folder for the bundle; made if it does not exist.")],
    name: Annotated[str, typer.Option(help="What the predictor is called.")] = "own",
    version: Annotated[str, typer.Option(help="Of the predictor.")] = "1",
    licence: Annotated[str, typer.Option("--licence", "--license", help="Under which it may be used.")] = "unspecified",
    data_note: Annotated[str, typer.Option(help="Where the training data came from, for its card.")] = "unspecified",
    label_noise: Annotated[
        float | None, typer.Option(min=0, help="By how many mm labels are taken to stray from images; default: as in training.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, max=MOST_EPOCHS, help="Passes over the examples; 400 if left out.")] = None,
    labels: Annotated[str | None, typer.Option(metavar="N,...", help="Label values to learn; common ones if left out.")] = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a predictor on a sweep and save it as a bundle, with its accuracy on people it has not seen."""
    with packages("torch 'hyperpredictreg[laboratory]'", "Training"):
        import pandas  # noqa: F401
        import pyarrow  # noqa: F401

        from HyperPredictRegLab.training.building import Description, build
        from HyperPredictRegLab.training.examples import read_examples
        from HyperPredictRegLab.training.fitting import TrainingSettings
    from HyperPredictRegLib.records import to_json

    folder = Path(out)
    if not out:
        raise InputError("--out is empty: name a folder for the bundle.")
    check_writable(folder)
    if not overwrite and any((folder / file).exists() for file in ("card.json", "model.pt")):
        raise InputError(f"The folder '{out}' holds a predictor: choose another, or say --overwrite.")
    listed = options.numbers(labels, "--labels")
    if any(not math.isfinite(number) or number != int(number) for number in listed):
        raise InputError(f"--labels '{labels}' should be label values, which are whole numbers.")
    settings = TrainingSettings() if epochs is None else TrainingSettings(epochs=epochs)
    described = Description(name, version, licence, data_note, label_noise)
    examples = read_examples(sweep, labels=tuple(int(number) for number in listed) or None)
    for note in examples.notes:
        typer.echo(f"Note: {note}", err=True)
    with watched(quiet or as_json) as (progress, cancelled):
        try:
            card = build(examples, folder, described, settings, progress=progress, cancelled=cancelled)
        except Cancelled as stopped:
            raise Cancelled("Training was stopped; nothing was written.") from stopped
    if as_json:
        typer.echo(to_json(card), nl=False)
    else:
        _show(card, out)


def _show(card: Card, out: str) -> None:
    people = len(card.subjects)
    typer.echo(f"{card.name} {card.version}: {card.registrations} registrations of {card.pairs} pairs of {people} people.")
    typer.echo(f"Foresees {card.engine} at the preset {card.preset}, λ from {card.lower:g} to {card.upper:g}.")
    typer.echo(f"Fixed λ for those who do not predict: {card.fixed_value:g}.")
    typer.echo("On people whom it has not seen:")
    for name, value in card.accuracy.items():
        typer.echo(f"  {name.replace('_', ' '):<32} {value:g}")
    typer.echo(f"Written: {Path(out) / 'card.json'}, {Path(out) / 'model.pt'}")
