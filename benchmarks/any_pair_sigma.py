"""What choosing σ would be worth beside λ, and whether the bootstrap can: on the cases that were registered at several σ.

    python benchmarks/any_pair_sigma.py      from the tables that `any_pair.py run` writes: 3 λ by 4 σ, see docs/evidence.md

Told is the share of what the affine step left (of 1 - Dice, or of the error) that is lost against the best of twelve settings.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from any_pair import CROSS
from any_pair_cases import FOLDER
from any_pair_rules import LEAST_DICE_GAIN, SIGMA
from HyperPredictRegLib.engines import get_engine
from HyperPredictRegLib.predictor.bootstrap import ERRORS, evidence_curve

from HyperPredictRegLab.evaluation.domains import evidence_of

SPACE = get_engine("diffeo").info.search_space
WEIGHTS = tuple(sorted({weight for weight, _ in CROSS}))
SIGMAS = tuple(sorted({SIGMA, *(sigma for _, sigma in CROSS)}))
LEAST_LEFT_VOXELS = 0.5


def measured(runs: pd.DataFrame) -> tuple[np.ndarray, float] | None:
    """Return the loss of one case at all λ and σ, shape (3, 4), and what the affine step left; None where not all were run."""
    measure = next(name for name in ("dice", "error_mm_median", "tre_mm") if runs[name].notna().any())
    found = np.full((len(WEIGHTS), len(SIGMAS)), np.nan)
    for i, weight in enumerate(WEIGHTS):
        for j, sigma in enumerate(SIGMAS):
            at = runs[np.isclose(runs["regularization_weight"], weight) & np.isclose(runs["fluid_sigma"], sigma)]
            found[i, j] = at[measure].iloc[0] if len(at) else np.nan
    if np.isnan(found).any():
        return None
    affine = float(runs[f"affine_{measure}"].iloc[0])
    if measure == "dice":
        return 1 - found, max(1 - affine, LEAST_DICE_GAIN)
    return found, max(affine, LEAST_LEFT_VOXELS * float(runs["spacing_mm"].iloc[0]))


def lost(loss: np.ndarray, row: pd.Series) -> dict[str, float]:
    """Return what each way of choosing loses of one case."""
    evidence = {name.removeprefix("evidence_"): value for name, value in row.items() if str(name).startswith("evidence_")}
    grid = np.array([[weight, sigma] for weight in WEIGHTS for sigma in SIGMAS])
    told = evidence_curve(evidence_of(evidence, SPACE), SPACE, grid, *ERRORS).reshape(loss.shape)
    held, best = SIGMAS.index(SIGMA), loss.min()
    return {
        **{f"best λ, σ {sigma:g}": loss[:, n].min() - best for n, sigma in enumerate(SIGMAS)},
        f"rule for λ, σ {SIGMA:g}": loss[told[:, held].argmin(), held] - best,
        "rule for both": loss.ravel()[told.argmin()] - best,
    }


def main() -> None:
    """Print the table."""
    runs, features = (pd.read_parquet(FOLDER / f"{name}.parquet") for name in ("runs", "features"))
    features = features[features["label"] == 0]
    rows = []
    for _, row in features.iterrows():
        found = measured(runs[runs["pair"] == row["pair"]])
        if found is not None:
            loss, left = found
            rows.append({"use": row["use"], **{name: value / left for name, value in lost(loss, row).items()}})
    table = pd.DataFrame(rows)
    print(f"| cases | n | {' | '.join(table.columns[1:])} |")
    print("|---" * (len(table.columns) + 1) + "|")
    for use in ("tune", "test"):
        mine = table[table["use"] == use].drop(columns="use")
        print(f"| {use} | {len(mine)} | {' | '.join(f'{value:.4f}' for value in mine.mean())} |")


if __name__ == "__main__":
    main()
