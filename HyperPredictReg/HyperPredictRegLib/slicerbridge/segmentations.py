"""Label maps to and from segmentation nodes, and the propagation of a segmentation through a transform.

Everything happens on label maps with nearest-neighbor sampling. Slicer's own hardening is not used: through a non-linear
transform it clips segments whose grid is oblique.
"""

from __future__ import annotations

import colorsys
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.slicerbridge.volumes import (
    LPS_RAS,
    fill_image_data,
    from_image_data,
    geometry_from_ras,
    numpy_matrix,
    parent_to_world,
    vtk_matrix,
)
from HyperPredictRegLib.spatial.geometry import Geometry

_BINARY = "Binary labelmap"
_REFERENCE_GEOMETRY = "Reference image geometry"

Color = tuple[float, float, float]


class OverlapError(InputError):
    """Segments overlap, which one label map cannot hold."""


@dataclass(frozen=True)
class LabelMap:
    """Structures that do not overlap.

    Attributes
    ----------
    image : unsigned integers, 0 is background.
    names : name of each label.
    colors : red, green, blue of each label, 0 to 1.
    """

    image: sitk.Image
    names: Mapping[int, str]
    colors: Mapping[int, Color]


@dataclass(frozen=True)
class _Layer:
    """A label map in world space and the segments in it: id, and the value of its voxels."""

    image: sitk.Image | None
    values: Mapping[str, int]


@dataclass(frozen=True)
class SegmentationState:
    """A segmentation as it is at one time; what becomes of its node later does not change it.

    Attributes
    ----------
    name : the node's.
    layers : its label maps, in world space, LPS mm.
    segments : vtkSegment by id, in their order: name, color, terminology and all other tags, without voxels.
    display : a copy of the node's display node, outside of any scene; None if it has none.
    """

    name: str
    layers: tuple[_Layer, ...]
    segments: Mapping[str, Any]
    display: Any | None

    @property
    def digest(self) -> str:
        """Return a text that is another one where segments lie elsewhere, have other voxels or are called otherwise."""
        found = hashlib.blake2b(repr([(i, segment.GetName()) for i, segment in self.segments.items()]).encode())
        for layer in self.layers:
            found.update(repr(sorted(layer.values.items())).encode())
            if layer.image is not None:
                found.update(repr(Geometry.of(layer.image)).encode())
                found.update(np.ascontiguousarray(sitk.GetArrayViewFromImage(layer.image)).data)
        return found.hexdigest()


def segmentation_state(node: Any, left_out: Any = None) -> SegmentationState:
    """Return a copy of what a segmentation node holds, in world space (see `parent_to_world`); the node is left as it is.

    Raises
    ------
    InputError : the parent transform is not linear, or the segments cannot be converted to label maps.
    """
    source, segments = node.GetSegmentation(), {}
    for segment_id in source.GetSegmentIDs():
        segments[segment_id] = slicer.vtkSegment()
        segments[segment_id].DeepCopyMetadata(source.GetSegment(segment_id))
    display = None
    if node.GetDisplayNode() is not None:
        display = slicer.vtkMRMLSegmentationDisplayNode()
        display.CopyContent(node.GetDisplayNode())
    return SegmentationState(node.GetName(), tuple(_layers(node, left_out)) if segments else (), segments, display)


def to_segmentation_node(
    labels: sitk.Image,
    scene: Any,
    name: str,
    *,
    names: Mapping[int, str] | None = None,
    colors: Mapping[int, Color] | None = None,
) -> Any:
    """Add a label map to `scene` as a vtkMRMLSegmentationNode, one segment for each label present, and return the node.

    Parameters
    ----------
    labels : integers >= 0, 0 is background, LPS mm. The segment of label 17 has the id ``label_17``.
    scene : vtkMRMLScene.
    name : the node's name; the scene makes it unique.
    names : name of each label; "Label 17" where there is none.
    colors : red, green, blue from 0 to 1 of each label; evenly spread hues where there is none.

    Raises
    ------
    InputError : the voxels are not integers, or not from 0 to 2147483647.
    """
    image = _compact(labels, name)
    present = [int(v) for v in np.unique(sitk.GetArrayViewFromImage(image)) if v != 0]
    node = _new_node(scene, name, Geometry.of(image))
    shared = _oriented_image(image)
    for label in present:
        segment = slicer.vtkSegment()
        segment.SetName((names or {}).get(label, f"Label {label}"))
        segment.SetColor(*(colors or {}).get(label, default_color(label)))
        segment.SetLabelValue(label)
        segment.AddRepresentation(_BINARY, shared)
        node.GetSegmentation().AddSegment(segment, f"label_{label}")
    node.CreateDefaultDisplayNodes()
    return node


