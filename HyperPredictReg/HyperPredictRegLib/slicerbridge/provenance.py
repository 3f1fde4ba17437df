"""Where nodes came from: which engine, setting, seed and versions made them, from which inputs, and what has changed since."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import slicer

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.json_records import from_json, to_json
from HyperPredictRegLib.results.report import Report
from HyperPredictRegLib.slicerbridge.segmentations import SegmentationState, segmentation_state
from HyperPredictRegLib.slicerbridge.volumes import LPS_RAS, volume_geometry
from HyperPredictRegLib.spatial.geometry import Geometry

ENGINE = "HyperPredictReg.engine"
SETTING = "HyperPredictReg.setting"
SEED = "HyperPredictReg.seed"
VERSIONS = "HyperPredictReg.versions"
LANDMARKS = "HyperPredictReg.landmarksFor"
"""Only on results that landmarks led to: for what they were used."""
REGISTERED_AT = "HyperPredictReg.registeredAt"
"""Attribute of a report node, JSON: of each volume the matrix from its indices to RAS mm in world space, and its size."""

_TOLERANCE_VOXELS = 1e-3


def record_provenance(nodes: Iterable[Any], report: Report) -> None:
    """Write engine, setting, seed, versions and use of landmarks of `report` into attributes of each node, as text or JSON."""
    attributes = {
        ENGINE: f"{report.engine.name} {report.engine.version}",
        SETTING: json.dumps(report.setting),
        SEED: str(report.job.seed),
        VERSIONS: json.dumps(report.versions),
    }
    if report.job.uses_landmarks:
        attributes[LANDMARKS] = report.job.landmarks_for
    for node in nodes:
        for name, value in attributes.items():
            node.SetAttribute(name, value)


def link_images(transform_node: Any, fixed_node: Any, moving_node: Any) -> None:
    """Refer from a transform node to the volumes it registers, by the roles that Slicer's DICOM export reads."""
    roles = slicer.vtkMRMLTransformNode
    transform_node.SetNodeReferenceID(roles.GetFixedNodeReferenceRole(), fixed_node.GetID())
    transform_node.SetNodeReferenceID(roles.GetMovingNodeReferenceRole(), moving_node.GetID())


def add_report_node(scene: Any, report: Report, name: str = "Registration report") -> Any:
    """Add the whole report, JSON, to `scene` as a vtkMRMLTextNode and return the node."""
    node = scene.AddNewNodeByClass("vtkMRMLTextNode", scene.GetUniqueNameByString(name))
    node.SetText(to_json(report))
    return node


def add_warnings(node: Any, warnings: Sequence[str]) -> None:
    """Add sentences to the warnings of the report that a text node holds."""
    report = read_report_node(node)
    node.SetText(to_json(replace(report, warnings=(*report.warnings, *warnings))))


def read_report_node(node: Any) -> Report:
    """Return the report that `add_report_node` stored; raise `InputError` if the text is no such report."""
    return from_json(Report, node.GetText() or "", f"The text '{node.GetName()}'", any_number=True)


@dataclass(frozen=True)
class AtStart:
    """What the end of a registration needs of inputs that the user may change while it runs.

    Attributes
    ----------
    moving_segmentation : what is to be propagated, or None.
    segmentations : name and digest (see `SegmentationState`) of each segmentation by its role, such as "fixed_segmentation".
    above_moving : name of the topmost transform that the moving volume is under; "" if it is under none.
    grids : where the volumes lie in world space, LPS mm, by role: "fixed" and "moving".
    """

    moving_segmentation: SegmentationState | None = None
    segmentations: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    above_moving: str = ""
    grids: Mapping[str, Geometry] = field(default_factory=dict)


@dataclass(frozen=True)
class Given:
    """Nodes that are in the scene already and are left as they are; None where there is none.

    Attributes
    ----------
    fixed, moving, fixed_segmentation, moving_segmentation : the nodes.
    start : how they were when the registration began; None if they have not changed since.
    """

    fixed: Any
    moving: Any
    fixed_segmentation: Any = None
    moving_segmentation: Any = None
    start: AtStart | None = None


def at_start(given: Given) -> AtStart:
    """Return how inputs are now; nodes are left as they are.

    Raises
    ------
    InputError : the parent transform of a node is not linear, or a segmentation cannot be converted to label maps.
    """
    nodes = {"fixed_segmentation": given.fixed_segmentation, "moving_segmentation": given.moving_segmentation}
    states = {role: segmentation_state(node) for role, node in nodes.items() if node is not None}
    above = given.moving.GetParentTransformNode()
    while above is not None and above.GetParentTransformNode() is not None:
        above = above.GetParentTransformNode()
    return AtStart(
        states.get("moving_segmentation"),
        {role: (state.name, state.digest) for role, state in states.items()},
        "" if above is None else above.GetName(),
        {"fixed": volume_geometry(given.fixed), "moving": volume_geometry(given.moving)},
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
            # It is deformed, sheared or cannot be converted, which it was not at the start.
            pass
        what = "edited or moved"
    return f"The segmentation '{name}' was {what} while the registration ran: the result is for what it was at the start."


def record_places(report_node: Any, grids: Mapping[str, Geometry]) -> None:
    """Write where both volumes lay, see `AtStart.grids`, into an attribute of the report node."""
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
        now = volume_geometry(volume, own_transform)
    except InputError:
        # It is empty, deformed or sheared, which no registered volume was.
        how = "has another shape"
    else:
        apart = _corners(LPS_RAS @ now.index_to_lps, now.size) - _corners(np.array(then["ijk_to_ras"]), then["size"])
        farthest = float(np.linalg.norm(apart, axis=1).max())
        if farthest <= _TOLERANCE_VOXELS * min(now.spacing) and list(now.size) == then["size"]:
            return None
        how = f"lies elsewhere (by {farthest:.3g} mm at most)"
    return (
        f"The {role} volume '{volume.GetName()}' {how} than when it was registered: what the transform is applied to may come to "
        "a wrong place. Put it back to where it was, such as under the transform that it was under, or register again."
    )


def _corners(ijk_to_ras: np.ndarray, size: Sequence[int]) -> np.ndarray:
    corners = np.stack(np.meshgrid(*[(-0.5, n - 0.5) for n in size], indexing="ij"), axis=-1).reshape(-1, 3)
    return np.asarray(corners @ ijk_to_ras[:3, :3].T + ijk_to_ras[:3, 3])
