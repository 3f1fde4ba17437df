"""A finished registration as nodes: added to a scene in one go, found again in a saved one, and removed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.quality.metrics import MUCH_FOLDED_PERCENT
from HyperPredictRegLib.results.outcome import Outcome, Result, affine_warped, affine_warped_labels
from HyperPredictRegLib.slicerbridge.provenance import (
    AtStart,
    Given,
    add_report_node,
    add_warnings,
    at_start,
    edited_since,
    link_images,
    moved_since,
    record_places,
    record_provenance,
)
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
    all_or_none,
    item_above,
    keep_out_of_files,
    mark_run,
    nodes_of_run,
    put_in_folder,
    remove_run,
)
from HyperPredictRegLib.slicerbridge.transforms import cubic_reload_difference_mm, to_transform_node, update_transform_node
from HyperPredictRegLib.slicerbridge.volumes import look_alike, to_volume_node
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import displacement_field, field_transform, transformed_points

INVERSE_RESIDUAL = "HyperPredictReg.inverseResidualMm"
"""Attribute of an inverse transform node, JSON: by how many mm going there and back misses the start."""

FIELD_DIFFERENCE = "HyperPredictReg.fieldDifferenceMm"
"""Attribute of a transform node that is one field, JSON: mean and maximum distance from the exact transform, and voxel, in mm."""

EXACT_VOXELS = 1e-3
"""Transforms that lie no farther apart are called the same."""

_MOST_POINTS = 100_000
_MOST_FIELD_POINTS = 50_000_000
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
    folded_voxels : one segment, where the determinant is 0 or less.
    structures, measures, stages : tables.
    alignment_trace, registration_trace : how the metric converged.
    report : all numbers and the job, as text.
    affine_transform, affine_warped, affine_segmentation : what the affine step alone gives, for where deforming did not help.
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
    folded_voxels: Any | None = None
    stages: Any | None = None
    affine_transform: Any | None = None
    affine_warped: Any | None = None
    affine_segmentation: Any | None = None

    def all(self) -> list[Any]:
        """Return every node, in the order of the fields."""
        return list(self.by_role().values())

    def by_role(self) -> dict[str, Any]:
        """Return every node by the field that holds it; those of a trace as ``registration_trace.chart`` and so on."""
        found: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, TraceNodes):
                found |= {f"{field.name}.table": value.table, f"{field.name}.curves": value.surface}
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
        ids, names, colors, terminology and overlaps; it is left as it is.
    fixed_segmentation_node : the segmentation of the fixed volume if it is in the scene already; it is left as it is.
    transform_as : "composite": exact, an affine transform and a displacement field; or "field": one displacement field over
        the fixed volume, whose description says how far it differs from the exact one.
    field_spacing_mm : of that field; by default it has the working grid's points, where it is exact.

    Raises
    ------
    InputError : there is no such way to store a transform, the spacing is not above 0, or a node cannot be used.
    """
    stored = (transform_as, field_spacing_mm)
    grids = {"fixed": Geometry.of(outcome.fixed), "moving": Geometry.of(outcome.moving)}
    check_storage(grids["fixed"], *stored)
    given = {
        "fixed": fixed_node, "moving": moving_node,
        "fixed_segmentation": fixed_segmentation_node, "moving_segmentation": segmentation_node,
    }  # fmt: skip
    theirs = {role: node for role, node in given.items() if node is not None}
    with all_or_none(scene):
        inputs = Given(**{**given, **_add_volumes(scene, outcome, theirs)})
        start = replace(at_start(inputs), grids=grids)
        for role in ("fixed", "moving"):
            labels = getattr(outcome, f"{role}_labels")
            if labels is not None and given[f"{role}_segmentation"] is None:
                volume = getattr(inputs, role)
                node = _segmentation_of(volume, labels, scene, f"Segmentation of {volume.GetName()}", outcome)
                inputs = replace(inputs, **{f"{role}_segmentation": node})
        return _add_result(scene, outcome, inputs, start, theirs, stored)


def add_outcome_for(
    scene: Any, result: Result, given: Given, *, transform_as: str = "composite", field_spacing_mm: float | None = None
) -> OutcomeNodes:
    """Add a registration to `scene` as it fits the nodes that it was begun with, even if these have changed since.

    What is propagated is what the segmentation was at the start. The report's warnings say what has changed. A segmentation
    that has left the scene is not referred to. All else is as in `add_outcome`.
    """
    check_storage(Geometry.of(result.warped), transform_as, field_spacing_mm)
    nodes = {name: getattr(given, name) for name in _THEIRS}
    theirs = {name: node for name, node in nodes.items() if node is not None and node.GetScene() is not None}
    start = given.start or at_start(given)
    left = replace(given, **{name: theirs.get(name) for name in _THEIRS})
    with all_or_none(scene):
        added = _add_result(scene, result, left, start, theirs, (transform_as, field_spacing_mm))
        if given.start is not None:
            _warn_of_changes(added, start)
    return added


