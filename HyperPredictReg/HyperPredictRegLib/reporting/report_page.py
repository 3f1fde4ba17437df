"""The page about a registration, and the pictures beside it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from HyperPredictRegLib.core.trace import LevelTrace
from HyperPredictRegLib.reporting import figures, prediction_figures, wording
from HyperPredictRegLib.reporting.outlook import affine_error, chances
from HyperPredictRegLib.reporting.page import (
    Caption,
    KeyNumber,
    Picture,
    can_be_drawn,
    curves_caption,
    made_picture,
    plain_page,
    render_template,
    themed_picture,
    write_page,
    write_pictures,
)
from HyperPredictRegLib.reporting.sheet import Theme, obliqueness_degrees
from HyperPredictRegLib.results.job import Criterion
from HyperPredictRegLib.results.outcome import Outcome
from HyperPredictRegLib.results.report import Distances, Report, StructureMeasure
from HyperPredictRegLib.spatial.geometry import Geometry

_OBLIQUE_FROM_DEGREES = 1.0


def write_report(outcome: Outcome, folder: Path) -> dict[str, str]:
    """Write report.html and the pictures it shows into a folder.

    What cannot be drawn, because matplotlib is missing or for any other reason, is named in the page with the reason;
    only a folder that cannot be written to is an error.

    Parameters
    ----------
    outcome : what the job produced.
    folder : where to write; made if it does not exist. Files of the same names are replaced.

    Returns
    -------
    The file name in `folder` for each role: "report_page" always, and "overlay_picture", "checkerboard_picture",
    "jacobian_picture", "deformed_grid_picture", "outlines_picture", "curves_picture" and "trace_picture" where they could be
    made.

    Raises
    ------
    OSError : the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report, pictures = outcome.report, _pictures(outcome)
    written = write_pictures(pictures, folder)
    written["report_page"] = "report.html"
    write_page(folder / "report.html", lambda: render_report(report, pictures), lambda problem: plain_report(report, problem))
    return written


def render_report(report: Report, pictures: Sequence[Picture]) -> str:
    """Return the page as HTML text.

    Parameters
    ----------
    report : the numbers.
    pictures : in the order of the page; those without a PNG are named with their problem.

    Raises
    ------
    ImportError : jinja2 is not installed; `plain_report` needs nothing.
    """
    space = report.engine.space
    return render_template(
        "report.html.jinja",
        report=report,
        measured=report.measured,
        title=_title(report),
        subject=wording.subject(space),
        benefit=wording.benefit_line(report),
        benefit_reasons=wording.benefit_reasons(report),
        first_line=wording.first_line(report),
        bad_news=wording.calls_for_attention(report),
        was_chosen=wording.was_chosen(report),
        who_chose=wording.who_chose(report),
        reliability=report.reliability,
        reliability_meaning=(
            wording.reliability_meaning(report.reliability, report.predictor) if report.reliability is not None else ""
        ),
        chances=chances(report.outlook),
        comparison=wording.comparison_rows(report),
        trials=wording.trial_rows(report),
        criterion=_criterion_words(report),
        predicted=wording.predicted_dice(report),
        undrawn=report.choice.predicted is not None and not can_be_drawn(space),
        verdict=wording.verdict(report),
        why_no_overlap=wording.why_no_overlap(report),
        attention=wording.needs_attention(report),
        key_numbers=_key_numbers(report),
        landmarks=wording.landmark_words(report),
        pictures={picture.caption.role: picture for picture in pictures},
        problems=[picture for picture in pictures if picture.problem],
        levels=(*report.alignment.stages, *report.registration),
        structures=_sorted_structures(report),
        warnings=wording.all_warnings(report),
        settings=_setting_rows(report),
        glossary=wording.glossary(space),
        engine_settings=", ".join(f"{key} = {value}" for key, value in report.engine.settings.items()),
        total_seconds=sum(report.seconds.values()),
        level_ends=_level_ends,
    )


def plain_report(report: Report, problem: str) -> str:
    """Return a bare page with the sentences alone, for where the full one cannot be made."""
    lines = (wording.benefit_line(report), wording.first_line(report), wording.verdict(report))
    where = f"({wording.name(problem)}). All numbers are in report.json."
    return plain_page(_title(report), lines, wording.all_warnings(report), where)


