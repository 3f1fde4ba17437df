"""The lengths that the elements of a DICOM file state; GDCM reserves the memory for each before it reads.

Source of the layout: DICOM PS3.5, section 7.1, and PS3.10, section 7.1.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import IO

_LONG = frozenset([b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"])
_IMPLICIT = b"1.2.840.10008.1.2"
_NOT_WALKED = frozenset([b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.1.99"])  # big-endian, and compressed as a whole
_UNDEFINED = 0xFFFFFFFF
_MOST_ELEMENTS = 100_000


def is_dicom(path: Path) -> bool:
    """Tell whether a file has the signature of DICOM."""
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def states_true_lengths(path: Path) -> bool:
    """Tell whether every element of a file ends within it; True where that cannot be told, as in sequences without length."""
    if not is_dicom(path):
        return True
    total = path.stat().st_size
    syntax = b""
    with path.open("rb") as stream:
        stream.seek(132)
        for _ in range(_MOST_ELEMENTS):
            if stream.tell() + 8 > total:
                return True
            group, element = struct.unpack("<2H", stream.read(4))
            if group != 2 and syntax in _NOT_WALKED:
                return True
            length = _length(stream, implicit=group != 2 and syntax == _IMPLICIT, top=group == 2)
            if length is None or length == _UNDEFINED:
                return True
            if stream.tell() + length > total:
                return False
            value_at = stream.tell()
            if (group, element) == (2, 0x10):
                syntax = stream.read(min(length, 64)).strip(b"\0 ")
            stream.seek(value_at + length)
    return True


def _length(stream: IO[bytes], *, implicit: bool, top: bool) -> int | None:
    """Read the length of the element whose tag has just been read; None where there is none that can be told."""
    head = stream.read(4)
    typed = head[:2].isalpha() and head[:2].isupper()
    # The first group has types; where it has none, GDCM takes it for one without.
    if implicit or (top and not typed):
        return int(struct.unpack("<I", head)[0])
    if not typed:
        return None
    if head[:2] not in _LONG:
        return int(struct.unpack("<H", head[2:])[0])
    long = stream.read(4)
    return int(struct.unpack("<I", long)[0]) if len(long) == 4 else None
