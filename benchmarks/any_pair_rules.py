"""Each kind of evidence judged alone, on the tables that `any_pair.py run` writes: see `docs/evidence.md`.

    python benchmarks/any_pair_rules.py    tunes on the tuning subjects, prints what holds on the others
A start has failed if it is more than two voxels from the best affine one, or, where only labels tell, if these overlap with a
Dice below .6 all together. What a pick of λ is worth is asked where the start has not failed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from any_pair_cases import FOLDER
from HyperPredictRegLib.predictor.coarse_pair import ALONG
from HyperPredictRegLib.predictor.evidence import LENGTHS
from scipy.interpolate import PchipInterpolator
from scipy.stats import spearmanr

LOW, HIGH, DEFAULT, SIGMA = 0.25, 3.0, 0.4, 1.2
MOST_MISFIT, LEAST_OVERLAP = 2.0, 0.6
SHARES = np.linspace(0, 1, 101)
SPECIFICITY = 0.9
_LEAST_VOXELS, _LEAST_FOLDING = 0.01, 0.01


def to_share(weight: np.ndarray | float) -> np.ndarray:
    """Return where λ lies in its range, 0 to 1."""
    return np.asarray(np.log(np.asarray(weight) / LOW) / np.log(HIGH / LOW))


def to_weight(share: np.ndarray | float) -> np.ndarray:
    """Return λ at a share of its range."""
    return np.asarray(LOW * (HIGH / LOW) ** np.asarray(share))


@dataclass(frozen=True)
class Judged:
    """One pair: its evidence and its truth over λ.

    Attributes
    ----------
    failed : whether its start has.
    measure : "dice" or "mm".
    spacing : of the grid that the truth was measured on, mm.
    affine : the measure by the start alone.
    loss : smaller is better, over `SHARES`; empty where too few settings were run.
    row : its features.
    """

    pair: str
    domain: str
    use: str
    failed: bool
    measure: str
    spacing: float
    affine: float
    loss: np.ndarray
    row: pd.Series

    def curve(self, name: str) -> np.ndarray:
        """Return a curve of the evidence over `SHARES`, lengths in mm."""
        values = np.array([self.row[f"evidence_{name}_{n}"] for n in range(len(ALONG))], float)
        if name in LENGTHS:
            values = np.maximum(np.exp(values) - _LEAST_VOXELS, 1e-4) * self.coarse_mm
        elif name == "folding":
            values = np.exp(values) - _LEAST_FOLDING
        return np.asarray(PchipInterpolator(ALONG, values)(SHARES))

    @property
    def coarse_mm(self) -> float:
        """Return the spacing of the evidence's grid."""
        return float(np.exp(self.row["evidence_log_spacing_mm"]))

    def number(self, name: str) -> float:
        """Return a number of the evidence; bootstrap errors of doing nothing are in mm."""
        value = float(self.row[f"evidence_{name}"])
        if name.startswith("bootstrap_nothing"):
            value = (np.exp(value) - _LEAST_VOXELS) * self.coarse_mm
        return value


def read() -> list[Judged]:
    """Return all pairs of the tables."""
    runs, features = (pd.read_parquet(FOLDER / f"{name}.parquet") for name in ("runs", "features"))
    found = []
    for _, row in features.iterrows():
        mine = runs[(runs["pair"] == row["pair"]) & np.isclose(runs["fluid_sigma"], SIGMA)].sort_values("regularization_weight")
        measure = next(name for name in ("dice", "error_mm_median", "tre_mm") if name in mine and mine[name].notna().any())
        sign = -1.0 if measure == "dice" else 1.0
        loss = np.array([])
        if len(mine) >= 6:
            loss = PchipInterpolator(to_share(mine["regularization_weight"]), sign * mine[measure])(SHARES)
        misfit, overlap = row["start_misfit_voxels"], row["start_label_overlap"]
        failed = misfit > MOST_MISFIT if np.isfinite(misfit) else overlap < LEAST_OVERLAP
        # A start that was moved away from one that was not right itself is not known to be far off.
        if row.get("start_label_overlap_before", 1.0) < LEAST_OVERLAP:
            failed = overlap < LEAST_OVERLAP
        affine = float(mine[f"affine_{measure}"].iloc[0])
        kind = "dice" if measure == "dice" else "mm"
        spacing = float(mine["spacing_mm"].iloc[0])
        found.append(Judged(row["pair"], row["domain"], row["use"], bool(failed), kind, spacing, affine, loss, row))
    return found


