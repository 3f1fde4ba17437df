"""From nodes to a job: what a user chose in a scene, written as files that a child process can read.

Everything is written as it lies in world space: linear parent transforms are folded in. The nodes are left as they are.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer

from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.geometry import Geometry
from HyperPredictRegLib.images import check_image
from HyperPredictRegLib.job import Job
from HyperPredictRegLib.points import write_points
from HyperPredictRegLib.records import from_json, to_json
from HyperPredictRegLib.slicerbridge.segmentations import (
    OverlapError,
    from_segmentation_node,
    segment_labels,
    segments_mask,
)
from HyperPredictRegLib.slicerbridge.transforms import from_transform_node
from HyperPredictRegLib.slicerbridge.volumes import LPS_RAS, from_volume_node, parent_to_world
from HyperPredictRegLib.transforms import write_transform

JOB_NAME = "job.json"
_RESULTS = "out"
_FLIP = np.diag(LPS_RAS)[:3]
_GIVEN_BY_NODES = frozenset({
    "fixed", "moving", "out", "fixed_labels", "moving_labels", "fixed_mask", "moving_mask", "fixed_landmarks",
    "moving_landmarks", "label_names", "initial_transform", "scene", "schema_version",
})  # fmt: skip
_VOLUME = ("a scalar volume", ("vtkMRMLScalarVolumeNode",))
_SEGMENTATION = ("a segmentation", ("vtkMRMLSegmentationNode",))
_MASK = ("a segmentation, label map or scalar volume", ("vtkMRMLSegmentationNode", "vtkMRMLScalarVolumeNode"))
_TRANSFORM = ("a transform", ("vtkMRMLTransformNode",))
_POINTS = ("a point list", ("vtkMRMLMarkupsNode",))


@dataclass(frozen=True)
class MaskChoice:
    """Where an image may be compared.

    Attributes
    ----------
    node : a segmentation, or a label map or scalar volume, of which the voxels that are not 0 count.
    segment_id : the one segment that counts; all of them if empty.
    """

    node: Any
    segment_id: str = ""


@dataclass(frozen=True)
class Request:
    """What a user asks for, as nodes; None where nothing was chosen.

    Attributes
    ----------
    fixed, moving : volume nodes.
    fixed_segmentation, moving_segmentation : segmentation nodes; segments of one name are taken for one structure.
    fixed_mask, moving_mask : where the images may be compared.
    initial_transform : a transform node, as it would be put on the moving volume where Slicer shows that now. If the moving
        volume lies under it already, the start is where Slicer shows the volume.
    fixed_landmarks, moving_landmarks : point lists, as many points in the same order.
    options : fields of `Job` by name, except those that the nodes stand for.
    """

    fixed: Any
    moving: Any
    fixed_segmentation: Any = None
    moving_segmentation: Any = None
    fixed_mask: MaskChoice | None = None
    moving_mask: MaskChoice | None = None
    initial_transform: Any = None
    fixed_landmarks: Any = None
    moving_landmarks: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)


def write_job(request: Request, folder: Path) -> Job:
    """Write all that a request names into `folder`, with a ``job.json``, and return the job.

    Its results are to go to ``out`` within the folder. A moving segmentation whose segments overlap is left out where there
    is no fixed one to compare it with: it can be propagated, but is no label map.

    Parameters
    ----------
    request : what to do.
    folder : an existing folder of one's own, or one to make.

    Raises
    ------
    InputError : a node or an option cannot be used; the sentence names the node. Also if the files cannot be written.
    """
    _check_choices(request)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = _write_inputs(request, folder)
        job = _job(paths | {"out": str(folder / _RESULTS)}, request.options)
        (folder / JOB_NAME).write_text(to_json(job), encoding="utf-8")
    except OSError as error:
        raise InputError(f"The inputs could not be written to '{folder}' ({error}): is there room on the disk?") from error
    return job


def _check_choices(request: Request) -> None:
    for node, what in ((request.fixed, "fixed"), (request.moving, "moving")):
        if node is None:
            raise InputError(f"No {what} volume is chosen: choose one.")
    _check_kinds(request)
    if request.fixed is request.moving:
        raise InputError(f"The volume '{request.fixed.GetName()}' is chosen as fixed and as moving: choose two volumes.")
    segmentation = request.fixed_segmentation
    if segmentation is not None and segmentation is request.moving_segmentation:
        raise InputError(
            f"The segmentation '{segmentation.GetName()}' is chosen for the fixed and for the moving volume: choose one for each."
        )
    _check_mirroring(request)
    given = (request.fixed_landmarks, request.moving_landmarks)
    if (given[0] is None) != (given[1] is None):
        name = next(node.GetName() for node in given if node is not None)
        raise InputError(f"Landmarks are chosen for one volume only ('{name}'): choose as many, in order, for the other.")
    if given[0] is not None and given[0] is given[1]:
        raise InputError(f"The point list '{given[0].GetName()}' is chosen for both volumes: choose one for each.")
    known = {f.name for f in fields(Job)} - _GIVEN_BY_NODES
    unknown = sorted(set(request.options) - known)
    if unknown:
        where = " in Slicer, where inputs are nodes and results go into the scene" if unknown[0] in _GIVEN_BY_NODES else ""
        raise InputError(f"There is no option '{unknown[0]}'{where}; known are: {', '.join(sorted(known))}.")


def _check_kinds(request: Request) -> None:
    """Refuse what is no node of the scene or of a kind that cannot play its role."""
    fixed_mask, moving_mask = (None if mask is None else mask.node for mask in (request.fixed_mask, request.moving_mask))
    for what, node, (needed, kinds) in (
        ("fixed volume", request.fixed, _VOLUME),
        ("moving volume", request.moving, _VOLUME),
        ("fixed segmentation", request.fixed_segmentation, _SEGMENTATION),
        ("moving segmentation", request.moving_segmentation, _SEGMENTATION),
        ("fixed mask", fixed_mask, _MASK),
        ("moving mask", moving_mask, _MASK),
        ("initial transform", request.initial_transform, _TRANSFORM),
        ("fixed landmarks", request.fixed_landmarks, _POINTS),
        ("moving landmarks", request.moving_landmarks, _POINTS),
    ):
        if node is None:
            continue
        if not isinstance(node, slicer.vtkMRMLNode):
            raise InputError(f"As {what}, {node!r} ({type(node).__name__}) is given: give the node itself, {needed}.")
        if not any(node.IsA(kind) for kind in kinds):
            raise InputError(
                f"As {what}, '{node.GetName()}' ({node.GetNodeTagName()}) is given, which is not {needed}: choose one."
            )
        if node.GetScene() is None or node.GetScene() is not request.fixed.GetScene():
            raise InputError(
                f"As {what}, '{node.GetName()}' is given, which is not in one scene with the fixed volume: add it to that scene."
            )


def _check_mirroring(request: Request) -> None:
    """Refuse what a parent transform mirrors: anatomy would be compared with its mirror image."""
    masks = [mask.node for mask in (request.fixed_mask, request.moving_mask) if mask is not None]
    given = [request.fixed, request.moving, request.fixed_segmentation, request.moving_segmentation, *masks]
    for node in dict.fromkeys(node for node in given if node is not None):
        if np.linalg.det(parent_to_world(node)[:3, :3]) < 0:
            kind = "segmentation" if node.IsA("vtkMRMLSegmentationNode") else "volume"
            above = node.GetParentTransformNode().GetName()
            raise InputError(
                f"The {kind} '{node.GetName()}' is under the transform '{above}', which mirrors it (left becomes right): "
                "take it out of that transform, or harden the transform if the mirror image is meant."
            )


def _write_inputs(request: Request, folder: Path) -> dict[str, str]:
    """Write every input and return the paths by the names that `Job` has for them."""
    paths: dict[str, str] = {}
    grids: dict[str, Geometry] = {}
    for side, node in (("fixed", request.fixed), ("moving", request.moving)):
        image = from_volume_node(node)
        check_image(image, f"the {side} volume '{node.GetName()}'")
        grids[side] = Geometry.of(image)
        paths[side] = _write(image, folder / f"{side}.nrrd")
    paths |= _write_labels(request, grids, folder)
    for side, mask, volume in (
        ("fixed", request.fixed_mask, request.fixed), ("moving", request.moving_mask, request.moving)
    ):
        if mask is not None:
            image = mask_image(mask, grids[side], volume.GetName())
            paths[f"{side}_mask"] = _write(image, folder / f"{side}-mask.nrrd")
    if request.initial_transform is not None:
        path = folder / "initial-transform.h5"
        write_transform(_start(request), path)
        paths["initial_transform"] = str(path)
    return paths | _write_landmarks(request, folder)


def mask_image(choice: MaskChoice, grid: Geometry, volume_name: str) -> sitk.Image:
    """Return a mask as uint8 on `grid`, world space, LPS mm.

    Raises
    ------
    InputError : no voxel of it lies on the grid, or the node cannot be read.
    """
    node = choice.node
    what = f"'{node.GetName()}'"
    if node.IsA("vtkMRMLSegmentationNode"):
        mask = segments_mask(node, grid, (choice.segment_id,) if choice.segment_id else ())
        if choice.segment_id:
            what = f"the segment '{node.GetSegmentation().GetSegment(choice.segment_id).GetName()}' of {what}"
    else:
        # Nearest neighbour after the comparison: values between 0 and something else are never made.
        image = from_volume_node(node)
        voxels = sitk.GetArrayViewFromImage(image)
        # Not "!= 0": what is not a number is outside.
        inside = ((voxels > 0) | (voxels < 0)).astype(np.uint8)
        mask = Geometry.of(image).apply_to(sitk.GetImageFromArray(inside))
        mask = grid.resample(mask, interpolator=sitk.sitkNearestNeighbor)
    if not sitk.GetArrayViewFromImage(mask).any():
        raise InputError(
            f"The mask {what} has no voxel inside the volume '{volume_name}': draw the region that may be compared, or leave "
            "the mask out."
        )
    return mask


def _write_labels(request: Request, grids: Mapping[str, Geometry], folder: Path) -> dict[str, str]:
    sides = {"fixed": (request.fixed_segmentation, request.fixed), "moving": (request.moving_segmentation, request.moving)}
    nodes = {side: node for side, (node, _) in sides.items() if node is not None}
    numbers = _numbers(nodes)
    paths: dict[str, str] = {}
    names: dict[int, str] = {}
    # The moving segmentation's spelling of a name wins, because it is the one that is propagated.
    for side, node in nodes.items():
        try:
            found = from_segmentation_node(node, grids[side], numbers[side])
        except OverlapError as error:
            if "fixed" not in nodes:
                continue
            raise InputError(
                f"{str(error).partition(':')[0]}, so Dice cannot be measured: remove the overlap, or leave the fixed "
                "segmentation out, and the moving one will be propagated as it is."
            ) from error
        if not sitk.GetArrayViewFromImage(found.image).any():
            raise InputError(
                f"The segmentation '{node.GetName()}' has no voxel inside the volume '{sides[side][1].GetName()}': choose one "
                f"of the {side} volume, or none."
            )
        names |= found.names
        paths[f"{side}_labels"] = _write(found.image, folder / f"{side}-labels.nrrd")
    if names:
        path = folder / "label-names.csv"
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["label", "name"])
            writer.writerows(sorted(names.items()))
        paths["label_names"] = str(path)
    return paths


def _numbers(nodes: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Return the label of each segment by its id, for each segmentation; segments of one name have one label."""
    own = {side: segment_labels(node) for side, node in nodes.items()}
    if len(nodes) < 2:
        return own
    words = {side: {i: _word(node, i) for i in own[side]} for side, node in nodes.items()}
    keys = {
        "fixed": _keys(nodes["fixed"], words["fixed"], set(words["moving"].values())),
        "moving": _keys(nodes["moving"], words["moving"], set(words["fixed"].values())),
    }
    meanings = {(keys[side][i], value) for side in nodes for i, value in own[side].items()}
    values: dict[str, int] = dict(meanings)
    # Their own values are kept if each means the same structure in both; otherwise all are numbered anew.
    if len({value for _, value in meanings}) != len(meanings) or len(values) != len(meanings):
        ordered = dict.fromkeys(key for side in ("moving", "fixed") for key in keys[side].values())
        values = {key: number for number, key in enumerate(ordered, start=1)}
    return {side: {i: values[key] for i, key in keys[side].items()} for side in nodes}


