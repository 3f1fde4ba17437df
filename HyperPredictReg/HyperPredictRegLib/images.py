"""Reading, checking and writing images, label maps and masks through SimpleITK."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.geometry import Geometry
from HyperPredictRegLib.headers import check_complete, stated_spacing

MINIMUM_VOXELS_PER_AXIS = 4
"""Thinner volumes have no neighbourhood to deform in."""


@dataclass(frozen=True)
class ImageHeader:
    """What is known of an image file before its voxels are read."""

    size: tuple[int, ...]
    components: int
    bytes_per_voxel: int


def read_image(path: Path | str, role: str) -> sitk.Image:
    """Read a 3-D scalar image from a file or a DICOM folder, and check that it can be registered.

    Parameters
    ----------
    path : NRRD, NIfTI, MetaImage or any other file that SimpleITK reads, or a folder with one DICOM series.
    role : how to call the image in an error, for example "fixed image".

    Returns
    -------
    image : 3-D scalar image, pixel type as in the file, on its own grid (LPS mm).

    Raises
    ------
    InputError : the file is missing, unreadable, not a 3-D scalar volume, empty, constant, or has NaN or infinite voxels.
    """
    image = _read_volume(Path(path), role)
    check_image(image, f"the {role} '{path}'")
    return image


def read_volume(path: Path | str, role: str) -> sitk.Image:
    """Read an image as it is, with its header fields, whatever its voxels hold: for what need not be registered.

    Parameters
    ----------
    path, role : as for `read_image`.

    Raises
    ------
    InputError : the file is missing, unreadable or damaged.
    """
    return _read_volume(Path(path), role)


def read_labels(path: Path | str, grid: Geometry, role: str) -> sitk.Image:
    """Read a label map that must lie on `grid`; whole numbers stored as floating point are accepted.

    Raises
    ------
    InputError : as `read_image`, or the grid differs, or there are fractions, negative values or no labels at all.
    """
    image = _read_volume(Path(path), role)
    what = f"the {role} '{path}'"
    _check_shape(image, what)
    image = _on_grid(image, grid, what)
    voxels = sitk.GetArrayViewFromImage(image)
    if voxels.dtype.kind == "f" and not np.array_equal(voxels, np.rint(voxels)):
        raise InputError(f"{_cap(what)} has voxels that are not whole numbers: give a label map, not an image.")
    if voxels.min() < 0:
        raise InputError(f"{_cap(what)} has negative labels (down to {voxels.min():g}): number structures from 1, background 0.")
    if not voxels.any():
        raise InputError(f"{_cap(what)} has no labelled voxel: every voxel is 0.")
    limit = np.iinfo(np.uint32).max
    if voxels.max() > limit:
        raise InputError(f"{_cap(what)} has a label above {limit}: number structures from 1 up.")
    # 16 bits hold every code in use (FreeSurfer, Neuromorphometrics) in half the memory of 32.
    return _with_metadata(sitk.Cast(image, sitk.sitkUInt16 if voxels.max() < 2**16 else sitk.sitkUInt32), image)


def read_mask(path: Path | str, grid: Geometry, role: str) -> sitk.Image:
    """Read a mask on `grid` as uint8, 1 where the file is not 0.

    Raises
    ------
    InputError : as `read_image`, or the grid differs, or no voxel is set.
    """
    image = _read_volume(Path(path), role)
    what = f"the {role} '{path}'"
    _check_shape(image, what)
    image = _on_grid(image, grid, what)
    mask = sitk.Cast(sitk.NotEqual(image, 0), sitk.sitkUInt8)
    if not sitk.GetArrayViewFromImage(mask).any():
        raise InputError(f"{_cap(what)} has no voxel set: draw the region that may be compared, or leave the mask out.")
    return mask


def read_header(path: Path | str, role: str) -> ImageHeader:
    """Read size and type of an image without its voxels, and refuse what `read_image` would refuse by shape.

    Raises
    ------
    InputError : the file is missing or unreadable, or not a 3-D scalar volume.
    """
    path = Path(path)
    _check_exists(path, role)
    reader = sitk.ImageFileReader()
    names = _dicom_files(path, role) if path.is_dir() else [str(path)]
    reader.SetFileName(names[0])
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path, role) from error
    size = tuple(reader.GetSize())
    if path.is_dir() and len(size) == 3:
        size = (size[0], size[1], size[2] * len(names))
    pixel_bytes = np.dtype(_numpy_type(reader.GetPixelID(), path, role)).itemsize
    header = ImageHeader(size, reader.GetNumberOfComponents(), pixel_bytes * reader.GetNumberOfComponents())
    _check_dimensions(_effective_size(header.size), header.components, f"the {role} '{path}'")
    return header


def check_image(image: sitk.Image, what: str) -> None:
    """Raise `InputError` if `image` is not a 3-D scalar volume with finite, varying intensities.

    Parameters
    ----------
    image : any SimpleITK image.
    what : how to call it in the error, for example "the fixed image 'a.nrrd'".
    """
    _check_shape(image, what)
    voxels = sitk.GetArrayViewFromImage(image)
    if voxels.dtype.kind == "f":
        bad = int(voxels.size - np.count_nonzero(np.isfinite(voxels)))
        if bad:
            raise InputError(f"{_cap(what)} has {bad} voxels that are NaN or infinite: replace them by a number, such as 0.")
    if voxels.min() == voxels.max():
        raise InputError(f"{_cap(what)} is constant: every voxel is {voxels.flat[0]:g}, so there is nothing to register.")


def write_image(image: sitk.Image, path: Path) -> None:
    """Write an image with compression and make sure that all of it arrived on the disk.

    Raises
    ------
    OSError : the disk is full or the folder cannot be written.
    """
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
        # ITK's writers do not all notice a full disk; reading the file back does.
        complete = sitk.Hash(sitk.ReadImage(str(path))) == sitk.Hash(image)
    except RuntimeError as error:
        raise OSError(f"'{path.name}' could not be written to '{path.parent}': {_last_line(error)}") from error
    if not complete:
        raise OSError(f"'{path.name}' could not be written completely to '{path.parent}': is the disk full?")


def file_sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file, or of all files of a folder in the order of their names, in hexadecimal."""
    path = Path(path)
    digest = hashlib.sha256()
    for name in sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]:
        with name.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _read_volume(path: Path, role: str) -> sitk.Image:
    _check_exists(path, role)
    try:
        if path.is_dir():
            # Slices of one series whose spacing ITK finds uneven are reported by it as a warning only; see _dicom_files.
            return sitk.ReadImage(_dicom_files(path, role))
        _check_stated_spacing(path, role)
        image = sitk.ReadImage(str(path))
        check_complete(path)
    except (RuntimeError, EOFError, zlib.error, gzip.BadGzipFile, struct.error) as error:
        raise _unreadable(path, role) from error
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        return image[:, :, :, 0]
    return image


