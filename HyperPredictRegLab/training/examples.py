"""What a predictor learns from: the tables of a sweep as arrays, and what all its pairs have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.search_space import Parameter, SearchSpace, Setting
from HyperPredictRegLib.engines import get_engine
from HyperPredictRegLib.predictor.bundle import LEAST_FOLDING
from HyperPredictRegLib.predictor.predictor import EVIDENCE
from scipy.interpolate import PchipInterpolator

from HyperPredictRegLab.sweep.runs import read_plan
from HyperPredictRegLab.sweep.tables import (
    FEATURES,
    RUNS,
    check_columns,
    check_text,
    read_table,
    with_labels,
    with_numbers,
    without_copies,
)
from HyperPredictRegLab.training.outcomes import DOMAIN, MEASURED, Outcomes, checked_outcomes, completed, read_outcomes

if TYPE_CHECKING:
    import pandas as pd

EVIDENCE_VERSION, EVIDENCE_ERROR = EVIDENCE_TEXTS = (f"{EVIDENCE}version", f"{EVIDENCE}error")
"""Columns of the features table that hold text, where all others of evidence hold numbers."""

_RUNS, _FEATURES = "runs table", "features table"

LABEL_NOISE = "label_noise_mm"
"""A feature that only the makers of images know: by how much labels stray from them. Whoever uses a predictor assumes a value."""

SAME_SETTING = 2.5e-4
"""Values of a parameter that differ by a smaller share are one: tables may keep a few digits only."""

LEAST_PAIRS_PER_STRUCTURE = 0.5
"""A structure that fewer of the pairs have is not learned by name."""


@dataclass(frozen=True)
class Examples:
    """P pairs with F features, S structures with T token features each, and N settings tried; NaN marks what is not there.

    Attributes
    ----------
    pairs : names, P of them.
    subjects : fixed and moving subject, shape (P, 2).
    groups : kind of each pair, shape (P,).
    engine, settings_hash, preset, features_version : what all runs have in common.
    parameter : of the engine, over which curves are learned.
    feature_names, token_names : F and T names.
    labels : S label values.
    features : shape (P, F).
    tokens : shape (P, S, T).
    values : of the parameter, least regularized first, shape (P, N).
    dice : shape (P, S, N).
    folding_foreground, folding_grid : percent, shape (P, N).
    sd_log_jacobian, hd95 : shape (P, N); hd95 is the mean in mm.
    held : values of the engine's other parameters, the same in all runs.
    alignment : settings of the affine step that differ from the defaults; None if the sweep's plan is not there.
    notes : sentences on what was left out of the tables.
    further : the other parameters that vary, over which surfaces are learned.
    further_values : of these, shape (P, N, h - 1); None if there are none.
    outcomes : errors, failures and domains; None for a sweep of one domain, which knows none. With them labels have no meaning
        beyond their pair: `labels` is empty, and S is how many structures a pair has at most.
    presets : all that occur, where that is more than `preset`.
    evidence_version : meaning of the evidence among the features, "" where the tables do not say.
    """

    pairs: tuple[str, ...]
    subjects: np.ndarray
    groups: np.ndarray
    engine: str
    settings_hash: str
    preset: str
    features_version: str
    parameter: Parameter
    feature_names: tuple[str, ...]
    token_names: tuple[str, ...]
    labels: tuple[int, ...]
    features: np.ndarray
    tokens: np.ndarray
    values: np.ndarray
    dice: np.ndarray
    folding_foreground: np.ndarray
    folding_grid: np.ndarray
    sd_log_jacobian: np.ndarray
    hd95: np.ndarray
    held: Setting = field(default_factory=dict)
    alignment: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    further: tuple[Parameter, ...] = ()
    further_values: np.ndarray | None = None
    outcomes: Outcomes | None = None
    presets: tuple[str, ...] = ()
    evidence_version: str = ""

    @property
    def space(self) -> SearchSpace:
        """Return the parameters that vary."""
        return SearchSpace((self.parameter, *self.further))

    @property
    def settings(self) -> np.ndarray:
        """Return the settings tried, shape (P, N, h)."""
        first = self.values[..., None]
        return first if self.further_values is None else np.concatenate([first, self.further_values], axis=-1)

    @property
    def numbers(self) -> np.ndarray:
        """Return the number of each structure for the network, 0 for one without a name, shape (S,)."""
        return np.arange(1, len(self.labels) + 1) if self.labels else np.zeros(self.dice.shape[1], dtype=int)

    @property
    def mean_dice(self) -> np.ndarray:
        """Mean Dice over the structures that a pair has, shape (P, N); NaN where it has none."""
        known = (~np.isnan(self.dice)).sum(axis=1)
        return np.where(known > 0, np.nansum(self.dice, axis=1) / np.maximum(known, 1), np.nan)

    @property
    def strengths(self) -> np.ndarray:
        """Return `values` on the parameter's scale, rising with regularization, shape (P, N)."""
        return self.parameter.strength(self.values)

    def with_label_noise(self, millimetres: float) -> Examples:
        """Return the examples as a user sees them: label noise is not known, but assumed (NaN: as large as in training)."""
        if LABEL_NOISE not in self.feature_names:
            return self
        features = self.features.copy()
        features[:, self.feature_names.index(LABEL_NOISE)] = millimetres
        return replace(self, features=features)

    def chosen(self, rows: np.ndarray) -> Examples:
        """Return some of the pairs, by a mask or indices."""
        picked = {
            name: getattr(self, name)[rows]
            for name in (
                "subjects", "groups", "features", "tokens", "values", "dice",
                "folding_foreground", "folding_grid", "sd_log_jacobian", "hd95",
            )
        }  # fmt: skip
        if self.further_values is not None:
            picked["further_values"] = self.further_values[rows]
        if self.outcomes is not None:
            picked["outcomes"] = self.outcomes.chosen(rows)
        return replace(self, pairs=tuple(np.array(self.pairs)[rows].tolist()), **picked)


