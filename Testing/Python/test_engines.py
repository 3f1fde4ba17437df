"""The contract that every registered engine keeps, and what is particular to demons."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import blob_image, blob_labels
from HyperPredictRegLib.engines import engine_names, engine_settings, get_engine
from HyperPredictRegLib.engines.base import Engine, Hyperparameter, complete_hyperparameters, settings_hash
from HyperPredictRegLib.engines.demons import DemonsEngine, DemonsSettings
from HyperPredictRegLib.errors import Cancelled, InputError, RegistrationError
from HyperPredictRegLib.geometry import Geometry
from HyperPredictRegLib.progress import ProgressEvent
from HyperPredictRegLib.quality import dice_coefficients, folding_percent, jacobian_determinant
from HyperPredictRegLib.threads import threads
from HyperPredictRegLib.transforms import displacement_field

GRID = Geometry((40, 36, 32), (2.0, 2.0, 2.0), (-30.0, 11.0, 5.0), (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0))


@pytest.fixture(params=engine_names())
def engine(request: pytest.FixtureRequest) -> Engine:
    return get_engine(request.param)


def pair() -> tuple[sitk.Image, sitk.Image]:
    """Return an organ and the same organ shifted by 4 mm and squeezed, intensities 0 to about 1."""
    images = blob_image(GRID), blob_image(GRID, shift_mm=(3.0, -2.0, 2.0), bend=0.4)
    # Division by a number makes SimpleITK's images double precision, which engines do not take.
    fixed, moving = (sitk.Cast(image / 160, sitk.sitkFloat32) for image in images)
    return fixed, moving


def voxels(transform: sitk.Transform) -> np.ndarray:
    return sitk.GetArrayFromImage(displacement_field(transform, GRID))


def test_registration_brings_the_structures_together(engine: Engine) -> None:
    fixed, moving = pair()
    result = engine.register(fixed, moving, {}, engine.settings_type(), seed=1)
    fixed_labels, moving_labels = blob_labels(fixed * 160), blob_labels(moving * 160)
    warped = GRID.resample(moving_labels, result.transform, interpolator=sitk.sitkNearestNeighbor)
    before, after = dice_coefficients(fixed_labels, moving_labels), dice_coefficients(fixed_labels, warped)
    assert np.mean(list(after.values())) > np.mean(list(before.values())) + 0.1
    assert after[1] > 0.9
    ones = GRID.apply_to(sitk.Image(GRID.size, sitk.sitkUInt8) + 1)
    assert folding_percent(jacobian_determinant(displacement_field(result.transform, GRID)), ones).box == 0.0


def test_one_thread_gives_the_same_result_bit_for_bit(engine: Engine) -> None:
    fixed, moving = pair()
    with threads(1):
        results = [voxels(engine.register(fixed, moving, {}, engine.settings_type(), seed=5).transform) for _ in range(2)]
    np.testing.assert_array_equal(results[0], results[1])


def test_inputs_are_left_as_they_were(engine: Engine) -> None:
    fixed, moving = pair()
    before = sitk.Hash(fixed), sitk.Hash(moving)
    engine.register(fixed, moving, {}, engine.settings_type(), seed=1)
    assert (sitk.Hash(fixed), sitk.Hash(moving)) == before


def test_the_trace_tells_every_level(engine: Engine) -> None:
    fixed, moving = pair()
    result = engine.register(fixed, moving, {}, engine.settings_type(), seed=1)
    assert [t.level for t in result.levels] == list(range(len(result.levels)))
    assert result.seed == 1
    assert set(result.hyperparameters) == {h.name for h in engine.hyperparameters}
    for trace in result.levels:
        assert trace.stage == "deformable"
        assert trace.stop_reason
        assert trace.stop_meaning
        assert len(trace.values) <= trace.iteration_limit + 1
        assert np.isfinite(trace.values).all()


def test_progress_runs_from_start_to_end(engine: Engine) -> None:
    events: list[ProgressEvent] = []
    fixed, moving = pair()
    engine.register(fixed, moving, {}, engine.settings_type(), seed=1, progress=events.append)
    fractions = [e.fraction for e in events]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] < 0.5
    assert 0.5 < fractions[-1] <= 1


def test_nothing_of_a_run_stays_in_memory(engine: Engine) -> None:
    class Listener:
        def __call__(self, event: ProgressEvent) -> None:
            pass

    listener = Listener()
    gone = weakref.ref(listener)
    fixed, moving = pair()
    engine.register(fixed, moving, {}, engine.settings_type(), seed=1, progress=listener)
    del listener
    gc.collect()
    assert gone() is None


def test_cancel_ends_the_run_within_two_steps(engine: Engine) -> None:
    asked: list[int] = []
    steps: list[object] = []

    def cancelled() -> bool:
        # The second question comes from inside the first level.
        asked.append(len(steps))
        return len(asked) > 2

    fixed, moving = pair()
    with pytest.raises(Cancelled):
        engine.register(fixed, moving, {}, engine.settings_type(), seed=1, progress=steps.append, cancelled=cancelled)
    assert len(steps) <= asked[2] + 2


def test_a_mask_keeps_what_is_outside_of_it_from_pulling(engine: Engine) -> None:
    fixed, moving = pair()
    k, j, i = np.indices(GRID.size[::-1])
    spot = np.hypot(np.hypot(i - 5, j - 5), k - 5) < 3
    spoiled = moving + GRID.apply_to(sitk.GetImageFromArray(spot.astype(np.float32)))
    inside = GRID.apply_to(sitk.GetImageFromArray((np.hypot(np.hypot(i - 5, j - 5), k - 5) > 7).astype(np.uint8)))
    settings = engine.settings_type()
    clean = voxels(engine.register(fixed, moving, {}, settings, seed=1, fixed_mask=inside, moving_mask=inside).transform)
    masked = voxels(engine.register(fixed, spoiled, {}, settings, seed=1, fixed_mask=inside, moving_mask=inside).transform)
    np.testing.assert_allclose(masked, clean, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, -1.0, 1e6, float("nan"), float("inf")])
def test_values_out_of_range_are_refused(engine: Engine, value: float) -> None:
    fixed, moving = pair()
    with pytest.raises(InputError, match="choose a value from"):
        engine.register(fixed, moving, {engine.hyperparameters[0].name: value}, engine.settings_type(), seed=1)


def test_unknown_hyperparameters_are_refused(engine: Engine) -> None:
    with pytest.raises(InputError, match="has no hyperparameter 'stiffness'"):
        complete_hyperparameters(engine, {"stiffness": 1.0})


def test_the_default_lies_inside_the_range(engine: Engine) -> None:
    for parameter in engine.hyperparameters:
        assert parameter.check(parameter.default) == parameter.default


def test_settings_from_json_are_those_of_the_engine(engine: Engine) -> None:
    assert engine_settings(engine, {}) == engine.settings_type()
    with pytest.raises(InputError, match="unknown field 'speed'"):
        engine_settings(engine, {"speed": 11})


def test_unknown_engines_are_refused() -> None:
    with pytest.raises(InputError, match="no engine 'magic': choose one of demons, bspline"):
        get_engine("magic")


def test_a_logarithmic_grid_is_evenly_spaced_in_ratio() -> None:
    parameter = Hyperparameter("w", "λ", "", 0.5, 8.0, "log", 1.0, "A weight.")
    np.testing.assert_allclose(parameter.grid(5), [0.5, 1, 2, 4, 8])


def test_the_settings_hash_changes_with_any_setting() -> None:
    engine, settings = DemonsEngine(), DemonsSettings()
    assert settings_hash(engine, settings) == settings_hash(engine, DemonsSettings())
    assert settings_hash(engine, settings) != settings_hash(engine, replace(settings, maximum_step_voxels=0.9))


def test_a_higher_weight_gives_a_smoother_demons_field() -> None:
    fixed, moving = pair()
    spreads = []
    for weight in (0.6, 1.2, 2.4):
        result = DemonsEngine().register(fixed, moving, {"regularization_weight": weight}, DemonsSettings(), seed=1)
        determinant = sitk.GetArrayFromImage(jacobian_determinant(displacement_field(result.transform, GRID)))
        spreads.append(determinant.std())
    assert spreads[0] > spreads[1] > spreads[2]


def test_demons_are_the_same_on_one_thread_and_two() -> None:
    fixed, moving = pair()
    fields = []
    for count in (1, 2):
        with threads(count):
            fields.append(voxels(DemonsEngine().register(fixed, moving, {}, DemonsSettings(), seed=1).transform))
    np.testing.assert_array_equal(fields[0], fields[1])


def test_diffeomorphic_demons_register_without_folding_at_a_low_weight() -> None:
    fixed, moving = pair()
    settings = DemonsSettings(variant="diffeomorphic")
    result = DemonsEngine().register(fixed, moving, {"regularization_weight": 0.6}, settings, seed=1)
    warped = GRID.resample(moving, result.transform)
    before = np.abs(sitk.GetArrayFromImage(fixed) - sitk.GetArrayFromImage(moving)).mean()
    assert np.abs(sitk.GetArrayFromImage(fixed) - sitk.GetArrayFromImage(warped)).mean() < 0.5 * before


def test_a_diverged_run_is_an_error() -> None:
    fixed, moving = pair()
    broken = sitk.GetArrayFromImage(moving)
    broken[10, 10, 10] = np.nan
    with pytest.raises(RegistrationError, match="diverged"):
        DemonsEngine().register(fixed, GRID.apply_to(sitk.GetImageFromArray(broken)), {}, DemonsSettings(), seed=1)


@pytest.mark.parametrize(
    "settings",
    [{"variant": "angelic"}, {"iterations": []}, {"iterations": [0]}, {"maximum_step_voxels": 0}, {"coarsest_voxels": 1}],
)
def test_impossible_demons_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InputError):
        engine_settings(DemonsEngine(), settings)
