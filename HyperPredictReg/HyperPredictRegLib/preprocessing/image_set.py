"""Everything a job names, read and checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.formatting import capitalized
from HyperPredictRegLib.core.progress import CancelCheck, interruptible, never
from HyperPredictRegLib.core.resources import available_bytes, estimated_bytes
from HyperPredictRegLib.preprocessing.analysis import Analysed, analysed
from HyperPredictRegLib.preprocessing.placement import check_placement
from HyperPredictRegLib.preprocessing.working_grid import PRESETS, working_spacing
from HyperPredictRegLib.results.job import Job, channel_paths, channel_role
from HyperPredictRegLib.results.report import InputUsed
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.images import file_sha256, read_header, read_image, read_labels, read_mask
from HyperPredictRegLib.spatial.labels import embedded_label_names, names_given_twice, read_label_names, renumbered_like
from HyperPredictRegLib.spatial.points import read_points
from HyperPredictRegLib.spatial.slabs import MOST_VOXELS
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
class ChannelSides:
    """Both images of a channel beside the first pair, each normalised by itself, and the weight of its force.

    `number` counts from 2; the masks of its sides are those of the first pair on its own grids; there are no labels or landmarks.
    """

    number: int
    fixed: Side
    moving: Side
    weight: float


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
    channels : further pairs of images.
    """

    fixed: Side
    moving: Side
    label_names: dict[int, str]
    initial_transform: sitk.Transform | None
    used: tuple[InputUsed, ...]
    notes: tuple[str, ...] = ()
    checksums: dict[str, str] = field(default_factory=dict)
    channels: tuple[ChannelSides, ...] = ()

    @property
    def voxels(self) -> tuple[int, int]:
        """Return the voxels of all images that are worked on as they are, and of those for which coarser copies stand."""
        pairs = [(self.fixed, self.moving), *((channel.fixed, channel.moving) for channel in self.channels)]
        sides = [side for pair in pairs for side in pair]
        return _parted((side.image.GetNumberOfPixels(), side.normalised.GetSize() != side.image.GetSize()) for side in sides)


def read_inputs(job: Job, cancelled: CancelCheck = never) -> Inputs:
    """Read all inputs of a job.

    Raises
    ------
    InputError : any of them is missing, damaged or unsuitable, or they do not fit each other or the memory.
    Cancelled : the caller asked to stop.
    """
    headers = [read_header(job.fixed, "fixed image"), read_header(job.moving, "moving image")]
    headers += [read_header(path, channel_role(key)) for key, path in channel_paths(job).items()]
    sizes = [int(np.prod(h.size, dtype=np.int64)) for h in headers]
    # Whether there will be coarser copies depends on the working grid as well; that of the finest preset is never so coarse.
    check_memory(_parted((size, size > MOST_VOXELS and PRESETS.get(job.preset, 0) > 0) for size in sizes), 0, "The images")
    fixed = _read_side("fixed", job, None, cancelled)
    spacing = working_spacing(fixed.image, fixed.foreground, job.preset)
    moving = _read_side("moving", job, spacing, cancelled)
    _check_landmarks(fixed.landmarks, moving.landmarks)
    fixed, names, name_notes = _named(fixed, moving)
    if job.label_names is not None:
        table = read_label_names(job.label_names)
        name_notes = (*name_notes, *names_given_twice(names, table))
        names = names | table
    channels = _read_channels(job, {"fixed": fixed, "moving": moving}, spacing, cancelled)
    notes = [*fixed.notes, *moving.notes, *name_notes, *(n for c in channels for side in (c.fixed, c.moving) for n in side.notes)]
    initial = None if job.initial_transform is None else read_transform(job.initial_transform, "initial transform", notes)
    checksums = interruptible(lambda: input_checksums(job), cancelled)
    images = [("fixed image", "fixed", job.fixed, fixed), ("moving image", "moving", job.moving, moving)]
    of_channels = [side for channel in channels for side in (channel.fixed, channel.moving)]
    images += [(channel_role(k), k, path, side) for (k, path), side in zip(channel_paths(job).items(), of_channels, strict=True)]
    used = tuple(
        InputUsed(role, path, side.image.GetSize(), side.image.GetSpacing(), checksums[key], side.notes)
        for role, key, path, side in images
    )
    return Inputs(fixed, moving, names, initial, used, tuple(notes), checksums, channels)


def input_paths(job: Job) -> dict[str, str]:
    """Return every file and folder of the pair that a job reads, by its field in the job or as in `channel_paths`."""
    return {name: path for name in _PAIR_FIELDS if (path := getattr(job, name)) is not None} | channel_paths(job)


