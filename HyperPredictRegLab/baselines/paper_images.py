"""Small images of a sweep's pairs, for the paper's baseline: it looks at images, ours at features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.progress import CancelCheck, Progress, ProgressEvent, never, silent, stop_if
from HyperPredictRegLib.threads import threads

from HyperPredictRegLab.baselines.paper import paper_image
from HyperPredictRegLab.sweep.descriptions import affine_from
from HyperPredictRegLab.sweep.manifest import ManifestPair, read_manifest
from HyperPredictRegLab.sweep.running import RUNS
from HyperPredictRegLab.sweep.runs import PreparedPair, SweepSettings

FOLDER = "paper-images"


def write_paper_images(
    manifest: Path | str, sweep: Path | str, *, progress: Progress = silent, cancelled: CancelCheck = never
) -> Path:
    """Write one small image of every registered pair into a folder of the sweep, with the affine step found there.

    Pairs that have theirs are left out, so it can be stopped and go on. About half a megabyte each.

    Raises
    ------
    InputError : the manifest cannot be read or the sweep has no table.
    Cancelled : the caller asked to stop.
    """
    sweep = Path(sweep)
    if not (sweep / RUNS).is_file():
        raise InputError(f"'{sweep}' has no {RUNS}: finish the sweep first.")
    runs = pd.read_parquet(sweep / RUNS)
    first = runs[runs["error"] == ""].groupby("pair").first()
    pairs = [pair for pair in read_manifest(manifest) if pair.pair in first.index]
    folder = sweep / FOLDER
    folder.mkdir(exist_ok=True)
    for done, pair in enumerate(pairs):
        stop_if(cancelled)
        progress(ProgressEvent("images", done / len(pairs), f"{done} of {len(pairs)} images"))
        path = image_path(folder, pair.pair)
        if not path.exists():
            temporary = path.with_suffix(".tmp.npy")
            np.save(temporary, _image(pair, first.loc[pair.pair]))
            temporary.replace(path)
    return folder


def read_paper_images(sweep: Path | str, pairs: tuple[str, ...]) -> np.ndarray | None:
    """Return the images of `pairs`, shape (P, 2, k, j, i), or None if any of them is not there."""
    paths = [image_path(Path(sweep) / FOLDER, pair) for pair in pairs]
    return np.stack([np.load(path) for path in paths]) if all(path.exists() for path in paths) else None


def image_path(folder: Path, pair: str) -> Path:
    """Return the file of a pair's image."""
    return folder / f"{pair}.npy"


def _image(pair: ManifestPair, run: pd.Series) -> np.ndarray:
    matrix = {str(name): float(value) for name, value in run.filter(like="affine_matrix_").items()}
    with threads(1):
        prepared = PreparedPair.of(pair, SweepSettings(preset=str(run["preset"])), affine_from(matrix))
        return paper_image(prepared.pair).astype(np.float16)
