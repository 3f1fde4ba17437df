"""Reading, checking and writing images, label maps and masks through SimpleITK."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.formatting import capitalized
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.reading.files import named_in_errors
from HyperPredictRegLib.spatial.reading.volumes import StatedVolume, read_volume, stated_volume

MINIMUM_VOXELS_PER_AXIS = 4
"""Thinner volumes have no neighbourhood to deform in."""

_ALMOST_WHOLE = 1e-3


def read_image(path: Path | str, role: str, notes: list[str] | None = None) -> sitk.Image:
    """Read a 3-D scalar image from a file or a DICOM folder, and check that it can be registered.

    Parameters
    ----------
    path : NRRD, NIfTI, MetaImage or any other file that SimpleITK reads, or a folder with one DICOM series.
    role : how to call the image in an error, for example "fixed image".
    notes : sentences for the report on what was taken for granted are added to it.

    Returns
    -------
    image : 3-D scalar image, pixel type as in the file, on its own grid (LPS mm).

    Raises
    ------
    InputError : the file is missing, unreadable, not a 3-D scalar volume, empty, constant, or has NaN or infinite voxels.
    """
    image = _noted(path, role, notes)
    check_image(image, f"the {role} '{path}'")
    return image


def read_labels(path: Path | str, grid: Geometry, role: str, notes: list[str] | None = None) -> sitk.Image:
    """Read a label map that must lie on `grid`; values within a thousandth of whole numbers are rounded to them.

    Parameters as in `read_image`.

    Raises
    ------
    InputError : as `read_image`, or the grid differs, or there are fractions, negative values or no labels at all.
    """
    what = f"The {role} '{path}'"
    image = _whole(_on_grid(_noted(path, role, notes), grid, what), what, notes)
    voxels = sitk.GetArrayViewFromImage(image)
    if voxels.min() < 0:
        raise InputError(f"{what} has negative labels (down to {voxels.min():g}): number structures from 1, background 0.")
    if not voxels.any():
        raise InputError(f"{what} has no labelled voxel: every voxel is 0.")
    limit = np.iinfo(np.uint32).max
    if voxels.max() > limit:
        raise InputError(f"{what} has a label above {limit}: number structures from 1 up.")
    # 16 bits hold every code in use (FreeSurfer, Neuromorphometrics) in half the memory of 32.
    return _with_metadata(sitk.Cast(image, sitk.sitkUInt16 if voxels.max() < 2**16 else sitk.sitkUInt32), image)


def read_mask(path: Path | str, grid: Geometry, role: str, notes: list[str] | None = None) -> sitk.Image:
    """Read a mask on `grid` as uint8, 1 where the file is not 0.

    Parameters as in `read_image`.

    Raises
    ------
    InputError : as `read_image`, or the grid differs, or no voxel is set.
    """
    what = f"The {role} '{path}'"
    mask = sitk.Cast(sitk.NotEqual(_on_grid(_noted(path, role, notes), grid, what), 0), sitk.sitkUInt8)
    if not sitk.GetArrayViewFromImage(mask).any():
        raise InputError(f"{what} has no voxel set: draw the region that may be compared, or leave the mask out.")
    return mask


def read_header(path: Path | str, role: str) -> StatedVolume:
    """Read size and type of an image without its voxels, and refuse what `read_image` would refuse by shape.

    Raises
    ------
    InputError : the file is missing or unreadable, or not a 3-D scalar volume.
    """
    stated = stated_volume(path, role)
    kind = sitk.GetPixelIDValueAsString(stated.pixel_id)
    if not kind.removeprefix("vector of ")[0].isdigit():  # as in "16-bit signed integer"
        raise InputError(f"The {role} '{path}' has voxels of type {kind}: give an image of whole or real numbers.")
    size = stated.size
    while len(size) > 3 and size[-1] == 1:
        size = size[:-1]
    _check_dimensions(size, stated.components, f"The {role} '{path}'")
    return stated


def check_image(image: sitk.Image, what: str) -> None:
    """Raise `InputError` if `image` is not a 3-D scalar volume with finite, varying intensities.

    Parameters
    ----------
    image : any SimpleITK image.
    what : how to call it in the error, for example "the fixed image 'a.nrrd'".
    """
    what = capitalized(what)
    _check_shape(image, what)
    voxels = sitk.GetArrayViewFromImage(image)
    if voxels.dtype.kind == "f":
        bad = int(voxels.size - np.count_nonzero(np.isfinite(voxels)))
        if bad:
            raise InputError(f"{what} has {bad} voxels that are NaN or infinite: replace them by a number, such as 0.")
    if voxels.min() == voxels.max():
        raise InputError(f"{what} is constant: every voxel is {voxels.flat[0]:g}, so there is nothing to register.")


def write_image(image: sitk.Image, path: Path) -> None:
    """Write an image with compression and make sure that all of it arrived on the disk.

    Raises
    ------
    OSError : the disk is full or the folder cannot be written.
    """
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
        # ITK's writers do not all notice a full disk; reading the file back does.
        complete = _same_voxels(sitk.ReadImage(str(path)), image)
    except RuntimeError as error:
        raise OSError(f"'{path.name}' could not be written to '{path.parent}': {str(error).strip().splitlines()[-1]}") from error
    if not complete:
        raise OSError(f"'{path.name}' could not be written completely to '{path.parent}': is the disk full?")


def _same_voxels(one: sitk.Image, other: sitk.Image) -> bool:
    """Tell whether two images hold the same bytes; unlike numbers, those of NaN are equal."""
    views = [sitk.GetArrayViewFromImage(image) for image in (one, other)]
    return views[0].dtype == views[1].dtype and np.array_equal(*(view.view(np.uint8) for view in views))


def file_sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file, or of all files of a folder in the order of their names, in hexadecimal.

    Raises
    ------
    InputError : a file cannot be read.
    """
    path = Path(path)
    digest = hashlib.sha256()
    with named_in_errors(path, "input"):
        for name in sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]:
            with name.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def _noted(path: Path | str, role: str, notes: list[str] | None) -> sitk.Image:
    """Read a 3-D scalar image, and add to `notes` what was taken for granted."""
    volume = read_volume(path, role)
    _check_shape(volume.image, f"The {role} '{path}'")
    if notes is not None:
        notes += volume.notes
    return volume.image


