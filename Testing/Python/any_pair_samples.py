"""Tables of a sweep over several domains and both parameters of an engine, with a known relation between evidence and outcome."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from HyperPredictRegLib.engines import engine_settings, get_engine
from HyperPredictRegLib.engines.base import settings_hash
from HyperPredictRegLib.predictor.bootstrap import ERRORS
from HyperPredictRegLib.predictor.coarse_pair import coarse_settings
from HyperPredictRegLib.predictor.features import VERSION

from HyperPredictRegLab.training.building import Description, build
from HyperPredictRegLab.training.examples import Examples, examples_from
from HyperPredictRegLab.training.fitting import TrainingSettings

ENGINE = "diffeo"
QUICK = TrainingSettings(epochs=50, knots=4, width=16, dropout=0.1, without_tokens=0.0, unknown=0.0, ridge=0.02, smoothness=1e-2)
UNIT_MM = 3.0


def error_voxels(values: np.ndarray, best: float, level: float) -> np.ndarray:
    """Return the planted median error at settings (n, 2): least at λ = `best`, a little more for every σ off 1.2."""
    first, second = np.log(values[:, 0] / best), np.log(values[:, 1] / 1.2)
    return level * np.exp(0.35 * first**2 + 0.1 * second**2)


def folding_percent(setting: np.ndarray) -> float:
    """Return the planted folding at a setting (2,)."""
    return float(min(np.exp(2 - 6 * np.log(setting[0] / 0.3) - 3 * np.log(setting[1] / 0.7)), 60.0))


def planted_tables(domains: int = 6, pairs: int = 10, seed: int = 5, spoiled: float = 0.25) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Make a runs table and a features table; in `spoiled` of the pairs the alignment has failed, which the evidence shows."""
    random = np.random.default_rng(seed)
    engine = get_engine(ENGINE)
    space = engine.info.search_space
    probes = coarse_settings(space)
    runs, features = [], []
    for domain in range(domains):
        for number in range(pairs):
            name, failed = f"d{domain}-{number:02d}", random.random() < spoiled
            best, level = np.exp(random.normal(-0.7, 0.4)), np.exp(random.normal(-0.8, 0.3)) * (6 if failed else 1)
            affine = level * 3
            # The bootstrap takes every error for a fifth too small.
            told = 0.8 * error_voxels(probes, best, level) * np.exp(random.normal(scale=0.05, size=len(probes)))
            # Of the two errors that it goes by, one lies above and one below what it takes them for together.
            both = zip(ERRORS, (1.25, 0.8), strict=True)
            evidence = {f"evidence_{error}_{n}": np.log(share * value) for error, share in both for n, value in enumerate(told)}
            evidence |= {f"evidence_folding_{n}": np.log(folding_percent(row) + 0.01) for n, row in enumerate(probes)}
            evidence |= {"evidence_bootstrap_nothing": np.log(0.8 * affine), "evidence_log_spacing_mm": np.log(UNIT_MM)}
            evidence |= {"evidence_bootstrap_nothing_edge": np.log(0.8 * affine), "evidence_explained": 0.6 - 0.4 * failed}
            evidence |= {"evidence_unexplained": np.log(0.4 + 0.4 * failed), "evidence_shell": 0.5 + 1.5 * failed}
            evidence |= {"evidence_correlation": float(not failed) * 0.5 + random.normal(scale=0.1)}
            evidence |= {"pair_log_voxel_mm": np.log(2.0), "pair_foreground_overlap": 0.9, "pair_idle": random.normal()}
            blank = {"pair": name, "features_version": VERSION, "error": ""}
            features.append({**blank, "label": 0, **evidence})
            sizes = random.normal(size=2)
            features += [{**blank, "label": label, "token_log_volume": size} for label, size in enumerate(sizes, 1)]
            for row in space.sample(8, int(random.integers(2**31))):
                error = UNIT_MM * error_voxels(row[None], best, level)[0]
                folding = folding_percent(row)
                dice = {f"dice_{n}": float(np.clip(0.9 - 0.02 * error + 0.03 * s, 0.01, 0.99)) for n, s in enumerate(sizes, 1)}
                runs.append({
                    "pair": name, "fixed_subject": f"{number}", "moving_subject": f"{number}m", "engine": ENGINE,
                    "settings_hash": settings_hash(engine, engine_settings(engine, {})), "preset": "fast", "error": "",
                    "domain": f"domain {domain}", "spacing_mm": 2.0, "best": best, **space.setting(row),
                    "folding_foreground": folding, "folding_grid": folding / 2,
                    "sd_log_jacobian": 0.3 / row[0], "error_mm_median": error, "error_mm_95": 2.5 * error,
                    "affine_error_mm_median": UNIT_MM * affine, "global_misfit_mm": 6.0 if failed else 0.5, "affine_dice": 0.5,
                    "dice": float(np.mean(list(dice.values()))), **dice,
                })  # fmt: skip
    return pd.DataFrame(runs), pd.DataFrame(features)


@cache
def planted_examples() -> Examples:
    """Return the planted tables as examples, once per process."""
    return replace(examples_from(*planted_tables()), alignment={})


def planted_cases(domains: int = 4, pairs: int = 8) -> Examples:
    """Return cases as a list of them is swept: the same λ for all, no tokens; half of each domain is for tuning."""
    runs, features = planted_tables(domains, pairs, seed=11)
    features = features[features["label"] == 0].drop(columns=["label", "features_version", "error", "token_log_volume"])
    first = runs.drop_duplicates("pair").drop(columns=["error", "global_misfit_mm", "dice", "dice_1", "dice_2"])
    rows = []
    for row in first.to_dict("records"):
        failed = row["affine_error_mm_median"] > 12
        own = {"use": ("test", "tune")[int(row["fixed_subject"]) < pairs // 2], "change": "turned 20" if failed else ""}
        for value in (0.25, 0.4, 0.55, 0.75, 1.0, 1.4, 2.0, 3.0):
            setting = np.array([[value, 1.2]])
            error = UNIT_MM * float(error_voxels(setting, row["best"], row["affine_error_mm_median"] / 3 / UNIT_MM)[0])
            known = {"error_mm_median": error, "error_mm_95": 2.5 * error, "folding_foreground": folding_percent(setting[0])}
            rows.append({**row, **own, **known, "regularization_weight": value, "fluid_sigma": 1.2})
    off = {row["pair"]: 3.0 if row["change"] else 0.3 for row in rows}
    return examples_from(pd.DataFrame(rows), features.assign(start_misfit_voxels=features["pair"].map(off)))


def small_any_bundle(folder: Path) -> Path:
    """Write a bundle over both parameters that was trained on the planted tables."""
    build(planted_examples(), folder, Description(name="planted", licence="none"), QUICK)
    return folder
