"""The evaluation as a whole: options, figures, tables and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.files import writing_into
from HyperPredictRegLib.core.progress import CancelCheck, Progress, ProgressEvent, never, silent, stop_if
from HyperPredictRegLib.core.search_space import Parameter
from HyperPredictRegLib.results.job import Criterion
from HyperPredictRegLib.results.prediction import Band

from HyperPredictRegLab.evaluation.decisions import (
    B1,
    B2,
    B7,
    B8,
    B9,
    MAXIMUM,
    OURS,
    Conditions,
    PairSet,
    external_set,
    held_out_set,
    without_people,
)
from HyperPredictRegLab.evaluation.judging import (
    EQUAL_DICE,
    EQUAL_FOLDING,
    Features,
    agreement,
    agreement_table,
    at_choice,
    calibration_table,
    counts_table,
    decision_table,
    dice_table,
    folding_table,
    group_table,
    reliability_table,
    results,
    structure_table,
)
from HyperPredictRegLab.evaluation.measured import Measured, common_grid, quiet_mean
from HyperPredictRegLab.evaluation.methods import OurMethod
from HyperPredictRegLab.evaluation.tables import DRAWS, QUICK_DRAWS, Table, counts
from HyperPredictRegLab.evaluation.targets import AblationInput, ablation_table, latency_table, targets_table
from HyperPredictRegLab.training.examples import Examples

INK, SOFT, BLUE, ORANGE, GREEN, GRAY = "#1d2733", "#8a94a0", "#2f6db3", "#d9822b", "#3a9464", "#c9d0d8"
EXAMPLES = 6


def new_figure(width: float, height: float, rows: int, columns: int, **options: Any) -> tuple[Any, np.ndarray]:
    """Return a figure of this module's style, in inches, and its axes as an array (rows, columns)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for axis in axes.ravel():
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8, colors=INK)
    return figure, axes


def agreement_figure(found: PairSet) -> Any:
    """Draw predicted against measured values at λ*, and their differences over their mean (Figures 3 and 4)."""
    figure, axes = new_figure(8, 6.4, 2, 2)
    every = at_choice(found, found.predicted[OURS])
    for column, what in enumerate(("mean Dice", "folding, % of foreground")):
        told, true = every[what]
        top, low = axes[:, column]
        ends = [np.nanmin([told, true]), np.nanmax([told, true])]
        top.plot(ends, ends, color=SOFT, lw=1)
        top.scatter(true, told, s=10, color=BLUE, alpha=0.6, lw=0)
        top.set_xlabel("measured", fontsize=9)
        top.set_ylabel("predicted", fontsize=9)
        top.set_title(what, fontsize=10, loc="left", weight="bold")
        a = agreement(found, told, true)
        low.scatter((told + true) / 2, told - true, s=10, color=BLUE, alpha=0.6, lw=0)
        for value, style in ((a.bias.value, "-"), (a.lower, "--"), (a.upper, "--")):
            low.axhline(value, color=ORANGE, lw=1.2, ls=style)
            if np.isfinite(value):
                low.annotate(f"{value:.3g}", (1, value), xycoords=("axes fraction", "data"), fontsize=7, ha="right", va="bottom")
        low.set_xlabel("mean of both", fontsize=9)
        low.set_ylabel("predicted − measured", fontsize=9)
    return figure


def counts_figure(found: PairSet, conditions: Conditions) -> Any:
    """Draw how many pairs are better, equal and worse than with the rivals (Figure 5)."""
    figure, axes = new_figure(8, 2.9, 1, 2, sharey=True)
    rivals = (B1, B2, B7)
    methods = ((OURS, "ours"), (MAXIMUM, "rule maximum"))
    names = [f"{name} / {rival.split()[0]}" for rival in rivals for _, name in methods]
    for axis, title, equal, better in zip(axes[0], ("Dice", "folding"), (EQUAL_DICE, EQUAL_FOLDING), (True, False), strict=True):
        for place, (rival, method) in enumerate((rival, method) for rival in rivals for method, _ in methods):
            own, other = (results(found, conditions, m).final for m in (method, rival))
            difference = own.dice - other.dice if better else own.folding - other.folding
            left = 0
            for number, color in zip(counts(difference, equal, better), (GREEN, GRAY, ORANGE), strict=True):
                axis.barh(place, number, left=left, color=color, height=0.7)
                if number:
                    axis.text(left + number / 2, place, str(number), ha="center", va="center", fontsize=7, color=INK)
                left += number
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.set_title(f"{title}: better, equal, worse", fontsize=10, loc="left", weight="bold")
        axis.set_xlabel("pairs", fontsize=9)
    axes[0, 0].invert_yaxis()
    return figure


