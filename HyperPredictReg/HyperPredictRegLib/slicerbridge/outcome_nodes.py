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
from HyperPredictRegLib.slicerbridge.placement import record_places
from HyperPredictRegLib.slicerbridge.provenance import add_report_node, link_images, record_provenance
from HyperPredictRegLib.slicerbridge.segmentations import propagate, to_segmentation_node
from HyperPredictRegLib.slicerbridge.showing import show_outlines
from HyperPredictRegLib.slicerbridge.tables import (
    TraceNodes,
    add_measures_table,
    add_stages_table,
    add_structures_table,
    add_trace,
)
from HyperPredictRegLib.slicerbridge.together import (
    ROLE,
    RUN,
    all_or_none,
    item_above,
    mark_run,
    nodes_of_run,
    put_in_folder,
    remove_run,
)
from HyperPredictRegLib.slicerbridge.transforms import (
    cubic_reload_difference_mm,
    to_transform_node,
    update_transform_node,
)
from HyperPredictRegLib.slicerbridge.volumes import look_alike, to_volume_node
from HyperPredictRegLib.transforms import displacement_field, field_transform

INVERSE_RESIDUAL = "HyperPredictReg.inverseResidualMm"
FIELD_DIFFERENCE = "HyperPredictReg.fieldDifferenceMm"

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
    transform : fixed to moving points, from parent; `inverse` the other way round.
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