def captions(outcome: Outcome) -> dict[str, Caption]:
    """Return the words of every picture that this outcome calls for, by role, in the order of the page."""
    report, prediction = outcome.report, outcome.prediction
    every = [
        Caption(
            "overlay_picture",
            "Before and after, in color",
            "Fixed in green, moving in magenta: where both are equally bright the sum is gray, and a colored rim is a misfit. "
            + _orientation_note(Geometry.of(outcome.fixed_on_grid)),
            "Fixed and moving image on top of each other in three planes, before and after registration",
        ),
        Caption(
            "checkerboard_picture",
            "Before and after, as a checkerboard",
            "Tiles of the fixed and the moving image in turn. Where they fit, edges run on from tile to tile. "
            "Brightness may differ between tiles without any misfit.",
            "Checkerboard of fixed and moving image in three planes, before and after registration",
        ),
        Caption(
            "jacobian_picture", "Change of volume", _jacobian_text(report),
            "Map of the Jacobian determinant in three planes and its histogram",
        ),
        Caption(
            "deformed_grid_picture",
            "Deformed grid",
            "Squares painted on the aligned moving image and deformed with it by the deformable step alone. Closed loops or "
            "lines that break off show folding. Movement through the plane does not show here.",
            "Deformed grid over the registered image in three planes",
        ),
    ]  # fmt: skip
    if outcome.fixed_labels is not None or outcome.warped_labels is not None:
        every.append(Caption(
            "outlines_picture",
            "Outlines of the structures",
            "Green: the fixed image’s own labels. Magenta: the moving image’s labels, propagated by the registration. "
            "Behind them the fixed image on its own grid, in the slices that show most structures.",
            "Outlines of fixed and propagated structures on the fixed image in three planes",
        ))  # fmt: skip
    if prediction is not None and can_be_drawn(prediction.surface.space):
        surface, trusted = prediction.surface, not wording.is_unreliable(prediction)
        every.append(curves_caption(surface.space, trusted=trusted, measure=surface.measure(_criterion(report).goal)))
    if report.alignment.stages or report.registration:
        every.append(Caption(
            "trace_picture",
            "Convergence",
            "One panel per level, each with a scale of its own, because metric values of different levels come from different "
            "images. The diamond stands beside the last iteration: it belongs to the transform that the level returned.",
            "Metric at each iteration, one panel per stage and level",
        ))  # fmt: skip
    return {caption.role: caption for caption in every}


def _title(report: Report) -> str:
    return f"{wording.file_name(report.job.moving)} registered to {wording.file_name(report.job.fixed)}"


def _pictures(outcome: Outcome) -> list[Picture]:
    levels = (*outcome.report.alignment.stages, *outcome.report.registration)
    scene = functools.cache(lambda: figures.Scene.of(outcome))
    on_film: dict[str, Callable[[], Any]] = {
        "overlay_picture": lambda: figures.draw_overlay(scene()),
        "checkerboard_picture": lambda: figures.draw_checkerboard(scene()),
        "jacobian_picture": lambda: figures.draw_jacobian(scene()),
        "deformed_grid_picture": lambda: figures.draw_deformed_grid(scene(), outcome),
        "outlines_picture": lambda: figures.draw_outlines(outcome),
    }
    on_paper: dict[str, Callable[[Theme], Any]] = {
        "curves_picture": lambda theme: _draw_prediction(outcome, theme),
        "trace_picture": lambda theme: figures.draw_trace(levels, theme),
    }
    return [
        made_picture(caption, on_film[role]) if role in on_film else themed_picture(caption, on_paper[role])
        for role, caption in captions(outcome).items()
    ]


def _draw_prediction(outcome: Outcome, theme: Theme) -> Any:
    report, prediction = outcome.report, outcome.prediction
    if prediction is None:
        raise ValueError("Nothing was predicted.")
    marks = prediction_figures.Marks(
        chosen=report.choice.predicted.setting if report.choice.predicted is not None else None,
        fixed=report.trials[0].setting if report.choice.by == "fixed" and report.trials else None,
        trials=report.trials,
        measured_dice=wording.measured_dice(report),
        trusted=not wording.is_unreliable(prediction),
        affine_error_mm=affine_error(prediction.outlook),
    )
    return prediction_figures.draw_prediction(prediction.surface, _criterion(report), marks, theme)


def _criterion(report: Report) -> Criterion:
    return report.criterion or report.job.criterion


def _criterion_words(report: Report) -> str:
    """Say by what a setting was to be chosen; "" where nothing was to be."""
    criterion, predicted = report.criterion, report.choice.predicted
    if criterion is None:
        return ""
    asked = "error_mm" if criterion.goal == "accuracy" else "mean_dice"
    return wording.criterion_words(criterion, asked if predicted is None else predicted.measure(criterion.goal))


