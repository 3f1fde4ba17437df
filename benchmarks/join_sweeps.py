"""Join sweeps of one plan, made in parts or on several machines, into one small table to keep and to train on.

    python benchmarks/join_sweeps.py SWEEP [SWEEP ...] --out FOLDER

The first sweep's plan holds for all; a pair that several have is taken from the first. Numbers keep `BITS` binary digits, more
than any measurement here is right to, so that the files compress to a quarter.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.files import writing_into
from pyarrow import parquet

from HyperPredictRegLab.sweep.runs import PLAN, read_plan
from HyperPredictRegLab.sweep.tables import FEATURES, RUNS

BITS = 12
"""Of the mantissa: a number is right to 1 part in 8,000."""


def joined(sweeps: list[Path], name: str) -> pd.DataFrame:
    """Return the table of that name of all sweeps, sorted by pair."""
    parts: list[pd.DataFrame] = []
    for sweep in sweeps:
        known = {pair for part in parts for pair in part["pair"]}
        table = pd.read_parquet(sweep / name)
        parts.append(table[~table["pair"].isin(known)])
    return pd.concat(parts, ignore_index=True).sort_values("pair", kind="stable", ignore_index=True)


def write_small(table: pd.DataFrame, path: Path) -> None:
    """Write a table with rounded numbers of single precision."""
    table = table.copy()
    floats = table.select_dtypes("float").columns
    table[floats] = table[floats].apply(lambda column: pd.Series(rounded(column.to_numpy()), index=column.index))
    texts = [name for name in table.columns if name not in floats]
    parquet.write_table(
        pa.Table.from_pandas(table, preserve_index=False), path, compression="zstd", compression_level=19, use_dictionary=texts,
        column_encoding=dict.fromkeys(floats, "BYTE_STREAM_SPLIT"),
    )  # fmt: skip


def rounded(values: np.ndarray) -> np.ndarray:
    """Return numbers as float32 with `BITS` binary digits, the nearest ones."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.round(mantissa * 2.0**BITS), exponent - BITS).astype(np.float32)


def main() -> None:
    """Join what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    plans = [read_plan(sweep) for sweep in options.sweeps]
    for sweep, plan in zip(options.sweeps, plans, strict=True):
        if plan is None or plan != plans[0]:
            raise InputError(f"The sweep '{sweep}' has another plan than '{options.sweeps[0]}': join sweeps of one plan.")
    tables = {name: joined(options.sweeps, name) for name in (RUNS, FEATURES)}
    with writing_into(options.out, "tables", ""):
        options.out.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            write_small(table, options.out / name)
        if options.out != options.sweeps[0]:
            shutil.copy(options.sweeps[0] / PLAN, options.out / PLAN)
    pairs = tables[RUNS]["pair"].nunique()
    print(f"{pairs} pairs, {len(tables[RUNS])} registrations: {', '.join(str(options.out / name) for name in tables)}")


if __name__ == "__main__":
    main()
