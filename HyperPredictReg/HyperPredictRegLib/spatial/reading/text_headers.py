"""The text headers of NRRD and MetaImage files: what ITK passes over in silence, and what would end the process inside it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.spatial.reading.files import is_regular

_HEADER_BYTES = 1 << 24
_LONGEST_FIELD = 500  # characters; ITK's reader of NRRD writes beyond a buffer of about a thousand
_MOST_LINES = 10_000  # ITK's reader of NRRD takes minutes for hundreds of thousands
_MOST_DIMENSIONS = 5
_MILLIMETERS = {
    "mm": 1.0, "millimeter": 1.0, "millimeters": 1.0, "millimetre": 1.0, "millimetres": 1.0,
    "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "micron": 1e-3, "microns": 1e-3, "micrometer": 1e-3, "micrometers": 1e-3,
    "micrometre": 1e-3, "micrometres": 1e-3, "nm": 1e-6, "nanometer": 1e-6, "nanometers": 1e-6,
    "cm": 10.0, "centimeter": 10.0, "centimeters": 10.0, "m": 1000.0, "meter": 1000.0, "meters": 1000.0,
    "metre": 1000.0, "metres": 1000.0, "in": 25.4, "inch": 25.4, "inches": 25.4,
}  # fmt: skip
DEFLATE_RATIO = 1100
"""No stream compressed by that method holds more than 1032 times its own size."""

_DENSITIES = {"raw": 1, "hex": 1} | dict.fromkeys(("txt", "text", "ascii"), 8)
_NO_UNIT = frozenset({"", "?", "none", "???"})
_PATIENT_SPACES = frozenset(
    {"right-anterior-superior", "ras", "left-anterior-superior", "las", "left-posterior-superior", "lps"}
    | {f"{name}-time" for name in ("right-anterior-superior", "left-anterior-superior", "left-posterior-superior")}
    | {"rast", "last", "lpst"}
)


@dataclass(frozen=True)
class TextHeader:
    """What a text header states beyond what ITK reads from it.

    Attributes
    ----------
    scale : length of the file's unit in mm.
    notes : sentences for the report.
    bytes_per_byte : how many bytes of voxels one byte of the file can hold at most; None where they lie in other files.
    """

    scale: float = 1.0
    notes: tuple[str, ...] = ()
    bytes_per_byte: int | None = None


def check_text_header(path: Path, what: str) -> TextHeader | None:
    """Read the header of a NRRD or MetaImage file; None where the file is of another kind.

    Parameters
    ----------
    what : how to call the file in a sentence, for example "The fixed image 'a.nrrd'".

    Raises
    ------
    InputError : the header is damaged or hostile, states a spacing that is not above zero or a unit that is not known.
    OSError : the file cannot be read.
    """
    with path.open("rb") as stream:
        start = stream.read(8)
        stream.seek(0)
        if start.startswith(b"NRRD") or path.name.lower().endswith((".nrrd", ".nhdr")):
            return _nrrd(_nrrd_lines(stream.read(_HEADER_BYTES), what), path, what)
        if path.name.lower().endswith((".mha", ".mhd")):
            return _meta_image(_meta_lines(stream.read(_HEADER_BYTES)), path, what)
    return None


def _nrrd_lines(raw: bytes, what: str) -> list[str]:
    end = re.search(rb"\r?\n\r?\n", raw)
    if end is None and len(raw) == _HEADER_BYTES:
        raise InputError(f"{what} is damaged: its header has no end within {_HEADER_BYTES >> 20} MiB. Export it again.")
    text = (raw if end is None else raw[: end.start()]).decode("utf-8", errors="replace")
    return re.split(r"\r?\n", text)


def _nrrd(lines: list[str], path: Path, what: str) -> TextHeader:
    if len(lines) > _MOST_LINES:
        raise InputError(f"{what} has {len(lines)} lines in its header, more than {_MOST_LINES}: export it again.")
    fields: dict[str, str] = {}
    for number, line in enumerate(lines):
        if line.startswith("#") or line.partition(":")[2].startswith("="):
            continue  # a comment, or a pair of key and value, whose lengths do no harm
        if fields.get("data file", "").upper().startswith("LIST"):
            break
        name, _, value = line.partition(":")
        if len(line.encode()) > _LONGEST_FIELD and name.strip().lower() != "content":
            raise InputError(
                f"{what} is damaged: line {number + 1} of its header ('{line[:20]}...') has {len(line)} characters, more "
                f"than the {_LONGEST_FIELD} that can be read. Export it again."
            )
        fields[name.strip().lower()] = value.strip()
    _check_dimension(fields.get("dimension"), what)
    _check_spacing(fields.get("spacings"), what)
    detached = fields.get("data file", fields.get("datafile"))
    if detached is not None:
        listed = lines[next(n for n, line in enumerate(lines) if re.match(r"data ?file:", line, re.I)) + 1 :]
        _check_data_file(detached, listed, path, what)
    units = re.findall(r'"([^"]*)"', fields.get("space units", "")) or [
        unit for unit, kind in zip(
            re.findall(r'"([^"]*)"', fields.get("units", "")), _kinds(fields), strict=False
        ) if kind in ("domain", "space")
    ]  # fmt: skip
    scale, notes = _unit(units, what)
    density = None if detached is not None else _DENSITIES.get(fields.get("encoding", "").lower(), DEFLATE_RATIO)
    return TextHeader(scale, (*notes, *_space_notes(fields.get("space"), what)), density)


def _kinds(fields: dict[str, str]) -> list[str]:
    kinds = fields.get("kinds", fields.get("centerings and kinds", "")).lower().split()
    return kinds or ["domain"] * _MOST_DIMENSIONS


def _space_notes(space: str | None, what: str) -> tuple[str, ...]:
    if space is not None and space.lower() in _PATIENT_SPACES:
        return ()
    stated = f"lies in the space '{space}', which names no patient axes" if space else "does not state in which space it lies"
    return (
        f"{what} {stated}: its axes were taken as left, posterior, superior, as 3D Slicer does. Check it in the views.",
    )


def _meta_lines(raw: bytes) -> list[str]:
    end = re.search(rb"^\s*ElementDataFile[^\n]*", raw, flags=re.MULTILINE)
    text = raw if end is None else raw[: end.end()]
    rest = b"" if end is None or b"LIST" not in end.group() else raw[end.end() :]
    return [line.strip() for line in (text + rest).decode("utf-8", errors="replace").splitlines()]


def _meta_image(lines: list[str], path: Path, what: str) -> TextHeader:
    fields: dict[str, str] = {}
    for number, line in enumerate(lines):
        name, _, value = line.partition("=")
        fields[name.strip().lower()] = value.strip()
        if name.strip().lower() == "elementdatafile":
            if value.strip().upper() != "LOCAL":
                _check_data_file(value.strip(), lines[number + 1 :], path, what)
            break
    _check_dimension(fields.get("ndims"), what)
    _check_spacing(fields.get("elementspacing", fields.get("elementsize")), what)
    scale, notes = _unit([fields.get("distanceunits", "")], what)
    local = fields.get("elementdatafile", "").upper() == "LOCAL"
    as_text = fields.get("binarydata", "true").lower().startswith("f")
    compressed = fields.get("compresseddata", "false").lower()[:1] in ("t", "1", "y")
    density = DEFLATE_RATIO if compressed else _DENSITIES["text"] if as_text else 1
    return TextHeader(scale, notes, density if local else None)


def _check_dimension(stated: str | None, what: str) -> None:
    if stated is None:
        return
    if not re.fullmatch(r"\d{1,3}", stated) or not 1 <= int(stated) <= _MOST_DIMENSIONS:
        raise InputError(f"{what} states {stated[:20]} dimensions: only 3-D volumes can be registered.")


def _check_spacing(stated: str | None, what: str) -> None:
    try:
        spacing = [float(word) for word in (stated or "").split()]
    except ValueError:
        return  # ITK refuses it
    # ITK turns a negative spacing into a flipped axis, which is not what the file's writer meant; NaN stands for an axis
    # without one, such as the components of a vector.
    if not all(s > 0 and math.isfinite(s) for s in spacing if not math.isnan(s)):
        sizes = " x ".join(f"{s:g}" for s in spacing)
        raise InputError(f"{what} states a voxel spacing of {sizes} mm: it must be above 0; mend the header.")


def _check_data_file(stated: str, listed: list[str], path: Path, what: str) -> None:
    """Check that the voxels lie in regular files, and that their pattern is one that only numbers can fill in."""
    words = stated.split()
    if not words:
        raise InputError(f"{what} names no file that holds its voxels: mend the header.")
    if words[0].upper() == "LIST":
        names = [line for line in listed if line.strip()]
    elif "%" in stated:
        if not re.fullmatch(r"[^%]*%0?\d{0,2}d[^%]*", words[0]):
            raise InputError(f"{what} names its voxel files by '{words[0][:40]}', which is no pattern: mend the header.")
        names = [words[0] % int(words[1])] if len(words) > 1 and re.fullmatch(r"\d{1,9}", words[1]) else []
    else:
        names = [stated]
    for name in names:
        if "\0" in name or len(name) > 4096 or not is_regular(path.parent / name):
            raise InputError(
                f"{what} is a header whose voxels should lie in '{name[:80]}', but there is no such file: "
                "keep the two together, or save the image as one file."
            )


def _unit(units: list[str], what: str) -> tuple[float, tuple[str, ...]]:
    stated = {unit.strip() for unit in units} - {""}
    stated = {unit for unit in stated if unit.lower() not in _NO_UNIT}
    if not stated:
        return 1.0, ()
    scales = {_MILLIMETERS.get(unit if unit in _MILLIMETERS else unit.lower()) for unit in stated}
    scale = scales.pop()
    if scales or scale is None:
        named = ", ".join(f"'{unit[:20]}'" for unit in sorted(stated))
        raise InputError(f"{what} states its unit of length as {named}: save it in millimeters.")
    if scale == 1.0:
        return 1.0, ()
    return scale, (f"{what} is stated in {sorted(stated)[0]}: its grid was converted to mm (times {scale:g}).",)