def read_examples(folder: Path | str, labels: tuple[int, ...] | None = None) -> Examples:
    """Read the tables of a sweep's folder.

    Parameters
    ----------
    folder : holds ``runs.parquet`` and ``features.parquet``, and ``sweep.json`` if it is to be trained on.
    labels : structures to keep, in this order; default: all that at least half of the pairs have.

    Raises
    ------
    InputError : a table is missing or damaged, lacks columns, has something else where numbers should be, says two things of
        one registration, mixes engines or settings, or holds no run that succeeded.
    """
    folder = Path(folder)
    for name in (RUNS, FEATURES):
        if not (folder / name).is_file():
            raise InputError(f"'{folder}' has no {name}: give the folder of a finished sweep.")
    tables = read_table(folder / RUNS, _RUNS), read_table(folder / FEATURES, _FEATURES)
    plan = read_plan(folder)
    return replace(examples_from(*tables, labels=labels), alignment=None if plan is None else plan.settings.alignment)


def examples_from(runs: pd.DataFrame, features: pd.DataFrame, labels: tuple[int, ...] | None = None) -> Examples:
    """Arrange a sweep's tables as arrays; see `read_examples`."""
    import pandas as pd

    notes: list[str] = []
    many = DOMAIN in runs
    if many:
        runs, features = completed(runs, features)
    features = _checked_features(features, notes)
    runs = _finished(runs)
    runs = runs[runs["pair"].isin(set(features["pair"]))]
    if runs.empty:
        raise InputError("The sweep holds no pair with both a finished registration and features.")
    engine = _single(runs, "engine")
    presets = tuple(sorted(runs["preset"].unique())) if many else (_single(runs, "preset"),)
    features = features[features["pair"].isin(set(runs["pair"]))]
    varied, held = _learned_parameters(engine, runs)
    runs = _checked_runs(runs, varied, notes)
    runs = checked_outcomes(runs, _RUNS) if many else runs
    by_pair = _by_pair(runs, varied)
    pairs, column = tuple(by_pair), partial(_column, by_pair)
    token_names = tuple(c[6:] for c in features.columns if c.startswith("token_"))
    if many:
        slots, labels = _own_labels(by_pair, features), ()
        tokens, dice = _own_tokens(features, slots, token_names), _own_dice(by_pair, slots)
    else:
        labels = _learned_labels(runs, by_pair, labels)
        tokens = _tokens(features, pairs, labels, token_names)
        dice = np.stack([column(f"dice_{label}") for label in labels], axis=1)
    first = pd.concat([table.iloc[:1] for table in by_pair.values()])
    pair_rows = features[features["label"] == 0].set_index("pair").loc[list(pairs)]
    told = [c for c in features.columns if c.startswith(("pair_", EVIDENCE)) and c not in EVIDENCE_TEXTS]
    return Examples(
        pairs=pairs,
        subjects=_subjects(first),
        groups=first["group"].fillna("").astype(str).to_numpy() if "group" in first else np.full(len(pairs), ""),
        engine=engine,
        settings_hash=_single(runs, "settings_hash"),
        preset=presets[0],
        presets=presets if many else (),
        features_version=_single(features, "features_version"),
        evidence_version=_single(pair_rows, EVIDENCE_VERSION) if EVIDENCE_VERSION in pair_rows else "",
        parameter=varied[0],
        held=held,
        feature_names=(*(c.removeprefix("pair_") for c in told), LABEL_NOISE),
        token_names=token_names,
        labels=labels,
        features=np.c_[pair_rows[told].to_numpy(dtype=float), column(LABEL_NOISE)[:, 0]],
        tokens=tokens,
        values=column(varied[0].name),
        dice=dice,
        folding_foreground=column("folding_foreground"),
        folding_grid=column("folding_grid"),
        sd_log_jacobian=column("sd_log_jacobian"),
        hd95=column("hd95"),
        notes=tuple(notes),
        further=varied[1:],
        further_values=np.stack([column(p.name) for p in varied[1:]], axis=-1) if varied[1:] else None,
        outcomes=_outcomes(first, pair_rows, column) if many else None,
    )


