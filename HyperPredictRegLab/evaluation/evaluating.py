"""The whole evaluation: from the tables of sweeps to a page with tables and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.job import Criterion
from HyperPredictRegLib.progress import CancelCheck, Progress, ProgressEvent, never, silent, stop_if

from HyperPredictRegLab.evaluation.ablations import AblationInput, ablation_table
from HyperPredictRegLab.evaluation.accuracy import agreement_table, dice_table, folding_table
from HyperPredictRegLab.evaluation.bands import calibration_table
from HyperPredictRegLab.evaluation.decision_table import counts_table, decision_table
from HyperPredictRegLab.evaluation.figures import all_figures
from HyperPredictRegLab.evaluation.groups import Features, group_table, lights_table
from HyperPredictRegLab.evaluation.latency import latency_table
from HyperPredictRegLab.evaluation.measured import Measured, common_grid
from HyperPredictRegLab.evaluation.ours import OurMethod
from HyperPredictRegLab.evaluation.report import write_report
from HyperPredictRegLab.evaluation.sets import PairSet, Setting, external_set, held_out_set, without_people
from HyperPredictRegLab.evaluation.statistics import DRAWS, QUICK_DRAWS
from HyperPredictRegLab.evaluation.structure_table import structure_table
from HyperPredictRegLab.evaluation.table import Table
from HyperPredictRegLab.evaluation.targets import targets_table
from HyperPredictRegLab.training.examples import Examples

HELD_OUT = "held-out maps"

TUNING_PEOPLE = ("1000", "1001", "1002", "1006", "1007")
"""People of brain-t1-nmm on whom the engine's settings were tuned; pairs without any of them are reported separately, too."""


@dataclass(frozen=True)
class Options:
    """What an evaluation may be given besides its examples.

    Attributes
    ----------
    criterion : by which the product chooses; its default.
    paper_train_images : images of the training pairs for the paper's baseline, shape (P, 2, k, j, i), see `paper_image`; without
        them it is left out.
    paper_test_images : the same by the name of the test.
    strangers : features of pairs that need not have been registered, by name: only their traffic light is judged.
    quick : leave out the ablations and the paper's baseline on held-out maps, and draw fewer bootstrap samples.
    """

    criterion: Criterion = field(default_factory=Criterion)
    paper_train_images: np.ndarray | None = None
    paper_test_images: Mapping[str, np.ndarray] = field(default_factory=dict)
    strangers: Mapping[str, Features] = field(default_factory=dict)
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
    train : what the predictor was trained on; its pairs within folds are predicted by members that have not seen them.
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
    card = ours.bundle.card
    grid = common_grid(train, *tests.values())
    values = np.geomspace(max(grid[0], card.lower), min(grid[-1], card.upper), len(grid))
    setting = Setting(
        options.criterion, values, QUICK_DRAWS if options.quick else DRAWS, options.paper_train_images, silent, cancelled
    )
    report.at(0.2, "held-out pairs of the training people")
    held_out = held_out_set(ours, setting, HELD_OUT, paper=not options.quick)
    external: list[PairSet] = []
    first: PairSet | None = None
    for name, test in tests.items():
        report.at(0.35, f"pairs of {name}")
        found = external_set(ours, setting, Measured.of(name, test, values, train.labels), options.paper_test_images.get(name))
        first = first or found
        external.append(found)
        apart = without_people(found, TUNING_PEOPLE, f"{name}, nobody used for tuning")
        external += [] if apart is None else [apart]
    tables = _tables(ours, held_out, external, setting, options.strangers, report)
    if not options.quick:
        report.at(0.6, "ablations")
        images = next((options.paper_test_images.get(name) for name in tests), None)
        place = [table.name for table in tables].index("t7-latency")
        tables.insert(place, ablation_table(AblationInput(ours, held_out, first, images), setting))
    report.at(0.95, "figures")
    shown = [found for found in (*external[:1], held_out) if len(found.measured.examples.pairs)]
    write_report(out, _introduction(ours, held_out, external, setting, options), tables, all_figures(shown, setting))
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
    setting: Setting,
    strangers: Mapping[str, Features],
    report: _Steps,
) -> list[Table]:
    sets = [*external, held_out]
    novelty = ours.bundle.novelty
    report.at(0.45, "timing")
    with TemporaryDirectory() as folder:
        latency = latency_table(ours, Path(folder))
    report.at(0.5, "tables")
    targets = targets_table(external, held_out, setting, novelty=novelty, strangers=strangers, latency=latency)
    tables = [
        targets,
        dice_table(sets),
        folding_table(sets),
        agreement_table(sets),
        decision_table(sets, setting),
        counts_table(sets, setting),
        calibration_table(sets),
        structure_table(sets, setting),
        latency,
        group_table(sets, setting),
    ]
    return [*tables, lights_table(novelty, strangers)] if strangers else tables


def _check(train: Examples, tests: Mapping[str, Examples], options: Options) -> None:
    people = set(train.subjects.ravel().tolist())
    for name, test in tests.items():
        for what in ("engine", "settings_hash", "preset", "features_version", "hyperparameter", "token_names"):
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


def _introduction(ours: OurMethod, held_out: PairSet, external: list[PairSet], setting: Setting, options: Options) -> str:
    card, c = ours.bundle.card, setting.criterion
    people = len(set(ours.examples.subjects.ravel().tolist()))
    lines = [
        "Written by `hyperpredictreg evaluate`; nothing on this page is typed in by hand.",
        f"**Predictor** `{card.name}` {card.version}: engine `{card.engine}` {card.engine_version}, preset `{card.preset}`, "
        f"trained on {card.pairs} pairs ({card.registrations} registrations) of {people} people in "
        f"{len(set(card.subjects.values()))} folds.",
        f"**Choice of λ**: {len(setting.values)} values from {setting.values[0]:.3g} to {setting.values[-1]:.3g}, the same for "
        f"every method; rule {c.rule}, limit {c.folding_limit} % of the {c.domain}, "
        f"{'with' if c.cautious else 'without'} margin, tolerance {c.tolerance:g} of Dice. Measured curves are monotone cubics "
        "through the registrations of the sweep.",
        f"**{HELD_OUT}**: {len(held_out.measured.examples.pairs)} pairs within folds of the training people, each method with "
        "nobody of the fold; the ensemble's members that know nobody of the fold are a fifth of it.",
    ]
    for found in external:
        e = found.measured.examples
        count, unknown = len(set(e.subjects.ravel().tolist())), int((~found.measured.counted).sum())
        lines.append(
            f"**{found.measured.name}**: {len(e.pairs)} ordered pairs of {count} people, {len(e.labels)} structures, {unknown} "
            "of them unknown to the predictor: those are not in mean Dice, but in table T5."
        )
    lines.append(
        f"**Intervals**: 95 %, two-way bootstrap over fixed and moving subjects, {setting.draws} draws, seeded."
        + (" Made with `quick`: no ablations." if options.quick else "")
    )
    if options.paper_train_images is None:
        lines.append("The published predictor (B3) is left out, for no images were given.")
    return "\n\n".join(lines)
