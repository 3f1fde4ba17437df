"""Each kind of evidence judged alone, on the tables that `any_pair.py run` writes: see `docs/evidence.md`.

    python benchmarks/any_pair_rules.py [--figure FILE.png]    tunes on the tuning subjects, prints what holds on the others
A start has failed if it is more than two voxels from the best affine one, or, where only labels tell, if these overlap with a
Dice below .6 all together. A result has failed if at the default λ half of the foreground is more than two voxels off,
landmarks are so on average, or mean Dice is below .5. What a pick of λ is worth is asked where the start has not failed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from any_pair_cases import FOLDER
from HyperPredictRegLib.predictor.coarse_pair import ALONG
from HyperPredictRegLib.predictor.evidence import LENGTHS
from scipy.interpolate import PchipInterpolator
from scipy.optimize import minimize
from scipy.stats import spearmanr

LOW, HIGH, DEFAULT, SIGMA = 0.25, 3.0, 0.4, 1.2
MOST_MISFIT, LEAST_OVERLAP, LEAST_DICE = 2.0, 0.6, 0.5
SHARES = np.linspace(0, 1, 101)
SPECIFICITY = 0.9
LEAST_DICE_GAIN, LEAST_GAIN_VOXELS = 0.02, 0.1
_LEAST_VOXELS, _LEAST_FOLDING = 0.01, 0.01
BOTH = "both"
"""Median error over the foreground and error across edges together."""


def to_share(weight: np.ndarray | float) -> np.ndarray:
    """Return where λ lies in its range, 0 to 1."""
    return np.asarray(np.log(np.asarray(weight) / LOW) / np.log(HIGH / LOW))


def to_weight(share: np.ndarray | float) -> np.ndarray:
    """Return λ at a share of its range."""
    return np.asarray(LOW * (HIGH / LOW) ** np.asarray(share))


_AT_DEFAULT = round(100 * float(to_share(DEFAULT)))
_MM = (0.2, 0.5, 1, 2, 5)


@dataclass(frozen=True, eq=False)
class Judged:
    """One pair: its evidence and its truth over λ.

    Attributes
    ----------
    failed : whether its start has.
    lost : whether its result at the default λ has.
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
    lost: bool
    measure: str
    spacing: float
    affine: float
    loss: np.ndarray
    row: pd.Series

    def curve(self, name: str) -> np.ndarray:
        """Return a curve of the evidence over `SHARES`, lengths in mm; `BOTH` is the geometric mean of the two errors."""
        if name == BOTH:
            return np.asarray(np.sqrt(self.curve("bootstrap_error") * self.curve("bootstrap_edge_error")))
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
        """Return a number of the evidence, lengths in mm; `BOTH` is the geometric mean of the two errors of doing nothing."""
        if name == BOTH:
            return float(np.sqrt(self.number("bootstrap_nothing") * self.number("bootstrap_nothing_edge")))
        value = float(self.row[f"evidence_{name}"])
        if name.startswith("bootstrap_nothing") or name == "inverse_error":
            value = (np.exp(value) - _LEAST_VOXELS) * self.coarse_mm
        return value


def read() -> list[Judged]:
    """Return all pairs of the tables."""
    runs, features = (pd.read_parquet(FOLDER / f"{name}.parquet") for name in ("runs", "features"))
    features = features[features["label"] == 0]
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
        default = float(mine.loc[np.isclose(mine["regularization_weight"], DEFAULT), measure].iloc[0])
        lost = default < LEAST_DICE if kind == "dice" else default > MOST_MISFIT * spacing
        found.append(Judged(row["pair"], row["domain"], row["use"], bool(failed), bool(lost), kind, spacing, affine, loss, row))
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


def lost(one: Judged, pick: Pick) -> float:
    """Return what a pick loses against the best setting, in Dice, or as a share of the affine step's error."""
    value = float(one.loss[round(100 * pick(one))] - one.loss.min())
    return value if one.measure == "dice" else value / max(one.affine, 1e-6)


def regret(one: Judged, pick: Pick) -> float:
    """Return what a pick loses as a share of what the best setting gains over the affine step.

    A gain of less than .02 of Dice or a tenth of a voxel counts as that much.
    """
    least = LEAST_DICE_GAIN if one.measure == "dice" else LEAST_GAIN_VOXELS * one.spacing / max(one.affine, 1e-6)
    return lost(one, pick) / max(affine_regret(one), least)


