"""Apply the transform of a registration to other nodes, forward or backward: volumes, models, markups; propagate segmentations.

What folding would tear or turn inside out is refused with a reason; nothing is transformed in part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from vtk.util import numpy_support

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.formatting import distance
from HyperPredictRegLib.preprocessing.resampling import content_places, label_places, reached_by, resampled_image
from HyperPredictRegLib.quality.metrics import jacobian_determinant
from HyperPredictRegLib.slicerbridge.outcome_nodes import FIELD_DIFFERENCE, OutcomeNodes
from HyperPredictRegLib.slicerbridge.provenance import moved_since, read_report_node
from HyperPredictRegLib.slicerbridge.segmentations import propagate, segmentation_geometry, segments_mask, shares_inside
from HyperPredictRegLib.slicerbridge.together import all_or_none, item_above, put_under
from HyperPredictRegLib.slicerbridge.transforms import determinants, from_transform_node, points_back_through, points_through
from HyperPredictRegLib.slicerbridge.volumes import (
    LPS_RAS,
    from_volume_node,
    lies_under,
    look_alike,
    parent_to_world,
    to_volume_node,
    volume_geometry,
)
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import MISSED_VOXELS, displacement_field, field_of, inverted, voxel_size

MOST_FOLDED_SHARE = 0.005
"""A segment with a larger share of folded voxels is refused."""

APPLIED_FROM = "HyperPredictReg.appliedFrom"
"""Attribute of a transformed node: the name of the node that it was made from."""

Move = Callable[[np.ndarray], np.ndarray]
"""Moves points, shape (n, 3), LPS mm, or raises `InputError`."""

_LOST_VOXELS = 1.0
"""Points that lead back to farther from their place than this are refused."""

_MOST_PLACES = 1000
_PART_TO_TELL = 0.99
_FLIP = np.diag(LPS_RAS)[:3]
KINDS = ("vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode", "vtkMRMLModelNode", "vtkMRMLMarkupsNode")
_USED = ("fixed", "moving", "transform", "inverse", "jacobian", "report")


@dataclass(frozen=True)
class Applied:
    """What became of each node.

    Attributes
    ----------
    nodes : the new nodes, in the order of those that they were made from.
    refused : nodes that were left out, each with the reason in a sentence.
    warnings : sentences on what was transformed.
    """

    nodes: tuple[Any, ...]
    refused: tuple[tuple[Any, str], ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Way:
    """The direction in which the transform is applied, and what that takes.

    Attributes
    ----------
    lookup : maps points of the target to points of the source, LPS mm: what images need.
    target : the grid that images come to.
    place : the name of the space that things come to.
    folded : uint8 on the target, 1 where the transform folds.
    move : brings points, shape (n, 3), LPS mm, to the target; also returns which of them cannot be relied on, shape (n,), and how
        far from where they were all of them lead back to, in mm, shape (n,).
    voxel_mm : the finest scale that is known here, for what counts as near.
    left_out : the result's own transform node in this direction, which counts for nothing above a node.
    """

    lookup: sitk.Transform
    target: Geometry
    place: str
    folded: sitk.Image
    move: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
    voxel_mm: float
    left_out: Any


def apply_to_nodes(scene: Any, nodes: Iterable[Any] | Any, result: OutcomeNodes, *, backward: bool = False) -> Applied:
    """Add a copy of each node, transformed by a registration, to the folder of its result; the nodes are left as they are.

    Scalar volumes are interpolated linearly, label maps by nearest neighbor, segmentations keep segments, names and colors.
    Voxels that are NaN or infinite stay so, and do not spread. Of models all points are moved and normals computed anew; of
    markups the control points, of planes also their axes. What cannot be transformed is refused and the rest is done; if
    anything fails, the scene is as it was.

    All is done in world space. What lies under the result's own transform is taken from where it lies without it, and so comes to
    where Slicer shows it; backward, that goes for the inverse.

    Parameters
    ----------
    scene : vtkMRMLScene of all nodes.
    nodes : volumes, segmentations, models and markups of the scene, or one of them.
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
    warnings = _moved(result)
    # Whatever fails without a sentence must not leave a part behind of which nobody knows.
    with all_or_none(scene):
        for node in given:
            try:
                with all_or_none(scene):
                    new, found = _applied(scene, node, way)
                    new.SetAttribute(APPLIED_FROM, node.GetName())
                    applied = f"'{result.transform.GetName()}'{', backward,' if backward else ''} applied to '{node.GetName()}'"
                    new.SetDescription(f"The transform {applied}.")
                    put_under(scene, [new], folder)
            except InputError as error:
                refused.append((node, str(error)))
            else:
                made.append(new)
                warnings += found
    return Applied(tuple(made), tuple(refused), tuple(warnings))


