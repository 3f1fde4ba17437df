"""Faults in image headers that ITK mends without a word: files cut short, and spacings that are not above zero."""

from __future__ import annotations

import gzip
import re
import struct
from pathlib import Path
from typing import IO, cast

import numpy as np

_TEXT_HEADER_BYTES = 65536


def check_complete(path: Path) -> None:
    """Raise an error if a NIfTI file has fewer bytes than its header promises; ITK would read zeros instead.

    Other formats are checked by ITK itself.

    Raises
    ------
    EOFError, OSError, zlib.error, struct.error : the file is cut short or damaged.
    """
    if not _is_nifti(path):
        return
    with _opened(path) as stream:
        header = stream.read(540)
        nifti = _Nifti(header)
        found = len(header)
        # Reading a compressed stream to its end checks its checksum, too.
        while block := stream.read(1 << 20):
            found += len(block)
    if found < nifti.wanted_bytes:
        raise EOFError(f"{path.name} has {found} bytes where its header promises {nifti.wanted_bytes}.")


def stated_spacing(path: Path) -> tuple[float, ...] | None:
    """Return the voxel spacing as the header of a NIfTI, MetaImage or NRRD file states it, None where it states none.

    ITK turns a negative spacing into a flipped axis and a zero in NIfTI into 1 mm; neither is what the file's writer meant.

    Raises
    ------
    OSError, EOFError, zlib.error, struct.error : the file cannot be read.
    """
    if _is_nifti(path):
        with _opened(path) as stream:
            return _Nifti(stream.read(540)).spacing
    if not path.name.lower().endswith((".mha", ".mhd", ".nrrd", ".nhdr")):
        return None
    with path.open("rb") as stream:
        text = stream.read(_TEXT_HEADER_BYTES).decode("latin-1")
    # The header ends where the voxels begin; what looks like a field after that is none.
    header = re.split(r"\r?\n\r?\n|ElementDataFile", text, maxsplit=1)[0]
    found = re.search(r"^(?:ElementSpacing|spacings)\s*[=:]\s*(.+?)\s*$", header, flags=re.MULTILINE)
    if found is None:
        return None
    try:
        return tuple(float(word) for word in found.group(1).split())
    except ValueError:
        return None


class _Nifti:
    """The few fields of a NIfTI-1 or NIfTI-2 header that matter here."""

    def __init__(self, header: bytes) -> None:
        order = "<" if struct.unpack_from("<i", header)[0] in (348, 540) else ">"
        if struct.unpack_from(f"{order}i", header)[0] == 348:
            sizes = struct.unpack_from(f"{order}8h", header, 40)
            bits, offset = struct.unpack_from(f"{order}h", header, 72)[0], struct.unpack_from(f"{order}f", header, 108)[0]
            spacings = struct.unpack_from(f"{order}8f", header, 76)
        else:
            sizes = struct.unpack_from(f"{order}8q", header, 16)
            bits, offset = struct.unpack_from(f"{order}h", header, 14)[0], struct.unpack_from(f"{order}q", header, 168)[0]
            spacings = struct.unpack_from(f"{order}8d", header, 104)
        dimensions = max(0, min(sizes[0], 7))
        self.spacing = tuple(float(s) for s in spacings[1 : 1 + min(dimensions, 3)])
        self.wanted_bytes = int(offset) + int(np.prod(sizes[1 : 1 + dimensions], dtype=np.int64)) * bits // 8


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


def _opened(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.name.lower().endswith(".gz") else path.open("rb")
