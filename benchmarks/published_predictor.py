"""What the pretrained encoder of HyperPredict makes of the pairs of two sweeps: the published predictor's input without images.

    python benchmarks/published_predictor.py encode training --weights SYMNET.pth     a row per pair; goes on where it stopped
    python benchmarks/published_predictor.py encode real-people --weights SYMNET.pth
    hyperpredictreg evaluate SWEEPS/training SWEEPS/real-people --quick --bundle BUNDLE --out FOLDER

HyperPredict (Shuaibu and Simpson, MELBA 2024) pools the 56 channels that the encoder of SYMNet (Mok and Chung, CVPR 2020) makes
of a pair of 160 x 192 x 224 voxels. The repository of SYMNet has weights, trained on OASIS; the layout is written anew here, in
`HyperPredictRegLab.baselines`. Training pairs are made again from label maps by the recipe of docs/predictor.md, real ones are
read; each is aligned as its sweep says, and placed on the encoder's grid by the rule of docs/engine-clapirn.md. Means, minima and
maxima of the channels are written to `paper-channels.parquet` of the sweep. One thread.
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
from HyperPredictRegLib.engines.conditional import ConditionalSettings, network_grid
from HyperPredictRegLib.preprocessing.image_set import read_inputs
from HyperPredictRegLib.results.job import Job

from HyperPredictRegLab.baselines import CHANNELS, PaperNetwork, PaperSettings
from HyperPredictRegLab.sweep.runs import affine_from
from HyperPredictRegLab.synthesis.maps import rendered
from HyperPredictRegLab.synthesis.pairs import plan_pair

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("HYPERPREDICTREG_DATA", REPOSITORY.parent / "shared" / "data"))
SWEEPS = REPOSITORY / "benchmarks" / "results" / "sweeps"
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


def encode(sweep: str, weights: Path, most: int | None, held_out_first: bool = True) -> None:
    """Encode the pairs of a sweep that its table of channels lacks, those that nobody was tuned on first."""
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    network = read_encoder(weights)
    runs = pd.read_parquet(SWEEPS / sweep / "runs.parquet")
    runs = runs[runs["error"] == ""].groupby("pair", sort=False).first().reset_index()
    if held_out_first and sweep != "training":
        tuned = runs[["fixed_subject", "moving_subject"]].isin(("1000", "1001", "1002", "1006", "1007")).any(axis=1)
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


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("encode",))
    parser.add_argument("sweep", choices=("training", "real-people"))
    parser.add_argument("--weights", type=Path, required=True, help="of SYMNet, for 7 start channels")
    parser.add_argument("--most", type=int, help="pairs to encode now")
    options = parser.parse_args()
    encode(options.sweep, options.weights, options.most)


if __name__ == "__main__":
    main()