Pick = Callable[[Judged], float]
"""Chooses a share of λ's range."""


def least(name: str, shift: float = 0.0, sign: float = 1.0) -> Pick:
    """Return the rule that takes the least of a curve (or the greatest, by `sign`), moved by a share of the range."""
    return lambda one: float(np.clip(SHARES[int(np.argmin(sign * one.curve(name)))] - shift, 0, 1))


def reaching(name: str, level: float, relative: str = "") -> Pick:
    """Return the rule that takes the weakest setting at which a falling curve (over another one) is at most `level`."""

    def pick(one: Judged) -> float:
        curve = one.curve(name) / (np.maximum(one.curve(relative), 1e-6) if relative else 1.0)
        enough = np.flatnonzero(curve <= level)
        return float(SHARES[enough[0]]) if len(enough) else 1.0

    return pick


def fixed(share: float) -> Pick:
    """Return the rule that takes the same setting everywhere."""
    return lambda one: share


def regret(one: Judged, pick: Pick) -> float:
    """Return what a pick loses against the best setting, in Dice, or as a share of the affine step's error."""
    lost = float(one.loss[round(100 * pick(one))] - one.loss.min())
    return lost if one.measure == "dice" else lost / max(one.affine, 1e-6)


def by_domain(pairs: Iterable[Judged], number: Callable[[Judged], float]) -> dict[str, float]:
    """Return the mean of a number in each domain."""
    found: dict[str, list[float]] = {}
    for one in pairs:
        found.setdefault(one.domain, []).append(number(one))
    return {domain: float(np.mean(values)) for domain, values in found.items()}


def cost(pairs: Sequence[Judged], pick: Pick) -> float:
    """Return the mean regret, every domain weighing the same."""
    return float(np.mean(list(by_domain(pairs, lambda one: regret(one, pick)).values())))


def tuned(pairs: Sequence[Judged], family: Callable[[float], Pick], choices: Sequence[float]) -> tuple[float, Pick]:
    """Return the best of a family of rules on pairs, and its parameter."""
    costs = [cost(pairs, family(choice)) for choice in choices]
    best = choices[int(np.argmin(costs))]
    return best, family(best)


SHIFTS = tuple(np.round(np.arange(-0.3, 0.81, 0.05), 2))
LEVELS = tuple(np.round(np.geomspace(0.02, 1.5, 25), 4))
FAMILIES: dict[str, tuple[Callable[[float], Pick], Sequence[float]]] = {
    "one fixed λ": (fixed, tuple(SHARES[::2])),
    "bootstrap error": (lambda s: least("bootstrap_error", s), SHIFTS),
    "bootstrap error, weak truth": (lambda s: least("bootstrap_error_weak", s), SHIFTS),
    "bootstrap error across edges": (lambda s: least("bootstrap_edge_error", s), SHIFTS),
    "held-out mutual information": (lambda s: least("held_out", s, -1.0), SHIFTS),
    "held-out blocks that gain": (lambda s: least("held_out_share", s, -1.0), SHIFTS),
    "inverse consistency over displacement": (lambda t: reaching("inverse_error", t, "displacement"), LEVELS),
    "neighbor distance over displacement": (lambda t: reaching("neighbor_distance", t, "displacement"), LEVELS),
    "SD log-Jacobian": (lambda t: reaching("sd_log_jacobian", t), LEVELS),
}
"""Rules with one number to tune: how far from the curve's optimum, or which level is to be reached."""


