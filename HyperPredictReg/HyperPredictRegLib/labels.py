"""Names of labels: from a table, or from what 3D Slicer writes into a segmentation file."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import SimpleITK as sitk

from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.reading.files import check_input, named_in_errors

_ROLE = "table of label names"

# Ten digits hold every label there can be; Python refuses to count thousands of them.
_LABEL = re.compile("[0-9]{1,10}")


def read_label_names(path: Path | str) -> dict[int, str]:
    """Read names of labels from a CSV file whose first column is the label and whose second is the name.

    Raises
    ------
    InputError : the file is missing or has no such rows.
    """
    check_input(path, _ROLE)
    path = Path(path)
    try:
        with named_in_errors(path, _ROLE), path.open(newline="", encoding="utf-8-sig") as stream:
            rows = [row for row in csv.reader(stream) if len(row) >= 2]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"The label names '{path}' are not a text table: give a CSV file of label,name.") from error
    names = {int(row[0]): row[1].strip() for row in rows if _LABEL.fullmatch(row[0].strip())}
    if not names:
        raise InputError(f"The label names '{path}' hold no row with a label and a name: give the columns label,name.")
    return names


def embedded_label_names(image: sitk.Image) -> dict[int, str]:
    """Return the names in the header of a Slicer segmentation (.seg.nrrd) that was read as a label map; empty if none."""
    names = {}
    number = 0
    while image.HasMetaDataKey(f"Segment{number}_Name"):
        value_key = f"Segment{number}_LabelValue"
        value = image.GetMetaData(value_key) if image.HasMetaDataKey(value_key) else str(number + 1)
        if _LABEL.fullmatch(value.strip()):
            names[int(value)] = image.GetMetaData(f"Segment{number}_Name")
        number += 1
    return names
