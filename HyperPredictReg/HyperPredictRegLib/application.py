"""Carry images, label maps and points through a transform, forward or backward."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.geometry import Geometry
from HyperPredictRegLib.images import read_image, read_labels, write_image
from HyperPredictRegLib.intensity import background_value, foreground
from HyperPredictRegLib.points import read_points, write_points
from HyperPredictRegLib.progress import CancelCheck, Progress, ProgressEvent, never, silent, stop_if
from HyperPredictRegLib.transforms import InversePoints, inverse_points, inverted, read_transform, transformed_points

_UNSAFE_RESIDUAL_MM = 1.0


@dataclass(frozen=True)
class Application:
    """What to carry where.

    Attributes
    ----------
    transform : transform file, fixed to moving points (LPS).
    out : folder for the results, ``NAME-warped.nrrd`` and so on.
    images, labels, points : files in moving space, or in fixed space if `backward`.
    reference : image whose grid the images and labels are sampled on: the fixed image, or the moving one if `backward`.
    backward : carry from fixed to moving space instead of from moving to fixed.
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


def apply(
    task: Application, *, overwrite: bool = False, progress: Progress = silent, cancelled: CancelCheck = never
) -> Applied:
    """Carry everything that `task` names; write all of it or nothing.

    Images and labels are resampled, so that a voxel of the result looks up its place in the input; points move the other
    way. Forward, images need the transform itself and points its inverse; backward it is the other way about.

    Raises
    ------
    InputError : an input cannot be used, or a result exists already and `overwrite` is false.
    Cancelled : the caller asked to stop; nothing was written.
    """
    if not (task.images or task.labels or task.points):
        raise InputError("There is nothing to apply the transform to: give --image, --labels or --points.")
    progress(ProgressEvent("read", 0.0, task.transform))
    forward = read_transform(task.transform, "transform")
    reference = None if task.reference is None else read_image(task.reference, "reference image")
    if reference is None and (task.images or task.labels):
        raise InputError("Images and labels need --reference: the image whose grid they should be brought to (the fixed image).")
    grid = _inverse_grid(forward, reference, task)
    # An inverse costs seconds, so it is made only where something is carried through it.
    backward = inverted(forward, grid) if task.points or task.backward else forward
    lookup, move = (backward, forward) if task.backward else (forward, backward)
    results: list[tuple[Path, sitk.Image | np.ndarray]] = []
    warnings: list[str] = []
    out = Path(task.out)

    def step(name: str) -> None:
        stop_if(cancelled)
        progress(ProgressEvent("apply", len(results) / len([*task.images, *task.labels, *task.points]), name))

    if reference is not None:
        target = Geometry.of(reference)
        for name in task.images:
            step(name)
            image = read_image(name, "image")
            results.append((_result_path(out, name, ".nrrd"), target.resample(image, lookup, default_value=_nothing(image))))
        for name in task.labels:
            step(name)
            labels = _labels(name)
            warped = target.resample(labels, lookup, interpolator=sitk.sitkNearestNeighbor)
            results.append((_result_path(out, name, ".nrrd"), warped))
    for name in task.points:
        step(name)
        points = read_points(name, "points")
        moved = transformed_points(move, points)
        if not task.backward:
            exact = inverse_points(forward, points, moved)
            moved = exact.points
            warnings += _point_warnings(name, exact)
        suffix = ".mrk.json" if name.endswith(".json") else ".csv"
        results.append((_result_path(out, name, suffix), moved))
    inputs = [*task.images, *task.labels, *task.points, task.transform, *([task.reference] if task.reference else [])]
    return Applied(_write_all(results, out, overwrite, inputs), tuple(warnings))


def _inverse_grid(transform: sitk.Transform, reference: sitk.Image | None, task: Application) -> Geometry:
    """Return where to sample a B-spline for its inverse: around the reference, or around the points themselves."""
    if reference is not None:
        return Geometry.of(reference)
    points = np.concatenate([read_points(name, "points") for name in task.points])
    reach = float(np.ptp(points, axis=0).max()) + 50.0
    return Geometry((1, 1, 1), (1.0, 1.0, 1.0)).covering(points, max(reach / 100, 0.5), reach / 4)


def _labels(name: str) -> sitk.Image:
    image = read_image(name, "labels")
    return read_labels(name, Geometry.of(image), "labels")


def _nothing(image: sitk.Image) -> float:
    """Return the intensity for voxels that the image does not reach, the same that a registration uses."""
    return background_value(image, foreground(image))


def _point_warnings(name: str, found: InversePoints) -> list[str]:
    unsafe = int(((found.residual_mm > _UNSAFE_RESIDUAL_MM) | (found.determinant <= 0)).sum())
    if not unsafe:
        return []
    return [
        f"{unsafe} of {len(found.points)} points of '{name}' lie where the transform folds or has no inverse: do not trust "
        "where they have gone."
    ]


def _result_path(out: Path, name: str, suffix: str) -> Path:
    stem = Path(name).name
    for ending in (".nii.gz", ".seg.nrrd", ".mrk.json", Path(name).suffix):
        if ending and stem.lower().endswith(ending):
            stem = stem[: -len(ending)]
            break
    return out / f"{stem}-warped{suffix}"


def _write_all(
    results: list[tuple[Path, sitk.Image | np.ndarray]], out: Path, overwrite: bool, inputs: Sequence[str]
) -> tuple[str, ...]:
    names = [path.name for path, _ in results]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"Two inputs would both be written to '{twice[0]}': rename one of them.")
    for path, _ in results:
        if path.exists() and any(Path(name).samefile(path) for name in inputs):
            raise InputError(f"The result would be written over the input '{path}': choose another --out.")
    existing = [path for path, _ in results if path.exists()]
    if existing and not overwrite:
        raise InputError(f"'{existing[0]}' exists already: choose another --out, or say --overwrite.")
    written: list[tuple[Path, Path]] = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path, result in results:
            # The suffix decides the file format, so the temporary name keeps it.
            temporary = path.with_name(f".partial-{os.getpid()}-{path.name}")
            written.append((temporary, path))
            if isinstance(result, sitk.Image):
                write_image(result, temporary)
            else:
                write_points(result, temporary)
        for temporary, path in written:
            temporary.replace(path)
    except OSError as error:
        raise InputError(f"The results could not be written to '{out}': {error}. Nothing was kept.") from error
    finally:
        for temporary, _ in written:
            temporary.unlink(missing_ok=True)
    return tuple(str(path) for _, path in written)
