"""Torch's version of the array arithmetic against NumPy's, operation by operation, on torch's CPU device: no GPU is needed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import blob_image
from HyperPredictRegLib import engines
from HyperPredictRegLib.core.errors import Cancelled, InputError, RegistrationError
from HyperPredictRegLib.engines import tensor_fields, voxel_fields
from HyperPredictRegLib.engines.base import ImageChannel, Registration, RegistrationTask
from HyperPredictRegLib.engines.diffeo import DiffeoEngine
from HyperPredictRegLib.engines.diffeo_scheme import AUTO, DiffeoSettings
from HyperPredictRegLib.engines.fields import computed_on
from HyperPredictRegLib.engines.joint_force import Compared, joint_force
from HyperPredictRegLib.engines.similarity import SIMILARITIES, Similarity, inner_weight
from HyperPredictRegLib.engines.tensor_fields import TensorFields, opened
from HyperPredictRegLib.engines.voxel_fields import Workers
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import displacement_field
from hypothesis import given, settings
from hypothesis import strategies as st

GRID = Geometry((30, 27, 24), (2.5, 2.5, 2.5), (-30.0, 11.0, 5.0))
TENSORS = TensorFields("cpu")
WORKERS = Workers()

shapes = st.tuples(*[st.integers(1, 12)] * 3)
few = settings(max_examples=20, deadline=None, derandomize=True)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors take longer with several threads, and much longer where other work goes on."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def noise(shape: tuple[int, ...], seed: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def same(tensor: torch.Tensor, expected: np.ndarray, tolerance: float = 2e-6) -> None:
    found = TENSORS.numpy(tensor)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@few
@given(shapes, st.integers(0, 99), st.tuples(*[st.sampled_from((0.0, 0.4, 1.2, 1.9, 3.0))] * 3))
def test_smoothing(shape: tuple[int, ...], seed: int, sigmas: tuple[float, ...]) -> None:
    array = noise(shape, seed)
    tensor = TENSORS.given(array)
    assert TENSORS.smooth(tensor, sigmas, WORKERS) is tensor
    same(tensor, voxel_fields.smooth(array.copy(), sigmas, WORKERS))


@few
@given(shapes, st.integers(0, 99), st.tuples(*[st.integers(0, 3)] * 3))
def test_window_sums(shape: tuple[int, ...], seed: int, radii: tuple[int, ...]) -> None:
    array = noise(shape, seed)
    tensor = TENSORS.given(array)
    assert TENSORS.window_sum(tensor, radii, WORKERS) is tensor
    same(tensor, voxel_fields.window_sum(array.copy(), radii, WORKERS))


@few
@given(shapes, st.integers(0, 99))
def test_sampling_at_places_along_the_axes(shape: tuple[int, ...], seed: int) -> None:
    array, random = noise(shape, seed), np.random.default_rng(seed)
    places = [np.sort(random.uniform(-1, n, random.integers(1, 9))) for n in shape]
    same(TENSORS.sampled(TENSORS.given(array), places, WORKERS), voxel_fields.sampled(array, places, WORKERS))


@few
@given(shapes, st.integers(0, 99), st.sampled_from((0.4, 3.0, 40.0)))
def test_warping(shape: tuple[int, ...], seed: int, size: float) -> None:
    images, field = [noise(shape, seed), noise(shape, seed + 1)], noise((3, *shape), seed + 2, -size, size)
    found = TENSORS.sampler([TENSORS.given(image) for image in images], sharp=1).warped(TENSORS.given(field), WORKERS)
    for tensor, expected in zip(found, voxel_fields.Sampler(images, sharp=1).warped(field, WORKERS), strict=True):
        same(tensor, expected)


@few
@given(shapes.filter(lambda shape: max(shape) > 1), st.integers(0, 99))
def test_composing(shape: tuple[int, ...], seed: int) -> None:
    field, update = noise((3, *shape), seed, -4, 4), noise((3, *shape), seed + 1, -0.5, 0.5)
    tensor = TENSORS.given(field)
    TENSORS.compose(tensor, TENSORS.given(update), WORKERS)
    voxel_fields.compose(field, update, WORKERS)
    same(tensor, field)


@few
@given(shapes, st.integers(0, 99), st.sampled_from((0.0, 0.1, 2.0)))
def test_scaling_updates(shape: tuple[int, ...], seed: int, size: float) -> None:
    update = noise((3, *shape), seed, -size, size)
    tensor = TENSORS.given(update)
    TENSORS.scale_update(tensor, 2.0, 0.5, WORKERS)
    voxel_fields.scale_update(update, 2.0, 0.5, WORKERS)
    same(tensor, update)


@few
@given(shapes, st.integers(0, 99))
def test_weights_within_a_mask(shape: tuple[int, ...], seed: int) -> None:
    mask = (noise(shape, seed) > 0.1).astype(np.float32)
    same(TENSORS.inner_weight(TENSORS.given(mask)), inner_weight(mask), 0)


def test_what_is_given_is_copied_and_not_changed() -> None:
    array = noise((4, 5, 6), 1)
    before = array.copy()
    TENSORS.smooth(TENSORS.given(array), (1.0, 1.0, 1.0), WORKERS)
    np.testing.assert_array_equal(array, before)


def test_every_operation_asks_whether_to_stop() -> None:
    stopped = Workers(cancelled=lambda: True)
    array, field = TENSORS.zeros((4, 5, 6)), TENSORS.zeros((3, 4, 5, 6))
    operations: list[tuple[Any, ...]] = [
        (TENSORS.smooth, array, (1.0, 1.0, 1.0)),
        (TENSORS.window_sum, array, (1, 1, 1)),
        (TENSORS.sampled, array, [np.arange(2.0)] * 3),
        (TENSORS.sampler([array]).warped, field),
        (TENSORS.compose, field, field),
        (TENSORS.scale_update, field, 1.0, 1.0),
    ]
    for operation, *arguments in operations:
        with pytest.raises(Cancelled):
            operation(*arguments, stopped)


def test_torch_multiplies_in_full_precision_and_is_left_as_it_was() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with opened("cpu"):
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cuda.matmul.allow_tf32
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def weighted(shape: tuple[int, ...], seed: int, masked: bool) -> np.ndarray | None:
    return (noise(shape, seed) > 0.3).astype(np.float32) if masked else None


@few
@given(shapes, st.integers(0, 99), st.sampled_from(sorted(SIMILARITIES)), st.booleans(), st.sampled_from((1.0, 2.5)))
def test_similarities(shape: tuple[int, ...], seed: int, name: str, masked: bool, thick: float) -> None:
    fixed, moving, weight = noise(shape, seed), noise(shape, seed + 1), weighted(shape, seed + 2, masked)
    settings = (name, ((1, 2, 0), (2, 2, 1)), 0.1, (thick, 1.0, 1.0))
    arrays, tensors = Similarity(*settings), TENSORS.similarity(*settings)
    tensor_weight = None if weight is None else TENSORS.given(weight)
    channels = [arrays.channels(image, weight, WORKERS) for image in (fixed, moving)]
    found = [tensors.channels(TENSORS.given(image), tensor_weight, WORKERS) for image in (fixed, moving)]
    for one, other in zip(found, channels, strict=True):
        for tensor, expected in zip(one, other, strict=True):
            same(tensor, expected, 1e-4)
    update, value = arrays.force(*channels, weight, 0.5, WORKERS)
    exact = [[TENSORS.given(channel) for channel in side] for side in channels]
    tensor, tensor_value = tensors.force(*exact, tensor_weight, 0.5, WORKERS)
    same(tensor, update, 1e-4)
    assert tensor_value == pytest.approx(value, rel=1e-5)


# The whole algorithm


@pytest.fixture(scope="module")
def pair() -> tuple[sitk.Image, sitk.Image]:
    """An organ and the same organ shifted and deformed, intensities 0 to about 1."""
    images = blob_image(GRID), blob_image(GRID, shift_mm=(3.0, -2.0, 2.0), deform=0.4)
    return sitk.Cast(images[0] / 160, sitk.sitkFloat32), sitk.Cast(images[1] / 160, sitk.sitkFloat32)


def registered(pair: tuple[sitk.Image, sitk.Image], device: str = "cpu", name: str = "lncc", **more: Any) -> Registration:
    settings = DiffeoSettings(similarity=name, iterations=(10, 5), coarsest_voxels=8)
    return DiffeoEngine().register(RegistrationTask(*pair, {}, settings, 1, device=device, **more))


def voxels(found: Registration) -> np.ndarray:
    return sitk.GetArrayFromImage(displacement_field(found.transform, GRID)) / GRID.spacing[0]


@pytest.fixture
def torch_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch's CPU device stand in for a graphics card."""
    monkeypatch.setattr(tensor_fields, "opened", lambda device: opened("cpu"))


