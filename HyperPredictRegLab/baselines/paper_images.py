"""Small images of a sweep's pairs, for the paper's baseline: it looks at images, ours at features."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.files import writing_into
from HyperPredictRegLib.progress import CancelCheck, Progress, ProgressEvent, never, silent, stop_if
from HyperPredictRegLib.threads import threads

from HyperPredictRegLab.baselines.paper import paper_image
from HyperPredictRegLab.sweep.descriptions import affine_from
from HyperPredictRegLab.sweep.manifest import ManifestPair, read_manifest
from HyperPredictRegLab.sweep.parts import part_name
from HyperPredictRegLab.sweep.runs import PreparedPair, SweepSettings
from HyperPredictRegLab.training.examples import RUNS
from HyperPredictRegLab.training.sweep_tables import check_columns, read_table

FOLDER = "paper-images"

MOST_BYTES = 20_000_000
"""Of one image, forty times of what it has."""


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
    runs = read_table(sweep / RUNS, "runs table")
    check_columns(runs, ("pair", "error"), "runs table")
    first = runs[runs["error"] == ""].groupby("pair").first()
    pairs = [pair for pair in read_manifest(manifest) if pair.pair in first.index]
    folder = sweep / FOLDER
    with writing_into(folder, "files", ""):
        folder.mkdir(exist_ok=True)
    for done, pair in enumerate(pairs):
        stop_if(cancelled)
        progress(ProgressEvent("images", done / len(pairs), f"{done} of {len(pairs)} images"))
        path = image_path(folder, pair.pair)
        if not path.exists():
            image = _image(pair, first.loc[pair.pair])
            temporary = path.with_suffix(".tmp.npy")
            with writing_into(folder, "files", ""):
                np.save(temporary, image)
                temporary.replace(path)
    return folder


def read_paper_images(sweep: Path | str, pairs: tuple[str, ...]) -> np.ndarray | None:
    """Return the images of `pairs`, shape (P, 2, k, j, i), or None if any of them is not there.

    Raises
    ------
    InputError : an image is damaged, or they are of different sizes.
    """
    paths = [image_path(Path(sweep) / FOLDER, pair) for pair in pairs]
    if not paths or not all(path.is_file() for path in paths):
        return None
    images = [_read_image(path) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.shape != images[0].shape:
            raise InputError(f"The image '{path}' has another size than that of the first pair: write the images anew.")
    return np.stack(images)


def image_path(folder: Path, pair: str) -> Path:
    """Return the file of a pair's image: called as the pair is, where a file can be."""
    plain = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", pair) is not None
    return folder / (f"{pair}.npy" if plain else Path(part_name(pair)).with_suffix(".npy"))


def _read_image(path: Path) -> np.ndarray:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has {path.stat().st_size / 1e6:.0f} MB")
        # Mapped first: what the header says is compared with the file's size before memory is taken for it.
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        image = np.array(mapped) if isinstance(mapped, np.ndarray) else None
        if image is None or image.ndim != 4 or len(image) != 2 or image.dtype.kind != "f":
            raise ValueError("it holds something else")
        if not np.isfinite(image).all():
            raise ValueError("it holds numbers that are not finite")
    except (OSError, ValueError, EOFError, SyntaxError, MemoryError, OverflowError) as error:
        raise InputError(f"'{path}' is no image of a pair for the paper's baseline ({error}): write the images anew.") from error
    return image


def _image(pair: ManifestPair, run: pd.Series) -> np.ndarray:
    matrix = {str(name): float(value) for name, value in run.filter(like="affine_matrix_").items()}
    with threads(1):
        prepared = PreparedPair.of(pair, SweepSettings(preset=str(run["preset"])), affine_from(matrix))
        return paper_image(prepared.pair).astype(np.float16)
