"""Transform files: those that would end the process inside ITK are refused, and what a field's vectors mean is told."""

from __future__ import annotations

import itertools
import math
import re
import struct
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.resources import exit_code_of
from HyperPredictRegLib.spatial.reading.nifti import NiftiHeader

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_GRID = re.compile(rb"(BSpline|DisplacementField)Transform_[a-z]+_(\d)_\d")
_LARGEST_MAT = 1 << 31
_MOST_FIXED = 64
_PARAMETERS = {
    b"AffineTransform": 12, b"ComposeScaleSkewVersor3DTransform": 12, b"Euler3DTransform": 6, b"IdentityTransform": 0,
    b"MatrixOffsetTransformBase": 12, b"QuaternionRigidTransform": 7, b"ScaleSkewVersor3DTransform": 15, b"ScaleTransform": 3,
    b"ScaleVersor3DTransform": 9, b"Similarity3DTransform": 7, b"TranslationTransform": 3, b"VersorRigid3DTransform": 6,
    b"VersorTransform": 3,
}  # fmt: skip
"""Of each linear kind in three dimensions; ITK takes the first of too many, and some kinds the whole of too few."""

# Without a limit the system may grant more memory than there is, and end other processes when it is used.
_TRIAL = """
import SimpleITK
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
except (ImportError, ValueError, OSError):
    pass
try:
    SimpleITK.ReadTransform(sys.argv[1])
except RuntimeError:
    SimpleITK.ReadImage(sys.argv[1])
"""
_TRIAL_SECONDS = 120
_TRIAL_BYTES = 1 << 33
_TRIAL_FACTOR = 20


def check_transform_file(path: Path, what: str) -> None:
    """Refuse a transform file that ITK would crash on, or read as something else than it is.

    Parameters
    ----------
    path : a regular file of any kind.
    what : how to call it in a sentence, for example "The transform 'a.tfm'".

    Raises
    ------
    InputError : the sizes that the file states cannot be true, or it is an HDF5 file that cannot be read.
    OSError : the file cannot be read.
    """
    suffix = path.suffix.lower()
    if is_hdf5(path):
        why = "the grid of its B-spline does not fit its parameters or the memory"
        try_elsewhere(path, what, why if _holds(path, b"BSplineTransform") else "what it holds cannot be read")
    elif suffix == ".mat":
        _check_mat(path, what)
    elif suffix in (".tfm", ".txt"):
        _check_text(path, what)


def _damaged(what: str, why: str) -> InputError:
    return InputError(f"{what} is damaged: {why}. Export it again from the program that made it.")


def _check_text(path: Path, what: str) -> None:
    """Compare the size of each grid with the number of its parameters, and look for transforms without any.

    ITK allocates a grid before it looks at its parameters, and passes over parameters without fixed ones, which leaves the
    identity.
    """
    kind: bytes | None = None
    found: dict[bytes, list[bytes]] = {}
    with path.open("rb") as stream:
        for line in itertools.chain(stream, [b"Transform: end"]):
            name, _, value = line.partition(b":")
            name = name.strip()
            if name == b"Transform":
                _check_parts(kind, found, what)
                kind, found = value.strip(), {}
            elif name in (b"Parameters", b"FixedParameters"):
                found[name] = value.split()


def _check_parts(kind: bytes | None, found: dict[bytes, list[bytes]], what: str) -> None:
    if kind is None or kind.startswith(b"CompositeTransform"):
        return
    for name in (b"Parameters", b"FixedParameters"):
        if name not in found:
            raise _damaged(what, f"its {kind.decode('latin-1')[:40]} has no {name.decode()}")
    expected = _PARAMETERS.get(kind.partition(b"_")[0]) if kind.endswith(b"_3_3") else None
    if expected is not None and expected != len(found[b"Parameters"]):
        count = len(found[b"Parameters"])
        raise _damaged(what, f"its {kind.decode('latin-1')[:40]} has {count} parameters instead of {expected}")
    if match := _GRID.match(kind):
        _check_grid(found[b"FixedParameters"], int(match.group(2)), len(found[b"Parameters"]), what)


def _check_grid(grid: list[bytes], dimension: int, parameters: int, what: str) -> None:
    sizes = []
    for word in grid[:dimension]:
        try:
            size = float(word)
        except ValueError:
            size = math.nan
        if not (math.isfinite(size) and size >= 1):
            raise _damaged(what, f"it states a grid of '{word.decode('latin-1')[:20]}' points along one axis")
        sizes.append(size)
    expected = math.prod(sizes) * dimension
    if expected != parameters:
        stated = " x ".join(f"{s:g}" for s in sizes)
        raise _damaged(what, f"it states a grid of {stated} points, but holds {parameters} parameters for it")