def from_segmentation_node(
    node: Any, geometry: Geometry | None = None, numbers: Mapping[str, int] | None = None
) -> LabelMap:
    """Return the segments of a segmentation node as one label map in world space, LPS mm.

    Parameters
    ----------
    node : vtkMRMLSegmentationNode; it is left as it is. A linear parent transform is applied.
    geometry : the grid to use; by default the node's own reference geometry.
    numbers : the label of each segment, by its id; by default the segments' own label values if these differ from one
        another, else 1, 2, 3 in the order of the segments.

    Raises
    ------
    InputError : there are no segments, or the parent transform is not linear.
    OverlapError : segments overlap.
    """
    segmentation = node.GetSegmentation()
    ids = list(segmentation.GetSegmentIDs())
    if not ids:
        raise InputError(f"The segmentation '{node.GetName()}' has no segments.")
    labels = dict(numbers) if numbers is not None else segment_labels(node)
    grid = geometry or segmentation_geometry(node)
    merged = np.zeros(grid.size[::-1], dtype=np.uint32)
    for layer in _layers(node):
        if layer.image is None:
            continue
        sampled = sitk.GetArrayFromImage(grid.resample(layer.image, interpolator=sitk.sitkNearestNeighbor))
        for segment_id, value in layer.values.items():
            inside = sampled == value
            taken = np.unique(merged[inside])
            if taken.any():
                other = next(i for i in ids if labels[i] == taken[-1])
                raise OverlapError(
                    f"In the segmentation '{node.GetName()}' the segments '{segmentation.GetSegment(other).GetName()}' and "
                    f"'{segmentation.GetSegment(segment_id).GetName()}' overlap, which one label map cannot hold: "
                    "remove the overlap, or propagate the segmentation itself."
                )
            merged[inside] = labels[segment_id]
    image = _compact(grid.apply_to(sitk.GetImageFromArray(merged)), node.GetName())
    segments = {labels[i]: segmentation.GetSegment(i) for i in ids}
    return LabelMap(
        image,
        {label: segment.GetName() for label, segment in segments.items()},
        {label: segment.GetColor() for label, segment in segments.items()},
    )


def segment_labels(node: Any) -> dict[str, int]:
    """Return the label of each segment by its id: its own value if all differ and are above 0, else 1, 2, 3 in their order."""
    segmentation = node.GetSegmentation()
    ids = list(segmentation.GetSegmentIDs())
    own = [int(segmentation.GetSegment(i).GetLabelValue()) for i in ids]
    usable = len(set(own)) == len(own) and all(value > 0 for value in own)
    return dict(zip(ids, own if usable else range(1, len(ids) + 1), strict=True))


def segments_mask(node: Any, geometry: Geometry, segment_ids: Sequence[str] = (), left_out: Any = None) -> sitk.Image:
    """Return where segments lie on a grid in world space, LPS mm, as uint8: 1 inside of any of them; they may overlap.

    Parameters
    ----------
    node : vtkMRMLSegmentationNode; it is left as it is. A linear parent transform is applied.
    geometry : the grid.
    segment_ids : which segments; all of them by default.
    left_out : see `parent_to_world`.

    Raises
    ------
    InputError : there is no such segment, or the parent transform is not linear.
    """
    present = list(node.GetSegmentation().GetSegmentIDs())
    missing = [i for i in segment_ids if i not in present]
    if missing or not present:
        what = f"no segment '{missing[0]}'" if missing else "no segments"
        raise InputError(f"The segmentation '{node.GetName()}' has {what}: choose another one.")
    inside = np.zeros(geometry.size[::-1], dtype=np.uint8)
    for layer in _layers(node, left_out):
        values = [value for segment_id, value in layer.values.items() if segment_id in (segment_ids or present)]
        if layer.image is not None and values:
            sampled = geometry.resample(layer.image, interpolator=sitk.sitkNearestNeighbor)
            inside |= np.isin(sitk.GetArrayViewFromImage(sampled), values).astype(np.uint8)
    return geometry.apply_to(sitk.GetImageFromArray(inside))


