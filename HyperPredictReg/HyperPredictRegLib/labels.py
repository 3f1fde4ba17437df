"""Names of labels: from a table, or from what 3D Slicer writes into a segmentation file."""

from __future__ import annotations

import csv
from pathlib import Path

import SimpleITK as sitk

from HyperPredictRegLib.errors import InputError


def read_label_names(path: Path | str) -> dict[int, str]:
    """Read names of labels from a CSV file whose first column is the label and whose second is the name.

    Raises
    ------
    InputError : the file is missing or has no such rows.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"The label names '{path}' do not exist: check the path.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = [row for row in csv.reader(stream) if len(row) >= 2]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"The label names '{path}' are not a text table: give a CSV file of label,name.") from error
    names = {int(row[0]): row[1].strip() for row in rows if _is_number(row[0].strip())}
    if not names:
        raise InputError(f"The label names '{path}' hold no row with a label and a name: give the columns label,name.")
    return names


def _is_number(text: str) -> bool:
    # Not isdigit alone, for which ² is a digit; no label map holds numbers of more digits.
    return text.isascii() and text.isdigit() and len(text) <= 10


def embedded_label_names(image: sitk.Image) -> dict[int, str]:
    """Return the names in the header of a Slicer segmentation (.seg.nrrd) that was read as a label map; empty if none."""
    names = {}
    number = 0
    while image.HasMetaDataKey(f"Segment{number}_Name"):
        value_key = f"Segment{number}_LabelValue"
        value = image.GetMetaData(value_key) if image.HasMetaDataKey(value_key) else str(number + 1)
        names[int(value)] = image.GetMetaData(f"Segment{number}_Name")
        number += 1
    return names
