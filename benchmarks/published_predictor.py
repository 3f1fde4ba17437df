"""What the pretrained encoder of HyperPredict makes of the pairs of two sweeps: the published predictor's input without images.

    python benchmarks/published_predictor.py encode training --weights SYMNET.pth     a row per pair; goes on where it stopped
    python benchmarks/published_predictor.py encode real-people --weights SYMNET.pth
    python benchmarks/published_predictor.py judge                                    train it at length; docs/evaluation-paper.md

HyperPredict (Shuaibu and Simpson, MELBA 2024) pools the 56 channels that the encoder of SYMNet (Mok and Chung, CVPR 2020) makes
of a pair of 160 x 192 x 224 voxels. The repository of SYMNet has weights, trained on OASIS; the layout is written anew here, in
`HyperPredictRegLab.baselines`. Training pairs are made again from label maps by the recipe of docs/predictor.md, real ones are
read; each is aligned as its sweep says, and placed on the encoder's grid by the rule of docs/engine-clapirn.md. Means, minima and
maxima of the channels are written to `paper-channels.parquet` of the sweep. One thread. Where all pairs of both sweeps are in
their tables, `hyperpredictreg evaluate` has rows of this predictor, too; `judge` takes the pairs that are there.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import SimpleITK as sitk
import torch
from HyperPredictRegLib.core.progress import ProgressEvent
from HyperPredictRegLib.engines.conditional import ConditionalSettings, network_grid
from HyperPredictRegLib.preprocessing.image_set import read_inputs
from HyperPredictRegLib.results.job import Criterion, Job

from HyperPredictRegLab.baselines import CHANNELS, PaperNetwork, PaperSettings, read_paper_channels
from HyperPredictRegLab.evaluation.decisions import (
    B0,
    B1,
    B8,
    NO_MARGIN,
    OURS,
    Choosing,
    Conditions,
    PairSet,
    decide,
    fixed_for,
    oracle,
    settled,
)
from HyperPredictRegLab.evaluation.evaluating import TUNING_PEOPLE
from HyperPredictRegLab.evaluation.judging import errors, results
from HyperPredictRegLab.evaluation.measured import Measured, PredictedPairs, common_grid
from HyperPredictRegLab.evaluation.methods import (
    WITH_ITS_ENCODER,
    OurMethod,
    PaperTraining,
    only_weight,
    paper_predicts,
    predict,
)
from HyperPredictRegLab.evaluation.tables import DRAWS, Resampling
from HyperPredictRegLab.manifest import CV_FOLDS
from HyperPredictRegLab.sweep.runs import affine_from
from HyperPredictRegLab.synthesis.maps import rendered
from HyperPredictRegLab.synthesis.pairs import plan_pair
from HyperPredictRegLab.training.examples import Examples, read_examples

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("HYPERPREDICTREG_DATA", REPOSITORY.parent / "shared" / "data"))
SWEEPS = REPOSITORY / "benchmarks" / "results" / "sweeps"
MODELS = REPOSITORY / "HyperPredictReg" / "Resources" / "Models"
SEED = 20240901
SETTINGS = PaperSettings(statistics="mean-min-max")


def read_encoder(path: Path) -> PaperNetwork:
    """Return a network whose encoder has the weights of a file that SYMNet's training wrote; the rest is as drawn."""
    stored = torch.load(path, map_location="cpu", weights_only=True)
    network = PaperNetwork(1, SETTINGS)
    names = ("eninput", *(f"ec{n}" for n in range(1, 10)))
    convolutions = [layer for layer in network.encoder if isinstance(layer, torch.nn.Conv3d)]
    for name, convolution in zip(names, convolutions, strict=True):
        convolution.load_state_dict({part: stored[f"{name}.0.{part}"] for part in ("weight", "bias")})
    return network