@pytest.mark.usefixtures("torch_works")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", SIMILARITIES)
def test_the_same_algorithm_runs_on_tensors(pair: tuple[sitk.Image, sitk.Image], name: str, masked: bool) -> None:
    inside = [sitk.Cast(image > 0.1, sitk.sitkUInt8) for image in pair]
    masks = {"fixed_mask": inside[0], "moving_mask": inside[1]}
    arrays, tensors = (registered(pair, device, name, **(masks if masked else {})) for device in ("cpu", "cuda"))
    assert (arrays.device, tensors.device) == ("cpu", "cuda")
    assert (arrays.versions, tensors.versions) == ({}, {"torch": torch.__version__})
    assert tensors.warnings == ()
    moved, apart = (np.linalg.norm(field, axis=-1) for field in (voxels(arrays), voxels(arrays) - voxels(tensors)))
    print(name, masked, moved.max(), apart.mean(), apart.max())
    assert moved.max() > 1
    assert apart.mean() < 1e-4
    assert apart.max() < 1e-2
    assert [len(level.values) for level in tensors.levels] == [len(level.values) for level in arrays.levels]
    np.testing.assert_allclose(tensors.levels[-1].values, arrays.levels[-1].values, rtol=1e-3)


@pytest.mark.usefixtures("torch_works")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["lncc", AUTO])
def test_several_channels_run_on_tensors_too(pair: tuple[sitk.Image, sitk.Image], name: str, masked: bool) -> None:
    inside = [sitk.Cast(image > 0.1, sitk.sitkUInt8) for image in pair]
    masks = {"fixed_mask": inside[0], "moving_mask": inside[1]} if masked else {}
    # With tissues exchanged, "auto" compares the second channel by another similarity than the first.
    other = pair[0], sitk.Cast(sitk.Exp(-4 * sitk.Abs(pair[1] - 0.4)), sitk.sitkFloat32)
    channels = (ImageChannel(*other, weight=0.5, **masks),)
    arrays, tensors = (registered(pair, device, name, channels=channels) for device in ("cpu", "cuda"))
    assert (arrays.device, tensors.device) == ("cpu", "cuda")
    assert tensors.warnings == ()
    assert tensors.levels[-1].metric == arrays.levels[-1].metric
    moved, apart = (np.linalg.norm(field, axis=-1) for field in (voxels(arrays), voxels(arrays) - voxels(tensors)))
    print(name, masked, arrays.levels[-1].metric, moved.max(), apart.mean(), apart.max())
    assert np.abs(voxels(arrays) - voxels(registered(pair, "cpu", name))).max() > 0.1, "else the second channel does nothing"
    assert apart.mean() < 1e-4
    assert apart.max() < 1e-2
    np.testing.assert_allclose(tensors.levels[-1].values, arrays.levels[-1].values, rtol=1e-3)


