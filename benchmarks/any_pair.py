"""Evidence about a pair without labels, each kind judged alone as a rule, on twelve kinds of images: see `docs/evidence.md`.

    python benchmarks/any_pair.py run --cache FOLDER [--minutes M]    what is missing, case by case; resumable
    python benchmarks/any_pair_rules.py [--figure FILE.png]           the tables that docs/evidence.md quotes

Every case of `any_pair_cases.py` is aligned, its evidence found, and registered by the default engine at the settings `LAMBDAS`
and, for the first case of each kind and use, `CROSS`, with one thread, at Fast or on 120,000 voxels where that is larger. The CPU
seconds of a case's first setting hold what its settings share.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
from any_pair_cases import FOLDER, AnyCase, cases, label_overlap, made_case, misfit_voxels, on_truth_grid, reference
from helpfulness_cases import SEED, Made
from HyperPredictRegLib.alignment.aligned_pair import AlignedPair
from HyperPredictRegLib.core.errors import InputError, RegistrationError
from HyperPredictRegLib.engines import get_engine
from HyperPredictRegLib.engines.base import Registration, RegistrationTask, for_pair, settings_hash, settled
from HyperPredictRegLib.predictor.evidence import PairEvidence, as_features, pair_evidence
from HyperPredictRegLib.predictor.features import pair_features
from HyperPredictRegLib.quality.benefit import coarse_grid
from HyperPredictRegLib.quality.measurement import nearest
from HyperPredictRegLib.quality.metrics import (
    dice_coefficients,
    folding_percent,
    jacobian_determinant,
    landmark_error,
    sd_log_jacobian,
)
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import displacement_field

ENGINE = get_engine("diffeo")
SETTINGS = ENGINE.settings_type()
LAMBDAS = (0.25, 0.4, 0.55, 0.75, 1.0, 1.4, 2.0, 3.0)
CROSS = tuple((weight, sigma) for sigma in (0.7, 2.0, 3.5) for weight in (0.25, 0.55, 1.4))
MOST_LABEL_VOXELS = 400_000
_MOST_LABEL = {"prostate MR-US": 1}
"""Other labels are landmarks."""


def run(cache: Path, minutes: float) -> None:
    """Make what is missing of every case, and write the tables."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    cache.mkdir(exist_ok=True, parents=True)
    until = time.monotonic() + 60 * minutes
    listed, crossed = cases(), set()
    for crossing in (False, True):
        for one in listed:
            stored = cache / f"{one.case.name}.{'cross' if crossing else 'case'}.json"
            first = (one.domain, one.case.use) not in crossed
            if crossing and (not first or one.case.change.startswith(("turned", "shifted"))):
                continue
            if crossing:
                crossed.add((one.domain, one.case.use))
            if stored.exists() or time.monotonic() > until:
                continue
            started = time.process_time()
            try:
                found = measured(one, cache, evidence=not crossing)
            except (InputError, RegistrationError) as error:
                found = {"error": str(error), "rows": []}
            stored.write_text(json.dumps(found))
            print(f"{one.case.name}: {time.process_time() - started:.1f} CPU s {found.get('error', '')}", flush=True)
    write_tables(cache, listed)


