"""The pictures of a report: what stands where, on which side, in which color."""

from __future__ import annotations

import dataclasses
import io
import math
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from HyperPredictRegLib.core.trace import LevelTrace
from HyperPredictRegLib.reporting import figures, report_page, sheet
from HyperPredictRegLib.results.outcome import Outcome
from HyperPredictRegLib.spatial.geometry import Geometry
from PIL import Image
from reporting_samples import (
    OBLIQUE,
    SIGNED_PERMUTATIONS,
    assert_not_blank,
    check_page,
    level,
    make_outcome,
    render,
    rotation,
    with_report,
)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return make_outcome()


@pytest.mark.parametrize("size", [(40, 36, 1), (1, 36, 30), (40, 36, 2), (2, 2, 30)])
def test_flat_and_thin_grids_can_be_drawn(outcome: Outcome, size: tuple[int, int, int]) -> None:
    start = [(n - k) // 2 for n, k in zip((40, 36, 30), size, strict=True)]
    names = (
        "fixed", "fixed_on_grid", "moving_aligned", "moving_registered", "foreground", "jacobian",
        "fixed_labels", "warped_labels",
    )
    cropped = {name: sitk.RegionOfInterest(getattr(outcome, name), size, start) for name in names}
    thin = dataclasses.replace(outcome, **cropped)
    scene = figures.Scene.of(thin)
    for figure in (
        figures.draw_overlay(scene),
        figures.draw_jacobian(scene),
        figures.draw_deformed_grid(scene, thin),
        figures.draw_outlines(thin),
    ):
        width, height = figure.get_size_inches()
        assert width == sheet.WIDTH and 0.5 < height < 15
        figure.canvas.draw()


def test_pyplot_is_never_needed(outcome: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    assert_not_blank(sheet.png(figures.draw_overlay(figures.Scene.of(outcome))))


# Left and right


@pytest.mark.parametrize("direction", SIGNED_PERMUTATIONS)
def test_letters_name_the_side_on_which_a_marker_lies(direction: np.ndarray) -> None:
    tilted = rotation(1, 9.0) @ rotation(0, 6.0) @ direction
    geometry = Geometry((9, 11, 13), (3.0, 2.0, 1.5), (5.0, 6.0, 7.0), tuple(tilted.ravel()))
    # 9 mm to the patient's left, 7 mm towards the back, 5 mm towards the head.
    marker = np.round(geometry.to_index(geometry.centre_lps + np.array([9.0, 7.0, 5.0]))).astype(int)
    voxels = np.zeros(geometry.size[::-1])
    voxels[tuple(marker[::-1])] = 1
    for plane in sheet.planes_of(geometry):
        shown = plane.cut(voxels, int(marker[plane.through]))
        row, column = np.unravel_index(shown.argmax(), shown.shape)
        assert shown.max() == 1
        left, right, top, bottom = plane.letters
        across = left if column < (shown.shape[1] - 1) / 2 else right
        down = top if row < (shown.shape[0] - 1) / 2 else bottom
        assert (across, down) == {"axial": ("L", "P"), "coronal": ("L", "S"), "sagittal": ("P", "S")}[plane.name]
        x, y = plane.to_screen(marker)
        width, height = plane.size_mm
        assert x == pytest.approx((column + 0.5) * width / shown.shape[1])
        assert y == pytest.approx((row + 0.5) * height / shown.shape[0])


def test_screens_are_radiological() -> None:
    letters = {plane.name: plane.letters for plane in sheet.planes_of(Geometry((4, 5, 6), (1.0, 1.0, 1.0)))}
    assert letters == {"axial": ("R", "L", "A", "P"), "coronal": ("R", "L", "S", "I"), "sagittal": ("A", "P", "S", "I")}


@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_a_marker_is_drawn_on_its_side_of_the_picture(outcome: Outcome, flip: float) -> None:
    direction = tuple((np.array(OBLIQUE).reshape(3, 3) @ np.diag([flip, 1.0, 1.0])).ravel())
    geometry = dataclasses.replace(Geometry.of(outcome.fixed_on_grid), direction=direction)
    left = np.round(geometry.to_index(geometry.centre_lps + np.array([35.0, 0.0, 0.0]))).astype(int)
    voxels = np.zeros(geometry.size[::-1], np.float32)
    voxels[left[2], left[1] - 2 : left[1] + 3, left[0] - 2 : left[0] + 3] = 1
    mark = geometry.apply_to(sitk.GetImageFromArray(voxels))
    foreground = geometry.apply_to(sitk.GetImageFromArray(np.ones_like(voxels, np.uint8)))
    scene = figures.Scene.of(
        dataclasses.replace(
            outcome, fixed_on_grid=mark, moving_aligned=mark, moving_registered=mark, jacobian=mark, foreground=foreground
        )
    )
    scene = dataclasses.replace(scene, center=(int(left[0]), int(left[1]), int(left[2])))
    figure = figures.draw_checkerboard(scene)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].min(axis=-1)
    axial = figure.axes[0].get_window_extent()
    inside = pixels[:, int(axial.x0) : int(axial.x1)][int(len(pixels) - axial.y1) : int(len(pixels) - axial.y0)]
    letter = {text.get_text(): text.get_position()[0] for text in figure.axes[0].texts}
    # Letters and scale bar lie near the edges; the marker is the bright patch in between.
    bright = np.argwhere(inside[30:-40, 40:-40] > 200)
    assert len(bright) > 20
    assert letter["L"] > 0.9 and letter["R"] < 0.1
    assert bright[:, 1].mean() + 40 > 0.6 * inside.shape[1]


def test_obliqueness() -> None:
    tilted = Geometry((4, 4, 4), (1.0, 1.0, 1.0), direction=tuple(rotation(2, 17.0).ravel()))
    assert sheet.obliqueness_degrees(tilted) == pytest.approx(17.0)
    assert "17°" in report_page._orientation_note(tilted)
    assert "tilted" not in report_page._orientation_note(Geometry((4, 4, 4), (1.0, 1.0, 1.0)))


def test_center_of_foreground_and_of_nothing() -> None:
    mask = np.zeros((9, 11, 13), bool)
    assert sheet.center_of(mask) == (6, 5, 4)
    mask[1:4, 6:9, 2:5] = True
    assert sheet.center_of(mask) == (3, 7, 2)


# Pictures


def test_overlay_is_gray_where_images_agree_and_colored_where_not(outcome: Outcome) -> None:
    scene = figures.Scene.of(outcome)
    empty = np.zeros_like(scene.after)
    same = figures.draw_overlay(dataclasses.replace(scene, before=empty, after=scene.fixed))
    before, after = same.axes[0].images[0].get_array(), same.axes[3].images[0].get_array()
    assert np.ptp(after, axis=-1).max() == 0
    assert before[..., 1].max() > 0.5 and before[..., (0, 2)].max() == 0


def test_jacobian_counts_folds_and_shows_the_slice_with_most(outcome: Outcome) -> None:
    scene = figures.Scene.of(outcome)
    jacobian = np.full_like(scene.jacobian, 1.2)
    jacobian[15, 10:13, 20] = -0.5  # k, j, i: three folded voxels in one row of the foreground, the last one exactly 0
    jacobian[15, 12, 20] = 0.0
    jacobian[0, 0, 0] = -1.0
    assert scene.foreground[15, 10:13, 20].all() and not scene.foreground[0, 0, 0]
    words = [text.get_text() for text in figures.draw_jacobian(dataclasses.replace(scene, jacobian=jacobian)).texts]
    assert any("3 voxels in the foreground, 4 in the grid" in text for text in words)
    assert any("Most folding: 3 voxels in this slice" in text for text in words)


def test_jacobian_without_folds_says_so(outcome: Outcome) -> None:
    scene = figures.Scene.of(outcome)
    figure = figures.draw_jacobian(dataclasses.replace(scene, jacobian=np.full_like(scene.jacobian, 0.9)))
    ticks = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert ticks == ["0.9", "1", "1.1"]
    assert any("no folded voxel" in text.get_text() for text in figure.texts)
    assert not any("Most folding" in text.get_text() for text in figure.texts)


def test_jacobian_colors_are_centerd_on_one_and_logarithmic(outcome: Outcome) -> None:
    scene = figures.Scene.of(outcome)
    halves = np.where(np.arange(scene.jacobian.shape[2]) % 2, 2.0, 0.5) * np.ones_like(scene.jacobian)
    volume = figures.VolumeMap.of(dataclasses.replace(scene, jacobian=halves))
    assert volume.limit == pytest.approx(1.0)
    assert volume.colors.norm.vmin == -volume.colors.norm.vmax
    assert np.ptp(volume.colors.to_rgba(0.0)[:3]) < 0.02


def test_deformed_grid_shows_the_deformable_step_alone(outcome: Outcome) -> None:
    geometry = Geometry.of(outcome.fixed_on_grid)
    shift = np.array([6.0, -3.0, 2.0])
    affine = outcome.transform.GetNthTransform(0)
    moved = sitk.CompositeTransform(3)
    moved.AddTransform(affine)
    moved.AddTransform(sitk.TranslationTransform(3, tuple(shift)))
    for plane in sheet.planes_of(geometry):
        x, y = figures.screen_after_deformation(dataclasses.replace(outcome, transform=moved), plane, 11)
        index = np.zeros(3)
        # The pixel at the upper left corner of the screen.
        for axis, flip in ((plane.across, plane.flip_across), (plane.down, plane.flip_down)):
            index[axis] = geometry.size[axis] - 1 if flip else 0
        index[plane.through] = 11
        expected = plane.to_screen(geometry.to_index(geometry.to_lps(index) + shift))
        assert (x[0, 0], y[0, 0]) == pytest.approx(tuple(expected), abs=1e-6)
        assert np.diff(x, axis=1) == pytest.approx(4.0, abs=1e-6)


def test_label_edges_run_between_different_labels() -> None:
    labels = np.array([[0, 0, 0], [0, 5, 0], [0, 7, 0]])
    upright, flat = figures.label_edges(labels)
    assert upright.tolist() == [[1, 0], [1, 1], [2, 0], [2, 1]]
    assert flat.tolist() == [[0, 1], [1, 1]]


def test_outlines_go_through_the_slice_that_shows_most() -> None:
    labels = np.zeros((8, 12, 20), np.uint8)
    labels[:, :, 10] = 1  # a sheet that every slice across the first two axes merely grazes
    labels[2:6, 2:6, 2:6] = 2
    labels[2:6, 6:10, 2:6] = 3
    assert figures.structures_per_slice(labels, 2).tolist() == [0, 0, 2, 2, 2, 2, 0, 0, 0, 0, 1, *([0] * 9)]


def test_large_pictures_become_smaller_in_the_page() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (500, 600, 3), dtype=np.uint8)
    large, small = io.BytesIO(), io.BytesIO()
    Image.fromarray(noise).save(large, "PNG")
    Image.fromarray(noise[:50]).save(small, "PNG")
    assert sheet.compact(small.getvalue()) == small.getvalue()
    assert sheet.compact(large.getvalue()).startswith(b"\xff\xd8")
    assert len(sheet.compact(large.getvalue())) < len(large.getvalue())


