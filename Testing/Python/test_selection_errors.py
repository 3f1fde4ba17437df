"""A choice by the expected error, where no Dice is predicted: the mirror image of one by Dice, but for what may be given up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.results.job import RULES, Criterion
from HyperPredictRegLib.results.prediction import Band, PredictionSurface
from HyperPredictRegLib.selection import choose, corrected, knee, objective, pareto_front, per_structure, predict_at
from HyperPredictRegLib.selection.choice import ERROR_SHARE, ERROR_VOXELS
from hypothesis import given
from test_selection import SPACE, WEIGHT, any_curves, chosen, criteria, curves_of, like_demons, trial


def errors_of(surface: PredictionSurface, voxel_mm: float = 2.0, most: float = 2.0) -> PredictionSurface:
    """Return a surface that predicts an error in mm, `most` without its mean Dice, and no Dice."""
    dice = surface.mean_dice
    error = Band(*(most - part for part in (dice.value, dice.upper, dice.lower)))
    none = Band(*(np.zeros((0, len(surface.values))) for _ in range(3)))
    return replace(
        surface, structures=(), labels=(), dice=none, mean_dice=None, error_mm=error, error_95_mm=error, voxel_mm=voxel_mm
    )


@given(any_curves(), criteria)
def test_the_least_error_is_chosen_just_as_the_highest_dice(surface: PredictionSurface, criterion: Criterion) -> None:
    plain = replace(criterion, combine="mean")
    # Nothing is rounded where 0 is the most, so that ties stay ties.
    errors = errors_of(surface, most=0.0)
    for rule in ("maximum", "knee"):
        asked = replace(plain, rule=rule)
        assert chosen(errors, asked) == chosen(surface, asked)
    assert knee(errors, plain) == knee(surface, plain)
    np.testing.assert_array_equal(pareto_front(errors, plain), pareto_front(surface, plain))
    assert objective(errors, criterion) is errors.error_mm
    assert per_structure(errors, criterion) == ()


@given(any_curves(), criteria)
def test_the_plateau_gives_up_a_share_of_the_error_or_a_part_of_a_voxel(
    surface: PredictionSurface, criterion: Criterion
) -> None:
    for voxel_mm in (0.0, 0.1, 8.0):
        errors = errors_of(surface, voxel_mm)
        least, plateau = (chosen(errors, replace(criterion, rule=rule)) for rule in ("maximum", "plateau"))
        value = errors.error_mm.value
        assert value[plateau] <= value[least] + max(ERROR_SHARE * value[least], ERROR_VOXELS * voxel_mm) + 1e-12
        assert errors.sd_log_jacobian.value[plateau] <= errors.sd_log_jacobian.value[least]


def test_the_plateau_is_as_wide_as_it_says() -> None:
    errors = errors_of(curves_of(np.array([0.9, 1.0, 0.98, 0.96, 0.5]), np.zeros(5)))  # 1.1, 1, 1.02, 1.04 and 1.5 mm
    assert [chosen(replace(errors, voxel_mm=voxel), Criterion(rule="plateau")) for voxel in (0.0, 0.5, 2.1)] == [2, 2, 3]


@pytest.mark.parametrize("rule", RULES)
def test_the_sentence_names_the_error_in_mm(rule: str) -> None:
    errors = errors_of(like_demons())
    choice = choose(errors, Criterion(rule=rule, structures={"structure 1": 1.0}), "bootstrap")
    assert choice.predicted is not None and choice.predicted.mean_dice is None and choice.predicted.counted_dice is None
    assert choice.predicted.error_mm is not None and choice.predicted.error_95_mm is not None
    assert f"({choice.predicted.error_mm.value:.2f} mm)" in choice.sentence and "Dice" not in choice.sentence
    assert predict_at(errors, choice.setting, "bootstrap").error_mm.value == pytest.approx(choice.predicted.error_mm.value)


def test_what_has_neither_dice_nor_error_is_refused() -> None:
    with pytest.raises(ValueError, match="Neither Dice nor an error"):
        replace(errors_of(like_demons()), error_mm=None)
    with pytest.raises(ValueError, match="Structures need their mean Dice"):
        replace(like_demons(), mean_dice=None, error_mm=like_demons().mean_dice)
    nothing = np.full(300, np.nan)
    with pytest.raises(InputError, match="No error could be predicted"):
        choose(replace(errors_of(like_demons()), error_mm=Band(nothing, nothing, nothing)), Criterion())


def test_the_closed_loop_goes_on_with_errors_as_with_dice() -> None:
    surface, criterion = like_demons(), Criterion(rule="maximum")
    trials = [trial(0.5, 3.0, criterion)]
    again = corrected(errors_of(surface), criterion, trials, SPACE)
    assert again is not None and again[WEIGHT] > 0.52
    assert again[WEIGHT] == corrected(surface, criterion, trials, SPACE)[WEIGHT]