@dataclass(frozen=True)
class Given:
    """Nodes that are in the scene already; they are left as they are."""

    fixed: Any = None
    moving: Any = None
    fixed_segmentation: Any = None
    moving_segmentation: Any = None


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
    field_spacing_mm : of that field; by default the working grid's.

    Raises
    ------
    InputError : there is no such way to store a transform, the spacing is not above 0, or a node cannot be used.
    """
    if transform_as not in ("composite", "field"):
        raise InputError(f"A transform cannot be stored as '{transform_as}': choose composite or field.")
    given = Given(fixed_node, moving_node, fixed_segmentation_node, segmentation_node)
    theirs = {name: getattr(given, name) for name in _THEIRS if getattr(given, name) is not None}
    with all_or_none(scene):
        nodes = _add_nodes(scene, outcome, given)
        if transform_as == "field":
            _store_as_field(nodes.transform, outcome, field_spacing_mm)
        roles = {role: node for role, node in nodes.by_role().items() if role not in theirs}
        record_provenance([node for role, node in roles.items() if role not in _THEIRS], outcome.report)
        record_places(nodes.report, outcome)
        mark_run(roles)
        for role, node in theirs.items():
            nodes.report.SetNodeReferenceID(_reference(role), node.GetID())
        parent = None if moving_node is None else item_above(scene, moving_node)
        put_in_folder(scene, list(roles.values()), f"Registration of {_pair(nodes)}", parent)
    return nodes


def remove_outcome(scene: Any, nodes: OutcomeNodes) -> None:
    """Remove what `add_outcome` added, with its folder if nothing else is in it; nodes that were there before stay."""
    remove_run(scene, nodes.report.GetAttribute(RUN))


def read_back(scene: Any, report_node: Any) -> OutcomeNodes:
    """Return the nodes of a registration from its report, in a saved and opened scene too; None for those that are gone.

    Raises
    ------
    InputError : the node is no report of a registration.
    """
    run = report_node.GetAttribute(RUN)
    found = nodes_of_run(scene, run) if run else {}
    if report_node.GetAttribute(ROLE) != "report" or not found:
        raise InputError(f"The text '{report_node.GetName()}' is no report of a registration: choose one.")
    for role in _THEIRS:
        found.setdefault(role, report_node.GetNodeReference(_reference(role)))
    traces = {name: _trace_from(found, name) for name in _TRACES}
    return OutcomeNodes(**{field.name: traces.get(field.name, found.get(field.name)) for field in fields(OutcomeNodes)})


def _add_nodes(scene: Any, outcome: Outcome, given: Given) -> OutcomeNodes:
    report, dice = outcome.report, outcome.report.measured.dice
    fixed = given.fixed or to_volume_node(outcome.fixed, scene, "Fixed")
    moving = given.moving or to_volume_node(outcome.moving, scene, "Moving")
    to, of = f"{moving.GetName()} to {fixed.GetName()}", f"({moving.GetName()} to {fixed.GetName()})"
    segmentations = _add_segmentations(scene, outcome, given, (fixed, moving))
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
    if given.moving is not None:
        look_alike(nodes.warped, given.moving)
    _describe(nodes, outcome)
    link_images(nodes.transform, fixed, moving)
    link_images(nodes.inverse, moving, fixed)
    return nodes


def _add_segmentations(scene: Any, outcome: Outcome, given: Given, volumes: tuple[Any, Any]) -> dict[str, Any]:
    fixed, moving = volumes

    def added(labels: sitk.Image | None, name: str, volume: Any) -> Any | None:
        if labels is None:
            return None
        node = to_segmentation_node(labels, scene, name, names=outcome.label_names)
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        return node

    mine = given.moving_segmentation
    if mine is None:
        propagated = added(outcome.warped_labels, f"Segmentation of {moving.GetName()} in {fixed.GetName()} space", fixed)
    else:
        name = f"{mine.GetName()} in {fixed.GetName()} space"
        propagated = propagate(mine, outcome.transform, Geometry.of(outcome.fixed), scene, name)
        propagated.SetReferenceImageGeometryParameterFromVolumeNode(fixed)
    return {
        "fixed_segmentation": given.fixed_segmentation
        or added(outcome.fixed_labels, f"Segmentation of {fixed.GetName()}", fixed),
        "moving_segmentation": mine or added(outcome.moving_labels, f"Segmentation of {moving.GetName()}", moving),
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


def _describe(nodes: OutcomeNodes, outcome: Outcome) -> None:
    """Say on the transforms themselves how exact they are, and where they lead from; and on all that was moved if it folds."""
    folds = _fold_note(outcome)
    sentences = [folds, _reload_note(outcome)]
    above = nodes.moving.GetParentTransformNode()
    if above is not None:
        sentences.append(
            f"It starts from where the transform '{above.GetName()}' shows the moving volume: to move that volume, put "
            f"'{above.GetName()}' under this transform."
        )
    nodes.transform.SetDescription(" ".join(sentence for sentence in sentences if sentence))
    missed = outcome.report.measured.inverse_consistency_mm
    nodes.inverse.SetAttribute(INVERSE_RESIDUAL, json.dumps(asdict(missed)))
    inverse_note = (
        f"The numerical inverse of '{nodes.transform.GetName()}': going there and back misses the start by {missed.mean:.2g} mm "
        f"on average over the foreground, by {missed.maximum:.2g} mm at most."
    )
    nodes.inverse.SetDescription(f"{folds} {inverse_note}".strip())
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


def _store_as_field(node: Any, outcome: Outcome, spacing_mm: float | None) -> None:
    """Let a transform node hold one displacement field over the fixed volume instead of the exact composite."""
    spacing = min(outcome.report.working_grid.spacing) if spacing_mm is None else spacing_mm
    if not spacing > 0:
        raise InputError(f"The spacing of the displacement field is {spacing:g} mm: give more than 0.")
    fixed = Geometry.of(outcome.fixed)
    single = field_transform(displacement_field(outcome.transform, fixed.covering(fixed.corners_lps(), spacing, 0.0)))
    update_transform_node(node, single)
    # Half a voxel aside, because on the voxels of a grid that happens to coincide both agree.
    between = Geometry.of(outcome.foreground)
    shifted = Geometry(between.size, between.spacing, tuple(between.to_lps([0.5, 0.5, 0.5]).tolist()), between.direction)
    apart = sitk.GetArrayFromImage(displacement_field(single, shifted)) - sitk.GetArrayFromImage(
        displacement_field(outcome.transform, shifted)
    )
    inside = np.linalg.norm(apart, axis=-1)[sitk.GetArrayViewFromImage(outcome.foreground) != 0]
    mean, most = (float(inside.mean()), float(inside.max())) if inside.size else (0.0, 0.0)
    node.SetAttribute(FIELD_DIFFERENCE, json.dumps({"mean": mean, "maximum": most}))
    note = (
        f"One displacement field of {spacing:.3g} mm over the fixed volume, and not valid outside of it: it differs from the "
        f"exact transform by {mean:.2g} mm on average over the foreground, by {most:.2g} mm at most."
    )
    node.SetDescription(f"{note} {node.GetDescription() or ''}".strip())


def _reload_note(outcome: Outcome) -> str:
    """Say on the transform itself what its grid comes to where Slicer opens the scene without this extension."""
    inside = np.argwhere(sitk.GetArrayViewFromImage(outcome.foreground) > 0)[:, ::-1]
    # A thousand voxels spread evenly; half a voxel aside, because on the voxels all interpolations agree.
    chosen = inside[:: max(1, len(inside) // 1000)] + 0.5
    if not len(chosen):
        return ""
    apart = cubic_reload_difference_mm(outcome.transform, Geometry.of(outcome.foreground).to_lps(chosen))
    return (
        "Displacement fields are interpolated linearly. Slicer without HyperPredictReg reads them as cubic, which moves points "
        f"of the foreground by {apart.mean():.2g} mm on average and by {apart.max():.2g} mm at most."
    )


def _pair(nodes: OutcomeNodes) -> str:
    return f"{nodes.moving.GetName()} to {nodes.fixed.GetName()}"


def _reference(role: str) -> str:
    return f"HyperPredictReg.{role}"


def _trace_from(found: Mapping[str, Any], name: str) -> TraceNodes | None:
    parts = {role.removeprefix(f"{name}."): node for role, node in found.items() if role.startswith(f"{name}.")}
    if not {"table", "curves", "chart"} <= set(parts):
        return None
    series = sorted((int(role.partition(".")[2]), node) for role, node in parts.items() if role.startswith("series."))
    return TraceNodes(parts["table"], parts["curves"], tuple(node for _, node in series), parts["chart"])
