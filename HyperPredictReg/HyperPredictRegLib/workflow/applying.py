"""Apply a transform to images, label maps and points, forward or backward.

What a registration needs of an image, such as anatomy that stands out, is not asked of what is only applied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.formatting import capitalized, distance
from HyperPredictRegLib.core.progress import CancelCheck, Progress, ProgressEvent, never, silent, stop_if
from HyperPredictRegLib.preprocessing.resampling import content_places, label_places, reached_by, resampled_image, within
from HyperPredictRegLib.results.results_folder import prepared_folder, publish, real_folder
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.images import write_image
from HyperPredictRegLib.spatial.labels import Segment, describe_segments, header_fields, segments_of
from HyperPredictRegLib.spatial.points import read_point_file
from HyperPredictRegLib.spatial.reading.volumes import read_volume
from HyperPredictRegLib.spatial.transforms import (
    InversePoints,
    inverse_points,
    inverted,
    point_determinants,
    read_transform,
    transformed_points,
    voxel_size,
)

_SEGMENTATION_ENDING = ".seg.nrrd"
_ROUNDED = 1e-3
_MOST_PLACES = 1000
_PART_TO_TELL = 0.99
_UNSURE_VOXELS = 0.5
_MOST_NAMED = 5


@dataclass(frozen=True)
class Application:
    """What to apply a transform to.

    Attributes
    ----------
    transform : transform file, fixed to moving points (LPS).
    out : folder for the results, ``NAME-warped.nrrd`` and so on.
    images, labels, points : files in moving space, or in fixed space if `backward`.
    reference : image whose grid the images and labels are sampled on: the fixed image, or the moving one if `backward`.
    backward : from fixed to moving space instead of from moving to fixed.
    """

    transform: str
    out: str
    images: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    reference: str | None = None
    backward: bool = False


@dataclass(frozen=True)
class Applied:
    """What was written, and what to know about it."""

    files: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Way:
    """How things go.

    Attributes
    ----------
    forward : fixed to moving points.
    lookup : from the target to the source, which images need.
    move : from the source to the target, which points need.
    target : the grid of the reference; None if there is none.
    reference : its file.
    backward : whether `forward` is what points need.
    notes : sentences on what was taken for granted when transform and reference were read.
    """

    forward: sitk.Transform
    lookup: sitk.Transform
    move: sitk.Transform
    target: Geometry | None
    reference: str
    backward: bool
    notes: tuple[str, ...] = ()

    @property
    def voxel_mm(self) -> float:
        """The finest scale that is known here, in mm, for what counts as near."""
        sizes = [voxel_size(self.forward), None if self.target is None else min(self.target.spacing)]
        return min((size for size in sizes if size is not None), default=1.0)


def apply(
    task: Application, *, overwrite: bool = False, progress: Progress = silent, cancelled: CancelCheck = never
) -> Applied:
    """Apply a transform to everything that `task` names; write all of it or nothing.

    Images and labels are resampled, so that a voxel of the result looks up its place in the input; points move the other
    way. Forward, images need the transform itself and points its inverse; backward it is the other way about. Segmentations of
    3D Slicer and its lists of points keep what their files say of them.

    Raises
    ------
    InputError : an input cannot be used, or a result exists already and `overwrite` is false.
    Cancelled : the caller asked to stop; nothing was written.
    """
    items = [*task.images, *task.labels, *task.points]
    if not items:
        raise InputError("There is nothing to apply the transform to: give --image, --labels or --points.")
    progress(ProgressEvent("read", 0.0, task.transform))
    way = _way(task)
    results: list[tuple[str, sitk.Image | str]] = []
    warnings: list[str] = [*way.notes]
    made = ((task.images, _image), (task.labels, _labels), (task.points, _points))
    for names, make in made:
        for name in names:
            stop_if(cancelled)
            progress(ProgressEvent("apply", len(results) / len(items), name))
            file, result, found = make(name, way)
            results.append((file, result))
            warnings += found
    if task.images or task.labels:
        warnings += _unsure(way)
    used = [Path(name) for name in (*items, task.transform, *([] if task.reference is None else [task.reference]))]
    stop_if(cancelled)
    return Applied(_write_all(results, Path(task.out), overwrite, used), tuple(warnings))


def _way(task: Application) -> _Way:
    notes: list[str] = []
    forward = read_transform(task.transform, "transform", notes)
    target = None
    if task.reference is not None:
        # Whatever its voxels hold: only where they are matters.
        volume = read_volume(task.reference, "reference image")
        target = Geometry.of(_volume(volume.image, f"the reference image '{task.reference}'"))
        notes.extend(volume.notes)
    elif task.images or task.labels:
        raise InputError("Images and labels need --reference: the image whose grid they should be brought to (the fixed image).")
    # An inverse costs seconds, so it is made only where something needs it.
    back = inverted(forward) if task.points or task.backward else forward
    lookup, move = (back, forward) if task.backward else (forward, back)
    return _Way(forward, lookup, move, target, task.reference or "", task.backward, tuple(notes))


def _image(name: str, way: _Way) -> tuple[str, sitk.Image, list[str]]:
    volume = read_volume(name, "image")
    image = _scalar_volume(volume.image, f"the image '{name}'")
    result = resampled_image(image, way.lookup, _target(way))
    warnings = _landing(name, content_places(image, _MOST_PLACES), way, _PART_TO_TELL)
    if not warnings and _is_flat(result) and not _is_flat(image):
        warnings.append(f"Nothing of '{name}' shows on the reference image '{way.reference}': it falls between its voxels.")
    return _result_name(name, ".nrrd"), result, [*volume.notes, *warnings]


def _labels(name: str, way: _Way) -> tuple[str, sitk.Image, list[str]]:
    what = f"the labels '{name}'"
    volume = read_volume(name, "labels")
    source = _layers(volume.image, what)
    segments = segments_of(header_fields(source), source.GetNumberOfComponentsPerPixel(), what)
    labels = _whole_numbers(source, what)
    result = _target(way).resample(labels, way.lookup, interpolator=sitk.sitkNearestNeighbor)
    if segments:
        describe_segments(result, source, what)
    warnings = _landing(name, label_places(labels, _MOST_PLACES), way, 1.0)
    if not warnings or sitk.GetArrayViewFromImage(result).any():
        warnings += _lost(name, labels, result, segments, way)
    ending = _SEGMENTATION_ENDING if segments or name.lower().endswith(_SEGMENTATION_ENDING) else ".nrrd"
    return _result_name(name, ending), result, [*volume.notes, *warnings]


def _points(name: str, way: _Way) -> tuple[str, str, list[str]]:
    given = read_point_file(name, "points")
    moved = transformed_points(way.move, given.points)
    if way.backward or way.forward.IsLinear():
        # Exact, both of them; one that mirrors has no folded voxels.
        determinant = np.ones(len(moved)) if way.forward.IsLinear() else point_determinants(way.forward, given.points)
        found = InversePoints(moved, np.zeros(len(moved)), determinant)
    else:
        found = inverse_points(way.forward, given.points, moved)
    if not np.isfinite(found.points).all():
        raise InputError(f"The transform leads some points of '{name}' out of all numbers: is it the right one?")
    warnings = _doubts(name, found, way) + _beyond(name, found.points, way)
    return _result_name(name, given.ending), given.rewritten(found.points), warnings


def _doubts(name: str, found: InversePoints, way: _Way) -> list[str]:
    """Say which points cannot be trusted: by where they lead back to, and by the determinants around them."""
    missed = found.missed(way.voxel_mm)
    unsafe = int((missed | ~(found.determinant > 0)).sum())
    if not unsafe:
        return []
    message = (
        f"{unsafe} of {len(found.points)} points of '{name}' lie where the transform folds or has no inverse: do not trust "
        "where they have gone."
    )
    if missed.any():
        farthest = float(np.nanmax(np.where(missed, found.residual_mm, 0.0)))
        message += (
            f" Mapped forward again, {int(missed.sum())} of them come to lie beside their place, by "
            f"{distance(farthest, voxel_mm=way.voxel_mm)} at most."
        )
    return [message]


def _beyond(name: str, points: np.ndarray, way: _Way) -> list[str]:
    outside = 0 if way.target is None else int((~within(way.target, points)).sum())
    if not outside:
        return []
    return [f"{_share_of(outside, len(points))} points of '{name}' lie outside of the reference image '{way.reference}'."]


def _share_of(count: int, total: int) -> str:
    return f"All {total}" if count == total else f"{count} of {total}"


def _landing(name: str, places: np.ndarray, way: _Way, enough: float) -> list[str]:
    """Say how much of an item, which is at `places`, shape (n, 3), LPS mm, comes to lie on the reference, if less than enough."""
    if not len(places):
        return []
    share = float(reached_by(places, way.lookup, _target(way)).mean())
    if share == 0:
        return [
            f"Nothing of '{name}' comes to lie on the reference image '{way.reference}', so the result is empty: check that they "
            "are of the same patient and lie in the same space."
        ]
    if share >= enough:
        return []
    percent = min(max(round(100 * share), 1), 99)
    return [f"Only about {percent} % of '{name}' comes to lie on the reference image '{way.reference}': the rest is cut off."]


def _lost(name: str, given: sitk.Image, result: sitk.Image, segments: Sequence[Segment], way: _Way) -> list[str]:
    """Say which labels have voxels in `given` but none in `result`: they lie elsewhere, or between its voxels."""
    names = {(segment.layer, segment.value): f"'{segment.name}'" for segment in segments}
    gone = []
    for layer in range(given.GetNumberOfComponentsPerPixel()):
        before, after = (np.unique(_layer(image, layer)) for image in (given, result))
        lost = (int(value) for value in np.setdiff1d(before, after) if value != 0)
        gone += [names.get((layer, value), str(value)) for value in lost]
    if not gone:
        return []
    others = f" and {len(gone) - _MOST_NAMED} more" if len(gone) > _MOST_NAMED else ""
    which = f"label{'s' if len(gone) > 1 else ''} {', '.join(gone[:_MOST_NAMED])}{others}"
    return [f"Of '{name}' the {which} left no voxel on the reference image '{way.reference}'."]


def _layer(image: sitk.Image, layer: int) -> np.ndarray:
    voxels = sitk.GetArrayViewFromImage(image)
    return voxels[..., layer] if voxels.ndim > image.GetDimension() else voxels


def _is_flat(image: sitk.Image) -> bool:
    voxels = sitk.GetArrayViewFromImage(image)
    first = voxels.flat[0]
    return bool((np.isnan(voxels) if np.isnan(first) else voxels == first).all())


@np.errstate(over="ignore", invalid="ignore")
def _unsure(way: _Way) -> list[str]:
    """Say where on the reference a numerical inverse is not one, measured at some of its voxels."""
    target = _target(way)
    if not way.backward or way.forward.IsLinear():
        return []
    chosen = np.random.default_rng(0).integers(0, target.size, (_MOST_PLACES, 3))
    places = target.to_lps(chosen.astype(float))
    off = np.linalg.norm(transformed_points(way.forward, transformed_points(way.lookup, places)) - places, axis=1)
    unsure = ~(off <= _UNSURE_VOXELS * way.voxel_mm)
    if not unsure.any():
        return []
    percent = min(max(round(100 * float(unsure.mean())), 1), 100)
    return [
        f"The transform has no exact inverse in about {percent} % of the reference image '{way.reference}': what images and "
        f"labels show there is up to {distance(float(off.max()), voxel_mm=way.voxel_mm)} off."
    ]


def _target(way: _Way) -> Geometry:
    if way.target is None:
        raise InputError("Images and labels need --reference: the image whose grid they should be brought to.")
    return way.target


def _scalar_volume(image: sitk.Image, what: str) -> sitk.Image:
    """Return an image if it has three dimensions and one real number in each voxel.

    Raises
    ------
    InputError : it has not.
    """
    cap = capitalized(what)
    if _volume(image, what).GetNumberOfComponentsPerPixel() > 1:
        count = image.GetNumberOfComponentsPerPixel()
        raise InputError(f"{cap} has {count} values per voxel (color, vector or tensor): give one component of it.")
    if "complex" in image.GetPixelIDTypeAsString():
        raise InputError(f"{cap} has complex voxels: give its magnitude.")
    return image


def _volume(image: sitk.Image, what: str) -> sitk.Image:
    if image.GetDimension() == 3:
        return image
    raise InputError(
        f"{capitalized(what)} is {image.GetDimension()}-D, but a 3-D volume is needed: extract one frame of it."
    )


def _layers(image: sitk.Image, what: str) -> sitk.Image:
    """Return a label map, or the layers of a segmentation as the components of its voxels.

    Raises
    ------
    InputError : it is neither.
    """
    return _volume(image, what) if segments_of(header_fields(image), None, what) else _scalar_volume(image, what)


def _whole_numbers(image: sitk.Image, what: str) -> sitk.Image:
    """Return labels as integers; those in floating point may be off by what a file's scaling makes of them.

    Raises
    ------
    InputError : there are fractions, or numbers that are none.
    """
    voxels = sitk.GetArrayViewFromImage(image)
    if voxels.dtype.kind != "f":
        return image
    cap = capitalized(what)
    if not np.isfinite(voxels).all() or np.abs(voxels).max() > np.iinfo(np.int32).max:
        raise InputError(f"{cap} has voxels that are NaN, infinite or larger than any label: give a label map, not an image.")
    rounded = np.rint(voxels)
    if np.abs(voxels - rounded).max() > _ROUNDED:
        raise InputError(f"{cap} has voxels that are not whole numbers: give a label map, not an image.")
    small = rounded.min() >= 0 and rounded.max() < 2**16
    whole = sitk.GetImageFromArray(rounded.astype(np.uint16 if small else np.int32), isVector=voxels.ndim > 3)
    whole.CopyInformation(image)
    return whole


def _result_name(name: str, ending: str) -> str:
    stem = Path(name).name
    for known in (".nii.gz", _SEGMENTATION_ENDING, ".mrk.json", Path(name).suffix):
        if known and stem.lower().endswith(known.lower()):
            stem = stem[: -len(known)]
            break
    return f"{stem}-warped{ending}"


def _write_all(
    results: Sequence[tuple[str, sitk.Image | str]], out: Path, overwrite: bool, inputs: Sequence[Path]
) -> tuple[str, ...]:
    names = [name for name, _ in results]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"Two inputs would both be written to '{twice[0]}': rename one of them.")
    _check_free(names, out, overwrite, inputs)
    with prepared_folder(out, overwrite, inputs, names=names) as staging:
        for name, result in results:
            if isinstance(result, sitk.Image):
                write_image(result, staging / name)
                if result.GetNumberOfComponentsPerPixel() > 1:
                    _name_layers(staging / name)
            else:
                (staging / name).write_text(result, encoding="utf-8", newline="")
        publish(staging, out, overwrite, inputs, earlier=())
    return tuple(str(out / name) for name in names)


def _name_layers(path: Path) -> None:
    """Call the first axis of a segmentation's layers a list, as Slicer does; ITK calls whatever has components a vector."""
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\nkinds: vector domain", b"\nkinds: list domain", 1))


def _check_free(names: Sequence[str], out: Path, overwrite: bool, inputs: Sequence[Path]) -> None:
    for path in (real_folder(out) / name for name in names):
        if path.exists() and any(given.exists() and given.samefile(path) for given in inputs):
            raise InputError(f"The result would be written over the input '{path}': choose another --out.")
        if path.exists() and not overwrite:
            raise InputError(f"'{path}' exists already: choose another --out, or say --overwrite.")
