"""SimpleITK images to and from volume nodes.

Voxels are copied in both directions: a node and an image never share memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
import vtk
from vtk.util import numpy_support

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.spatial.geometry import Geometry

LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Homogeneous matrix from LPS to RAS, and back."""

# File formats keep direction cosines as 32-bit numbers at worst; a real shear is far larger.
_SHEAR_TOLERANCE = 1e-4


def to_volume_node(image: sitk.Image, scene: Any, name: str, *, label_map: bool = False) -> Any:
    """Add `image` to `scene` as a vtkMRMLScalarVolumeNode, or as a vtkMRMLLabelMapVolumeNode, and return the node.

    Parameters
    ----------
    image : 3-D, one number per voxel, any direction (oblique and left-handed too), LPS mm.
    scene : vtkMRMLScene.
    name : the node's name; the scene makes it unique.
    label_map : whether voxels are labels; they must be integers.

    Raises
    ------
    InputError : the image is not 3-D, has several components, or has labels that are not integers.
    """
    _check_convertible(image, name, label_map)
    kind = "vtkMRMLLabelMapVolumeNode" if label_map else "vtkMRMLScalarVolumeNode"
    node = scene.AddNewNodeByClass(kind, scene.GetUniqueNameByString(name))
    update_volume_node(node, image)
    _add_display(node, image)
    return node


def update_volume_node(node: Any, image: sitk.Image) -> None:
    """Replace voxels and geometry of a scalar volume or label map node by those of `image` (see `to_volume_node`)."""
    _check_convertible(image, node.GetName(), node.IsA("vtkMRMLLabelMapVolumeNode"))
    was_modifying = node.StartModify()
    node.SetIJKToRASMatrix(vtk_matrix(LPS_RAS @ Geometry.of(image).index_to_lps))
    node.SetAndObserveImageData(fill_image_data(vtk.vtkImageData(), image))
    node.EndModify(was_modifying)


def from_volume_node(node: Any, left_out: Any = None) -> sitk.Image:
    """Return a copy of a volume node's voxels, in world space, LPS mm.

    A linear parent transform becomes part of the geometry, so that the image lies where Slicer shows it; for `left_out` see
    `parent_to_world`.

    Raises
    ------
    InputError : no voxels, several components, a sheared grid, or a parent transform that is not linear.
    """
    what = f"The volume '{node.GetName()}'"
    if node.GetImageData() is None or node.GetImageData().GetNumberOfPoints() == 0:
        raise InputError(f"{what} has no voxels: load or compute it first.")
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return from_image_data(node.GetImageData(), parent_to_world(node, left_out) @ numpy_matrix(matrix), what)


def look_alike(node: Any, model: Any) -> None:
    """Show a volume node in the colors and, unless these are labels, with the window that another one has."""
    display, expected = node.GetDisplayNode(), model.GetDisplayNode()
    if display is None or expected is None:
        return
    if expected.GetColorNodeID():
        display.SetAndObserveColorNodeID(expected.GetColorNodeID())
    kind = "vtkMRMLScalarVolumeDisplayNode"
    if display.IsA(kind) and expected.IsA(kind):
        display.AutoWindowLevelOff()
        display.SetWindowLevel(expected.GetWindow(), expected.GetLevel())


def volume_geometry(node: Any, left_out: Any = None) -> Geometry:
    """Return where a volume node's grid lies in world space, LPS mm; arguments and errors as those of `from_volume_node`."""
    what = f"The volume '{node.GetName()}'"
    data = node.GetImageData()
    if data is None:
        raise InputError(f"{what} has no voxels: load or compute it first.")
    matrix, start = vtk.vtkMatrix4x4(), np.eye(4)
    node.GetIJKToRASMatrix(matrix)
    start[:3, 3] = data.GetExtent()[::2]
    return geometry_from_ras(parent_to_world(node, left_out) @ numpy_matrix(matrix) @ start, data.GetDimensions(), what)


def parent_to_world(node: Any, left_out: Any = None) -> np.ndarray:
    """Return the RAS matrix, shape (4, 4), from a transformable node's own space to world space.

    Parameters
    ----------
    node : vtkMRMLTransformableNode.
    left_out : a transform node that stands for the world if the node lies under it.

    Raises
    ------
    InputError : a parent transform is not linear.
    """
    parent = node.GetParentTransformNode()
    if parent is None:
        return np.eye(4)
    top = left_out if lies_under(node, left_out) else None
    if not parent.IsTransformToNodeLinear(top):
        raise InputError(
            f"'{node.GetName()}' is under the transform '{parent.GetName()}', which is not linear: "
            "harden it, or take the node out of the transform, first."
        )
    matrix = vtk.vtkMatrix4x4()
    parent.GetMatrixTransformToNode(top, matrix)
    return numpy_matrix(matrix)


