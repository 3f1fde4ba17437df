"""Images from files and DICOM folders, with sentences on everything that was taken for granted on the way."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.resources import available_bytes
from HyperPredictRegLib.spatial.reading.dicom import dicom_series, frames_note, is_dicom, states_true_lengths
from HyperPredictRegLib.spatial.reading.files import check_input, named_in_errors
from HyperPredictRegLib.spatial.reading.nifti import (
    NiftiHeader,
    check_complete,
    check_nifti,
    check_placement,
    largest_slant_mm,
    partners,
    read_nifti_header,
    slant_degrees,
    slanted_sentence,
)
from HyperPredictRegLib.spatial.reading.text_headers import DEFLATE_RATIO, TextHeader, check_text_header
from HyperPredictRegLib.spatial.reading.transform_files import is_hdf5, try_elsewhere

UNREADABLE = (RuntimeError, ValueError, EOFError, MemoryError, OverflowError, struct.error, zlib.error, gzip.BadGzipFile)
"""What ITK, its wrapping, and our own reading of headers raise for damaged files."""

_TOLERATED_VOXELS = 0.1
_LPS_TO_RAS = np.array([[-1.0], [-1.0], [1.0]])


@dataclass(frozen=True)
class StatedVolume:
    """What is known of an image before its voxels are read; `size` of a DICOM folder counts its slices."""

    size: tuple[int, ...]
    components: int
    pixel_id: int


@dataclass(frozen=True)
class Volume:
    """An image as read.

    Attributes
    ----------
    image : on its own grid (LPS mm); of three dimensions wherever all others have one element.
    notes : sentences for the report on what was taken for granted or left out.
    nifti : its header, if it is such a file.
    scale : length of the file's unit in mm.
    """

    image: sitk.Image
    notes: tuple[str, ...]
    nifti: NiftiHeader | None = None
    scale: float = 1.0


def stated_volume(path: Path | str, role: str) -> StatedVolume:
    """Read size and type of an image without its voxels.

    Raises
    ------
    InputError : as `read_volume`, as far as headers tell.
    """
    check_input(path, role, folder=True)
    path, what = Path(path), f"The {role} '{path}'"
    with named_in_errors(path, role):
        if path.is_dir():
            return _stated_series(dicom_series(path, role).files, what)
        text, nifti, _ = _checked_header(path, role)
        return _checked_promise(path, what, text, nifti)


def read_volume(path: Path | str, role: str) -> Volume:
    """Read an image of any number of components from a file or a DICOM folder.

    Parameters
    ----------
    path : NRRD, NIfTI, MetaImage or any other file that SimpleITK reads, or a folder with one DICOM series.
    role : how to call the image in an error, for example "fixed image".

    Raises
    ------
    InputError : the file is missing, unreadable, damaged, cut short or too large; or its grid is not one that ITK can hold:
        slanted slices, gaps, tilts, contradicting or unknown statements on place and unit.
    """
    check_input(path, role, folder=True)
    path = Path(path)
    with named_in_errors(path, role):
        return _from_folder(path, role) if path.is_dir() else _from_file(path, role)


def _unreadable(what: str) -> InputError:
    return InputError(
        f"{what} could not be read as an image: it may be damaged or of a kind that SimpleITK does not know. "
        "Open it in 3D Slicer and save it as .nrrd or .nii.gz."
    )


def _from_file(path: Path, role: str) -> Volume:
    what = f"The {role} '{path}'"
    text, nifti, notes = _checked_header(path, role)
    _checked_promise(path, what, text, nifti)
    try:
        image = sitk.ReadImage(str(path))
        if nifti is not None:
            check_complete(path, nifti)
    except EOFError as error:
        raise InputError(f"{what} is cut short ({error}): copy or export it again.") from error
    except UNREADABLE as error:
        raise _unreadable(what) from error
    while image.GetDimension() > 3 and image.GetSize()[-1] == 1:
        image = sitk.Extract(image, (*image.GetSize()[:-1], 0))
    scale = 1.0 if text is None else text.scale
    if scale != 1.0:
        image = sitk.Image(image)
        image.SetSpacing([scale * s for s in image.GetSpacing()])
        image.SetOrigin([scale * x for x in image.GetOrigin()])
    if image.GetDimension() == 3:
        _check_axes(image, what)
        if nifti is not None:
            notes += check_placement(nifti, _index_to_lps(image) * _LPS_TO_RAS, what)
        if is_dicom(path) and image.GetSize()[2] > 1:
            notes += (frames_note(what, image.GetSpacing()[2], image.GetSize()[2]),)
    return Volume(image, notes, nifti, scale)


def _from_folder(path: Path, role: str) -> Volume:
    what = f"The {role} '{path}'"
    series = dicom_series(path, role)
    if len(series.files) == 1:
        alone = _from_file(Path(series.files[0]), role)
        return Volume(alone.image, (*series.notes, *alone.notes))
    _check_memory(_stated_series(series.files, what), what)
    try:
        image = sitk.ReadImage(list(series.files))
    except UNREADABLE as error:
        raise _unreadable(what) from error
    stated = np.column_stack([np.array(series.step), np.array(series.origin)])
    found = _index_to_lps(image)[:, 2:]
    voxel = min(image.GetSpacing())
    if np.abs((stated - found) @ (image.GetSize()[2] - 1, 1)).max() > _TOLERATED_VOXELS * voxel:
        raise InputError(f"{what} could not be put together where its slices lie: save it as one volume in 3D Slicer.")
    return Volume(image, series.notes)


def _checked_header(path: Path, role: str) -> tuple[TextHeader | None, NiftiHeader | None, tuple[str, ...]]:
    """Check what the header says before ITK gets the file, and return it with notes."""
    what = f"The {role} '{path}'"
    if not states_true_lengths(path):
        raise InputError(f"{what} is a damaged DICOM file: copy or export it again.")
    if is_hdf5(path):
        try_elsewhere(path, what, "what it holds cannot be read")
    for partner in partners(path):
        check_input(partner, f"file that belongs to the {role}")
    try:
        text = check_text_header(path, what)
        if text is not None:
            return text, None, text.notes
        nifti = read_nifti_header(path)
        return None, nifti, () if nifti is None else check_nifti(nifti, what)
    except InputError:
        raise
    except UNREADABLE as error:
        raise _unreadable(what) from error


def _stated(name: str, what: str, nifti: NiftiHeader | None = None) -> StatedVolume:
    reader = sitk.ImageFileReader()
    reader.SetFileName(name)
    try:
        reader.ReadImageInformation()
        return StatedVolume(tuple(reader.GetSize()), reader.GetNumberOfComponents(), reader.GetPixelID())
    except UNREADABLE as error:
        if nifti is not None and nifti.version == 2:
            raise InputError(
                f"{what} is a NIfTI-2 file, which SimpleITK does not read: save it as NIfTI-1 or as .nrrd."
            ) from error
        raise _unreadable(what) from error


def _stated_series(files: tuple[str, ...], what: str) -> StatedVolume:
    first = _stated(files[0], what)
    return replace(first, size=(*first.size[:2], len(files))) if len(files) > 1 else first


def _checked_promise(path: Path, what: str, text: TextHeader | None, nifti: NiftiHeader | None) -> StatedVolume:
    """Return what ITK finds in a header; refuse one that promises more than the file can hold, or than fits into the memory."""
    stated = _stated(str(path), what, nifti)
    held, promised, name = path.stat().st_size, _bytes(stated), path.name.lower()
    if text is not None:
        ratio = text.bytes_per_byte
    else:
        ratio = 1 if name.endswith(".nii") else DEFLATE_RATIO if name.endswith(".nii.gz") else None
    if ratio is not None and promised > held * ratio:
        raise InputError(
            f"{what} is cut short or damaged: its header promises {_sizes(stated.size)} voxels, {promised:.3g} bytes, but the "
            f"file has {held:.3g}. Copy or export it again."
        )
    _check_memory(stated, what)
    return stated


def _check_memory(stated: StatedVolume, what: str) -> None:
    promised, free = _bytes(stated), available_bytes()
    if free is not None and promised > free:
        raise InputError(
            f"{what} has {_sizes(stated.size)} voxels, which would need {promised / 1e9:.3g} GB of memory, but only "
            f"{free / 1e9:.1f} GB are free: crop or resample it, or close other programs."
        )


def _bytes(stated: StatedVolume) -> int:
    bits = next((n for n in (8, 16, 32, 64) if f"{n}-bit" in sitk.GetPixelIDValueAsString(stated.pixel_id)), 8)
    return math.prod(stated.size) * stated.components * bits // 8


def _sizes(size: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in size)


def _check_axes(image: sitk.Image, what: str) -> None:
    matrix = _index_to_lps(image)
    if not np.isfinite(matrix).all():
        raise InputError(f"{what} has a position or direction that is NaN or infinite: mend the header.")
    if largest_slant_mm(matrix, image.GetSize()) > _TOLERATED_VOXELS * min(image.GetSpacing()):
        raise InputError(slanted_sentence(what, slant_degrees(matrix), "header"))


def _index_to_lps(image: sitk.Image) -> np.ndarray:
    directions = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    return np.column_stack([directions, image.GetOrigin()])
