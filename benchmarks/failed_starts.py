"""Can a start that has failed be told better from the evidence that is there already: rules for `chance_failed`, side by side.

    python benchmarks/failed_starts.py

Every rule is a ridge-penalized logistic one in which failed and good starts weigh the same, over numbers of the tables of
`any_pair.py`. Tuned on its tuning subjects, with or without the synthesized pairs of `results/sweeps/any-pair-training` (failed:
more than two voxels from the best affine transform). Rules are compared by leaving one domain of the tuning subjects out at a
time; the columns of the test subjects were looked at more than once. Thresholds: where failed and good tuning starts are told
best, the smaller of the two shares counting, in the middle of where that holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from any_pair_rules import MOST_MISFIT, area, read
from scipy.optimize import minimize

SWEEP = Path(__file__).resolve().parent / "results" / "sweeps" / "any-pair-training"
ALONG = range(6)

AS_IT_IS = ("explained", "overlap", "nothing")
SHELL = ("unexplained, log", "shell, log")
RULES: tuple[tuple[str, tuple[str, ...], float, float], ...] = (
    ("as it is", AS_IT_IS, 0.0, 1.0),
    ("as it is, and synthesized pairs", AS_IT_IS, 1.0, 1.0),
    ("shell", SHELL, 0.0, 1.0),
    ("shell, and synthesized pairs", SHELL, 1.0, 5.0),
    ("shell and three more, and synthesized pairs", (*SHELL, "nothing, log", "explained gained", "roughness"), 1.0, 5.0),
    ("all numbers and curves, and synthesized pairs", (), 1.0, 30.0),
)
"""Name, numbers (none: all of the evidence), weight of a synthesized pair, penalty."""

CHOSEN = "shell, and synthesized pairs"
"""The rule that is `bootstrap.FAILED`, its threshold in the intercept."""

Row = Any


def numbers(row: Row) -> dict[str, float]:
    """Return what the rules weigh, of a row of features."""

    def told(name: str) -> float:
        return float(row[f"evidence_{name}"])

    explained, overlap = told("explained"), told("foreground_overlap")
    return {
        "explained": explained,
        "overlap": overlap,
        "nothing": math.exp(told("bootstrap_nothing")),
        "nothing, log": told("bootstrap_nothing"),
        "unexplained, log": told("unexplained"),
        "shell, log": told("shell"),
        "explained gained": max(told(f"explained_{n}") for n in ALONG) - explained,
        "roughness": told("sd_log_jacobian_5"),
    }


def fitted(x: np.ndarray, failed: np.ndarray, weight: np.ndarray, penalty: float) -> np.ndarray:
    """Fit a logistic rule to numbers of shape (n, h), which are penalized as standardized ones; return intercept and weights."""
    middle, spread = x.mean(axis=0), x.std(axis=0) + 1e-9
    whole = weight * np.where(failed, 0.5 / weight[failed].sum(), 0.5 / weight[~failed].sum()) * weight.sum()

    def design(given: np.ndarray) -> np.ndarray:
        return np.column_stack([np.ones(len(given)), (given - middle) / spread])

    z = design(x)

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        score, free = z @ w, np.r_[0.0, w[1:]]
        slope = z.T @ (whole * (1 / (1 + np.exp(-score)) - failed)) + 2 * penalty * free
        return float((whole * np.logaddexp(0, np.where(failed, -score, score))).sum() + penalty * (free**2).sum()), slope

    found = minimize(loss, np.zeros(z.shape[1]), jac=True, method="L-BFGS-B").x
    weights = found[1:] / spread
    return np.r_[found[0] - weights @ middle, weights]


def scored(rule: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the score of a rule for numbers of shape (n, h): above 0 where failure is more likely than not."""
    return np.asarray(rule[0] + x @ rule[1:])


