"""Folding limits at the edge of what can be foreseen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from HyperPredictRegLib.job import Criterion
from HyperPredictRegLib.selection import choose
from reporting_samples import make_curves


def test_a_limit_below_what_bands_can_tell_does_not_cost_dice() -> None:
    curves = make_curves(("hippocampus",))
    weight = curves.values[:, 0]
    folding = curves.folding_foreground
    # As the bundled predictor has it: the band's upper end never comes below what can be told from no folding.
    curves = replace(curves, folding_foreground=replace(folding, upper=np.maximum(folding.upper, 0.03)))
    far_below, just_below, above = (choose(curves, Criterion(folding_limit=limit)) for limit in (0.001, 0.02, 0.1))
    assert above.feasible and not just_below.feasible and not far_below.feasible
    assert "no setting is foreseen that keeps folding under 0.02 % of the foreground for certain" in just_below.sentence
    dice = curves.mean_dice.value
    assert dice[just_below.index] > dice[-1] + 0.02
    assert weight[just_below.index] >= weight[above.index]
    assert folding.value[far_below.index] < 0.001