def measured(
    one: AnyCase, cache: Path, *, evidence: bool, weights: Sequence[float] = LAMBDAS, preset: str = ""
) -> dict[str, Any]:
    """Align and register a case at all `weights`, or at the settings of `CROSS` if its evidence is there already.

    `preset` : see `any_pair_cases.on_truth_grid`.
    """
    case = one.case
    made = made_case(case, cache)
    pair = on_truth_grid(case, made, preset)
    foreground = nearest(made.inputs.fixed.foreground, pair.grid)
    found: dict[str, Any] = {}
    if evidence:
        started = time.process_time()
        chosen = settled(ENGINE, task_of(pair, {}))
        about = pair_evidence(
            pair, foreground, nearest(made.inputs.moving.foreground, pair.grid, made.start), ENGINE, chosen, seed=SEED
        )
        seconds = time.process_time() - started
        blind = replace(
            made.inputs, fixed=replace(made.inputs.fixed, labels=None), moving=replace(made.inputs.moving, labels=None)
        )
        found = {
            "values": about.values.tolist(),
            "curves": {name: curve.tolist() for name, curve in about.curves.items()},
            "numbers": about.numbers,
            "remarks": about.remarks,
            "features": pair_features(blind, pair, made.start, ENGINE, chosen, seed=SEED).pair,
            "tokens": tokens_of(made, pair, chosen),
            "start": {
                "misfit_voxels": misfit_voxels(case, made, cache), "label_overlap": label_overlap(made), "cpu_seconds": seconds
            },
        }  # fmt: skip
        if case.change.startswith(("turned", "shifted")):
            found["start"]["label_overlap_before"] = label_overlap(made_case(replace(case, change=""), cache))
    settings = [{"regularization_weight": weight} for weight in weights]
    if not evidence:
        settings = [{"regularization_weight": weight, "fluid_sigma": sigma} for weight, sigma in CROSS]
    # A start that failed on purpose is not worth a whole table.
    elif case.change.startswith(("turned", "shifted")):
        settings = settings[1::3]
    truth = Truth.of(one, made, pair.grid)
    before = truth.measured(made.start, "affine_")
    register = for_pair(ENGINE, task_of(pair, {}))
    found["rows"] = [{**registered(truth, pair, foreground, register, setting), **before} for setting in settings]
    return found


def tokens_of(made: Made, pair: AlignedPair, chosen: Any) -> dict[int, dict[str, float]]:
    """Return what structures of the moving segmentation look like, by label; the fixed one is not looked at."""
    inputs = replace(made.inputs, fixed=replace(made.inputs.fixed, labels=None))
    if inputs.moving.labels is None:
        return {}
    return dict(pair_features(inputs, pair, made.start, ENGINE, chosen, seed=SEED).tokens)


def task_of(pair: AlignedPair, setting: dict[str, float]) -> RegistrationTask:
    """Return the registration of a pair at a setting."""
    return RegistrationTask(
        pair.fixed, pair.moving, setting, SETTINGS, SEED, view=pair.view, moving_smoothed=pair.moving_smoothed
    )


def registered(
    truth: Truth,
    pair: AlignedPair,
    foreground: sitk.Image,
    register: Callable[[dict[str, float]], Registration],
    setting: dict[str, float],
) -> dict[str, float]:
    """Register at one setting; return its row."""
    started = time.process_time()
    result = register(setting)
    seconds = time.process_time() - started
    jacobian = jacobian_determinant(displacement_field(result.transform, pair.grid))
    folding = folding_percent(jacobian, foreground)
    return {
        **result.setting,
        "folding_foreground": folding.foreground,
        "folding_grid": folding.grid,
        "sd_log_jacobian": sd_log_jacobian(jacobian, foreground),
        "spacing_mm": pair.grid.spacing[0],
        "cpu_seconds": seconds,
        **truth.measured(pair.whole_transform(result, truth.made.start)),
    }


