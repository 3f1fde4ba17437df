"""The HTML page of a report: one file with everything in it, that needs neither scripts nor a network."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from HyperPredictRegLib.engines.base import Hyperparameter
from HyperPredictRegLib.job import Distances, Report, StructureMeasure
from HyperPredictRegLib.reporting import choice_wording, wording
from HyperPredictRegLib.reporting.captions import Caption
from HyperPredictRegLib.selection.printed import banded
from HyperPredictRegLib.trace import LevelTrace

_FOLDER = Path(__file__).parent

_ROLES = {
    "fixed": "fixed image", "moving": "moving image", "fixed_labels": "fixed labels", "moving_labels": "moving labels",
    "fixed_mask": "fixed mask", "moving_mask": "moving mask",
}


@dataclass(frozen=True)
class Picture:
    """A part of the page that is drawn.

    Attributes
    ----------
    caption : its role in the job's outputs and its words.
    png : the picture as it is written beside the page, or None where it could not be made.
    shown : the picture as the page holds it, PNG or JPEG.
    shown_dark : another version for dark paper, if it needs one.
    problem : why it could not be made.
    """

    caption: Caption
    png: bytes | None = None
    shown: bytes | None = None
    shown_dark: bytes | None = None
    problem: str = ""

    @property
    def source(self) -> str:
        """The picture as a data URI."""
        return _data_uri(self.shown)

    @property
    def dark_source(self) -> str:
        """The dark version as a data URI, or an empty text."""
        return _data_uri(self.shown_dark)


@dataclass(frozen=True)
class KeyNumber:
    """One of the main numbers: what it is, its value, and a remark in small print."""

    title: str
    value: str
    remark: str = ""


@dataclass(frozen=True)
class SettingRow:
    """A hyperparameter as it was used."""

    symbol: str
    name: str
    value: str
    unit: str
    span: str


def render_page(report: Report, pictures: Sequence[Picture], hyperparameters: Sequence[Hyperparameter]) -> str:
    """Return the page as HTML text.

    Parameters
    ----------
    report : the numbers.
    pictures : in the order of the page; those without a PNG are named with their problem.
    hyperparameters : the engine's own description of its hyperparameters; without it names stand in for symbols.

    Raises
    ------
    ImportError : jinja2 is not installed; `plain_page` needs nothing.
    """
    return render_template(
        "report.html.jinja",
        report=report,
        measured=report.measured,
        first_line=choice_wording.first_line(report),
        bad_news=choice_wording.calls_for_attention(report),
        was_chosen=choice_wording.was_chosen(report),
        who_chose=choice_wording.who_chose(report),
        light=choice_wording.light(report.verdict) if report.verdict is not None else None,
        comparison=choice_wording.comparison_rows(report),
        trials=choice_wording.trial_rows(report),
        criterion=choice_wording.criterion_words(report.criterion) if report.criterion is not None else "",
        foreseen=choice_wording.predicted_dice(report),
        verdict=wording.verdict(report),
        why_no_overlap=wording.why_no_overlap(report),
        attention=wording.needs_attention(report),
        key_numbers=_key_numbers(report),
        pictures={picture.caption.role: picture for picture in pictures},
        problems=[picture for picture in pictures if picture.problem],
        levels=(*report.alignment.stages, *report.registration),
        structures=sorted_structures(report),
        warnings=wording.all_warnings(report),
        settings=_setting_rows(report, hyperparameters),
        glossary=wording.glossary(hyperparameters),
        engine_settings=_flat(report.engine.settings),
        total_seconds=sum(report.seconds.values()),
        level_ends=_level_end,
    )


def render_template(template: str, **values: Any) -> str:
    """Return a page from a template beside this file, given the style and the filters that all pages share.

    Raises
    ------
    ImportError : jinja2 is not installed.
    """
    import jinja2

    # select_autoescape goes by file endings and would leave a .jinja file unescaped.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=_shown,
    )
    environment.filters.update(
        number=wording.number, short=wording.short, percent=wording.percent, name=wording.name, file_name=wording.file_name,
        role=lambda role: _ROLES.get(role, role.replace("_", " ")), words=lambda text: text.replace("_", " "),
        bar=lambda value: f"{100 * min(1.0, max(0.0, value)):.1f}%" if value == value else "0%",
        banded=banded,
    )
    style = (_FOLDER / "report.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(style=style, **values)


def plain_page(report: Report, problem: str) -> str:
    """Return a bare page with the verdict alone, for where the full one cannot be made."""
    title = f"{wording.file_name(report.job.moving)} registered to {wording.file_name(report.job.fixed)}"
    lines = (choice_wording.first_line(report), wording.verdict(report))
    where = f"({wording.name(problem)}). All numbers are in report.json."
    return plain_text_page(title, lines, wording.all_warnings(report), where)


def plain_text_page(title: str, lines: Sequence[str], warnings: Sequence[str], problem: str) -> str:
    """Return a bare page of sentences and warnings that ends with why the full one could not be made."""
    title = html.escape(title)
    first, *rest = [f"<p>{html.escape(wording.printable(line))}</p>" for line in lines if line]
    items = "".join(f"<li>{html.escape(wording.name(text))}</li>" for text in warnings)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/><title>{title}</title></head><body>{first}'
        f"<h1>{title}</h1>" + "".join(rest) + (f"<ul>{items}</ul>" if items else "")
        + f"<p>The full page could not be made {html.escape(wording.printable(problem))}</p></body></html>\n"
    )


def sorted_structures(report: Report) -> tuple[StructureMeasure, ...]:
    """Return the structures with the lowest Dice first, since that is where to look; those without a Dice come last."""
    if report.measured.dice is None:
        return ()
    return tuple(sorted(report.measured.dice.structures, key=lambda s: (s.dice != s.dice, s.dice, s.label)))


def _shown(value: Any) -> Any:
    """Keep markup and numbers as they are; clean every other text on its way into the page."""
    if value is None or (isinstance(value, float) and value != value):
        return wording.DASH
    return wording.printable(value) if type(value) is str else value


def _data_uri(image: bytes | None) -> str:
    if not image:
        return ""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"


def _key_numbers(report: Report) -> list[KeyNumber]:
    number, percent, voxel_mm = wording.number, wording.percent, wording.voxel_mm(report)

    def distance(value: float | None, digits: int = 2) -> str:
        return wording.distance(value, digits, voxel_mm=voxel_mm)

    def tail(distances: Distances, digits: int) -> str:
        return f"mean; 95 % below {distance(distances.p95, digits)}, largest {distance(distances.maximum, digits)}"

    measured, numbers = report.measured, []
    dice, landmarks, landmarks_before = measured.dice, measured.tre_mm, measured.tre_before_mm
    if dice is not None:
        course = f"{number(dice.mean_before, 3)} → {number(dice.mean, 3)}"
        numbers.append(KeyNumber("Mean Dice", course, f"{len(dice.structures)} structures, before → after"))
    if landmarks is not None:
        before = distance(landmarks_before.mean if landmarks_before else None).removesuffix(" mm")
        course = f"{before} → {distance(landmarks.mean)}"
        numbers.append(KeyNumber("Landmark error", course, "mean, before → after"))
    folding, inverse, moved = measured.folding_percent, measured.inverse_consistency_mm, measured.displacement_mm
    similarity = f"{number(measured.similarity_before, 3)} → {number(measured.similarity_after, 3)}"
    numbers += [
        KeyNumber("Folding", percent(folding.foreground), f"of the foreground; {percent(folding.box)} of the box"),
        KeyNumber("Inverse consistency", distance(inverse.mean), tail(inverse, 2)),
        KeyNumber("Image similarity", similarity, "normalised mutual information, before → after"),
        KeyNumber("Deformation", distance(moved.mean, 1), tail(moved, 1)),
        KeyNumber(
            "Jacobian determinant",
            f"{number(measured.jacobian_minimum)} … {number(measured.jacobian_maximum)}",
            f"range; spread of its logarithm {wording.spread(measured.sd_log_jacobian)}",
        ),
    ]
    return numbers


def _setting_rows(report: Report, hyperparameters: Sequence[Hyperparameter]) -> list[SettingRow]:
    known, rows = {h.name: h for h in hyperparameters}, []
    for name, value in report.hyperparameters.items():
        h = known.get(name)
        symbol = h.symbol if h else "λ" if name == "regularization_weight" else name
        span = f"{h.lower:g} to {h.upper:g}, default {h.default:g}" if h else wording.DASH
        rows.append(SettingRow(symbol, name.replace("_", " "), wording.short(value), h.unit if h else "", span))
    return rows


def _level_end(level: LevelTrace) -> str:
    first = wording.short(level.values[0] if level.values else None)
    last = level.end_value if level.end_value is not None else (level.values[-1] if level.values else None)
    return f"{first} → {wording.short(last)}"


def _flat(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in settings.items())
