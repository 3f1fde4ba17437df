"""The files of a sweep's finished pairs: one per pair and table, each checked before it counts."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.files import writing_into
from HyperPredictRegLib.predictor.evidence import VERSION as EVIDENCE_VERSION
from HyperPredictRegLib.predictor.features import VERSION as FEATURES_VERSION

from HyperPredictRegLab.manifest import ManifestPair
from HyperPredictRegLab.sweep.runs import Row, SweepSettings, common_columns
from HyperPredictRegLab.sweep.tables import (
    check_columns,
    check_text,
    read_table,
    with_labels,
    with_numbers,
    without_copies,
)

SET_ASIDE = "set-aside"
_MATRIX = "affine_matrix_"
_MEASURED = ("dice", "hd95", "affine_", "error_mm_", "spacing_mm", "global_misfit_mm")
_EVIDENCE_TEXT = ("evidence_version", "evidence_error")
_SHARED = ("pair", "engine", "settings_hash", "preset", "seed")


@dataclass(frozen=True)
class Task:
    """What is left to do for a pair.

    Attributes
    ----------
    values : parameters to register with; empty if that was done.
    matrix : the affine step found before, columns ``affine_matrix_00`` ...; None if there is none.
    """

    pair: ManifestPair
    settings: SweepSettings
    values: tuple[dict[str, float], ...]
    matrix: dict[str, float] | None = None


@dataclass(frozen=True)
class PairRows:
    """Rows of a pair for either table; None for a table that already has them."""

    runs: list[Row] | None
    features: list[Row] | None


@dataclass(frozen=True)
class Parts:
    """The parts of one sweep.

    Attributes
    ----------
    folder : holds ``runs`` and ``features``, and ``set-aside`` where parts were found that cannot be used.
    settings : of the sweep.
    values : parameters of each pair, by its name.
    notes : sentences on what was found and done; grows.
    """

    folder: Path
    settings: SweepSettings
    values: Mapping[str, Sequence[Mapping[str, float]]]
    notes: list[str] = field(default_factory=list)

    def task(self, pair: ManifestPair, retry_failed: bool) -> Task | None:
        """Return what is left to do for a pair; None if nothing is. A part that cannot be used is set aside."""
        values = tuple(dict(value) for value in self.values[pair.pair])
        runs = self.runs(pair)
        if runs is None:
            return Task(pair, self.settings, values)
        good = runs[runs["error"] == ""]
        if good.empty:
            return Task(pair, self.settings, values) if retry_failed else None
        features = self.features(pair)
        if features is not None and self._up_to_date(features):
            return None
        return Task(pair, self.settings, (), {str(k): float(v) for k, v in good.iloc[0].filter(like=_MATRIX).items()})

    def _up_to_date(self, features: pd.DataFrame) -> bool:
        current = bool((features["features_version"] == FEATURES_VERSION).all())
        if not self.settings.evidence or (features["error"] != "").all():
            return current
        return current and "evidence_version" in features and bool((features["evidence_version"] == EVIDENCE_VERSION).any())

    def runs(self, pair: ManifestPair) -> pd.DataFrame | None:
        """Return the registrations of a pair, each once; None if there are none that can be used."""
        return self._read("runs", pair, self._checked_runs)

    def features(self, pair: ManifestPair) -> pd.DataFrame | None:
        """Return the features of a pair and its structures, each row once; None if there are none that can be used."""
        return self._read("features", pair, _checked_features)

    def write(self, pair: str, rows: PairRows) -> None:
        """Keep what was found. The runs come last: a pair counts as registered once they are there."""
        if rows.features is not None:
            write_atomically(pd.DataFrame(rows.features), self.folder / "features" / part_name(pair))
        if rows.runs is not None:
            write_atomically(pd.DataFrame(rows.runs), self.folder / "runs" / part_name(pair))

    def note_unknown_files(self, pairs: Sequence[ManifestPair]) -> None:
        """Say which files among the parts belong to no pair of the manifest; they are left alone and do not count."""
        known = {part_name(pair.pair) for pair in pairs}
        for kind in ("runs", "features"):
            folder = self.folder / kind
            found = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
            strange = [name for name in found if name not in known]
            if strange:
                files = "1 file" if len(strange) == 1 else f"{len(strange)} files"
                self.notes.append(f"'{folder}' holds {files} of no pair in the manifest, not counted: first '{strange[0][:80]}'.")

    def _read(
        self, kind: str, pair: ManifestPair, checked: Callable[[pd.DataFrame, ManifestPair], tuple[pd.DataFrame, str]]
    ) -> pd.DataFrame | None:
        path = self.folder / kind / part_name(pair.pair)
        if not os.path.lexists(path):
            return None
        try:
            table, copies = checked(read_table(path, "part"), pair)
        except InputError as error:
            self._set_aside(path, pair.pair, str(error))
            return None
        if copies:
            self._note(f"Pair '{pair.pair}': {copies}")
        return table

    def _set_aside(self, path: Path, pair: str, reason: str) -> None:
        aside = self.folder / SET_ASIDE
        with writing_into(aside, "files", ""):
            aside.mkdir(parents=True, exist_ok=True)
            name = f"{path.parent.name}-{path.name}"
            taken = sum(1 for other in aside.iterdir() if other.name.startswith(name))
            path.rename(aside / (f"{name}.{taken}" if taken else name))
        self._note(f"What was kept of the pair '{pair}' cannot be used and was put into '{aside}'; it is done again. {reason}")

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)

    def _checked_runs(self, table: pd.DataFrame, pair: ManifestPair) -> tuple[pd.DataFrame, str]:
        what = "part"
        shared = {name: value for name, value in common_columns(pair, self.settings).items() if name in _SHARED}
        check_columns(table, (*shared, "error"), what)
        check_text(table, ("pair", "error"), what)
        _check_shared(table, shared)
        expected = self.values[pair.pair]
        names = list(expected[0])
        if not set(names) <= set(table.columns) and (table["error"] != "").all():
            # Nothing was registered: the pair could not be read or aligned.
            return without_copies(table, ["pair"], what)
        check_columns(table, names, what)
        good = table[table["error"] == ""]
        always = ("folding_foreground", "folding_grid", "sd_log_jacobian")
        matrix = [f"{_MATRIX}{r}{c}" for r in range(3) for c in range(4)]
        if len(good):
            check_columns(good, (*always, *matrix), what)
            with_numbers(good, (*names, *always, *matrix), what, complete=True)
        measured = [c for c in table.columns if c in (*names, *always, "similarity", "seconds") or c.startswith(_MEASURED)]
        table, copies = without_copies(with_numbers(table, measured, what), names, what)
        rows = {tuple(row) for row in table[names].to_numpy().tolist()}
        if rows != {tuple(float(value[name]) for name in names) for value in expected}:
            raise InputError(f"The {what} holds other values of {', '.join(names)} than this sweep's.")
        return table, copies


def _checked_features(table: pd.DataFrame, pair: ManifestPair) -> tuple[pd.DataFrame, str]:
    what = "part"
    check_columns(table, ("pair", "features_version", "error", "label"), what)
    check_text(table, ("pair", "features_version", "error"), what)
    _check_shared(table, {"pair": pair.pair})
    numbers = [c for c in table.columns if c.startswith(("pair_", "token_", "evidence_")) and c not in _EVIDENCE_TEXT]
    return without_copies(with_labels(with_numbers(table, numbers, what), what), ["label"], what)


def _check_shared(table: pd.DataFrame, shared: Mapping[str, Any]) -> None:
    """Raise `InputError` unless each of the columns holds one value throughout, the one given."""
    if table.empty:
        raise InputError("The part has no rows.")
    for name, value in shared.items():
        strange = [other for other in table[name].tolist() if other != value]
        if strange:
            other = str(strange[0])[:60]
            raise InputError(f"The part has the {name} '{other}', but this is '{value}': it was copied or changed.")


def part_name(pair: str) -> str:
    """Return the file name of a pair's part: readable, and unique whatever the pair is called."""
    readable = re.sub(r"[^A-Za-z0-9._-]", "_", pair)[:60]
    return f"{readable}-{hashlib.sha256(pair.encode()).hexdigest()[:8]}.parquet"


def write_atomically(table: pd.DataFrame, path: Path) -> None:
    """Write a Parquet file so that whoever looks sees all of it or nothing.

    Raises
    ------
    InputError : the disk is full, or the folder cannot be written to.
    """
    # Always of the same name, so that what a killed sweep left is written over by the next.
    temporary = path.with_name(f".{path.name}.tmp")
    with writing_into(path.parent, "files", ""):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            table.to_parquet(temporary, index=False)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
