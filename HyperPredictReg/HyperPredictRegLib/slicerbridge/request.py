"""From nodes to a job: what a user chose in a scene, written as files that a child process can read.

Everything is written as it lies in world space: linear parent transforms are applied. The nodes are left as they are.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.json_records import from_json, to_json
from HyperPredictRegLib.results.exchange import prediction_from_json, prediction_to_json
from HyperPredictRegLib.results.job import LANDMARK_USES, Channel, Job, channel_role, check_landmarks
from HyperPredictRegLib.slicerbridge.segmentations import OverlapError, from_segmentation_node, segment_labels, segments_mask
from HyperPredictRegLib.slicerbridge.transforms import from_transform_node
from HyperPredictRegLib.slicerbridge.volumes import (
    LPS_RAS,
    from_volume_node,
    lies_under,
    parent_to_world,
    volume_geometry,
)
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.images import check_image
from HyperPredictRegLib.spatial.points import write_points
from HyperPredictRegLib.spatial.structures import identity, match, says_nothing
from HyperPredictRegLib.spatial.transforms import write_transform

JOB_NAME = "job.json"
RESULTS_NAME = "out"
_FLIP = np.diag(LPS_RAS)[:3]
_GIVEN_BY_NODES = frozenset({
    "fixed", "moving", "out", "fixed_labels", "moving_labels", "fixed_mask", "moving_mask", "fixed_landmarks",
    "moving_landmarks", "label_names", "initial_transform", "channels", "prediction", "scene", "schema_version",
})  # fmt: skip
_VOLUME = ("a scalar volume", ("vtkMRMLScalarVolumeNode",))
_SEGMENTATION = ("a segmentation", ("vtkMRMLSegmentationNode",))
_MASK = ("a segmentation, label map or scalar volume", ("vtkMRMLSegmentationNode", "vtkMRMLScalarVolumeNode"))
_TRANSFORM = ("a transform", ("vtkMRMLTransformNode",))
_POINTS = ("a point list", ("vtkMRMLMarkupsNode",))
_TEXT = ("a text", ("vtkMRMLTextNode",))
_INPUTS = ("fixed", "moving", "moving_segmentation", "fixed_mask", "moving_mask", "initial_transform")
_REFERENCE = "HyperPredictRegFor."  # and the role of an input
_PREDICTED_AT = "HyperPredictReg.predictedAt"
_GRID_BITS, _PLACES_BITS = 32, 20


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
class ChannelChoice:
    """One more pair of volumes, such as T2 beside T1, each where the volume of its side lies; see `results.job.Channel`."""

    fixed: Any
    moving: Any
    weight: float = 1.0


@dataclass(frozen=True)
class Request:
    """What a user asks for, as nodes; None where nothing was chosen.

    Attributes
    ----------
    fixed, moving : volume nodes.
    fixed_segmentation, moving_segmentation : segmentation nodes; segments whose names mean one structure are compared.
    fixed_mask, moving_mask : where the images may be compared.
    initial_transform : a transform node, as it would be put on the moving volume where Slicer shows that now. If the moving
        volume lies under it already, the start is where Slicer shows the volume.
    fixed_landmarks, moving_landmarks : point lists, as many points in the same order.
    channels : further pairs of volumes.
    prediction : the text node of a finished prediction of the same inputs, which a registration takes instead of predicting anew.
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
    channels: tuple[ChannelChoice, ...] = ()
    prediction: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)


