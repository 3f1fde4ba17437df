"""What a NIfTI header states, and what of it ITK would mend or pass over in silence.

Source of the layout: nifti1.h and nifti2.h of the NIfTI Data Format Working Group, https://nifti.nimh.nih.gov.
"""

from __future__ import annotations

import gzip
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from HyperPredictRegLib.core.errors import InputError

_BITS = {2: 8, 4: 16, 8: 32, 16: 32, 32: 64, 64: 64, 128: 24, 256: 8, 512: 16, 768: 32, 1024: 64, 1280: 64, 2304: 32}
_COLORS = (128, 2304)
_UNITS = {1: ("meters", 1000.0), 2: ("millimeters", 1.0), 3: ("micrometers", 0.001)}
_LAYOUT = {
    "dim": (("8h", 40), ("8q", 16)), "intent_p1": (("f", 56), ("d", 80)), "intent_code": (("h", 68), ("i", 504)),
    "datatype": (("h", 70), ("h", 12)), "bitpix": (("h", 72), ("h", 14)), "pixdim": (("8f", 76), ("8d", 104)),
    "offset": (("f", 108), ("q", 168)), "slope": (("f", 112), ("d", 176)), "intercept": (("f", 116), ("d", 184)),
    "units": (("B", 123), ("i", 500)), "codes": (("2h", 252), ("2i", 344)), "quaternion": (("3f", 256), ("3d", 352)),
    "position": (("3f", 268), ("3d", 376)), "rows": (("12f", 280), ("12d", 400)), "intent_name": (("16s", 328), ("16s", 508)),
}  # fmt: skip
"""Kind of number and first byte of each field in NIfTI-1 and NIfTI-2."""

_HEADER_BYTES = 540
_TOLERATED_VOXELS = 0.1
_MUCH_BEYOND_BYTES = 1 << 24


@dataclass(frozen=True)
class NiftiHeader:
    """The fields of a NIfTI-1, NIfTI-2 or Analyze header that matter here.

    Attributes
    ----------
    version : 1 or 2 of NIfTI; 1 for Analyze.
    is_analyze : the older format, which states neither position nor orientation.
    one_file : the voxels follow the header in the same file.
    sizes : along each stated dimension.
    datatype : code of what one number of a voxel is.
    bits : of one voxel.
    offset : of the first voxel in its file, in bytes, as stated.
    spacing : along the first three dimensions, in the file's unit.
    slope, intercept : of the stored values.
    unit_code : of length, 0 to 7.
    qform, sform : (3, 4) matrices from indices to RAS in the file's unit; None where the header says there is none.
    intent_code, intent_name, intent_p1 : what the voxels mean.
    """

    version: int
    is_analyze: bool
    one_file: bool
    sizes: tuple[int, ...]
    datatype: int
    bits: int
    offset: float
    spacing: tuple[float, ...]
    slope: float
    intercept: float
    unit_code: int
    qform: np.ndarray | None
    sform: np.ndarray | None
    intent_code: int
    intent_name: str
    intent_p1: float

    @property
    def millimeters_per_unit(self) -> float:
        """Length of the file's unit, in mm; 1 where it states none that is known."""
        return _UNITS.get(self.unit_code, ("", 1.0))[1]


def read_nifti_header(path: Path) -> NiftiHeader | None:
    """Read the header of a NIfTI or Analyze file, whichever of a pair is named; None where the file is of another kind.

    Raises
    ------
    OSError, EOFError, zlib.error : the file cannot be read.
    """
    header_file = _header_file(path)
    if header_file is None:
        return None
    with _opened(header_file) as stream:
        raw = stream.read(_HEADER_BYTES)
    for order in "<>":
        if len(raw) >= 348 and struct.unpack_from(f"{order}i", raw)[0] == 348:
            return _parsed(raw, order, 1)
        if len(raw) >= 540 and struct.unpack_from(f"{order}i", raw)[0] == 540:
            return _parsed(raw, order, 2)
    return None


