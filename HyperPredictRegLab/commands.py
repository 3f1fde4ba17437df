"""The commands of the laboratory; the product finds them by the entry point of this file."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from HyperPredictRegLib.cli import options
from HyperPredictRegLib.cli.command import app, packages
from HyperPredictRegLib.cli.output import watched
from HyperPredictRegLib.core.errors import Cancelled, InputError, RegistrationError
from HyperPredictRegLib.core.files import check_writable

if TYPE_CHECKING:
    from HyperPredictRegLib.predictor.card import Card

    from HyperPredictRegLab.sweep.design import Design
    from HyperPredictRegLab.sweep.running import SweepResult

_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")


@app.command("synthesise", hidden=True)
@app.command("synthesize")
def synthesize(
    labelmaps: Annotated[
        str, typer.Argument(help="Folder with one label map per person, FreeSurfer's codes, 1 mm; for --any: with subfolders.")
    ],
    out: options.Out,
    count: Annotated[int, typer.Option(min=1, help="Pairs to make.")],
    first: Annotated[int, typer.Option(min=0, help="Number of the first pair, to extend a set or share the work.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Fixes every random choice.")] = 20240901,
    anatomy: Annotated[
        list[str] | None,
        typer.Option("--any", metavar="SUBFOLDER", help="Pairs of any anatomy: shapes, and maps of this subfolder; may repeat."),
    ] = None,
    quiet: options.Quiet = False,
) -> None:
    """Make training pairs with known labels from label maps, and list them in a manifest for sweep.

    With --any the pairs show random shapes and any anatomy in any contrast, and the true transform lies beside most of them.
    """
    if not out:
        raise InputError("--out is empty: name a folder for the pairs.")
    from HyperPredictRegLib.core.progress import ProgressEvent

    from HyperPredictRegLab.synthesis.any_pairs import anatomy_maps, write_any_pairs
    from HyperPredictRegLab.synthesis.pairs import write_pairs

    with watched(quiet, "Stopping after this pair; again to stop at once.") as (progress, cancelled):

        def step(event: ProgressEvent) -> None:
            if cancelled():
                raise Cancelled("Stopped. Complete pairs are kept: the same command goes on with the rest.")
            progress(event)

        if anatomy:
            maps = anatomy_maps(Path(labelmaps), anatomy)
            manifest = write_any_pairs(maps, Path(out), count=count, seed=seed, first=first, progress=step)
        else:
            manifest = write_pairs(label_maps(labelmaps), Path(out), count=count, seed=seed, first=first, progress=step)
    typer.echo(f"Pairs {first} to {first + count - 1} are listed in {manifest}.")


def label_maps(folder: str) -> list[Path]:
    """Return the label maps in a folder, by name.

    Raises
    ------
    InputError : there are none.
    """
    try:
        found = sorted(path for path in Path(folder).iterdir() if path.name.lower().endswith(_ENDINGS))
    except OSError as error:
        raise InputError(f"The folder of label maps '{folder}' cannot be read ({error.strerror}): check the path.") from error
    if not found:
        raise InputError(f"The folder '{folder}' holds no label maps: give one with {', '.join(_ENDINGS)} files.")
    return found


_MOST_FAILURES = 10
_STOPPED = "Stopped. Finished pairs are kept: the same command goes on with the rest."


@app.command()
def sweep(  # noqa: PLR0913 - one parameter per option of the command
    manifest: Annotated[str, typer.Argument(help="CSV file: one image pair with labels and subjects per line.")],
    out: options.Out,
    engine: options.EngineName = None,
    preset: options.Preset = "fast",
    values: Annotated[str | None, typer.Option(metavar="λ,λ,...", help="The same λ for every pair.")] = None,
    count: Annotated[int | None, typer.Option(help="λ per pair, drawn for each pair anew; 7 if left out.")] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Parameter to try; others keep their default. May repeat; all if left out."),
    ] = None,
    along_first: Annotated[
        int, typer.Option(metavar="N", help="Of several parameters: N of --count settings vary the first one only.")
    ] = 0,
    evidence: Annotated[bool, typer.Option("--evidence", help="Find the evidence too that some predictors read.")] = False,
    seed: options.Seed = 20240901,
    scheduler: Annotated[str | None, typer.Option(metavar="tcp://HOST:PORT", help="A dask scheduler to run on.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes on this computer; one per core if left out.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Do pairs again that failed before.")] = False,
    set_alignment: options.SetAlignment = None,
    set_engine: options.SetEngine = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Register every pair of MANIFEST with several λ and measure each; said again, it goes on where it was stopped."""
    with packages("'hyperpredictreg[laboratory]'", "A sweep"):
        # These are needed only once the work begins, which is late to hear that they are missing.
        import distributed  # noqa: F401
        import pyarrow  # noqa: F401

        from HyperPredictRegLab.sweep import running as sweeps
        from HyperPredictRegLab.sweep.runs import SweepSettings

    if scheduler is not None and workers is not None:
        raise InputError("--workers counts processes on this computer, but --scheduler names others: leave out one of the two.")
    if not out:
        raise InputError("--out is empty: name a folder for the sweep.")
    chosen, alignment = options.settings(set_engine), options.settings(set_alignment)
    settings = SweepSettings(engine or SweepSettings.engine, chosen, preset, alignment, seed, evidence)
    with watched(quiet or as_json, at_once=_STOPPED) as (progress, cancelled):
        result = sweeps.sweep(
            manifest,
            out,
            settings=settings,
            design=_design(values, count, seed, vary, along_first),
            scheduler=scheduler,
            workers=workers,
            retry_failed=retry_failed,
            progress=progress,
            cancelled=cancelled,
        )
    _show_sweep(result, as_json)


