"""The contract that every registered engine keeps, and what is particular to demons."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import blob_image, blob_labels, engine_here
from HyperPredictRegLib.alignment.aligned_pair import AlignedPair
from HyperPredictRegLib.core.errors import Cancelled, InputError, RegistrationError
from HyperPredictRegLib.core.progress import ProgressEvent
from HyperPredictRegLib.core.resources import threads
from HyperPredictRegLib.engines import engine_infos, engine_names, engine_settings, get_engine
from HyperPredictRegLib.engines.base import Engine, Registration, RegistrationTask, settings_hash
from HyperPredictRegLib.engines.demons import DemonsEngine, DemonsSettings
from HyperPredictRegLib.predictor.probes import HalfPair, probe_settings, run_probes
from HyperPredictRegLib.quality.metrics import dice_coefficients, folding_percent, jacobian_determinant
from HyperPredictRegLib.results.job import DEFAULT_ENGINE
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import displacement_field

GRID = Geometry((40, 36, 32), (2.0, 2.0, 2.0), (-30.0, 11.0, 5.0), (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
SEED = 5


@pytest.fixture(params=engine_names())
def engine(request: pytest.FixtureRequest) -> Engine:
    return engine_here(request.param)


def pair() -> tuple[sitk.Image, sitk.Image]:
    """Return an organ and the same organ shifted by 4 mm and squeezed, intensities 0 to about 1."""
    images = blob_image(GRID), blob_image(GRID, shift_mm=(3.0, -2.0, 2.0), deform=0.4)
    # Division by a number makes SimpleITK's images double precision, which engines do not take.
    fixed, moving = (sitk.Cast(image / 160, sitk.sitkFloat32) for image in images)
    return fixed, moving


def task(engine: Engine, fixed: sitk.Image, moving: sitk.Image, setting: dict[str, float], **others: Any) -> RegistrationTask:
    return RegistrationTask(fixed, moving, setting, others.pop("settings", engine.settings_type()), **{"seed": SEED, **others})


def voxels(transform: sitk.Transform) -> np.ndarray:
    return sitk.GetArrayFromImage(displacement_field(transform, GRID))


@dataclass
class Run:
    """One registration by one engine that several tests look at, and what was seen of it."""

    engine: Engine
    result: Registration
    events: list[ProgressEvent]
    inputs_before: list[str]
    inputs_after: list[str]
    listener: weakref.ref[object]


@pytest.fixture(scope="module", params=engine_names())
def run(request: pytest.FixtureRequest) -> Run:
    """Register the pair once with each engine, with one thread."""
    engine = engine_here(request.param)
    fixed, moving = pair()
    before = [sitk.Hash(image) for image in (fixed, moving)]
    events: list[ProgressEvent] = []

    class Listener:
        def __call__(self, event: ProgressEvent) -> None:
            events.append(event)

    listener = Listener()
    gone = weakref.ref(listener)
    with threads(1):
        result = engine.register(task(engine, fixed, moving, {}, progress=listener))
    return Run(engine, result, events, before, [sitk.Hash(image) for image in (fixed, moving)], gone)


def test_registration_brings_the_structures_together(run: Run) -> None:
    fixed, moving = pair()
    fixed_labels, moving_labels = blob_labels(fixed * 160), blob_labels(moving * 160)
    warped = GRID.resample(moving_labels, run.result.transform, interpolator=sitk.sitkNearestNeighbor)
    before, after = dice_coefficients(fixed_labels, moving_labels), dice_coefficients(fixed_labels, warped)
    assert np.mean(list(after.values())) > np.mean(list(before.values())) + 0.1
    assert after[1] > 0.9
    ones = GRID.apply_to(sitk.Image(GRID.size, sitk.sitkUInt8) + 1)
    assert folding_percent(jacobian_determinant(displacement_field(run.result.transform, GRID)), ones).grid == 0.0


def test_one_thread_gives_the_same_result_bit_for_bit(run: Run) -> None:
    with threads(1):
        again = run.engine.register(task(run.engine, *pair(), {}))
    np.testing.assert_array_equal(voxels(again.transform), voxels(run.result.transform))


def test_inputs_are_left_as_they_were(run: Run) -> None:
    assert run.inputs_after == run.inputs_before


def test_the_trace_tells_every_level(run: Run) -> None:
    result = run.result
    assert [t.level for t in result.levels] == list(range(len(result.levels)))
    assert result.seed == SEED
    assert result.setting == run.engine.info.search_space.defaults
    for trace in result.levels:
        assert trace.stage == "deformable"
        assert trace.stop_reason
        assert trace.stop_meaning
        assert len(trace.values) <= trace.iteration_limit + 1
        assert np.isfinite(trace.values).all()


def test_progress_runs_from_start_to_end(run: Run) -> None:
    fractions = [e.fraction for e in run.events]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] < 0.5
    assert 0.5 < fractions[-1] <= 1


def test_nothing_of_a_run_stays_in_memory(run: Run) -> None:
    gc.collect()
    assert run.listener() is None


def test_cancel_ends_the_run_within_two_steps(engine: Engine) -> None:
    asked: list[int] = []
    steps: list[object] = []

    def cancelled() -> bool:
        # The later questions come from inside the first level.
        asked.append(len(steps))
        return len(asked) > 3

    with pytest.raises(Cancelled):
        engine.register(task(engine, *pair(), {}, progress=steps.append, cancelled=cancelled))
    assert len(steps) <= asked[3] + 2


def test_a_mask_keeps_what_is_outside_of_it_from_pulling(engine: Engine) -> None:
    fixed, moving = pair()
    k, j, i = np.indices(GRID.size[::-1])
    spot = np.hypot(np.hypot(i - 5, j - 5), k - 5) < 3
    spoiled = moving + GRID.apply_to(sitk.GetImageFromArray(spot.astype(np.float32)))
    inside = GRID.apply_to(sitk.GetImageFromArray((np.hypot(np.hypot(i - 5, j - 5), k - 5) > 7).astype(np.uint8)))
    clean, masked = (
        voxels(engine.register(task(engine, fixed, image, {}, fixed_mask=inside, moving_mask=inside)).transform)
        for image in (moving, spoiled)
    )
    np.testing.assert_allclose(masked, clean, atol=1e-6)


def halved(grid: Geometry) -> Geometry:
    """Return the grid of the probes of a pair on `grid`."""
    image = grid.apply_to(sitk.Image(grid.size, sitk.sitkFloat32))
    inside = grid.apply_to(sitk.Image(grid.size, sitk.sitkUInt8) + 1)
    return HalfPair.of(AlignedPair(grid, image, image, None, None), inside).grid


BRAIN = {preset: Geometry(tuple(round(mm / edge) for mm in (160, 200, 170)), (edge,) * 3)
         for preset, edge in (("fast", 2.0), ("standard", 1.5), ("fine", 1.0))}  # fmt: skip
GRIDS = {**BRAIN, "fast, halved": halved(BRAIN["fast"]), "mouse": Geometry((64, 72, 48), (0.25,) * 3), "small": GRID}


@pytest.mark.parametrize("name", GRIDS)
def test_the_search_space_of_a_grid_is_what_is_accepted_there(engine: Engine, name: str) -> None:
    grid, settings = GRIDS[name], engine.settings_type()
    space = engine.search_space(grid, settings)
    image = grid.apply_to(sitk.Image(grid.size, sitk.sitkFloat32))

    def accepted(setting: dict[str, float]) -> bool:
        # Whoever cancels at once gets to where the setting was checked.
        try:
            engine.register(task(engine, image, image, setting, cancelled=lambda: True))
        except Cancelled:
            return True
        except InputError:
            return False
        raise AssertionError("A registration that was cancelled came to an end.")

    assert space.names == engine.info.search_space.names
    for row in np.vstack([space.grid(3), space.sample(16, seed=1), space.rows([space.defaults])]):
        assert accepted(space.setting(row))
    for setting in probe_settings(space):
        assert accepted(setting)
    for parameter in space:
        beyond = (parameter.low - 1e-6 * abs(parameter.low), parameter.high + 1e-6 * abs(parameter.high))
        assert not any(accepted({**space.defaults, parameter.name: value}) for value in beyond)


def test_probes_of_any_engine_run_on_the_halved_grid(engine: Engine) -> None:
    fixed, moving = pair()
    inside = sitk.Cast(fixed > 0.05, sitk.sitkUInt8)
    half = HalfPair.of(AlignedPair(GRID, fixed, moving, None, None), inside)
    settings = engine.settings_type()
    probes = run_probes(engine, settings, half, probe_settings(engine.search_space(half.grid, settings)), seed=1)
    before = np.abs(sitk.GetArrayFromImage(half.fixed) - sitk.GetArrayFromImage(half.moving))[half.foreground].mean()
    fixed_voxels = sitk.GetArrayFromImage(half.fixed)
    after = [np.abs(fixed_voxels - probe.warped)[half.foreground].mean() for probe in probes]
    assert all(error < before for error in after)
    spreads = [np.log(np.clip(probe.jacobian[half.foreground], 1e-3, None)).std() for probe in probes]
    assert spreads == sorted(spreads, reverse=True)


@pytest.mark.parametrize("value", [0.0, -1.0, 1e6, float("nan"), float("inf")])
def test_values_out_of_range_are_refused(engine: Engine, value: float) -> None:
    with pytest.raises(InputError, match="choose a value from"):
        engine.register(task(engine, *pair(), {engine.info.search_space.first.name: value}))


def test_unknown_parameters_are_refused(engine: Engine) -> None:
    with pytest.raises(InputError, match="has no parameter 'rigidity'"):
        engine.info.search_space.complete({"rigidity": 1.0}, engine.info.name)


def test_the_default_lies_inside_the_range(engine: Engine) -> None:
    for parameter in engine.info.search_space:
        assert parameter.check(parameter.default) == parameter.default


def test_settings_from_json_are_those_of_the_engine(engine: Engine) -> None:
    assert engine_settings(engine, {}) == engine.settings_type()
    with pytest.raises(InputError, match="unknown field 'speed'"):
        engine_settings(engine, {"speed": 11})


def test_unknown_engines_are_refused() -> None:
    with pytest.raises(InputError, match=f"no engine 'magic': choose one of {', '.join(engine_names())}"):
        get_engine("magic")


def test_the_default_engine_is_the_first() -> None:
    assert engine_names()[0] == DEFAULT_ENGINE == engine_infos()[0].name
    assert [info.name for info in engine_infos()] == list(engine_names())


def test_an_engine_without_its_package_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = replace(DemonsEngine.info, packages={"no_such_package": "install the extension X"})
    monkeypatch.setattr(DemonsEngine, "info", lacking)
    with pytest.raises(InputError, match=r"needs the Python package 'no_such_package'.*: install the extension X\."):
        get_engine(DemonsEngine.info.name)
    assert "install the extension X" in engine_infos()[engine_names().index("demons")].unavailable
    assert not replace(lacking, packages={"numpy": "pip install numpy"}).unavailable


def test_the_settings_hash_changes_with_any_setting() -> None:
    engine, settings = DemonsEngine(), DemonsSettings()
    assert settings_hash(engine, settings) == settings_hash(engine, DemonsSettings())
    assert settings_hash(engine, settings) != settings_hash(engine, replace(settings, maximum_step_voxels=0.9))


def test_a_higher_weight_gives_a_smoother_demons_field() -> None:
    fixed, moving = pair()
    spreads = []
    for weight in (0.6, 1.2, 2.4):
        result = DemonsEngine().register(task(DemonsEngine(), fixed, moving, {"regularization_weight": weight}))
        determinant = sitk.GetArrayFromImage(jacobian_determinant(displacement_field(result.transform, GRID)))
        spreads.append(determinant.std())
    assert spreads[0] > spreads[1] > spreads[2]


def test_demons_are_the_same_on_one_thread_and_two() -> None:
    fixed, moving = pair()
    fields = []
    for count in (1, 2):
        with threads(count):
            fields.append(voxels(DemonsEngine().register(task(DemonsEngine(), fixed, moving, {})).transform))
    np.testing.assert_array_equal(fields[0], fields[1])


def test_diffeomorphic_demons_register_without_folding_at_a_low_weight() -> None:
    fixed, moving = pair()
    settings = DemonsSettings(variant="diffeomorphic")
    result = DemonsEngine().register(task(DemonsEngine(), fixed, moving, {"regularization_weight": 0.6}, settings=settings))
    warped = GRID.resample(moving, result.transform)
    before = np.abs(sitk.GetArrayFromImage(fixed) - sitk.GetArrayFromImage(moving)).mean()
    assert np.abs(sitk.GetArrayFromImage(fixed) - sitk.GetArrayFromImage(warped)).mean() < 0.5 * before


def test_a_diverged_run_is_an_error() -> None:
    fixed, moving = pair()
    broken = sitk.GetArrayFromImage(moving)
    broken[10, 10, 10] = np.nan
    with pytest.raises(RegistrationError, match="diverged"):
        DemonsEngine().register(task(DemonsEngine(), fixed, GRID.apply_to(sitk.GetImageFromArray(broken)), {}))


@pytest.mark.parametrize(
    "settings",
    [{"variant": "angelic"}, {"iterations": []}, {"iterations": [0]}, {"maximum_step_voxels": 0}, {"coarsest_voxels": 1}],
)
def test_impossible_demons_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InputError):
        engine_settings(DemonsEngine(), settings)
