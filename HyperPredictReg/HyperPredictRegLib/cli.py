"""The `hyperpredictreg` command. Exit codes: 0 done, 1 no valid result, 2 bad input or usage, 130 cancelled."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from HyperPredictRegLib import __version__
from HyperPredictRegLib.errors import Cancelled, HyperPredictRegError, InputError

# Everything else is imported inside the commands, so that --help answers at once.
if TYPE_CHECKING:
    from HyperPredictRegLib.job import Job, Measured, Report
    from HyperPredictRegLib.outcome import Outcome
    from HyperPredictRegLib.progress import CancelCheck, Progress

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Deformable image registration: align, register, measure, and say what came out.",
)

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


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False) -> None:
    if version:
        typer.echo(f"hyperpredictreg {__version__}")
        raise typer.Exit


@app.command()
def register(  # noqa: PLR0913 - one parameter per option of the command
    context: typer.Context,
    fixed: Annotated[str | None, typer.Argument(help="Fixed image: a file, or a folder with one DICOM series.")] = None,
    moving: Annotated[str | None, typer.Argument(help="Moving image, to be brought onto the fixed one.")] = None,
    out: Annotated[str | None, typer.Option("--out", "-o", help="Folder for the results; made if it does not exist.")] = None,
    fixed_labels: FixedLabels = None,
    moving_labels: MovingLabels = None,
    fixed_mask: FixedMask = None,
    moving_mask: MovingMask = None,
    fixed_landmarks: FixedLandmarks = None,
    moving_landmarks: MovingLandmarks = None,
    label_names: LabelNames = None,
    initial_transform: Annotated[str | None, typer.Option(help="Transform file to start from, fixed to moving points.")] = None,
    engine: Annotated[str, typer.Option(help="demons (same contrast) or bspline (any contrast).")] = "demons",
    weight: Annotated[float | None, typer.Option("--weight", "-w", help="λ of the engine; its default if left out.")] = None,
    preset: Annotated[str, typer.Option(help="fast (2 mm for a brain), standard (1.5 mm) or fine (fixed image's own).")] = "fast",
    seed: Annotated[int, typer.Option(help="Fixes every random choice; not 0.")] = 20240901,
    stability: Annotated[int, typer.Option(help="Repeat the affine step with so many seeds and tell the spread.")] = 0,
    reproducible: Annotated[bool, typer.Option("--reproducible", help="One thread: equal results bit for bit.")] = False,
    set_alignment: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Alignment setting; may repeat.")] = None,
    set_engine: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Engine setting; may repeat.")] = None,
    scene: Annotated[str | None, typer.Option(metavar="NAME.mrb", help="Also write a 3D Slicer scene of that name.")] = None,
    no_page: Annotated[bool, typer.Option("--no-page", help="Leave out report.html and its pictures.")] = False,
    job: Annotated[str | None, typer.Option("--job", help="Do the job in this job.json or report.json again.")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Register MOVING to FIXED and write transform, volume, labels, report and, if asked for, a Slicer scene."""
    from HyperPredictRegLib.engines import get_engine
    from HyperPredictRegLib.job import Job
    from HyperPredictRegLib.workflow import run

    if job is not None:
        _check_alone(context)
        task = _read_job(job, out)
    elif fixed is None or moving is None or out is None:
        raise InputError("Give a fixed image, a moving image and --out FOLDER; see hyperpredictreg register --help.")
    else:
        task = Job(
            fixed, moving, out, fixed_labels, moving_labels, fixed_mask, moving_mask, fixed_landmarks, moving_landmarks,
            label_names, initial_transform, engine,
            hyperparameters={} if weight is None else {get_engine(engine).hyperparameters[0].name: weight},
            engine_settings=_settings(set_engine),
            preset=preset,
            alignment=_settings(set_alignment),
            seed=seed,
            stability_seeds=stability,
            reproducible=reproducible,
            scene=scene,
        )  # fmt: skip
    task = _with_absolute_paths(task)
    writers = ([] if no_page else [_page_writer]) + _scene_writers(task)
    with _watched(quiet or as_json) as (progress, cancelled):
        report = run(task, writers=writers, overwrite=overwrite, progress=progress, cancelled=cancelled)
    _show_report(report, as_json)


