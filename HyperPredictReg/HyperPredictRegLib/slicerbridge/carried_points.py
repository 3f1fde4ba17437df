"""Copies of models and markups whose points have been moved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.slicerbridge.volumes import LPS_RAS, is_left_out, parent_to_world

_FLIP = np.diag(LPS_RAS)[:3]

Move = Callable[[np.ndarray], np.ndarray]
"""Moves points, shape (n, 3), LPS mm, or raises `InputError`."""


def carried_model(scene: Any, node: Any, move: Move, name: str) -> Any:
    """Add a copy of a model to `scene`, all its points moved in world space, normals computed anew; return the node.

    Raises
    ------
    InputError : it is no surface, has no points, is under a non-linear transform, or `move` refuses.
    """
    surface = node.GetPolyData()
    if surface is None or surface.GetNumberOfPoints() == 0:
        raise InputError(f"The model '{node.GetName()}' was not carried: it has no surface with points.")
    to_world = parent_to_world(node)
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


def carried_markups(scene: Any, node: Any, move: Move, name: str, voxel_mm: float) -> Any:
    """Add a copy of points, a line, curve, angle or plane to `scene`, its points moved in world space; return the node.

    A plane keeps touching the space around it, of which a voxel is `voxel_mm` wide.

    Raises
    ------
    InputError : it is of another kind, has no placed points, or `move` refuses.
    """
    if node.IsA("vtkMRMLMarkupsROINode"):
        raise InputError(f"The box '{node.GetName()}' was not carried: bent, it would no longer be a box.")
    count = node.GetNumberOfControlPoints()
    placed = [n for n in range(count) if node.GetNthControlPointPositionStatus(n) == node.PositionDefined]
    if not placed:
        raise InputError(f"'{node.GetName()}' was not carried: it holds no points.")
    places = _places(node, placed)
    is_plane = node.IsA("vtkMRMLMarkupsPlaneNode")
    frame = _plane_frame(node, voxel_mm) if is_plane else np.zeros((0, 3))
    # In one go, so that the frame is refused or carried with the points.
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


def _places(node: Any, placed: list[int]) -> np.ndarray:
    """Return control points, RAS mm in world space, shape (n, 3)."""
    if not is_left_out(node):
        # Also right under transforms that are not linear.
        return np.array([node.GetNthControlPointPositionWorld(n) for n in placed])
    return _in_world(parent_to_world(node), np.array([node.GetNthControlPointPosition(n) for n in placed]))


def _plane_frame(node: Any, length_mm: float) -> np.ndarray:
    """Return a plane's origin and the ends of its three axes, of one length, RAS mm in world space, shape (4, 3)."""
    axes: list[list[float]] = [[0.0, 0.0, 0.0] for _ in range(3)]
    if not is_left_out(node):
        origin = np.array(node.GetOriginWorld())
        node.GetAxesWorld(*axes)
        return np.concatenate([origin[None], origin + length_mm * np.array(axes)])
    origin = np.array(node.GetOrigin())
    node.GetAxes(*axes)
    return _in_world(parent_to_world(node), np.concatenate([origin[None], origin + length_mm * np.array(axes)]))


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
