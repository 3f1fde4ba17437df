"""HyperPredict as published (Shuaibu and Simpson, MELBA 2024) beyond brains: its encoder trained on pairs of any anatomy.

    python benchmarks/paper_any_pair.py images --cache FOLDER           small images of the training pairs; resumable
    python benchmarks/paper_any_pair.py images --cache FOLDER --real    the same of the cases
    python benchmarks/paper_any_pair.py judge --cache FOLDER            trains it, prints its rows beside ours

SYMNet's weights know aligned brains of one size, so the encoder is trained here with the rest, on the synthesized pairs that
`diffeo-any` learned from. It sees two images of 40 x 40 x 40 voxels that fill the working grid, and λ. In place of named
structures, which these pairs do not share, its heads tell what `diffeo-any` tells: the logarithm of the error in voxels and the
gain of overlap. Two kinds of pairs tell when to stop, and are not learned from. Nothing real is learned from or tuned on. What
it shows: docs/evaluation-paper.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import SimpleITK as sitk
from any_pair_cases import DATA, cases, made_case, on_truth_grid
from HyperPredictRegLib.core.errors import HyperPredictRegError
from HyperPredictRegLib.core.search_space import SearchSpace
from HyperPredictRegLib.predictor.bundle import load_bundle

from HyperPredictRegLab.baselines import FROZEN, TRAINED, PaperSettings, paper_image, train_paper
from HyperPredictRegLab.evaluation.domain_report import Study, study_of
from HyperPredictRegLab.evaluation.domains import GOAL, OVERLAP, best_columns, rank_correlation
from HyperPredictRegLab.evaluation.tables import DRAWS, Estimate
from HyperPredictRegLab.manifest import read_manifest
from HyperPredictRegLab.sweep.runs import PreparedPair, SweepSettings, affine_from
from HyperPredictRegLab.synthesis.any_pairs import anatomy_maps, write_any_pairs
from HyperPredictRegLab.training.building import Trained
from HyperPredictRegLab.training.examples import Examples, in_space, read_examples
from HyperPredictRegLab.training.outcomes import Outcomes
from HyperPredictRegLab.training.outlook import LEAST_VOXELS
from HyperPredictRegLab.training.outlook_widths import known_outcomes

RESULTS = Path(__file__).resolve().parent / "results"
SWEEP, REAL = RESULTS / "sweeps" / "any-pair-training", RESULTS / "any-pair"
ANATOMIES = ("synthseg-labels", "labels-head-neck", "labels-mouse-development", "fetal-t2", "trunk-ct")
SEED = 20240901
SIZE = (40, 40, 40)
BUNDLE = Path(__file__).resolve().parents[1] / "HyperPredictReg" / "Resources" / "Models" / "diffeo-any"
HELD_OUT = ("labels-mouse-development", "trunk-ct")
"""Kinds of training pairs that tell when to stop."""

SETTINGS: dict[str, PaperSettings] = {
    "HyperPredict, its encoder trained": replace(TRAINED, threads=2),
    "HyperPredict, its encoder random": replace(FROZEN, threads=2),
}
HEAD = (
    "| | regret, goal as measured | the same, Dice | the same, mm | goal overlap for all | gain of overlap, mean error |"
    " rank correlation of errors, mm | in voxels | error off by | best epoch | CPU s |\n|" + "---|" * 11
)


def write_images(cache: Path, real: bool) -> None:
    """Write what the network sees of each pair of the training table, and of each case, that the cache lacks."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    cache.mkdir(parents=True, exist_ok=True)
    for name, image in real_images(cache) if real else training_images(cache):
        np.save(cache / f"{name}.tmp.npy", image.astype(np.float16))
        (cache / f"{name}.tmp.npy").replace(cache / f"{name}.npy")
        print(name, flush=True)


