"""The page on domains that were left out: tables, figures, and what they say in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.files import writing_into
from HyperPredictRegLib.core.progress import CancelCheck, Progress, ProgressEvent, never, silent, stop_if
from HyperPredictRegLib.predictor.bootstrap import DOUBTED
from HyperPredictRegLib.predictor.bundle import Bundle, load_bundle
from HyperPredictRegLib.predictor.predictor import EVIDENCE
from scipy.stats import rankdata

from HyperPredictRegLab.evaluation.domains import (
    AFFINE,
    EXPERT,
    FIXED,
    FIXED_GOAL,
    GOAL,
    HARM_DICE,
    HARM_MM,
    LIMIT,
    MAXIMUM,
    METHODS,
    ORACLE,
    RULE,
    TEST,
    TUNE,
    Judged,
    Told,
    TwoLevels,
    best_columns,
    judged,
    rank_correlation,
    tell,
)
from HyperPredictRegLab.evaluation.evaluating import BLUE, GRAY, GREEN, INK, ORANGE, SOFT, new_figure
from HyperPredictRegLab.evaluation.tables import DRAWS, QUICK_DRAWS, Cell, Estimate, Table
from HyperPredictRegLab.training.building import OUTLOOK_SETTINGS, Description, Trained, build
from HyperPredictRegLab.training.examples import Examples, in_space
from HyperPredictRegLab.training.outlook_widths import known_outcomes

PAGE, FOLDER = "evaluation-any-pair.md", "evaluation-any-pair"

KINDS: Mapping[str, Callable[[str], bool]] = {
    "all evidence, as shipped": lambda name: name.startswith(EVIDENCE),
    "the bootstrap only": lambda name: name.startswith(f"{EVIDENCE}bootstrap"),
    "all evidence but the bootstrap": lambda name: name.startswith(EVIDENCE) and "bootstrap" not in name,
    "no evidence: image features and probes": lambda name: not name.startswith(EVIDENCE),
}
"""What the network is shown, by name, for the ablations."""


@dataclass(frozen=True)
class Study:
    """Everything that the page is made of; P cases, of which `test` counts."""

    bundle: Bundle
    true: Judged
    told: Told
    test: np.ndarray
    levels: TwoLevels


def evaluate_domains(
    train: Examples,
    cases: Examples,
    out: Path,
    *,
    bundle: Path | None = None,
    quick: bool = False,
    progress: Progress = silent,
    cancelled: CancelCheck = never,
) -> dict[str, Table]:
    """Judge a predictor for any pair domain by domain, and write ``evaluation-any-pair.md`` with its figures and tables.

    Parameters
    ----------
    train : the tables that the predictor was, or is, trained on: its domains serve for calibration.
    cases : tables of real pairs with the columns domain and use ("tune" or "test"), see `outcomes`.
    out : folder of the documentation.
    bundle : the predictor; default: one is trained on `train`.
    quick : leave out the ablations, and draw fewer bootstrap samples.

    Raises
    ------
    InputError : the tables know no domains, or do not belong to the bundle.
    Cancelled : the caller asked to stop; nothing was written.
    """
    if not (known_outcomes(cases).uses == TEST).any():
        raise InputError("No case is marked for test: the column 'use' of the runs table must say 'tune' or 'test'.")
    progress(ProgressEvent("evaluate", 0.0, "training" if bundle is None else "reading the predictor", None))
    loaded, trained = _trained(train, bundle, cancelled)
    progress(ProgressEvent("evaluate", 0.3, "predicting the cases", None))
    study = study_of(loaded, trained, train, cases, QUICK_DRAWS if quick else DRAWS)
    tables = [choosing_table(study), domain_table(study), error_table(study), chance_table(study), coverage_table(study)]
    if not quick:
        tables.append(ablation_table(train, cases, progress, cancelled))
    figures = {name: draw(study) for name, draw in FIGURES.items()}
    stop_if(cancelled)
    with writing_into(out, "files", ""):
        folder = out / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        for table in tables:
            (folder / f"{table.name}.csv").write_text(table.csv(), encoding="utf-8")
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png", dpi=110)
        (out / PAGE).write_text(_page(study, tables), encoding="utf-8")
    return {table.name: table for table in tables}


def study_of(bundle: Bundle, trained: Trained, train: Examples, cases: Examples, draws: int = QUICK_DRAWS) -> Study:
    """Predict all cases, each by who knows nothing of its domain."""
    true = judged(in_space(cases, bundle.card.space))
    test = true.outcomes.uses == TEST
    levels = TwoLevels.of(true.outcomes.domains[test], cases.subjects[test, 0], draws)
    return Study(bundle, true, tell(bundle, trained, train, true), test, levels)


def _trained(train: Examples, folder: Path | None, cancelled: CancelCheck) -> tuple[Bundle, Trained]:
    if folder is None:
        with TemporaryDirectory() as made:
            build(train, Path(made), Description(name="under test"), cancelled=cancelled)
            return _trained(train, Path(made), cancelled)
    bundle = load_bundle(folder)
    if set(bundle.card.subjects) != set(train.subjects.ravel().tolist()):
        raise InputError(f"The predictor '{bundle.card.name}' was not trained on these tables: give those of its own training.")
    count = 1 + max(bundle.card.subjects.values())
    replicas = bundle.ensemble.network.settings.members // count
    return bundle, Trained(bundle.ensemble, dict(bundle.card.subjects), np.repeat(np.arange(count), replicas))


def regrets(study: Study) -> dict[str, np.ndarray]:
    """Return by method how much less than the oracle each test case wins, NaN for starts that failed on purpose, shape (P,)."""
    true = study.true
    best = true.won(best_columns(true))
    found = {name: best - true.won(column) for name, column in study.told.columns.items()}
    return {name: np.where(true.spoiled, np.nan, part)[study.test] for name, part in found.items()}


RIVALS = (FIXED, FIXED_GOAL, EXPERT)
"""Whose regret is taken off that of each way of choosing."""


def choosing_table(study: Study) -> Table:
    """Return how much each way of choosing loses against the oracle, wins over the affine step, and harms."""
    lost, counted = regrets(study), ~study.true.spoiled[study.test]
    rows: list[tuple[Cell, ...]] = []
    for name in METHODS:
        column = study.told.columns[name]
        won = np.where(counted, study.true.won(column)[study.test], np.nan)
        harmed = np.where(counted, study.true.lost(column)[study.test], np.nan).astype(float)
        against = (study.levels.mean(lost[name] - lost[other]) if name != other else Estimate(0.0) for other in RIVALS)
        rows.append((name, study.levels.mean(lost[name]), *against, study.levels.mean(won), 100 * float(np.nanmean(harmed))))
    best = np.where(counted, study.true.won(best_columns(study.true))[study.test], np.nan)
    against = (study.levels.mean(-lost[other]) for other in RIVALS)
    rows.append((ORACLE, Estimate(0.0), *against, study.levels.mean(best), 0.0))
    note = (
        f"Of {int(counted.sum())} test cases of {len(np.unique(study.true.outcomes.domains[study.test]))} domains, which weigh "
        "the same. Won is the share of what the affine step left, of 1 - Dice or of the error in mm, that the finished "
        "registration takes away; regret is what the best setting would have won more. Finished: λ is raised until at most "
        f"{LIMIT:g} % of the foreground folds, so the limit is kept by all. Fixed λ and expert are tuned on the tuning cases, "
        "the one of all other domains, the other of the same domain; fixed λ per goal, on those of all other domains that are "
        "measured in the same, Dice or mm. The goal as measured is what a user says who knows which of the two matters: overlap "
        f"of structures or accuracy in mm. Worse than affine: by more than {HARM_DICE:g} of Dice or {HARM_MM:g} mm. "
        "Intervals: 95 %, bootstrap over domains and over subjects in them."
    )
    columns = (
        "way of choosing", "regret", "less that of one fixed λ", "less that of one per goal", "less the expert's", "won",
        "worse than affine, % of cases",
    )  # fmt: skip
    return Table("choosing", "What choosing is worth", columns, tuple(rows), note)


def domain_table(study: Study) -> Table:
    """Return the regret of each way of choosing by domain."""
    lost, domains = regrets(study), study.true.outcomes.domains[study.test]
    shown = [name for name in METHODS if name != AFFINE]
    rows: list[tuple[Cell, ...]] = []
    for domain in np.unique(domains).tolist():
        mine = (domains == domain) & ~study.true.spoiled[study.test]
        if mine.any():
            unit = "mm" if study.true.in_mm[study.test][mine].all() else "Dice"
            rows.append((domain, int(mine.sum()), unit, *(float(np.nanmean(lost[name][mine])) for name in shown)))
    columns = ("domain", "cases", "measured in", *shown)
    return Table("domains", "Regret by domain", columns, tuple(rows), "Share of what the affine step left.")


def _errors(study: Study) -> dict[str, np.ndarray]:
    """Return true and predicted errors in mm of the test cases, at the setting of `MAXIMUM` and of the affine step."""
    true, rows = study.true, np.flatnonzero(study.test)
    column = np.maximum(study.told.columns[MAXIMUM], 0)
    ranks = np.argsort(np.argsort(true.values))
    at = {
        part: np.array([getattr(s.error_mm, part)[ranks[c]] for s, c in zip(study.told.surfaces, column, strict=True)])
        for part in ("value", "lower", "upper")
    }
    real = np.where(true.in_mm, true.raw[np.arange(len(column)), column], np.nan)
    affine = [outlook.affine_error_mm for outlook in study.told.outlooks]
    found = {
        "true": real, "told": at["value"], "lower": at["lower"], "upper": at["upper"],
        "rule": np.array([rule.error[c] for rule, c in zip(study.told.rules, column, strict=True)]),
        "affine": np.where(true.in_mm, true.affine, np.nan),
        "affine told": np.array([band.value if band else np.nan for band in affine]),
        "voxel": true.outcomes.voxel_mm,
    }  # fmt: skip
    return {name: part[rows] for name, part in found.items()}


def error_table(study: Study) -> Table:
    """Return how well the error in mm is told before anything is registered."""
    e = _errors(study)
    rows: list[tuple[Cell, ...]] = []
    for what, told, true in (
        ("error of the finished registration, network", e["told"], e["true"]),
        ("the same, bootstrap rule", e["rule"], e["true"]),
        ("error of the affine step, network", e["affine told"], e["affine"]),
    ):
        known = np.isfinite(told) & np.isfinite(true)
        in_voxels = told / e["voxel"], true / e["voxel"]
        by_weight = [
            study.levels.statistic(partial(rank_correlation, one, other), known) for one, other in ((told, true), in_voxels)
        ]
        factor = np.exp(np.abs(np.log(np.maximum(told, 1e-3) / np.maximum(true, 1e-3))))
        rows.append((what, int(known.sum()), *by_weight, float(np.median(factor[known])) if known.any() else float("nan")))
    columns = ("what", "cases", "rank correlation, mm", "rank correlation, voxels", "off by a factor of (median)")
    note = (
        "Cases with a known warp or landmarks, at the λ that the network chooses. A mouse is small and a man is large, so mm "
        "alone make a correlation; that in voxels of the working grid does not."
    )
    return Table("errors", "How far off the result will be", columns, tuple(rows), note)


def chance_table(study: Study) -> Table:
    """Return how well failed alignments and pairs that deforming does not help are told."""
    outcomes, told = study.true.outcomes, study.told
    failed = np.array([outlook.failed for outlook in told.outlooks])
    helps = np.array([outlook.helps for outlook in told.outlooks])
    by_rule = np.array([rule.failed for rule in told.rules])
    limits = told.failed_limits
    rows: list[tuple[Cell, ...]] = []
    for what, chance, truth, limit, among in (
        ("the alignment has failed", failed, outcomes.failed, limits, np.isfinite(outcomes.failed)),
        ("the same, bootstrap rule", by_rule, outcomes.failed, np.full(len(helps), DOUBTED), np.isfinite(outcomes.failed)),
        ("either of the two, as the product says", np.maximum(failed / limits, by_rule / DOUBTED), outcomes.failed,
         np.ones(len(helps)), np.isfinite(outcomes.failed)),
        ("deforming does not help", 1 - helps, 1 - outcomes.helps, np.full(len(helps), 0.5), ~study.true.spoiled),
    ):
        mine = study.test & np.isfinite(truth) & among
        yes, no = mine & (truth == 1), mine & (truth == 0)
        above = chance >= limit
        rates = [float(found.mean()) if found.size else float("nan") for found in (above[yes], ~above[no])]
        of_chances = mine.any() and chance.max() <= 1
        brier = float(np.mean((chance[mine] - truth[mine]) ** 2)) if of_chances else float("nan")
        rows.append((what, int(yes.sum()), int(no.sum()), *rates, area(chance[yes], chance[no]), brier))
    columns = ("what", "true in", "false in", "sensitivity", "specificity", "area under the ROC curve", "Brier score")
    note = "At the limit that was calibrated without the case's domain; failed: over two voxels off in a way that is global."
    return Table("chances", "Failed alignments, and whether deforming helps", columns, tuple(rows), note)


def area(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the chance that a positive scores higher than a negative, the area under the ROC curve."""
    if not len(positive) or not len(negative):
        return float("nan")
    ranks = rankdata(np.concatenate([positive, negative]))
    return float((ranks[: len(positive)].sum() - len(positive) * (len(positive) + 1) / 2) / (len(positive) * len(negative)))


