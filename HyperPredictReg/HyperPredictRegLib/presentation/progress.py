"""How far work in the background is, in words and percent."""

from __future__ import annotations

from dataclasses import dataclass

_BEGINS = {
    "register": {"read": 0.0, "align": 0.05, "stability": 0.4, "predict": 0.4, "register": 0.5, "measure": 0.85, "write": 0.95},
    "predict": {"read": 0.0, "align": 0.05, "predict": 0.7},
    "page": {"page": 0.0},
}
"""By kind of task: where each stage begins on the bar, as measured on the sample pair; a repeated stage begins again."""

_STAGES = {
    "read": "Reading the volumes",
    "align": "Aligning",
    "stability": "Checking the alignment",
    "predict": "Predicting",
    "register": "Registering",
    "measure": "Measuring",
    "write": "Writing",
    "page": "Drawing the report",
}


@dataclass(frozen=True)
class ProgressView:
    """What is shown of one event: a share of the bar from 0 to 1, the line below it, and the line for the log."""

    share: float = 0.0
    line: str = ""
    log: str = ""


def progress_view(
    kind: str, stage: str, fraction: float, message: str, metric: float | None, seconds: float, before: float = 0.0
) -> ProgressView:
    """Return what to show of an event.

    Parameters
    ----------
    kind : "register", "predict" or "page".
    stage, fraction, message, metric : of the event.
    seconds : since the work began.
    before : share of the bar until now, which an unknown stage leaves as it is.
    """
    begins, share = _BEGINS[kind], before
    if stage in begins:
        until = min((begin for begin in begins.values() if begin > begins[stage]), default=1.0)
        share = begins[stage] + min(max(fraction, 0.0), 1.0) * (until - begins[stage])
    words = _STAGES.get(stage, stage)
    line = f"{words}: {message}" if message else words
    if metric is not None:
        line += f", metric {metric:.4g} (lower is better)"
    if share > 0.1:
        line += f". About {seconds * (1.0 - share) / share:.0f}\u00a0s left."
    return ProgressView(share, line, f"{seconds:6.1f} s  {words}  {message}")