@pytest.mark.parametrize(("value", "expected"), [(1.0, 1.0), (9.99, 5.0), (45.0, 20.0), (0.07, 0.05), (100.0, 100.0)])
def test_round_number(value: float, expected: float) -> None:
    assert sheet.round_number(value) == pytest.approx(expected)


# Traces


def test_levels_are_drawn_apart_and_the_end_value_beside_the_last_iteration() -> None:
    levels = [level("affine", 0), level("affine", 1, (9.0, 8.0)), level("deformable", 0, (0.3, 0.2, 0.1), end_value=0.05)]
    figure = figures.draw_trace(levels, sheet.LIGHT)
    assert len(figure.axes) == 3
    surface = [axes.lines[0].get_xydata() for axes in figure.axes]
    assert [curve[:, 0].tolist() for curve in surface] == [[1, 2, 3], [4, 5], [1, 2, 3]]
    for axes, trace in zip(figure.axes, levels, strict=True):
        end = axes.lines[1]
        assert end.get_linestyle() == "None"
        assert end.get_ydata()[0] == trace.end_value
        assert end.get_xdata()[0] > axes.lines[0].get_xdata()[-1]
    boxes = [axes.get_position() for axes in figure.axes]
    assert boxes[0].x1 < boxes[1].x0 and boxes[2].y1 < boxes[0].y0