def _design(values: str | None, count: int | None, seed: int, vary: list[str] | None, along_first: int) -> Design:
    from HyperPredictRegLab.sweep.design import Design

    if values is not None and count is not None:
        raise InputError("--values gives the λ, --count has them drawn: leave out one of the two.")
    listed = _numbers(values, "--values")
    if values is not None and not listed:
        raise InputError("--values names no λ: write numbers with commas between them, such as 0.5,0.7.")
    return Design(listed, Design().count if count is None else count, seed, tuple(dict.fromkeys(vary or ())), along_first)


def _numbers(text: str | None, option: str) -> tuple[float, ...]:
    """Turn "0.5,0.8" into numbers."""
    try:
        found = tuple(float(part) for part in (text or "").split(",") if part.strip())
        if not all(map(math.isfinite, found)):
            raise ValueError("not a number")
        return found
    except ValueError as error:
        raise InputError(f"{option} '{text}' should be numbers with commas between them, such as 0.5,0.8.") from error


def _show_sweep(result: SweepResult, as_json: bool) -> None:
    failures = _failures(result)
    speed = result.registrations_per_hour_per_core
    if as_json:
        found = {
            "table": str(result.table),
            "runs": result.runs,
            "failed_pairs": failures,
            "registrations_per_hour_per_core": None if math.isnan(speed) else speed,
            "notes": list(result.notes),
        }
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        pairs = "1 pair" if result.failed_pairs == 1 else f"{result.failed_pairs} pairs"
        typer.echo(f"{result.runs} registrations in {result.table}; {pairs} failed.")
        typer.echo("Nothing was left to do." if math.isnan(speed) else f"{speed:.0f} registrations per hour and core.")
    for note in result.notes:
        typer.echo(f"Note: {note}", err=True)
    for name, reason in list(failures.items())[:_MOST_FAILURES]:
        typer.echo(f"Failed: {name}: {reason}", err=True)
    if len(failures) > _MOST_FAILURES:
        typer.echo(f"... and {len(failures) - _MOST_FAILURES} more, all in the table's column 'error'.", err=True)
    if result.runs == 0:
        raise RegistrationError("No registration of the sweep succeeded.")