def shares_inside(node: Any, mask: sitk.Image) -> dict[str, float]:
    """Return the share, 0 to 1, of each segment's voxels that lie in a mask, by segment id, counted on the mask's grid.

    A segment without voxels there has none inside.
    """
    grid = Geometry.of(mask)
    inside = sitk.GetArrayViewFromImage(mask) != 0
    shares = dict.fromkeys(node.GetSegmentation().GetSegmentIDs(), 0.0)
    for layer in _layers(node):
        if layer.image is None:
            continue
        sampled = grid.resample(layer.image, interpolator=sitk.sitkNearestNeighbor)
        voxels = sitk.GetArrayViewFromImage(sampled)
        whole, within = _voxels_of_each_value(voxels), _voxels_of_each_value(voxels[inside])
        for segment_id, value in layer.values.items():
            shares[segment_id] = within.get(value, 0) / max(whole.get(value, 0), 1)
    return shares


def _voxels_of_each_value(voxels: np.ndarray) -> dict[int, int]:
    values, counts = np.unique(voxels, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def propagate(
    given: Any, transform: sitk.Transform, geometry: Geometry, scene: Any, name: str, left_out: Any = None
) -> Any:
    """Add a segmentation on the fixed grid that holds the moving image's segments, and return the new node.

    Ids, order, names, colors, terminology and all other tags, overlaps and display settings stay; a segment that falls
    outside of the grid stays as an empty one.

    Parameters
    ----------
    given : vtkMRMLSegmentationNode on the moving image, or its `SegmentationState`; it is left as it is. A linear parent
        transform is applied.
    transform : maps fixed to moving points, LPS mm.
    geometry : the fixed grid.
    scene : vtkMRMLScene of the new node.
    name : the new node's name; the scene makes it unique.

    Raises
    ------
    InputError : there are no segments, or the parent transform is not linear.
    """
    state = given if isinstance(given, SegmentationState) else segmentation_state(given, left_out)
    if not state.segments:
        raise InputError(f"The segmentation '{state.name}' has no segments to propagate.")
    # One resampling for each layer: nearest neighbor never mixes labels, so it equals one for each segment.
    warped: dict[str, tuple[Any, int]] = {}
    for layer in state.layers:
        image = sitk.Image(geometry.size, sitk.sitkUInt8) if layer.image is None else geometry.resample(
            layer.image, transform, interpolator=sitk.sitkNearestNeighbor
        )
        data = _oriented_image(geometry.apply_to(image))
        warped.update({segment_id: (data, value) for segment_id, value in layer.values.items()})
    result = _new_node(scene, name, geometry)
    for segment_id, described in state.segments.items():
        data, value = warped[segment_id]
        segment = slicer.vtkSegment()
        segment.DeepCopyMetadata(described)
        segment.SetLabelValue(value)
        segment.AddRepresentation(_BINARY, data)
        result.GetSegmentation().AddSegment(segment, segment_id)
    result.CreateDefaultDisplayNodes()
    if state.display is not None:
        result.GetDisplayNode().CopyContent(state.display)
    return result


def segmentation_geometry(node: Any, left_out: Any = None) -> Geometry:
    """Return the grid of a segmentation node in world space, LPS mm: its reference geometry, else its first layer's.

    For `left_out` see `parent_to_world`.

    Raises
    ------
    InputError : it has neither, or its parent transform is not linear or shears it.
    """
    what = f"The segmentation '{node.GetName()}'"
    serialized = node.GetSegmentation().GetConversionParameter(_REFERENCE_GEOMETRY)
    reference = slicer.vtkOrientedImageData()
    if serialized and slicer.vtkSegmentationConverter.DeserializeImageGeometry(serialized, reference, False):
        matrix = _image_to_world(reference, parent_to_world(node, left_out))
        start = np.eye(4)
        start[:3, 3] = reference.GetExtent()[::2]
        return geometry_from_ras(matrix @ start, reference.GetDimensions(), what)
    for layer in _layers(node, left_out):
        if layer.image is not None:
            return Geometry.of(layer.image)
    raise InputError(f"{what} has neither a reference geometry nor voxels: choose a source geometry for it in Slicer.")


@functools.cache
def register_conversions() -> None:
    """Make surfaces convertible to label maps and back outside of the Slicer application, which does this at its start."""
    # Once for each process: the rules go to a list without end that all scenes share.
    if getattr(slicer, "app", None) is None:
        slicer.vtkSlicerSegmentationsModuleLogic().SetMRMLScene(slicer.vtkMRMLScene())


def default_color(label: int) -> Color:
    """Return a color for a label: neighboring labels differ clearly, and the same label always has the same color."""
    golden = 0.6180339887498949
    red, green, blue = colorsys.hsv_to_rgb(label * golden % 1.0, (0.85, 0.6)[label % 2], (0.95, 0.8)[label // 2 % 2])
    return red, green, blue


def _layers(node: Any, left_out: Any = None) -> Iterator[_Layer]:
    segmentation = _with_label_maps(node)
    to_world, what = parent_to_world(node, left_out), f"The segmentation '{node.GetName()}'"
    for number in range(segmentation.GetNumberOfLayers(_BINARY)):
        data = segmentation.GetLayerDataObject(number, _BINARY)
        ids = segmentation.GetSegmentIDsForLayer(number, _BINARY)
        values = {i: int(segmentation.GetSegment(i).GetLabelValue()) for i in ids}
        # Slicer keeps an empty segment as an image without voxels.
        empty = data.GetNumberOfPoints() == 0 or data.GetPointData().GetScalars() is None
        yield _Layer(None if empty else from_image_data(data, _image_to_world(data, to_world), what), values)


def _with_label_maps(node: Any) -> Any:
    """Return the node's vtkSegmentation, or a converted copy of it if it only holds surfaces or contours."""
    segmentation = node.GetSegmentation()
    if segmentation.ContainsRepresentation(_BINARY):
        return segmentation
    register_conversions()
    copy = slicer.vtkSegmentation()
    copy.DeepCopy(segmentation)
    if not copy.CreateRepresentation(_BINARY):
        raise InputError(
            f"The segmentation '{node.GetName()}' could not be converted to a binary label map: "
            "convert it in the module 'Segmentations' first."
        )
    return copy


def _new_node(scene: Any, name: str, geometry: Geometry) -> Any:
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", scene.GetUniqueNameByString(name))
    node.GetSegmentation().SetSourceRepresentationName(_BINARY)
    empty = slicer.vtkOrientedImageData()
    empty.SetDimensions(geometry.size)
    empty.SetImageToWorldMatrix(vtk_matrix(LPS_RAS @ geometry.index_to_lps))
    serialized = slicer.vtkSegmentationConverter.SerializeImageGeometry(empty)
    node.GetSegmentation().SetConversionParameter(_REFERENCE_GEOMETRY, serialized)
    return node


def _oriented_image(image: sitk.Image) -> Any:
    data = fill_image_data(slicer.vtkOrientedImageData(), image)
    data.SetImageToWorldMatrix(vtk_matrix(LPS_RAS @ Geometry.of(image).index_to_lps))
    return data


def _image_to_world(data: Any, to_world: np.ndarray) -> np.ndarray:
    matrix = vtk_matrix(np.eye(4))
    data.GetImageToWorldMatrix(matrix)
    return to_world @ numpy_matrix(matrix)


def _compact(labels: sitk.Image, name: str) -> sitk.Image:
    """Return labels in the smallest type that Slicer's segmentations handle."""
    if "integer" not in labels.GetPixelIDTypeAsString() or labels.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"The label map '{name}' holds {labels.GetPixelIDTypeAsString()}, but labels are integers.")
    array = sitk.GetArrayViewFromImage(labels)
    lowest, highest = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if lowest < 0 or highest > np.iinfo(np.int32).max:
        raise InputError(
            f"The label map '{name}' holds labels from {lowest} to {highest}, but they must be from 0 to 2147483647."
        )
    kind = next(k for k, top in ((sitk.sitkUInt8, 255), (sitk.sitkUInt16, 65535), (sitk.sitkInt32, 2**31 - 1)) if highest <= top)
    return sitk.Cast(labels, kind)
