"""Whether the affine step repeats: runs with one and with several threads, and with other seeds, in mm over the foreground.

    python benchmarks/alignment_reproducibility.py --data ../shared/data
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from HyperPredictRegLib.alignment import AlignmentSettings, align, foreground_points, stability
from HyperPredictRegLib.core.resources import threads
from HyperPredictRegLib.preprocessing.intensity import foreground


def main() -> None:
    """Print one line for each metric and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    paths = [options.data / "brain-t1-nmm" / f"nmm_{s}_t1.nii.gz" for s in ("1008", "1009")]
    fixed, moving = (sitk.ReadImage(str(p), sitk.sitkFloat32) for p in paths)
    masks = {"fixed_foreground": foreground(fixed), "moving_foreground": foreground(moving)}
    points = foreground_points(masks["fixed_foreground"])
    for metric in ("correlation", "mattes"):
        settings = AlignmentSettings(metric=metric, multi_start=False)
        places = []
        for count in (1, 2):
            with threads(count):
                runs = [align(fixed, moving, settings, seed=3, **masks).matrix for _ in range(options.runs)]
            places.append([points @ m[:3, :3].T + m[:3, 3] for m in runs])
            apart = max(float(np.linalg.norm(p - places[-1][0], axis=1).max()) for p in places[-1])
            print(f"{metric:12s} {count} thread(s), {options.runs} runs: at most {apart:.3g} mm apart", flush=True)
        apart = float(np.linalg.norm(places[1][0] - places[0][0], axis=1).max())
        print(f"{metric:12s} 1 against 2 threads: at most {apart:.3g} mm apart", flush=True)
        with threads(1):
            found = stability(fixed, moving, settings, seeds=range(1, options.runs + 1), **masks)
        print(
            f"{metric:12s} {options.runs} seeds: mean {found.mean_spread_mm:.3g} mm from their mean, "
            f"at most {found.largest_spread_mm:.3g} mm (limit {found.limit_mm:.2g} mm)", flush=True,
        )


if __name__ == "__main__":
    main()
