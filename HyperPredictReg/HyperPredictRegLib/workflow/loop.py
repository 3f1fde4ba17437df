"""The closed loop: register, measure folding, and while it exceeds the limit raise λ and register again."""

from __future__ import annotations

import time
from dataclasses import dataclass

from HyperPredictRegLib.engines.base import Registration
from HyperPredictRegLib.job import Trial
from HyperPredictRegLib.measurement import nearest
from HyperPredictRegLib.predictor.choosing import ChosenLambda
from HyperPredictRegLib.progress import CancelCheck, Progress, ProgressEvent, stop_if
from HyperPredictRegLib.quality import folding_percent, jacobian_determinant, sd_log_jacobian
from HyperPredictRegLib.selection import corrected, within_limit
from HyperPredictRegLib.transforms import displacement_field
from HyperPredictRegLib.workflow.plan import Plan, Ready


@dataclass(frozen=True)
class Registered:
    """The last registration of the loop, and all its trials."""

    registration: Registration
    trials: tuple[Trial, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return sentences for the user."""
        return self.registration.warnings


def register_within_limit(
    plan: Plan, ready: Ready, chosen: ChosenLambda, progress: Progress, cancelled: CancelCheck
) -> Registered:
    """Register with the chosen λ; where λ was not the user's choice, correct it until the measured folding keeps the limit.

    Repeats start from the registration before, so they cost less than the first one. Folding is measured as it is for the
    report: on the working grid, of the whole transform.
    """
    engine, criterion, pair = plan.engine, plan.job.criterion, ready.pair
    foreground = nearest(ready.inputs.fixed.foreground, pair.grid)
    bounds = {h.name: (h.lower, h.upper) for h in engine.hyperparameters}
    values: dict[str, float] | None = dict(chosen.hyperparameters)
    trials: list[Trial] = []
    found: Registration | None = None
    while values is not None:
        if found is not None:
            progress(ProgressEvent("register", 0.0, f"folding over the limit: again, attempt {len(trials) + 1}"))
        started = time.perf_counter()
        found = engine.register(
            pair.fixed,
            pair.moving,
            values,
            plan.engine_settings,
            seed=plan.job.seed,
            fixed_mask=pair.fixed_mask,
            moving_mask=pair.moving_mask,
            start=None if found is None else found.transform,
            progress=progress,
            cancelled=cancelled,
        )
        stop_if(cancelled)
        field = displacement_field(pair.whole_transform(found, ready.alignment.transform), pair.grid)
        jacobian = jacobian_determinant(field)
        folding = folding_percent(jacobian, foreground)
        trials.append(
            Trial(
                hyperparameters=dict(found.hyperparameters),
                folding_percent=folding,
                sd_log_jacobian=sd_log_jacobian(jacobian, foreground),
                within_limit=within_limit(folding, criterion),
                seconds=time.perf_counter() - started,
            )
        )
        values = None if chosen.by == "user" else corrected(chosen.trusted_curves, criterion, trials, bounds)
    return Registered(found, tuple(trials))  # type: ignore[arg-type]