def _still_there(scene: Any, result: OutcomeNodes, backward: bool) -> OutcomeNodes:
    """Return a result without the nodes that have been removed since; raise `InputError` if one of them is needed."""
    if not isinstance(result, OutcomeNodes):
        raise InputError(f"To apply a transform, the nodes of its registration are needed, but this was given: {result!r}.")
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
    """Return nodes, or a single one, as a list; raise `InputError` if any of them can have no transform applied."""
    choose = "choose volumes, segmentations, models or markups."
    given: list[Any] = list(nodes) if isinstance(nodes, Iterable) else [nodes]
    for node in given:
        if not (hasattr(node, "IsA") and node.IsA("vtkMRMLNode")):
            raise InputError(f"{node!r} is no node that a transform could be applied to: {choose}")
        if not any(node.IsA(kind) for kind in KINDS):
            kind = node.GetNodeTagName()
            raise InputError(f"'{node.GetName()}' is of a kind ({kind}) that no transform can be applied to: {choose}")
        if node.GetScene() is not scene:
            raise InputError(f"'{node.GetName()}' is not in the scene of the registration: {choose}")
    return given


def _moved(result: OutcomeNodes) -> list[str]:
    found = (
        moved_since(result.report, "fixed", result.fixed, result.inverse),
        moved_since(result.report, "moving", result.moving, result.transform),
    )
    return [sentence for sentence in found if sentence is not None]


def _applied(scene: Any, node: Any, way: _Way) -> tuple[Any, list[str]]:
    name = f"{node.GetName()} in {way.place} space"
    if node.IsA("vtkMRMLSegmentationNode"):
        return _applied_segmentation(scene, node, way, name)
    warnings: list[str] = []
    if node.IsA("vtkMRMLModelNode"):
        return applied_model(scene, node, _safely(way, node, "vertices", warnings), name, way.left_out), warnings
    if node.IsA("vtkMRMLMarkupsNode"):
        move = _safely(way, node, "points", warnings)
        return applied_markups(scene, node, move, name, way.voxel_mm, way.left_out), warnings
    if node.IsA("vtkMRMLTensorVolumeNode"):
        raise InputError(f"'{node.GetName()}' was left out: its voxels are vectors or tensors, but one number each is needed.")
    return _applied_volume(scene, node, way, name)


def _applied_volume(scene: Any, node: Any, way: _Way, name: str) -> tuple[Any, list[str]]:
    image = from_volume_node(node, way.left_out)
    label_map = node.IsA("vtkMRMLLabelMapVolumeNode")
    if label_map:
        applied = way.target.resample(image, way.lookup, interpolator=sitk.sitkNearestNeighbor)
    else:
        applied = resampled_image(image, way.lookup, way.target)
    if not _reached(image, applied, way):
        raise InputError(
            f"The volume '{node.GetName()}' was left out: no part of it comes to lie in the space of '{way.place}'. Put it to "
            "where the registered volume lies, or choose another one."
        )
    new = to_volume_node(applied, scene, name, label_map=label_map)
    look_alike(new, node)
    places = (label_places if label_map else content_places)(image, _MOST_PLACES)
    warnings = _cut_off(node, places, way, 1.0 if label_map else _PART_TO_TELL)
    share = 100 * float(sitk.GetArrayViewFromImage(way.folded).mean())
    if share > 0:
        where = f"{share:.2g} % of the voxels of '{new.GetName()}'"
        warnings.insert(0, f"{where} are folded: do not rely on what it shows there.")
    return new, warnings