def remove_outcome(scene: Any, nodes: OutcomeNodes) -> None:
    """Remove what `add_outcome` added, with its folder if nothing else is in it; nodes that were there before stay.

    Raises
    ------
    InputError : the report, which knows what belongs to it, is gone.
    """
    if nodes.report.GetScene() is None:
        name = nodes.report.GetName()
        raise InputError(f"The text '{name}' is no longer in the scene: remove the rest of its result one by one.")
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
    message, propagated = edited["moving_segmentation"], nodes.propagated_segmentation
    if message is not None and propagated is not None:
        propagated.SetDescription(f"{propagated.GetDescription() or ''} {message}".strip())


def _add_volumes(scene: Any, outcome: Outcome, theirs: Mapping[str, Any]) -> dict[str, Any]:
    images = {"fixed": outcome.fixed, "moving": outcome.moving}
    return {
        role: theirs.get(role) or to_volume_node(image, scene, role.capitalize()) for role, image in images.items()
    }


def _add_result(
    scene: Any, result: Result, inputs: Given, start: AtStart, theirs: Mapping[str, Any], stored: tuple[str, float | None]
) -> OutcomeNodes:
    """Add what belongs to the nodes of the inputs, of which `theirs` were in the scene already."""
    nodes = _add_nodes(scene, result, inputs, start)
    if "moving" in theirs:
        for volume in (nodes.warped, nodes.affine_warped):
            if volume is not None:
                look_alike(volume, nodes.moving)
    transform: sitk.Transform = result.transform
    if stored[0] == "field":
        transform = store_as_field(nodes.transform, result, stored[1])
    _describe(nodes, result, start, transform)
    made = {role: node for role, node in nodes.by_role().items() if role not in theirs}
    record_provenance([node for role, node in made.items() if role not in _THEIRS], result.report)
    record_places(nodes.report, start.grids)
    mark_run(nodes.report, made, theirs)
    parent = item_above(scene, nodes.moving) if "moving" in theirs else None
    name = f"Registration of {nodes.moving.GetName()} to {nodes.fixed.GetName()}"
    put_in_folder(scene, list(made.values()), name, parent)
    return nodes


def _add_nodes(scene: Any, result: Result, inputs: Given, start: AtStart) -> OutcomeNodes:
    report, dice = result.report, result.report.measured.dice
    fixed, moving = inputs.fixed, inputs.moving
    to, of = f"{moving.GetName()} to {fixed.GetName()}", f"({moving.GetName()} to {fixed.GetName()})"
    nodes = OutcomeNodes(
        fixed=fixed,
        moving=moving,
        warped=to_volume_node(result.warped, scene, f"{moving.GetName()} registered to {fixed.GetName()}"),
        jacobian=to_volume_node(result.jacobian, scene, f"Jacobian determinant {of}"),
        transform=to_transform_node(result.transform, scene, to),
        inverse=to_transform_node(result.inverse, scene, f"{fixed.GetName()} to {moving.GetName()}, inverse"),
        fixed_segmentation=inputs.fixed_segmentation,
        moving_segmentation=inputs.moving_segmentation,
        propagated_segmentation=_add_propagated(scene, result, inputs, start),
        **_add_affine_only(scene, result, inputs, start),
        folded_voxels=_add_folded_voxels(scene, result, f"Folded voxels {of}"),
        structures=add_structures_table(scene, dice.structures, f"Structures {of}") if dice is not None else None,
        measures=add_measures_table(scene, report.measured, f"Measures {of}", landmarks_used=report.job.uses_landmarks),
        stages=add_stages_table(scene, (*report.alignment.stages, *report.registration), f"Stages {of}"),
        alignment_trace=add_trace(scene, report.alignment.stages, f"Alignment metric {of}"),
        registration_trace=add_trace(scene, report.registration, f"Registration metric {of}"),
        report=add_report_node(scene, report, f"Registration report {of}"),
    )
    link_images(nodes.transform, fixed, moving)
    link_images(nodes.affine_transform, fixed, moving)
    link_images(nodes.inverse, moving, fixed)
    return nodes