def choice_table(pairs: Sequence[Judged]) -> list[str]:
    """Return the lines of the table of picks."""
    usable = [one for one in pairs if one.loss.size and not one.failed]
    tune, test = ([one for one in usable if one.use == use] for use in ("tune", "test"))
    rules: dict[str, tuple[str, Pick]] = {"default λ (.4)": ("", fixed(float(to_share(DEFAULT))))}
    for name, (family, choices) in FAMILIES.items():
        untuned = family(0.0) if choices is SHIFTS else None
        if untuned is not None:
            rules[f"{name}, as it is"] = ("", untuned)
        number, pick = tuned(tune, family, choices)
        shown = f"{float(to_weight(number)):.2f}" if name == "one fixed λ" else f"{number:g}"
        rules[name] = (shown, pick)
    expert = {d: tuned([o for o in tune if o.domain == d], fixed, tuple(SHARES[::2]))[1] for d in {o.domain for o in tune}}
    rules["one fixed λ per domain"] = ("", lambda one: expert[one.domain](one) if one.domain in expert else 0.2)
    counts = [sum(o.measure == kind for o in test) for kind in ("dice", "mm")]
    lines = [
        f"| rule | tuned | tuning: regret | test: Dice lost ({counts[0]}) | test: mm added, % of affine ({counts[1]}) | "
        "test, by domain | worse than affine |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (number, pick) in rules.items():
        dice, mm = ([o for o in test if o.measure == kind] for kind in ("dice", "mm"))
        lines.append(
            f"| {name} | {number} | {cost(tune, pick):.4f} | {cost(dice, pick):.4f} | {100 * cost(mm, pick):.1f} | "
            f"{cost(test, pick):.4f} | {np.mean([worse(o, pick) for o in test]):.2f} |"
        )
    none = {kind: [affine_regret(o) for o in test if o.measure == kind] for kind in ("dice", "mm")}
    lines.append(f"| affine only | | | {np.mean(none['dice']):.4f} | {100 * np.mean(none['mm']):.1f} | | 0 |")
    return lines


def worse(one: Judged, pick: Pick) -> bool:
    """Tell whether a pick is worse than the affine step, by more than .005 of Dice or .1 mm."""
    value = float(one.loss[round(100 * pick(one))])
    return value > -one.affine + 0.005 if one.measure == "dice" else value > one.affine + min(0.1, 0.05 * one.spacing)


def affine_regret(one: Judged) -> float:
    """Return what the affine step alone loses against the best setting."""
    return float(-one.affine - one.loss.min()) if one.measure == "dice" else float((one.affine - one.loss.min()) / one.affine)


def _ratio(name: str, nothing: str, at: Callable[[np.ndarray], float]) -> Callable[[Judged], float]:
    return lambda one: float(np.log(at(one.curve(name)) / max(one.number(nothing), 1e-4)))


FAILURE: dict[str, Callable[[Judged], float]] = {
    "bootstrap: least error over doing nothing": _ratio("bootstrap_error", "bootstrap_nothing", np.min),
    "bootstrap: error at the weakest setting over doing nothing": _ratio("bootstrap_error", "bootstrap_nothing", lambda c: c[0]),
    "bootstrap: the same across edges": _ratio("bootstrap_edge_error", "bootstrap_nothing_edge", np.min),
    "bootstrap: least error, voxels": lambda o: float(np.min(o.curve("bootstrap_error"))) / o.coarse_mm,
    "bootstrap: error of doing nothing, voxels": lambda o: o.number("bootstrap_nothing") / o.coarse_mm,
    "bootstrap: unexplained share": lambda o: o.number("residual"),
    "held-out mutual information, best": lambda o: -float(np.max(o.curve("held_out"))),
    "held-out blocks that gain, best": lambda o: -float(np.max(o.curve("held_out_share"))),
    "mutual information, affine": lambda o: -o.number("information"),
    "inverse consistency over displacement": lambda o: float((o.curve("inverse_error") / o.curve("displacement"))[36]),
    "neighbor distance over displacement": lambda o: float((o.curve("neighbor_distance") / o.curve("displacement"))[36]),
    "SD log-Jacobian": lambda o: float(o.curve("sd_log_jacobian")[18]),
    "overlap of the foregrounds": lambda o: -o.number("foreground_overlap"),
    "correlation in windows, affine": lambda o: -o.number("correlation"),
    "correlation in windows, registered": lambda o: -float(o.curve("correlation")[36]),
    "explained variance, affine": lambda o: -o.number("explained"),
    "explained variance, registered": lambda o: -float(np.max(o.curve("explained"))),
}
"""Numbers that are larger where the start has failed."""


def area(failed: Sequence[float], good: Sequence[float]) -> float:
    """Return the area under the ROC curve."""
    a, b = np.asarray(failed)[:, None], np.asarray(good)[None]
    return float((a > b).mean() + 0.5 * (a == b).mean())


def failure_table(pairs: Sequence[Judged]) -> list[str]:
    """Return the lines of the table of detectors."""
    lines = [
        "| evidence | AUC tuning | test | threshold | sensitivity, specificity: tuning | test |",
        "|---|---|---|---|---|---|",
    ]
    for name, number in FAILURE.items():
        sides = {
            use: [[number(o) for o in pairs if o.use == use and o.failed == failed] for failed in (True, False)]
            for use in ("tune", "test")
        }
        level = float(np.quantile(sides["tune"][1], SPECIFICITY))
        rates = [f"{np.mean(np.array(bad) > level):.2f}, {np.mean(np.array(good) <= level):.2f}" for bad, good in sides.values()]
        areas = [f"{area(*both):.2f}" for both in sides.values()]
        lines.append(f"| {name} | {areas[0]} | {areas[1]} | {level:.3g} | {rates[0]} | {rates[1]} |")
    return lines


def error_table(pairs: Sequence[Judged]) -> list[str]:
    """Return the lines of the table of predicted against true errors, at the default λ."""
    known = [o for o in pairs if o.measure == "mm" and o.loss.size]
    at = round(100 * float(to_share(DEFAULT)))
    lines = [
        "| pairs | n | rank correlation, mm | in voxels | of doing nothing, mm | ratio true / bootstrap, 5, 50, 95 % |",
        "|---|---|---|---|---|---|",
    ]
    for what, some in (
        ("tuning", [o for o in known if o.use == "tune"]),
        ("test", [o for o in known if o.use == "test"]),
        ("test, start not failed", [o for o in known if o.use == "test" and not o.failed]),
    ):
        true = np.array([o.loss[at] for o in some])
        told = np.array([o.curve("bootstrap_error")[at] for o in some])
        voxel = np.array([o.spacing for o in some])
        nothing = [np.array(v) for v in ([o.affine for o in some], [o.number("bootstrap_nothing") for o in some])]
        ratio = np.quantile(true / told, (0.05, 0.5, 0.95))
        lines.append(
            f"| {what} | {len(some)} | {spearmanr(true, told)[0]:.2f} | {spearmanr(true / voxel, told / voxel)[0]:.2f} | "
            f"{spearmanr(*nothing)[0]:.2f} | {ratio[0]:.2f}, {ratio[1]:.2f}, {ratio[2]:.2f} |"
        )
    return lines


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    pairs = read()
    failed = [o.use for o in pairs if o.failed]
    print(f"{len(pairs)} pairs; of {len(failed)}, {failed.count('test')} of them for test, the start has failed\n")
    for table in (choice_table(pairs), failure_table(pairs), error_table(pairs)):
        print("\n".join(table) + "\n")


if __name__ == "__main__":
    main()