def _failures(result: SweepResult) -> dict[str, str]:
    """Return the reason for each pair of which no run succeeded."""
    import pandas as pd

    table = pd.read_parquet(result.table, columns=["pair", "error"])
    good = set(table.loc[table["error"] == "", "pair"])
    return {name: reason for name, reason in zip(table["pair"], table["error"], strict=True) if name not in good}


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
    calibrate: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Tables of further domains: bands hold there, too; nothing is learned.")
    ] = None,
    labels: Annotated[str | None, typer.Option(metavar="N,...", help="Label values to learn; common ones if left out.")] = None,
    serve: Annotated[
        list[str] | None, typer.Option(metavar="PRESET", help="Further preset that it is known to serve; may repeat.")
    ] = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a predictor on a sweep and save it as a bundle, with its accuracy on people it has not seen."""
    with packages("torch 'hyperpredictreg[laboratory]'", "Training"):
        import pandas  # noqa: F401
        import pyarrow  # noqa: F401

        from HyperPredictRegLab.training.building import OUTLOOK_SETTINGS, Description, build, tuning_cases
        from HyperPredictRegLab.training.examples import read_examples
        from HyperPredictRegLab.training.fitting import TrainingSettings
    from HyperPredictRegLib.core.json_records import to_json

    folder = Path(out)
    if not out:
        raise InputError("--out is empty: name a folder for the bundle.")
    check_writable(folder)
    if not overwrite and any((folder / file).exists() for file in ("card.json", "model.pt")):
        raise InputError(f"The folder '{out}' holds a predictor: choose another, or say --overwrite.")
    listed = _numbers(labels, "--labels")
    if any(number != int(number) for number in listed):
        raise InputError(f"--labels '{labels}' should be label values, which are whole numbers.")
    described = Description(name, version, licence, data_note, label_noise, tuple(serve or ()))
    examples = read_examples(sweep, labels=tuple(int(number) for number in listed) or None)
    usual = TrainingSettings() if examples.outcomes is None else OUTLOOK_SETTINGS
    settings = usual if epochs is None else replace(usual, epochs=epochs)
    further = None if calibrate is None else tuning_cases(read_examples(calibrate))
    for note in examples.notes:
        typer.echo(f"Note: {note}", err=True)
    with watched(quiet or as_json) as (progress, cancelled):
        try:
            card = build(
                examples, folder, described, settings, calibration=further, progress=progress, cancelled=cancelled
            )
        except Cancelled as stopped:
            raise Cancelled("Training was stopped; nothing was written.") from stopped
    if as_json:
        typer.echo(to_json(card), nl=False)
    else:
        _show_card(card, out)


def _show_card(card: Card, out: str) -> None:
    people = len(card.subjects)
    typer.echo(f"{card.name} {card.version}: {card.registrations} registrations of {card.pairs} pairs of {people} people.")
    ranges = ", ".join(f"{p.symbol} from {p.low:g} to {p.high:g}" for p in card.space)
    presets = " and ".join(card.presets or (card.preset,))
    typer.echo(f"Predicts {card.engine} at the preset{'s' * (len(card.presets) > 1)} {presets}, {ranges}.")
    typer.echo(f"Fixed for those who do not predict: {card.space.text(card.fixed)}.")
    typer.echo("On people whom it has not seen:")
    for name, value in card.accuracy.items():
        typer.echo(f"  {name.replace('_', ' '):<32} {value:g}")
    for domain, figures in card.domains.items():
        told = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in figures.items())
        typer.echo(f"  {domain}: {told}")
    typer.echo(f"Written: {Path(out) / 'card.json'}, {Path(out) / 'model.pt'}")


@app.command()
def evaluate(
    train: Annotated[str, typer.Argument(help="Sweep that the predictor is, or was, trained on.")],
    out: Annotated[str, typer.Option("--out", "-o", help="Folder for evaluation.md, its figures and tables.")],
    tests: Annotated[list[str] | None, typer.Argument(help="Sweeps of people that nothing was trained on.")] = None,
    bundle: Annotated[str | None, typer.Option(help="The predictor; one is trained on TRAIN if left out.")] = None,
    ood_set: Annotated[
        list[str] | None, typer.Option("--ood", help="Out-of-distribution sweep: only its reliability is judged; may repeat.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="No ablations, fewer bootstrap samples.")] = False,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure how good a predictor is, on people it has not seen and against baselines: a page with figures and tables."""
    with packages("torch 'hyperpredictreg[laboratory]'", "An evaluation"):
        import pandas  # noqa: F401 - before any work
        import pyarrow  # noqa: F401

        from HyperPredictRegLab import evaluation
        from HyperPredictRegLab.baselines import read_paper_channels, read_paper_images
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
    train_images, read = read_paper_images(train, examples.pairs), read_paper_images
    if train_images is None:
        train_images, read = read_paper_channels(train, examples.pairs), read_paper_channels
    images = {name: read(folder, named[name].pairs) for name, folder in _by_name(tests).items()}
    ood_sets = {name: evaluation.read_ood_sets(folder / "features.parquet") for name, folder in _by_name(ood_set).items()}
    chosen = evaluation.Options(
        paper_train_images=train_images,
        paper_test_images={name: found for name, found in images.items() if found is not None},
        ood_sets=ood_sets,
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


@app.command("evaluate-domains")
def evaluate_domains(
    train: Annotated[str, typer.Argument(help="Sweep over several domains that the predictor is, or was, trained on.")],
    cases: Annotated[str, typer.Argument(help="Tables of cases of known outcome, each marked for tuning or for test.")],
    out: Annotated[str, typer.Option("--out", "-o", help="Folder for evaluation-any-pair.md, its figures and tables.")],
    bundle: Annotated[str | None, typer.Option(help="The predictor; one is trained on TRAIN if left out.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="No ablations, fewer bootstrap samples.")] = False,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure how good a predictor is on kinds of images that it has not seen, each left out in turn: a page with figures."""
    with packages("torch 'hyperpredictreg[laboratory]'", "An evaluation"):
        import pandas  # noqa: F401 - before any work
        import pyarrow  # noqa: F401

        from HyperPredictRegLab.evaluation import domain_report
        from HyperPredictRegLab.training.examples import read_examples

    if not out:
        raise InputError("--out is empty: name a folder for the evaluation.")
    check_writable(Path(out))
    page = Path(out) / domain_report.PAGE
    if page.exists() and not overwrite:
        raise InputError(f"The folder '{out}' holds an evaluation: choose another, or say --overwrite.")
    tables = read_examples(train), read_examples(cases)
    for found in tables:
        for note in found.notes:
            typer.echo(f"Note: {note}", err=True)
    with watched(quiet) as (progress, cancelled):
        try:
            domain_report.evaluate_domains(
                *tables,
                Path(out),
                bundle=None if bundle is None else Path(bundle),
                quick=quick,
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