def _whole(image: sitk.Image, what: str, notes: list[str] | None) -> sitk.Image:
    """Return an image of floating-point numbers rounded to the whole numbers that they nearly are."""
    voxels = sitk.GetArrayViewFromImage(image)
    if voxels.dtype.kind != "f":
        return image
    whole = np.rint(voxels)
    # Infinity less infinity is NaN, which the comparison below refuses.
    with np.errstate(invalid="ignore"):
        apart = np.abs(voxels - whole)
    if not (apart <= _ALMOST_WHOLE).all():
        raise InputError(f"{what} has voxels that are not whole numbers: give a label map, not an image.")
    if not apart.any():
        return image
    if notes is not None:
        notes.append(f"{what} has values up to {apart.max():.1g} beside whole numbers: they were rounded.")
    return _with_metadata(Geometry.of(image).holding(whole), image)


def _check_shape(image: sitk.Image, what: str) -> None:
    _check_dimensions(image.GetSize(), image.GetNumberOfComponentsPerPixel(), what)
    kind = image.GetPixelIDTypeAsString()
    if "complex" in kind:
        raise InputError(f"{what} has complex voxels: give its magnitude.")
    if "vector" in kind:
        raise InputError(f"{what} says that its voxels are vectors, though of one value: save it as a scalar image.")
    # ITK itself refuses a spacing of zero; a negative or absurd one can still arrive from a header.
    if not all(np.isfinite(s) and s > 0 for s in image.GetSpacing()):
        raise InputError(f"{what} has a voxel spacing of {image.GetSpacing()} mm: it must be above 0; mend the header.")


def _check_dimensions(size: tuple[int, ...], components: int, what: str) -> None:
    if len(size) == 5 and size[3] == 1:
        # NIfTI stores vectors along the fifth dimension.
        components = size[4]
    if components > 1:
        raise InputError(f"{what} has {components} values per voxel (colour, vector or tensor): give one component of it.")
    if len(size) == 4:
        raise InputError(f"{what} is 4-D with {size[3]} frames: extract the one frame that should be registered.")
    if len(size) != 3:
        raise InputError(f"{what} is {len(size)}-D: only 3-D volumes can be registered.")
    if min(size) < MINIMUM_VOXELS_PER_AXIS:
        raise InputError(
            f"{what} is {size[0]} x {size[1]} x {size[2]} voxels: at least {MINIMUM_VOXELS_PER_AXIS} are needed along "
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
        f"{what} does not lie on the grid of its image: it has {found.size} voxels of {_rounded(found.spacing)} mm "
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