def lies_under(node: Any, transform: Any) -> bool:
    """Tell whether a node lies, directly or further below, under a transform node; under None lies nothing."""
    above = node.GetParentTransformNode()
    while above is not None and above is not transform:
        above = above.GetParentTransformNode()
    return above is not None


def geometry_from_ras(ijk_to_ras: np.ndarray, size: tuple[int, int, int], what: str) -> Geometry:
    """Return the grid of `size` voxels with this matrix, shape (4, 4), from indices to RAS mm.

    Raises
    ------
    InputError : the axes are not at right angles; the message begins with `what`.
    """
    ijk_to_lps = LPS_RAS @ ijk_to_ras
    spacing = np.linalg.norm(ijk_to_lps[:3, :3], axis=0)
    if not np.all(spacing > 0):
        raise InputError(f"{what} has an axis of length zero: its geometry is broken.")
    direction = ijk_to_lps[:3, :3] / spacing
    if np.abs(direction.T @ direction - np.eye(3)).max() > _SHEAR_TOLERANCE:
        raise InputError(
            f"{what} is sheared (its axes are not at right angles), which an image grid cannot be here: "
            "harden its transform, or resample it onto a regular grid, first."
        )
    return Geometry(
        tuple(int(n) for n in size),  # type: ignore[arg-type]
        tuple(float(s) for s in spacing),  # type: ignore[arg-type]
        tuple(float(x) for x in ijk_to_lps[:3, 3]),  # type: ignore[arg-type]
        tuple(float(x) for x in direction.ravel()),
    )


def fill_image_data(target: Any, image: sitk.Image) -> Any:
    """Copy the voxels of `image`, one or more numbers each, into a vtkImageData with origin 0 and spacing 1; return it."""
    array = sitk.GetArrayViewFromImage(image)
    components = image.GetNumberOfComponentsPerPixel()
    # The deep copy is needed: VTK must not keep pointing into SimpleITK's memory.
    scalars = numpy_support.numpy_to_vtk(array.reshape(-1, components) if components > 1 else array.ravel(), deep=True)
    scalars.SetName("ImageScalars")
    target.SetDimensions(image.GetSize())
    target.GetPointData().SetScalars(scalars)
    return target


def from_image_data(data: Any, ijk_to_ras: np.ndarray, what: str) -> sitk.Image:
    """Copy a vtkImageData, whose extent may start anywhere, to an image with this matrix from extent indices to RAS.

    Raises
    ------
    InputError : several components or a sheared grid; the message begins with `what`.
    """
    if data.GetPointData().GetScalars() is None:
        raise InputError(f"{what} has no voxels that hold one number each (it may hold tensors): choose a scalar volume.")
    if data.GetNumberOfScalarComponents() != 1:
        raise InputError(
            f"{what} has {data.GetNumberOfScalarComponents()} numbers per voxel, but one is needed: "
            "convert it to a scalar volume (module 'Vector to Scalar Volume')."
        )
    size = data.GetDimensions()
    start = np.eye(4)
    start[:3, 3] = data.GetExtent()[::2]
    geometry = geometry_from_ras(ijk_to_ras @ start, size, what)
    array = numpy_support.vtk_to_numpy(data.GetPointData().GetScalars()).reshape(size[::-1])
    # SimpleITK copies the voxels.
    return geometry.apply_to(sitk.GetImageFromArray(array))


def vtk_matrix(matrix: np.ndarray) -> Any:
    """Return a (4, 4) array as a vtkMatrix4x4."""
    result = vtk.vtkMatrix4x4()
    result.DeepCopy(np.asarray(matrix, dtype=float).ravel().tolist())
    return result


def numpy_matrix(matrix: Any) -> np.ndarray:
    """Return a vtkMatrix4x4 as an array, shape (4, 4)."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def _add_display(node: Any, image: sitk.Image) -> None:
    if "64-bit" in image.GetPixelIDTypeAsString() and not node.IsA("vtkMRMLLabelMapVolumeNode"):
        # VTK's histogram, on which the automatic window rests, cannot count 64-bit integers.
        display = node.GetScene().AddNewNodeByClass("vtkMRMLScalarVolumeDisplayNode")
        display.SetDefaultColorMap()
        display.AutoWindowLevelOff()
        display.SetWindowLevelMinMax(*node.GetImageData().GetScalarRange())
        node.SetAndObserveDisplayNodeID(display.GetID())
    node.CreateDefaultDisplayNodes()


def _check_convertible(image: sitk.Image, name: str, label_map: bool) -> None:
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            f"The image '{name}' has {image.GetDimension()} dimensions and {image.GetNumberOfComponentsPerPixel()} "
            "numbers per voxel, but a volume needs three dimensions and one number per voxel."
        )
    if "complex" in image.GetPixelIDTypeAsString():
        raise InputError(f"The image '{name}' holds complex numbers: give its magnitude instead.")
    if label_map and "float" in image.GetPixelIDTypeAsString():
        raise InputError(f"The label map '{name}' holds {image.GetPixelIDTypeAsString()}, but labels are integers.")