@few
@given(shapes, st.integers(0, 99), st.booleans(), st.sampled_from((1.0, 2.5)))
def test_the_joint_force_of_channels(shape: tuple[int, ...], seed: int, masked: bool, thick: float) -> None:
    relative = (thick, 1.0, 1.0)
    given = [
        ([noise(shape, seed + n)], [noise(shape, seed + n + 5)], weighted(shape, seed + n + 9, masked and n > 0), share)
        for n, share in enumerate((0.7, 0.3))
    ]
    expected, value = joint_force([Compared(*one) for one in given], relative, 0.5, WORKERS)
    tensors = [
        Compared(*([TENSORS.given(a) for a in side] for side in (f, m)), None if w is None else TENSORS.given(w), share)
        for f, m, w, share in given
    ]
    found, tensor_value = TENSORS.joint_force(tensors, relative, 0.5, WORKERS)
    same(found, expected, 1e-4)
    assert tensor_value == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", SIMILARITIES)
def test_steepness(name: str, masked: bool) -> None:
    settings, image, weight = (name, ((1, 1, 1),), 0.1, (1.0, 1.0, 1.0)), noise((7, 8, 9), 1), weighted((7, 8, 9), 2, masked)
    tensor_weight = None if weight is None else TENSORS.given(weight)
    found = TENSORS.similarity(*settings).steepness(TENSORS.given(image), tensor_weight, WORKERS)
    assert found == pytest.approx(Similarity(*settings).steepness(image, weight, WORKERS), rel=1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a graphics card")
def test_without_a_graphics_card_the_cpu_computes_and_says_so(pair: tuple[sitk.Image, sitk.Image]) -> None:
    expected, found = registered(pair), registered(pair, "cuda")
    np.testing.assert_array_equal(voxels(found), voxels(expected))
    assert found.device == "cpu"
    assert found.versions == {}
    (warning,) = found.warnings
    assert warning.startswith("The device 'cuda' could not be used (")
    assert "CUDA" in warning or "graphics card" in warning
    assert expected.warnings == ()


def test_without_torch_the_cpu_computes_and_says_so(pair: tuple[sitk.Image, sitk.Image], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.endswith("tensor_fields")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(engines, "tensor_fields", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    found = registered(pair, "cuda")
    assert found.device == "cpu"
    assert "PyTorch is not installed" in found.warnings[0]
    np.testing.assert_array_equal(voxels(found), voxels(registered(pair)))


@pytest.mark.parametrize("after", [1, 8])
def test_a_device_that_fails_in_the_middle_leaves_no_trace_in_the_result(
    pair: tuple[sitk.Image, sitk.Image], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    calls = []

    class Failing(TensorFields):
        def compose(self, displacement: torch.Tensor, update: torch.Tensor, workers: Workers) -> None:
            super().compose(displacement, update, workers)
            calls.append(1)
            if len(calls) == after:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the manual.")

    @contextmanager
    def opened(device: str) -> Iterator[TensorFields]:
        yield Failing("cpu")

    monkeypatch.setattr(tensor_fields, "opened", opened)
    images = [sitk.GetArrayFromImage(image) for image in pair]
    found = registered(pair, "cuda")
    assert len(calls) == after
    assert found.device == "cpu"
    assert "(CUDA out of memory. Tried to allocate 2.00 GiB. See the manual)" in found.warnings[0]
    expected = registered(pair)
    np.testing.assert_array_equal(voxels(found), voxels(expected))
    assert [level.values for level in found.levels] == [level.values for level in expected.levels]
    for image, before in zip(pair, images, strict=True):
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), before)


@pytest.mark.usefixtures("torch_works")
def test_cancelling_and_divergence_are_no_failures_of_a_device(pair: tuple[sitk.Image, sitk.Image]) -> None:
    runs = []

    def work(error: Exception) -> Any:
        def failing(fields: Any) -> None:
            runs.append(fields)
            raise error

        return failing

    for error in (Cancelled("Stopped."), RegistrationError("It diverged."), InputError("No.")):
        with pytest.raises(type(error)):
            computed_on("cuda", work(error))
    assert all(isinstance(fields, TensorFields) for fields in runs)
    with pytest.raises(Cancelled):
        registered(pair, "cuda", cancelled=lambda: True)


def test_a_fault_of_the_processor_is_not_hidden() -> None:
    def failing(fields: Any) -> None:
        raise RuntimeError("broken")

    for device in ("cpu", "cuda"):
        with pytest.raises(RuntimeError, match="broken"):
            computed_on(device, failing)
