"""Images of very many voxels: coarser copies and slabs, what may differ through them, and how soon the work stops."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import blob_image, job_of
from HyperPredictRegLib import workflow
from HyperPredictRegLib.core.errors import Cancelled, InputError
from HyperPredictRegLib.core.progress import interruptible, never
from HyperPredictRegLib.core.resources import estimated_bytes
from HyperPredictRegLib.preprocessing import analysis, coarser_copy, image_set, intensity
from HyperPredictRegLib.preprocessing.analysis import analysed
from HyperPredictRegLib.preprocessing.coarser_copy import block_averages
from HyperPredictRegLib.preprocessing.image_set import read_inputs
from HyperPredictRegLib.preprocessing.intensity import background_value, foreground, normalised, padding
from HyperPredictRegLib.preprocessing.working_grid import PRESETS, common_view, on_grid
from HyperPredictRegLib.quality.metrics import dice_coefficients
from HyperPredictRegLib.results.job import Channel, Job
from HyperPredictRegLib.spatial import slabs
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.slabs import resampled
from HyperPredictRegLib.spatial.transforms import composed, field_transform
from scipy.ndimage import gaussian_filter

THICK = Geometry((70, 64, 41), (1.0, 1.0, 2.5), (3.0, -8.0, 40.0), (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
CUBE = Geometry((90, 84, 78), (1.0, 1.0, 1.0), (-10.0, 5.0, 60.0))


def read_spacings(job: Job) -> list[float]:
    """Return the voxel edges of what both images are aligned by."""
    inputs = read_inputs(job)
    return [side.normalised.GetSpacing()[0] for side in (inputs.fixed, inputs.moving)]


def numbers(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


def ct(grid: Geometry = CUBE, padded: float | None = None) -> sitk.Image:
    """Return an organ in noisy air, in Hounsfield units, as int16; beyond a cylinder it is `padded`."""
    voxels = 10 * numbers(blob_image(grid)) - 1000
    voxels += np.random.default_rng(3).normal(0, 15, voxels.shape)
    j, i = np.indices(voxels.shape)[1:]
    if padded is not None:
        half = np.array(voxels.shape[1:]) / 2
        voxels[((j - half[0]) / half[0]) ** 2 + ((i - half[1]) / half[1]) ** 2 > 1] = padded
    return grid.holding(np.rint(voxels).astype(np.int16))


def deforming(grid: Geometry) -> sitk.Transform:
    """Return a smooth deformation of up to 4 mm, then a turn and a shift."""
    random = np.random.default_rng(1)
    vectors = np.stack([gaussian_filter(random.normal(size=grid.size[::-1]), 5) for _ in range(3)], axis=-1)
    turn = sitk.Euler3DTransform(grid.centre_lps.tolist(), 0.1, -0.05, 0.2, (2.0, -1.0, 3.0))
    return composed(turn, field_transform(grid.holding(4 * vectors / np.abs(vectors).max(), vectors=True)))


@pytest.fixture
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat images of more than 100,000 voxels as too large to be used as they are."""
    for module in (analysis, slabs):
        monkeypatch.setattr(module, "MOST_VOXELS", 100_000)
    monkeypatch.setattr(intensity, "_ANALYSIS_VOXELS", 100_000)
    monkeypatch.setattr(coarser_copy, "SLAB_VOXELS", 20_000)


@pytest.mark.parametrize("grid", [THICK, CUBE], ids=["thick slices", "cube"])
def test_a_coarser_copy_is_the_one_of_the_whole_image_bit_for_bit(grid: Geometry, monkeypatch: pytest.MonkeyPatch) -> None:
    image, factors = ct(grid), (2, 2, 2) if grid is CUBE else (2, 2, 1)
    whole = sitk.BinShrink(sitk.Cast(image, sitk.sitkFloat32), factors)
    for voxels in (1, 30_000, 1 << 22):
        monkeypatch.setattr(coarser_copy, "SLAB_VOXELS", voxels)
        copy = block_averages(image, image.GetNumberOfPixels() - 1)
        assert Geometry.of(copy) == Geometry.of(whole)
        np.testing.assert_array_equal(numbers(copy), numbers(whole))
    assert block_averages(image, 20_000).GetNumberOfPixels() <= 20_000