def _cut_off(node: Any, places: np.ndarray, way: _Way, enough: float) -> list[str]:
    """Say how much of a node, which is at `places`, shape (n, 3), LPS mm, comes to lie on the target, if less than enough."""
    share = float(reached_by(places, way.lookup, way.target).mean()) if len(places) else 1.0
    if share >= enough:
        return []
    percent = min(max(round(100 * share), 1), 99)
    return [f"Only about {percent} % of '{node.GetName()}' comes to lie in the space of '{way.place}': the rest is cut off."]


def _reached(image: sitk.Image, applied: sitk.Image, way: _Way) -> bool:
    """Tell whether any voxel of the target looks up its value inside of an image."""
    voxels = sitk.GetArrayViewFromImage(applied)
    first = voxels.flat[0]
    # What is beyond all images is of one value, so that others need no second look.
    if not (np.isnan(voxels) if np.isnan(first) else voxels == first).all():
        return True
    everywhere = Geometry.of(image).apply_to(sitk.GetImageFromArray(np.ones(image.GetSize()[::-1], dtype=np.uint8)))
    found = way.target.resample(everywhere, way.lookup, interpolator=sitk.sitkNearestNeighbor)
    return bool(sitk.GetArrayViewFromImage(found).any())


def _applied_segmentation(scene: Any, node: Any, way: _Way, name: str) -> tuple[Any, list[str]]:
    new = propagate(node, way.lookup, way.target, scene, name, way.left_out)
    places = _segment_places(node, way.left_out)
    if len(places) and not sitk.GetArrayFromImage(segments_mask(new, way.target)).any():
        raise InputError(
            f"The segmentation '{node.GetName()}' was not propagated: no voxel of its segments comes to lie in the space of "
            f"'{way.place}'. Put it to where the registered volume lies, or choose another one."
        )
    shares = shares_inside(new, way.folded)
    torn = [segment_id for segment_id, share in shares.items() if share > MOST_FOLDED_SHARE]
    if torn:
        worst = max(torn, key=lambda segment_id: shares[segment_id])
        others = f" and {len(torn) - 1} more" if len(torn) > 1 else ""
        raise InputError(
            f"The segmentation '{node.GetName()}' was not propagated: {100 * shares[worst]:.2g} % of its segment "
            f"'{node.GetSegmentation().GetSegment(worst).GetName()}'{others} would be folded voxels (more than "
            f"{100 * MOST_FOLDED_SHARE:g} %). Register again with a larger λ."
        )
    return new, _cut_off(node, places, way, 1.0)


def _segment_places(node: Any, left_out: Any) -> np.ndarray:
    """Return places of voxels of segments, shape (n, 3), LPS mm; none if all of them are empty."""
    try:
        grid = segmentation_geometry(node, left_out)
    except InputError:
        # Neither a geometry nor voxels.
        return np.zeros((0, 3))
    return label_places(segments_mask(node, grid, left_out=left_out), _MOST_PLACES)