def _by_pair(runs: pd.DataFrame, varied: tuple[Parameter, ...]) -> dict[str, pd.DataFrame]:
    """Return the rows of each pair, least regularized first."""
    order, ascending = [p.name for p in varied], [p.sign > 0 for p in varied]
    return {str(pair): table.sort_values(order, ascending=ascending) for pair, table in runs.groupby("pair", sort=False)}


def _column(by_pair: dict[str, pd.DataFrame], what: str) -> np.ndarray:
    """Return a column of the runs as an array (P, N), NaN where there is nothing."""
    found = np.full((len(by_pair), max(len(table) for table in by_pair.values())), np.nan)
    for row, table in enumerate(by_pair.values()):
        if what in table:
            found[row, : len(table)] = table[what].to_numpy(dtype=float)
    return found


def _outcomes(first: pd.DataFrame, pair_rows: pd.DataFrame, column: Callable[[str], np.ndarray]) -> Outcomes:
    spacing = f"{EVIDENCE}log_spacing_mm"
    logs = pair_rows[spacing].to_numpy(dtype=float) if spacing in pair_rows else np.full(len(first), np.nan)
    return read_outcomes(first, {name: column(name) for name in MEASURED}, np.exp(logs))


def _subjects(first: pd.DataFrame) -> np.ndarray:
    """Return fixed and moving subject of each pair (P, 2); those of two domains are never the same person."""
    found = first[["fixed_subject", "moving_subject"]].to_numpy(dtype=str)
    return found if DOMAIN not in first else np.char.add(np.char.add(first[DOMAIN].to_numpy(dtype=str), "/")[:, None], found)


MOST_STRUCTURES = 12
"""Of a pair whose structures have no names: those with the most voxels; each further one says what these say."""


def _own_labels(by_pair: dict[str, pd.DataFrame], features: pd.DataFrame) -> dict[str, tuple[int, ...]]:
    """Return the labels of each pair that have both Dice and a token, largest first."""
    table = features[(features["label"] > 0) & features["pair"].isin(set(by_pair))]
    if "token_log_volume" in table:
        table = table.sort_values("token_log_volume", ascending=False)
    described = {str(pair): rows["label"].astype(int).tolist() for pair, rows in table.groupby("pair", sort=False)}
    found = {}
    for pair, rows in by_pair.items():
        measured = [n for n in described.get(pair, []) if f"dice_{n}" in rows and rows[f"dice_{n}"].notna().any()]
        found[pair] = tuple(measured[:MOST_STRUCTURES])
    return found


def _own_dice(by_pair: dict[str, pd.DataFrame], slots: dict[str, tuple[int, ...]]) -> np.ndarray:
    most = max(len(table) for table in by_pair.values())
    found = np.full((len(slots), max(1, *map(len, slots.values())), most), np.nan)
    for row, (pair, labels) in enumerate(slots.items()):
        for place, label in enumerate(labels):
            found[row, place, : len(by_pair[pair])] = by_pair[pair][f"dice_{label}"].to_numpy(dtype=float)
    return found


def _own_tokens(features: pd.DataFrame, slots: dict[str, tuple[int, ...]], names: tuple[str, ...]) -> np.ndarray:
    found = np.full((len(slots), max(1, *map(len, slots.values())), len(names)), np.nan)
    rows = {(pair, label): n for n, (pair, label) in enumerate(zip(features["pair"], features["label"], strict=True))}
    table = features[[f"token_{name}" for name in names]].to_numpy(dtype=float)
    for row, (pair, labels) in enumerate(slots.items()):
        for place, label in enumerate(labels):
            found[row, place] = table[rows[pair, label]]
    return found


