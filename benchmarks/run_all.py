"""Print every figure that README and docs quote: `make bench`. Takes about half an hour on two cores.

The λ tables are printed from the sweeps kept in benchmarks/results; `python benchmarks/lambda_table.py run` makes them anew.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("HYPERPREDICTREG_DATA", REPOSITORY.parent / "shared" / "data"))
BENCHMARKS = (
    ("one_pair.py",),
    ("prediction.py",),
    ("slider.py",),
    ("setting_maps.py",),
    ("hard_starts.py", "--data", str(DATA)),
    ("starts.py", "--data", str(DATA), "--held-out"),
    ("alignment_reproducibility.py", "--data", str(DATA)),
    ("lambda_table.py", "table", "--engine", "demons"),
    ("lambda_table.py", "table", "--name", "demons-before"),
    ("lambda_table.py", "table", "--engine", "demons", "--like", "demons-before"),
    ("lambda_table.py", "table", "--engine", "bspline"),
    ("bspline_settings.py",),
)


def main() -> int:
    """Run the benchmarks one after the other."""
    if not DATA.is_dir():
        print(f"There is no '{DATA}': set HYPERPREDICTREG_DATA to the folder of the real labelled data.", file=sys.stderr)
        return 2
    for name, *words in BENCHMARKS:
        print(f"\n=== {name} {' '.join(words)}", flush=True)
        subprocess.run([sys.executable, str(REPOSITORY / "benchmarks" / name), *words], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