def test_an_image_of_ordinary_size_is_used_as_it_is() -> None:
    image = ct()
    found, mask = analysed(image, None, "fast"), foreground(image)
    np.testing.assert_array_equal(numbers(found.foreground), numbers(mask))
    np.testing.assert_array_equal(numbers(found.normalised), numbers(normalised(image, mask)))
    assert found.background == background_value(image, mask)
    assert slabs.MOST_VOXELS > 256**3


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize("padded", [None, -3024.0], ids=["plain", "padded"])
def test_a_large_image_is_analysed_on_a_coarser_copy_with_nearly_the_same_result(padded: float | None) -> None:
    image = ct(padded=padded)
    mask = foreground(image)
    # The organ is smaller than a brain, so its grid is finer than 2 mm; here it is given.
    found = analysed(image, None, "fast", spacing_mm=2.0)
    assert found.normalised.GetSpacing() == (2.0, 2.0, 2.0)
    grid = Geometry.of(image).covering(Geometry.of(image).corners_lps(), 2.0, -4.0)
    masks = [numbers(grid.resample(part, interpolator=sitk.sitkNearestNeighbor)) != 0 for part in (mask, found.foreground)]
    assert 2 * (masks[0] & masks[1]).sum() / (masks[0].sum() + masks[1].sum()) > 0.98
    one, other = (numbers(on_grid(part, grid)) for part in (normalised(image, mask), found.normalised))
    assert np.abs(one - other)[masks[0]].mean() < 0.02
    assert found.background == pytest.approx(background_value(image, mask), abs=2)
    if padded is None:
        assert found.missing is None
        return
    missing = padding(image)
    assert found.missing is not None
    assert missing is not None
    assert found.padded_values == (padded,)
    assert found.padded_share == pytest.approx(missing.share, abs=0.01)
    held = numbers(Geometry.of(found.missing).resample(missing.missing, interpolator=sitk.sitkNearestNeighbor)) != 0
    assert not (held & (numbers(found.missing) == 0)).any()
    assert numbers(found.missing).mean() < missing.share + 0.05
    assert not numbers(found.foreground)[numbers(found.missing) != 0].any()


@pytest.mark.usefixtures("small_is_large")
def test_no_copy_is_coarser_than_the_working_grid() -> None:
    image = ct()
    found = analysed(image, None, "fine")
    np.testing.assert_array_equal(numbers(found.foreground), numbers(foreground(image)))
    assert found.normalised.GetSpacing() == image.GetSpacing()


@pytest.mark.usefixtures("small_is_large")
def test_padding_found_on_a_coarser_copy_is_left_out_of_the_common_view() -> None:
    image, whole = ct(padded=-3024.0), CUBE.holding(numbers(ct()))
    found = analysed(image, None, "fast", spacing_mm=4.0)
    assert found.missing is not None and found.missing.GetSize() != image.GetSize()
    grid = CUBE.covering(CUBE.corners_lps(), 4.0, 0.0)
    seen = numbers(common_view(image, whole, sitk.Transform(3, sitk.sitkIdentity), grid, (found.missing, None))) != 0
    j, i = np.indices(seen.shape[1:])
    middle = [(n - 1) / 2 for n in seen.shape[1:]]
    radius = np.hypot((j - middle[0]) / (middle[0] + 0.5), (i - middle[1]) / (middle[1] + 0.5))
    # The outer planes lie beyond the images.
    assert seen[1:-1, radius < 0.85].all() and not seen[:, radius > 1.15].any()


