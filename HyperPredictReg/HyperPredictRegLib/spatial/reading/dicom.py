"""A folder of DICOM slices: which of them make the volume, and whether they truly lie evenly on top of each other.

ITK stacks whatever shares a series in the order of position, with the mean distance and without a word.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.spatial.reading.files import check_input, is_regular

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
    # The first group should state its types; where it does not, GDCM reads it as implicit.
    if implicit or (top and not typed):
        return int(struct.unpack("<I", head)[0])
    if not typed:
        return None
    if head[:2] not in _LONG:
        return int(struct.unpack("<H", head[2:])[0])
    long = stream.read(4)
    return int(struct.unpack("<I", long)[0]) if len(long) == 4 else None


_TOLERATED = 0.1
"""Of a slice distance or a pixel: so much may a slice lie beside its place."""

_SAME_PLACE = 0.01
"""Of the mean slice distance: nearer slices lie at one position."""

_TELLING_TAGS = {
    "0018|0081": "echo time",
    "0020|0100": "temporal position",
    "0018|1060": "trigger time",
    "0018|9087": "diffusion b-value",
    "0020|0012": "acquisition number",
    "0008|0032": "acquisition time",
    "0008|0008": "image type",
}
_OTHER_TAGS = (
    "0008|0018", "0008|103e", "0018|1164", "0020|000e", "0020|0032", "0020|0037", "0028|0010", "0028|0030",
)  # fmt: skip
_NO_IMAGES = frozenset(
    b"SR PR KO REG RTSTRUCT RTPLAN RTRECORD DOC PLAN ANN FID AU RWV ECG HD".split()
)
_EVEN_REMEDY = (
    "Export the whole series again, or load it in 3D Slicer with 'Acquisition geometry regularization' (DICOM settings), "
    "resample it evenly and give that volume."
)


@dataclass(frozen=True)
class _Slice:
    """One file: where it lies (LPS mm), what it is; `position` and `axes` are None where the file does not say."""

    path: str
    size: tuple[int, ...]
    position: np.ndarray | None
    axes: np.ndarray | None
    pixel_spacing: tuple[float, ...] | None
    tags: dict[str, str]

    @property
    def name(self) -> str:
        return Path(self.path).name

    @property
    def is_localizer(self) -> bool:
        return "LOCALIZER" in self.tags.get("0008|0008", "").upper()


@dataclass(frozen=True)
class DicomSeries:
    """The files of a volume, in the order of their positions, with sentences for the report.

    Attributes
    ----------
    files : paths; a single one holds several frames, or is a lone slice.
    origin, step : position of the first slice, and the vector from one slice to the next, shape (3,), LPS mm; None for one file.
    """

    files: tuple[str, ...]
    notes: tuple[str, ...]
    origin: np.ndarray | None = None
    step: np.ndarray | None = None


def dicom_series(folder: Path, role: str) -> DicomSeries:
    """Find the slices of a folder's one series and check that they lie evenly, each position once.

    Localizers, and series that are no images, are left out with a note.

    Raises
    ------
    InputError : there is no series, or several; or slices are missing, unevenly spaced, tilted, doubled, or without a position.
    """
    what = f"The {role} '{folder}'"
    slices, notes = _one_series(*_all_slices(folder, role, what), what)
    slices, more = _without_copies(slices, what)
    notes += more
    if len(slices) == 1:
        return DicomSeries((slices[0].path,), tuple(notes))
    _check_alike(slices, what)
    return _stacked(slices, notes, what)


def frames_note(what: str, spacing: float, frames: int) -> str:
    """Say that one file held all slices, whose distances ITK does not tell one by one."""
    return (
        f"{what} is one DICOM file of {frames} frames: they were taken as {spacing:.4g} mm apart throughout, which could not be "
        "checked frame by frame."
    )


def _all_slices(folder: Path, role: str, what: str) -> tuple[dict[str, list[_Slice]], int]:
    """Read what every file of a folder says of itself; return the slices by series, and how many DICOM files are no images.

    GDCM's own search gives up on a folder with a dangling link, waits for ever for a pipe, and passes over slices that are cut
    short.
    """
    found: dict[str, list[_Slice]] = {}
    others = 0
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() or not entry.exists() or entry.name.upper() == "DICOMDIR":
            continue
        if not is_regular(entry):
            raise InputError(f"{what} holds '{entry.name}', which is a pipe, a socket or a device: give a folder of files only.")
        if entry.stat().st_size == 0:
            continue
        check_input(entry, f"file in the folder of the {role}")
        one = _read_slice(str(entry))
        if one is not None:
            found.setdefault(one.tags.get("0020|000e", ""), []).append(one)
        elif is_dicom(entry):
            if not _is_no_image(entry):
                raise InputError(f"{what} holds '{entry.name}', a damaged DICOM file: copy or export the series again.")
            others += 1
    if not found:
        raise InputError(f"{what} is a folder without a DICOM series: give a file or a folder of DICOM slices.")
    return found, others


def _is_no_image(path: Path) -> bool:
    """Tell whether a DICOM file is of a modality without voxels, such as a report."""
    with path.open("rb") as stream:
        start = stream.read(1 << 16)
    at = start.find(b"\x08\x00\x60\x00")
    stated = start[at + 4 : at + 24].replace(b"\0", b" ").split() if at >= 0 else []
    return any(word.removeprefix(b"CS") in _NO_IMAGES for word in stated)


def _read_slice(name: str) -> _Slice | None:
    """Return what a file says of itself, or None if it is no DICOM image that can be read."""
    if not states_true_lengths(Path(name)):
        return None
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(name)
    try:
        reader.ReadImageInformation()
        keys = set(reader.GetMetaDataKeys())
        tags = {key: _tag(reader, key) for key in (*_TELLING_TAGS, *_OTHER_TAGS) if key in keys}
    except (RuntimeError, ValueError):
        return None
    if "0028|0010" not in tags:
        return None
    axes = _numbers(tags.get("0020|0037"), 6)
    spacing = _numbers(tags.get("0028|0030") or tags.get("0018|1164"), 2)
    return _Slice(
        path=name,
        size=tuple(reader.GetSize()),
        position=_numbers(tags.get("0020|0032"), 3),
        axes=None if axes is None else axes.reshape(2, 3),
        pixel_spacing=None if spacing is None else tuple(reader.GetSpacing()[:2]),
        tags=tags,
    )


def _tag(reader: sitk.ImageFileReader, key: str) -> str:
    try:
        return str(reader.GetMetaData(key)).strip().strip("\0")
    except (RuntimeError, ValueError):
        return ""


def _numbers(text: str | None, count: int) -> np.ndarray | None:
    try:
        values = np.array([float(word) for word in (text or "").split("\\")])
    except ValueError:
        return None
    return values if len(values) == count and np.isfinite(values).all() else None


def _one_series(images: dict[str, list[_Slice]], others: int, what: str) -> tuple[list[_Slice], list[str]]:
    """Return the slices of the one series that is a volume, less localizers, and notes on what was left out."""
    volumes = {uid: [s for s in slices if not s.is_localizer] for uid, slices in images.items()}
    volumes = {uid: slices for uid, slices in volumes.items() if slices}
    if not volumes:
        # A folder with nothing but localizers is a volume of them.
        volumes = images
    if len(volumes) > 1:
        named = "; ".join(
            f"'{slices[0].tags.get('0008|103e', '') or uid}' with {_count(len(slices), 'image')}"
            for uid, slices in volumes.items()
        )
        raise InputError(f"{what} holds {len(volumes)} DICOM series ({named}): give a folder with the slices of one only.")
    (retained,) = volumes.values()
    notes: list[str] = []
    scouts = sum(map(len, images.values())) - len(retained)
    if scouts:
        notes.append(f"{what} holds {_count(scouts, 'localizer image')} beside the volume of {len(retained)} slices: left out.")
    if others:
        notes.append(f"{what} holds {_count(others, 'DICOM file')} without an image beside the volume: left out.")
    return retained, notes


def _without_copies(slices: list[_Slice], what: str) -> tuple[list[_Slice], list[str]]:
    """Leave out files that are the same image once more."""
    retained: list[_Slice] = []
    seen: dict[str, _Slice] = {}
    copies = 0
    for one in slices:
        uid = one.tags.get("0008|0018", "")
        first = seen.get(uid) if uid else None
        if first is None:
            seen[uid] = one
        elif _content(first) == _content(one):
            copies += 1
            continue
        retained.append(one)
    if not copies:
        return slices, []
    return retained, [f"{what} holds {_count(copies, 'image')} twice: each was read once."]


def _content(one: _Slice) -> bytes:
    """Return a digest of a slice's voxels and place."""
    digest = hashlib.sha256(repr((one.size, one.position, one.axes)).encode())
    digest.update(sitk.GetArrayFromImage(sitk.ReadImage(one.path)).tobytes())
    return digest.digest()


