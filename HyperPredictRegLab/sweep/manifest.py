"""The list of image pairs that a sweep registers."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

from HyperPredictRegLib.errors import InputError

REQUIRED = ("fixed", "moving", "fixed_labels", "moving_labels", "fixed_subject", "moving_subject")


@dataclass(frozen=True)
class ManifestPair:
    """One image pair with labels on both sides.

    Attributes
    ----------
    pair : a name, unique in the manifest.
    fixed, moving, fixed_labels, moving_labels : files.
    fixed_subject, moving_subject : who they show; everything is split by subject, never by pair.
    group : a kind of pair, such as "usual" or "rescan"; free text.
    label_noise_mm : by how much the two label maps' borders are known to stray from the images', standard deviation; None if
        that is not known, as mostly.
    """

    pair: str
    fixed: str
    moving: str
    fixed_labels: str
    moving_labels: str
    fixed_subject: str
    moving_subject: str
    group: str = ""
    label_noise_mm: float | None = None


def read_manifest(path: Path | str) -> list[ManifestPair]:
    """Read a manifest: CSV with the columns of `ManifestPair`; paths are relative to the manifest's folder.

    `pair`, `group` and `label_noise_mm` may be left out; a pair's name is then made of its subjects.

    Raises
    ------
    InputError : the file cannot be read, lacks columns, names files that do not exist, or names a pair twice.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns, rows = reader.fieldnames or [], list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"The manifest '{path}' cannot be read ({error}).") from error
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise InputError(f"The manifest '{path.name}' lacks the columns {', '.join(missing)}; it needs {', '.join(REQUIRED)}.")
    if not rows:
        raise InputError(f"The manifest '{path.name}' lists no pairs.")
    pairs = [_pair(row, number, path) for number, row in enumerate(rows, 2)]
    seen: set[str] = set()
    for pair in pairs:
        if pair.pair in seen:
            raise InputError(f"The manifest '{path.name}' names the pair '{pair.pair}' twice: give each row a name of its own.")
        seen.add(pair.pair)
    return pairs


def _pair(row: dict[str, str], line: int, path: Path) -> ManifestPair:
    for name in REQUIRED:
        if not (row[name] or "").strip():
            raise InputError(f"Line {line} of the manifest '{path.name}' has no {name}.")
    files = {name: os.path.normpath(path.parent / row[name].strip()) for name in REQUIRED[:4]}
    for name, file in files.items():
        if not Path(file).exists():
            raise InputError(f"Line {line} of the manifest '{path.name}' names the {name} '{row[name]}', which does not exist.")
    subjects = row["fixed_subject"].strip(), row["moving_subject"].strip()
    name = (row.get("pair") or "").strip() or "-".join(subjects)
    noise = (row.get("label_noise_mm") or "").strip()
    try:
        label_noise = float(noise) if noise else None
    except ValueError as error:
        raise InputError(f"Line {line} of the manifest '{path.name}': the label_noise_mm '{noise}' is no number.") from error
    group = (row.get("group") or "").strip()
    return ManifestPair(
        name, **files, fixed_subject=subjects[0], moving_subject=subjects[1], group=group, label_noise_mm=label_noise
    )