def coverage(study: Study) -> dict[str, np.ndarray]:
    """Return by quantity which share of each test case's measured values lies in its band, NaN where none is known, (P,)."""
    outcomes, examples = study.true.outcomes, study.true.examples
    measured = {
        "error_mm": outcomes.error, "error_95_mm": outcomes.error_95, "folding_foreground": examples.folding_foreground,
        "sd_log_jacobian": examples.sd_log_jacobian, "overlap_gain": outcomes.gain,
    }  # fmt: skip
    found = {name: np.full(len(study.test), np.nan) for name in measured}
    for row, surface in enumerate(study.told.at_measured):
        seen = np.isfinite(examples.values[row])
        for name, values in measured.items():
            true, band = values[row][seen], surface.bands[name]
            if np.isfinite(true).all():
                found[name][row] = float(np.mean((true >= band.lower - 1e-6) & (true <= band.upper + 1e-6)))
    for row, outlook in enumerate(study.told.outlooks):
        band_of, true_affine = outlook.affine_error_mm, outcomes.affine_error[row]
        if band_of is not None and np.isfinite(true_affine):
            found.setdefault("affine_error_mm", np.full(len(study.test), np.nan))[row] = float(
                band_of.lower <= true_affine <= band_of.upper
            )
    return {name: part[study.test] for name, part in found.items()}


