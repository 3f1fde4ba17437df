"""A finished registration as nodes: added to a scene in one go, found again in a saved one, and removed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.geometry import Geometry
from HyperPredictRegLib.outcome import Outcome
from HyperPredictRegLib.quality import MUCH_FOLDED_PERCENT
from HyperPredictRegLib.slicerbridge.placement import (
    AtStart,
    Given,
    at_start,
    edited_since,
    moved_since,
    record_places,
)
from HyperPredictRegLib.slicerbridge.provenance import add_report_node, add_warnings, link_images, record_provenance
from HyperPredictRegLib.slicerbridge.segmentations import propagate, to_segmentation_node
from HyperPredictRegLib.slicerbridge.showing import show_outlines
from HyperPredictRegLib.slicerbridge.storing import check_storage, reload_note, store_as_field
from HyperPredictRegLib.slicerbridge.tables import (
    TraceNodes,
    add_measures_table,
    add_stages_table,
    add_structures_table,
    add_trace,
)
from HyperPredictRegLib.slicerbridge.together import (
    all_or_none,
    item_above,
    keep_out_of_files,
    mark_run,
    nodes_of_run,
    put_in_folder,
    remove_run,
)
from HyperPredictRegLib.slicerbridge.transforms import to_transform_node
from HyperPredictRegLib.slicerbridge.volumes import look_alike, to_volume_node

INVERSE_RESIDUAL = "HyperPredictReg.inverseResidualMm"
_THEIRS = ("fixed", "moving", "fixed_segmentation", "moving_segmentation")
_TRACES = ("alignment_trace", "registration_trace")
_RED = (0.9, 0.1, 0.1)


@dataclass(frozen=True)
class OutcomeNodes:
    """The nodes of one registration; None where the outcome has no such part, or where it is gone from the scene.

    Attributes
    ----------
    fixed, moving : the volumes that were registered.
    warped : the moving volume on the fixed one's grid.
    jacobian : the Jacobian determinant on the working grid.
    transform : fixed to moving points, from parent; `inverse` the other way round, which is not saved with the scene.
    fixed_segmentation, moving_segmentation : of the volumes.
    propagated_segmentation : the moving one on the fixed grid.
    folds : one segment, where the determinant is 0 or less.
    structures, measures, stages : tables.
    alignment_trace, registration_trace : the metric's course.
    report : all numbers and the job, as text.
    """

    fixed: Any
    moving: Any
    warped: Any
    jacobian: Any
    transform: Any
    fixed_segmentation: Any | None
    moving_segmentation: Any | None
    propagated_segmentation: Any | None
    structures: Any | None
    measures: Any
    alignment_trace: TraceNodes | None
    registration_trace: TraceNodes | None
    report: Any
    inverse: Any = None
    folds: Any | None = None
    stages: Any | None = None

    def all(self) -> list[Any]:
        """Return every node, in the order of the fields."""
        return list(self.by_role().values())

    def by_role(self) -> dict[str, Any]:
        """Return every node by the field that holds it; those of a trace as ``registration_trace.chart`` and so on."""
        found: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, TraceNodes):
                found |= {f"{field.name}.table": value.table, f"{field.name}.curves": value.curves}
                found |= {f"{field.name}.series.{n}": one for n, one in enumerate(value.series)}
                found[f"{field.name}.chart"] = value.chart
            elif value is not None:
                found[field.name] = value
        return found


def add_outcome(
    scene: Any,
    outcome: Outcome,
    *,
    fixed_node: Any = None,
    moving_node: Any = None,
    segmentation_node: Any = None,
    fixed_segmentation_node: Any = None,
    transform_as: str = "composite",
    field_spacing_mm: float | None = None,
) -> OutcomeNodes:
    """Add a registration to `scene`: images, transforms, segmentations, tables, charts and report, in a folder of its own.

    The folder lies where the moving volume lies. If anything fails, the scene is as it was. Results of earlier registrations
    are left alone. The moving volume is not put under the transform and the warped one has no parent transform either, so
    that nothing is moved twice.

    Parameters
    ----------
    scene : vtkMRMLScene, the application's or a new one.
    outcome : what to add.
    fixed_node, moving_node : the volumes if they are in the scene already; they are left as they are.
    segmentation_node : a segmentation of the moving volume to propagate instead of the outcome's labels, with its segments'
        ids, names, colours, terminology and overlaps; it is left as it is.
    fixed_segmentation_node : the segmentation of the fixed volume if it is in the scene already; it is left as it is.
    transform_as : "composite": exact, an affine transform and a displacement field; or "field": one displacement field over
        the fixed volume, whose description says how far it differs from the exact one.
    field_spacing_mm : of that field; by default it has the working grid's points, where it is exact.

    Raises
    ------
    InputError : there is no such way to store a transform, the spacing is not above 0, or a node cannot be used.
    """
    given = Given(fixed_node, moving_node, fixed_segmentation_node, segmentation_node)
    return add_outcome_for(scene, outcome, given, transform_as=transform_as, field_spacing_mm=field_spacing_mm)


def add_outcome_for(
    scene: Any, outcome: Outcome, given: Given, *, transform_as: str = "composite", field_spacing_mm: float | None = None
) -> OutcomeNodes:
    """Add a registration to `scene` as it fits the nodes that it was begun with, even if these have changed since.

    What is propagated is what the segmentation was at the start. The report's warnings say what has changed. A segmentation
    that has left the scene is not referred to. All else is as in `add_outcome`.
    """
    check_storage(Geometry.of(outcome.fixed), transform_as, field_spacing_mm)
    start = given.start or at_start(given.moving, given.moving_segmentation, given.fixed_segmentation)
    theirs = {name: node for name in _THEIRS if (node := getattr(given, name)) is not None and node.GetScene() is not None}
    with all_or_none(scene):
        nodes = _add_nodes(scene, outcome, theirs, start)
        stored: sitk.Transform = outcome.transform
        if transform_as == "field":
            stored = store_as_field(nodes.transform, outcome, field_spacing_mm)
        _describe(nodes, outcome, start, stored)
        roles = {role: node for role, node in nodes.by_role().items() if role not in theirs}
        record_provenance([node for role, node in roles.items() if role not in _THEIRS], outcome.report)
        record_places(nodes.report, outcome)
        if given.start is not None:
            _warn_of_changes(nodes, start)
        mark_run(nodes.report, roles, theirs)
        parent = item_above(scene, nodes.moving) if "moving" in theirs else None
        put_in_folder(scene, list(roles.values()), f"Registration of {_pair(nodes)}", parent)
    return nodes


def remove_outcome(scene: Any, nodes: OutcomeNodes) -> None:
    """Remove what `add_outcome` added, with its folder if nothing else is in it; nodes that were there before stay.

    Raises
    ------
    InputError : the report, which knows what belongs to it, is gone.
    """
    if nodes.report.GetScene() is None:
        raise InputError(f"The text '{nodes.report.GetName()}' is no longer in the scene: remove the rest of its result by hand.")
    remove_run(scene, nodes.report)


def read_back(scene: Any, report_node: Any) -> OutcomeNodes:
    """Return the nodes of a registration from its report, in a saved and opened scene too; None for those that are gone.

    Raises
    ------
    InputError : the node is no report of a registration.
    """
    found = nodes_of_run(report_node)
    if found.get("report") is not report_node:
        raise InputError(f"The text '{report_node.GetName()}' is no report of a registration: choose one.")
    traces = {name: _trace_from(found, name) for name in _TRACES}
    return OutcomeNodes(**{field.name: traces.get(field.name, found.get(field.name)) for field in fields(OutcomeNodes)})


def _warn_of_changes(nodes: OutcomeNodes, start: AtStart) -> None:
    """Say in the report, and on what was propagated, which inputs have changed since the registration began."""
    segmentations = {role: getattr(nodes, role) for role in ("fixed_segmentation", "moving_segmentation")}
    edited = {role: edited_since(start, role, node) for role, node in segmentations.items()}
    moved = [moved_since(nodes.report, role, getattr(nodes, role)) for role in ("fixed", "moving")]
    add_warnings(nodes.report, [sentence for sentence in (*moved, *edited.values()) if sentence is not None])
    said, propagated = edited["moving_segmentation"], nodes.propagated_segmentation
    if said is not None and propagated is not None:
        propagated.SetDescription(f"{propagated.GetDescription() or ''} {said}".strip())


def _add_nodes(scene: Any, outcome: Outcome, theirs: Mapping[str, Any], start: AtStart) -> OutcomeNodes:
    report, dice = outcome.report, outcome.report.measured.dice
    fixed = theirs.get("fixed") or to_volume_node(outcome.fixed, scene, "Fixed")
    moving = theirs.get("moving") or to_volume_node(outcome.moving, scene, "Moving")
    to, of = f"{moving.GetName()} to {fixed.GetName()}", f"({moving.GetName()} to {fixed.GetName()})"
    segmentations = _add_segmentations(scene, outcome, theirs, start, (fixed, moving))
    nodes = OutcomeNodes(
        fixed=fixed,
        moving=moving,
        warped=to_volume_node(outcome.warped, scene, f"{moving.GetName()} registered to {fixed.GetName()}"),
        jacobian=to_volume_node(outcome.jacobian, scene, f"Jacobian determinant {of}"),
        transform=to_transform_node(outcome.transform, scene, to),
        inverse=to_transform_node(outcome.inverse, scene, f"{fixed.GetName()} to {moving.GetName()}, inverse"),
        **segmentations,
        folds=_add_folds(scene, outcome, f"Folded voxels {of}"),
        structures=add_structures_table(scene, dice.structures, f"Structures {of}") if dice is not None else None,
        measures=add_measures_table(scene, report.measured, f"Measures {of}"),
        stages=add_stages_table(scene, (*report.alignment.stages, *report.registration), f"Stages {of}"),
        alignment_trace=add_trace(scene, report.alignment.stages, f"Alignment metric {of}"),
        registration_trace=add_trace(scene, report.registration, f"Registration metric {of}"),
        report=add_report_node(scene, report, f"Registration report {of}"),
    )
    if "moving" in theirs:
        look_alike(nodes.warped, moving)
    link_images(nodes.transform, fixed, moving)
    link_images(nodes.inverse, moving, fixed)
    return nodes


def _add_segmentations(
    scene: Any, outcome: Outcome, theirs: Mapping[str, Any], start: AtStart, volumes: tuple[Any, Any]
) -> dict[str, Any]:
    fixed, moving = volumes

    def added(labels: sitk.Image | None, name: str, volume: Any) -> Any | None:
        if labels is None:
            return None
        node = to_segmentation_node(labels, scene, name, names=outcome.label_names)
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        return node

    def own(role: str, labels: sitk.Image | None, volume: Any) -> Any | None:
        # One that the user has removed since is not brought back.
        removed = role not in theirs and role in start.segmentations
        return theirs.get(role) or added(None if removed else labels, f"Segmentation of {volume.GetName()}", volume)

    mine = start.moving_segmentation
    if mine is None:
        propagated = added(outcome.warped_labels, f"Segmentation of {moving.GetName()} in {fixed.GetName()} space", fixed)
    else:
        name = f"{mine.name} in {fixed.GetName()} space"
        propagated = propagate(mine, outcome.transform, Geometry.of(outcome.fixed), scene, name)
        propagated.SetReferenceImageGeometryParameterFromVolumeNode(fixed)
    return {
        "fixed_segmentation": own("fixed_segmentation", outcome.fixed_labels, fixed),
        "moving_segmentation": own("moving_segmentation", outcome.moving_labels, moving),
        "propagated_segmentation": propagated,
    }


def _add_folds(scene: Any, outcome: Outcome, name: str) -> Any | None:
    """Add one red segment where space is folded, in the domain whose share the job limits; None if it is folded nowhere."""
    # Not "<= 0": what is not a number is no proper voxel either.
    folded = ~(sitk.GetArrayViewFromImage(outcome.jacobian) > 0)
    if outcome.report.job.criterion.domain == "foreground":
        folded &= sitk.GetArrayViewFromImage(outcome.foreground) != 0
    if not folded.any():
        return None
    image = Geometry.of(outcome.jacobian).apply_to(sitk.GetImageFromArray(folded.astype(np.uint8)))
    node = to_segmentation_node(image, scene, name, names={1: "Folded"}, colors={1: _RED})
    show_outlines(node)
    return node


def _describe(nodes: OutcomeNodes, outcome: Outcome, start: AtStart, stored: sitk.Transform) -> None:
    """Say on the transforms themselves how exact they are, and where they lead from; and on all that was moved if it folds."""
    folds = _fold_note(outcome)
    sentences = [nodes.transform.GetDescription() or "", folds, reload_note(outcome, stored)]
    above = start.above_moving
    if above:
        sentences.append(
            f"It starts from where the transform '{above}' shows the moving volume: to move that volume, put '{above}' under "
            "this transform."
        )
    nodes.transform.SetDescription(" ".join(sentence for sentence in sentences if sentence))
    missed = outcome.report.measured.inverse_consistency_mm
    nodes.inverse.SetAttribute(INVERSE_RESIDUAL, json.dumps(asdict(missed)))
    inverse_note = (
        f"The numerical inverse of '{nodes.transform.GetName()}': going there and back misses the start by {missed.mean:.2g} mm "
        f"on average over the foreground, by {missed.maximum:.2g} mm at most."
    )
    nodes.inverse.SetDescription(
        f"{folds} {inverse_note} It is not saved with the scene, where it would take as much room again: the transform itself "
        "leads both ways.".strip()
    )
    keep_out_of_files(nodes.inverse)
    if folds:
        for node in (nodes.warped, nodes.propagated_segmentation):
            if node is not None:
                node.SetDescription(folds)


def _fold_note(outcome: Outcome) -> str:
    """Return a sentence if so much of the foreground is folded that the result should not be used without a look; else ""."""
    share = outcome.report.measured.folding_percent.foreground
    if not share > MUCH_FOLDED_PERCENT:
        return ""
    return f"{share:.3g} % of the foreground is folded: near folds neither the image nor its segments can be trusted."


def _pair(nodes: OutcomeNodes) -> str:
    return f"{nodes.moving.GetName()} to {nodes.fixed.GetName()}"


def _trace_from(found: Mapping[str, Any], name: str) -> TraceNodes | None:
    parts = {role.removeprefix(f"{name}."): node for role, node in found.items() if role.startswith(f"{name}.")}
    if not {"table", "curves", "chart"} <= set(parts):
        return None
    series = sorted((int(role.partition(".")[2]), node) for role, node in parts.items() if role.startswith("series."))
    return TraceNodes(parts["table"], parts["curves"], tuple(node for _, node in series), parts["chart"])
