"""`hyperpredictreg sweep`."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Annotated

import typer
from HyperPredictRegLib.cli import options
from HyperPredictRegLib.cli.command import app, packages
from HyperPredictRegLib.cli.watching import watched
from HyperPredictRegLib.errors import InputError, RegistrationError

if TYPE_CHECKING:
    from HyperPredictRegLab.sweep.design import Design
    from HyperPredictRegLab.sweep.running import SweepResult

MOST_FAILURES_SHOWN = 10
STOPPED = "Stopped. Finished pairs are kept: the same command goes on with the rest."


@app.command()
def sweep(  # noqa: PLR0913 - one parameter per option of the command
    manifest: Annotated[str, typer.Argument(help="CSV file: one image pair with labels and subjects per line.")],
    out: options.Out,
    engine: options.EngineName = "demons",
    preset: options.Preset = "fast",
    values: Annotated[str | None, typer.Option(metavar="λ,λ,...", help="The same λ for every pair.")] = None,
    count: Annotated[int | None, typer.Option(help="λ per pair, drawn for each pair anew; 7 if left out.")] = None,
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
    settings = SweepSettings(engine, options.settings(set_engine), preset, options.settings(set_alignment), seed)
    with watched(quiet or as_json, at_once=STOPPED) as (progress, cancelled):
        result = sweeps.sweep(
            manifest,
            out,
            settings=settings,
            design=_design(values, count, seed),
            scheduler=scheduler,
            workers=workers,
            retry_failed=retry_failed,
            progress=progress,
            cancelled=cancelled,
        )
    _show(result, as_json)


def _design(values: str | None, count: int | None, seed: int) -> Design:
    from HyperPredictRegLab.sweep.design import Design

    if values is not None and count is not None:
        raise InputError("--values gives the λ, --count has them drawn: leave out one of the two.")
    listed = options.numbers(values, "--values")
    if values is not None and not listed:
        raise InputError("--values names no λ: write numbers with commas between them, such as 0.5,0.7.")
    return Design(values=listed, count=Design().count if count is None else count, seed=seed)


def _show(result: SweepResult, as_json: bool) -> None:
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
    for name, reason in list(failures.items())[:MOST_FAILURES_SHOWN]:
        typer.echo(f"Failed: {name}: {reason}", err=True)
    if len(failures) > MOST_FAILURES_SHOWN:
        typer.echo(f"... and {len(failures) - MOST_FAILURES_SHOWN} more, all in the table's column 'error'.", err=True)
    if result.runs == 0:
        raise RegistrationError("No registration of the sweep succeeded.")


def _failures(result: SweepResult) -> dict[str, str]:
    """Return the reason for each pair of which no run succeeded."""
    import pandas as pd

    table = pd.read_parquet(result.table, columns=["pair", "error"])
    good = set(table.loc[table["error"] == "", "pair"])
    return {name: reason for name, reason in zip(table["pair"], table["error"], strict=True) if name not in good}