def _word(node: Any, segment_id: str) -> str:
    return " ".join(node.GetSegmentation().GetSegment(segment_id).GetName().casefold().split())


def _keys(node: Any, words: Mapping[str, str], others: set[str]) -> dict[str, str]:
    """Return what each segment, by its id, is told apart by: its name; its id too, if the name occurs twice."""
    found = list(words.values())
    keys = {}
    for segment_id, word in words.items():
        twice = found.count(word) > 1
        if twice and word in others:
            raise InputError(
                f"In the segmentation '{node.GetName()}' several segments are called "
                f"'{node.GetSegmentation().GetSegment(segment_id).GetName()}', so it is unclear which of them to compare with "
                "the one of that name in the other segmentation: give each its own name."
            )
        keys[segment_id] = f"{word}\n{segment_id}" if twice else word
    return keys


def _start(request: Request) -> sitk.Transform:
    above = request.moving.GetParentTransformNode()
    while above is not None:
        if above is request.initial_transform:
            # The voxels are written where this transform has brought them: it must not bring them there twice.
            return sitk.AffineTransform(3)
        above = above.GetParentTransformNode()
    return from_transform_node(request.initial_transform)


def _write_landmarks(request: Request, folder: Path) -> dict[str, str]:
    if request.fixed_landmarks is None:
        return {}
    points = {"fixed": _points(request.fixed_landmarks), "moving": _points(request.moving_landmarks)}
    if len(points["fixed"]) != len(points["moving"]):
        raise InputError(
            f"'{request.fixed_landmarks.GetName()}' has {len(points['fixed'])} points but "
            f"'{request.moving_landmarks.GetName()}' has {len(points['moving'])}: place pairs, in the same order."
        )
    paths = {}
    for side, places in points.items():
        path = folder / f"{side}-landmarks.csv"
        write_points(places, path)
        paths[f"{side}_landmarks"] = str(path)
    return paths