def write_job(request: Request, folder: Path) -> Generator[str, None, tuple[Job, tuple[str, ...]]]:
    """Write all that a request names into `folder`, with a ``job.json``, piece by piece: an application can go on in between.

    Its results are to go to ``out`` within the folder. A moving segmentation whose segments overlap is left out where there
    is no fixed one to compare it with: it can be propagated, but is no label map.

    Parameters
    ----------
    request : what to do; see `check_request`.
    folder : an existing folder of one's own, or one to make.

    Yields
    ------
    What comes next, such as "copying 'CT'", before each piece that may take a second.

    Returns
    -------
    The job, and sentences on what was left out.

    Raises
    ------
    InputError : a node cannot be used; the sentence names it. Also if the files cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths, notes = yield from _write_inputs(request, folder)
        job = _job(paths | {"out": str(folder / RESULTS_NAME)}, request.options)
        (folder / JOB_NAME).write_text(to_json(job), encoding="utf-8")
    except OSError as error:
        raise InputError(f"The inputs could not be written to '{folder}' ({error}): is there room on the disk?") from error
    return job, notes


def check_request(request: Request) -> None:
    """Raise `InputError` if a choice or an option cannot be used, as far as that can be told without looking at voxels."""
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
    _check_channels(request)
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
    use = _job({"fixed": "", "moving": "", "out": ""}, request.options).landmarks_for
    check_landmarks(use, *given, request.initial_transform)
    for node in (request.fixed, request.moving, *channel_volumes(request).values()):
        volume_geometry(node)


def channel_volumes(request: Request) -> dict[str, Any]:
    """Return the volumes of a request's channels by the names of `results.job.channel_paths`."""
    return {
        f"{side}_channel_{number}": getattr(channel, side)
        for number, channel in enumerate(request.channels, start=2)
        for side in ("fixed", "moving")
    }


def _check_channels(request: Request) -> None:
    """Refuse a channel that lacks a volume, has one twice, or has no weight that counts."""
    for number, channel in enumerate(request.channels, start=2):
        for side, node in (("fixed", channel.fixed), ("moving", channel.moving)):
            if node is None:
                raise InputError(f"Channel {number} has no {side} volume: choose one, or none for both of its sides.")
        if channel.fixed is channel.moving:
            raise InputError(f"The volume '{channel.fixed.GetName()}' is chosen as fixed and as moving of channel {number}.")
        Channel("", "", channel.weight)


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
        ("prediction", request.prediction, _TEXT),
        *((channel_role(key).replace("image", "volume"), node, _VOLUME) for key, node in channel_volumes(request).items()),
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
    given += channel_volumes(request).values()
    for node in dict.fromkeys(node for node in given if node is not None):
        if np.linalg.det(parent_to_world(node)[:3, :3]) < 0:
            kind = "segmentation" if node.IsA("vtkMRMLSegmentationNode") else "volume"
            above = node.GetParentTransformNode().GetName()
            raise InputError(
                f"The {kind} '{node.GetName()}' is under the transform '{above}', which mirrors it (left becomes right): "
                "take it out of that transform, or harden the transform if the mirror image is meant."
            )


def _write_inputs(request: Request, folder: Path) -> Generator[str, None, tuple[dict[str, Any], tuple[str, ...]]]:
    """Write every input; return the paths by the names that `Job` has for them, and sentences on what was left out."""
    paths: dict[str, Any] = {}
    grids: dict[str, Geometry] = {}
    for side, node in (("fixed", request.fixed), ("moving", request.moving)):
        yield f"copying '{node.GetName()}'"
        image = _settled(from_volume_node(node))
        check_image(image, f"the {side} volume '{node.GetName()}'")
        grids[side] = Geometry.of(image)
        paths[side] = _write(image, folder / f"{side}.nrrd")
    paths["channels"] = yield from _write_channels(request, folder)
    yield "copying what belongs to the volumes"
    labels, notes = _write_labels(request, grids, folder)
    paths |= labels
    for side, mask, volume in (
        ("fixed", request.fixed_mask, request.fixed), ("moving", request.moving_mask, request.moving)
    ):
        if mask is not None:
            image = mask_image(mask, grids[side], volume.GetName())
            paths[f"{side}_mask"] = _write(image, folder / f"{side}-mask.nrrd")
    if request.initial_transform is not None:
        start = _start(request)
        # The text file is the same each time that it is written, by which a prediction knows its inputs.
        path = folder / ("initial-transform.tfm" if start.IsLinear() else "initial-transform.h5")
        write_transform(start, path)
        paths["initial_transform"] = str(path)
    if request.prediction is not None:
        name = request.prediction.GetName()
        prediction = prediction_from_json(request.prediction.GetText() or "", f"the text '{name}'")
        path = folder / "prediction.json"
        path.write_text(prediction_to_json(prediction), encoding="utf-8")
        paths["prediction"] = str(path)
    return paths | _write_landmarks(request, folder), notes