def input_checksums(job: Job) -> dict[str, str]:
    """Return the SHA-256 of every file of `input_paths`, by the same names.

    Raises
    ------
    InputError : a file is missing or cannot be read.
    """
    return {name: file_sha256(path) for name, path in input_paths(job).items()}


def check_memory(voxels: tuple[int, int], grid_voxels: int, what: str, engine_bytes: float = 0.0) -> None:
    """Raise `InputError` if a registration of this size would not fit into the memory that is free now.

    `voxels` are those of `Inputs.voxels`.
    """
    needed, available = estimated_bytes(voxels[0], grid_voxels, engine_bytes, voxels[1]), available_bytes()
    if available is not None and needed > available:
        raise InputError(
            f"{what} would need about {needed / 1e9:.1f} GB of memory, but only {available / 1e9:.1f} GB are free: choose "
            "a coarser preset, crop or resample the images, or close other programs."
        )


def _parted(images: Iterable[tuple[int, bool]]) -> tuple[int, int]:
    """Add up the voxels of images that are worked on as they are, and of those that are not."""
    found = [0, 0]
    for voxels, reduced in images:
        found[reduced] += voxels
    return found[0], found[1]


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
    what = (f"The {name} image '{image_path}'", f"the {name} image's voxels")
    side = _side(image, mask, what, notes, partial(analysed, preset=job.preset, spacing_mm=spacing_mm, cancelled=cancelled))
    return replace(side, labels=labels, landmarks=landmarks)


def _side(
    image: sitk.Image, mask: sitk.Image | None, names: tuple[str, str], notes: list[str], analyse: Callable[..., Analysed]
) -> Side:
    """Return an image and its mask with what is found of them; `names` are those of the image and of its voxels in sentences."""
    what, voxels = names
    try:
        found = analyse(image, mask)
    except InputError as error:
        raise InputError(f"{what}: {error}") from error
    if found.padded_values:
        notes.append(_padding_note(voxels, found.padded_values, found.padded_share))
    return Side(image, found.foreground, found.normalised, found.mask, None, None, found.missing, tuple(notes), found.background)


def _read_channels(
    job: Job, first: Mapping[str, Side], spacing_mm: float, cancelled: CancelCheck
) -> tuple[ChannelSides, ...]:
    """Read the channels of a job and compare where they lie with the `first` pair, whose masks are theirs too."""
    analyse = partial(analysed, preset=job.preset, spacing_mm=spacing_mm, cancelled=cancelled)
    sides = []
    for key, path in channel_paths(job).items():
        name, role = key.partition("_")[0], channel_role(key)
        notes: list[str] = []
        image, what = interruptible(partial(read_image, path, role, notes), cancelled), f"the {role} '{path}'"
        mask = first[name].mask
        if mask is not None:
            mask = Geometry.of(image).resample(mask, interpolator=sitk.sitkNearestNeighbor)
            if not sitk.GetArrayViewFromImage(mask).any():
                raise InputError(f"{capitalized(what)} lies beside the {name} mask: leave one of the two out.")
        side = _side(image, mask, (capitalized(what), f"the voxels of the {role}"), notes, analyse)
        placed = check_placement(first[name].foreground, side.foreground, what, f"the {name} image '{getattr(job, name)}'")
        sides.append(replace(side, notes=(*side.notes, *placed)))
    return tuple(
        ChannelSides(number, fixed, moving, channel.weight)
        for number, (channel, fixed, moving) in enumerate(zip(job.channels, sides[::2], sides[1::2], strict=True), start=2)
    )


def _named(fixed: Side, moving: Side) -> tuple[Side, dict[int, str], tuple[str, ...]]:
    """Return the fixed side with its labels numbered as the moving ones, the names of all labels, and sentences on that."""
    if fixed.labels is None or moving.labels is None:
        labels = fixed.labels if moving.labels is None else moving.labels
        return fixed, {} if labels is None else embedded_label_names(labels), ()
    labels, names, notes = renumbered_like(fixed.labels, moving.labels)
    return replace(fixed, labels=labels), names, notes


def _padding_note(whose: str, padded_values: tuple[float, ...], share: float) -> str:
    values = " and ".join(f"{value:g}" for value in padded_values)
    return (
        f"{100 * share:.3g} % of {whose} hold {values}, far from all others: they are taken for padding "
        "where nothing was measured, and left out of the anatomy, of the scaling of intensities and of the comparison."
    )


def _check_landmarks(fixed: np.ndarray | None, moving: np.ndarray | None) -> None:
    if (fixed is None) != (moving is None):
        raise InputError("Landmarks were given for one image only: give as many, in the same order, for the other.")
    if fixed is not None and moving is not None and len(fixed) != len(moving):
        raise InputError(f"There are {len(fixed)} fixed but {len(moving)} moving landmarks: give pairs, in the same order.")
