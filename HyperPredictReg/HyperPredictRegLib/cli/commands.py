"""The commands, each with its options checked before it begins."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import math
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from HyperPredictRegLib.cli import options, output
from HyperPredictRegLib.cli.command import app
from HyperPredictRegLib.cli.output import watched
from HyperPredictRegLib.core.errors import Cancelled, InputError
from HyperPredictRegLib.core.files import checked_path, printable, shown
from HyperPredictRegLib.core.staging import is_plain_name

if TYPE_CHECKING:
    from HyperPredictRegLib.results.job import Job
    from HyperPredictRegLib.results.outcome import Outcome
    from HyperPredictRegLib.results.prediction import Predicted, Prediction

__all__ = ["app"]

LARGEST_WHOLE = 2**31 - 1
LARGEST = 1e9
"""No option of ours means anything beyond these, and libraries below crash on such numbers."""

_PATHS = frozenset(
    [
        "fixed", "moving", "out", "fixed_labels", "moving_labels", "fixed_mask", "moving_mask", "fixed_landmarks",
        "moving_landmarks", "label_names", "initial_transform", "predictor", "prediction", "scene", "job", "transform", "image",
        "points", "reference", "manifest", "labelmaps", "sweep", "train", "tests", "bundle",
        "ood_set", "fixed_channel", "moving_channel",
    ]
)  # fmt: skip
"""Parameters of all commands, also those of other packages, that are paths."""


@app.command()
def apply(  # noqa: PLR0913 - one parameter per option of the command
    transform: Annotated[str, typer.Argument(help="Transform file, fixed to moving points: transform.h5 of a registration.")],
    out: options.Out,
    image: Annotated[list[str] | None, typer.Option(help="Image to transform, whatever it shows; may repeat.")] = None,
    labels: Annotated[list[str] | None, typer.Option(help="Label map or .seg.nrrd to transform; may repeat.")] = None,
    points: Annotated[list[str] | None, typer.Option(help="Points to transform (.mrk.json, .fcsv, .csv); may repeat.")] = None,
    reference: Annotated[str | None, typer.Option(help="Image whose grid images and labels are brought to.")] = None,
    inverse: Annotated[bool, typer.Option("--inverse", help="From the fixed to the moving image's space instead.")] = False,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Transform images, label maps and points from the moving to the fixed image's space, or back with --inverse."""
    from HyperPredictRegLib.workflow import applying

    task = applying.Application(
        transform, out, tuple(image or ()), tuple(labels or ()), tuple(points or ()), reference, backward=inverse
    )
    with watched(quiet or as_json, abandoned=True) as (progress, cancelled):
        done = applying.apply(task, overwrite=overwrite, progress=progress, cancelled=cancelled)
    if as_json:
        typer.echo(json.dumps({"files": done.files, "warnings": done.warnings}, indent=2, ensure_ascii=False))
        return
    for warning in done.warnings:
        typer.echo(printable(f"Warning: {warning}"), err=True)
    for name in done.files:
        typer.echo(printable(f"Written: {name}"))


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
    from HyperPredictRegLib.core.json_records import to_json
    from HyperPredictRegLib.core.progress import ProgressEvent, stop_if
    from HyperPredictRegLib.preprocessing.image_set import read_inputs
    from HyperPredictRegLib.quality import measurement
    from HyperPredictRegLib.results.job import Job
    from HyperPredictRegLib.spatial import transforms

    files = (fixed_labels, moving_labels, fixed_mask, moving_mask, fixed_landmarks, moving_landmarks, label_names)
    task = Job(fixed, moving, "", *files, preset=preset)
    with watched(quiet or as_json, abandoned=True) as (progress, cancelled):
        progress(ProgressEvent("read", 0.0))
        inputs = read_inputs(task, cancelled)
        notes: list[str] = []
        found = transforms.read_transform(transform, "transform", notes)
        stop_if(cancelled)
        progress(ProgressEvent("measure", 0.0))
        grid = measurement.measuring_grid(inputs, found, preset)
        measured = measurement.measure(inputs, found, measurement.linear_start(found), grid, cancelled).measured
    for note in (*inputs.notes, *notes):
        typer.echo(printable(f"Warning: {note}"), err=True)
    if as_json:
        typer.echo(to_json(measured), nl=False)
    else:
        output.show_measured(measured, min(grid.spacing))