def training_images(cache: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Make the missing pairs again by the recipe of docs/predictor.md, one after the other, aligned as in their sweep."""
    runs = pd.read_parquet(SWEEP / "runs.parquet")
    maps = anatomy_maps(DATA, ANATOMIES)
    for name, rows in runs[runs["error"] == ""].groupby("pair", sort=False):
        if (cache / f"{name}.npy").exists():
            continue
        matrix = {str(column): float(value) for column, value in rows.iloc[0].filter(like="affine_matrix_").items()}
        with TemporaryDirectory() as folder:
            number = int(str(name).removeprefix("pair-"))
            (listed,) = read_manifest(write_any_pairs(maps, Path(folder), count=1, first=number, seed=SEED))
            yield str(name), paper_image(PreparedPair.of(listed, SweepSettings(), affine_from(matrix)).pair, SIZE)


def real_images(cache: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Read the missing cases; a case that cannot be aligned is left out, as it is from their tables."""
    for one in cases():
        if (cache / f"{one.case.name}.npy").exists():
            continue
        try:
            yield one.case.name, paper_image(on_truth_grid(one.case, made_case(one.case, cache)), SIZE)
        except HyperPredictRegError as error:
            print(f"{one.case.name}: {error}", flush=True)


@dataclass(frozen=True)
class Scale:
    """Mean and SD of each head over the training pairs, so that both weigh the same in the loss."""

    mean: np.ndarray
    sd: np.ndarray

    @classmethod
    def of(cls, told: np.ndarray) -> Scale:
        """Find those of the heads in `told` (P, 2, N)."""
        return cls(*(find(told, axis=(0, 2), keepdims=True)[0] for find in (np.nanmean, np.nanstd)))


def true_heads(examples: Examples) -> np.ndarray:
    """Return what the heads are to tell, shape (P, 2, N): the logarithm of the error in voxels, and the gain of overlap."""
    outcomes = known_outcomes(examples)
    return np.stack([in_units(outcomes.error, outcomes), outcomes.gain], axis=1)


def in_units(error_mm: np.ndarray, outcomes: Outcomes) -> np.ndarray:
    """Return errors (P, N) as `diffeo-any` learns them: as logarithms of voxels of the evidence's grid."""
    return np.asarray(np.log(np.maximum(error_mm / outcomes.unit_mm[:, None], LEAST_VOXELS)))


def judge(cache: Path) -> None:
    """Train the network on the pairs whose images are there, and print what its choices lose beside ours."""
    table, bundle = read_examples(SWEEP), load_bundle(BUNDLE)
    members = np.arange(bundle.ensemble.network.settings.members)
    study = study_of(bundle, Trained(bundle.ensemble, dict(bundle.card.subjects), members), table, read_examples(REAL), DRAWS)
    along = in_space(table, SearchSpace((table.parameter,)))
    along = along.chosen(np.flatnonzero([(cache / f"{name}.npy").exists() for name in along.pairs]))
    missing = [name for name in study.true.examples.pairs if not (cache / f"{name}.npy").exists()]
    if missing or not along.pairs:
        what = missing[0] if missing else "any training pair"
        raise SystemExit(f"'{cache}' has no image of {what}: run the steps 'images' first.")
    told, held_out = true_heads(along), np.isin(known_outcomes(along).domains, HELD_OUT)
    scale = Scale.of(told[~held_out])
    given = replace(along, labels=(1, 2), dice=(told - scale.mean) / scale.sd)
    images = np.stack([np.load(cache / f"{name}.npy") for name in along.pairs])
    of_cases = np.stack([np.load(cache / f"{name}.npy") for name in study.true.examples.pairs])
    print(f"{len(images)} pairs, {int((~held_out).sum())} of them to learn from; {int(study.test.sum())} test cases\n\n{HEAD}")
    learned = mean_curves(along.chosen(~held_out), told[~held_out], study.true.values)
    print(row_of(study, "λ only", np.broadcast_to(learned, (len(of_cases), *learned.shape))), "- | - |")
    print(row_of(study, "`diffeo-any`", our_curves(study), study.told.columns), "- | - |", flush=True)
    for name, settings in SETTINGS.items():
        started = time.process_time()
        found = train_paper(given, images, ~held_out, held_out, settings)
        curves = found.predict(of_cases, study.true.values)[0] * scale.sd + scale.mean
        best = 1 + int(np.argmin([loss for _, loss in found.losses]))
        print(row_of(study, name, curves), f"{best} of {len(found.losses)} | {time.process_time() - started:.0f} |", flush=True)


def mean_curves(along: Examples, told: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return both heads over λ (2, G) as least squares has them that look at no pair: parabolas over its logarithm."""
    found = []
    for head in np.moveaxis(told, 1, 0):
        known = np.isfinite(head) & np.isfinite(along.values)
        found.append(np.polyval(np.polyfit(np.log(along.values[known]), head[known], 2), np.log(values)))
    return np.stack(found)


def our_curves(study: Study) -> np.ndarray:
    """Return what the bundle tells of all cases, in the units of the heads."""
    ranks = np.argsort(np.argsort(study.true.values))
    error, gain = (np.stack([part(surface).value[ranks] for surface in study.told.surfaces]) for part in (
        lambda surface: surface.error_mm, lambda surface: surface.overlap_gain
    ))  # fmt: skip
    return np.stack([in_units(error, study.true.outcomes), gain], axis=1)


def row_of(study: Study, name: str, curves: np.ndarray, columns: Mapping[str, np.ndarray] | None = None) -> str:
    """Return a row for curves (P, 2, G) of all cases; `columns` : where these are registered, if not at the curves' optima."""
    true, test = study.true, study.test
    by_error, by_gain = curves[:, 0].argmin(axis=1), curves[:, 1].argmax(axis=1)
    goal, none = (np.where(true.in_mm, by_error, by_gain), by_gain) if columns is None else (columns[GOAL], columns[OVERLAP])
    best = true.won(best_columns(true))
    lost = [np.where(true.spoiled, np.nan, best - true.won(column))[test] for column in (goal, none)]
    off_gain = np.abs(curves[:, 1] - true.quality).mean(axis=1)
    off_gain = np.where(true.in_mm | true.spoiled, np.nan, off_gain)[test]
    mean, in_mm = study.levels.mean, true.in_mm[test]
    figures = [mean(lost[0]), mean(lost[0], ~in_mm), mean(lost[0], in_mm), mean(lost[1]), mean(off_gain)]
    at = np.arange(len(curves)), by_error
    voxel, unit = true.outcomes.voxel_mm[test], true.outcomes.unit_mm[test]
    told, real = (np.exp(curves[:, 0][at])[test] * unit, np.where(true.in_mm, true.raw[at], np.nan)[test])
    known = np.isfinite(real)
    for one, other in ((told, real), (told / voxel, real / voxel)):
        figures.append(study.levels.statistic(partial(rank_correlation, one, other), known))
    factor = np.median(np.exp(np.abs(np.log(told[known] / np.maximum(real[known], 1e-3)))))
    return f"| {name} | {' | '.join(shown(figure) for figure in figures)} | {factor:.2f} |"


def shown(figure: Estimate) -> str:
    """Return a figure with its interval."""
    return f"{figure.value:.3f} [{figure.lower:.3f}, {figure.upper:.3f}]"


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("images", "judge"))
    parser.add_argument("--cache", type=Path, default=Path("benchmark-output"))
    parser.add_argument("--real", action="store_true", help="of the cases only")
    options = parser.parse_args()
    if options.step == "images":
        write_images(options.cache, options.real)
    else:
        judge(options.cache)


if __name__ == "__main__":
    main()
