"""`hyperpredictreg evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from HyperPredictRegLib.cli import options
from HyperPredictRegLib.cli.command import app, packages
from HyperPredictRegLib.cli.watching import watched
from HyperPredictRegLib.errors import Cancelled, InputError
from HyperPredictRegLib.files import check_writable


@app.command()
def evaluate(
    train: Annotated[str, typer.Argument(help="Sweep that the predictor is, or was, trained on.")],
    out: Annotated[str, typer.Option("--out", "-o", help="Folder for evaluation.md, its figures and tables.")],
    tests: Annotated[list[str] | None, typer.Argument(help="Sweeps of people that nothing was trained on.")] = None,
    bundle: Annotated[str | None, typer.Option(help="The predictor; one is trained on TRAIN if left out.")] = None,
    stranger: Annotated[list[str] | None, typer.Option(help="Sweep of which only the light is judged; may repeat.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="No ablations, fewer bootstrap samples.")] = False,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure how good a predictor is, on people it has not seen and against baselines: a page with figures and tables."""
    with packages("torch 'hyperpredictreg[laboratory]'", "An evaluation"):
        import pandas  # noqa: F401 - before any work
        import pyarrow  # noqa: F401

        from HyperPredictRegLab import evaluation
        from HyperPredictRegLab.baselines.paper_images import read_paper_images
        from HyperPredictRegLab.training.examples import read_examples

    if not out:
        raise InputError("--out is empty: name a folder for the evaluation.")
    check_writable(Path(out))
    page = Path(out) / "evaluation.md"
    if page.exists() and not overwrite:
        raise InputError(f"The folder '{out}' holds an evaluation: choose another, or say --overwrite.")
    examples = read_examples(train)
    named = {name: read_examples(folder) for name, folder in _by_name(tests).items()}
    for name, found in {"training": examples, **named}.items():
        for note in found.notes:
            typer.echo(f"Note on '{name}': {note}", err=True)
    images = {name: read_paper_images(folder, named[name].pairs) for name, folder in _by_name(tests).items()}
    strangers = {name: evaluation.read_strangers(folder / "features.parquet") for name, folder in _by_name(stranger).items()}
    chosen = evaluation.Options(
        paper_train_images=read_paper_images(train, examples.pairs),
        paper_test_images={name: found for name, found in images.items() if found is not None},
        strangers=strangers,
        quick=quick,
    )
    with watched(quiet) as (progress, cancelled):
        try:
            evaluation.evaluate(
                examples,
                named,
                Path(out),
                bundle=None if bundle is None else Path(bundle),
                options=chosen,
                progress=progress,
                cancelled=cancelled,
            )
        except Cancelled as stopped:
            raise Cancelled("The evaluation was stopped; nothing was written.") from stopped
    typer.echo(f"Written: {page}")


def _by_name(folders: list[str] | None) -> dict[str, Path]:
    """Call each sweep as its folder is called."""
    found: dict[str, Path] = {}
    for folder in folders or ():
        name = Path(folder).absolute().name
        if name in found:
            raise InputError(f"Two of the sweeps are in folders called '{name}': rename one, for the page calls them so.")
        found[name] = Path(folder)
    return found