@app.command()
def apply(  # noqa: PLR0913 - one parameter per option of the command
    transform: Annotated[str, typer.Argument(help="Transform file, fixed to moving points: transform.h5 of a registration.")],
    out: Out,
    image: Annotated[list[str] | None, typer.Option(help="Image to carry over; may repeat.")] = None,
    labels: Annotated[list[str] | None, typer.Option(help="Label map to carry over; may repeat.")] = None,
    points: Annotated[list[str] | None, typer.Option(help="Points to carry over (.mrk.json, .fcsv, .csv); may repeat.")] = None,
    reference: Annotated[str | None, typer.Option(help="Image whose grid images and labels are brought to.")] = None,
    inverse: Annotated[bool, typer.Option("--inverse", help="Carry from the fixed to the moving image's space.")] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Carry images, label maps and points from the moving to the fixed image's space, or back with --inverse."""
    from HyperPredictRegLib import application

    task = application.Application(
        transform, out, tuple(image or ()), tuple(labels or ()), tuple(points or ()), reference, backward=inverse
    )
    with _watched(quiet or as_json) as (progress, cancelled):
        done = application.apply(task, overwrite=overwrite, progress=progress, cancelled=cancelled)
    if as_json:
        typer.echo(json.dumps({"files": done.files, "warnings": done.warnings}, indent=2, ensure_ascii=False))
        return
    for warning in done.warnings:
        typer.echo(f"Warning: {warning}", err=True)
    for name in done.files:
        typer.echo(f"Written: {name}")


@app.command()
def measure(  # noqa: PLR0913 - one parameter per option of the command
    fixed: Annotated[str, typer.Argument(help="Fixed image.")],
    moving: Annotated[str, typer.Argument(help="Moving image.")],
    transform: Annotated[str, typer.Option("--transform", "-t", help="Transform or displacement field, by any tool.")],
    fixed_labels: FixedLabels = None,
    moving_labels: MovingLabels = None,
    fixed_mask: FixedMask = None,
    moving_mask: MovingMask = None,
    fixed_landmarks: FixedLandmarks = None,
    moving_landmarks: MovingLandmarks = None,
    label_names: LabelNames = None,
    preset: Annotated[str, typer.Option(help="Grid for a transform that is not a displacement field.")] = "fast",
    as_json: AsJson = False,
    quiet: Quiet = False,
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
    with _watched(quiet or as_json) as (progress, cancelled):
        progress(ProgressEvent("read", 0.0))
        inputs = read_inputs(task)
        found = transforms.read_transform(transform, "transform")
        stop_if(cancelled)
        progress(ProgressEvent("measure", 0.0))
        grid = measurement.measuring_grid(inputs, found, preset)
        measured = measurement.measure(inputs, found, measurement.linear_start(found), grid).measured
    if as_json:
        typer.echo(to_json(measured), nl=False)
    else:
        _show_measured(measured)


def main() -> None:
    """Run the command and end the process with its exit code: 0, 1, 2 or 130."""
    # In a terminal of another encoding a λ must not stop the work.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        app()
    except HyperPredictRegError as error:
        failed(error)
    except MemoryError:
        failed(HyperPredictRegError("there was not enough memory: choose a coarser --preset, or close other programs."))


def failed(error: HyperPredictRegError) -> NoReturn:
    """Say what went wrong and end the process at once."""
    typer.echo(str(error) if isinstance(error, Cancelled) else f"Error: {error}", err=True)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: after a write that failed, the HDF5 library inside ITK crashes in its own clean-up.
    os._exit(130 if isinstance(error, Cancelled) else 2 if isinstance(error, InputError) else 1)


def _settings(pairs: list[str] | None) -> dict[str, Any]:
    """Turn NAME=VALUE into a dict; a value is JSON where it can be, else text."""
    found: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise InputError(f"'{pair}' is not a setting: write NAME=VALUE.")
        try:
            found[name] = json.loads(text)
        except json.JSONDecodeError:
            found[name] = text
    return found


def _check_alone(context: typer.Context) -> None:
    """Raise `InputError` for options beside --job that the job would override in silence."""
    allowed = {"job", "out", "overwrite", "no_page", "as_json", "quiet"}
    sources = {name: context.get_parameter_source(name) for name in context.params if name not in allowed}
    beside = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if beside:
        raise InputError(f"'{beside[0].replace('_', '-')}' cannot stand beside --job: edit the job file instead.")


def _with_absolute_paths(task: Job) -> Job:
    """Return the job as it can be done again from any other folder."""
    names = (
        "fixed", "moving", "out", "fixed_labels", "moving_labels", "fixed_mask", "moving_mask", "fixed_landmarks",
        "moving_landmarks", "label_names", "initial_transform",
    )  # fmt: skip
    given = {name: getattr(task, name) for name in names}
    changes: dict[str, Any] = {name: str(Path(path).absolute()) for name, path in given.items() if path is not None}
    return replace(task, **changes)


def _read_job(path: str, out: str | None) -> Job:
    from HyperPredictRegLib.job import Job
    from HyperPredictRegLib.records import from_plain

    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"The job '{path}' could not be read ({error.strerror}): check the path.") from error
    except ValueError as error:
        raise InputError(f"The job '{path}' is not valid JSON ({error}).") from error
    if isinstance(data, dict) and isinstance(data.get("job"), dict):
        data = data["job"]
    if out is not None and isinstance(data, dict):
        data = data | {"out": out}
    return from_plain(Job, data, f"the job '{path}'")


def _page_writer(outcome: Outcome, folder: Path) -> dict[str, str]:
    from HyperPredictRegLib.engines import get_engine
    from HyperPredictRegLib.reporting import write_report

    return write_report(outcome, folder, get_engine(outcome.report.engine.name).hyperparameters)


def _scene_writers(task: Job) -> list[Any]:
    if task.scene is None:
        return []
    name = task.scene
    if Path(name).name != name or not name.endswith(".mrb"):
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


@contextlib.contextmanager
def _watched(quiet: bool) -> Iterator[tuple[Progress, CancelCheck]]:
    """Show progress bars, and turn the first Ctrl+C or SIGTERM into a request to stop cleanly."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    from HyperPredictRegLib.progress import ProgressEvent

    stop = threading.Event()

    def request_stop(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {s: signal.signal(s, request_stop) for s in (signal.SIGINT, signal.SIGTERM)}
    columns = (TextColumn("{task.description:<10}"), BarColumn(30), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn())
    bars = Bars(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True), disable=quiet)
    tasks: dict[str, Any] = {}

    def show(event: ProgressEvent) -> None:
        if event.stage not in tasks:
            # What has begun something new has ended what went before.
            for earlier in tasks.values():
                bars.update(earlier, completed=1.0, note="")
            tasks[event.stage] = bars.add_task(event.stage, total=1.0, note="")
        note = event.message if event.metric is None else f"{event.message}  metric {event.metric:.4g}"
        bars.update(tasks[event.stage], completed=event.fraction, note=note)

    try:
        with bars:
            yield show, stop.is_set
            for begun in tasks.values():
                bars.update(begun, completed=1.0, note="")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _show_report(report: Report, as_json: bool) -> None:
    from HyperPredictRegLib.records import to_json

    if as_json:
        typer.echo(to_json(report), nl=False)
        return
    _show_measured(report.measured)
    if report.alignment.stability is not None:
        spread = report.alignment.stability
        typer.echo(f"Affine stability     {len(spread.seeds)} seeds lie {spread.mean_spread_mm:.2f} mm from their mean")
    for warning in report.warnings:
        typer.echo(f"Warning: {warning}")
    typer.echo(f"Took {sum(report.seconds.values()):.0f} s. Results in {report.job.out}:")
    for role, name in {"report": "report.json", **report.outputs}.items():
        typer.echo(f"  {role:<22} {name}")


def _show_measured(measured: Measured) -> None:
    folding = measured.folding_percent
    typer.echo(f"Folding              {folding.foreground:.3f} % of the foreground, {folding.box:.3f} % of the box")
    typer.echo(f"SD of log-Jacobian   {measured.sd_log_jacobian:.3f}")
    inverse = measured.inverse_consistency_mm
    typer.echo(f"Inverse consistency  mean {inverse.mean:.3f} mm, 95 % below {inverse.p95:.3f} mm")
    typer.echo(f"Mutual information   {measured.similarity_before:.3f} -> {measured.similarity_after:.3f}")
    if measured.dice is not None and measured.dice.absent:
        typer.echo(f"Left out of Dice     {', '.join(measured.dice.absent)} (in one label map only)")
    if measured.dice is not None:
        count = len(measured.dice.structures)
        typer.echo(f"Mean Dice            {measured.dice.mean_before:.3f} -> {measured.dice.mean:.3f} ({count} structures)")
    if measured.tre_mm is not None and measured.tre_before_mm is not None:
        typer.echo(f"Landmark error       {measured.tre_before_mm.mean:.2f} -> {measured.tre_mm.mean:.2f} mm (mean)")


if __name__ == "__main__":
    main()