def partners(path: Path) -> list[Path]:
    """Return the files that ITK opens beside a header or voxel file of a pair, as far as they are there."""
    name = path.name.lower()
    for ending in (".hdr", ".img", ".hdr.gz", ".img.gz"):
        if name.endswith(ending):
            stem = path.name[: -len(ending)]
            other = ".img" if ending.startswith(".hdr") else ".hdr"
            return [p for suffix in (other, other + ".gz") if (p := path.with_name(stem + suffix)).exists()]
    return []


def check_nifti(header: NiftiHeader, what: str) -> tuple[str, ...]:
    """Refuse what a header must not state, and say what was taken for granted.

    Parameters
    ----------
    what : how to call the file in a sentence, for example "The fixed image 'a.nii'".

    Returns
    -------
    notes : sentences for the report.

    Raises
    ------
    InputError : the header is damaged, or its slices are slanted.
    """
    if not all(math.isfinite(s) and s > 0 for s in header.spacing):
        sizes = " x ".join(f"{s:g}" for s in header.spacing)
        raise InputError(f"{what} states a voxel spacing of {sizes} mm: it must be above 0; mend the header.")
    lowest = 0 if not header.one_file else 348
    if not math.isfinite(header.offset) or not (header.offset == 0 or header.offset >= lowest):
        raise InputError(f"{what} is damaged: its header puts the voxels at byte {header.offset:g}. Export it again.")
    if header.datatype in _COLORS and any(n > 1 for n in header.sizes[3:]):
        # ITK writes such voxels beyond its own memory.
        raise InputError(f"{what} has several colors in each voxel: give a file with numbers.")
    slope_is_set = math.isfinite(header.slope) and header.slope != 0
    if not slope_is_set and math.isfinite(header.intercept) and header.intercept != 0:
        raise InputError(
            f"{what} states an intercept of {header.intercept:g} for its values but no slope (scl_slope is "
            f"{header.slope:g}), so its intensities are not known: mend the header."
        )
    for name, matrix in (("qform", header.qform), ("sform", header.sform)):
        if matrix is not None and not np.isfinite(matrix).all():
            raise InputError(f"{what} has a {name} with numbers that are NaN or infinite: mend the header.")
    _check_upright(header, what)
    return (*_unit_notes(header, what), *_missing_place(header, what))


def check_placement(header: NiftiHeader, taken: np.ndarray, what: str) -> tuple[str, ...]:
    """Compare where ITK put the voxels with where the header's two matrices put them.

    Parameters
    ----------
    taken : (3, 4) matrix from indices to RAS mm, of the image as it was read.

    Returns
    -------
    notes : a sentence on which matrix was taken, where the two differ by more than a tenth of a voxel.

    Raises
    ------
    InputError : the image was put where neither says.
    """
    scale = header.millimeters_per_unit
    stated = {name: scale * m for name, m in (("sform", header.sform), ("qform", header.qform)) if m is not None}
    if not stated:
        return ()
    voxel = float(np.linalg.norm(taken[:, :3], axis=0).min())
    apart = {name: _largest_distance(matrix - taken, header.sizes) for name, matrix in stated.items()}
    agreeing = [name for name, distance in apart.items() if distance <= _TOLERATED_VOXELS * voxel]
    if not agreeing:
        name, distance = next(iter(apart.items()))
        sizes = _by(np.linalg.norm(stated[name][:, :3], axis=0))
        raise InputError(
            f"{what} contradicts itself: its {name} gives voxels of {sizes} mm, its pixdim "
            f"{_by(scale * np.array(header.spacing))} mm, and places would be up to {distance:.3g} mm off. Mend the header, or "
            "save the image again in 3D Slicer."
        )
    if len(stated) == 2 and len(agreeing) == 1:
        other = "qform" if agreeing[0] == "sform" else "sform"
        return (
            f"{what} states two placements, sform and qform, that lie up to {apart[other]:.3g} mm apart: the "
            f"{agreeing[0]} was taken, as 3D Slicer does.",
        )
    return ()


