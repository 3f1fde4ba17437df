"""Everything a job names, read and checked."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.progress import CancelCheck, interruptible, never
from HyperPredictRegLib.core.resources import available_bytes, estimated_bytes
from HyperPredictRegLib.preprocessing.analysis import analysed
from HyperPredictRegLib.preprocessing.working_grid import working_spacing
from HyperPredictRegLib.results.job import Job
from HyperPredictRegLib.results.report import InputUsed
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.images import file_sha256, read_header, read_image, read_labels, read_mask
from HyperPredictRegLib.spatial.labels import embedded_label_names, names_given_twice, read_label_names, renumbered_like
from HyperPredictRegLib.spatial.points import read_points
from HyperPredictRegLib.spatial.transforms import read_transform

_PAIR_FIELDS = (
    "fixed", "moving", "fixed_labels", "moving_labels", "fixed_mask", "moving_mask", "fixed_landmarks", "moving_landmarks",
    "label_names", "initial_transform",
)  # fmt: skip


@dataclass(frozen=True)
class Side:
    """One of the two images with all that belongs to it.

    Foreground, normalised, mask and missing lie on one grid: the image's own, or, of an image of very many voxels, that of a
    coarser copy (see `analysis.analysed`).

    Attributes
    ----------
    image : as read.
    foreground : uint8, the anatomy; inside the mask if there is one.
    normalised : float32, intensities about 0 to 1.
    mask : uint8 or None.
    labels : label map on the image's own grid or None.
    landmarks : shape (n, 3), LPS mm, or None.
    missing : uint8, 1 where the image holds padding and nothing was measured; None if it holds none.
    notes : sentences on what was taken for granted when the files were read.
    background : intensity of nothing, see `intensity.background_value`.
    """

    image: sitk.Image
    foreground: sitk.Image
    normalised: sitk.Image
    mask: sitk.Image | None
    labels: sitk.Image | None
    landmarks: np.ndarray | None
    missing: sitk.Image | None = None
    notes: tuple[str, ...] = ()
    background: float = 0.0


@dataclass(frozen=True)
class Inputs:
    """What a job names, in memory.

    Attributes
    ----------
    fixed, moving : the images with what belongs to them.
    label_names : name of each label value that has one.
    initial_transform : maps fixed to moving points, LPS mm; or None.
    used : the images for the report.
    notes : sentences on what was taken for granted when the files were read.
    checksums : SHA-256 of every file, see `input_checksums`.
    """

    fixed: Side
    moving: Side
    label_names: dict[int, str]
    initial_transform: sitk.Transform | None
    used: tuple[InputUsed, ...]
    notes: tuple[str, ...] = ()
    checksums: dict[str, str] = field(default_factory=dict)


def read_inputs(job: Job, cancelled: CancelCheck = never) -> Inputs:
    """Read all inputs of a job.

    Raises
    ------
    InputError : any of them is missing, damaged or unsuitable, or they do not fit each other or the memory.
    Cancelled : the caller asked to stop.
    """
    headers = [read_header(job.fixed, "fixed image"), read_header(job.moving, "moving image")]
    voxels = sum(int(np.prod(h.size, dtype=np.int64)) for h in headers)
    check_memory(voxels, 0, "The images")
    fixed = _read_side("fixed", job, None, cancelled)
    moving = _read_side("moving", job, working_spacing(fixed.image, fixed.foreground, job.preset), cancelled)
    _check_landmarks(fixed.landmarks, moving.landmarks)
    fixed, names, name_notes = _named(fixed, moving)
    if job.label_names is not None:
        table = read_label_names(job.label_names)
        name_notes = (*name_notes, *names_given_twice(names, table))
        names = names | table
    notes = [*fixed.notes, *moving.notes, *name_notes]
    initial = None if job.initial_transform is None else read_transform(job.initial_transform, "initial transform", notes)
    checksums = interruptible(lambda: input_checksums(job), cancelled)
    used = tuple(
        InputUsed(f"{name} image", path, side.image.GetSize(), side.image.GetSpacing(), checksums[name], side.notes)
        for name, path, side in (("fixed", job.fixed, fixed), ("moving", job.moving, moving))
    )
    return Inputs(fixed, moving, names, initial, used, tuple(notes), checksums)


def input_paths(job: Job) -> dict[str, str]:
    """Return every file and folder of the pair that a job reads, by its field in the job."""
    return {name: path for name in _PAIR_FIELDS if (path := getattr(job, name)) is not None}


def input_checksums(job: Job) -> dict[str, str]:
    """Return the SHA-256 of every file of `input_paths`, by its field in the job.

    Raises
    ------
    InputError : a file is missing or cannot be read.
    """
    return {name: file_sha256(path) for name, path in input_paths(job).items()}


def check_memory(image_voxels: int, grid_voxels: int, what: str, engine_bytes: float = 0.0) -> None:
    """Raise `InputError` if a registration of this size would not fit into the memory that is free now."""
    needed, available = estimated_bytes(image_voxels, grid_voxels, engine_bytes), available_bytes()
    if available is not None and needed > available:
        raise InputError(
            f"{what} would need about {needed / 1e9:.1f} GB of memory, but only {available / 1e9:.1f} GB are free: choose "
            "a coarser preset, crop or resample the images, or close other programs."
        )


def _read_side(name: str, job: Job, spacing_mm: float | None, cancelled: CancelCheck) -> Side:
    """Read one image, and what belongs to it; `spacing_mm` is that of the working grid, if it is known."""
    image_path, mask_path, labels_path, landmarks_path = (
        getattr(job, f"{name}{part}") for part in ("", "_mask", "_labels", "_landmarks")
    )
    notes: list[str] = []
    image = interruptible(lambda: read_image(image_path, f"{name} image", notes), cancelled)
    grid = Geometry.of(image)
    mask = labels = None
    if mask_path is not None:
        mask = interruptible(lambda: read_mask(mask_path, grid, f"{name} mask", notes), cancelled)
    if labels_path is not None:
        labels = interruptible(lambda: read_labels(labels_path, grid, f"{name} labels", notes), cancelled)
    landmarks = None if landmarks_path is None else read_points(landmarks_path, f"{name} landmarks")
    try:
        found = analysed(image, mask, job.preset, spacing_mm=spacing_mm, cancelled=cancelled)
    except InputError as error:
        raise InputError(f"The {name} image '{image_path}': {error}") from error
    if found.padded_values:
        notes.append(_padding_note(name, found.padded_values, found.padded_share))
    return Side(
        image, found.foreground, found.normalised, found.mask, labels, landmarks, found.missing, tuple(notes), found.background
    )


def _named(fixed: Side, moving: Side) -> tuple[Side, dict[int, str], tuple[str, ...]]:
    """Return the fixed side with its labels numbered as the moving ones, the names of all labels, and sentences on that."""
    if fixed.labels is None or moving.labels is None:
        labels = fixed.labels if moving.labels is None else moving.labels
        return fixed, {} if labels is None else embedded_label_names(labels), ()
    labels, names, notes = renumbered_like(fixed.labels, moving.labels)
    return replace(fixed, labels=labels), names, notes


def _padding_note(name: str, padded_values: tuple[float, ...], share: float) -> str:
    values = " and ".join(f"{value:g}" for value in padded_values)
    return (
        f"{100 * share:.3g} % of the {name} image's voxels hold {values}, far from all others: they are taken for padding "
        "where nothing was measured, and left out of the anatomy, of the scaling of intensities and of the comparison."
    )


def _check_landmarks(fixed: np.ndarray | None, moving: np.ndarray | None) -> None:
    if (fixed is None) != (moving is None):
        raise InputError("Landmarks were given for one image only: give as many, in the same order, for the other.")
    if fixed is not None and moving is not None and len(fixed) != len(moving):
        raise InputError(f"There are {len(fixed)} fixed but {len(moving)} moving landmarks: give pairs, in the same order.")