def _write_channels(request: Request, folder: Path) -> Generator[str, None, tuple[Channel, ...]]:
    written: dict[str, str] = {}
    for key, node in channel_volumes(request).items():
        yield f"copying '{node.GetName()}'"
        image = _settled(from_volume_node(node))
        check_image(image, f"the {channel_role(key)}, '{node.GetName()}',")
        written[key] = _write(image, folder / f"{key.replace('_', '-')}.nrrd")
    return tuple(
        Channel(written[f"fixed_channel_{number}"], written[f"moving_channel_{number}"], channel.weight)
        for number, channel in enumerate(request.channels, start=2)
    )


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
        # Nearest neighbor after the comparison: values between 0 and something else are never made.
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


def _write_labels(
    request: Request, grids: Mapping[str, Geometry], folder: Path
) -> tuple[dict[str, str], tuple[str, ...]]:
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
            overlap = str(error).partition(":")[0]
            if "fixed" not in nodes:
                return {}, (f"{overlap}, so it is propagated as it is, but nothing is predicted or measured for its segments.",)
            raise InputError(
                f"{overlap}, so Dice cannot be measured: remove the overlap, or leave the fixed segmentation out, and the moving "
                "one will be propagated as it is."
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
    return paths, ()


def _numbers(nodes: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Return the label of each segment by its id, for each segmentation: segments that mean one structure have the moving one's.

    The moving labels do not depend on the fixed segmentation, so that a prediction made without it is for the same labels.
    """
    own = {side: segment_labels(node) for side, node in nodes.items()}
    if len(nodes) < 2:
        return own
    fixed, moving = (_names(nodes[side]) for side in ("fixed", "moving"))
    same = {i: other for i, name in fixed.items() if (other := _meant(name, moving)) and _meant(moving[other], fixed) == i}
    taken, free = set(own["moving"].values()), itertools.count(max(*own["fixed"].values(), *own["moving"].values()) + 1)
    labels = {}
    for segment_id, value in own["fixed"].items():
        if segment_id in same:
            labels[segment_id] = own["moving"][same[segment_id]]
            continue
        unclear = [other for other, name in moving.items() if other not in same.values() and _alike(name, fixed[segment_id])]
        if unclear:
            node, name = (nodes["moving"], moving[unclear[0]]) if len(unclear) > 1 else (nodes["fixed"], fixed[segment_id])
            raise InputError(
                f"In the segmentation '{node.GetName()}' several segments are called '{name}', so it is unclear which of them "
                "to compare with the one of that name in the other segmentation: give each its own name."
            )
        labels[segment_id] = next(free) if value in taken else value
    return {"fixed": labels, "moving": own["moving"]}


def _names(node: Any) -> dict[str, str]:
    segmentation = node.GetSegmentation()
    return {i: segmentation.GetSegment(i).GetName() for i in segmentation.GetSegmentIDs()}


def _meant(name: str, names: Mapping[str, str]) -> str | None:
    """Return the id of the only segment whose name is the same or, if there is none, means the same."""
    found = [i for i, other in names.items() if _plain(other) == _plain(name)]
    if found:
        return found[0] if len(found) == 1 else None
    return match(name, names)


def _alike(name: str, other: str) -> bool:
    return _plain(name) == _plain(other) or (identity(name) == identity(other) and not says_nothing(name))


def _plain(name: str) -> str:
    return " ".join(name.casefold().split())


def _start(request: Request) -> sitk.Transform:
    if lies_under(request.moving, request.initial_transform):
        # The voxels are written where this transform has brought them: it must not bring them there twice.
        return sitk.AffineTransform(3)
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


def _settled(image: sitk.Image) -> sitk.Image:
    """Return an image, its grid rounded in place in the last digits.

    A volume that is saved and loaded has other last digits in its grid, and a prediction knows its inputs by their files' bytes.
    """
    image.SetOrigin(_rounded(image.GetOrigin(), _GRID_BITS))
    image.SetDirection(_rounded(image.GetDirection(), _GRID_BITS))
    # Relative to its size, so that the smallest one stays above 0.
    share, exponent = np.frexp(image.GetSpacing())
    image.SetSpacing(np.ldexp(_rounded(share, _GRID_BITS), exponent).tolist())
    return image


def _rounded(values: Any, bits: int) -> tuple[float, ...]:
    """Return numbers as multiples of 1 / 2**bits: decimal rounding would leave common spacings, as 0.9765625, on its edge."""
    return tuple((np.round(np.asarray(values) * 2.0**bits) / 2.0**bits).tolist())


def places_of(request: Request) -> str:
    """Return as JSON where the volumes lie that a request names, which segments its masks consist of, and the landmarks it uses.

    Of a volume: its size and the matrix from its indices to LPS mm in world space; None if it has no such matrix.
    """
    places: dict[str, Any] = {}
    volumes = {"fixed": request.fixed, "moving": request.moving, **channel_volumes(request)}
    for role, node in volumes.items():
        try:
            grid = volume_geometry(node)
            places[role] = [*grid.size, *_rounded(grid.index_to_lps.ravel(), _PLACES_BITS)]
        except InputError:
            places[role] = None
    for role in ("fixed_mask", "moving_mask"):
        mask = getattr(request, role)
        places[role] = "" if mask is None else mask.segment_id
    if landmarks := _landmarks(request):
        places["landmarks"] = landmarks
    if request.channels:
        places["channel_weights"] = [channel.weight for channel in request.channels]
    return json.dumps(places)


def _landmarks(request: Request) -> list[Any]:
    """Return what a request uses landmarks for, and where they are, LPS mm; nothing if they are for measuring only."""
    used, nodes = request.options.get("landmarks_for", LANDMARK_USES[0]), (request.fixed_landmarks, request.moving_landmarks)
    if used == LANDMARK_USES[0] or None in nodes:
        return []
    return [used, *(_rounded(_points(node), _PLACES_BITS) if node.GetNumberOfDefinedControlPoints() else [] for node in nodes)]


def difference(node: Any, request: Request) -> str:
    """Tell what has changed since the prediction in a text node was made, if a request asks for it anew.

    Returns
    -------
    "volumes" (others), "inputs" (another mask, segmentation, channel or start, or other landmarks that are used), "places"
    (volumes have moved), or "" if nothing has changed. Voxels that were edited are not noticed.
    """
    differing = [
        role for role, now in _inputs(request).items() if node.GetNodeReference(_REFERENCE + role) is not now
    ]
    if "fixed" in differing or "moving" in differing:
        return "volumes"
    then, now = json.loads(node.GetAttribute(_PREDICTED_AT) or "{}"), json.loads(places_of(request))
    own = ("fixed_mask", "moving_mask", "landmarks", "channel_weights")
    if differing or any(then.get(what) != now.get(what) for what in own):
        return "inputs"
    volumes = ("fixed", "moving", *channel_volumes(request))
    if any(now[role] is not None and then.get(role) != now[role] for role in volumes):
        return "places"
    return ""


def record_inputs(report_node: Any, request: Request, places: str) -> None:
    """Let the text node of a prediction refer to what it was made of; `places` is what `places_of` said when it began."""
    for role, node in _inputs(request).items():
        report_node.SetNodeReferenceID(_REFERENCE + role, None if node is None else node.GetID())
    report_node.SetAttribute(_PREDICTED_AT, places)


def _inputs(request: Request) -> dict[str, Any]:
    chosen = {role: getattr(request, role) for role in _INPUTS} | channel_volumes(request)
    return {role: one.node if isinstance(one, MaskChoice) else one for role, one in chosen.items()}