def _check_stated_spacing(path: Path, role: str) -> None:
    spacing = stated_spacing(path)
    if spacing is not None and not all(np.isfinite(s) and s > 0 for s in spacing):
        stated = " x ".join(f"{s:g}" for s in spacing)
        raise InputError(f"The {role} '{path}' states a voxel spacing of {stated} mm: it must be above 0; mend the header.")


def _check_exists(path: Path, role: str) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        # ITK would end the process.
        raise InputError(f"The path of the {role}, {str(path)!r}, is not valid UTF-8: rename it.") from error
    if not path.exists():
        raise InputError(f"The {role} '{path}' does not exist: check the path.")
    if not os.access(path, os.R_OK):
        raise InputError(f"The {role} '{path}' cannot be read: check its permissions.")


def _dicom_files(folder: Path, role: str) -> list[str]:
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if not series:
        raise InputError(f"The {role} '{folder}' is a folder without a DICOM series: give a file or a folder of DICOM slices.")
    if len(series) > 1:
        raise InputError(f"The {role} '{folder}' holds {len(series)} DICOM series: give a folder with the slices of one only.")
    return list(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0]))


def _unreadable(path: Path, role: str) -> InputError:
    return InputError(
        f"The {role} '{path}' could not be read as an image: it may be damaged or of a kind that SimpleITK does not know. "
        "Open it in 3D Slicer and save it as .nrrd or .nii.gz."
    )


