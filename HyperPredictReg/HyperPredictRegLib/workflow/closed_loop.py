"""The closed loop: register, measure folding, and while it exceeds the limit regularize more strongly and register again."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

from HyperPredictRegLib.core.progress import CancelCheck, Progress, ProgressEvent, interruptible
from HyperPredictRegLib.core.search_space import Setting
from HyperPredictRegLib.engines.base import Registration
from HyperPredictRegLib.quality.measurement import nearest
from HyperPredictRegLib.quality.metrics import folding_percent, jacobian_determinant, sd_log_jacobian
from HyperPredictRegLib.results.prediction import Choice, Prediction
from HyperPredictRegLib.results.report import LandmarkPull, Trial
from HyperPredictRegLib.selection import corrected, within_limit
from HyperPredictRegLib.spatial.transforms import displacement_field
from HyperPredictRegLib.workflow.planning import Plan
from HyperPredictRegLib.workflow.preparing import Prepared, task_of


@dataclass(frozen=True)
class Registered:
    """The last registration of the loop, all its trials, and how landmarks pulled the last one."""

    registration: Registration
    trials: tuple[Trial, ...]
    pull: LandmarkPull | None = None


def register_within_limit(
    plan: Plan,
    prepared: Prepared,
    choice: Choice,
    prediction: Prediction | None,
    progress: Progress,
    cancelled: CancelCheck,
) -> Registered:
    """Register with the chosen λ; where λ was not the user's choice, correct it until the measured folding keeps the limit.

    A repeat is a registration from scratch, so that its result is the one that a job with that λ gives.
    """
    surface = prediction.surface if prediction is not None and choice.by not in ("user", "fixed") else None
    setting: Setting | None = choice.setting
    trials: list[Trial] = []
    while setting is not None:
        if trials:
            progress(ProgressEvent("register", 0.0, f"folding over the limit: again, attempt {len(trials) + 1}"))
        registration, trial, pull = _tried(plan, prepared, setting, progress, cancelled)
        trials.append(trial)
        setting = None if choice.by == "user" else corrected(surface, plan.job.criterion, trials, prepared.space)
    return Registered(registration, tuple(trials), pull)


def _tried(
    plan: Plan, prepared: Prepared, setting: Setting, progress: Progress, cancelled: CancelCheck
) -> tuple[Registration, Trial, LandmarkPull | None]:
    """Register once, and measure folding as it is for the report: on the working grid, of the whole transform."""
    started = time.perf_counter()
    pair = prepared.pair
    found = plan.engine.register(task_of(plan, prepared, setting, progress, cancelled))
    pull, drawing = None, prepared.pull
    if drawing is not None:
        found, pull = interruptible(partial(drawing.after, found, pair.grid), cancelled)
    foreground = nearest(prepared.inputs.fixed.foreground, pair.grid)
    whole = interruptible(lambda: pair.whole_transform(found, prepared.affine), cancelled)
    jacobian = interruptible(lambda: jacobian_determinant(displacement_field(whole, pair.grid)), cancelled)
    folding = folding_percent(jacobian, foreground)
    trial = Trial(
        setting=dict(found.setting),
        folding_percent=folding,
        sd_log_jacobian=sd_log_jacobian(jacobian, foreground),
        within_limit=within_limit(folding, plan.job.criterion),
        seconds=time.perf_counter() - started,
    )
    return found, trial, pull
