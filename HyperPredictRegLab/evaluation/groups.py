"""Kinds of pairs, and pairs that are unlike all training pairs: table T8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.predictor.novelty import Novelty

from HyperPredictRegLab.evaluation.accuracy import errors
from HyperPredictRegLab.evaluation.bands import LIGHTS
from HyperPredictRegLab.evaluation.decision_table import results
from HyperPredictRegLab.evaluation.sets import B0, B1, B2, MAXIMUM, OURS, PairSet, Setting
from HyperPredictRegLab.evaluation.table import Cell, Table
from HyperPredictRegLab.training.sweep_tables import check_columns, check_text, read_table, with_labels, with_numbers

ODD = ("relative", "rescan", "noisy", "atrophy")
"""Groups in which one fixed λ serves badly: the same anatomy twice, strong noise, large ventricles."""

Features = Sequence[Mapping[str, float]]


def group_sets(found: PairSet) -> list[PairSet]:
    """Return a set per group of pairs, and one of all odd pairs if there are any."""
    groups = found.measured.examples.groups
    names = sorted(set(groups.tolist()))
    sets = [found.among(np.flatnonzero(groups == name), name or "no group") for name in names] if len(names) > 1 else []
    odd = np.isin(groups, ODD)
    if odd.any() and not odd.all() and len(set(names) & set(ODD)) > 1:
        sets.append(found.among(np.flatnonzero(odd), "odd: " + ", ".join(name for name in ODD if name in names)))
    return sets


def group_table(sets: Sequence[PairSet], setting: Setting) -> Table:
    """Return T8: every set by the groups of its pairs."""
    rows: list[tuple[Cell, ...]] = []
    for whole in sets:
        for found in [*group_sets(whole), whole]:
            own, most, base, looped = (results(found, setting, name) for name in (OURS, MAXIMUM, B1, B2))
            e, blind, r = errors(found, OURS), errors(found, B0), found.resampling
            lights = found.foretold[OURS].lights
            rows.append((
                whole.measured.name, "all" if found is whole else found.measured.name, len(lights), r.mean(e.dice_at),
                r.skill(e.dice_over, blind.dice_over), r.skill(e.logs, blind.logs), r.mean(own.regret), r.mean(most.regret),
                r.mean(base.regret), r.mean(looped.regret),
                r.ratio(own.regret, looped.regret), r.ratio(most.regret, looped.regret),
                float(100 * own.first.over.mean()), float(100 * looped.first.over.mean()), float(100 * own.final.over.mean()),
                *(float(100 * (lights == light).mean()) for light in LIGHTS),
            ))  # fmt: skip
    columns = (
        "pairs", "group", "count", "Dice MAE at λ*", "skill Dice, all λ", "skill ln folding", "regret, ours",
        "regret, rule maximum", "regret, B1", "regret, B2", "ours / B2", "rule maximum / B2",
        "over limit before loop, ours, %", "B1, %",
        "over limit at the end, %", "green, %", "amber, %", "red, %",
    )  # fmt: skip
    note = "Intervals are left out where a group has fewer than five subjects in either role."
    return Table("t8-groups", "T8. Groups of pairs, and other people", columns, tuple(rows), note)


def lights_of(novelty: Novelty, features: Features) -> dict[str, float]:
    """Return the percentage of pairs under each light."""
    found = np.array([novelty.verdict(named).light for named in features])
    return {light: float(100 * (found == light).mean()) if len(found) else float("nan") for light in LIGHTS}


def lights_table(novelty: Novelty, strangers: Mapping[str, Features]) -> Table:
    """Return the traffic light's verdicts on features of pairs without measurements."""
    rows: list[tuple[Cell, ...]] = []
    for name, features in strangers.items():
        table = np.array([[named.get(f, np.nan) for f in novelty.features] for named in features]).reshape(len(features), -1)
        distances = novelty.distance(table)
        rows.append((name, len(features), *lights_of(novelty, features).values(), float(np.median(distances)), novelty.red))
    columns = ("pairs", "count", "green, %", "amber, %", "red, %", "median distance", "red from")
    note = "Pairs that were described but need not have been registered; red means that no suggestion is made."
    return Table("t8-lights", "T8b. Unusual pairs under the traffic light", columns, tuple(rows), note)


def read_strangers(table: Path | str) -> Features:
    """Read pairs' features from a sweep's ``features.parquet``.

    Raises
    ------
    InputError : the file is missing or no such table, or holds something else than numbers.
    """
    what = "features table"
    features = read_table(Path(table), what)
    check_columns(features, ("pair", "label", "error"), what)
    check_text(features, ("pair", "error"), what)
    rows = with_labels(features[features["error"] == ""], what)
    rows = rows[rows["label"] == 0]
    if rows.empty:
        raise InputError(f"The {what} '{table}' describes no pair.")
    rows = with_numbers(rows, [column for column in rows.columns if column.startswith("pair_")], what)
    names = {column: column[5:] for column in rows.columns if column.startswith("pair_")}
    return [{names[c]: float(row[c]) for c in names} for row in rows.to_dict("records")]