@app.command()
def register(  # noqa: PLR0913 - one parameter per option of the command; `options.job_of` reads them from the context
    context: typer.Context,
    fixed: Annotated[str | None, typer.Argument(help="Fixed image: a file, or a folder with one DICOM series.")] = None,
    moving: Annotated[str | None, typer.Argument(help="Moving image, to be registered to the fixed one.")] = None,
    out: Annotated[str | None, typer.Option("--out", "-o", help="Folder for the results; made if it does not exist.")] = None,
    fixed_labels: options.FixedLabels = None,
    moving_labels: options.MovingLabels = None,
    fixed_mask: options.FixedMask = None,
    moving_mask: options.MovingMask = None,
    fixed_landmarks: options.FixedLandmarks = None,
    moving_landmarks: options.MovingLandmarks = None,
    landmarks_for: options.LandmarksFor = "measuring",
    label_names: options.LabelNames = None,
    initial_transform: options.InitialTransform = None,
    fixed_channel: options.FixedChannel = None,
    moving_channel: options.MovingChannel = None,
    channel_weight: options.ChannelWeight = None,
    engine: options.EngineName = None,
    weight: Annotated[
        float | None, typer.Option("--weight", "-w", help="λ, or the first parameter that the engine has; no prediction.")
    ] = None,
    set_parameters: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=NUMBER", help="Any parameter, as --weight.")
    ] = None,
    prediction: Annotated[
        str | None, typer.Option(help="Finished prediction, its file or folder; what is left out is as in it.")
    ] = None,
    rule: options.Rule = "maximum",
    goal: options.Goal = "auto",
    limit: options.Limit = "0.5",
    domain: options.Domain = "foreground",
    structures: options.Structures = None,
    combine: options.Combine = "mean",
    tolerance: options.Tolerance = 0.001,
    predictor: options.PredictorName = "bundled",
    trials: options.Trials = False,
    not_cautious: options.NotCautious = False,
    preset: options.Preset = "fast",
    seed: options.Seed = 20240901,
    stability: Annotated[int, typer.Option(help="Repeat the affine step with so many seeds and tell the spread.")] = 0,
    reproducible: options.Reproducible = False,
    device: options.Device = "cpu",
    set_alignment: options.SetAlignment = None,
    set_engine: options.SetEngine = None,
    scene: Annotated[str | None, typer.Option(metavar="NAME.mrb", help="Also write a 3D Slicer scene of that name.")] = None,
    no_page: Annotated[bool, typer.Option("--no-page", help="Leave out report.html and its pictures.")] = False,
    job: Annotated[str | None, typer.Option("--job", help="Do the job in this job.json or report.json again.")] = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Register MOVING to FIXED: predict, choose λ, keep the folding limit; write transform, volume, labels and report.

    Without --weight or --set λ is chosen by the criterion, and corrected while measured folding exceeds the limit.
    With --prediction nothing is predicted or aligned again.
    """
    if job is not None:
        options.check_alone(context)
    task = options.job_of(context) if job is None else options.read_job(job, out)
    _register(task, with_page=not no_page, overwrite=overwrite, as_json=as_json, quiet=quiet)


def _register(task: Job, *, with_page: bool, overwrite: bool, as_json: bool, quiet: bool) -> None:
    from HyperPredictRegLib.core.json_records import to_json
    from HyperPredictRegLib.workflow import run

    writers = ([_write_page] if with_page else []) + _scene_writers(task)
    with watched(quiet or as_json, abandoned=True) as (progress, cancelled):
        report = run(task, writers=writers, overwrite=overwrite, progress=progress, cancelled=cancelled)
    if as_json:
        typer.echo(to_json(report), nl=False)
    else:
        output.show_report(report)


def _write_page(outcome: Outcome, folder: Path) -> dict[str, str]:
    from HyperPredictRegLib.reporting import write_report

    return write_report(outcome, folder)


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


@app.command()
def predict(  # noqa: PLR0913 - one parameter per option of the command; `options.job_of` reads them from the context
    context: typer.Context,
    fixed: Annotated[str, typer.Argument(help="Fixed image: a file, or a folder with one DICOM series.")],
    moving: Annotated[str, typer.Argument(help="Moving image.")],
    out: options.Out,
    moving_labels: Annotated[str | None, typer.Option(help="Label map on the moving image's grid: better prediction.")] = None,
    fixed_mask: options.FixedMask = None,
    moving_mask: options.MovingMask = None,
    fixed_landmarks: options.FixedLandmarks = None,
    moving_landmarks: options.MovingLandmarks = None,
    landmarks_for: options.LandmarksFor = "measuring",
    label_names: options.LabelNames = None,
    initial_transform: options.InitialTransform = None,
    fixed_channel: options.FixedChannel = None,
    moving_channel: options.MovingChannel = None,
    channel_weight: options.ChannelWeight = None,
    engine: options.EngineName = None,
    rule: options.Rule = "maximum",
    goal: options.Goal = "auto",
    limit: options.Limit = "0.5",
    domain: options.Domain = "foreground",
    structures: options.Structures = None,
    combine: options.Combine = "mean",
    tolerance: options.Tolerance = 0.001,
    predictor: options.PredictorName = "bundled",
    not_cautious: options.NotCautious = False,
    at: Annotated[
        list[str] | None,
        typer.Option(metavar="λ,λ,...", help="Also print what is predicted at these λ, or at NAME=NUMBER,...; may repeat."),
    ] = None,
    preset: options.Preset = "fast",
    seed: options.Seed = 20240901,
    reproducible: options.Reproducible = False,
    set_alignment: options.SetAlignment = None,
    set_engine: options.SetEngine = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Predict Dice and folding for every λ and suggest λ*, without registering: curves, pictures and a page."""
    _predict(options.job_of(context), options.settings_at(at), overwrite=overwrite, as_json=as_json, quiet=quiet)