def choice_figure(found: PairSet) -> Any:
    """Draw which λ are chosen, for all structures together and for each alone (Figure 7)."""
    m = found.measured
    figure, axes = new_figure(8, 2.2 + 0.19 * len(m.names), 2, 1, height_ratios=(1.6, 0.19 * len(m.names) + 0.6), sharex=True)
    top, low = axes[:, 0]
    ends = m.parameter.strength(np.array([m.values[0], m.wide[-1]]))
    bins = np.sort(m.parameter.from_strength(np.linspace(ends[0], ends[1], 36)))
    for method, color in ((B8, GRAY), (OURS, BLUE)):
        kind = "stepfilled" if method == B8 else "step"
        top.hist(found.choosing.overall[method].final, bins=bins, color=color, histtype=kind, lw=1.6, label=method)
    top.axvline(found.choosing.overall[B1].first.mean(), color=ORANGE, lw=1.5, label=B1)
    top.axvline(m.values[-1], color=SOFT, lw=0.8, ls=":")
    top.legend(fontsize=8, frameon=False)
    top.set_ylabel("pairs", fontsize=9)
    top.set_title("λ* for the mean of all structures", fontsize=10, loc="left", weight="bold")
    for row in range(len(m.names)):
        for method, color, shift in ((B8, SOFT, -0.2), (OURS, BLUE, 0.2)):
            chosen = found.choosing.structures[method][row].first
            quartiles = np.quantile(chosen, (0.05, 0.25, 0.5, 0.75, 0.95))
            low.plot(quartiles[[0, 4]], [row + shift] * 2, color=color, lw=0.8)
            low.plot(quartiles[[1, 3]], [row + shift] * 2, color=color, lw=3.2, solid_capstyle="butt")
            low.plot(quartiles[2], row + shift, "o", color=INK, ms=2.2)
        low.plot(found.choosing.structures[B9][row].first.mean(), row, "|", color=ORANGE, ms=9, mew=1.8)
    low.set_yticks(range(len(m.names)), m.names, fontsize=7)
    low.set_ylim(len(m.names) - 0.4, -0.6)
    low.set_title("λ* for each structure: oracle (gray), ours (blue), B9 (orange)", fontsize=10, loc="left", weight="bold")
    _value_axis(low, m.parameter, m.values[0], m.wide[-1])
    return figure


def example_rows(found: PairSet, conditions: Conditions) -> list[int]:
    """Return pairs from the least to the greatest regret, evenly spaced: neither the best nor the worst alone."""
    order = np.argsort(results(found, conditions, OURS).regret, kind="stable")
    places = np.linspace(0, len(order) - 1, min(EXAMPLES, len(order))).round().astype(int)
    return list(dict.fromkeys(order[places].tolist()))