def _check_alike(slices: list[_Slice], what: str) -> None:
    """Check that all slices state their place and have one size, pixel spacing and direction."""
    frames = [s for s in slices if len(s.size) > 2 and s.size[2] > 1]
    if frames:
        raise InputError(
            f"{what} holds {len(slices)} DICOM files, {len(frames)} of them with several frames: give one such file."
        )
    for meaning, value in (
        ("position (Image Position (Patient))", "position"),
        ("direction (Image Orientation (Patient))", "axes"),
        ("pixel spacing", "pixel_spacing"),
    ):
        without = [s.name for s in slices if getattr(s, value) is None]
        if without:
            raise InputError(
                f"{what} cannot be put together: {_count(len(without), 'slice')} of {len(slices)} state no {meaning}, "
                f"for example '{without[0]}'. Export the series again with all its tags."
            )
    sides: list[tuple[str, list[Any]]] = [
        ("sizes", [s.size[:2] for s in slices]),
        ("pixel spacings", [tuple(round(v, 5) for v in s.pixel_spacing or ()) for s in slices]),
        ("directions", _directions(slices)),
    ]
    for meaning, kinds in sides:
        counts = Counter(kinds).most_common()
        if len(counts) > 1:
            odd = slices[kinds.index(counts[1][0])].name
            numbers = " and ".join(str(count) for _, count in counts[:4])
            raise InputError(
                f"{what} holds slices of {len(counts)} different {meaning} ({numbers} slices; '{odd}' is one of the fewer): "
                "localizers or another acquisition may be among them. Give a folder with the slices of one volume."
            )


