"""NumPy against torch on the hot path of the engine `diffeo`, and how far the two results lie apart.

    python benchmarks/array_backends.py operations               the parts of one iteration, on made-up fields
    python benchmarks/array_backends.py pairs --cache FOLDER     whole registrations of real pairs; alignments stay in the cache
    python benchmarks/array_backends.py operations --device cuda beside torch on a graphics card

One thread each, CPU seconds (on a graphics card: seconds until it has finished), the best of several runs. The pairs are
brains of people that `diffeo` was tuned on: this measures programs, not quality.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffeo import DATA, SEED, aligned
from HyperPredictRegLib.core.resources import threads
from HyperPredictRegLib.engines.diffeo import DiffeoEngine, in_millimeters
from HyperPredictRegLib.engines.diffeo_scheme import DiffeoSettings, Scheme
from HyperPredictRegLib.engines.fields import NUMPY
from HyperPredictRegLib.engines.masked_array import MaskedArray
from HyperPredictRegLib.engines.similarity import SIMILARITIES
from HyperPredictRegLib.engines.tensor_fields import opened
from HyperPredictRegLib.engines.voxel_fields import Workers
from HyperPredictRegLib.quality.measurement import nearest
from HyperPredictRegLib.quality.metrics import dice_coefficients
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import composed, field_transform
from lambda_table import STRUCTURES, TUNED_ON
from scipy.ndimage import gaussian_filter

SHAPE = (92, 108, 88)
"""About the working grid of a brain at 2 mm."""

RUNS = 9
WORKERS = Workers()


def seconds(work: Callable[[], Any], on_card: bool) -> float:
    """Return the least time that some work took: of this thread, or until the graphics card has finished."""
    clock = time.perf_counter if on_card else time.thread_time
    found = []
    for _ in range(RUNS):
        if on_card:
            torch.cuda.synchronize()
        started = clock()
        work()
        if on_card:
            torch.cuda.synchronize()
        found.append(clock() - started)
    return min(found)


def operations(fields: Any) -> dict[str, Callable[[], Any]]:
    """Return the parts of one iteration as calls on arrays of `fields`; each gives an array to compare."""
    random = np.random.default_rng(SEED)
    images = [gaussian_filter(random.random(SHAPE, np.float32), 1.0) * 3 for _ in range(2)]
    vectors = np.stack([gaussian_filter(random.standard_normal(SHAPE).astype(np.float32), 3.0) for _ in range(3)])
    fixed, moving = (fields.given(image) for image in images)
    field, update = (fields.given(vectors * np.float32(size / np.abs(vectors).max())) for size in (3.0, 0.4))
    sampler = fields.sampler([moving], sharp=1)

    def smoothed(sigma: float) -> Any:
        return fields.smooth(fields.copy(fixed), (sigma,) * 3, WORKERS)

    def composed_field() -> Any:
        made = fields.copy(field)
        fields.compose(made, update, WORKERS)
        return made

    made: dict[str, Callable[[], Any]] = {
        "smooth, λ 0.45": lambda: smoothed(0.45),
        "smooth, σ 1.2": lambda: smoothed(1.2),
        "smooth, σ 3": lambda: smoothed(3.0),
        "warp an image": lambda: sampler.warped(field, WORKERS)[0],
        "compose": composed_field,
    }
    for name in SIMILARITIES:
        similarity = fields.similarity(name, ((1, 1, 1), (2, 2, 2)), 0.1, (1.0, 1.0, 1.0))
        channels = similarity.channels(fixed, None, WORKERS)

        def force(similarity: Any = similarity, channels: Any = channels) -> Any:
            return similarity.force(channels, similarity.channels(moving, None, WORKERS), None, 0.5, WORKERS)[0]

        made[f"channels and force, {name}"] = force
    return made


def iteration(fields: Any) -> Callable[[], Any]:
    """Return a call that does one iteration, with what prepares it."""
    random = np.random.default_rng(SEED)
    image = gaussian_filter(random.random(SHAPE, np.float32), 2.0) * 6
    pair = MaskedArray(image), MaskedArray(np.roll(image, 1, 2), smoothed=True)
    settings = DiffeoSettings(similarity="lncc", iterations=(1,), coarsest_voxels=80, convergence_share=0.0)
    scheme = Scheme(settings, 0.45, 1.2, fields=fields)
    return lambda: scheme.register(*pair, workers=WORKERS)[0]


def print_operations(device: str) -> None:
    """Print the time of each operation with NumPy and with torch, and by how much the two results differ."""
    print(f"{SHAPE} voxels, torch {torch.__version__} on {device}, milliseconds; largest difference")
    with opened(device) as tensors:
        calls = [operations(fields) | {"one iteration": iteration(fields)} for fields in (NUMPY, tensors)]
        for name in calls[0]:
            of_numpy, of_torch = (one[name] for one in calls)
            times = 1e3 * seconds(of_numpy, on_card=False), 1e3 * seconds(of_torch, device != "cpu")
            result = of_torch()
            apart = np.abs(of_numpy() - (result if isinstance(result, np.ndarray) else tensors.numpy(result))).max()
            print(f"{name:26} {times[0]:8.1f} {times[1]:8.1f} {apart:9.1e}", flush=True)


def print_pairs(device: str, cache: Path, preset: str, similarity: str) -> None:
    """Print for each pair how long either way takes, how far the fields lie apart and how far Dice does."""
    folder = DATA / "brain-t1-nmm"
    settings = DiffeoSettings(similarity=similarity)
    for one, other in list(pairwise(TUNED_ON))[:3]:
        files = [folder / f"nmm_{who}_{what}.nii.gz" for who in (one, other) for what in ("t1", "aseg")]
        pair = aligned("brain", (one, other), files, cache)
        fixed, moving = pair[preset]
        fields, dice = [], []
        line = f"{one}-{other} {preset} {similarity}"
        for name in ("numpy", device):
            # The fast grid is coarser than the scans, which are smoothed for it.
            images = MaskedArray.of(fixed, None, "fixed"), MaskedArray.of(moving, None, "moving", preset == "fast")
            field, took = _registered(name, images, settings)
            fields.append(field)
            transform = composed(pair["align"], field_transform(in_millimeters(field, Geometry.of(fixed))))
            found = dice_coefficients(pair["fl"], nearest(pair["ml"], Geometry.of(pair["fl"]), transform))
            dice.append(np.mean([found.get(label, 0.0) for label in STRUCTURES]))
            line += f" | {name} {took:.1f} s, Dice {dice[-1]:.5f}"
        apart = np.linalg.norm(fields[0] - fields[1], axis=0)
        print(
            f"{line} | apart: mean {apart.mean():.1e}, largest {apart.max():.1e} voxels, Dice {dice[1] - dice[0]:+.1e}",
            flush=True,
        )


def _registered(name: str, pair: tuple[MaskedArray, MaskedArray], settings: DiffeoSettings) -> tuple[np.ndarray, float]:
    defaults = DiffeoEngine.info.search_space.defaults
    sigmas = defaults["regularization_weight"], defaults["fluid_sigma"]
    on_card = name not in ("numpy", "cpu")
    clock = time.perf_counter if on_card else time.thread_time
    with opened(name if name != "numpy" else "cpu") as tensors:
        started = clock()
        scheme = Scheme(settings, *sigmas, fields=NUMPY if name == "numpy" else tensors)
        field = scheme.register(*pair, workers=WORKERS)[0]
        return field, clock() - started


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("operations", "pairs"))
    parser.add_argument("--device", default="cpu", help="what torch computes on")
    parser.add_argument("--cache", type=Path, help="folder for alignments")
    parser.add_argument("--preset", default="fast", choices=("fast", "fine"))
    parser.add_argument("--similarity", default="lncc", choices=tuple(SIMILARITIES))
    words = parser.parse_args()
    torch.set_num_threads(1)
    with threads(1):
        if words.what == "operations":
            print_operations(words.device)
            return 0
        if words.cache is None or not DATA.is_dir():
            print("Give --cache, and HYPERPREDICTREG_DATA, the folder of the real labelled data.", file=sys.stderr)
            return 2
        words.cache.mkdir(parents=True, exist_ok=True)
        print_pairs(words.device, words.cache, words.preset, words.similarity)
    return 0


if __name__ == "__main__":
    sys.exit(main())