def synthesized() -> tuple[pd.DataFrame, np.ndarray]:
    """Return the features of the training pairs with a known truth, and whether their start has failed."""
    features = pd.read_parquet(SWEEP / "features.parquet").drop_duplicates("pair").set_index("pair")
    features = features[features["evidence_bootstrap_nothing"].notna()]
    runs = pd.read_parquet(SWEEP / "runs.parquet").groupby("pair").first()
    misfit = (runs["global_misfit_mm"] / runs["spacing_mm"]).reindex(features.index)
    return features[misfit.notna()], (misfit[misfit.notna()] > MOST_MISFIT).to_numpy()


def main() -> None:
    """Print the table."""
    pairs, (made, made_failed) = read(), synthesized()
    sides = {use: [one for one in pairs if one.use == use] for use in ("tune", "test")}
    failed = {use: np.array([one.failed for one in side]) for use, side in sides.items()}
    known = np.array([np.isfinite(one.row["start_misfit_voxels"]) for one in sides["test"]])
    domain = np.array([one.domain for one in sides["tune"]])
    print(f"{len(made)} synthesized pairs ({made_failed.sum()} failed), {failed['tune'].sum()} of {len(domain)} tuning and")
    print(f"{failed['test'].sum()} of {len(known)} test subjects' starts failed, {failed['test'][known].sum()} of the ", end="")
    print(f"{known.sum()} whose distance from the best affine one is known\n")
    print("| rule | left-out domains: AUC | sens., spec. | test: AUC | sens., spec. | distance known: sens., spec. |")
    print("|---|---|---|---|---|---|")
    everything = [name for name in made.columns if name.startswith("evidence_") and name in sides["tune"][0].row.index]
    for name, chosen, share, penalty in RULES:
        tune, test = (_table([one.row for one in sides[use]], chosen or everything) for use in ("tune", "test"))
        more = _table([row for _, row in made.iterrows()], chosen or everything)
        whole = np.r_[tune, more], np.r_[failed["tune"], made_failed], np.r_[np.ones(len(tune)), np.full(len(more), share)]
        left_out = np.zeros(len(tune))
        for one in np.unique(domain):
            used = np.r_[domain != one, np.full(len(more), share > 0)]
            left_out[domain == one] = scored(fitted(*(part[used] for part in whole), penalty), tune[domain == one])
        used = np.r_[np.full(len(tune), True), np.full(len(more), share > 0)]
        rule = fitted(*(part[used] for part in whole), penalty)
        level, told = _level(scored(rule, tune), failed["tune"]), scored(rule, test)
        if name == CHOSEN:
            weights = np.r_[rule[0] - level, rule[1:]].round(2).tolist()
        own = f"{_area(left_out, failed['tune']):.3f} | {_rates(left_out, failed['tune'], _level(left_out, failed['tune']))}"
        others = f"{_area(told, failed['test']):.3f} | {_rates(told, failed['test'], level)}"
        print(f"| {name} | {own} | {others} | {_rates(told[known], failed['test'][known], level)} |")
    print(f"\n{CHOSEN}: intercept and weights {weights}, the threshold at even chances")


def _table(rows: list[Row], names: Sequence[str]) -> np.ndarray:
    """Return numbers of rows of features, shape (n, h); those of the evidence itself by their columns' names."""
    return np.array([[numbers(row)[one] if one in numbers(row) else float(row[one]) for one in names] for row in rows])


def _level(score: np.ndarray, failed: np.ndarray) -> float:
    ordered = np.unique(score)
    between = np.r_[ordered[0] - 1, (ordered[1:] + ordered[:-1]) / 2, ordered[-1] + 1]
    worse = np.array([min((score[failed] > at).mean(), (score[~failed] <= at).mean()) for at in between])
    best = between[worse >= worse.max() - 1e-9]
    return float((best[0] + best[-1]) / 2)


def _rates(score: np.ndarray, failed: np.ndarray, level: float) -> str:
    return f"{(score[failed] > level).mean():.2f}, {(score[~failed] <= level).mean():.2f}"


def _area(score: np.ndarray, failed: np.ndarray) -> float:
    return area(score[failed].tolist(), score[~failed].tolist())


if __name__ == "__main__":
    main()
