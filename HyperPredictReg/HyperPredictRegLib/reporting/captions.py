"""What stands above and below each picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from HyperPredictRegLib.geometry import Geometry
from HyperPredictRegLib.outcome import Outcome
from HyperPredictRegLib.reporting import wording
from HyperPredictRegLib.reporting.views import obliqueness_degrees

_OBLIQUE_FROM_DEGREES = 1.0


@dataclass(frozen=True)
class Caption:
    """The words of one picture."""

    role: str
    title: str
    text: str
    alternative: str


def captions(outcome: Outcome) -> dict[str, Caption]:
    """Return the words of every picture that this outcome calls for, by role, in the order of the page."""
    every = (
        Caption(
            "overlay_picture",
            "Before and after, in colour",
            "Fixed in green, moving in magenta: where both are equally bright the sum is grey, and a coloured rim is a misfit. "
            + orientation_note(Geometry.of(outcome.fixed_on_grid)),
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
            "jacobian_picture", "Change of volume", _jacobian_text(outcome),
            "Map of the Jacobian determinant in three planes and its histogram",
        ),
        Caption(
            "deformed_grid_picture",
            "Deformed grid",
            "Squares painted on the aligned moving image and carried along by the deformable step alone. Closed loops or lines "
            "that break off show folds. Movement through the plane does not show here.",
            "Deformed grid over the registered image in three planes",
        ),
        Caption(
            "outlines_picture",
            "Outlines of the structures",
            "Green: the fixed image’s own labels. Magenta: the moving image’s labels, propagated by the registration. "
            "Behind them the fixed image on its own grid, in the slices that show most structures.",
            "Outlines of fixed and propagated structures on the fixed image in three planes",
        ),
        curves_caption(trusted=outcome.report.verdict is None or outcome.report.verdict.light != "red"),
        Caption(
            "trace_picture",
            "Course of the optimisation",
            "One box per level, each with a scale of its own, because metric values of different levels come from different "
            "images. The diamond stands beside the last iteration: it belongs to the transform that the level returned.",
            "Metric at each iteration, one box per stage and level",
        ),
    )
    labelled = outcome.fixed_labels is not None or outcome.warped_labels is not None
    traced = outcome.report.alignment.stages or outcome.report.registration
    left_out = {"outlines_picture": not labelled, "trace_picture": not traced, "curves_picture": outcome.curves is None}
    return {caption.role: caption for caption in every if not left_out.get(caption.role, False)}


def curves_caption(trusted: bool) -> Caption:
    """Return the words of the foreseen curves."""
    bands = "About 90 % of true values lie inside the bands." if trusted else "Neither curves nor bands hold for this pair."
    return Caption(
        "curves_picture",
        "Foreseen curves",
        f"What was foreseen for every λ before anything was registered. {bands} The scale of folding is logarithmic down to "
        "0.001 %, which counts as none, and linear from there to 0.",
        "Curves of mean Dice and of folding over λ, with their bands, the folding limit and the chosen λ",
    )


def structures_caption(trusted: bool) -> Caption:
    """Return the words of the curves of every structure."""
    own = " The blue line and figure are the λ that would suit that structure best under the same criterion." if trusted else ""
    return Caption(
        "structures_picture",
        "Foreseen Dice of every structure",
        f"All panels span the same difference of Dice, each around its own curve, so that slopes compare by eye.{own}",
        "Small curves of the foreseen Dice of every structure over λ",
    )


def orientation_note(geometry: Geometry) -> str:
    """State how the slices lie in the patient."""
    note = "Radiological convention: the patient’s right (R) is on your left; L left, A front, P back, S head, I feet."
    angle = obliqueness_degrees(geometry)
    if angle >= _OBLIQUE_FROM_DEGREES:
        note += f" The slices follow the image grid, which is tilted by up to {angle:.0f}° from these directions."
    return note


def _jacobian_text(outcome: Outcome) -> str:
    text = (
        "Jacobian determinant on a logarithmic scale. White keeps the volume; red (above 1): moving tissue was shrunk to fit; "
        "blue (below 1): it was stretched. Yellow marks folds. Outside the foreground colours are dimmed."
    )
    matrix = np.array(outcome.report.alignment.matrix, dtype=float)
    if matrix.size == 16:
        share = float(np.linalg.det(matrix.reshape(4, 4)[:3, :3]))
        text += f" The affine alignment alone gives {wording.number(share)} everywhere."
    return text
