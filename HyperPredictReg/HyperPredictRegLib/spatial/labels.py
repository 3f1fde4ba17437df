"""Names of labels: from a table, or from what 3D Slicer writes into a segmentation file; and two label maps in one numbering."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.files import read_text
from HyperPredictRegLib.core.formatting import capitalized
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.reading.files import check_input
from HyperPredictRegLib.spatial.structures import match

_ROLE = "table of label names"

# Ten digits hold every label there can be; Python refuses to count thousands of them.
_LABEL = re.compile("[0-9]{1,10}")

_SEGMENT_KEY = re.compile(r"Segment(\d{1,6})_.+", re.ASCII)
_NUMBER_KEY = re.compile(r"Segment\d{1,6}_(Layer|LabelValue)", re.ASCII)
_WHOLE = re.compile(r"\s*\d{1,10}\s*", re.ASCII)
_FEW_LABELS = 1 << 16
_CONTAINER_KEY = "Segmentation_"
_REFERENCE_GEOMETRY = "Reference image geometry"
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_label_names(path: Path | str) -> dict[int, str]:
    """Read names of labels from a CSV file whose first column is the label and whose second is the name.

    Raises
    ------
    InputError : the file is missing, no regular file, too long, or has no such rows.
    """
    check_input(path, _ROLE)
    text = read_text(Path(path), _ROLE)
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if len(row) >= 2]
    except csv.Error as error:
        raise InputError(f"The label names '{path}' are not a text table: give a CSV file of label,name.") from error
    names = {int(row[0]): row[1].strip() for row in rows if _LABEL.fullmatch(row[0].strip())}
    if not names:
        raise InputError(f"The label names '{path}' hold no row with a label and a name: give the columns label,name.")
    return names


@dataclass(frozen=True)
class Segment:
    """One segment as the header of a Slicer segmentation describes it.

    Attributes
    ----------
    number : in the names of its header fields.
    name : for people.
    layer : the component of the image's voxels that it is drawn in; segments of different layers may overlap.
    value : what these voxels hold.
    """

    number: int
    name: str
    layer: int
    value: int


def embedded_label_names(image: sitk.Image) -> dict[int, str]:
    """Return the names in the header of a Slicer segmentation (.seg.nrrd) that was read as a label map; empty if none.

    A segment whose label is no number has no name: the voxels, which are all that counts here, do not need it.
    """
    fields = header_fields(image)
    bad = [key for key, value in fields.items() if _NUMBER_KEY.fullmatch(key) and not _WHOLE.fullmatch(value)]
    numbers = tuple(f"{key.partition('_')[0]}_" for key in bad)
    retained = {key: value for key, value in fields.items() if not key.startswith(numbers)}
    return {segment.value: segment.name for segment in segments_of(retained, None, "the segmentation")}


def renumbered_like(fixed: sitk.Image, moving: sitk.Image) -> tuple[sitk.Image, dict[int, str], tuple[str, ...]]:
    """Number the fixed labels as the moving ones where both are named: structures are compared by name, not by value.

    Parameters
    ----------
    fixed, moving : label maps as they were read, with their header fields.

    Returns
    -------
    labels : the fixed label map, its values changed where the moving one has the structure under another value, or another
        structure under the value; the image itself where nothing had to change.
    names : of all labels that have one.
    notes : a sentence if values were changed.
    """
    ours, theirs = embedded_label_names(fixed), embedded_label_names(moving)
    matched = {label: match(name, theirs) for label, name in ours.items()}
    # Both ways, so that two fixed labels never become one.
    same = {label: other for label, other in matched.items() if other is not None and match(theirs[other], ours) == label}
    present, places = np.unique(sitk.GetArrayViewFromImage(fixed), return_inverse=True)
    free = itertools.count(max(int(present.max()), *ours, *theirs, 0) + 1)
    values = {0: 0, **same}
    for label in present.tolist():
        if label not in values:
            taken = label in same.values() or (label in ours and label in theirs)
            values[label] = next(free) if taken else label
    names = {values.get(label, label): name for label, name in ours.items()} | theirs
    changed = [label for label in present.tolist() if values[label] != label]
    if not changed:
        return fixed, names, ()
    voxels = np.array([values[label] for label in present.tolist()], dtype=np.uint32)[places]
    example = ours.get(changed[0], f"label {changed[0]}")
    note = (
        f"{len(changed)} of the fixed labels were given other values, such as {values[changed[0]]} in place of {changed[0]} to "
        f"'{example}': structures are compared by their names, and the moving labels number them so."
    )
    shape = fixed.GetSize()[::-1]
    return Geometry.of(fixed).apply_to(sitk.GetImageFromArray(voxels.reshape(shape))), names, (note,)


def names_given_twice(names: Mapping[int, str], table: Mapping[int, str]) -> tuple[str, ...]:
    """Return a sentence for each label that a table of names calls otherwise than the segmentation itself does."""
    return tuple(
        f"The label {label} is called '{names[label]}' in the segmentation and '{name}' in the table of label names: "
        "the table counts."
        for label, name in sorted(table.items())
        if label in names and match(name, {label: names[label]}) is None
    )


def label_extents(labels: np.ndarray) -> dict[int, tuple[slice, ...]]:
    """Return the bounding box of every label but 0 in an array of whole numbers, by label."""
    if labels.size and labels.max() < _FEW_LABELS:
        found = ndimage.find_objects(labels)
        return {number: extent for number, extent in enumerate(found, start=1) if extent is not None}
    # A list up to the highest label would be too long.
    present = np.unique(labels[labels != 0])
    found = ndimage.find_objects(np.where(labels == 0, 0, np.searchsorted(present, labels) + 1))
    return dict(zip(present.tolist(), found, strict=True))


def header_fields(image: sitk.Image) -> dict[str, str]:
    """Return the header fields of an image, or of a reader that has read its information, by name."""
    return {key: _text(image.GetMetaData(key)) for key in image.GetMetaDataKeys()}


def segments_of(fields: Mapping[str, str], layers: int | None, what: str) -> tuple[Segment, ...]:
    """Return the segments that the header of an image describes, in their order; none for an ordinary label map.

    Parameters
    ----------
    fields : of the header, by name.
    layers : how many components each voxel has, or None if they do not matter.
    what : how to call it in an error, for example "the labels 'a.seg.nrrd'".

    Raises
    ------
    InputError : a layer or a label is no whole number, or there is no such layer.
    """
    numbers = sorted({int(match.group(1)) for key in fields if (match := _SEGMENT_KEY.fullmatch(key))})
    found = []
    for place, number in enumerate(numbers):
        stated = [fields.get(f"Segment{number}_{key}") for key in ("Name", "ID", "Layer", "LabelValue")]
        name, own_id, own_layer, own_value = stated
        # Before it could share layers, Slicer gave each segment one of its own, of ones, and wrote neither field.
        alone = layers is not None and layers > 1 and own_layer is None
        layer = _whole(own_layer, place if alone else 0, what)
        value = _whole(own_value, 1 if alone else place + 1, what)
        if layers is not None and layer >= layers:
            raise InputError(
                f"{capitalized(what)} describes a segment in layer {layer}, but has {layers}: it is damaged. Save it "
                "again in 3D Slicer."
            )
        found.append(Segment(number, name or own_id or f"label {value}", layer, value))
    return tuple(found)


def describe_segments(result: sitk.Image, source: sitk.Image, what: str) -> None:
    """Give `result`, in place, the header fields of a Slicer segmentation, with what they say of its grid and voxels renewed.

    Parameters
    ----------
    result : the segments on another grid: the same layers and labels as `source`.
    source : as SimpleITK read it, with its header fields.
    what : see `segments_of`.

    Raises
    ------
    InputError : as `segments_of`.
    """
    fields = header_fields(source)
    for key, value in fields.items():
        if _SEGMENT_KEY.fullmatch(key) or key.startswith(_CONTAINER_KEY):
            result.SetMetaData(key, value)
    # The voxels fill the grid that they refer to from its first voxel on.
    result.SetMetaData(f"{_CONTAINER_KEY}ReferenceImageExtentOffset", "0 0 0")
    key = f"{_CONTAINER_KEY}ConversionParameters"
    if result.HasMetaDataKey(key):
        result.SetMetaData(key, _with_geometry(result.GetMetaData(key), Geometry.of(result)))
    segments = segments_of(fields, source.GetNumberOfComponentsPerPixel(), what)
    voxels = sitk.GetArrayViewFromImage(result)
    for layer in sorted({segment.layer for segment in segments}):
        extents = label_extents(voxels[..., layer] if voxels.ndim > 3 else voxels)
        for segment in segments:
            if segment.layer == layer:
                found = extents.get(segment.value)
                extent = "0 -1 0 -1 0 -1" if found is None else " ".join(f"{s.start} {s.stop - 1}" for s in reversed(found))
                result.SetMetaData(f"Segment{segment.number}_Extent", extent)


def _text(found: str) -> str:
    """Return a header field as text that can be written again: bytes that are not UTF-8 arrive as lone surrogates."""
    try:
        found.encode()
    except UnicodeEncodeError:
        return found.encode("utf-8", "surrogateescape").decode("latin-1")
    return found


def _whole(text: str | None, default: int, what: str) -> int:
    if text is None:
        return default
    if not _WHOLE.fullmatch(text):
        what = capitalized(what)
        raise InputError(f"{what} has {text[:40]!r} as the layer or label of a segment: give a whole number.")
    return int(text)


def _with_geometry(parameters: str, grid: Geometry) -> str:
    """Return Slicer's conversion parameters, NAME|VALUE|DESCRIPTION& and so on, with a grid as the reference geometry."""
    numbers = (_LPS_TO_RAS @ grid.index_to_lps).ravel()
    edges = [edge for n in grid.size for edge in (0, n - 1)]
    value = "".join(f"{number:.17g};" for number in (*(float(n) + 0.0 for n in numbers), *edges))
    parts = [part.split("|") for part in parameters.split("&")]
    return "&".join(
        "|".join([part[0], value, *part[2:]]) if part[0] == _REFERENCE_GEOMETRY else "|".join(part) for part in parts
    )
