"""What the vectors of a NIfTI file are, where the program that wrote it says so in its own way.

A vector image says as little as "three numbers per voxel". ITK and ANTs write displacements in LPS mm; NiftyReg and SPM write
positions, or displacements, in the RAS mm of the grid, and coefficients that are no field at all.
Sources: NiftyReg's ``NREG_TRANS_TYPE`` and its ``intent_name``; SPM's ``spm_preproc_write8`` (name "Mapping"); the intent codes
of nifti1.h, and those of FSL.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.reading.nifti import NiftiHeader

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
