"""The list of image pairs that a sweep registers."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.files import read_text

REQUIRED = ("fixed", "moving", "fixed_labels", "moving_labels", "fixed_subject", "moving_subject")

MOST_BYTES = 200_000_000
"""Of a manifest: a hundred thousand pairs with their recipes have a fifth of this."""

MOST_NAME = 200
MOST_NOISE_MM = 100.0


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
    domain : what kind of anatomy or data it is; free text.
    truth : file of the true transform from fixed to moving points; "" if it is not known, as mostly.
    start : file of a linear transform that is taken as the alignment; "" if the product is to align the pair.
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
    domain: str = ""
    truth: str = ""
    start: str = ""


def read_manifest(path: Path | str) -> list[ManifestPair]:
    """Read a manifest: CSV with the columns of `ManifestPair`; paths are relative to the manifest's folder.

    `pair`, `group`, `label_noise_mm`, `domain`, `truth` and `start` may be left out; a pair's name is then made of its subjects.

    Raises
    ------
    InputError : the file cannot be read, lacks columns, names files that do not exist or a pair twice, or has something else
        where a number should be.
    """
    path = Path(path)
    columns, rows = csv_rows(path, "The manifest")
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


def csv_rows(path: Path, what: str) -> tuple[list[str], list[dict[str, str]]]:
    """Read a small CSV file with a header.

    Parameters
    ----------
    what : how a sentence about it begins, for example "The manifest".

    Returns
    -------
    columns : names, in order.
    rows : text by column.

    Raises
    ------
    InputError : it cannot be read, names a column twice, or has rows of another length or a field that is too long.
    """
    # Universal line ends, as a file that is opened as text has them.
    lines = io.StringIO(read_text(path, what.removeprefix("The "), MOST_BYTES), newline=None)
    reader = csv.DictReader(lines, strict=True)
    rows = []
    try:
        columns = list(reader.fieldnames or [])
        for row in reader:
            rows.append(row)
            if None in row or None in row.values():
                raise csv.Error("it has more or fewer fields than the header")
    except csv.Error as error:
        where = f"Line {reader.reader.line_num} of {what[0].lower()}{what[1:]} '{path}'"
        raise InputError(f"{where} cannot be read ({error}): mend that line.") from error
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise InputError(f"{what} '{path}' has two columns called '{twice[0][:60]}': rename one.")
    return columns, rows


def _pair(row: dict[str, str], line: int, path: Path) -> ManifestPair:
    where = f"Line {line} of the manifest '{path.name}'"
    for name in REQUIRED:
        if not row[name].strip():
            raise InputError(f"{where} has no {name}.")
    files = {name: os.path.normpath(path.parent / row[name].strip()) for name in REQUIRED[:4]}
    for name, file in files.items():
        if not _is_there(file):
            raise InputError(f"{where} names the {name} '{row[name][:300]}', which does not exist or is neither file nor folder.")
    subjects = row["fixed_subject"].strip(), row["moving_subject"].strip()
    name = (row.get("pair") or "").strip() or "-".join(subjects)
    for what, text in (("pair", name), ("fixed_subject", subjects[0]), ("moving_subject", subjects[1])):
        if len(text) > MOST_NAME or not text.isprintable():
            raise InputError(f"{where} has a {what} that is no name: use at most {MOST_NAME} letters, digits and signs.")
    noise = (row.get("label_noise_mm") or "").strip()
    try:
        label_noise = float(noise) if noise else None
        if label_noise is not None and not 0 <= label_noise <= MOST_NOISE_MM:
            raise ValueError
    except ValueError as error:
        raise InputError(
            f"{where}: the label_noise_mm '{noise[:40]}' is no number of millimetres from 0 to {MOST_NOISE_MM:g}."
        ) from error
    named = {name: (row.get(name) or "").strip() for name in ("truth", "start")}
    transforms = {name: os.path.normpath(path.parent / file) if file else "" for name, file in named.items()}
    for what, file in transforms.items():
        if file and not _is_there(file):
            raise InputError(f"{where} names the {what} '{named[what][:300]}', which does not exist or is no file.")
    return ManifestPair(
        name,
        **files,
        fixed_subject=subjects[0],
        moving_subject=subjects[1],
        group=(row.get("group") or "").strip(),
        label_noise_mm=label_noise,
        domain=(row.get("domain") or "").strip(),
        **transforms,
    )


def _is_there(file: str) -> bool:
    """Tell whether a path leads to a file or folder: never true for a pipe, a device, or what no file can be called."""
    try:
        return Path(file).is_file() or Path(file).is_dir()
    except (OSError, ValueError):
        return False


CV_FOLDS = 5
CV_SEED = 20240901


def subject_cv_folds(subjects: Iterable[str], count: int = CV_FOLDS, seed: int = CV_SEED) -> dict[str, int]:
    """Deal subjects into `count` CV folds of as equal size as can be; the same names and seed give the same CV folds.

    Raises
    ------
    InputError : there are fewer than two subjects per CV fold, so that no pair would lie inside one.
    """
    names = sorted(set(subjects))
    if count < 2 or len(names) < 2 * count:
        raise InputError(
            f"{len(names)} subjects are too few for {count} CV folds: at least {2 * max(count, 2)} are needed, two per CV fold, "
            "so that each CV fold holds pairs of people whom its model has not seen."
        )
    order = np.random.default_rng(seed).permutation(len(names))
    return {names[n]: place % count for place, n in enumerate(order.tolist())}