def coverage_table(study: Study) -> Table:
    """Return how many measured values lie in the 90 % bands of who knows nothing of their domain."""
    rows: list[tuple[Cell, ...]] = []
    domains = study.true.outcomes.domains[study.test]
    for name, part in coverage(study).items():
        of_domains = [part[domains == domain] for domain in np.unique(domains)]
        by_domain = [100 * float(np.nanmean(one)) for one in of_domains if np.isfinite(one).any()]
        if by_domain:
            estimate = study.levels.mean(100 * part)
            rows.append((name.replace("_", " "), len(by_domain), estimate, min(by_domain), max(by_domain)))
    columns = ("band", "domains", "in the band, % (over domains)", "least of a domain", "most of a domain")
    return Table("coverage", "Bands of 90 % on domains left out", columns, tuple(rows), "At all settings that were measured.")


def ablation_table(train: Examples, cases: Examples, progress: Progress, cancelled: CancelCheck) -> Table:
    """Return what the network is worth with less to go by, each trained anew by one member per domain."""
    rows: list[tuple[Cell, ...]] = []
    with TemporaryDirectory() as made:
        for number, (name, keeps) in enumerate(KINDS.items()):
            progress(ProgressEvent("evaluate", 0.5 + 0.1 * number, f"ablation: {name}", None))
            columns = [n for n, feature in enumerate(train.feature_names) if keeps(feature) or feature in _ALWAYS]
            some = _with_features(train, columns)
            build(some, Path(made), Description(name="ablation"), OUTLOOK_SETTINGS, cancelled=cancelled)
            bundle = load_bundle(made)
            study = study_of(bundle, _trained(some, Path(made), cancelled)[1], some, cases)
            chances = chance_table(study).rows
            errors = error_table(study).rows[0]
            rows.append((name, study.levels.mean(regrets(study)[MAXIMUM]), errors[2], errors[3], chances[0][5], chances[-1][5]))
    columns_shown = (
        "what the network sees", "regret, maximum", "rank correlation of errors, mm", "in voxels", "failed: area",
        "does not help: area",
    )  # fmt: skip
    return Table("ablations", "Which evidence carries", columns_shown, tuple(rows), "Trained anew with each.")


