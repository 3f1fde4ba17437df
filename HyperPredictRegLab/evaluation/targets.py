"""What was to be reached, and what was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from HyperPredictRegLib.predictor.novelty import Novelty

from HyperPredictRegLab.evaluation.accuracy import errors
from HyperPredictRegLab.evaluation.bands import quantities
from HyperPredictRegLab.evaluation.decision_table import results
from HyperPredictRegLab.evaluation.groups import ODD, Features, group_sets, lights_of
from HyperPredictRegLab.evaluation.latency import longest_ms, megabytes
from HyperPredictRegLab.evaluation.sets import B0, B1, B2, MAXIMUM, OURS, PairSet, Setting
from HyperPredictRegLab.evaluation.statistics import Estimate
from HyperPredictRegLab.evaluation.structure_table import structure_gains
from HyperPredictRegLab.evaluation.table import Cell, Table

UNLIKE = ("mouse",)
"""Sets of strangers that must never get a green light."""


@dataclass(frozen=True)
class Target:
    """One thing to reach.

    Attributes
    ----------
    what : in words.
    bound : in words, such as "≤ 0.015".
    reached : the figure, with its interval where there is one.
    met : whether it is as it should be; None if it could not be measured.
    """

    what: str
    bound: str
    reached: Estimate
    met: bool | None


def at_most(what: str, reached: Estimate | float, bound: float) -> Target:
    """Judge a figure that should be small."""
    return _judged(what, f"≤ {bound:g}", reached, lambda value: value <= bound)


def at_least(what: str, reached: Estimate | float, bound: float) -> Target:
    """Judge a figure that should be large."""
    return _judged(what, f"≥ {bound:g}", reached, lambda value: value >= bound)


def _judged(what: str, bound: str, reached: Estimate | float, good: Callable[[float], bool]) -> Target:
    figure = reached if isinstance(reached, Estimate) else Estimate(float(reached))
    return Target(what, bound, figure, good(figure.value) if figure.is_known else None)


def pair_targets(found: PairSet, setting: Setting) -> list[Target]:
    """Judge a set of pairs by the targets for the real people."""
    r, e, blind = found.resampling, errors(found, OURS), errors(found, B0)
    return [
        at_most("Dice MAE at λ*", r.mean(e.dice_at), 0.015),
        at_most("folding MAE at λ*, % of box", r.mean(e.box_at), 0.03),
        at_least("skill over the λ-only curve: Dice, all λ", r.skill(e.dice_over, blind.dice_over), 0.3),
        at_least("skill over the λ-only curve: ln folding", r.skill(e.logs, blind.logs), 0.4),
        *_coverages(found),
        *_loop_targets(found, setting),
        *_regret_targets(found, setting),
        *_structure_targets(found, setting),
    ]


def _coverages(found: PairSet) -> list[Target]:
    targets = []
    for name, inside, _ in quantities(found.foretold[OURS], found.measured):
        flat = inside.reshape(len(inside), -1)
        known = np.isfinite(flat)
        share = found.resampling.ratio(100 * np.nansum(flat, axis=1), known.sum(axis=1).astype(float))
        targets.append(_judged(f"coverage of 90 % bands: {name}, %", "85 to 95", share, lambda value: 85 <= value <= 95))
    return targets


def _loop_targets(found: PairSet, setting: Setting) -> list[Target]:
    own, r = results(found, setting, OURS), found.resampling
    return [
        at_most("over the limit before the loop, %", r.mean(100.0 * own.first.over), 10),
        at_most("over the limit after the loop, %", r.mean(100.0 * own.final.over), 0),
        at_most("extra registrations per pair", r.mean(own.decision.extra), 0.25),
        at_most("mean Dice lost against the oracle, finished registrations", r.mean(own.regret), 0.003),
    ]


def _regret_targets(found: PairSet, setting: Setting) -> list[Target]:
    targets = []
    for method, name in ((OURS, "default"), (MAXIMUM, "rule maximum")):
        own = results(found, setting, method)
        for rival in (B1, B2):
            ratio = found.resampling.ratio(own.regret, results(found, setting, rival).regret)
            sure = not np.isfinite(ratio.upper) or ratio.upper < 1
            what = f"regret against that of {rival} ({name}), interval below 1"
            targets.append(_judged(what, "≤ 0.75", ratio, lambda value, sure=sure: value <= 0.75 and sure))  # type: ignore[misc]
    return targets


def _structure_targets(found: PairSet, setting: Setting) -> list[Target]:
    gains, r = structure_gains(found, setting), found.resampling
    targets = []
    for part, name in ((gains.ours, "default"), (gains.maximum, "rule maximum")):
        targets.append(at_least(f"gain of choosing λ for one structure ({name})", r.mean(part), 0.008))
        targets.append(at_least(f"the same, over B9 ({name})", r.mean(part - gains.by_structure), 0))
    return targets


def odd_targets(found: PairSet, setting: Setting) -> list[Target]:
    """Judge the odd pairs of a set, group by group and together."""
    targets = []
    for group in group_sets(found):
        name = group.measured.name
        if name not in ODD and not name.startswith("odd"):
            continue
        for method, rule in ((OURS, "default"), (MAXIMUM, "rule maximum")):
            own, looped = (results(group, setting, m) for m in (method, B2))
            ratio = group.resampling.ratio(own.regret, looped.regret)
            targets.append(at_most(f"{name}: regret against that of {B2} ({rule})", ratio, 0.5))
    return targets


def targets_table(
    external: Sequence[PairSet],
    held_out: PairSet,
    setting: Setting,
    *,
    novelty: Novelty,
    strangers: Mapping[str, Features],
    latency: Table,
) -> Table:
    """Return the table of all targets with what each set of pairs reached; they were set for the external people."""
    sets = (*external, held_out)
    found = [[*pair_targets(one, setting), _red(one), *odd_targets(one, setting)] for one in sets]
    whats = list(dict.fromkeys(target.what for targets in found for target in targets))
    rows: list[tuple[Cell, ...]] = []
    for what in whats:
        own = [next((target for target in targets if target.what == what), None) for targets in found]
        rows.append((what, next(t.bound for t in own if t is not None), *(cell for target in own for cell in _cells(target))))
    rest = [*_stranger_targets(novelty, strangers), *_size_targets(latency)]
    blank: tuple[Cell, ...] = ("",) * (2 * len(sets) - 2)
    rows += [(target.what, target.bound, *_cells(target), *blank) for target in rest]
    columns = ("target", "bound", *(part for one in sets for part in (one.measured.name, "met")))
    note = (
        "Set for the real people; the other columns are context. Every figure is computed from the sweeps. A target is met by "
        "the figure itself, not by the end of its interval, unless it says so."
    )
    return Table("targets", "Targets", columns, tuple(rows), note)


def _red(found: PairSet) -> Target:
    return at_most("red lights, %", float(100 * (found.foretold[OURS].lights == "red").mean()), 5)


def _stranger_targets(novelty: Novelty, strangers: Mapping[str, Features]) -> list[Target]:
    targets = []
    for name, features in strangers.items():
        green, what = lights_of(novelty, features)["green"], f"green lights among {name}, %"
        wanted = any(word in name.lower() for word in UNLIKE)
        targets.append(at_most(what, green, 0) if wanted else Target(what, "none set", Estimate(green), None))
    return targets


def _size_targets(latency: Table) -> list[Target]:
    return [
        at_most("8,000 λ x all structures x ensemble on two threads, ms", longest_ms(latency), 25),
        at_most("bundle, MB", megabytes(latency), 5),
    ]


def _cells(target: Target | None) -> tuple[Cell, Cell]:
    if target is None:
        return ("", "")
    return (target.reached, "–" if target.met is None else target.met)