def _points(node: Any) -> np.ndarray:
    """Return the placed points of a markups node, shape (n, 3), world space, LPS mm."""
    count = node.GetNumberOfControlPoints()
    placed = [n for n in range(count) if node.GetNthControlPointPositionStatus(n) == node.PositionDefined]
    if not placed:
        raise InputError(f"The point list '{node.GetName()}' holds no points: place some, or leave the landmarks out.")
    places = []
    for n in placed:
        place = [0.0, 0.0, 0.0]
        node.GetNthControlPointPositionWorld(n, place)
        places.append(place)
    return np.array(places) * _FLIP


def _job(paths: Mapping[str, str], options: Mapping[str, Any]) -> Job:
    # By way of JSON, which checks the type of each option and builds the criterion from a dict, too.
    given: dict[str, Any] = {**paths, **options}
    return from_json(Job, to_json(Job(**given)), "The options")


def _write(image: sitk.Image, path: Path) -> str:
    """Write an image without compression, which takes longer than all else here, and return its path as text."""
    try:
        sitk.WriteImage(image, str(path), useCompression=False)
    except RuntimeError as error:
        raise OSError(str(error).strip().splitlines()[-1]) from error
    voxel_bytes = sitk.GetArrayViewFromImage(image).nbytes
    if path.stat().st_size < voxel_bytes:
        raise OSError(f"'{path.name}' is incomplete")
    return str(path)