def check_complete(path: Path, header: NiftiHeader) -> None:
    """Raise an error if a NIfTI file has fewer bytes than its header promises; ITK would read zeros instead.

    Raises
    ------
    EOFError, OSError, zlib.error : the file is cut short or damaged.
    """
    expected = math.prod(header.sizes) * header.bits // 8 + int(header.offset if header.offset or not header.one_file else 352)
    voxel_file = _voxel_file(path, header)
    with _opened(voxel_file) as stream:
        found = 0
        # Reading on to the end of a compressed stream also checks its checksum; the limit stops streams that never end.
        while found < expected + _MUCH_BEYOND_BYTES and (block := stream.read(1 << 20)):
            found += len(block)
    if found < expected:
        raise EOFError(f"{voxel_file.name} has {found} bytes where its header promises {expected}")


def slant_degrees(matrix: np.ndarray) -> float:
    """Return by how many degrees the axes of a matrix, of three columns or more, differ from right angles at most."""
    axes = matrix[:3, :3] / np.maximum(np.linalg.norm(matrix[:3, :3], axis=0), 1e-300)
    cosines = np.abs((axes.T @ axes)[np.triu_indices(3, 1)])
    return float(np.degrees(np.arcsin(np.clip(cosines, 0, 1))).max())


def slanted_sentence(what: str, degrees: float, origin: str) -> str:
    """Say that an image has slanted slices, by which matrix or format, and what to do."""
    return (
        f"{what} has slanted slices: its {origin} holds a shear, its axes are up to {degrees:.3g} degrees from right "
        "angles. Such a grid cannot be registered. Resample it onto an upright grid first (in 3D Slicer: load it, apply the "
        "transform that comes with it, 'Resample Scalar/Vector/DWI Volume'), or undo the shear."
    )


def largest_slant_mm(matrix: np.ndarray, sizes: tuple[int, ...]) -> float:
    """Return how far the farthest voxel lies from where the nearest grid with right angles would have it, in mm."""
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    left, _, right = np.linalg.svd(matrix[:3, :3] / np.maximum(lengths, 1e-300))
    return _largest_distance(matrix[:3, :3] - (left @ right) * lengths, sizes)


def _check_upright(header: NiftiHeader, what: str) -> None:
    if header.sform is None:
        return
    lengths = np.linalg.norm(header.sform[:, :3], axis=0)
    if not lengths.all() or abs(np.linalg.det(header.sform[:, :3] / lengths)) < 1e-6:
        raise InputError(f"{what} has an sform that flattens space, so its voxels have no place: mend the header.")
    if largest_slant_mm(header.sform, header.sizes) > _TOLERATED_VOXELS * lengths.min():
        raise InputError(slanted_sentence(what, slant_degrees(header.sform), "sform"))


def _unit_notes(header: NiftiHeader, what: str) -> tuple[str, ...]:
    name, factor = _UNITS.get(header.unit_code, ("", 1.0))
    if not name:
        return (f"{what} states no unit of length: its spacing of {_by(header.spacing)} was taken as mm.",)
    if factor == 1.0:
        return ()
    converted = _by(np.array(header.spacing) * factor)
    return (f"{what} is stated in {name}: its spacing of {_by(header.spacing)} was converted to {converted} mm.",)


def _missing_place(header: NiftiHeader, what: str) -> tuple[str, ...]:
    if header.qform is not None or header.sform is not None:
        return ()
    kind = "is an Analyze file, which states" if header.is_analyze else "states"
    return (f"{what} {kind} neither position nor orientation: left and right may be exchanged. Check it in the views.",)