_ALWAYS = (f"{EVIDENCE}log_spacing_mm", "log_voxel_mm")
"""Units, from which nothing is learned."""


def _with_features(examples: Examples, columns: Sequence[int]) -> Examples:
    names = tuple(examples.feature_names[n] for n in columns)
    return replace(examples, features=examples.features[:, list(columns)], feature_names=names)


def choosing_figure(study: Study) -> Any:
    """Draw the regret of each way of choosing, by domain and over all."""
    lost, domains = regrets(study), study.true.outcomes.domains[study.test]
    names = [d for d in np.unique(domains).tolist() if np.isfinite(lost[FIXED][domains == d]).any()]
    shown = {FIXED: ORANGE, FIXED_GOAL: GRAY, EXPERT: GREEN, RULE: SOFT, MAXIMUM: BLUE, GOAL: INK}
    figure, axes = new_figure(8, 1.6 + 0.36 * len(names), 1, 1)
    axis = axes[0, 0]
    for shift, (method, color) in enumerate(shown.items()):
        at = np.arange(len(names) + 1) + 0.13 * (shift - 2.5)
        means = [float(np.nanmean(lost[method][domains == d])) for d in names]
        axis.plot([*means, study.levels.mean(lost[method]).value], at, "o", color=color, ms=5, label=method)
        whole = study.levels.mean(lost[method])
        axis.plot([whole.lower, whole.upper], [at[-1]] * 2, color=color, lw=1.5)
    axis.set_yticks(range(len(names) + 1), [*names, "all domains"], fontsize=8)
    axis.axhline(len(names) - 0.5, color=GRAY, lw=0.8)
    axis.invert_yaxis()
    axis.set_xlabel("regret: share of what the affine step left that the best λ would have won more", fontsize=9)
    axis.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=4)
    return figure