def joined_examples(parts: Sequence[Examples]) -> Examples:
    """Return the pairs of several sets as one set, with what was measured of them; their features, tokens and further
    parameters are left out."""
    first = parts[0]
    joined: dict[str, Any] = {
        name: stacked([getattr(part, name) for part in parts])
        for name in ("subjects", "groups", "values", "dice", "folding_foreground", "folding_grid", "sd_log_jacobian", "hd95")
    }
    outcomes = None
    if first.outcomes is not None:
        known = [part.outcomes for part in parts if part.outcomes is not None]
        outcomes = Outcomes(*(stacked([getattr(one, f.name) for one in known]) for f in fields(Outcomes)))
    return replace(
        first,
        pairs=tuple(pair for part in parts for pair in part.pairs),
        features=np.zeros((len(joined["groups"]), 0)),
        feature_names=(),
        tokens=np.zeros((*joined["dice"].shape[:2], 0)),
        token_names=(),
        outcomes=outcomes,
        further_values=None,
        further=(),
        **joined,
    )


def in_space(examples: Examples, space: SearchSpace) -> Examples:
    """Return pairs as ones whose settings have the parameters of `space`, in its order.

    A parameter that did not vary takes the value that it was kept at. Registrations at another value than the default of one that
    `space` lacks are left out: what was measured there becomes NaN.

    Raises
    ------
    InputError : they were swept with another engine's parameters.
    """
    own = {p.name: examples.settings[..., n] for n, p in enumerate(examples.space)}
    strange = [name for name in space.names if name not in own and name not in examples.held]
    if strange:
        raise InputError(f"These tables know no parameter '{strange[0]}': give some of the engine that the predictor is for.")
    tried = np.isfinite(examples.values)
    for parameter in examples.space:
        if parameter.name not in space.names:
            tried &= np.isclose(own[parameter.name], parameter.default, rtol=SAME_SETTING)
    columns = [np.where(tried, own.get(name, examples.held.get(name, np.nan)), np.nan) for name in space.names]
    measured: dict[str, Any] = {
        name: np.where(tried, getattr(examples, name), np.nan)
        for name in ("folding_foreground", "folding_grid", "sd_log_jacobian", "hd95")
    }
    outcomes = examples.outcomes
    if outcomes is not None:
        outcomes = replace(
            outcomes, **{name: np.where(tried, getattr(outcomes, name), np.nan) for name in ("error", "error_95", "mean_dice")}
        )
    first, *rest = (examples.space[name] if name in own else space[name] for name in space.names)
    return replace(
        examples,
        parameter=first,
        values=columns[0],
        further=tuple(rest),
        further_values=np.stack(columns[1:], axis=-1) if rest else None,
        held={name: value for name, value in examples.held.items() if name not in space.names},
        dice=np.where(tried[:, None], examples.dice, np.nan),
        outcomes=outcomes,
        **measured,
    )