def _safely(way: _Way, node: Any, what: str, warnings: list[str]) -> Move:
    """Return a mover of points, shape (n, 3), LPS mm, that refuses all of them if any cannot be relied on.

    Those that can, but lead back to a little beside their place, it adds to the warnings.
    """

    def move(points: np.ndarray) -> np.ndarray:
        lost = int((~np.isfinite(points)).any(axis=1).sum())
        if lost:
            raise InputError(
                f"'{node.GetName()}' was left out: {lost} of its {len(points)} {what} have coordinates that are NaN or "
                "infinite. Remove those."
            )
        moved, unsafe, residual = way.move(points)
        count = int(unsafe.sum())
        if count:
            raise InputError(
                f"'{node.GetName()}' was left out: {count} of its {len(points)} {what} lie where the transform folds, has no "
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
    fixed = volume_geometry(result.fixed, result.inverse)
    back = from_transform_node(result.inverse) if result.inverse is not None else inverted(forward, fixed)
    folded_voxels = _folded_voxels(result, forward, fixed)
    # A single field says nothing beyond its grid.
    known = fixed if result.transform.GetAttribute(FIELD_DIFFERENCE) else None

    def in_doubt(fixed_points: np.ndarray, determinant: np.ndarray) -> np.ndarray:
        doubt = ~(determinant > 0) | _inside(folded_voxels, fixed_points)
        return doubt if known is None else doubt | ~_within(known, fixed_points)

    voxel_mm = min(voxel_size(forward) or min(fixed.spacing), *fixed.spacing)

    def to_fixed(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found = points_back_through(forward, points, back)
        lost = ~(found.residual_mm <= _LOST_VOXELS * voxel_mm)
        return found.points, in_doubt(found.points, found.determinant) | lost, found.residual_mm

    def to_moving(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return points_through(forward, points), in_doubt(points, determinants(forward, points)), np.zeros(len(points))

    if backward:
        moving = volume_geometry(result.moving, result.transform)
        folded = moving.resample(folded_voxels, back, interpolator=sitk.sitkNearestNeighbor)
        return _Way(back, moving, result.moving.GetName(), folded, to_moving, voxel_mm, result.inverse)
    folded = fixed.resample(folded_voxels, interpolator=sitk.sitkNearestNeighbor)
    return _Way(forward, fixed, result.fixed.GetName(), folded, to_fixed, voxel_mm, result.transform)


def _folded_voxels(result: OutcomeNodes, forward: sitk.Transform, fixed: Geometry) -> sitk.Image:
    """Return where the transform folds, uint8, in fixed space."""
    if result.jacobian is not None:
        jacobian = from_volume_node(result.jacobian)
    else:
        jacobian = jacobian_determinant(displacement_field(forward, _measured_on(result, forward) or fixed))
    folded = ~(sitk.GetArrayViewFromImage(jacobian) > 0)
    return Geometry.of(jacobian).apply_to(sitk.GetImageFromArray(folded.astype(np.uint8)))


def _measured_on(result: OutcomeNodes, forward: sitk.Transform) -> Geometry | None:
    """Return the grid on which the registration counted folded voxels, because on others fewer show; None if unknown."""
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
    """Tell which points, shape (n, 3), LPS mm, lie in the grid that the voxels of a grid fill."""
    places = grid.to_index(points)
    return np.asarray(((places >= -0.5) & (places <= np.array(grid.size) - 0.5)).all(axis=1))


def applied_model(scene: Any, node: Any, move: Move, name: str, left_out: Any = None) -> Any:
    """Add a copy of a model to `scene`, all its points moved in world space, normals computed anew; return the node.

    Raises
    ------
    InputError : it is no surface, has no points, is under a non-linear transform, or `move` refuses.
    """
    surface = node.GetPolyData()
    if surface is None or surface.GetNumberOfPoints() == 0:
        raise InputError(f"The model '{node.GetName()}' was left out: it has no surface with points.")
    to_world = parent_to_world(node, left_out)
    own = numpy_support.vtk_to_numpy(surface.GetPoints().GetData()).astype(float)
    moved = move(_in_world(to_world, own) * _FLIP) * _FLIP
    copy = vtk.vtkPolyData()
    copy.DeepCopy(surface)
    points = vtk.vtkPoints()
    points.SetDataTypeToDouble()
    points.SetData(numpy_support.numpy_to_vtk(np.ascontiguousarray(moved), deep=True))
    copy.SetPoints(points)
    new = scene.AddNewNodeByClass("vtkMRMLModelNode", scene.GetUniqueNameByString(name))
    new.SetAndObservePolyData(_with_new_normals(copy, mirrored=np.linalg.det(to_world[:3, :3]) < 0))
    new.CreateDefaultDisplayNodes()
    _copy_display(node, new)
    return new


def applied_markups(scene: Any, node: Any, move: Move, name: str, voxel_mm: float, left_out: Any = None) -> Any:
    """Add a copy of points, a line, curve, angle or plane to `scene`, its points moved in world space; return the node.

    A plane keeps touching the space around it, of which a voxel is `voxel_mm` wide.

    Raises
    ------
    InputError : it is of another kind, has no placed points, or `move` refuses.
    """
    if node.IsA("vtkMRMLMarkupsROINode"):
        raise InputError(f"The region '{node.GetName()}' was left out: deformed, it would no longer be a box.")
    count = node.GetNumberOfControlPoints()
    placed = [n for n in range(count) if node.GetNthControlPointPositionStatus(n) == node.PositionDefined]
    if not placed:
        raise InputError(f"'{node.GetName()}' was left out: it holds no points.")
    places = _places(node, placed, left_out)
    is_plane = node.IsA("vtkMRMLMarkupsPlaneNode")
    frame = _plane_frame(node, voxel_mm, left_out) if is_plane else np.zeros((0, 3))
    # In one go, so that the frame is refused or moved with the points.
    moved = move(np.concatenate([places, frame]) * _FLIP) * _FLIP
    new = scene.AddNewNodeByClass(node.GetClassName(), scene.GetUniqueNameByString(name))
    new.CopyContent(node)
    new.CreateDefaultDisplayNodes()
    _copy_display(node, new)
    for n, place in zip(placed, moved[: len(placed)], strict=True):
        new.SetNthControlPointPositionWorld(n, place.tolist())
    if is_plane:
        _set_plane_frame(new, moved[len(placed) :])
    return new


def _with_new_normals(surface: Any, mirrored: bool) -> Any:
    """Return a surface with normals that fit its points, if it had any, its faces turned over if it has been mirrored."""
    data, cells = surface.GetPointData(), surface.GetCellData()
    had_point_normals, had_cell_normals = data.GetNormals() is not None, cells.GetNormals() is not None
    data.SetNormals(None)
    cells.SetNormals(None)
    if mirrored:
        turned = vtk.vtkReverseSense()
        turned.SetInputData(surface)
        turned.ReverseCellsOn()
        turned.ReverseNormalsOff()
        turned.Update()
        surface = turned.GetOutput()
    if not (had_point_normals or had_cell_normals):
        return surface
    normals = vtk.vtkPolyDataNormals()
    normals.SetInputData(surface)
    # Points keep their number and order, and faces their sense.
    normals.SplittingOff()
    normals.ConsistencyOff()
    normals.SetComputePointNormals(had_point_normals)
    normals.SetComputeCellNormals(had_cell_normals)
    normals.Update()
    return normals.GetOutput()


def _places(node: Any, placed: list[int], left_out: Any) -> np.ndarray:
    """Return control points, RAS mm in world space, shape (n, 3)."""
    if not lies_under(node, left_out):
        # Also right under transforms that are not linear.
        return np.array([node.GetNthControlPointPositionWorld(n) for n in placed])
    return _in_world(parent_to_world(node, left_out), np.array([node.GetNthControlPointPosition(n) for n in placed]))


def _plane_frame(node: Any, length_mm: float, left_out: Any) -> np.ndarray:
    """Return a plane's origin and the ends of its three axes, of one length, RAS mm in world space, shape (4, 3)."""
    axes: list[list[float]] = [[0.0, 0.0, 0.0] for _ in range(3)]
    if not lies_under(node, left_out):
        origin = np.array(node.GetOriginWorld())
        node.GetAxesWorld(*axes)
        return np.concatenate([origin[None], origin + length_mm * np.array(axes)])
    origin = np.array(node.GetOrigin())
    node.GetAxes(*axes)
    return _in_world(parent_to_world(node, left_out), np.concatenate([origin[None], origin + length_mm * np.array(axes)]))


def _in_world(to_world: np.ndarray, points: np.ndarray) -> np.ndarray:
    # What is infinite becomes NaN, which whoever moves the points refuses.
    with np.errstate(invalid="ignore"):
        return np.asarray(points @ to_world[:3, :3].T + to_world[:3, 3])


def _set_plane_frame(node: Any, frame: np.ndarray) -> None:
    """Turn a plane so that it touches the moved frame."""
    x, y = frame[1] - frame[0], frame[2] - frame[0]
    x = x / np.linalg.norm(x)
    y = y - (y @ x) * x
    y = y / np.linalg.norm(y)
    if node.GetPlaneType() != slicer.vtkMRMLMarkupsPlaneNode.PlaneType3Points:
        node.SetAxesWorld(x.tolist(), y.tolist(), np.cross(x, y).tolist())
        node.SetOriginWorld(frame[0].tolist())


def _copy_display(node: Any, new: Any) -> None:
    if node.GetDisplayNode() is not None and new.GetDisplayNode() is not None:
        new.GetDisplayNode().CopyContent(node.GetDisplayNode())