def examples_figure(found: PairSet, conditions: Conditions) -> Any:
    """Draw predicted curves with their bands and the measured points of example pairs."""
    m, told = found.measured, found.predicted[OURS]
    rows = example_rows(found, conditions)
    figure, axes = new_figure(max(1.75 * len(rows), 4), 4.6, 2, len(rows), sharex=True)
    regret, chosen = results(found, conditions, OURS).regret, found.choosing.overall[OURS]
    for column, row in enumerate(rows):
        top, low = axes[:, column]
        e = m.examples
        points = quiet_mean(e.dice[row][m.counted], axis=0)
        _band(top, m.values, told.mean[row])
        top.plot(e.values[row], points, "o", color=ORANGE, ms=3.2)
        folding = e.folding_foreground if conditions.criterion.domain == "foreground" else e.folding_grid
        floor = 1e-3
        band = told.folding(conditions.criterion.domain)[row]
        _band(low, m.values, Band(*(np.maximum(part, floor) for part in (band.value, band.lower, band.upper))))
        low.plot(e.values[row], np.maximum(folding[row], floor), "o", color=ORANGE, ms=3.2)
        low.set_yscale("log")
        if conditions.criterion.folding_limit is not None:
            low.axhline(conditions.criterion.folding_limit, color=INK, lw=0.8, ls="--")
        for axis in (top, low):
            axis.axvline(chosen.final[row], color=GREEN, lw=1)
        top.set_title(f"{e.pairs[row]}\n{told.reliabilities[row]}, regret {regret[row]:.4f}", fontsize=7.5, loc="left")
        _value_axis(low, m.parameter, m.values[0], m.values[-1])
    axes[0, 0].set_ylabel("mean Dice", fontsize=9)
    axes[1, 0].set_ylabel(f"folding, % of {conditions.criterion.domain}", fontsize=9)
    return figure


def structures_figure(found: PairSet) -> Any:
    """Draw each structure's measured Dice over λ, with the fixed λ and the choices for it (Figure 8)."""
    m = found.measured
    columns = 6
    lines = int(np.ceil(len(m.names) / columns))
    figure, axes = new_figure(10, 0.4 + 1.35 * lines, lines, columns, sharex=True)
    for axis in axes.ravel()[len(m.names) :]:
        axis.set_axis_off()
    x, told = m.values, found.predicted[OURS].dice.value
    for row, axis in zip(range(len(m.names)), axes.ravel(), strict=False):
        dice = m.dice[:, row][:, m.choice]
        if not np.isfinite(dice).any():
            axis.set_axis_off()
            continue
        middle = np.nanquantile(dice, (0.25, 0.5, 0.75), axis=0)
        axis.fill_between(x, middle[0], middle[2], color=ORANGE, alpha=0.2, lw=0)
        axis.plot(x, middle[1], color=ORANGE, lw=1.4)
        if np.isfinite(told[:, row]).any():
            axis.plot(x, np.nanmedian(told[:, row], axis=0), color=BLUE, lw=1.2)
        axis.axvline(found.choosing.overall[B1].first.mean(), color=INK, lw=0.9, ls="--")
        axis.axvline(np.median(found.choosing.structures[OURS][row].first), color=GREEN, lw=1.2)
        axis.set_title(m.names[row], fontsize=7, loc="left")
        axis.tick_params(labelsize=6)
        _value_axis(axis, m.parameter, x[0], x[-1], size=6, titled=False)
    return figure


def regret_figure(found: PairSet, conditions: Conditions) -> Any:
    """Draw every method's regret with its interval, and how often it breaks the limit in the end."""
    methods = [method for method in found.choosing.overall if not method.startswith("B8")]
    figure, axes = new_figure(8, 0.9 + 0.27 * len(methods), 1, 2, sharey=True, width_ratios=(2, 1))
    for place, method in enumerate(methods):
        own = results(found, conditions, method)
        estimate = found.resampling.mean(own.regret)
        color = BLUE if method.startswith(OURS) else SOFT
        axes[0, 0].plot(estimate.value, place, "o", color=color, ms=5)
        axes[0, 0].plot([estimate.lower, estimate.upper], [place, place], color=color, lw=1.5)
        axes[0, 1].barh(place - 0.18, 100 * own.first.over.mean(), height=0.34, color=GRAY)
        axes[0, 1].barh(place + 0.18, 100 * own.final.over.mean(), height=0.34, color=ORANGE)
    axes[0, 0].axvline(0, color=INK, lw=0.8)
    axes[0, 0].set_yticks(range(len(methods)), methods, fontsize=8)
    axes[0, 0].invert_yaxis()
    axes[0, 0].set_title("Dice lost against the oracle", fontsize=10, loc="left", weight="bold")
    axes[0, 1].set_title("over the limit, %", fontsize=10, loc="left", weight="bold")
    return figure