def on_encoder_grid(fixed_path: Path, moving_path: Path, alignment: sitk.Transform) -> np.ndarray:
    """Return moving and fixed image on the grid that the encoder was trained on, intensities 0 to 1: float32 (2, k, j, i)."""
    inputs = read_inputs(Job(str(fixed_path), str(moving_path), ""))
    settings = ConditionalSettings()
    grid = network_grid(inputs.fixed.normalised, settings)
    images = grid.resample(inputs.moving.normalised, alignment), grid.resample(inputs.fixed.normalised)
    brightness = np.float32(settings.brightness)
    return np.stack([np.clip(sitk.GetArrayFromImage(image) * brightness, 0, 1) for image in images]).astype(np.float32)


def pairs_of(sweep: str, folder: Path, done: set[str], runs: pd.DataFrame) -> Iterator[tuple[str, Path, Path]]:
    """Yield name, fixed and moving image of each pair that is not done; images that are made lie in `folder` until the next."""
    maps = sorted((DATA / "synthseg-labels").glob("*.nii.gz"))
    for name in runs["pair"].drop_duplicates():
        if name in done:
            continue
        if sweep != "training":
            fixed, moving = (DATA / "brain-t1-nmm" / f"nmm_{person}_t1.nii.gz" for person in name.split("-"))
        else:
            planned = plan_pair(maps, int(name.removeprefix("pair-")), seed=SEED)
            fixed, moving = folder / "fixed.nii", folder / "moving.nii"
            for path, source, recipe in zip((fixed, moving), planned.maps, planned.recipes, strict=True):
                sitk.WriteImage(rendered(source, recipe)[0], str(path))
        yield name, fixed, moving


def encode(sweep: str, weights: Path, most: int | None) -> None:
    """Encode the pairs of a sweep that its table of channels lacks, those that nobody was tuned on first."""
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    network = read_encoder(weights)
    runs = pd.read_parquet(SWEEPS / sweep / "runs.parquet")
    runs = runs[runs["error"] == ""].groupby("pair", sort=False).first().reset_index()
    if sweep != "training":
        tuned = runs[["fixed_subject", "moving_subject"]].isin(TUNING_PEOPLE).any(axis=1)
        runs = pd.concat([runs[~tuned], runs[tuned]])
    path = SWEEPS / sweep / CHANNELS
    rows = [] if not path.exists() else pd.read_parquet(path).to_dict("records")
    with TemporaryDirectory() as folder:
        missing = pairs_of(sweep, Path(folder), {str(row["pair"]) for row in rows}, runs)
        for name, fixed, moving in itertools.islice(missing, most):
            started = time.process_time()
            run = runs[runs["pair"] == name].iloc[0]
            matrix = {str(column): float(value) for column, value in run.filter(like="affine_matrix_").items()}
            images = on_encoder_grid(fixed, moving, affine_from(matrix))
            read = time.process_time()
            with torch.inference_mode():
                found = network.pooled(torch.from_numpy(images)[None])[0].numpy()
            seconds = f"{read - started:.1f} s to read and place, {time.process_time() - read:.1f} s to encode"
            rows.append({"pair": name, **{f"channel_{n:03d}": np.float32(value) for n, value in enumerate(found)}})
            table = pd.DataFrame(rows)
            table.to_parquet(path.with_suffix(".tmp"), index=False)
            path.with_suffix(".tmp").replace(path)
            print(f"{name}: {len(rows)} of {len(runs)}; {seconds}", flush=True)


