"""Carry other nodes through a finished registration, forward or backward: images, label maps, segmentations, models, markups.

What a fold would tear or turn inside out is refused with a reason, as is what cannot be carried at all; nothing is carried in
part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.geometry import Geometry
from HyperPredictRegLib.lengths import distance
from HyperPredictRegLib.quality import jacobian_determinant
from HyperPredictRegLib.resampling import content_places, label_places, reached_by, resampled_image
from HyperPredictRegLib.slicerbridge.carried_points import carried_markups, carried_model
from HyperPredictRegLib.slicerbridge.outcome_nodes import OutcomeNodes
from HyperPredictRegLib.slicerbridge.placement import moved_since
from HyperPredictRegLib.slicerbridge.pointwise import determinants, points_back_through, points_through
from HyperPredictRegLib.slicerbridge.provenance import read_report_node
from HyperPredictRegLib.slicerbridge.segmentations import (
    propagate,
    segmentation_geometry,
    segments_mask,
    shares_inside,
)
from HyperPredictRegLib.slicerbridge.storing import FIELD_DIFFERENCE
from HyperPredictRegLib.slicerbridge.together import all_or_none, item_above, put_under
from HyperPredictRegLib.slicerbridge.transforms import from_transform_node
from HyperPredictRegLib.slicerbridge.volumes import (
    from_volume_node,
    look_alike,
    reading_for,
    to_volume_node,
    volume_geometry,
)
from HyperPredictRegLib.transforms import MISSED_VOXELS, displacement_field, field_of, inverted, voxel_size

MOST_FOLDED_SHARE = 0.005
"""A segment with a larger share of its voxels in folds is refused."""

CARRIED_FROM = "HyperPredictReg.carriedFrom"

_LOST_VOXELS = 1.0
"""Points that lead back to farther from their place than this are refused."""

_MOST_PLACES = 1000
_PART_TO_TELL = 0.99
KINDS = ("vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode", "vtkMRMLModelNode", "vtkMRMLMarkupsNode")
_USED = ("fixed", "moving", "transform", "inverse", "jacobian", "report")


@dataclass(frozen=True)
class Carried:
    """What became of each node.

    Attributes
    ----------
    nodes : the new nodes, in the order of those that they were made from.
    refused : nodes that were not carried, each with the reason in a sentence.
    warnings : sentences on what was carried.
    """

    nodes: tuple[Any, ...]
    refused: tuple[tuple[Any, str], ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Way:
    """The way that things are carried.

    Attributes
    ----------
    lookup : maps points of the target to points of the source, LPS mm: what images need.
    target : the grid that images come to.
    place : the name of the space that things come to.
    folded : uint8 on the target, 1 where the transform folds.
    move : brings points, shape (n, 3), LPS mm, to the target; also returns which of them cannot be trusted, shape (n,), and how
        far from where they were all of them lead back to, in mm, shape (n,).
    voxel_mm : the finest scale that is known here, for what counts as near.
    """

    lookup: sitk.Transform
    target: Geometry
    place: str
    folded: sitk.Image
    move: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
    voxel_mm: float


def carry(scene: Any, nodes: Iterable[Any] | Any, result: OutcomeNodes, *, backward: bool = False) -> Carried:
    """Add a copy of each node, carried through a registration, to the folder of its result; the nodes are left as they are.

    Scalar volumes are interpolated linearly, label maps by nearest neighbour, segmentations keep segments, names and colours.
    Voxels that are NaN or infinite stay so, and do not spread. Of models all points are carried and normals computed anew; of
    markups the control points, of planes also their axes. What cannot be carried is refused and the others are; if anything
    fails, the scene is as it was.

    All is done in world space. What lies under the result's own transform is carried from where it lies without it, and so
    comes to where Slicer shows it; backward, that goes for the inverse.

    Parameters
    ----------
    scene : vtkMRMLScene of all nodes.
    nodes : what to carry: volumes, segmentations, models and markups of the scene, or one of them.
    result : the registration; its transform node is used as it is now.
    backward : from fixed to moving space, instead of from moving to fixed.

    Raises
    ------
    InputError : the registration's transform or volumes are gone, or cannot be used; or something that was given is no node
        of the scene, or of another kind.
    """
    result = _still_there(scene, result, backward)
    given = _checked(scene, nodes)
    way = _way(result, backward)
    folder = item_above(scene, result.report if result.report is not None else result.transform)
    made: list[Any] = []
    refused: list[tuple[Any, str]] = []
    own = result.inverse if backward else result.transform
    warnings = _moved(result)
    # Whatever fails without a sentence must not leave a part behind of which nobody knows.
    with all_or_none(scene):
        for node in given:
            try:
                with all_or_none(scene), reading_for("carrying", left_out=own):
                    new, found = _carried(scene, node, way)
                    new.SetAttribute(CARRIED_FROM, node.GetName())
                    new.SetDescription(f"'{node.GetName()}' carried through the transform '{result.transform.GetName()}'"
                                       f"{', backward' if backward else ''}.")
                    put_under(scene, [new], folder)
            except InputError as error:
                refused.append((node, str(error)))
            else:
                made.append(new)
                warnings += found
    return Carried(tuple(made), tuple(refused), tuple(warnings))


def _still_there(scene: Any, result: OutcomeNodes, backward: bool) -> OutcomeNodes:
    """Return a result without the nodes that have been removed since; raise `InputError` if one of them is needed."""
    if not isinstance(result, OutcomeNodes):
        raise InputError(f"Carrying needs the nodes of a registration, but was given this: {result!r}.")
    found = {name: getattr(result, name) for name in _USED}
    gone = [name for name, node in found.items() if node is not None and (scene is None or node.GetScene() is not scene)]
    left = replace(result, **dict.fromkeys(gone))
    needed = {"transform": left.transform, "fixed volume": left.fixed}
    if backward:
        needed["moving volume"] = left.moving
    for part, node in needed.items():
        if node is None:
            raise InputError(f"The {part} of this registration is no longer in the scene: register again.")
    return left


def _checked(scene: Any, nodes: Iterable[Any] | Any) -> list[Any]:
    """Return nodes, or a single one, as a list; raise `InputError` if any of them is none that could be carried."""
    choose = "choose volumes, segmentations, models or markups."
    given: list[Any] = list(nodes) if isinstance(nodes, Iterable) else [nodes]
    for node in given:
        if not (hasattr(node, "IsA") and node.IsA("vtkMRMLNode")):
            raise InputError(f"{node!r} is no node, so it cannot be carried: {choose}")
        if not any(node.IsA(kind) for kind in KINDS):
            raise InputError(f"'{node.GetName()}' is of a kind ({node.GetNodeTagName()}) that cannot be carried: {choose}")
        if node.GetScene() is not scene:
            raise InputError(f"'{node.GetName()}' is not in the scene, so it cannot be carried: {choose}")
    return given


def _moved(result: OutcomeNodes) -> list[str]:
    found = (
        moved_since(result.report, "fixed", result.fixed, result.inverse),
        moved_since(result.report, "moving", result.moving, result.transform),
    )
    return [sentence for sentence in found if sentence is not None]


def _carried(scene: Any, node: Any, way: _Way) -> tuple[Any, list[str]]:
    name = f"{node.GetName()} in {way.place} space"
    if node.IsA("vtkMRMLSegmentationNode"):
        return _carried_segmentation(scene, node, way, name)
    warnings: list[str] = []
    if node.IsA("vtkMRMLModelNode"):
        return carried_model(scene, node, _safely(way, node, "vertices", warnings), name), warnings
    if node.IsA("vtkMRMLMarkupsNode"):
        return carried_markups(scene, node, _safely(way, node, "points", warnings), name, way.voxel_mm), warnings
    if node.IsA("vtkMRMLTensorVolumeNode"):
        raise InputError(f"'{node.GetName()}' was not carried: its voxels are vectors or tensors, but one number each is needed.")
    return _carried_volume(scene, node, way, name)


def _carried_volume(scene: Any, node: Any, way: _Way, name: str) -> tuple[Any, list[str]]:
    image = from_volume_node(node)
    label_map = node.IsA("vtkMRMLLabelMapVolumeNode")
    if label_map:
        carried = way.target.resample(image, way.lookup, interpolator=sitk.sitkNearestNeighbor)
    else:
        carried = resampled_image(image, way.lookup, way.target)
    if not _reached(image, carried, way):
        raise InputError(
            f"The volume '{node.GetName()}' was not carried: no part of it comes to lie in the space of '{way.place}'. Put it to "
            "where the registered volume lies, or choose another one."
        )
    new = to_volume_node(carried, scene, name, label_map=label_map)
    look_alike(new, node)
    places = (label_places if label_map else content_places)(image, _MOST_PLACES)
    warnings = _cut_off(node, places, way, 1.0 if label_map else _PART_TO_TELL)
    share = 100 * float(sitk.GetArrayViewFromImage(way.folded).mean())
    if share > 0:
        where = f"{share:.2g} % of the space of '{new.GetName()}'"
        warnings.insert(0, f"The transform folds in {where}: do not trust what it shows there.")
    return new, warnings


def _cut_off(node: Any, places: np.ndarray, way: _Way, enough: float) -> list[str]:
    """Say how much of a node, which is at `places`, shape (n, 3), LPS mm, comes to lie on the target, if less than enough."""
    share = float(reached_by(places, way.lookup, way.target).mean()) if len(places) else 1.0
    if share >= enough:
        return []
    percent = min(max(round(100 * share), 1), 99)
    return [f"Only about {percent} % of '{node.GetName()}' comes to lie in the space of '{way.place}': the rest is cut off."]


def _reached(image: sitk.Image, carried: sitk.Image, way: _Way) -> bool:
    """Tell whether any voxel of the target looks up its value inside of an image."""
    voxels = sitk.GetArrayViewFromImage(carried)
    first = voxels.flat[0]
    # What is beyond all images is of one value, so that others need no second look.
    if not (np.isnan(voxels) if np.isnan(first) else voxels == first).all():
        return True
    everywhere = Geometry.of(image).apply_to(sitk.GetImageFromArray(np.ones(image.GetSize()[::-1], dtype=np.uint8)))
    found = way.target.resample(everywhere, way.lookup, interpolator=sitk.sitkNearestNeighbor)
    return bool(sitk.GetArrayViewFromImage(found).any())


def _carried_segmentation(scene: Any, node: Any, way: _Way, name: str) -> tuple[Any, list[str]]:
    new = propagate(node, way.lookup, way.target, scene, name)
    places = _segment_places(node)
    if len(places) and not sitk.GetArrayFromImage(segments_mask(new, way.target)).any():
        raise InputError(
            f"The segmentation '{node.GetName()}' was not carried: no voxel of its segments comes to lie in the space of "
            f"'{way.place}'. Put it to where the registered volume lies, or choose another one."
        )
    shares = shares_inside(new, way.folded)
    torn = [segment_id for segment_id, share in shares.items() if share > MOST_FOLDED_SHARE]
    if torn:
        worst = max(torn, key=lambda segment_id: shares[segment_id])
        others = f" and {len(torn) - 1} more" if len(torn) > 1 else ""
        raise InputError(
            f"The segmentation '{node.GetName()}' was not carried: {100 * shares[worst]:.2g} % of its segment "
            f"'{node.GetSegmentation().GetSegment(worst).GetName()}'{others} would come to lie in folds (more than "
            f"{100 * MOST_FOLDED_SHARE:g} %). Register again with a larger λ."
        )
    return new, _cut_off(node, places, way, 1.0)


def _segment_places(node: Any) -> np.ndarray:
    """Return places of voxels of segments, shape (n, 3), LPS mm; none if all of them are empty."""
    try:
        grid = segmentation_geometry(node)
    except InputError:
        # Neither a geometry nor voxels.
        return np.zeros((0, 3))
    return label_places(segments_mask(node, grid), _MOST_PLACES)


def _safely(way: _Way, node: Any, what: str, warnings: list[str]) -> Callable[[np.ndarray], np.ndarray]:
    """Return a mover of points, shape (n, 3), LPS mm, that refuses all of them if any of them cannot be trusted.

    Those that can, but lead back to a little beside their place, it adds to the warnings.
    """

    def move(points: np.ndarray) -> np.ndarray:
        lost = int((~np.isfinite(points)).any(axis=1).sum())
        if lost:
            raise InputError(
                f"'{node.GetName()}' was not carried: {lost} of its {len(points)} {what} have coordinates that are NaN or "
                "infinite. Remove those."
            )
        moved, unsafe, residual = way.move(points)
        count = int(unsafe.sum())
        if count:
            raise InputError(
                f"'{node.GetName()}' was not carried: {count} of its {len(points)} {what} lie where the transform folds, has no "
                "inverse, or is not known. Register again with a larger λ, or leave those out."
            )
        beside = residual > MISSED_VOXELS * way.voxel_mm
        if beside.any():
            warnings.append(
                f"{int(beside.sum())} of the {len(points)} {what} of '{node.GetName()}' come to lie beside their place, by "
                f"{distance(float(residual.max()), voxel_mm=way.voxel_mm)} at most: the inverse is no better known there."
            )
        return moved

    return move


def _way(result: OutcomeNodes, backward: bool) -> _Way:
    forward = from_transform_node(result.transform)
    with reading_for("carrying", left_out=result.inverse):
        fixed = volume_geometry(result.fixed)
    back = from_transform_node(result.inverse) if result.inverse is not None else inverted(forward, fixed)
    folds = _folds(result, forward, fixed)
    # A single field says nothing beyond its grid.
    known = fixed if result.transform.GetAttribute(FIELD_DIFFERENCE) else None

    def in_doubt(fixed_points: np.ndarray, determinant: np.ndarray) -> np.ndarray:
        doubt = ~(determinant > 0) | _inside(folds, fixed_points)
        return doubt if known is None else doubt | ~_within(known, fixed_points)

    voxel_mm = min(voxel_size(forward) or min(fixed.spacing), *fixed.spacing)

    def to_fixed(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found = points_back_through(forward, points, back)
        lost = ~(found.residual_mm <= _LOST_VOXELS * voxel_mm)
        return found.points, in_doubt(found.points, found.determinant) | lost, found.residual_mm

    def to_moving(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return points_through(forward, points), in_doubt(points, determinants(forward, points)), np.zeros(len(points))

    if backward:
        with reading_for("carrying", left_out=result.transform):
            moving = volume_geometry(result.moving)
        folded = moving.resample(folds, back, interpolator=sitk.sitkNearestNeighbor)
        return _Way(back, moving, result.moving.GetName(), folded, to_moving, voxel_mm)
    folded = fixed.resample(folds, interpolator=sitk.sitkNearestNeighbor)
    return _Way(forward, fixed, result.fixed.GetName(), folded, to_fixed, voxel_mm)


def _folds(result: OutcomeNodes, forward: sitk.Transform, fixed: Geometry) -> sitk.Image:
    """Return where the transform folds, uint8, in fixed space."""
    if result.jacobian is not None:
        jacobian = from_volume_node(result.jacobian)
    else:
        jacobian = jacobian_determinant(displacement_field(forward, _measured_on(result, forward) or fixed))
    folded = ~(sitk.GetArrayViewFromImage(jacobian) > 0)
    return Geometry.of(jacobian).apply_to(sitk.GetImageFromArray(folded.astype(np.uint8)))


def _measured_on(result: OutcomeNodes, forward: sitk.Transform) -> Geometry | None:
    """Return the grid on which the registration counted its folds, because on others fewer show; None if that is not known."""
    # A single field ends with the fixed volume: on the working grid, which is wider, it would seem to tear there.
    if result.report is not None and not result.transform.GetAttribute(FIELD_DIFFERENCE):
        try:
            used = read_report_node(result.report).working_grid
        except InputError:
            # The text has been changed: the transform's own grid is the same, only wider.
            pass
        else:
            return Geometry(used.size, used.spacing, used.origin, used.direction)
    field = field_of(forward)
    return None if field is None else Geometry.of(field)


def _inside(mask: sitk.Image, points: np.ndarray) -> np.ndarray:
    """Tell which points, shape (n, 3), LPS mm, lie in a voxel that is set."""
    grid = Geometry.of(mask)
    places = np.rint(grid.to_index(points)).astype(int)
    there = _within(grid, points)
    i, j, k = np.clip(places, 0, np.array(grid.size) - 1).T
    return there & (sitk.GetArrayViewFromImage(mask)[k, j, i] != 0)


def _within(grid: Geometry, points: np.ndarray) -> np.ndarray:
    """Tell which points, shape (n, 3), LPS mm, lie in the box that the voxels of a grid fill."""
    places = grid.to_index(points)
    return np.asarray(((places >= -0.5) & (places <= np.array(grid.size) - 0.5)).all(axis=1))
