"""What the commands say on the terminal about a report, measurements or a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from HyperPredictRegLib.files import printable

if TYPE_CHECKING:
    from HyperPredictRegLib.job import BandValue, Measured, Predicted, Report, Verdict
    from HyperPredictRegLib.prediction import Prediction


def show_report(report: Report) -> None:
    """Print the verdict first, then λ and why, what was measured, warnings and files."""
    from HyperPredictRegLib.reporting import choice_wording
    from HyperPredictRegLib.selection.printed import distance

    _say(choice_wording.first_line(report))
    _say(f"{choice_wording.who_chose(report)} {report.choice}")
    if report.verdict is not None:
        _show_light(report.verdict)
    if len(report.trials) > 1:
        for row in choice_wording.trial_rows(report):
            folding = f"{row.foreground} of the foreground, {row.box} of the box"
            _say(f"  {row.number}. {row.setting:<12} folding {folding} ({row.outcome}), {row.seconds} s")
    show_measured(report.measured)
    if report.alignment.stability is not None:
        spread = report.alignment.stability
        _say(f"Affine stability     {len(spread.seeds)} seeds lie {distance(spread.mean_spread_mm)} from their mean")
    for warning in report.warnings:
        _say(f"Warning: {warning}")
    _say(f"Took {sum(report.seconds.values()):.0f} s. Results in {report.job.out}:")
    for role, name in {"report": "report.json", **report.outputs}.items():
        _say(f"  {role:<22} {name}")


def show_measured(measured: Measured) -> None:
    """Print the quality of a registration."""
    from HyperPredictRegLib.selection.printed import distance, number, percent

    folding = measured.folding_percent
    _say(f"Folding              {percent(folding.foreground)} of the foreground, {percent(folding.box)} of the box")
    _say(f"SD of log-Jacobian   {number(measured.sd_log_jacobian, 3)}")
    inverse = measured.inverse_consistency_mm
    _say(f"Inverse consistency  mean {distance(inverse.mean, 3)}, 95 % below {distance(inverse.p95, 3)}")
    _say(f"Mutual information   {number(measured.similarity_before, 3)} -> {number(measured.similarity_after, 3)}")
    if measured.dice is not None and measured.dice.absent:
        _say(f"Left out of Dice     {', '.join(measured.dice.absent)} (in one label map only)")
    if measured.dice is not None:
        dice, count = measured.dice, len(measured.dice.structures)
        _say(f"Mean Dice            {number(dice.mean_before, 3)} -> {number(dice.mean, 3)} ({count} structures)")
    if measured.tre_mm is not None and measured.tre_before_mm is not None:
        _say(f"Landmark error       {distance(measured.tre_before_mm.mean)} -> {distance(measured.tre_mm.mean)} (mean)")


def show_prediction(prediction: Prediction, asked: Sequence[Predicted], files: Sequence[str]) -> None:
    """Print what is suggested, why, what is foreseen there and at the λ that were asked for, and the files."""
    from HyperPredictRegLib.reporting import choice_wording
    from HyperPredictRegLib.selection.printed import banded

    _say(choice_wording.first_line_of_prediction(prediction))
    _say(prediction.choice)
    _show_light(prediction.verdict)
    if prediction.predicted is not None:
        _show_predicted(prediction.predicted)
        for structure in prediction.predicted.structures:
            _say(f"  Dice of {structure.name:<30} {banded(structure.dice)}")
    for predicted in asked:
        _say(f"At {choice_wording.setting(predicted.hyperparameters)}:")
        _show_predicted(predicted)
    for warning in prediction.warnings:
        _say(f"Warning: {warning}")
    _say(f"Took {sum(prediction.seconds.values()):.0f} s. Files in {prediction.job.out}:")
    for name in files:
        _say(f"  {name}")


def _show_predicted(predicted: Predicted) -> None:
    from HyperPredictRegLib.selection.printed import banded, banded_percent

    rows: tuple[tuple[str, BandValue, bool], ...] = (
        ("mean Dice", predicted.mean_dice, False),
        ("folding, foreground", predicted.folding_foreground, True),
        ("folding, box", predicted.folding_box, True),
        ("SD of log-Jacobian", predicted.sd_log_jacobian, False),
    )
    for what, band, percent in rows:
        _say(f"  foreseen {what:<22} {banded_percent(band) if percent else banded(band)}")


def _show_light(verdict: Verdict) -> None:
    from HyperPredictRegLib.reporting import choice_wording

    light = choice_wording.light(verdict)
    _say(f"Light: {light.colour}. {' '.join((light.meaning, *light.reasons))}")


def _say(line: str) -> None:
    # The report's sentences hold no-break spaces, which some terminals show as a question mark.
    line = printable(line.replace("\u00a0", " ")).rstrip()
    if line:
        typer.echo(line)