def with_channels(sweep: str, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Return which pairs of a sweep were encoded, as row numbers, and the means of their channels (P, 56)."""
    there = set(pd.read_parquet(SWEEPS / sweep / CHANNELS)["pair"])
    rows = np.array([row for row, pair in enumerate(examples.pairs) if pair in there])
    found = read_paper_channels(SWEEPS / sweep, tuple(examples.pairs[row] for row in rows))
    if found is None:
        raise SystemExit(f"No pair of the sweep '{sweep}' has been encoded yet: run the step 'encode' first.")
    return rows, found


def judge() -> None:
    """Train the published predictor on the encoded pairs and print it beside ours, on people that nothing was tuned on."""
    torch.set_num_threads(1)
    train, test = read_examples(SWEEPS / "training"), read_examples(SWEEPS / "real-people")
    ours = OurMethod.of(train, MODELS / "demons-fast")
    (rows, channels), (chosen, own) = with_channels("training", train), with_channels("real-people", test)
    untuned = ~np.isin(test.subjects[chosen], TUNING_PEOPLE).any(axis=1)
    chosen, own = chosen[untuned], own[untuned]
    values = common_grid(train, test, within=ours.bundle.card.space.first)
    measured = Measured.of("real people, nobody used for tuning", test.chosen(chosen), values, train.labels)
    known = Measured.of("training", train, values, train.labels)
    conditions = Conditions(Criterion(), values, DRAWS)
    fixed = np.full(len(chosen), fixed_for(known, conditions.criterion))
    predicted = {OURS: predict(ours.whole(), measured), B0: only_weight(known, measured)}
    overall = {
        OURS: decide(predicted[OURS], measured, conditions.criterion, fixed),
        NO_MARGIN: decide(predicted[OURS], measured, conditions.plain, fixed),
        B1: settled(fixed),
        B8: settled(oracle(measured, conditions.criterion)),
    }
    given = PaperTraining(train.chosen(rows), channels, ours.cv_folds_of_pairs[rows])
    learned = int((given.cv_folds != CV_FOLDS - 1).all(axis=1).sum())
    people = len(set(measured.examples.subjects.ravel().tolist()))
    print(f"{len(rows)} training pairs encoded, {learned} learned from; judged on {len(chosen)} pairs of {people} people")
    print(f"channels: mean {channels.mean():.3g}, SD between pairs {channels.std(axis=0).mean():.3g}")
    for name, settings in WITH_ITS_ENCODER.items():
        predicted[name] = told_of(name, given, measured, own, settings)
        overall[name] = decide(predicted[name], measured, conditions.plain, fixed, loop=False)
    choosing = Choosing(overall, {})
    table(PairSet(measured, predicted, choosing, Resampling.of(measured.examples.subjects, DRAWS)), conditions)


def told_of(name: str, given: PaperTraining, measured: Measured, own: np.ndarray, settings: PaperSettings) -> PredictedPairs:
    """Train the published predictor, say for how long, and let it predict."""
    losses: list[float] = []

    def heard(event: ProgressEvent) -> None:
        if event.metric is not None:
            losses.append(event.metric)

    started = time.process_time()
    found = paper_predicts(given, measured, own, settings, progress=heard)
    seconds, best = time.process_time() - started, int(np.argmin(losses))
    print(f"{name}: best of {len(losses)} epochs is {best + 1}, loss {losses[best]:.5f}; {seconds:.0f} CPU s", flush=True)
    return found


def table(found: PairSet, conditions: Conditions) -> None:
    """Print errors and decisions of every method."""
    mean = found.resampling.mean

    def shown(values: np.ndarray) -> str:
        e = mean(values)
        return f"{e.value:.4f} [{e.lower:.4f}, {e.upper:.4f}]"

    heads = ["Dice error, all λ", "at our λ*", "folding error, % of grid, all λ", "at our λ*"]
    heads += ["regret", "over the limit, %", "median λ"]
    print(f"| method | {' | '.join(heads)} |\n|---|" + "---|" * len(heads))
    for method in dict.fromkeys((*found.predicted, *found.choosing.overall)):
        cells = ["-"] * 7
        if method in found.predicted:
            e = errors(found, method)
            cells[:4] = [shown(part) for part in (e.dice_over, e.dice_at, e.grid_over, e.grid_at)]
        if method in found.choosing.overall:
            own = results(found, conditions, method)
            cells[4:] = [shown(own.regret), f"{100 * own.final.over.mean():.0f}", f"{np.median(own.decision.final):.2f}"]
        print(f"| {method} | {' | '.join(cells)} |")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("encode", "judge"))
    parser.add_argument("sweep", nargs="?", choices=("training", "real-people"))
    parser.add_argument("--weights", type=Path, help="of SYMNet, for 7 start channels")
    parser.add_argument("--most", type=int, help="pairs to encode now")
    options = parser.parse_args()
    if options.step == "judge":
        judge()
    elif options.sweep is None or options.weights is None:
        parser.error("encode needs a sweep and --weights")
    else:
        encode(options.sweep, options.weights, options.most)


if __name__ == "__main__":
    main()