def stacked(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Join arrays of pairs along the first axis, the shorter ones filled up with NaN along all others."""
    shape = np.max([part.shape for part in parts], axis=0)[1:].tolist()
    return np.concatenate([_filled(part, shape) for part in parts])


def _filled(part: np.ndarray, shape: list[int]) -> np.ndarray:
    if list(part.shape[1:]) == shape:
        return part
    return np.pad(part, [(0, 0), *((0, most - n) for most, n in zip(shape, part.shape[1:], strict=True))], constant_values=np.nan)


def _checked_features(features: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Return the rows of pairs that could be described, each once, with numbers in their columns."""
    check_columns(features, ("pair", "label", "features_version", "error"), _FEATURES)
    check_text(features, ("pair", "features_version", "error"), _FEATURES)
    features = with_labels(features[features["error"] == ""], _FEATURES)
    if EVIDENCE_ERROR in features:
        without = set(features.loc[features[EVIDENCE_ERROR].fillna("") != "", "pair"])
        notes += [f"Of {len(without)} pairs no evidence was found: left out."] if without else []
        features = features[~features["pair"].isin(without)]
    numbers = [n for n in features.columns if n.startswith(("pair_", EVIDENCE, "token_")) and n not in EVIDENCE_TEXTS]
    nameless = [name for name in numbers if not name.partition("_")[2].isidentifier()]
    if nameless:
        raise InputError(f"The {_FEATURES} has a column '{nameless[0][:60]}', which names no feature: take it out.")
    features, copies = without_copies(with_numbers(features, numbers, _FEATURES), ("pair", "label"), _FEATURES)
    notes += [copies] if copies else []
    # A pair is what its row for the whole pair says; rows of structures alone are no pair.
    features = features[features["pair"].isin(set(features.loc[features["label"] == 0, "pair"]))]
    described = [name for name in numbers if name.startswith(("pair_", EVIDENCE))]
    empty = [name for name in described if features[name].isna().all()]
    if len(empty) == len(described):
        raise InputError(f"The {_FEATURES} describes no pair: give one that 'hyperpredictreg sweep' wrote.")
    if empty:
        notes.append(f"The {_FEATURES} has no value of {', '.join(name.removeprefix('pair_') for name in empty)}: left out.")
    return features.drop(columns=empty)


def _finished(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of registrations that succeeded."""
    text = ("pair", "fixed_subject", "moving_subject", "engine", "settings_hash", "preset", "error")
    check_columns(runs, text, _RUNS)
    check_text(runs, text, _RUNS)
    return runs[runs["error"] == ""]


def _learned_parameters(engine: str, runs: pd.DataFrame) -> tuple[tuple[Parameter, ...], Setting]:
    """Return the parameters that vary in a sweep, and the defaults that the others of the engine were kept at."""
    space = get_engine(engine).info.search_space
    check_columns(runs, space.names, _RUNS)
    runs = with_numbers(runs, space.names, _RUNS, complete=True)
    varied = [p for p in space if not np.allclose(runs[p.name].to_numpy(), p.default, rtol=SAME_SETTING)] or [space.first]
    learned = {p.name for p in varied}
    return tuple(varied), {name: value for name, value in space.defaults.items() if name not in learned}


def _checked_runs(runs: pd.DataFrame, varied: tuple[Parameter, ...], notes: list[str]) -> pd.DataFrame:
    """Return registrations, each once, with numbers in their columns."""
    names = [p.name for p in varied]
    always = (*names, "folding_foreground", "folding_grid", "sd_log_jacobian")
    check_columns(runs, always, _RUNS)
    runs = with_numbers(runs, always, _RUNS, complete=True)
    measured = [column for column in runs.columns if column.startswith("dice") or column in ("hd95", LABEL_NOISE)]
    runs = with_numbers(runs, measured, _RUNS)
    for parameter in varied:
        outside = runs.loc[~parameter.holds(runs[parameter.name].to_numpy()), parameter.name]
        if len(outside):
            raise InputError(
                f"The column '{parameter.name}' of the {_RUNS} holds {outside.iloc[0]:g}, which the engine cannot have used: "
                f"its range is {parameter.low:g} to {parameter.high:g}."
            )
    runs, copies = without_copies(runs, ("pair", *names), _RUNS)
    notes += [copies] if copies else []
    if runs[names[0]].nunique() < 2:
        raise InputError(f"The sweep tried one {varied[0].symbol} only, which shows no curve: sweep with 2 or more.")
    return runs


def _learned_labels(
    runs: pd.DataFrame, by_pair: dict[str, pd.DataFrame], labels: tuple[int, ...] | None
) -> tuple[int, ...]:
    """Return the labels asked for, or those that enough of the pairs have."""
    import pandas as pd

    columns = {int(c[5:]): c for c in runs.columns if c.startswith("dice_") and c[5:].isascii() and c[5:].isdigit()}
    if labels is not None:
        absent = [label for label in labels if label not in columns or runs[columns[label]].isna().all()]
        if absent:
            raise InputError(f"The sweep measured no Dice of the label {absent[0]}: name labels that its maps have.")
        return tuple(dict.fromkeys(labels))
    shares = pd.DataFrame({label: table[c].notna().any() for label, c in columns.items()} for table in by_pair.values()).mean()
    found = tuple(sorted(label for label in columns if shares[label] >= LEAST_PAIRS_PER_STRUCTURE))
    if not found:
        raise InputError("The sweep measured no Dice: its manifest needs label maps with structures in common.")
    return found


def _tokens(features: pd.DataFrame, pairs: tuple[str, ...], labels: tuple[int, ...], names: tuple[str, ...]) -> np.ndarray:
    found = np.full((len(pairs), len(labels), len(names)), np.nan)
    rows = {pair: n for n, pair in enumerate(pairs)}
    places = {label: n for n, label in enumerate(labels)}
    table = features[features["label"].isin(places) & features["pair"].isin(rows)]
    values = table[[f"token_{name}" for name in names]].to_numpy(dtype=float)
    found[[rows[p] for p in table["pair"]], [places[label] for label in table["label"]]] = values
    return found


def _single(table: pd.DataFrame, column: str) -> str:
    found = sorted(table[column].astype(str).unique())
    if len(found) != 1:
        raise InputError(
            f"The table mixes several values of {column} ({', '.join(found)}), but a predictor predicts one: split the table."
        )
    return str(found[0])


MOST_OVER_LIMIT = 0.1
"""A fixed value may break the folding limit for this share of pairs."""


def dense_grid(examples: Examples, count: int = 200) -> np.ndarray:
    """Return `count` values, even on the parameter's scale between the median pair's outermost ones, least regularized first."""
    weakest, strongest = (np.median(edge(examples.strengths, axis=1)) for edge in (np.nanmin, np.nanmax))
    return examples.parameter.from_strength(np.linspace(weakest, strongest, count))


def trained_range(examples: Examples, parameter: int = 0) -> tuple[float, float]:
    """Return the lowest and highest value of a parameter beyond which fewer than a tenth of the pairs were measured."""
    values = examples.settings[..., parameter]
    low = np.quantile(np.nanmin(values, axis=1), 0.1)
    high = np.quantile(np.nanmax(values, axis=1), 0.9)
    return round(float(low), 4), round(float(high), 4)


def at_values(examples: Examples, measured: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Read measured curves (P, ..., N) at `values` (n,): (P, ..., n), by monotone cubics on the parameter's scale (PCHIP).

    Beyond a pair's outermost values the nearest measurement stands. Curves that were never measured are NaN.
    """
    result = np.full((*measured.shape[:-1], len(values)), np.nan)
    expected = examples.parameter.strength(values)
    for row, own in enumerate(examples.strengths):
        known = ~np.isnan(own)
        x = own[known]
        y = measured[row][..., known]
        whole = ~np.isnan(y).any(axis=-1)
        if len(x) < 2 or not whole.any():
            continue
        result[row][whole] = PchipInterpolator(x, y[whole], axis=-1)(np.clip(expected, x[0], x[-1]))
    return result


def won_by_pair(examples: Examples, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which share of what the affine step left is won at `values` (n,) of the first parameter (P, n), and where it counts.

    Where an error is known its share counts, else that of 1 - Dice. Pairs whose alignment has failed do not count.
    """
    outcomes = examples.outcomes
    if outcomes is None:
        raise InputError("These tables know no domains: give some whose runs table has the columns domain and spacing_mm.")
    by_error = 1 - outcomes.error / np.maximum(outcomes.affine_error, 0.5 * outcomes.voxel_mm)[:, None]
    won = np.where(np.isnan(outcomes.error), outcomes.gain, np.clip(by_error, -1, 1))
    read = at_values(examples, np.where(np.isnan(examples.values), np.nan, won), values)
    return read, (outcomes.failed != 1) & np.isfinite(read).all(axis=1)


def folding_at(examples: Examples, measured: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Read measured folding (P, N) in percent at `values` (n,), shape (P, n); between measurements its logarithm is curved."""
    logs = np.log(np.maximum(measured, LEAST_FOLDING))
    found = np.exp(at_values(examples, logs, values))
    return np.where(found <= LEAST_FOLDING * 1.001, 0.0, found)


def fixed_value(
    examples: Examples,
    values: np.ndarray,
    *,
    limit: float | None = 0.5,
    domain: str = "foreground",
    structures: Sequence[int] | None = None,
) -> float:
    """Return the value that a laboratory would fix: of highest mean Dice, among those that keep the limit in nearly all pairs.

    Parameters
    ----------
    values : candidates, least regularized first, shape (n,).
    limit : folding in percent of `domain`; None is no limit.
    structures : label values that count; default: all.
    """
    rows = range(len(examples.labels)) if structures is None else [examples.labels.index(label) for label in structures]
    dice = np.nanmean(np.nanmean(at_values(examples, examples.dice, values)[:, list(rows)], axis=1), axis=0)
    if limit is None:
        return float(values[np.nanargmax(dice)])
    folding = folding_at(examples, examples.folding_foreground if domain == "foreground" else examples.folding_grid, values)
    allowed = (folding > limit).mean(axis=0) <= MOST_OVER_LIMIT
    if not allowed.any():
        return float(values[-1])
    return float(values[np.nanargmax(np.where(allowed, dice, -np.inf))])
