"""Everything a job names, read and checked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.geometry import Geometry
from HyperPredictRegLib.images import file_sha256, read_header, read_image_noted, read_labels_noted, read_mask_noted
from HyperPredictRegLib.intensity import Padding, foreground, normalised, padding
from HyperPredictRegLib.job import InputUsed, Job
from HyperPredictRegLib.labels import embedded_label_names, read_label_names
from HyperPredictRegLib.memory import available_bytes, estimated_bytes
from HyperPredictRegLib.points import read_points
from HyperPredictRegLib.transforms import read_transform_noted


@dataclass(frozen=True)
class Side:
    """One of the two images with all that belongs to it, everything on the image's own grid.

    Attributes
    ----------
    image : as read.
    foreground : uint8, the anatomy; inside the mask if there is one.
    normalised : float32, intensities about 0 to 1.
    mask : uint8 or None.
    labels : label map or None.
    landmarks : shape (n, 3), LPS mm, or None.
    missing : uint8, 1 where the image holds padding and nothing was measured; None if it holds none.
    notes : sentences on what was taken for granted when the files were read.
    """

    image: sitk.Image
    foreground: sitk.Image
    normalised: sitk.Image
    mask: sitk.Image | None
    labels: sitk.Image | None
    landmarks: np.ndarray | None
    missing: sitk.Image | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inputs:
    """What a job names, in memory; `notes` are sentences on what was taken for granted when it was read."""

    fixed: Side
    moving: Side
    label_names: dict[int, str]
    initial_transform: sitk.Transform | None
    used: tuple[InputUsed, ...]
    notes: tuple[str, ...] = ()


def read_inputs(job: Job) -> Inputs:
    """Read all inputs of a job.

    Raises
    ------
    InputError : any of them is missing, damaged or unsuitable, or they do not fit each other or the memory.
    """
    headers = [read_header(job.fixed, "fixed image"), read_header(job.moving, "moving image")]
    voxels = sum(int(np.prod(h.size, dtype=np.int64)) for h in headers)
    check_memory(voxels, 0, "The images")
    fixed = _read_side("fixed", job.fixed, job.fixed_mask, job.fixed_labels, job.fixed_landmarks)
    moving = _read_side("moving", job.moving, job.moving_mask, job.moving_labels, job.moving_landmarks)
    _check_landmarks(fixed.landmarks, moving.landmarks)
    names = {} if moving.labels is None else embedded_label_names(moving.labels)
    if job.label_names is not None:
        names = names | read_label_names(job.label_names)
    initial: sitk.Transform | None = None
    initial_notes: tuple[str, ...] = ()
    if job.initial_transform is not None:
        initial, initial_notes = read_transform_noted(job.initial_transform, "initial transform")
    used = tuple(
        InputUsed(role, path, tuple(side.image.GetSize()), tuple(side.image.GetSpacing()), file_sha256(path), side.notes)
        for role, path, side in (("fixed image", job.fixed, fixed), ("moving image", job.moving, moving))
    )
    return Inputs(fixed, moving, names, initial, used, (*fixed.notes, *moving.notes, *initial_notes))


def input_paths(job: Job) -> list[str]:
    """Return every file and folder that a job reads."""
    given = (
        job.fixed, job.moving, job.fixed_labels, job.moving_labels, job.fixed_mask, job.moving_mask, job.fixed_landmarks,
        job.moving_landmarks, job.label_names, job.initial_transform,
    )  # fmt: skip
    return [path for path in given if path is not None]


def check_memory(image_voxels: int, grid_voxels: int, what: str, engine_bytes: float = 0.0) -> None:
    """Raise `InputError` if a registration of this size would not fit into the memory that is free now."""
    needed, available = estimated_bytes(image_voxels, grid_voxels, engine_bytes), available_bytes()
    if available is not None and needed > available:
        raise InputError(
            f"{what} would need about {needed / 1e9:.1f} GB of memory, but only {available / 1e9:.1f} GB are free: choose "
            "a coarser preset, crop or resample the images, or close other programs."
        )


def _read_side(name: str, image_path: str, mask_path: str | None, labels_path: str | None, landmarks_path: str | None) -> Side:
    image, notes = read_image_noted(image_path, f"{name} image")
    grid = Geometry.of(image)
    nothing: tuple[None, tuple[str, ...]] = (None, ())
    mask, mask_notes = nothing if mask_path is None else read_mask_noted(mask_path, grid, f"{name} mask")
    labels, labels_notes = nothing if labels_path is None else read_labels_noted(labels_path, grid, f"{name} labels")
    landmarks = None if landmarks_path is None else read_points(landmarks_path, f"{name} landmarks")
    notes = (*notes, *mask_notes, *labels_notes)
    padded = padding(image)
    known = image if padded is None else padded.filled
    try:
        anatomy = foreground(image if mask is None else sitk.Mask(known, mask, _lowest(known)))
        if mask is not None and padded is not None:
            anatomy = sitk.And(anatomy, sitk.Equal(padded.missing, 0))
        scaled = normalised(known, anatomy)
    except InputError as error:
        raise InputError(f"The {name} image '{image_path}': {error}") from error
    if padded is None:
        return Side(image, anatomy, scaled, mask, labels, landmarks, notes=notes)
    return Side(image, anatomy, scaled, mask, labels, landmarks, padded.missing, (*notes, _padding_note(name, padded)))


def _padding_note(name: str, padded: Padding) -> str:
    values = " and ".join(f"{value:g}" for value in padded.values)
    return (
        f"{100 * padded.share:.3g} % of the {name} image's voxels hold {values}, far from all others: they are taken for padding "
        "where nothing was measured, and left out of the anatomy, of the scaling of intensities and of the comparison."
    )


def _lowest(image: sitk.Image) -> float:
    return float(sitk.GetArrayViewFromImage(image).min())


def _check_landmarks(fixed: np.ndarray | None, moving: np.ndarray | None) -> None:
    if (fixed is None) != (moving is None):
        raise InputError("Landmarks were given for one image only: give as many, in the same order, for the other.")
    if fixed is not None and moving is not None and len(fixed) != len(moving):
        raise InputError(f"There are {len(fixed)} fixed but {len(moving)} moving landmarks: give pairs, in the same order.")
