"""Parameters and search spaces: any scale, any direction, any number of parameters."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.json_records import from_json, to_json
from HyperPredictRegLib.core.search_space import DIRECTIONS, SCALES, Parameter, SearchSpace
from hypothesis import given
from hypothesis import strategies as st


@st.composite
def parameters(draw: st.DrawFn, name: str = "p0") -> Parameter:
    """Any parameter: ranges through 0, below 0 and of many orders of magnitude."""
    scale, direction = draw(st.sampled_from(SCALES)), draw(st.sampled_from(DIRECTIONS))
    if scale == "log":
        low = draw(st.floats(1e-6, 1e3))
        high = low * draw(st.floats(1.01, 1e6))
    else:
        low = draw(st.floats(-1e3, 1e3))
        high = low + draw(st.floats(0.01, 1e4))
    default = low + draw(st.floats(0, 1)) * (high - low)
    return Parameter(name, name, "", scale, low, high, min(max(default, low), high), direction, name.upper(), "A number.")


spaces = st.integers(1, 3).flatmap(lambda count: st.tuples(*(parameters(f"p{n}") for n in range(count)))).map(SearchSpace)
shares = st.floats(0, 1)

WEIGHT = Parameter("weight", "λ", "voxels", "log", 0.5, 8.0, 1.0, "up", "Weight", "Higher is smoother.")
FREEDOM = Parameter("freedom", "f", "mm", "linear", 0.0, 10.0, 4.0, "down", "Freedom", "Lower is smoother.")
SPACE = SearchSpace((WEIGHT, FREEDOM))


@given(parameters(), shares)
def test_values_go_to_their_scale_and_back(parameter: Parameter, share: float) -> None:
    value = float(parameter.from_unit(share))
    assert parameter.holds(value)
    assert float(parameter.to_unit(value)) == pytest.approx(share, abs=1e-6)
    size = max(abs(parameter.low), abs(parameter.high))
    assert float(parameter.from_strength(parameter.strength(value))) == pytest.approx(value, abs=1e-9 * size)
    assert [float(parameter.from_unit(end)) for end in (0, 1)] == [parameter.low, parameter.high]


@given(parameters())
def test_strength_rises_toward_the_strongest_end(parameter: Parameter) -> None:
    low, high = parameter.strength(parameter.low), parameter.strength(parameter.high)
    assert (high > low) == (parameter.regularizes == "up") == (parameter.strongest == parameter.high)
    assert abs(float(high - low)) == pytest.approx(parameter.span)


@given(parameters())
def test_what_lies_outside_of_the_range_is_refused(parameter: Parameter) -> None:
    assert parameter.check(parameter.low) == parameter.low
    assert parameter.check(parameter.high) == parameter.high
    largest = max(abs(parameter.low), abs(parameter.high))
    below, above = (1e-6 * (end if parameter.scale == "log" else largest) for end in (parameter.low, parameter.high))
    for value in (parameter.low - below, parameter.high + above, math.nan, math.inf, -math.inf):
        with pytest.raises(InputError, match="choose a value from"):
            parameter.check(value)


def test_rounding_does_not_put_a_value_outside() -> None:
    assert WEIGHT.check(0.5 * (1 - 1e-12)) == 0.5
    assert WEIGHT.check(8.0 * (1 + 1e-12)) == 8.0
    np.testing.assert_array_equal(WEIGHT.holds(np.array([0.4999, 0.5, 8.0, 8.001, np.nan])), [False, True, True, False, False])


@given(spaces, st.integers(1, 5), st.integers(1, 40))
def test_grids_and_samples_lie_inside(space: SearchSpace, count: int, drawn: int) -> None:
    grid, sample = space.grid(count), space.sample(drawn, seed=3)
    assert grid.shape == (count ** len(space), len(space)) and sample.shape == (drawn, len(space))
    for values in (grid, sample):
        for column, parameter in enumerate(space):
            assert parameter.holds(values[:, column]).all()
    np.testing.assert_array_equal(sample, space.sample(drawn, seed=3))
    if count > 1:
        assert space.setting(grid[0]) == {p.name: p.low for p in space}
        assert space.setting(grid[-1]) == {p.name: p.high for p in space}


def test_a_grid_is_even_on_each_scale_and_its_first_parameter_changes_slowest() -> None:
    grid = SPACE.grid(5)
    np.testing.assert_allclose(grid[::5, 0], [0.5, 1, 2, 4, 8])
    np.testing.assert_allclose(grid[:5, 1], [0, 2.5, 5, 7.5, 10])


def test_samples_fill_each_axis_on_its_scale() -> None:
    unit = SPACE.to_unit(SPACE.sample(64, seed=1))
    for column in range(2):
        assert np.histogram(unit[:, column], bins=8, range=(0, 1))[0].tolist() == [8] * 8
    assert not np.array_equal(SPACE.sample(64, seed=1), SPACE.sample(64, seed=2))


@given(spaces, st.data())
def test_regularization_is_0_at_the_weakest_and_1_at_the_strongest_setting(space: SearchSpace, data: st.DataObject) -> None:
    weakest = {p.name: p.low if p.regularizes == "up" else p.high for p in space}
    np.testing.assert_allclose(space.regularization(space.rows([weakest, space.strongest])), [0, 1], atol=1e-9)
    place = np.array([[data.draw(shares) for _ in space]])
    np.testing.assert_allclose(space.shares(space.at_shares(place)), place, atol=1e-6)
    assert space.regularization(space.at_shares(place))[0] == pytest.approx(place.mean(), abs=1e-6)


@given(spaces)
def test_settings_go_to_rows_and_back_and_survive_json(space: SearchSpace) -> None:
    settings = [space.defaults, space.strongest]
    assert [space.setting(row) for row in space.rows(settings)] == settings
    assert from_json(SearchSpace, to_json(space), "the space") == space


def test_settings_are_completed_and_checked() -> None:
    assert SPACE.complete({}) == SPACE.defaults == {"weight": 1.0, "freedom": 4.0}
    assert SPACE.complete({"freedom": 0}) == {"weight": 1.0, "freedom": 0.0}
    with pytest.raises(InputError, match="The engine 'x' has no parameter 'lambda'; it has: weight, freedom"):
        SPACE.complete({"lambda": 1.0}, "x")
    with pytest.raises(InputError, match=r"freedom = -1 is outside .* from 0 to 10 mm"):
        SPACE.complete({"freedom": -1.0})


def test_ranges_can_be_narrowed_and_not_emptied() -> None:
    narrow = SPACE.narrowed("freedom", -5.0, 2.0)
    assert (narrow["freedom"].low, narrow["freedom"].high, narrow["freedom"].default) == (0.0, 2.0, 2.0)
    assert narrow["weight"] == WEIGHT and narrow.first == WEIGHT
    for low, high in ((11.0, 20.0), (3.0, 3.0), (math.inf, math.inf), (math.nan, 5.0)):
        with pytest.raises(InputError, match="no freedom that this engine can use"):
            SPACE.narrowed("freedom", low, high)


def test_settings_are_written_with_symbols_and_units() -> None:
    assert SPACE.text({"weight": 0.78123, "freedom": 2.5}) == "λ = 0.781, f = 2.5 mm"
    assert SPACE.text({"freedom": 2.5}) == "f = 2.5 mm"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": "cubic"}, "The scale of 'weight'"), ({"regularizes": "sideways"}, "its direction"),
        ({"low": 0.0}, "none on its scale"), ({"low": 9.0}, "none on its scale"), ({"high": math.inf}, "none on its scale"),
        ({"low": math.nan}, "none on its scale"), ({"default": 9.0}, "lies outside"), ({"default": math.nan}, "lies outside"),
    ],
)  # fmt: skip
def test_parameters_that_make_no_sense_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(WEIGHT, **change)


def test_spaces_need_parameters_of_different_names() -> None:
    for wrong in ((), (WEIGHT, WEIGHT)):
        with pytest.raises(InputError, match="at least one parameter, each with a name of its own"):
            SearchSpace(wrong)