def _directions(slices: list[_Slice]) -> list[int]:
    """Number the directions of slices; those within a tenth of a pixel over the slice are one."""
    known: list[np.ndarray] = []
    numbers = []
    for one in slices:
        axes = np.zeros((2, 3)) if one.axes is None else one.axes
        reach = max(one.size[:2])
        number = next((n for n, other in enumerate(known) if np.abs(axes - other).max() * reach <= _TOLERATED), len(known))
        if number == len(known):
            known.append(axes)
        numbers.append(number)
    return numbers


def _stacked(slices: list[_Slice], notes: list[str], what: str) -> DicomSeries:
    """Order slices by position, and check that they lie evenly and straight on top of each other."""
    row, column = np.array(slices[0].axes)
    normal = np.cross(row, column)
    length = float(np.linalg.norm(normal))
    if not 0.99 < length < 1.01:
        raise InputError(f"{what} is damaged: the directions of rows and columns in its slices are not at right angles.")
    normal = normal / length
    places = np.array([s.position for s in slices])
    heights = places @ normal
    order = np.argsort(heights, kind="stable")
    slices, places, heights = [slices[n] for n in order], places[order], heights[order]
    _check_single(slices, heights, what)
    _check_straight(slices, places, heights, normal, what)
    _check_even(slices, heights, what)
    step = (places[-1] - places[0]) / (len(slices) - 1)
    return DicomSeries(tuple(s.path for s in slices), tuple(notes), places[0], step)


