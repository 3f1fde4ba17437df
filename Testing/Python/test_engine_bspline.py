"""The B-spline engine: it recovers a known warp in any contrast, repeats itself, stops when asked, and refuses clearly."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from HyperPredictRegLib.core.errors import Cancelled, InputError, RegistrationError
from HyperPredictRegLib.core.progress import ProgressEvent
from HyperPredictRegLib.core.resources import threads
from HyperPredictRegLib.engines import get_engine
from HyperPredictRegLib.engines.base import Registration, RegistrationTask, settings_hash
from HyperPredictRegLib.engines.bspline import (
    MAXIMUM_PARAMETERS_TIMES_SAMPLES,
    BSplineEngine,
    BSplineSettings,
    coarsest_mesh,
    doubled,
)
from HyperPredictRegLib.spatial.geometry import Geometry

# Oblique on purpose: a mistake with axes shows.
_TURN = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
GRID = Geometry((34, 38, 30), (2.0, 2.0, 2.0), (11.0, -23.0, 5.0), _TURN)
QUICK = BSplineSettings(
    shrink_factors=(2, 1), smoothing_sigmas_voxels=(1.0, 0.5), control_point_factors=(2, 1), iterations=(10, 10),
    samples=(3000, 3000),
)


def blobs() -> sitk.Image:
    """Return a brain-like ball of smooth blobs in 0 to 1, zero outside."""
    rng = np.random.default_rng(3)
    points = np.stack(np.meshgrid(*[np.arange(n) for n in reversed(GRID.size)], indexing="ij"), -1).astype(float)
    centre = (np.array(GRID.size[::-1]) - 1) / 2
    values = np.zeros(points.shape[:3])
    for _ in range(40):
        at = centre + rng.uniform(-11, 11, 3)
        values += rng.uniform(0.2, 1.0) * np.exp(-((points - at) ** 2).sum(-1) / (2 * rng.uniform(2, 4) ** 2))
    ball = 1 / (1 + np.exp((np.linalg.norm(points - centre, axis=-1) - 12) / 0.7))
    values = (0.3 + 0.7 * values / values.max()) * ball
    values[values < 0.01] = 0
    return image_of(values)


def image_of(values: np.ndarray) -> sitk.Image:
    """Put voxels, indexed k, j, i, on `GRID`."""
    return GRID.apply_to(sitk.GetImageFromArray(values.astype(np.float32)))


def bump() -> sitk.Transform:
    """Return a smooth warp of up to 4 mm within the image."""
    field = np.zeros((*GRID.size[::-1], 3))
    k, j, i = np.meshgrid(*[np.linspace(0, np.pi, n) for n in reversed(GRID.size)], indexing="ij")
    window = np.sin(i) * np.sin(j) * np.sin(k)
    for axis, amplitude in enumerate((4.0, -3.0, 3.0)):
        field[..., axis] = amplitude * window
    return sitk.DisplacementFieldTransform(GRID.apply_to(sitk.GetImageFromArray(field, isVector=True)))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    """Compute with one thread: only then is the result the same bit for bit."""
    with threads(1):
        yield


@pytest.fixture(scope="module")
def fixed() -> sitk.Image:
    return blobs()


@pytest.fixture(scope="module")
def moving(fixed: sitk.Image) -> sitk.Image:
    """`fixed`, moved so that the warp to be found is the inverse of `bump`."""
    return GRID.resample(fixed, bump())


def other_contrast(image: sitk.Image) -> sitk.Image:
    """Map intensities so that dark turns bright, bright turns dark and the background stays black."""
    values = sitk.GetArrayFromImage(image)
    return image_of(np.interp(values, [0, 0.1, 0.3, 0.5, 1.0], [0, 0.9, 1.0, 0.5, 0.1]))


def run(fixed: sitk.Image, moving: sitk.Image, settings: BSplineSettings = QUICK, **options: Any) -> Registration:
    """Register with control points 16 mm apart unless told otherwise."""
    setting = {"control_point_spacing": options.pop("spacing", 16.0)}
    return BSplineEngine().register(RegistrationTask(fixed, moving, setting, settings, **{"seed": 7, **options}))


def error_mm(transform: sitk.Transform, fixed: sitk.Image) -> float:
    """Return the mean distance from a perfect result: `bump` after `transform` should lead every point back home."""
    inside = np.argwhere(sitk.GetArrayViewFromImage(fixed) > 0.2)[::11, ::-1]
    there_and_back = sitk.CompositeTransform([bump(), transform])
    points = GRID.to_lps(inside)
    return float(np.mean([np.linalg.norm(np.array(there_and_back.TransformPoint(p)) - p) for p in points.tolist()]))


@pytest.fixture(scope="module")
def events() -> list[ProgressEvent]:
    """What `usual` told of its progress."""
    return []


@pytest.fixture(scope="module")
def usual(fixed: sitk.Image, moving: sitk.Image, events: list[ProgressEvent]) -> Registration:
    """One registration that several tests look at."""
    before = [sitk.Hash(image) for image in (fixed, moving)]
    result = run(fixed, moving, progress=events.append)
    assert [sitk.Hash(image) for image in (fixed, moving)] == before
    return result


def test_the_registry_gives_this_engine() -> None:
    engine = get_engine("bspline")
    assert (engine.info.name, engine.info.version, engine.settings_type) == ("bspline", "1", BSplineSettings)
    assert [h.name for h in engine.info.search_space] == ["control_point_spacing"]
    assert settings_hash(engine, BSplineSettings()) != settings_hash(engine, BSplineSettings(value_tolerance=2e-5))


@pytest.mark.parametrize("metric", ["mattes", "correlation", "mean_squares"])
def test_a_known_warp_is_found(fixed: sitk.Image, moving: sitk.Image, metric: str) -> None:
    before = error_mm(sitk.Transform(3, sitk.sitkIdentity), fixed)
    result = run(fixed, moving, replace(QUICK, metric=metric))
    assert before > 2.0
    assert error_mm(result.transform, fixed) < 0.4 * before


def test_mutual_information_finds_the_warp_between_contrasts(fixed: sitk.Image, moving: sitk.Image) -> None:
    before = error_mm(sitk.Transform(3, sitk.sitkIdentity), fixed)
    remapped = other_contrast(moving)
    assert error_mm(run(fixed, remapped).transform, fixed) < 0.5 * before
    # The same search with squared differences is led astray: the contrast truly matters in this test.
    assert error_mm(run(fixed, remapped, replace(QUICK, metric="mean_squares")).transform, fixed) > before


def test_the_trace_tells_every_level(usual: Registration, events: list[ProgressEvent]) -> None:
    assert [(t.stage, t.level, t.shrink_factor, t.smoothing_sigma_mm) for t in usual.levels] == [
        ("deformable", 0, 2.0, 2.0), ("deformable", 1, 1.0, 1.0)
    ]
    for trace in usual.levels:
        assert trace.values[-1] < trace.values[0]
        assert all(later <= earlier for earlier, later in itertools.pairwise(trace.values))
        assert trace.end_value == pytest.approx(trace.values[-1], abs=1e-9)
        assert trace.hit_iteration_limit
        assert trace.stop_reason == "Maximum number of iterations (10) reached."
    fractions = [event.fraction for event in events]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert {event.stage for event in events} == {"register"}


def test_a_converged_level_says_so(fixed: sitk.Image, moving: sitk.Image) -> None:
    settings = BSplineSettings(
        metric="mean_squares", shrink_factors=(2,), smoothing_sigmas_voxels=(1.0,), control_point_factors=(1,),
        iterations=(200,), samples=(3000,), value_tolerance=0.05,
    )
    (trace,) = run(fixed, moving, settings, spacing=30.0).levels
    assert not trace.hit_iteration_limit
    assert "converged" in trace.stop_meaning


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(
    fixed: sitk.Image, moving: sitk.Image, usual: Registration
) -> None:
    again, other = (run(fixed, moving, seed=seed) for seed in (usual.seed, usual.seed + 1))
    assert usual.transform.GetParameters() == again.transform.GetParameters()
    assert [t.values for t in usual.levels] == [t.values for t in again.levels]
    assert usual.transform.GetParameters() != other.transform.GetParameters()


def test_doubling_the_control_points_changes_nothing() -> None:
    rng = np.random.default_rng(5)
    coarse = sitk.BSplineTransformInitializer(sitk.Image(GRID.apply_to(sitk.Image(GRID.size, sitk.sitkFloat32))), [2, 3, 1], 3)
    coarse.SetParameters(rng.normal(0, 5, coarse.GetNumberOfParameters()).tolist())
    fine = doubled(coarse)
    assert fine.GetTransformDomainMeshSize() == (4, 6, 2)
    points = GRID.to_lps(rng.uniform(0, 1, (300, 3)) * (np.array(GRID.size) - 1.001)).tolist()
    moved = [coarse.TransformPoint(p) for p in points]
    assert np.abs(np.array(moved) - points).max() > 2.0
    np.testing.assert_allclose([fine.TransformPoint(p) for p in points], moved, atol=1e-9)


def test_control_points_stay_within_their_bound(fixed: sitk.Image, moving: sitk.Image, usual: Registration) -> None:
    free = np.array(usual.transform.GetParameters())
    bound = np.array(run(fixed, moving, replace(QUICK, bound=0.1)).transform.GetParameters())
    limit = 0.1 * 2 * 16.0
    assert np.abs(free).max() > limit
    assert np.abs(bound).max() <= limit + 1e-9


def test_a_mask_keeps_the_metric_away_from_the_rest(fixed: sitk.Image, moving: sitk.Image) -> None:
    half = np.zeros(GRID.size[::-1], dtype=np.uint8)
    half[:, :, : GRID.size[0] // 2] = 1
    spoilt = sitk.GetArrayFromImage(moving)
    spoilt[:, :, GRID.size[0] // 2 + 4:] = 0.5
    mask = GRID.apply_to(sitk.GetImageFromArray(half))
    settings = replace(QUICK, metric="mean_squares")
    with_mask = run(fixed, image_of(spoilt), settings, fixed_mask=mask, spacing=12.0)
    without = run(fixed, image_of(spoilt), settings, spacing=12.0)
    left = sitk.Mask(fixed, mask)
    assert error_mm(with_mask.transform, left) < 0.7 * error_mm(without.transform, left)


def test_a_moving_mask_is_heeded(fixed: sitk.Image, moving: sitk.Image, usual: Registration) -> None:
    everything = GRID.apply_to(sitk.Image(GRID.size, sitk.sitkUInt8) + 1)
    half = sitk.GetArrayFromImage(everything)
    half[:, :, : GRID.size[0] // 2] = 0
    parameters = usual.transform.GetParameters()
    assert run(fixed, moving, moving_mask=everything).transform.GetParameters() == parameters
    assert run(fixed, moving, moving_mask=GRID.apply_to(sitk.GetImageFromArray(half))).transform.GetParameters() != parameters


def test_cancelling_stops_at_the_next_evaluation_and_prints_nothing(
    fixed: sitk.Image, moving: sitk.Image, capfd: pytest.CaptureFixture[str]
) -> None:
    hook = sys.excepthook
    seen: list[object] = []

    def cancelled() -> bool:
        return len(seen) >= 5

    with pytest.raises(Cancelled, match="cancelled"):
        run(fixed, moving, progress=seen.append, cancelled=cancelled)
    assert len(seen) == 5
    assert sys.excepthook is hook
    assert "Traceback" not in capfd.readouterr().err


def test_cancelling_before_the_start_stops_at_once(fixed: sitk.Image, moving: sitk.Image) -> None:
    seen: list[object] = []
    with pytest.raises(Cancelled, match="cancelled"):
        run(fixed, moving, progress=seen.append, cancelled=lambda: True)
    assert not seen


@pytest.mark.parametrize("wild", [1e3, float("nan"), float("inf")])
def test_a_diverged_transform_is_an_error_never_a_result(
    fixed: sitk.Image, moving: sitk.Image, monkeypatch: pytest.MonkeyPatch, wild: float
) -> None:
    start: list[sitk.Transform] = []
    set_start = sitk.ImageRegistrationMethod.SetInitialTransform
    execute = sitk.ImageRegistrationMethod.Execute

    def remember(self: sitk.ImageRegistrationMethod, transform: sitk.Transform, in_place: bool) -> None:
        start.append(transform)
        set_start(self, transform, in_place)

    def run_away(self: sitk.ImageRegistrationMethod, *images: sitk.Image) -> None:
        execute(self, *images)
        start[0].SetParameters([wild] * start[0].GetNumberOfParameters())

    monkeypatch.setattr(sitk.ImageRegistrationMethod, "SetInitialTransform", remember)
    monkeypatch.setattr(sitk.ImageRegistrationMethod, "Execute", run_away)
    with pytest.raises(RegistrationError, match=r"diverged at level 1.*larger control-point spacing"):
        run(fixed, moving, replace(QUICK, iterations=(1, 1)))


def test_a_metric_that_is_no_number_is_an_error(
    fixed: sitk.Image, moving: sitk.Image, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sitk.ImageRegistrationMethod, "GetMetricValue", lambda self: float("nan"))
    with pytest.raises(RegistrationError, match="failed at level 1: its metric is not a number"):
        run(fixed, moving)
    assert "Traceback" not in capfd.readouterr().err


def test_images_that_do_not_meet_are_an_error(fixed: sitk.Image, moving: sitk.Image) -> None:
    corner = np.zeros(GRID.size[::-1], dtype=np.uint8)
    corner[:2, :2, :2] = 1
    with pytest.raises(RegistrationError, match="failed at level 1"):
        run(fixed, moving, moving_mask=GRID.apply_to(sitk.GetImageFromArray(corner)))


@pytest.mark.parametrize(("spacing", "sentence"), [
    (0.1, "choose a value from 0.5 to 80 mm"),
    (5.9, r"too fine for a working grid of \(34, 38, 30\) voxels of 2 mm: choose at least 6 mm"),
    (float("nan"), "choose a value from"),
])
def test_a_spacing_out_of_range_is_refused(fixed: sitk.Image, moving: sitk.Image, spacing: float, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        run(fixed, moving, spacing=spacing)


def test_too_many_control_points_are_refused_with_a_spacing_that_works() -> None:
    grid = Geometry((180, 220, 180), (1.0, 1.0, 1.0))
    settings = BSplineSettings()
    with pytest.raises(InputError, match=r"choose at least ([\d.]+) mm") as refused:
        coarsest_mesh(grid, 4.0, settings)
    advised = float(str(refused.value).split("at least ")[1].split(" mm")[0])
    mesh = coarsest_mesh(grid, advised, settings)
    assert 3 * np.prod([2 * n + 3 for n in mesh]) * settings.samples[-1] <= MAXIMUM_PARAMETERS_TIMES_SAMPLES
    hopeless = replace(settings, samples=(10**9,) * 3)
    with pytest.raises(InputError, match="fewer samples"):
        coarsest_mesh(grid, 20.0, hopeless)
    with pytest.raises(InputError, match="no control-point spacing that this engine can use"):
        BSplineEngine().search_space(grid, hopeless)


def test_a_mouse_brain_takes_a_mouse_s_spacing() -> None:
    assert coarsest_mesh(Geometry((64, 72, 48), (0.25,) * 3), 2.0, BSplineSettings()) == (4, 4, 3)


def test_unusable_images_and_masks_are_refused(fixed: sitk.Image, moving: sitk.Image) -> None:
    blank = GRID.apply_to(sitk.Image(GRID.size, sitk.sitkUInt8))
    holed = sitk.Image(moving)
    holed[3, 3, 3] = float("nan")
    shifted = sitk.Image(moving)
    shifted.SetOrigin((0.0, 0.0, 0.0))
    for match, image, options in [
        ("moving image is not on the grid", shifted, {}),
        ("moving image has voxels that are not finite", holed, {}),
        ("moving image has the same value everywhere", moving * 0, {}),
        ("fixed mask is empty", moving, {"fixed_mask": blank}),
        ("seed -3 cannot be used", moving, {"seed": -3}),
    ]:
        with pytest.raises(InputError, match=match):
            run(fixed, image, **options)


@pytest.mark.parametrize(("change", "sentence"), [
    ({"metric": "ssd"}, "metric 'ssd' is unknown"),
    ({"iterations": (10,)}, "make the five lists equally long"),
    ({"control_point_factors": (3, 1, 1)}, "powers of two"),
    ({"control_point_factors": (4, 2, 2)}, "end in 1"),
    ({"shrink_factors": (2, 0, 1)}, "start at 1"),
    ({"samples": (10, 10, 10)}, "at least 8 histogram bins, 100 samples"),
    ({"bound": 0.0}, "no room to move"),
    ({"value_tolerance": 0.0}, "between 0 and 1"),
])
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        BSplineSettings(**change)