def figures_of(found: PairSet, conditions: Conditions, prefix: str) -> dict[str, tuple[str, Any]]:
    """Return all figures of a set by file name, with captions."""
    name = found.measured.name
    return {
        f"{prefix}-agreement": (f"{name}: predicted and measured values at λ*, and their differences.", agreement_figure(found)),
        f"{prefix}-regret": (
            f"{name}: regret of every method with its interval, and the share of pairs over the limit, at first (gray) and in "
            "the end (orange).",
            regret_figure(found, conditions),
        ),
        f"{prefix}-counts": (
            f"{name}: pairs with better, equal and worse results than the fixed λ (B1), the fixed λ with the loop (B2) and "
            "bisection by measuring (B7).",
            counts_figure(found, conditions),
        ),
        f"{prefix}-choices": (f"{name}: the λ that are chosen.", choice_figure(found)),
        f"{prefix}-examples": (
            f"{name}: predicted curves with 90 % bands (blue) and what was measured (orange); green: the final λ. Folding at "
            "the foot of its axis is none. The pairs are spread evenly from the least to the greatest regret.",
            examples_figure(found, conditions),
        ),
        f"{prefix}-structures": (
            f"{name}: measured Dice of each structure (orange, median and quartiles), predicted (blue), the fixed λ for the mean "
            "(dashed) and the median λ chosen for the structure (green).",
            structures_figure(found),
        ),
    }


def all_figures(sets: Sequence[PairSet], conditions: Conditions) -> dict[str, tuple[str, Any]]:
    """Return the figures of several sets."""
    found: dict[str, tuple[str, Any]] = {}
    for one in sets:
        prefix = "".join(c if c.isalnum() else "-" for c in one.measured.name.lower()).strip("-")
        found |= figures_of(one, conditions, prefix)
    return found


def _band(axis: Any, x: np.ndarray, band: Band) -> None:
    axis.fill_between(x, band.lower, band.upper, color=BLUE, alpha=0.18, lw=0)
    axis.plot(x, band.value, color=BLUE, lw=1.4)


