"""The tables of a sweep as they are read from disk: whole, of the right columns, with numbers where numbers belong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from HyperPredictRegLib.core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

RUNS, FEATURES = "runs.parquet", "features.parquet"

MOST_CELLS = 100_000_000
"""Of a table. A hundred thousand registrations of fifty structures have a tenth of this; more would not fit into memory."""

MOST_LABEL = 2**32
"""Label values are at most 32 bits wide."""

RANGES: tuple[tuple[str, float, float], ...] = (
    ("dice", 0.0, 1.0),
    ("affine_dice", 0.0, 1.0),
    ("folding_", 0.0, 100.0),
    ("sd_log_jacobian", 0.0, np.inf),
    ("hd95", 0.0, np.inf),
    ("label_noise_mm", 0.0, np.inf),
    ("error_mm_", 0.0, np.inf),
    ("affine_error_mm_", 0.0, np.inf),
    ("global_misfit_mm", 0.0, np.inf),
    ("spacing_mm", 0.0, np.inf),
)
"""What a measured number can be, by the beginning of its column's name."""

_ROUNDING = 1e-6


def read_table(path: Path, what: str) -> pd.DataFrame:
    """Read a Parquet file.

    Parameters
    ----------
    what : how to call it in an error, for example "runs table".

    Raises
    ------
    InputError : it is missing, no regular file, damaged, or larger than a sweep's table can be.
    """
    # Not only whether it exists: to open a pipe would wait for ever.
    if not path.is_file():
        raise InputError(f"The {what} '{path}' is no file: give the folder of a finished sweep.")
    try:
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(path) as file:
            cells = file.metadata.num_rows * file.metadata.num_columns
            if cells > MOST_CELLS:
                raise InputError(f"The {what} '{path}' says that it has {cells:.3g} cells: no sweep's has so many.")
            names = file.schema_arrow.names
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise InputError(f"The {what} '{path}' has two columns called '{twice[0]}': it is no sweep's.")
            # What pandas noted about an index is of no use here, and may be damaged too.
            return file.read().to_pandas(ignore_metadata=True)
    except (InputError, ImportError):
        raise
    except Exception as error:  # a damaged file makes the reader raise nearly anything
        reason = (str(error).strip().splitlines() or [""])[0][:120] or type(error).__name__
        raise InputError(f"The {what} '{path}' cannot be read as a Parquet table ({reason}): it is damaged or none.") from error


def check_columns(table: pd.DataFrame, columns: Iterable[str], what: str) -> None:
    """Raise `InputError` if columns are missing."""
    missing = [name for name in columns if name not in table]
    if missing:
        raise InputError(f"The {what} lacks the columns {', '.join(missing)}: give one that 'hyperpredictreg sweep' wrote.")


def check_text(table: pd.DataFrame, columns: Iterable[str], what: str) -> None:
    """Raise `InputError` if columns hold anything but text."""
    for name in columns:
        wrong = next((value for value in table[name] if not isinstance(value, str)), None)
        if wrong is not None or table[name].isna().any():
            raise InputError(f"The column '{name}' of the {what} should hold text, but has {_shown(wrong)}.")


def with_numbers(table: pd.DataFrame, columns: Sequence[str], what: str, *, complete: bool = False) -> pd.DataFrame:
    """Return a table whose `columns` are float64, NaN where a value is missing.

    Parameters
    ----------
    table : has a column "pair", which errors name.
    complete : whether no value may be missing.

    Raises
    ------
    InputError : a column holds text, an infinite number, one that cannot be (see `RANGES`), or lacks one.
    """
    import pandas as pd

    found = {}
    for name in columns:
        column = table[name]
        if not column.isna().all() and (not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)):
            wrong = next(value for value in column if not _missing(value))
            raise InputError(f"The column '{name}' of the {what} should hold numbers, but has {_shown(wrong)}.")
        numbers = pd.to_numeric(column).to_numpy(dtype=float, na_value=np.nan) if not column.isna().all() else _empty(column)
        lowest, highest = _range(name)
        # NaN, a missing value, is neither too small nor too large.
        bad = np.isinf(numbers) | (numbers < lowest - _ROUNDING) | (numbers > highest + _ROUNDING)
        if complete:
            bad |= np.isnan(numbers)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            value = "no number" if np.isnan(numbers[row]) else f"{numbers[row]:g}"
            raise InputError(
                f"The column '{name}' of the {what} has {value} for the pair '{table['pair'].iloc[row]}': "
                "do that pair again, or take it out."
            )
        found[name] = numbers
    return table.assign(**found)


def with_labels(table: pd.DataFrame, what: str) -> pd.DataFrame:
    """Return a table whose column "label" holds integers.

    Raises
    ------
    InputError : a label is missing, negative, or no whole number.
    """
    labels = with_numbers(table, ["label"], what, complete=True)["label"]
    wrong = labels[(labels % 1 != 0) | (labels < 0) | (labels > MOST_LABEL)]
    if len(wrong):
        raise InputError(f"The column 'label' of the {what} holds {wrong.iloc[0]:g}, which is no label value.")
    return table.assign(label=labels.astype(int))


def without_copies(table: pd.DataFrame, key: Sequence[str], what: str) -> tuple[pd.DataFrame, str]:
    """Return the rows of a table each once, and a sentence on those that were left out, "" if there were none.

    Parameters
    ----------
    key : columns that name a row. Their rows may differ in how long they took, in nothing else.

    Raises
    ------
    InputError : two rows have the same key but say different things.
    """
    copies = table.duplicated(list(key))
    if not copies.any():
        return table, ""
    message = [name for name in table.columns if name != "seconds"]
    differing = table[~table.duplicated(message)].duplicated(list(key))
    if differing.any():
        pair = table[~table.duplicated(message)][differing]["pair"].iloc[0]
        raise InputError(f"The {what} says two different things of the pair '{pair}' in rows that should be one: sweep it anew.")
    pairs = table.loc[copies, "pair"].nunique()
    count = int(copies.sum())
    rows = "1 row" if count == 1 else f"{count} rows"
    return table[~copies], f"The {what} held {rows} of {pairs} pair{'s' * (pairs != 1)} more than once; each counts once."


def _range(name: str) -> tuple[float, float]:
    return next(((low, high) for start, low, high in RANGES if name.startswith(start)), (-np.inf, np.inf))


def _empty(column: pd.Series) -> np.ndarray:
    return np.full(len(column), np.nan)


def _missing(value: object) -> bool:
    return value is None or value != value


def _shown(value: object) -> str:
    return "an empty cell" if value is None else f"'{str(value)[:40]}'"