def by_domain(pairs: Iterable[Judged], number: Callable[[Judged], float]) -> dict[str, float]:
    """Return the mean of a number in each domain."""
    found: dict[str, list[float]] = {}
    for one in pairs:
        found.setdefault(one.domain, []).append(number(one))
    return {domain: float(np.mean(values)) for domain, values in found.items()}


def cost(pairs: Sequence[Judged], pick: Pick, of: Callable[[Judged, Pick], float] = regret) -> float:
    """Return the mean of a loss, every domain weighing the same."""
    return float(np.mean(list(by_domain(pairs, lambda one: of(one, pick)).values())))


def tuned(pairs: Sequence[Judged], family: Callable[[float], Pick], choices: Sequence[float]) -> tuple[float, Pick]:
    """Return the best of a family of rules on pairs, and its parameter."""
    costs = [cost(pairs, family(choice)) for choice in choices]
    best = choices[int(np.argmin(costs))]
    return best, family(best)


SHIFTS = tuple(n / 20 for n in range(-6, 13))
LEVELS = tuple(np.round(np.geomspace(0.02, 1.5, 25), 4))
FAMILIES: dict[str, tuple[Callable[[float], Pick], Sequence[float]]] = {
    "one fixed λ": (fixed, tuple(SHARES[::2])),
    "bootstrap error": (lambda s: least("bootstrap_error", s), SHIFTS),
    "bootstrap error, weak truth": (lambda s: least("bootstrap_error_weak", s), SHIFTS),
    "bootstrap error across edges": (lambda s: least("bootstrap_edge_error", s), SHIFTS),
    "geometric mean of both errors": (lambda s: least(BOTH, s), SHIFTS),
    "held-out mutual information": (lambda s: least("held_out", s, -1.0), SHIFTS),
    "held-out blocks that gain": (lambda s: least("held_out_share", s, -1.0), SHIFTS),
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
        f"| rule | tuned | tuning: share of the gain lost | test: Dice lost ({counts[0]}) | test: mm added, % ({counts[1]}) | "
        "test: share of the gain lost | worse than affine |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (number, pick) in rules.items():
        dice, mm = ([o for o in test if o.measure == kind] for kind in ("dice", "mm"))
        lines.append(
            f"| {name} | {number} | {cost(tune, pick):.4f} | {cost(dice, pick, lost):.4f} | {100 * cost(mm, pick, lost):.1f} | "
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
    "inverse consistency over displacement": lambda o: o.number("inverse_error") / float(o.curve("displacement")[36]),
    "neighbor distance over displacement": lambda o: float((o.curve("neighbor_distance") / o.curve("displacement"))[36]),
    "SD log-Jacobian": lambda o: float(o.curve("sd_log_jacobian")[18]),
    "overlap of the foregrounds": lambda o: -o.number("foreground_overlap"),
    "correlation in windows, affine": lambda o: -o.number("correlation"),
    "correlation in windows, registered": lambda o: -float(o.curve("correlation")[36]),
    "explained variance, affine": lambda o: -o.number("explained"),
    "explained variance, registered": lambda o: -float(np.max(o.curve("explained"))),
}
"""Numbers that are larger where the start has failed."""


SHOWN = (
    "bootstrap: error at the weakest setting over doing nothing", "bootstrap: error of doing nothing, voxels",
    "held-out blocks that gain, best", "overlap of the foregrounds", "explained variance, affine",
)  # fmt: skip
"""Those of them in the figure."""


def area(failed: Sequence[float], good: Sequence[float]) -> float:
    """Return the area under the ROC curve."""
    a, b = np.asarray(failed)[:, None], np.asarray(good)[None]
    return float((a > b).mean() + 0.5 * (a == b).mean())


Told = Callable[[Judged], bool]
"""What is true of a pair."""


def failure_table(pairs: Sequence[Judged], truth: Told, numbers: dict[str, Callable[[Judged], float]]) -> list[str]:
    """Return the lines of the table of detectors of what `truth` tells; thresholds are those of the tuning subjects."""
    lines = [
        "| evidence | AUC tuning | test | threshold | sensitivity, specificity: tuning | test |",
        "|---|---|---|---|---|---|",
    ]
    for name, number in numbers.items():
        sides = {
            use: [[number(o) for o in pairs if o.use == use and truth(o) == bad] for bad in (True, False)]
            for use in ("tune", "test")
        }
        level = float(np.quantile(sides["tune"][1], SPECIFICITY, method="higher"))
        rates = [f"{np.mean(np.array(bad) > level):.2f}, {np.mean(np.array(good) <= level):.2f}" for bad, good in sides.values()]
        areas = [f"{area(*both):.2f}" for both in sides.values()]
        lines.append(f"| {name} | {areas[0]} | {areas[1]} | {level:.3g} | {rates[0]} | {rates[1]} |")
    return lines


def fitted(pairs: Sequence[Judged], truth: Told, names: Sequence[str], penalty: float = 1.0) -> np.ndarray:
    """Return intercept and weights of a logistic rule over numbers of `FAILURE`; both sides weigh the same."""
    x = np.array([[1.0, *(FAILURE[name](o) for name in names)] for o in pairs])
    y = np.array([truth(o) for o in pairs])
    weight = np.where(y, 0.5 / y.sum(), 0.5 / (~y).sum()) * len(y)
    scale = np.array([1.0, *x[:, 1:].std(axis=0)])

    def loss(w: np.ndarray) -> float:
        z = (x / scale) @ w
        return float((weight * np.logaddexp(0, np.where(y, -z, z))).sum() + penalty * (w[1:] ** 2).sum())

    return np.asarray(minimize(loss, np.zeros(x.shape[1])).x / scale)


TOGETHER = {
    "start": ("explained variance, affine", "overlap of the foregrounds", "bootstrap: error of doing nothing, voxels"),
    "result": ("bootstrap: least error over doing nothing", "explained variance, registered", "overlap of the foregrounds"),
}
"""What is weighed together for each kind of failure."""


def logistic(weights: np.ndarray, names: Sequence[str]) -> Callable[[Judged], float]:
    """Return the score of a logistic rule."""
    return lambda one: float(weights[0] + sum(w * FAILURE[name](one) for w, name in zip(weights[1:], names, strict=True)))


def error_table(pairs: Sequence[Judged]) -> list[str]:
    """Return the lines of the table of predicted against true errors, at the default λ."""
    known = [o for o in pairs if o.measure == "mm" and o.loss.size]
    lines = [
        "| pairs | n | rank correlation, mm | in voxels | of doing nothing, mm | ratio true / bootstrap, 5, 50, 95 % |",
        "|---|---|---|---|---|---|",
    ]
    for what, some in (
        ("tuning", [o for o in known if o.use == "tune"]),
        ("test", [o for o in known if o.use == "test"]),
        ("test, start not failed", [o for o in known if o.use == "test" and not o.failed]),
    ):
        true = np.array([o.loss[_AT_DEFAULT] for o in some])
        told = np.array([o.curve(BOTH)[_AT_DEFAULT] for o in some])
        voxel = np.array([o.spacing for o in some])
        nothing = [np.array(v) for v in ([o.affine for o in some], [o.number(BOTH) for o in some])]
        ratio = np.quantile(true / told, (0.05, 0.5, 0.95))
        lines.append(
            f"| {what} | {len(some)} | {spearmanr(true, told)[0]:.2f} | {spearmanr(true / voxel, told / voxel)[0]:.2f} | "
            f"{spearmanr(*nothing)[0]:.2f} | {ratio[0]:.2f}, {ratio[1]:.2f}, {ratio[2]:.2f} |"
        )
    return lines


def calibration(pairs: Sequence[Judged]) -> str:
    """Return what turns the bootstrap's error into an expected one with a band, from tuning pairs, and how it holds on others.

    The band is that of domains whose factor the others gave; every domain weighs the same.
    """
    known = [o for o in pairs if o.measure == "mm" and o.loss.size and not o.failed]
    rows = np.round(100 * to_share((0.25, 0.4, 0.55, 0.75, 1.0, 1.4, 2.0, 3.0))).astype(int)

    def ratios(use: str) -> dict[str, np.ndarray]:
        some = [o for o in known if o.use == use]
        found: dict[str, list[np.ndarray]] = {}
        for one in some:
            found.setdefault(one.domain, []).append(np.log(one.loss[rows] / one.curve(BOTH)[rows]))
        return {domain: np.concatenate(logs) for domain, logs in found.items()}

    tune, test = ratios("tune"), np.concatenate(list(ratios("test").values()))
    middle = {domain: float(np.mean(found)) for domain, found in tune.items()}
    off = [found - np.mean([m for d, m in middle.items() if d != domain]) for domain, found in tune.items()]
    residuals, weights = np.concatenate(off), np.concatenate([np.full(len(one), 1 / len(one)) for one in off])
    order = np.argsort(residuals)
    shares = np.cumsum(weights[order]) / weights.sum()
    low, high = (float(residuals[order][np.searchsorted(shares, level)]) for level in (0.05, 0.95))
    factor = float(np.mean(list(middle.values())))
    missed = test - factor
    inside, ratio = 100 * np.mean((missed >= low) & (missed <= high)), np.exp(np.median(missed))
    return (
        f"FACTOR {np.exp(factor):.3f}, LOWER {np.exp(low):.2f}, UPPER {np.exp(high):.2f}; test: {inside:.0f} % of {len(missed)} "
        f"errors inside, median ratio {ratio:.2f}"
    )


def draw(pairs: Sequence[Judged], path: Path) -> None:
    """Draw what the bootstrap says beside what is true: error in mm over λ and over pairs, and failed starts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.4), layout="constrained")
    curves, errors, rates = figure.subplots(1, 3)
    known = [o for o in pairs if o.measure == "mm" and o.loss.size]
    domains = list(dict.fromkeys(o.domain for o in known))
    weights = to_weight(SHARES)
    for color, domain in enumerate(domains):
        for one in [o for o in known if o.domain == domain and o.use == "test" and not o.failed][:1]:
            curves.loglog(weights, one.loss, color=f"C{color}")
            curves.loglog(weights, one.curve(BOTH), "--", color=f"C{color}")
        for failed, mark in ((False, "o"), (True, "x")):
            some = [o for o in known if o.domain == domain and o.failed == failed]
            told = [o.curve(BOTH)[_AT_DEFAULT] for o in some]
            errors.loglog(told, [o.loss[_AT_DEFAULT] for o in some], mark, color=f"C{color}", label=None if failed else domain)
    curves.set(xlabel="λ", ylabel="error, mm", title="true (lines), bootstrap (dashes)")
    ends = np.array(errors.get_xlim())
    errors.loglog(ends, ends, color="gray", lw=0.8)
    errors.set(xlabel="error by the bootstrap, mm", ylabel="true error, mm", title="λ = .4, all pairs (x: start failed)")
    for name in SHOWN:
        bad, good = (np.array([FAILURE[name](o) for o in pairs if o.failed == failed]) for failed in (True, False))
        levels = np.sort(np.concatenate([bad, good]))[::-1]
        line = [[0.0, *((values >= level).mean() for level in levels)] for values in (good, bad)]
        rates.step(*line, where="post", label=f"{name} ({area(bad, good):.2f})")
    rates.set(xlabel="good starts called failed", ylabel="failed starts found", title="all pairs (area under the curve)")
    for axes, ticks in ((curves.xaxis, (0.25, 0.5, 1, 2, 3)), (curves.yaxis, _MM), (errors.xaxis, _MM), (errors.yaxis, _MM)):
        axes.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_ticks([], minor=True)
    errors.legend(fontsize=7, loc="upper left")
    rates.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print the tables, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", type=Path, help="draw into this PNG file, too")
    options = parser.parse_args()
    pairs = read()
    if options.figure:
        draw(pairs, options.figure)
    failed = [o.use for o in pairs if o.failed]
    print(f"{len(pairs)} pairs; of {len(failed)}, {failed.count('test')} of them for test, the start has failed\n")
    print("\n".join(choice_table(pairs)) + "\n")
    tune = [o for o in pairs if o.use == "tune"]
    truths: dict[str, Told] = {"start": lambda o: o.failed, "result": lambda o: o.lost}
    for what, truth in truths.items():
        weights = fitted(tune, truth, TOGETHER[what])
        print(f"The {what} has failed: {', '.join(TOGETHER[what])}: {np.array2string(weights, precision=3)}\n")
        numbers = FAILURE | {"these together": logistic(weights, TOGETHER[what])}
        counts = [sum(truth(o) for o in pairs if o.use == use) for use in ("tune", "test")]
        print(f"failed: {counts}\n" + "\n".join(failure_table(pairs, truth, numbers)) + "\n")
    print("\n".join(error_table(pairs)))
    print(calibration(pairs))


if __name__ == "__main__":
    main()
