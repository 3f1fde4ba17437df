"""`hyperpredictreg register`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from HyperPredictRegLib.cli import jobs, options, showing
from HyperPredictRegLib.cli.command import app
from HyperPredictRegLib.cli.watching import watched
from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.files import checked_path
from HyperPredictRegLib.staging import is_plain_name

if TYPE_CHECKING:
    from HyperPredictRegLib.job import Job
    from HyperPredictRegLib.outcome import Outcome


@app.command()
def register(  # noqa: PLR0913 - one parameter per option of the command; `jobs.job_of` reads them from the context
    context: typer.Context,
    fixed: Annotated[str | None, typer.Argument(help="Fixed image: a file, or a folder with one DICOM series.")] = None,
    moving: Annotated[str | None, typer.Argument(help="Moving image, to be brought onto the fixed one.")] = None,
    out: Annotated[str | None, typer.Option("--out", "-o", help="Folder for the results; made if it does not exist.")] = None,
    fixed_labels: options.FixedLabels = None,
    moving_labels: options.MovingLabels = None,
    fixed_mask: options.FixedMask = None,
    moving_mask: options.MovingMask = None,
    fixed_landmarks: options.FixedLandmarks = None,
    moving_landmarks: options.MovingLandmarks = None,
    label_names: options.LabelNames = None,
    initial_transform: options.InitialTransform = None,
    engine: options.EngineName = "demons",
    weight: Annotated[float | None, typer.Option("--weight", "-w", help="λ by your own choice: nothing is foreseen.")] = None,
    rule: options.Rule = "plateau",
    limit: options.Limit = "0.5",
    domain: options.Domain = "foreground",
    structures: options.Structures = None,
    combine: options.Combine = "mean",
    tolerance: options.Tolerance = 0.001,
    predictor: options.PredictorName = "bundled",
    not_cautious: options.NotCautious = False,
    preset: options.Preset = "fast",
    seed: options.Seed = 20240901,
    stability: Annotated[int, typer.Option(help="Repeat the affine step with so many seeds and tell the spread.")] = 0,
    reproducible: options.Reproducible = False,
    set_alignment: options.SetAlignment = None,
    set_engine: options.SetEngine = None,
    scene: Annotated[str | None, typer.Option(metavar="NAME.mrb", help="Also write a 3D Slicer scene of that name.")] = None,
    no_page: Annotated[bool, typer.Option("--no-page", help="Leave out report.html and its pictures.")] = False,
    job: Annotated[str | None, typer.Option("--job", help="Do the job in this job.json or report.json again.")] = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Register MOVING to FIXED: foresee, choose λ, keep the folding limit; write transform, volume, labels and report.

    Without --weight λ is chosen by the criterion, and raised and registered with again while measured folding exceeds the limit.
    """
    if job is not None:
        jobs.check_alone(context)
    task = jobs.job_of(context) if job is None else jobs.read_job(job, out)
    _register(task, with_page=not no_page, overwrite=overwrite, as_json=as_json, quiet=quiet)


def _register(task: Job, *, with_page: bool, overwrite: bool, as_json: bool, quiet: bool) -> None:
    from HyperPredictRegLib.records import to_json
    from HyperPredictRegLib.workflow import run

    writers = ([_write_page] if with_page else []) + _scene_writers(task)
    with watched(quiet or as_json, abandoned=True) as (progress, cancelled):
        report = run(task, writers=writers, overwrite=overwrite, progress=progress, cancelled=cancelled)
    if as_json:
        typer.echo(to_json(report), nl=False)
    else:
        showing.show_report(report)


def _write_page(outcome: Outcome, folder: Path) -> dict[str, str]:
    from HyperPredictRegLib.engines import get_engine
    from HyperPredictRegLib.reporting import write_report

    return write_report(outcome, folder, get_engine(outcome.report.engine.name).hyperparameters)


def _scene_writers(task: Job) -> list[Any]:
    if task.scene is None:
        return []
    name = task.scene
    if not is_plain_name(checked_path(name, "scene")) or not name.endswith(".mrb") or name.startswith("."):
        raise InputError(f"The scene '{name}' should be a file name that ends in .mrb; it is written into the output folder.")
    if importlib.util.find_spec("slicer") is None:
        raise InputError("A scene needs the package slicer-core: pip install 'hyperpredictreg[slicer]', or leave out --scene.")

    def write_views(outcome: Outcome, folder: Path) -> dict[str, str]:
        from HyperPredictRegLib.slicerbridge.sliceview import write_outcome_views

        write_outcome_views(outcome, folder / "slicer-views.png")
        return {"slicer_views_picture": "slicer-views.png"}

    def write_scene(outcome: Outcome, folder: Path) -> dict[str, str]:
        from HyperPredictRegLib.slicerbridge.scene import write_scene

        write_scene(outcome, folder / name)
        return {"scene": name}

    return [write_views, write_scene]
