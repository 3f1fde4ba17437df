"""What an optimiser did, level by level: the metric's convergence, and why each level stopped, in plain words too.

Metric values of different pyramid levels come from different images and are never compared with each other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class LevelTrace:
    """One pyramid level of one stage.

    Attributes
    ----------
    stage : "rigid", "similarity", "affine" or "deformable".
    level : 0 is the coarsest.
    shrink_factor : the grid is this many times coarser than the finest one.
    smoothing_sigma_mm : standard deviation of the Gaussian applied to the images, in mm.
    metric : name of the metric that `values` holds; lower is better for all of them.
    values : the metric at each iteration event. SimpleITK's gradient descents report it for the parameters before the
        step of that iteration, so the last one may lag a step behind.
    end_value : the metric of the returned transform, on the same samples as `values`; None where an engine has none.
    iteration_limit : most iterations allowed on this level.
    stop_reason : the optimiser's own words.
    seconds : wall-clock time.
    """

    stage: str
    level: int
    shrink_factor: float
    smoothing_sigma_mm: float
    metric: str
    values: tuple[float, ...]
    end_value: float | None
    iteration_limit: int
    stop_reason: str
    seconds: float

    @property
    def hit_iteration_limit(self) -> bool:
        """Whether the level ran out of iterations instead of converging.

        The stop reason decides; the count only where that says nothing, because optimisers count differently.
        """
        meaning = self.stop_meaning
        return len(self.values) >= self.iteration_limit if meaning == UNKNOWN_STOP else meaning == _OUT_OF_ITERATIONS

    @property
    def stop_meaning(self) -> str:
        """The stop reason in plain words."""
        return explain_stop(self.stop_reason)


UNKNOWN_STOP = "The optimizer stopped for a reason of its own, quoted above."
"""The meaning of stop reasons that nobody has put into plain words; for pages that quote the reason itself above it."""

_OUT_OF_ITERATIONS = "It used all the iterations it was allowed and might have improved further."
_LINE_GAVE_UP = "The search along one direction gave up; the best point so far is kept."
_FLAT = "Further steps changed almost nothing: it converged."
_MEANINGS = (
    (r"maximum number of iterations|iteration limit", _OUT_OF_ITERATIONS),
    (r"convergence checker passed", "The metric had stopped changing: it converged."),
    (r"maximum number of (function )?evaluations", _LINE_GAVE_UP),
    (r"rounding error", "Numbers became too small for the computer to compare; the best point so far is kept."),
    (r"step too small|minimum step|step length", "The steps became too small to matter: it converged."),
    (r"already minimize", "The start was the best point already."),
    (r"gradient magnitude", "The metric was flat in every direction: it converged."),
    (r"value tolerance|function tolerance|delta|parameter tolerance|cost function", _FLAT),
    (r"sufficient decrease|success", "It found a minimum: it converged."),
    (r"line ?-?search", _LINE_GAVE_UP),
    (r"in one pass", "A trained network gives its displacements at once: there is nothing to converge."),
    (r"rms change", "The displacements had stopped changing: it converged."),
)


def explain_stop(reason: str) -> str:
    """Say in plain words what an optimiser's stop condition means.

    Parameters
    ----------
    reason : ``ImageRegistrationMethod.GetOptimizerStopConditionDescription()`` or an engine's own words.
    """
    found = (meaning for pattern, meaning in _MEANINGS if re.search(pattern, reason, flags=re.IGNORECASE))
    return next(found, UNKNOWN_STOP)