def _add_affine_only(scene: Any, result: Result, inputs: Given, start: AtStart) -> dict[str, Any]:
    """Add what the affine step alone gives: its transform, the moving volume on the fixed grid, and what it propagates."""
    fixed, moving = inputs.fixed.GetName(), inputs.moving.GetName()
    volume, segmentation = affine_warped(result), None
    if start.moving_segmentation is not None or result.warped_labels is not None:
        labels = affine_warped_labels(result)
        segmentation = _add_propagated(scene, result, inputs, start, (result.affine, labels), "by affine only")
    if segmentation is not None and segmentation.GetDisplayNode() is not None:
        # Beside the propagated one it would show everything twice.
        segmentation.GetDisplayNode().SetVisibility(False)
    return {
        "affine_transform": to_transform_node(result.affine, scene, f"{moving} to {fixed}, affine only"),
        "affine_warped": None if volume is None else to_volume_node(volume, scene, f"{moving} aligned to {fixed}, affine only"),
        "affine_segmentation": segmentation,
    }


def _add_propagated(
    scene: Any,
    result: Result,
    inputs: Given,
    start: AtStart,
    by: tuple[sitk.Transform, sitk.Image | None] | None = None,
    how: str = "",
) -> Any | None:
    """Add the moving segmentation, as it was at the start, or else the propagated labels on the fixed grid.

    `by` : another transform than that of the result and the labels that it propagates; `how` goes into the node's name.
    """
    transform, labels = (result.transform, result.warped_labels) if by is None else by
    mine, space = start.moving_segmentation, f"in {inputs.fixed.GetName()} space{f' {how}' if how else ''}"
    if mine is not None:
        grid = Geometry.of(result.warped)
        node = propagate(mine, transform, grid, scene, f"{mine.name} {space}")
        node.SetReferenceImageGeometryParameterFromVolumeNode(inputs.fixed)
        return node
    if labels is None:
        return None
    name = f"Segmentation of {inputs.moving.GetName()} {space}"
    return _segmentation_of(inputs.fixed, labels, scene, name, result)


def _segmentation_of(volume: Any, labels: sitk.Image, scene: Any, name: str, result: Result) -> Any:
    node = to_segmentation_node(labels, scene, name, names=result.label_names)
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    return node


def _add_folded_voxels(scene: Any, result: Result, name: str) -> Any | None:
    """Add one red segment where space is folded, in the domain whose share the job limits; None if it is folded nowhere."""
    # Not "<= 0": what is not a number is no proper voxel either.
    folded = ~(sitk.GetArrayViewFromImage(result.jacobian) > 0)
    if result.report.job.criterion.domain == "foreground":
        folded &= sitk.GetArrayViewFromImage(result.foreground) != 0
    if not folded.any():
        return None
    image = Geometry.of(result.jacobian).apply_to(sitk.GetImageFromArray(folded.astype(np.uint8)))
    node = to_segmentation_node(image, scene, name, names={1: "Folded"}, colors={1: _RED})
    show_outlines(node)
    return node


def _describe(nodes: OutcomeNodes, result: Result, start: AtStart, stored: sitk.Transform) -> None:
    """Say on the transforms how exact they are, and where they lead from; on all that was transformed, if much is folded."""
    folded = _folding_note(result)
    sentences = [nodes.transform.GetDescription() or "", folded, reload_note(result, stored)]
    above = start.above_moving
    if above:
        sentences.append(
            f"It starts from where the transform '{above}' shows the moving volume: to move that volume, put '{above}' under "
            "this transform."
        )
    nodes.transform.SetDescription(" ".join(sentence for sentence in sentences if sentence))
    missed = result.report.measured.inverse_consistency_mm
    nodes.inverse.SetAttribute(INVERSE_RESIDUAL, json.dumps(asdict(missed)))
    inverse_note = (
        f"The numerical inverse of '{nodes.transform.GetName()}': going there and back misses the start by {missed.mean:.2g} mm "
        f"on average over the foreground, by {missed.maximum:.2g} mm at most."
    )
    nodes.inverse.SetDescription(
        f"{folded} {inverse_note} It is not saved with the scene, where it would take as much room again: the transform itself "
        "leads both ways.".strip()
    )
    keep_out_of_files(nodes.inverse)
    if folded:
        for node in (nodes.warped, nodes.propagated_segmentation):
            if node is not None:
                node.SetDescription(folded)


def _folding_note(result: Result) -> str:
    """Return a sentence if so much of the foreground is folded that the result should not be used without a look; else ""."""
    share = result.report.measured.folding_percent.foreground
    if not share > MUCH_FOLDED_PERCENT:
        return ""
    return f"{share:.3g} % of the foreground is folded: near folded voxels neither the image nor its segments can be relied on."


