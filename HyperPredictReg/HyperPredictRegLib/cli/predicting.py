"""`hyperpredictreg predict`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from HyperPredictRegLib.cli import jobs, options, showing
from HyperPredictRegLib.cli.command import app
from HyperPredictRegLib.cli.watching import watched
from HyperPredictRegLib.errors import InputError

if TYPE_CHECKING:
    from HyperPredictRegLib.job import Job, Predicted
    from HyperPredictRegLib.prediction import Foresight


@app.command()
def predict(  # noqa: PLR0913 - one parameter per option of the command; `jobs.job_of` reads them from the context
    context: typer.Context,
    fixed: Annotated[str, typer.Argument(help="Fixed image: a file, or a folder with one DICOM series.")],
    moving: Annotated[str, typer.Argument(help="Moving image.")],
    out: options.Out,
    moving_labels: Annotated[str | None, typer.Option(help="Label map on the moving image's grid: better foresight.")] = None,
    fixed_mask: options.FixedMask = None,
    moving_mask: options.MovingMask = None,
    label_names: options.LabelNames = None,
    initial_transform: options.InitialTransform = None,
    engine: options.EngineName = "demons",
    rule: options.Rule = "plateau",
    limit: options.Limit = "0.5",
    domain: options.Domain = "foreground",
    structures: options.Structures = None,
    combine: options.Combine = "mean",
    tolerance: options.Tolerance = 0.001,
    predictor: options.PredictorName = "bundled",
    not_cautious: options.NotCautious = False,
    at: Annotated[str | None, typer.Option(metavar="λ,λ,...", help="Also print what is foreseen at these λ.")] = None,
    preset: options.Preset = "fast",
    seed: options.Seed = 20240901,
    reproducible: options.Reproducible = False,
    set_alignment: options.SetAlignment = None,
    set_engine: options.SetEngine = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Foresee Dice and folding for every λ and suggest λ*, without registering: curves, pictures and a page."""
    weights = options.numbers(at, "--at")
    _predict(jobs.job_of(context), weights, overwrite=overwrite, as_json=as_json, quiet=quiet)


def _predict(task: Job, weights: tuple[float, ...], *, overwrite: bool, as_json: bool, quiet: bool) -> None:
    from HyperPredictRegLib import workflow
    from HyperPredictRegLib.engines import get_engine
    from HyperPredictRegLib.records import to_plain
    from HyperPredictRegLib.reporting import write_prediction

    asked: list[Predicted] = []
    files: dict[str, str] = {}

    # As writers, because what cannot be answered must leave no files behind.
    def answer(foresight: Foresight, folder: Path) -> dict[str, str]:
        asked.extend(_foreseen_at(foresight, weights))
        return {}

    def write(foresight: Foresight, folder: Path) -> dict[str, str]:
        files.update(write_prediction(foresight, folder, get_engine(task.engine).hyperparameters))
        return files

    with watched(quiet or as_json, abandoned=True) as (progress, cancelled):
        foresight = workflow.predict(
            task, writers=[answer, write], overwrite=overwrite, progress=progress, cancelled=cancelled
        )
    if as_json:
        found = to_plain(foresight.prediction) | ({"at": [to_plain(one) for one in asked]} if weights else {})
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        showing.show_prediction(foresight.prediction, asked, list(files.values()))


def _foreseen_at(foresight: Foresight, weights: tuple[float, ...]) -> list[Predicted]:
    from HyperPredictRegLib.selection import foreseen

    curves = foresight.curves
    if weights and len(curves.names) != 1:
        raise InputError(f"--at asks for one number, but this engine has {len(curves.names)}: {', '.join(curves.names)}.")
    return [foreseen(curves, {curves.names[0]: weight}, foresight.prediction.predictor) for weight in weights]
