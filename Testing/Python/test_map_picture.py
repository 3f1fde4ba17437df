"""The map of a prediction over two parameters: what each pixel shows, and which setting it stands for. No Qt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from HyperPredictRegLib import engines
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.engines import get_engine
from HyperPredictRegLib.presentation.map_picture import (
    HEIGHT,
    LEAST_WIDTH,
    MapColors,
    MapPicture,
    folding_map,
    parameter_rounds,
    quality_map,
    rounds,
)
from HyperPredictRegLib.results.job import Criterion
from HyperPredictRegLib.results.prediction import Band, Prediction
from HyperPredictRegLib.selection import choose, feasible, interpolated
from hypothesis import given
from hypothesis import strategies as st
from two_parameter_engine import NAME, PLACE, SPACE, ripple_prediction, ripple_surface

LIGHT, DARK = MapColors("#efefef", "#000000"), MapColors("#353535", "#ffffff")
MARKS = {"chosen": "#00ff00", "fixed": "#0000ff"}
LIMIT_RGB = (192, 26, 26)


@pytest.fixture(scope="module")
def prediction() -> Prediction:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(engines.ENGINES, NAME, PLACE)
        return ripple_prediction(get_engine(NAME))


def limited(prediction: Prediction, **changes: object) -> Prediction:
    criterion = replace(prediction.criterion, **changes)
    return replace(prediction, criterion=criterion, choice=choose(prediction.surface, criterion, "someone"))


def inside(picture: MapPicture) -> np.ndarray:
    left, top, width, height = picture.area
    return picture.pixels[top : top + height, left : left + width].astype(int)


def red(picture: MapPicture) -> np.ndarray:
    return (inside(picture) == LIMIT_RGB).all(axis=-1)


@given(x=st.floats(0, 1), y=st.floats(0, 1))
def test_a_pixel_stands_for_its_setting(x: float, y: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(engines.ENGINES, NAME, PLACE)
        picture = quality_map(ripple_prediction(get_engine(NAME)), None, LEAST_WIDTH, LIGHT, {})
    setting = SPACE.setting(SPACE.from_unit(np.array([[x, y]]))[0])
    again = picture.setting_at(*picture.place_of(setting))
    left, top, width, height = picture.area
    assert again is not None
    found = SPACE.to_unit(SPACE.rows([again]))[0]
    assert abs(found[0] - x) <= 0.5001 / (width - 1) and abs(found[1] - y) <= 0.5001 / (height - 1)
    assert picture.setting_at(left - 1, top) is None and picture.setting_at(left, top + height) is None


def test_corners_are_the_ends_of_both_ranges(prediction: Prediction) -> None:
    picture = quality_map(prediction, None, 400, LIGHT, MARKS)
    left, top, width, height = picture.area
    assert picture.setting_at(left, top + height - 1) == {"damping": 0.0, "step": 0.05}
    assert picture.setting_at(left + width - 1, top) == {"damping": 10.0, "step": 2.0}
    assert picture.place_of({"damping": 99.0, "step": 1e-6}) == (left + width - 1, top + height - 1)


def test_colors_rise_with_dice_and_fall_with_the_error(prediction: Prediction) -> None:
    free = limited(prediction, folding_limit=None)
    surface = free.surface
    empty = Band(*[np.zeros((0, len(surface.values)))] * 3)
    by_error = replace(
        surface, structures=(), labels=(), dice=empty, mean_dice=None, error_mm=Band(*[1.0 - surface.mean_dice.value] * 3)
    )
    for one in (free, replace(free, surface=by_error)):
        picture = quality_map(one, None, 400, LIGHT, {})
        left, top, width, height = picture.area
        bar = picture.pixels[top : top + height, left + width + 10].astype(int).sum(axis=1)
        # The bar runs from the lowest value at its foot to the highest at its head.
        assert (bar[0] > bar[-1]) == (one is free)
        light = inside(picture).sum(axis=-1)
        best = picture.place_of(surface.space.setting(surface.values[surface.mean_dice.value.argmax()]))
        worst = picture.place_of(surface.space.setting(surface.values[surface.mean_dice.value.argmin()]))
        assert light[best[1] - top, best[0] - left] > light[worst[1] - top, worst[0] - left]


@pytest.mark.parametrize("cautious", [True, False])
def test_the_limit_lies_between_what_keeps_it_and_what_does_not(prediction: Prediction, cautious: bool) -> None:
    for picture in (
        quality_map(limited(prediction, cautious=cautious), None, 400, LIGHT, {}),
        folding_map(limited(prediction, cautious=cautious), 400, LIGHT, {}),
    ):
        line, (left, top, width, height) = red(picture), picture.area
        assert 100 < line.sum() < 5000
        # Going down from any place of the head, the first setting that keeps the limit lies at the line.
        for x in range(5, width // 3, 20):
            column = [picture.setting_at(left + x, top + y) for y in range(height)]
            here = interpolated(prediction.surface, SPACE.rows([one for one in column if one is not None]))
            keeps = feasible(here, Criterion(cautious=cautious))
            (changes,) = np.nonzero(np.diff(keeps.astype(int)))
            if len(changes):
                near = np.flatnonzero(line[:, x])
                assert len(near) and abs(near - changes[0]).min() <= 2
    assert not red(quality_map(limited(prediction, folding_limit=None), None, 400, LIGHT, {})).any()
    assert not red(quality_map(limited(prediction, folding_limit=99.0), None, 400, LIGHT, {})).any()


def test_marks_lie_where_their_settings_are(prediction: Prediction) -> None:
    picture = quality_map(prediction, None, 400, LIGHT, MARKS)
    for kind, setting, color in (
        ("chosen", prediction.choice.setting, (0, 255, 0)), ("fixed", prediction.choice.fixed, (0, 0, 255))
    ):  # fmt: skip
        x, y = picture.place_of(setting)
        assert tuple(picture.pixels[y, x]) == color, kind
    marked = picture.marked({"damping": 8.0, "step": 0.1}, "#ff00ff")
    rows, columns = np.nonzero((marked == (255, 0, 255)).all(axis=-1))
    x, y = picture.place_of({"damping": 8.0, "step": 0.1})
    assert (round(columns.mean()), round(rows.mean())) == (x, y)
    assert not (picture.pixels == (255, 0, 255)).all(axis=-1).any()
    unreliable = replace(prediction, choice=replace(prediction.choice, predicted=None))
    assert not (quality_map(unreliable, None, 400, LIGHT, MARKS).pixels == (0, 255, 0)).all(axis=-1).any()


def test_what_counts_is_drawn_and_named(prediction: Prediction) -> None:
    def title(one: Prediction, structure: str | None = None) -> str:
        return quality_map(one, structure, 400, LIGHT, {}).captions[0].text

    assert title(prediction) == "Mean Dice" and title(prediction, "core") == "Dice of core"
    assert title(limited(prediction, structures={"shell": 1.0})) == "Dice of shell"
    assert title(limited(prediction, combine="worst")) == "Lowest Dice of all structures"
    only = inside(quality_map(limited(prediction, structures={"shell": 1.0}), None, 400, LIGHT, {}))
    np.testing.assert_array_equal(only, inside(quality_map(prediction, "shell", 400, LIGHT, {})))
    assert (only != inside(quality_map(prediction, "core", 400, LIGHT, {}))).any()
    with pytest.raises(InputError, match="does not predict the structure 'tail'"):
        quality_map(replace(prediction, criterion=Criterion(structures={"tail": 1.0})), None, 400, LIGHT, {})


def test_axes_have_numbers_units_and_room(prediction: Prediction) -> None:
    for width in (50, 320, 700):
        for draw in (lambda w: quality_map(prediction, None, w, DARK, MARKS), lambda w: folding_map(prediction, w, DARK, MARKS)):
            picture = draw(width)
            texts = [one.text for one in picture.captions]
            assert picture.pixels.shape == (HEIGHT, max(width, LEAST_WIDTH), 3)
            assert "s, mm (smaller deforms less)" in texts and "d (larger deforms less)" in texts
            assert {"0", "10", "0.05", "2"} <= set(texts)
            for one in picture.captions:
                assert one.top >= 0 and one.top + one.height <= HEIGHT and one.left + one.width <= picture.pixels.shape[1]
            assert tuple(picture.pixels[0, 0]) == (0x35, 0x35, 0x35)
    assert "0.001 %" in texts and "10 %" in texts


def test_a_prediction_at_one_value_or_unknown_in_part_is_drawn(prediction: Prediction) -> None:
    values = np.array([[0.0, step] for step in (0.1, 0.5, 1.0)])
    single = replace(prediction, surface=ripple_surface(values))
    assert red(quality_map(single, None, 300, LIGHT, {})).any()
    surface = prediction.surface
    dice = surface.dice.value.copy()
    dice[0, surface.values[:, 0] > 5] = np.nan
    torn = replace(prediction, surface=replace(surface, dice=Band(dice, dice, dice)))
    gray = (inside(quality_map(torn, "shell", 400, LIGHT, {})) == (0x9A, 0x9A, 0x9A)).all(axis=-1)
    assert gray[:, -1].all() and not gray[:, 0].any()


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3), st.integers(2, 8))
def test_round_values_are_few_and_inside(low: float, extent: float, most: int) -> None:
    found = rounds(low, low + extent, most)
    slack = 1e-6 * (abs(low) + extent)
    assert 2 <= len(found) <= most and all(low - slack <= one <= low + extent + slack for one in found)


def test_a_logarithmic_axis_has_ones_twos_and_fives() -> None:
    damping, step = SPACE
    assert parameter_rounds(step, 0.05, 2.0, 8) == pytest.approx([0.05, 0.1, 0.2, 0.5, 1, 2])
    assert parameter_rounds(step, 0.05, 2.0, 2) == pytest.approx([0.1, 1])
    assert parameter_rounds(damping, 0.0, 10.0, 6) == pytest.approx([0, 2, 4, 6, 8, 10])