def _value_axis(axis: Any, parameter: Parameter, first: float, last: float, size: int = 8, titled: bool = True) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    if parameter.scale == "log":
        low, high = sorted((first, last))
        ticks = [t for t in (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50) if low <= t <= high]
        axis.set_xscale("log")
        axis.set_xticks(ticks[:: max(1, len(ticks) // 3)])
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlim(first, last)
    axis.tick_params(labelsize=size)
    if titled:
        axis.set_xlabel(parameter.symbol, fontsize=9)


PAGE, FOLDER = "evaluation.md", "evaluation"
DPI = 110


def write_report(out: Path, introduction: str, tables: Sequence[Table], figures: Mapping[str, tuple[str, Any]]) -> None:
    """Write ``evaluation.md`` and beside it a folder with a CSV per table and a PNG per figure.

    Parameters
    ----------
    out : folder of the documentation; made if it does not exist.
    introduction : Markdown under the page's title.
    figures : by file name, the caption and the matplotlib figure.

    Raises
    ------
    InputError : the disk is full, or the folder cannot be written to.
    """
    folder = out / FOLDER
    first, *others = tables
    shown = [f"![{caption}]({FOLDER}/{name}.png)\n\n*{caption}*" for name, (caption, _) in figures.items()]
    links = "Tables as CSV: " + ", ".join(f"[{t.name}]({FOLDER}/{t.name}.csv)" for t in tables) + "."
    parts = ["# Evaluation of the predictor", introduction, first.markdown(), "## Figures", *shown]
    parts += [table.markdown() for table in others] + ["## Files", links]
    with writing_into(out, "files", ""):
        folder.mkdir(parents=True, exist_ok=True)
        for table in tables:
            (folder / f"{table.name}.csv").write_text(table.csv(), encoding="utf-8")
        for name, (_, figure) in figures.items():
            figure.savefig(folder / f"{name}.png", dpi=DPI, metadata={"Software": None})
        (out / PAGE).write_text("\n\n".join(parts) + "\n", encoding="utf-8")


HELD_OUT = "held-out maps"

TUNING_PEOPLE = ("1000", "1001", "1002", "1006", "1007")
"""People of brain-t1-nmm on whom the engine's settings were tuned; pairs without any of them are reported separately, too."""


@dataclass(frozen=True)
class Options:
    """What an evaluation may be given besides its examples.

    Attributes
    ----------
    criterion : by which the product chooses; its default.
    paper_train_images : images of the training pairs for the paper's baseline, shape (P, 2, k, j, i), see `paper_image`,
        or its encoder's channels (P, F); without them it is left out.
    paper_test_images : the same by the name of the test.
    ood_sets : features of pairs that need not have been registered, by name: only their reliability is judged.
    quick : leave out the ablations and the paper's baseline on held-out maps, and draw fewer bootstrap samples.
    """

    criterion: Criterion = field(default_factory=Criterion)
    paper_train_images: np.ndarray | None = None
    paper_test_images: Mapping[str, np.ndarray] = field(default_factory=dict)
    ood_sets: Mapping[str, Features] = field(default_factory=dict)
    quick: bool = False


def evaluate(
    train: Examples,
    tests: Mapping[str, Examples],
    out: Path,
    *,
    bundle: Path | None = None,
    options: Options | None = None,
    progress: Progress = silent,
    cancelled: CancelCheck = never,
) -> dict[str, Table]:
    """Evaluate a predictor and write ``evaluation.md`` and a folder ``evaluation`` with its figures and tables.

    Parameters
    ----------
    train : what the predictor was trained on; its pairs within CV folds are predicted by members that have not seen them.
    tests : people that nothing was trained on, by name.
    out : folder of the documentation.
    bundle : the predictor; default: one is trained on `train` with the default settings.

    Returns
    -------
    tables : by name, as written.

    Raises
    ------
    InputError : the examples do not belong together, are too few, or the bundle was trained on others.
    Cancelled : the caller asked to stop; nothing was written.
    """
    options = options or Options()
    _check(train, tests, options)
    report = _Steps(progress, cancelled)
    report.at(0.0, "training the predictor" if bundle is None else "reading the predictor")
    ours = OurMethod.of(train, bundle, cancelled=cancelled)
    values = common_grid(train, *tests.values(), within=ours.bundle.card.space.first)
    conditions = Conditions(
        options.criterion, values, QUICK_DRAWS if options.quick else DRAWS, options.paper_train_images, silent, cancelled
    )
    report.at(0.2, "held-out pairs of the training people")
    held_out = held_out_set(ours, conditions, HELD_OUT, paper=not options.quick)
    external: list[PairSet] = []
    first: PairSet | None = None
    for name, test in tests.items():
        report.at(0.35, f"pairs of {name}")
        found = external_set(ours, conditions, Measured.of(name, test, values, train.labels), options.paper_test_images.get(name))
        first = first or found
        external.append(found)
        apart = without_people(found, TUNING_PEOPLE, f"{name}, nobody used for tuning")
        external += [] if apart is None else [apart]
    tables = _tables(ours, held_out, external, conditions, options.ood_sets, report)
    if not options.quick:
        report.at(0.6, "ablations")
        images = next((options.paper_test_images.get(name) for name in tests), None)
        place = [table.name for table in tables].index("t7-latency")
        tables.insert(place, ablation_table(AblationInput(ours, held_out, first, images), conditions))
    report.at(0.95, "figures")
    shown = [found for found in (*external[:1], held_out) if len(found.measured.examples.pairs)]
    write_report(out, _introduction(ours, held_out, external, conditions, options), tables, all_figures(shown, conditions))
    report.at(1.0, "done")
    return {table.name: table for table in tables}


@dataclass(frozen=True)
class _Steps:
    progress: Progress
    cancelled: CancelCheck

    def at(self, share: float, what: str) -> None:
        stop_if(self.cancelled)
        self.progress(ProgressEvent("evaluate", share, what))


def _tables(
    ours: OurMethod,
    held_out: PairSet,
    external: list[PairSet],
    conditions: Conditions,
    ood_sets: Mapping[str, Features],
    report: _Steps,
) -> list[Table]:
    sets = [*external, held_out]
    ood = ours.bundle.ood
    report.at(0.45, "timing")
    with TemporaryDirectory() as folder:
        latency = latency_table(ours, Path(folder))
    report.at(0.5, "tables")
    targets = targets_table(external, held_out, conditions, ood=ood, ood_sets=ood_sets, latency=latency)
    tables = [
        targets,
        dice_table(sets),
        folding_table(sets),
        agreement_table(sets),
        decision_table(sets, conditions),
        counts_table(sets, conditions),
        calibration_table(sets),
        structure_table(sets, conditions),
        latency,
        group_table(sets, conditions),
    ]
    return [*tables, reliability_table(ood, ood_sets)] if ood_sets else tables


def _check(train: Examples, tests: Mapping[str, Examples], options: Options) -> None:
    for name, some in {"the training": train, **tests}.items():
        if some.further or some.outcomes is not None:
            what = "there are several domains" if some.outcomes is not None else f"{1 + len(some.further)} parameters vary"
            raise InputError(
                f"In the tables of {name} {what}, but this evaluation is of curves over one parameter in people of one kind: "
                "use 'evaluate-domains'."
            )
    people = set(train.subjects.ravel().tolist())
    for name, test in tests.items():
        for what in ("engine", "settings_hash", "preset", "features_version", "parameter", "token_names"):
            if getattr(test, what) != getattr(train, what):
                raise InputError(
                    f"The test '{name}' was swept with another {what.replace('_', ' ')} than the training pairs: "
                    "sweep both with the same version and options."
                )
        if set(train.feature_names) - set(test.feature_names):
            raise InputError(f"The test '{name}' lacks features that the training pairs have: describe its pairs again.")
        both = sorted(people & set(test.subjects.ravel().tolist()))
        if both:
            raise InputError(f"'{both[0]}' is in the training pairs and in the test '{name}': a test needs people of its own.")
    known = {"train": train, **tests}
    images = dict(options.paper_test_images)
    if options.paper_train_images is not None:
        images["train"] = options.paper_train_images
    for name, pictures in images.items():
        if name not in known or len(pictures) != len(known[name].pairs):
            raise InputError(f"The images of '{name}' for the paper's baseline are not one per pair of that set.")


def _introduction(ours: OurMethod, held_out: PairSet, external: list[PairSet], conditions: Conditions, options: Options) -> str:
    card, c = ours.bundle.card, conditions.criterion
    people = len(set(ours.examples.subjects.ravel().tolist()))
    lines = [
        "Written by `hyperpredictreg evaluate`; no figure on this page was typed.",
        f"**Predictor** `{card.name}` {card.version}: engine `{card.engine}` {card.engine_version}, preset `{card.preset}`, "
        f"trained on {card.pairs} pairs ({card.registrations} registrations) of {people} people in "
        f"{len(set(card.subjects.values()))} CV folds.",
        f"**Choice of λ**: {len(conditions.values)} values from {conditions.values[0]:.3g} to {conditions.values[-1]:.3g}, "
        f"the same for every method; rule {c.rule}, limit {c.folding_limit} % of the {c.domain}, "
        f"{'with' if c.cautious else 'without'} margin, tolerance {c.tolerance:g} of Dice. Measured curves are monotone cubics "
        "through the registrations of the sweep.",
        f"**{HELD_OUT}**: {len(held_out.measured.examples.pairs)} pairs within CV folds of the training people, each method with "
        "nobody of the CV fold; the ensemble's members that know nobody of the CV fold are a fifth of it.",
    ]
    for found in external:
        e = found.measured.examples
        count, unknown = len(set(e.subjects.ravel().tolist())), int((~found.measured.counted).sum())
        lines.append(
            f"**{found.measured.name}**: {len(e.pairs)} ordered pairs of {count} people, {len(e.labels)} structures, {unknown} "
            "of them unknown to the predictor: those are not in mean Dice, but in table T5."
        )
    lines.append(
        f"**Intervals**: 95 %, two-way bootstrap over fixed and moving subjects, {conditions.draws} draws, seeded."
        + (" Made with `quick`: no ablations." if options.quick else "")
    )
    if options.paper_train_images is None:
        lines.append("The published predictor (B3) is left out, for no images were given.")
    return "\n\n".join(lines)
