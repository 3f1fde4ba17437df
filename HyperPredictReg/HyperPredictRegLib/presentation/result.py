"""What is shown of a finished registration: the verdict in one line, details, and the rows of its tables."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass

from HyperPredictRegLib.core.trace import UNKNOWN_STOP, LevelTrace
from HyperPredictRegLib.reporting import wording
from HyperPredictRegLib.results.report import Report
from HyperPredictRegLib.selection import within_limit
from HyperPredictRegLib.selection.comparison import surprises

GOOD, DOUBTFUL, BAD = "#2e9e44", "#e69500", "#d03b3b"
_TOLD_BY_MARK = ("The folding limit was kept: ", "The folding limit was not kept: ")

MEASURES = ("Structure", "Dice before", "after", "HD95, mm", "mean, mm")
STAGES = ("Step", "Level", "Iterations", "Why it ended")

Rows = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class ResultView:
    """What is shown of a result.

    Attributes
    ----------
    verdict, details : rich text.
    measures, stages : rows of the tables with the columns `MEASURES` and `STAGES`.
    """

    verdict: str
    details: str = ""
    measures: Rows = ()
    stages: Rows = ()


def result_view(
    report: Report, *, pair: str = "", chosen: bool = True, field_difference_mm: tuple[float, float] | None = None
) -> ResultView:
    """Return what is shown of a registration.

    Parameters
    ----------
    pair : which volumes it is of, such as "MR registered to CT"; "" if they are gone.
    chosen : whether these are the volumes that are chosen now.
    field_difference_mm : by how much, on average and at most, a stored field differs from the exact transform; None if not.
    """
    if pair and not chosen:
        pair += " (not the volumes that are chosen above)"
    verdict = verdict_text(report, "" if chosen else pair)
    return ResultView(verdict, _details(report, pair, field_difference_mm), _measures(report), _stages(report))


def mark(color: str) -> str:
    """Return a colored dot as rich text."""
    return f"<span style='color:{color}; font-size:large'>\u25cf</span>"


def verdict_text(report: Report, pair: str = "") -> str:
    """Return the verdict on a registration in rich text: did deforming help? limit kept? what came out, how many warnings."""
    count = len(wording.all_warnings(report))
    # The mark says already whether the limit was kept, and what stands behind a semicolon is for who wants to know more.
    first, more, _ = (wording.first_line(report) or wording.verdict(report)).partition("; ")
    for message in _TOLD_BY_MARK:
        first = first.replace(message, "", 1)
    parts = [f"<b>{html.escape(pair)}</b>" if pair else "", _benefit_mark(report), _limit_mark(report)]
    parts.append(html.escape(f"{first}." if more else first))
    if count:
        parts.append(f"\u26a0 <b>{count} warning{'s' if count > 1 else ''} under \"Details\".</b>")
    return " ".join(part for part in parts if part)


def _details(report: Report, pair: str, apart: tuple[float, float] | None) -> str:
    """Return all else that is to be said: which pair, measures, warnings, how it is stored, how long it took."""
    # Of a setting that was given, the first line says no more than the verdict.
    sentences = [" ".join((wording.benefit_line(report), *wording.benefit_reasons(report))).strip()]
    sentences += [wording.first_line(report) if wording.was_chosen(report) else "", wording.verdict(report)]
    sentences += wording.landmark_words(report)
    # The verdict sends its reader to the warnings below.
    sentences += [f"\u26a0 {warning}" for warning in wording.all_warnings(report)]
    if apart is not None:
        sentences.append(
            "The transform is stored as one displacement field; it differs from the one that was measured by "
            f"{apart[0]:.2g} mm on average and {apart[1]:.2g} mm at most."
        )
    total = sum(seconds for seconds in report.seconds.values() if math.isfinite(seconds))
    lines = [f"<b>{html.escape(pair)}</b>" if pair else "", *(html.escape(one) for one in (*sentences, f"Took {total:.0f} s."))]
    return "".join(f"<p>{line}</p>" for line in lines if line)


def _benefit_mark(report: Report) -> str:
    """Return whether deforming helped, as rich text with a colored dot on a line of its own; nothing where it was not judged."""
    if report.benefit is None:
        return ""
    color = {"helped": GOOD, "unclear": DOUBTFUL}.get(report.benefit.level, BAD)
    return f"{mark(color)} <b>{html.escape(wording.benefit_line(report))}</b><br>"


def _limit_mark(report: Report) -> str:
    """Return whether the folding limit holds, as rich text with a colored dot; nothing where no limit was asked for."""
    held = report.limit_met
    # A manual setting is not corrected, but the limit that was asked for still tells what to think of it.
    if held is None and report.job.criterion.folding_limit is not None:
        held = within_limit(report.measured.folding_percent, report.job.criterion)
    if held is None:
        return ""
    color, words = (GOOD, "Limit kept.") if held else (BAD, "Limit not kept.")
    if held and surprises(report.comparisons):
        color, words = DOUBTFUL, "Limit kept, but the result is not as predicted."
    return f"{mark(color)} <b>{words}</b>"


def _measures(report: Report) -> Rows:
    dice = report.measured.dice
    return () if dice is None else tuple(
        (
            wording.name(one.name), wording.number(one.dice_before), wording.number(one.dice),
            wording.number(one.hd95_mm, 1), wording.number(one.mean_surface_distance_mm, 1),
        )
        for one in dice.structures
    )  # fmt: skip


def _stages(report: Report) -> Rows:
    levels = (*report.alignment.stages, *report.registration)
    return tuple((level.stage, str(level.level + 1), str(len(level.values)), _why_ended(level)) for level in levels)


def _why_ended(level: LevelTrace) -> str:
    """Return why a level ended: in plain words where there are some, else in the optimizer's own."""
    return level.stop_meaning if level.stop_meaning != UNKNOWN_STOP else f"The optimizer's own words: {level.stop_reason}"