def _check_single(slices: list[_Slice], heights: np.ndarray, what: str) -> None:
    span = float(heights[-1] - heights[0])
    group = np.concatenate([[0], np.cumsum(np.diff(heights) > _SAME_PLACE * span / (len(slices) - 1))])
    counts = np.bincount(group)
    if counts.max() == 1:
        return
    at = int(counts.argmax())
    same = [s for s, g in zip(slices, group, strict=True) if g == at]
    where = "each position" if counts.min() == counts.max() else f"{int((counts > 1).sum())} of {len(counts)} positions"
    differing = [
        f"{meaning}s {', '.join(values)}" for tag, meaning in _TELLING_TAGS.items()
        if 1 < len(values := sorted({s.tags.get(tag, "") for s in same} - {""})) <= 6
    ]  # fmt: skip
    because = f" They differ in {'; '.join(differing[:2])}." if differing else ""
    raise InputError(
        f"{what} holds {counts.max()} images at {where} ({len(slices)} images at {len(counts)} positions, for example "
        f"'{same[0].name}' and '{same[1].name}'): several echoes, time points or directions.{because} Give a folder with one "
        "of them."
    )


def _check_straight(slices: list[_Slice], places: np.ndarray, heights: np.ndarray, normal: np.ndarray, what: str) -> None:
    offsets = places - places[0]
    sideways = offsets - np.outer(offsets @ normal, normal)
    far = np.linalg.norm(sideways, axis=1)
    pixel = min(slices[0].pixel_spacing or (1.0,))
    if far.max() <= _TOLERATED * pixel:
        return
    rise = heights - heights[0]
    straight = np.outer(rise / rise[-1], sideways[-1])
    if np.linalg.norm(sideways - straight, axis=1).max() > max(_TOLERATED * pixel, 0.02 * far.max()):
        raise InputError(
            f"{what} has slices that are shifted sideways against each other, by up to {far.max():.3g} mm. {_EVEN_REMEDY}"
        )
    degrees = math.degrees(math.atan2(far[-1], rise[-1]))
    raise InputError(
        f"{what} was taken with a tilted gantry: its slices are stacked at {degrees:.3g} degrees to their normal, so that read "
        f"as upright its last slice would lie {far[-1]:.3g} mm off. {_EVEN_REMEDY}"
    )


def _check_even(slices: list[_Slice], heights: np.ndarray, what: str) -> None:
    steps = np.diff(heights)
    usual = float(np.median(steps))
    even = heights[0] + np.arange(len(heights)) * (heights[-1] - heights[0]) / (len(heights) - 1)
    uneven = np.abs(steps - usual) > _TOLERATED * usual
    if not uneven.any() and np.abs(heights - even).max() <= _TOLERATED * usual:
        return
    worst = int(np.abs(steps - usual).argmax())
    missing = round(steps[worst] / usual) - 1
    whole = missing >= 1 and abs(steps[worst] / usual - missing - 1) < 0.15
    few = uneven.sum() == 1 or 4 * uneven.sum() <= len(steps)
    guess = f"; {_count(missing, 'slice')} seem{'s' if missing == 1 else ''} to be missing there" if whole and few else ""
    elsewhere = int(uneven.sum()) - 1
    more = f", and {_count(elsewhere, 'more distance')} differ{'s' if elsewhere == 1 else ''} too" if elsewhere > 0 else ""
    raise InputError(
        f"{what} is not evenly spaced: most slices lie {usual:.4g} mm apart, but '{slices[worst].name}' and "
        f"'{slices[worst + 1].name}' (at {heights[worst]:.4g} and {heights[worst + 1]:.4g} mm along the stack) "
        f"{steps[worst]:.4g} mm{guess}{more}. {_EVEN_REMEDY}"
    )


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