def _largest_distance(matrix: np.ndarray, sizes: tuple[int, ...]) -> float:
    """Return the largest length of `matrix` times index over the corners of a grid; without a fourth column, from index 0."""
    last = (np.array([*sizes, 1, 1, 1][:3]) - 1).clip(0)
    corners = np.array(np.meshgrid(*[(0, n) for n in last])).reshape(3, -1)
    places = matrix[:, :3] @ corners + (matrix[:, 3:4] if matrix.shape[1] > 3 else 0)
    return float(np.linalg.norm(places, axis=0).max())


def _parsed(raw: bytes, order: str, version: int) -> NiftiHeader:
    def get(field: str) -> tuple[Any, ...]:
        kind, at = _LAYOUT[field][version - 1]
        return struct.unpack_from(order + kind, raw, at)

    magic = raw[344:348] if version == 1 else raw[4:7] + b"\0"
    is_analyze = magic not in (b"n+1\0", b"ni1\0") and version == 1
    dim, pixdim, codes = get("dim"), get("pixdim"), (0, 0) if is_analyze else get("codes")
    datatype = int(get("datatype")[0])
    return NiftiHeader(
        version=version,
        is_analyze=is_analyze,
        one_file=magic == b"n+%d\0" % version,
        sizes=tuple(int(n) for n in dim[1 : 1 + max(0, min(int(dim[0]), 7))]),
        datatype=datatype,
        bits=_BITS.get(datatype, int(get("bitpix")[0])),
        offset=float(get("offset")[0]),
        spacing=tuple(float(s) for s in pixdim[1 : 1 + max(0, min(int(dim[0]), 3))]),
        slope=1.0 if is_analyze else get("slope")[0],
        intercept=0.0 if is_analyze else get("intercept")[0],
        unit_code=2 if is_analyze else int(get("units")[0]) & 7,
        qform=_qform(pixdim, get("quaternion"), get("position")) if codes[0] > 0 else None,
        sform=np.array(get("rows")).reshape(3, 4) if codes[1] > 0 else None,
        intent_code=int(get("intent_code")[0]),
        intent_name=get("intent_name")[0].split(b"\0")[0].decode("latin-1").strip(),
        intent_p1=get("intent_p1")[0],
    )


def _qform(pixdim: tuple[float, ...], quaternion: tuple[float, ...], position: tuple[float, ...]) -> np.ndarray:
    b, c, d = quaternion
    rest = 1 - (b * b + c * c + d * d)
    a = math.sqrt(rest) if rest > 1e-7 else 0.0
    if a == 0.0:
        # A quaternion that is too long is scaled, as ITK and the NIfTI library do.
        length = math.sqrt(b * b + c * c + d * d)
        b, c, d = b / length, c / length, d / length
    rotation = np.array([
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
    ])
    steps = np.array(pixdim[1:4]) * (1, 1, -1 if pixdim[0] < 0 else 1)
    return np.column_stack([rotation * steps, position])


def _header_file(path: Path) -> Path | None:
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz", ".hdr", ".hdr.gz", ".nia")):
        return path
    for image, header in ((".img.gz", ".hdr.gz"), (".img.gz", ".hdr"), (".img", ".hdr"), (".img", ".hdr.gz")):
        if name.endswith(image) and (found := path.with_name(path.name[: -len(image)] + header)).is_file():
            return found
    return None


def _voxel_file(path: Path, header: NiftiHeader) -> Path:
    name = path.name.lower()
    if header.one_file or not name.endswith((".hdr", ".hdr.gz")):
        return path
    stem = path.name[: -len(".hdr.gz" if name.endswith(".gz") else ".hdr")]
    return next((p for ending in (".img", ".img.gz") if (p := path.with_name(stem + ending)).is_file()), path)


def _opened(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.name.lower().endswith(".gz") else path.open("rb")


def _by(values: np.ndarray | tuple[float, ...]) -> str:
    return " x ".join(f"{v:.6g}" for v in values)