@pytest.mark.usefixtures("small_is_large")
def test_masks_come_along() -> None:
    image = ct()
    voxels = np.zeros(CUBE.size[::-1], np.uint8)
    voxels[:, :42] = 1
    found = analysed(image, CUBE.holding(voxels), "fast", spacing_mm=2.0)
    assert found.mask is not None
    assert Geometry.of(found.mask) == Geometry.of(found.normalised)
    assert numbers(found.mask)[:, :21].all()
    assert not numbers(found.mask)[:, 21:].any()
    assert not (numbers(found.foreground) > numbers(found.mask)).any()
    voxels[:] = 0
    voxels[40, 41, 42] = 1
    one_voxel = coarser_copy.block_averages(CUBE.holding(voxels), 100_000)
    assert numbers(analysis._half_full(one_voxel)).sum() == 1


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize("kind", ["image", "labels"])
def test_slabs_put_together_are_the_whole(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image, transform = ct(), deforming(CUBE)
    options: dict[str, Any] = {"default_value": -1000}
    if kind == "labels":
        image = sitk.Cast(image > -500, sitk.sitkUInt8)
        options = {"interpolator": sitk.sitkNearestNeighbor}
    whole = CUBE.resample(image, transform, **options)
    monkeypatch.setattr(slabs, "SLAB_VOXELS", 30_000)
    found = resampled(image, CUBE, transform, **options)
    assert found.GetPixelID() == whole.GetPixelID()
    assert Geometry.of(found) == CUBE
    # Positions are added up in another order, so a voxel exactly between two numbers may be rounded to the other one.
    assert np.mean(numbers(found) != numbers(whole)) < 1e-4
    assert np.abs(numbers(found).astype(int) - numbers(whole)).max() <= 1


class Asked:
    """A caller that asks to stop at the n-th question; counts what is worked on between two questions."""

    def __init__(self, last: int) -> None:
        self.last, self.questions, self.since, self.most = last, 0, 0, 0

    def __call__(self) -> bool:
        self.questions += 1
        self.most, self.since = max(self.most, self.since), 0
        return self.questions >= self.last

    def worked(self, voxels: int) -> None:
        self.since += voxels
        self.most = max(self.most, self.since)


@pytest.mark.usefixtures("small_is_large")
def test_resampling_stops_within_a_slab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slabs, "SLAB_VOXELS", 30_000)
    own = Geometry.resample
    asked = Asked(last=4)

    def counted(self: Geometry, image: sitk.Image, *given: Any, **options: Any) -> sitk.Image:
        asked.worked(self.voxel_count)
        return own(self, image, *given, **options)

    monkeypatch.setattr(Geometry, "resample", counted)
    with pytest.raises(Cancelled):
        resampled(ct(), CUBE, deforming(CUBE), cancelled=asked)
    assert asked.questions == 4
    assert 0 < asked.most <= 30_000


def test_averaging_stops_within_a_slab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coarser_copy, "SLAB_VOXELS", 30_000)
    own = sitk.BinShrink
    asked = Asked(last=4)

    def counted(image: sitk.Image, factors: Any) -> sitk.Image:
        asked.worked(image.GetNumberOfPixels())
        return own(image, factors)

    monkeypatch.setattr(sitk, "BinShrink", counted)
    with pytest.raises(Cancelled):
        block_averages(ct(), 1000, cancelled=asked)
    assert asked.questions == 4
    assert 0 < asked.most <= 30_000


def test_a_library_that_cannot_be_stopped_is_not_waited_for() -> None:
    entered, release, done = threading.Event(), threading.Event(), threading.Event()

    def call() -> None:
        entered.set()
        release.wait()
        done.set()

    with pytest.raises(Cancelled):
        interruptible(call, entered.is_set)
    # Whoever asked to stop is back while the call still runs.
    assert not done.is_set()
    release.set()
    assert done.wait(600)


def test_an_interruptible_call_gives_what_it_returns_or_raises() -> None:
    def refuse() -> None:
        raise InputError("no")

    assert interruptible(lambda: 3, lambda: False) == 3
    with pytest.raises(InputError, match="no"):
        interruptible(refuse, lambda: False)
    assert interruptible(threading.get_ident, never) == threading.get_ident()
    assert interruptible(threading.get_ident, lambda: False) != threading.get_ident()


STUCK: dict[str, tuple[str, str]] = {
    "reading": ("HyperPredictRegLib.preprocessing.image_set", "read_image"),
    "analysing": ("HyperPredictRegLib.preprocessing.analysis", "_found"),
    "inverting": ("HyperPredictRegLib.quality.measurement", "inverted"),
    "folding": ("HyperPredictRegLib.quality.measurement", "jacobian_determinant"),
    "smoothing": ("HyperPredictRegLib.quality.measurement", "smoothed_for"),
    "warping": ("HyperPredictRegLib.spatial.geometry", "sitk.Resample"),
    "writing": ("HyperPredictRegLib.results.results_folder", "write_image"),
}