def curves_figure(study: Study) -> Any:
    """Draw by domain what each case's registration wins over the first parameter, where the network chooses and what is best."""
    true, rows = study.true, np.flatnonzero(study.test & ~study.true.spoiled)
    best, ours = best_columns(true), study.told.columns[MAXIMUM]
    first = true.examples.space.first
    ticks = first.from_unit(np.linspace(0, 1, 4))
    domains = np.unique(true.outcomes.domains[rows]).tolist()
    figure, axes = new_figure(9, 2.0 * -(-len(domains) // 4) + 0.5, -(-len(domains) // 4), 4, sharex=True)
    for axis, domain in zip(axes.ravel(), domains, strict=False):
        for row in rows[true.outcomes.domains[rows] == domain]:
            axis.plot(true.values, true.quality[row], color=GRAY, lw=1)
            for columns, mark, color in ((best, "o", GREEN), (ours, "x", BLUE)):
                if columns[row] >= 0:
                    axis.plot(true.values[columns[row]], true.quality[row, columns[row]], mark, color=color, ms=5, mfc="none")
        axis.axhline(0, color=SOFT, lw=0.8, zorder=0)
        axis.set_xscale(first.scale)
        axis.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
        axis.set_xticks((), minor=True)
        axis.set_title(domain, fontsize=9, loc="left", weight="bold")
    for axis in axes.ravel()[len(domains) :]:
        axis.set_visible(False)
    figure.supxlabel(f"{first.symbol}: o is best, x the network's choice", fontsize=9)
    figure.supylabel("won: share of what the affine step left", fontsize=9)
    return figure


def error_figure(study: Study) -> Any:
    """Draw predicted against true errors in mm, with their bands, by domain."""
    e, domains = _errors(study), study.true.outcomes.domains[study.test]
    known = np.isfinite(e["true"])
    figure, axes = new_figure(8, 4.2, 1, 2)
    for axis, told, true, title in (
        (axes[0, 0], "told", "true", "finished registration, at the chosen λ"),
        (axes[0, 1], "affine told", "affine", "affine step"),
    ):  # fmt: skip
        for number, domain in enumerate(np.unique(domains[known]).tolist()):
            mine = known & (domains == domain)
            color = (BLUE, ORANGE, GREEN, INK, SOFT)[number % 5]
            if told == "told":
                axis.vlines(e[true][mine], e["lower"][mine], e["upper"][mine], color=color, alpha=0.35, lw=1)
            axis.plot(e[true][mine], e[told][mine], "o", color=color, ms=4, label=domain)
        if known.any():
            ends = [np.nanmin([e[true][known], e[told][known]]) / 1.5, np.nanmax([e[true][known], e[told][known]]) * 1.5]
            axis.plot(ends, ends, color=GRAY, lw=1, zorder=0)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("true error, mm", fontsize=9)
        axis.set_ylabel("told before, mm", fontsize=9)
        axis.set_title(title, fontsize=10, loc="left", weight="bold")
    axes[0, 0].legend(fontsize=7, frameon=False, loc="lower right")
    return figure


def chance_figure(study: Study) -> Any:
    """Draw the chances that were told where the truth is known."""
    outcomes = study.true.outcomes
    figure, axes = new_figure(8, 2.6, 1, 2)
    for axis, chance, truth, words in (
        (axes[0, 0], [o.failed for o in study.told.outlooks], outcomes.failed, ("aligned", "failed")),
        (axes[0, 1], [o.helps for o in study.told.outlooks], outcomes.helps, ("does not help", "helps")),
    ):
        for value, color in enumerate((BLUE, ORANGE)):
            # Whether deforming can make up for a start that was spoiled is not asked.
            mine = study.test & (truth == value) & ~(study.true.spoiled & (words[1] == "helps"))
            height = np.random.default_rng(1).uniform(-0.25, 0.25, int(mine.sum()))
            axis.plot(np.array(chance)[mine], value + height, "o", ms=4, color=color, alpha=0.7)
        axis.set_yticks((0, 1), words, fontsize=9)
        axis.set_ylim(-0.5, 1.5)
        axis.set_xlim(-0.02, 1.02)
        axis.set_xlabel(f"chance told that it {'has failed' if words[0] == 'aligned' else 'helps'}", fontsize=9)
    return figure


FIGURES: Mapping[str, Callable[[Study], Any]] = {
    "choosing": choosing_figure, "curves": curves_figure, "errors": error_figure, "chances": chance_figure
}  # fmt: skip


def _page(study: Study, tables: Sequence[Table]) -> str:
    card, outcomes = study.bundle.card, study.true.outcomes
    tuned = int((outcomes.uses == TUNE).sum())
    kinds = len({who.split("/")[0] for who in card.subjects})
    parts = [
        "# Any pair: what the predictor is worth on kinds of images that it has never seen",
        "Written by `hyperpredictreg evaluate-domains`; no figure on this page was typed.",
        f"**Predictor** `{card.name}` {card.version}: engine `{card.engine}` {card.engine_version}, trained on {card.pairs} "
        f"synthesized pairs of {kinds} kinds ({card.registrations} registrations), on nothing real. "
        f"{card.training_data}",
        f"**Cases**: {int(study.test.sum())} for test, {tuned} for tuning, of {len(np.unique(outcomes.domains))} domains; no "
        "person, animal or state is in both. For each domain, bands, limits and the fixed λ come from synthesized pairs and the "
        "tuning cases of all *other* domains.",
        *(table.markdown() for table in tables),
        "## Figures",
        *(f"![{name}]({FOLDER}/{name}.png)" for name in FIGURES),
    ]
    return "\n\n".join(parts) + "\n"