@dataclass(frozen=True)
class Truth:
    """What a case's transforms are measured by, whichever is known.

    Attributes
    ----------
    made : the case.
    expected : without a warp, displacements (n, 3) at the foreground's voxels of `grid`, where a warp is known.
    inside : those voxels, boolean.
    fixed_labels, common : where labels tell; on a grid of at most `MOST_LABEL_VOXELS`, and which.
    """

    made: Made
    grid: Geometry
    expected: np.ndarray | None = None
    inside: np.ndarray | None = None
    fixed_labels: sitk.Image | None = None
    common: tuple[int, ...] = ()

    @classmethod
    def of(cls, one: AnyCase, made: Made, grid: Geometry) -> Truth:
        """Prepare the truth of a case whose working grid is given."""
        fixed, moving = made.inputs.fixed, made.inputs.moving
        if made.warp is not None:
            inside = sitk.GetArrayFromImage(nearest(fixed.foreground, grid)) != 0
            return cls(made, grid, sitk.GetArrayFromImage(displacement_field(reference(one.case), grid))[inside], inside)
        if fixed.labels is None or moving.labels is None:
            return cls(made, grid)
        coarse = coarse_grid(Geometry.of(fixed.labels), MOST_LABEL_VOXELS)
        labels = nearest(fixed.labels, coarse)
        common = np.intersect1d(
            *(np.unique(sitk.GetArrayViewFromImage(x)) for x in (labels, nearest(moving.labels, coarse, made.start)))
        )
        return cls(
            made, grid, fixed_labels=labels, common=tuple(int(x) for x in common if 0 < x <= _MOST_LABEL.get(one.domain, x))
        )

    def measured(self, transform: sitk.Transform, prefix: str = "") -> dict[str, float]:
        """Return Dice by label and its mean, landmark error or dense error of a transform; `prefix` is "affine_" or nothing."""
        fixed, moving = self.made.inputs.fixed, self.made.inputs.moving
        if self.expected is not None:
            there = displacement_field(sitk.CompositeTransform([self.made.warp, transform]), self.grid)
            off = np.linalg.norm(sitk.GetArrayViewFromImage(there)[self.inside] - self.expected, axis=-1)
            middle, worst = np.percentile(off, (50, 95))
            return {f"{prefix}error_mm_median": float(middle), f"{prefix}error_mm_95": float(worst)}
        if fixed.landmarks is not None and moving.landmarks is not None:
            return {f"{prefix}tre_mm": landmark_error(transform, fixed.landmarks, moving.landmarks).mean}
        if self.fixed_labels is None or not self.common:
            return {}
        dice = dice_coefficients(self.fixed_labels, nearest(moving.labels, Geometry.of(self.fixed_labels), transform))
        found = {label: dice.get(label, 0.0) for label in self.common}
        mean = {f"{prefix}dice": float(np.mean(list(found.values())))}
        return mean | {f"{prefix or 'dice_'}{label}": value for label, value in found.items()}


def write_tables(
    cache: Path, listed: Sequence[AnyCase], kinds: Sequence[str] = ("case", "cross"), preset: str = "fast", folder: Path = FOLDER
) -> None:
    """Write the tables of all cases that were made, whose files in the cache end with one of `kinds`."""
    runs, features = [], []
    for one in listed:
        case = one.case
        named = {"pair": case.name, "domain": one.domain, "use": case.use}
        subjects = {"fixed_subject": case.fixed, "moving_subject": case.moving, "change": case.change}
        for kind in kinds:
            stored = cache / f"{case.name}.{kind}.json"
            if not stored.exists():
                continue
            found = json.loads(stored.read_text())
            by = {"engine": ENGINE.info.name, "settings_hash": settings_hash(ENGINE, SETTINGS), "preset": preset, "seed": SEED}
            runs += [{**named, **subjects, **by, **row} for row in found["rows"]]
            if "curves" in found:
                about = PairEvidence(
                    np.array(found["values"]), {k: np.array(v) for k, v in found["curves"].items()}, found["numbers"]
                )
                features.append({
                    **named,
                    **{f"pair_{name}": value for name, value in found["features"].items()},
                    **{f"evidence_{name}": value for name, value in as_features(about).items()},
                    **{f"start_{name}": value for name, value in found["start"].items()},
                    "label": 0,
                })  # fmt: skip
                features += token_rows(named, found.get("tokens", {}))
    for name, rows in (("runs", runs), ("features", features)):
        table = pd.DataFrame(rows)
        numbers = table.select_dtypes("float").columns
        folder.mkdir(exist_ok=True, parents=True)
        table.astype(dict.fromkeys(numbers, "float32")).to_parquet(folder / f"{name}.parquet", index=False, compression="zstd")


def token_rows(named: dict[str, str], tokens: dict[Any, dict[str, float]]) -> list[dict[str, Any]]:
    """Return the rows of the features table that describe a pair's structures."""
    return [
        {**named, "label": int(label), **{f"token_{name}": value for name, value in token.items()}}
        for label, token in tokens.items()
    ]


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run",))
    parser.add_argument("--cache", type=Path, default=Path("benchmark-output"))
    parser.add_argument("--minutes", type=float, default=60.0, help="start no further case after so many")
    options = parser.parse_args()
    run(options.cache, options.minutes)


if __name__ == "__main__":
    main()