@pytest.mark.parametrize("where", STUCK)
def test_a_job_that_is_deep_in_a_library_stops_and_leaves_nothing(
    where: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library does not return before the test lets it; the request to stop comes only once it is inside."""
    entered, release = threading.Event(), threading.Event()
    module, name = STUCK[where]

    def stuck(own: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            entered.set()
            release.wait()
            return own(*given, **options)

        return call

    place = __import__(module, fromlist=["x"])
    for part in name.split(".")[:-1]:
        place = getattr(place, part)
    last = name.split(".")[-1]
    monkeypatch.setattr(place, last, stuck(getattr(place, last)))
    try:
        with pytest.raises(Cancelled):
            workflow.run(job_of(files, tmp_path / "out"), cancelled=entered.is_set)
        assert list(tmp_path.iterdir()) == []
    finally:
        release.set()


def test_a_job_on_coarser_copies_ends_where_the_same_without_them_does(
    files: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This organ is small; a grid of 2 mm makes its images of 1 mm as fine beside it as those of a CT are.
    monkeypatch.setitem(PRESETS, "fast", 8.0)
    for side in ("fixed", "moving"):
        grid = Geometry.of(sitk.ReadImage(str(files / f"{side}.nrrd")))
        fine = grid.covering(grid.corners_lps(), 1.0, -1.0)
        for part in ("", "-labels"):
            image = sitk.ReadImage(str(files / f"{side}{part}.nrrd"))
            interpolator = sitk.sitkNearestNeighbor if part else sitk.sitkLinear
            sitk.WriteImage(fine.resample(image, interpolator=interpolator), str(tmp_path / f"{side}{part}.nrrd"))
    job = job_of(files, Path("unused"), **{
        f"{side}{part}": str(tmp_path / f"{side}{part.replace('_', '-')}.nrrd")
        for side in ("fixed", "moving") for part in ("", "_labels")
    })  # fmt: skip
    assert read_spacings(job) == [1.0, 1.0]
    as_they_are = workflow.compute(job)
    request.getfixturevalue("small_is_large")
    assert read_spacings(job) == [2.0, 2.0]
    copied = workflow.compute(job)
    assert copied.report.working_grid.spacing[0] == pytest.approx(2.0)
    assert Geometry.of(copied.warped) == Geometry.of(as_they_are.warped)
    labels = numbers(as_they_are.fixed_labels)[::5, ::5, ::5]
    points = Geometry.of(as_they_are.fixed).to_lps(np.argwhere(labels > 0)[:, ::-1] * 5)
    ends = [[o.transform.TransformPoint(p.tolist()) for p in points] for o in (as_they_are, copied)]
    # Half a voxel of the working grid: the inside of this organ is flat, so images alone do not say it more exactly.
    assert np.linalg.norm(np.subtract(*ends), axis=1).mean() < 1.0
    dice = [dice_coefficients(o.fixed_labels, o.warped_labels) for o in (as_they_are, copied)]
    assert dice[1] == pytest.approx(dice[0], abs=0.05)


def test_the_estimate_of_memory_knows_that_large_images_are_not_copied() -> None:
    large = 2 * 512 * 512 * 300
    # Measured by benchmarks/big_volume.py, preset "fast".
    peak_bytes, grid_voxels = 2.68e9, 210 * 173 * 122
    assert 0.95 < estimated_bytes(0, grid_voxels, reduced_voxels=large) / peak_bytes < 1.3
    assert estimated_bytes(0, 0, reduced_voxels=large) < 0.5 * estimated_bytes(large, 0)
    assert estimated_bytes(0, 2_000_000) > estimated_bytes(0, 1_000_000)


@pytest.mark.usefixtures("small_is_large")
def test_memory_is_estimated_image_by_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (analysis, image_set):
        monkeypatch.setattr(module, "working_spacing", lambda _image, _anatomy, preset: 4.0 if preset == "fast" else 1.0)
    large, small = tmp_path / "large.nrrd", tmp_path / "small.nrrd"
    sitk.WriteImage(ct(), str(large))
    sitk.WriteImage(ct()[20:70, 20:64, 18:58], str(small))
    both = read_inputs(Job(str(small), str(large), "out", channels=(Channel(str(large), str(small)),)))
    assert both.voxels == (2 * 50 * 44 * 40, 2 * CUBE.voxel_count)
    as_they_are = read_inputs(Job(str(small), str(large), "out", preset="fine"))
    assert as_they_are.voxels == (50 * 44 * 40 + CUBE.voxel_count, 0)