def _trace_from(found: Mapping[str, Any], name: str) -> TraceNodes | None:
    parts = {role.removeprefix(f"{name}."): node for role, node in found.items() if role.startswith(f"{name}.")}
    if not {"table", "curves", "chart"} <= set(parts):
        return None
    series = sorted((int(role.partition(".")[2]), node) for role, node in parts.items() if role.startswith("series."))
    return TraceNodes(parts["table"], parts["curves"], tuple(node for _, node in series), parts["chart"])


def check_storage(fixed: Geometry, transform_as: str, field_spacing_mm: float | None) -> None:
    """Check whether a transform over the fixed volume can be stored so; see `add_outcome`.

    Raises
    ------
    InputError : there is no such way, or the spacing is not above 0 or needs too much memory.
    """
    if transform_as not in ("composite", "field"):
        raise InputError(f"A transform cannot be stored as '{transform_as}': choose composite or field.")
    if field_spacing_mm is None:
        return
    if not 0 < field_spacing_mm < float("inf"):
        raise InputError(f"The spacing of the displacement field is {field_spacing_mm:g} mm: give more than 0.")
    points = float(np.prod(np.ceil(np.array(fixed.extent_mm) / field_spacing_mm) + 1))
    if points > _MOST_FIELD_POINTS:
        raise InputError(
            f"A displacement field with {field_spacing_mm:g} mm between its points would have {points / 1e6:.0f} million of "
            "them: choose a larger spacing."
        )


def store_as_field(node: Any, result: Result, spacing_mm: float | None) -> sitk.Transform:
    """Let a transform node hold one displacement field over the fixed volume, not the exact composite, and return it.

    An attribute and the description of the node say how far it is from the exact one.
    """
    fixed = Geometry.of(result.warped)
    if spacing_mm is None:
        # On the points that were registered on, interpolating and mapping by a matrix may change places: nothing is lost.
        grid = Geometry(**asdict(result.report.working_grid)).continued_over(fixed.corners_lps())
    else:
        grid = fixed.covering(fixed.corners_lps(), spacing_mm, 0.0)
    single = field_transform(displacement_field(result.transform, grid))
    update_transform_node(node, single)
    points = _foreground_voxels(result)
    apart = np.linalg.norm(transformed_points(single, points) - transformed_points(result.transform, points), axis=1)
    mean, most = (float(apart.mean()), float(apart.max())) if apart.size else (0.0, 0.0)
    node.SetAttribute(FIELD_DIFFERENCE, json.dumps({"mean": mean, "maximum": most, "voxel": min(grid.spacing)}))
    edges = [f"{edge:.3g}" for edge in grid.spacing]
    where = f"of {edges[0] if len(set(edges)) == 1 else ' x '.join(edges)} mm over the fixed volume, and not valid outside of it"
    exactness = (
        f"it differs from the exact transform by {mean:.2g} mm on average over the foreground, by {most:.2g} mm at most"
        if most > EXACT_VOXELS * min(grid.spacing) else "there it is exact"
    )
    node.SetDescription(f"One displacement field {where}: {exactness}.")
    return single


def _foreground_voxels(result: Result) -> np.ndarray:
    """Return the fixed volume's own voxel centers in its foreground, or a random choice of them: shape (n, 3), LPS mm."""
    fixed = Geometry.of(result.warped)
    inside = fixed.resample(result.foreground, interpolator=sitk.sitkNearestNeighbor)
    chosen = np.flatnonzero(sitk.GetArrayViewFromImage(inside))
    if len(chosen) > _MOST_POINTS:
        # Not every n-th: those may all coincide with points of a grid.
        chosen = np.random.default_rng(result.report.job.seed).choice(chosen, _MOST_POINTS, replace=False)
    return fixed.to_lps(np.stack(np.unravel_index(chosen, fixed.size[::-1])[::-1], axis=1))


def reload_note(result: Result, stored: sitk.Transform) -> str:
    """Say on the transform itself what its grid comes to where Slicer opens the scene without this extension."""
    inside = np.argwhere(sitk.GetArrayViewFromImage(result.foreground) > 0)[:, ::-1]
    # A thousand voxels spread evenly, and a random place in each: on the points of a grid all interpolations agree.
    chosen = inside[:: max(1, len(inside) // 1000)]
    if not len(chosen):
        return ""
    places = chosen + np.random.default_rng(result.report.job.seed).uniform(-0.5, 0.5, chosen.shape)
    apart = cubic_reload_difference_mm(stored, Geometry.of(result.foreground).to_lps(places))
    return (
        "Displacement fields are interpolated linearly. Slicer without HyperPredictReg reads them as cubic, which moves points "
        f"of the foreground by {apart.mean():.2g} mm on average and by {apart.max():.2g} mm at most."
    )