def _predict(task: Job, settings: list[dict[str, float]], *, overwrite: bool, as_json: bool, quiet: bool) -> None:
    from HyperPredictRegLib import workflow
    from HyperPredictRegLib.core.json_records import to_plain
    from HyperPredictRegLib.reporting import write_prediction

    asked: list[Predicted] = []
    files: dict[str, str] = {}

    # As writers, because what cannot be answered must leave no files behind.
    def answer(prediction: Prediction, folder: Path) -> dict[str, str]:
        asked.extend(_predicted_at(prediction, settings))
        return {}

    def write(prediction: Prediction, folder: Path) -> dict[str, str]:
        files.update(write_prediction(prediction, folder))
        return files

    with watched(quiet or as_json, abandoned=True) as (progress, cancelled):
        prediction = workflow.predict(
            task, writers=[answer, write], overwrite=overwrite, progress=progress, cancelled=cancelled
        )
    if as_json:
        found = to_plain(prediction) | ({"at": [to_plain(one) for one in asked]} if settings else {})
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        output.show_prediction(prediction, asked, list(files.values()))


def _predicted_at(prediction: Prediction, settings: list[dict[str, float]]) -> list[Predicted]:
    """Return what is predicted at settings; what one leaves out is as suggested."""
    from HyperPredictRegLib.selection import predict_at

    space, found = prediction.surface.space, []
    for setting in settings:
        named = {name or space.first.name: value for name, value in setting.items()}
        chosen = {name: value for name, value in prediction.choice.setting.items() if name in space.names}
        whole = space.complete(chosen | named, prediction.engine.name)
        found.append(predict_at(prediction.surface, whole, prediction.predictor))
    return found


class CheckedCommand(TyperCommand):
    """A command that refuses texts and numbers which no option of it can mean, and whose help tells of the engines there are."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        for parameter in self.params:
            if parameter.name in options.HELP_OF_ENGINES and isinstance(parameter, TyperOption):
                parameter.help = options.HELP_OF_ENGINES[parameter.name]()
        super().format_help(ctx, formatter)

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