def _orientation_note(geometry: Geometry) -> str:
    """State how the slices lie in the patient."""
    note = "Radiological convention: the patient’s right (R) is on your left; L left, A front, P back, S head, I feet."
    angle = obliqueness_degrees(geometry)
    if angle >= _OBLIQUE_FROM_DEGREES:
        note += f" The slices follow the image grid, which is tilted by up to {angle:.0f}° from these directions."
    return note


def _jacobian_text(report: Report) -> str:
    text = (
        "Jacobian determinant on a logarithmic scale. White keeps the volume; red (above 1): moving tissue was shrunk to fit; "
        "blue (below 1): it was stretched. Yellow marks folded voxels. Outside the foreground colors are dimmed."
    )
    matrix = np.array(report.alignment.matrix, dtype=float)
    if matrix.size == 16:
        share = float(np.linalg.det(matrix.reshape(4, 4)[:3, :3]))
        text += f" The affine alignment alone gives {wording.number(share)} everywhere."
    return text


def _sorted_structures(report: Report) -> tuple[StructureMeasure, ...]:
    """Return the structures with the lowest Dice first, since that is where to look; those without a Dice come last."""
    if report.measured.dice is None:
        return ()
    return tuple(sorted(report.measured.dice.structures, key=lambda s: (s.dice != s.dice, s.dice, s.label)))


def _key_numbers(report: Report) -> list[KeyNumber]:
    number, percent, voxel_mm = wording.number, wording.percent, wording.voxel_mm(report)

    def distance(value: float | None, digits: int = 2) -> str:
        return wording.distance(value, digits, voxel_mm=voxel_mm)

    def tail(distances: Distances, digits: int) -> str:
        return f"mean; 95 % below {distance(distances.p95, digits)}, largest {distance(distances.maximum, digits)}"

    measured, numbers = report.measured, []
    dice, landmarks, landmarks_before = measured.dice, measured.tre_mm, measured.tre_before_mm
    if dice is not None:
        change = f"{number(dice.mean_before, 3)} → {number(dice.mean, 3)}"
        numbers.append(KeyNumber("Mean Dice", change, f"{len(dice.structures)} structures, before → after"))
    if landmarks is not None:
        before = distance(landmarks_before.mean if landmarks_before else None).removesuffix(" mm")
        remark = "mean, before → after" + (": no independent check" if report.job.uses_landmarks else "")
        numbers.append(KeyNumber(wording.landmark_title(report), f"{before} → {distance(landmarks.mean)}", remark))
    folding, inverse, moved = measured.folding_percent, measured.inverse_consistency_mm, measured.displacement_mm
    similarity = f"{number(measured.similarity_before, 3)} → {number(measured.similarity_after, 3)}"
    of_channels = [
        KeyNumber(
            f"Image similarity, channel {one.number}",
            f"{number(one.similarity_before, 3)} → {number(one.similarity_after, 3)}",
            f"normalized mutual information, before → after; weight {number(one.weight)}",
        )
        for one in measured.channels
    ]
    numbers += [
        KeyNumber("Folding", percent(folding.foreground), f"of the foreground; {percent(folding.grid)} of the grid"),
        KeyNumber("Inverse consistency", distance(inverse.mean), tail(inverse, 2)),
        KeyNumber("Image similarity", similarity, "normalized mutual information, before → after"),
        *of_channels,
        KeyNumber("Deformation", distance(moved.mean, 1), tail(moved, 1)),
        KeyNumber(
            "Jacobian determinant",
            f"{number(measured.jacobian_minimum)} … {number(measured.jacobian_maximum)}",
            f"range; spread of its logarithm {wording.spread(measured.sd_log_jacobian)}",
        ),
    ]
    return numbers


def _setting_rows(report: Report) -> list[tuple[str, str, str]]:
    """Return title, value and range of each parameter."""
    return [
        (
            p.title,
            wording.setting(report.engine.space, {p.name: report.setting[p.name]}),
            f"{p.low:g} to {p.high:g}{f' {p.unit}' if p.unit else ''}, default {p.default:g}",
        )
        for p in report.engine.space
        if p.name in report.setting
    ]


def _level_ends(level: LevelTrace) -> str:
    first = wording.short(level.values[0] if level.values else None)
    last = level.end_value if level.end_value is not None else (level.values[-1] if level.values else None)
    return f"{first} → {wording.short(last)}"