def _check_mat(path: Path, what: str) -> None:
    """Walk through the records of a MATLAB file of version 4, each of which states its own size."""
    total = path.stat().st_size
    kind, parameters = b"", 0
    with path.open("rb") as stream:
        at = 0
        while at < total:
            head = stream.read(20)
            if len(head) < 20:
                raise _damaged(what, "it is cut short")
            _, rows, columns, imaginary, name = struct.unpack("<5i", head)
            precise = (struct.unpack_from("<i", head)[0] // 10) % 10 == 0
            size = rows * columns * (8 if precise else 4) if rows > 0 and columns > 0 else -1
            if imaginary not in (0, 1) or not 1 <= name <= 4096 or not 0 < size < _LARGEST_MAT:
                raise _damaged(what, f"it states a table of {rows} x {columns} numbers with a name of {name} letters")
            at += 20 + name + size * (1 + imaginary)
            if at > total:
                raise _damaged(what, "it is cut short")
            # ITK writes pairs: the parameters, named by the transform's kind, and the fixed ones.
            title = stream.read(name)
            if _GRID.match(title):
                kind, parameters = title, rows * columns
            elif (found := _GRID.match(kind)) and rows * columns <= _MOST_FIXED:
                values = struct.unpack(f"<{rows * columns}{'d' if precise else 'f'}", stream.read(size))
                _check_grid([repr(v).encode() for v in values], int(found.group(2)), parameters, what)
                kind = b""
            stream.seek(at)


def is_hdf5(path: Path) -> bool:
    """Tell whether a file has the signature of HDF5, which may stand at byte 0, 512, 1024, 2048 and so on."""
    with path.open("rb") as stream:
        at, total = 0, path.stat().st_size
        while at + 8 <= total:
            stream.seek(at)
            if stream.read(8) == _HDF5_SIGNATURE:
                return True
            at = 512 if at == 0 else 2 * at
    return False


def _holds(path: Path, word: bytes) -> bool:
    with path.open("rb") as stream:
        tail = b""
        while block := stream.read(1 << 20):
            if word in tail + block:
                return True
            tail = block[-len(word) :]
    return False


def try_elsewhere(path: Path, what: str, why: str) -> None:
    """Read a file in a process of its own first, which may fail or crash.

    The library for HDF5 does not survive every damaged file, nor ITK a grid of a B-spline that does not fit into the memory,
    which only that library can read.

    Parameters
    ----------
    what : see `check_transform_file`.
    why : what is said where it cannot be read, as the part of a sentence.

    Raises
    ------
    InputError : it cannot be read as a transform or an image.
    """
    limit = max(_TRIAL_BYTES, _TRIAL_FACTOR * path.stat().st_size)
    # Where no other process can be started, as in a Slicer without its Python, the file is read without a trial.
    with suppress(OSError):
        try:
            code = exit_code_of(_TRIAL, [str(path), str(limit)], _TRIAL_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise _damaged(what, f"it could not be read within {_TRIAL_SECONDS} seconds") from error
        if code:
            raise _damaged(what, why)


# A vector image says no more than "three numbers per voxel". ITK and ANTs write displacements in LPS mm; NiftyReg and SPM write
# positions, or displacements, in the RAS mm of the grid, and coefficients that are no field at all. Sources: NiftyReg's
# NREG_TRANS_TYPE and its intent_name; SPM's spm_preproc_write8 (name "Mapping"); the intent codes of nifti1.h and of FSL.
_NIFTYREG_KINDS = {
    2: "a cubic B-spline grid",
    3: "a velocity field (positions)",
    4: "a velocity field (displacements)",
    5: "a B-spline grid of velocities",
    6: "a linear spline grid",
}
_FSL_KINDS = {
    2006: "an FSL displacement field",
    2007: "a grid of FSL's cubic spline coefficients",
    2008: "a set of FSL's cosine coefficients",
    2009: "a grid of FSL's quadratic spline coefficients",
}
_VECTOR_INTENTS = (1006, 1007)


@dataclass(frozen=True)
class FieldMeaning:
    """Vectors in RAS mm: positions in the moving image, or displacements; and a sentence that says so."""

    positions: bool
    note: str


def field_meaning(header: NiftiHeader, what: str) -> FieldMeaning | None:
    """Tell what a NIfTI file's vectors are; None for displacements in LPS mm, as ITK, ANTs and 3D Slicer write them.

    Parameters
    ----------
    what : how to call the file in a sentence, for example "The transform 'a.nii'".

    Raises
    ------
    InputError : they are nothing that can be taken as a field, or the file contradicts itself.
    """
    if header.intent_code in _FSL_KINDS:
        raise InputError(
            f"{what} is {_FSL_KINDS[header.intent_code]}, in FSL's own coordinates: convert it first, for example with the "
            "Connectome Workbench ('wb_command -convert-warpfield -from-fnirt ... -to-itk')."
        )
    name = header.intent_name.upper()
    if name.startswith("NREG_"):
        return _niftyreg(header, what)
    if name == "MAPPING" and header.intent_code in _VECTOR_INTENTS:
        _check_one_placement(header, what)
        return FieldMeaning(True, f"{what} was taken as a deformation by SPM: positions in RAS mm.")
    return None


def _niftyreg(header: NiftiHeader, what: str) -> FieldMeaning:
    kind = _NIFTYREG_KINDS.get(round(header.intent_p1) if np.isfinite(header.intent_p1) else -1)
    if header.intent_name.upper() != "NREG_TRANS" or header.intent_p1 not in (0, 1):
        kind = kind if header.intent_name.upper() == "NREG_TRANS" else None
        stated = kind or f"a file of the kind '{header.intent_name}', {header.intent_p1:g}"
        raise InputError(
            f"{what} is {stated} by NiftyReg, not a field: turn it into one with 'reg_transform -ref FIXED -def INPUT OUTPUT' "
            "and give that."
        )
    _check_one_placement(header, what)
    positions = header.intent_p1 == 0
    named = "deformation field by NiftyReg: positions" if positions else "displacement field by NiftyReg: displacements"
    return FieldMeaning(positions, f"{what} was taken as a {named} in RAS mm.")


def _check_one_placement(header: NiftiHeader, what: str) -> None:
    if header.qform is None or header.sform is None:
        return
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in (*header.sizes, 1, 1, 1)[:3]], [1])).reshape(4, -1)
    apart = float(np.linalg.norm((header.qform - header.sform) @ corners, axis=0).max())
    if apart > 0.1 * min(header.spacing):
        raise InputError(
            f"{what} states two placements, sform and qform, that lie up to {apart:.3g} mm apart, and its vectors are positions "
            "in one of them: make the two equal."
        )