def _numpy_type(pixel_id: int, path: Path, role: str) -> type:
    kinds = {
        sitk.sitkUInt8: np.uint8, sitk.sitkInt8: np.int8, sitk.sitkUInt16: np.uint16, sitk.sitkInt16: np.int16,
        sitk.sitkUInt32: np.uint32, sitk.sitkInt32: np.int32, sitk.sitkUInt64: np.uint64, sitk.sitkInt64: np.int64,
        sitk.sitkFloat32: np.float32, sitk.sitkFloat64: np.float64,
        sitk.sitkVectorUInt8: np.uint8, sitk.sitkVectorInt8: np.int8, sitk.sitkVectorUInt16: np.uint16,
        sitk.sitkVectorInt16: np.int16, sitk.sitkVectorUInt32: np.uint32, sitk.sitkVectorInt32: np.int32,
        sitk.sitkVectorFloat32: np.float32, sitk.sitkVectorFloat64: np.float64,
    }
    if pixel_id not in kinds:
        kind = sitk.GetPixelIDValueAsString(pixel_id)
        raise InputError(f"The {role} '{path}' has voxels of type {kind}: give an image of whole or real numbers.")
    return kinds[pixel_id]


def _effective_size(size: tuple[int, ...]) -> tuple[int, ...]:
    return size[:3] if len(size) == 4 and size[3] == 1 else size


def _check_shape(image: sitk.Image, what: str) -> None:
    _check_dimensions(image.GetSize(), image.GetNumberOfComponentsPerPixel(), what)
    if "complex" in image.GetPixelIDTypeAsString():
        raise InputError(f"{_cap(what)} has complex voxels: give its magnitude.")
    # ITK itself refuses a spacing of zero; a negative or absurd one can still arrive from a header.
    if not all(np.isfinite(s) and s > 0 for s in image.GetSpacing()):
        raise InputError(f"{_cap(what)} has a voxel spacing of {image.GetSpacing()} mm: it must be above 0; mend the header.")


def _check_dimensions(size: tuple[int, ...], components: int, what: str) -> None:
    if components > 1:
        raise InputError(f"{_cap(what)} has {components} values per voxel (colour, vector or tensor): give one component of it.")
    if len(size) == 4:
        raise InputError(f"{_cap(what)} is 4-D with {size[3]} frames: extract the one frame that should be registered.")
    if len(size) != 3:
        raise InputError(f"{_cap(what)} is {len(size)}-D: only 3-D volumes can be registered.")
    if min(size) < MINIMUM_VOXELS_PER_AXIS:
        raise InputError(
            f"{_cap(what)} is {size[0]} x {size[1]} x {size[2]} voxels: at least {MINIMUM_VOXELS_PER_AXIS} are needed along "
            "every axis; a single slice cannot be registered in 3-D."
        )


def _on_grid(image: sitk.Image, grid: Geometry, what: str) -> sitk.Image:
    """Return `image` on `grid` if it lies there, or covers a part of it voxel by voxel, as segmentations of Slicer do."""
    found = Geometry.of(image)
    if found.matches(grid, tolerance_voxels=0.01):
        return image
    first = grid.to_index(found.origin)
    whole = tuple(int(n) for n in np.rint(first))
    part = grid.padded([-n for n in whole], [n + m - g for n, m, g in zip(whole, found.size, grid.size, strict=True)])
    if part.matches(found, tolerance_voxels=0.01):
        return _with_metadata(grid.resample(image, interpolator=sitk.sitkNearestNeighbor), image)
    raise InputError(
        f"{_cap(what)} does not lie on the grid of its image: it has {found.size} voxels of {_rounded(found.spacing)} mm "
        f"from {_rounded(found.origin)}, the image {grid.size} of {_rounded(grid.spacing)} mm from {_rounded(grid.origin)}. "
        "Resample it to the image (in Slicer: 'Resample Scalar/Vector/DWI Volume', nearest neighbour)."
    )


def _with_metadata(result: sitk.Image, source: sitk.Image) -> sitk.Image:
    """Give `result` the header fields of `source`, which filters drop: names of segments are among them."""
    for key in source.GetMetaDataKeys():
        result.SetMetaData(key, source.GetMetaData(key))
    return result


def _rounded(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(float(v), 3) for v in values)


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]


def _cap(text: str) -> str:
    return text[0].upper() + text[1:]