def test_levels_that_hit_their_limit_are_marked() -> None:
    figure = figures.draw_trace([level(), level(number=1, stop_reason="Maximum number of iterations (3) exceeded.")], sheet.LIGHT)
    assert [axes.get_title("right") for axes in figure.axes] == ["", "iteration limit"]
    assert figure.axes[0].lines[0].get_color() != figure.axes[1].lines[0].get_color()


@pytest.mark.parametrize(
    "odd",
    [
        level(values=(), end_value=None),
        level(values=(1.0,), end_value=None),
        level(values=(math.nan, math.inf, 1.0), end_value=math.nan),
        level(values=(math.nan,), end_value=math.nan),
        level(values=(0.5, 0.5), end_value=0.5),
    ],
    ids=["empty", "one value", "some lost", "all lost", "flat"],
)
def test_odd_levels_can_be_drawn_and_told(outcome: Outcome, odd: LevelTrace) -> None:
    assert_not_blank(sheet.png(figures.draw_trace([odd], sheet.DARK)))
    check_page(render(with_report(outcome, registration=(odd,))), expected=(f"{len(odd.values)} of 20",))


def test_a_stage_run_twice_gets_two_rows() -> None:
    groups = figures.group_by_stage([level("affine", 0), level("affine", 1), level("affine", 0), level("rigid", 1)])
    assert [len(group) for group in groups] == [2, 1, 1]
