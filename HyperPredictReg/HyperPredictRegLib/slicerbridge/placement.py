"""Inputs as they were when work on them began: where volumes lay, what segments held; and what has changed since."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.geometry import Geometry
from HyperPredictRegLib.outcome import Outcome
from HyperPredictRegLib.slicerbridge.request import MaskChoice, Request
from HyperPredictRegLib.slicerbridge.segmentations import SegmentationState, segmentation_state
from HyperPredictRegLib.slicerbridge.volumes import LPS_RAS, reading_for, volume_geometry

_INPUTS = ("fixed", "moving", "moving_segmentation", "fixed_mask", "moving_mask", "initial_transform")
_REFERENCE = "HyperPredictRegFor."  # and the role of an input
_FORESEEN_AT = "HyperPredictReg.foreseenAt"

REGISTERED_AT = "HyperPredictReg.registeredAt"
"""Attribute of a report node, JSON: of each volume the matrix from its indices to RAS mm in world space, and its size."""

_TOLERANCE_VOXELS = 1e-3


@dataclass(frozen=True)
class AtStart:
    """What the end of a registration needs of inputs that the user may change while it runs.

    Attributes
    ----------
    moving_segmentation : what is to be propagated, or None.
    segmentations : name and digest (see `SegmentationState`) of each segmentation by its role, such as "fixed_segmentation".
    above_moving : name of the topmost transform that the moving volume is under; "" if it is under none.
    """

    moving_segmentation: SegmentationState | None = None
    segmentations: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    above_moving: str = ""


@dataclass(frozen=True)
class Given:
    """Nodes that are in the scene already and are left as they are; None where there is none.

    Attributes
    ----------
    fixed, moving, fixed_segmentation, moving_segmentation : the nodes.
    start : how they were when the registration began; None if they have not changed since.
    """

    fixed: Any = None
    moving: Any = None
    fixed_segmentation: Any = None
    moving_segmentation: Any = None
    start: AtStart | None = None


def at_start(moving: Any, moving_segmentation: Any, fixed_segmentation: Any) -> AtStart:
    """Return how inputs are now; nodes are left as they are, and None is none.

    Raises
    ------
    InputError : a segmentation's parent transform is not linear, or it cannot be converted to label maps.
    """
    nodes = {"fixed_segmentation": fixed_segmentation, "moving_segmentation": moving_segmentation}
    states = {role: segmentation_state(node) for role, node in nodes.items() if node is not None}
    above = None if moving is None else moving.GetParentTransformNode()
    while above is not None and above.GetParentTransformNode() is not None:
        above = above.GetParentTransformNode()
    return AtStart(
        states.get("moving_segmentation"),
        {role: (state.name, state.digest) for role, state in states.items()},
        "" if above is None else above.GetName(),
    )


def edited_since(start: AtStart, role: str, node: Any | None) -> str | None:
    """Return a sentence if the segmentation of this role was removed, moved or edited since; None if not."""
    if role not in start.segmentations:
        return None
    name, digest = start.segmentations[role]
    if node is None:
        what = "removed"
    else:
        try:
            if segmentation_state(node).digest == digest:
                return None
        except InputError:
            # It is bent, sheared or cannot be converted, which at the start it could.
            pass
        what = "edited or moved"
    return f"The segmentation '{name}' was {what} while the registration ran: the result is for what it was at the start."


def record_places(report_node: Any, outcome: Outcome) -> None:
    """Write where both volumes lay into an attribute of the report node.

    They are taken from the outcome, because the nodes may have been moved while the registration ran.
    """
    grids = {"fixed": Geometry.of(outcome.fixed), "moving": Geometry.of(outcome.moving)}
    found = {
        role: {"ijk_to_ras": (LPS_RAS @ grid.index_to_lps).tolist(), "size": grid.size} for role, grid in grids.items()
    }
    report_node.SetAttribute(REGISTERED_AT, json.dumps(found))


def moved_since(report_node: Any, role: str, volume: Any, own_transform: Any = None) -> str | None:
    """Return a sentence if a volume lies elsewhere now than when it was registered; None if not, or if that is not known.

    Parameters
    ----------
    report_node : what `record_places` wrote to; None if it is gone.
    role : "fixed" or "moving".
    volume : the node; None if it is gone.
    own_transform : the transform node of the result; that the volume was put under it does not count.
    """
    text = None if report_node is None else report_node.GetAttribute(REGISTERED_AT)
    if volume is None or not text:
        return None
    then = json.loads(text)[role]
    try:
        with reading_for("carrying", left_out=own_transform):
            now = volume_geometry(volume)
    except InputError:
        # It is empty, bent or sheared, which no registered volume was.
        how = "has another shape"
    else:
        apart = _corners(LPS_RAS @ now.index_to_lps, now.size) - _corners(np.array(then["ijk_to_ras"]), then["size"])
        farthest = float(np.linalg.norm(apart, axis=1).max())
        if farthest <= _TOLERANCE_VOXELS * min(now.spacing) and list(now.size) == then["size"]:
            return None
        how = f"lies elsewhere (by {farthest:.3g} mm at most)"
    return (
        f"The {role} volume '{volume.GetName()}' {how} than when it was registered: what is carried may come to a wrong place. "
        "Put it back to where it was, such as under the transform that it was under, or register again."
    )


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
    then, now = json.loads(node.GetAttribute(_FORESEEN_AT) or "{}"), json.loads(places_of(request))
    if differing or any(then.get(role) != now[role] for role in ("fixed_mask", "moving_mask")):
        return "inputs"
    if any(now[role] is not None and then.get(role) != now[role] for role in ("fixed", "moving")):
        return "places"
    return ""


def record_inputs(report_node: Any, request: Request, places: str) -> None:
    """Let the text node of a prediction refer to what it was made of; `places` is what `places_of` said when it was begun."""
    for role, node in _inputs(request).items():
        report_node.SetNodeReferenceID(_REFERENCE + role, None if node is None else node.GetID())
    report_node.SetAttribute(_FORESEEN_AT, places)


def _inputs(request: Request) -> dict[str, Any]:
    chosen = {role: getattr(request, role) for role in _INPUTS}
    return {role: one.node if isinstance(one, MaskChoice) else one for role, one in chosen.items()}


def _corners(ijk_to_ras: np.ndarray, size: Sequence[int]) -> np.ndarray:
    corners = np.stack(np.meshgrid(*[(-0.5, n - 0.5) for n in size], indexing="ij"), axis=-1).reshape(-1, 3)
    return np.asarray(corners @ ijk_to_ras[:3, :3].T + ijk_to_ras[:3, 3])
