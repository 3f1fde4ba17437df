"""What a finished task made, put where the user wants it: into the scene of its volumes, or into a folder."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.outcome import Outcome
from HyperPredictRegLib.prediction import Foresight
from HyperPredictRegLib.slicerbridge import foretold
from HyperPredictRegLib.slicerbridge.request import MaskChoice, Request
from HyperPredictRegLib.slicerbridge.scene import OutcomeNodes, add_outcome_for
from HyperPredictRegLib.slicerbridge.task import Task
from HyperPredictRegLib.slicerbridge.volumes import volume_geometry

_ROLES = ("fixed", "moving", "moving_segmentation", "fixed_mask", "moving_mask", "initial_transform")
_REFERENCE = "HyperPredictRegFor."  # and the role of an input
_PLACES = "HyperPredictReg.foreseenAt"
_MOST_FIELD_POINTS = 50_000_000
_LONGEST_NAME = 100
_PAGE_FILES = ("report.html", "report.json", "*.png")


def deliver_foresight(foresight: Foresight, request: Request, places: str, *, earlier: Any = None) -> Any:
    """Put a prediction into the scene of its volumes, in place of an `earlier` one if that is whole; return its text node.

    Parameters
    ----------
    request : what it was made of; the text node refers to the nodes.
    places : what `places_of` said when it was begun.
    earlier : text node of a prediction, or None.
    """
    nodes = None
    if earlier is not None and earlier.GetScene() is not None:
        try:
            nodes = foretold.foresight_nodes_of(earlier)
        except InputError:
            nodes = None
    if nodes is None:
        nodes = foretold.add_foresight(request.fixed.GetScene(), foresight)
    else:
        foretold.update_foresight(nodes, foresight)
    for role, node in _inputs(request).items():
        nodes.report.SetNodeReferenceID(_REFERENCE + role, None if node is None else node.GetID())
    nodes.report.SetAttribute(_PLACES, places)
    return nodes.report


def places_of(request: Request) -> str:
    """Return as JSON where the volumes lie that a request names, and which segments its masks consist of.

    Of a volume: its size and the matrix from its indices to LPS mm in world space; None if it has no such matrix.
    """
    places: dict[str, Any] = {}
    for role in ("fixed", "moving"):
        try:
            grid = volume_geometry(getattr(request, role))
            places[role] = [*grid.size, *np.round(grid.index_to_lps, 6).ravel().tolist()]
        except InputError:
            places[role] = None
    for role in ("fixed_mask", "moving_mask"):
        mask = getattr(request, role)
        places[role] = "" if mask is None else mask.segment_id
    return json.dumps(places)


def difference(node: Any, request: Request) -> str:
    """Tell what has changed since the prediction in a text node was made, if a request asks for it anew.

    Returns
    -------
    "volumes" (others), "inputs" (another mask, segmentation or initial transform), "places" (volumes have moved), or "" if
    nothing has changed. Voxels that were edited are not noticed.
    """
    differing = [
        role for role, now in _inputs(request).items() if node.GetNodeReference(_REFERENCE + role) is not now
    ]
    if "fixed" in differing or "moving" in differing:
        return "volumes"
    then, now = json.loads(node.GetAttribute(_PLACES) or "{}"), json.loads(places_of(request))
    if differing or any(then.get(role) != now[role] for role in ("fixed_mask", "moving_mask")):
        return "inputs"
    if any(now[role] is not None and then.get(role) != now[role] for role in ("fixed", "moving")):
        return "places"
    return ""


def check_field(fixed: Any, transform_as: str, field_spacing_mm: float | None) -> None:
    """Check before the work begins how its transform is to be stored.

    Parameters
    ----------
    fixed : volume node that a displacement field has to cover.
    transform_as, field_spacing_mm : see `add_outcome`.

    Raises
    ------
    InputError : there is no such kind of transform, or the spacing is not positive or needs too much memory.
    """
    if transform_as not in ("composite", "field"):
        raise InputError(f"A transform cannot be stored as '{transform_as}': choose 'composite' or 'field'.")
    if field_spacing_mm is None:
        return
    if not 0 < field_spacing_mm < float("inf"):
        raise InputError(f"The spacing of the displacement field is {field_spacing_mm:g} mm: give more than 0.")
    points = float(np.prod(np.ceil(np.array(volume_geometry(fixed).extent_mm) / field_spacing_mm) + 1))
    if transform_as == "field" and points > _MOST_FIELD_POINTS:
        raise InputError(
            f"A displacement field with {field_spacing_mm:g} mm between its points would have {points / 1e6:.0f} million of them "
            f"over '{fixed.GetName()}': choose a larger spacing."
        )


def _inputs(request: Request) -> dict[str, Any]:
    chosen = {role: getattr(request, role) for role in _ROLES}
    return {role: one.node if isinstance(one, MaskChoice) else one for role, one in chosen.items()}


def deliver_outcome(
    task: Task, *, transform_as: str = "composite", field_spacing_mm: float | None = None
) -> tuple[OutcomeNodes, Outcome]:
    """Put the result of a finished registration into the scene of its volumes, all of it or nothing; see `add_outcome_for`.

    Raises
    ------
    InputError : its volumes have left the scene in the meantime.
    """
    outcome, scene = task.outcome(), task.request.fixed.GetScene()
    nodes = add_outcome_for(scene, outcome, task.given, transform_as=transform_as, field_spacing_mm=field_spacing_mm)
    return nodes, outcome


def save_page(results: Path, folder: Path, name: str) -> Path:
    """Copy a report page with its pictures and numbers into a new folder; return the page.

    Parameters
    ----------
    results : where the page was drawn.
    folder : an existing folder; nothing in it is changed.
    name : of the new folder in it; a number is added if it is taken.

    Raises
    ------
    InputError : it cannot be written there.
    """
    stem = re.sub(r'[\\/:*?"<>|\x00-\x1f]+', " ", name).strip(" .")[:_LONGEST_NAME] or "registration"
    try:
        target = Path(folder) / stem
        number = 1
        while target.exists():
            number += 1
            target = Path(folder) / f"{stem} {number}"
        target.mkdir()
        for pattern in _PAGE_FILES:
            for file in sorted(results.glob(pattern)):
                shutil.copy2(file, target / file.name)
    except OSError as error:
        raise InputError(f"The report could not be saved in '{folder}' ({error.strerror}): choose another folder.") from error
    return target / "report.html"
