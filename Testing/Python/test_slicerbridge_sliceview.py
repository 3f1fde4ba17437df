"""Slice views as pictures: what is drawn where, and what happens on machines that cannot draw."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

slicer = pytest.importorskip("slicer", reason="needs slicer-core or Slicer")

from HyperPredictRegLib.slicerbridge import sliceview  # noqa: E402
from HyperPredictRegLib.slicerbridge.sliceview import (  # noqa: E402
    PictureUnavailable,
    SliceStyle,
    offscreen_window,
    write_outcome_views,
    write_slice_views,
)
from HyperPredictRegLib.spatial.geometry import Geometry  # noqa: E402
from HyperPredictRegLib.spatial.transforms import field_transform  # noqa: E402
from slicerbridge_samples import OBLIQUE, field, image, outcome  # noqa: E402

SMALL = SliceStyle(height_px=160)


@pytest.fixture
def can_draw() -> None:
    """Skip, with the reason, where no picture can be made."""
    try:
        offscreen_window()
    except PictureUnavailable as reason:
        pytest.skip(str(reason))


def drawn(path: Path, *args, **kwargs) -> np.ndarray:
    write_slice_views(path, *args, style=kwargs.pop("style", SMALL), **kwargs)
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(int)


def colourful(picture: np.ndarray) -> int:
    return int((np.ptp(picture, axis=2) > 60).sum())


def black(geometry: Geometry = OBLIQUE) -> sitk.Image:
    return geometry.apply_to(sitk.Image(geometry.size, sitk.sitkFloat32))


def test_the_three_views_lie_side_by_side(can_draw, tmp_path) -> None:
    picture = drawn(tmp_path / "a.png", image(), image(seed=6))
    across, along, up = np.ptp(OBLIQUE.corners_lps(), axis=0)
    assert picture.shape[0] == SMALL.height_px
    assert picture.shape[2] == 3
    gaps = np.flatnonzero((picture == 255).all(axis=(0, 2)))
    assert len(gaps) == 2 * 6
    # One scale for all: the widths are those of the patient.
    expected = (2 * across + along) / max(along, up) * SMALL.height_px
    assert abs(picture.shape[1] - 12 - expected) <= 3
    assert picture[:, : gaps[0]].std() > 10


def test_a_bright_ball_is_where_radiologists_look_for_it(can_draw, tmp_path) -> None:
    """Left of the patient is right in the picture, anterior is up, superior is up; the grid is oblique."""
    cube = Geometry((40, 40, 40), (2.0, 2.0, 2.0), tuple(OBLIQUE.direction_matrix @ (-39.0, -39.0, -39.0)), OBLIQUE.direction)
    index = np.stack(np.meshgrid(*[np.arange(40)] * 3, indexing="ij"), axis=-1)
    # LPS: 15 mm to the left, 10 mm anterior, 8 mm superior of the centre.
    distance = np.linalg.norm(cube.to_lps(index) - (15.0, -10.0, 8.0), axis=-1)
    ball = cube.apply_to(sitk.GetImageFromArray((100.0 * (distance < 5)).astype(np.float32).transpose(2, 1, 0)))
    picture = drawn(tmp_path / "a.png", ball, ball, style=SliceStyle(height_px=240), labels=())
    gaps = np.flatnonzero((picture == 255).all(axis=(0, 2)))
    views = np.split(picture, [gaps[0], gaps[6]], axis=1)
    extent = np.ptp(cube.corners_lps(), axis=0)
    mm = 1.04 * max(extent[1], extent[2]) / 240
    for number, (view, (right, up)) in enumerate(zip(views, ((15, 10), (15, 8), (-10, 8)), strict=True)):
        view = view[:, 6:] if number else view
        bright = np.argwhere(view.min(axis=2) > 200)
        # Letters are white or yellow too, but stay at the edges.
        middle = np.array(view.shape[:2]) / 2
        inner = bright[(np.abs(bright - middle) < 30 / mm).all(axis=1)]
        assert len(inner) > 20
        # The planes go through what is bright; the image's middle stays in the middle of the views.
        assert np.abs((inner.mean(axis=0) - middle) * mm - (-up, right)).max() < 1.5


def test_planes_go_through_the_labels_and_flip_nothing(can_draw, tmp_path) -> None:
    """A second ball lies at a known offset from the labelled one in each view."""
    grid = Geometry((48, 48, 48), (2.0, 2.0, 2.0), (-47.0, -47.0, -47.0))
    index = np.stack(np.meshgrid(*[np.arange(48)] * 3, indexing="ij"), axis=-1)
    points = grid.to_lps(index)
    label = (np.linalg.norm(points, axis=-1) < 4).astype(np.uint8)
    offsets = {"axial": ((20.0, -14.0, 0.0), (20.0, 14.0)), "coronal": ((20.0, 0.0, 14.0), (20.0, 14.0)),
               "sagittal": ((0.0, -20.0, 14.0), (-20.0, 14.0))}
    for number, (centre, (right, up)) in enumerate(offsets.values()):
        ball = np.linalg.norm(points - np.array(centre), axis=-1) < 5
        fixed = grid.apply_to(sitk.GetImageFromArray((100.0 * ball).astype(np.float32).transpose(2, 1, 0)))
        marks = grid.apply_to(sitk.GetImageFromArray(label.transpose(2, 1, 0)))
        picture = drawn(tmp_path / "a.png", fixed, fixed, style=SliceStyle(height_px=200), labels=[marks])
        gaps = np.flatnonzero((picture == 255).all(axis=(0, 2)))
        view = np.split(picture, [gaps[0], gaps[6]], axis=1)[number]
        view = view[:, 6:] if number else view
        mm = 1.04 * 96 / 200
        row, column = view.shape[0] / 2 - up / mm, view.shape[1] / 2 + right / mm
        bright = np.argwhere(view.min(axis=2) > 200)
        near = bright[np.linalg.norm(bright - (row, column), axis=1) < 8 / mm]
        assert len(near) > 20
        assert np.abs((near.mean(axis=0) - (row, column)) * mm).max() < 1.5


def test_the_warped_image_is_blended_over_the_fixed_one(can_draw, tmp_path) -> None:
    bright = black() + 100.0
    bright[0, 0, 0] = 0.0
    clear = drawn(tmp_path / "a.png", black(), bright, style=SliceStyle(160, foreground_opacity=0.0))
    half = drawn(tmp_path / "b.png", black(), bright, style=SliceStyle(160, foreground_opacity=0.5))
    assert half.mean() > clear.mean() + 10


def test_planes_go_through_the_point_that_is_asked_for(can_draw, tmp_path) -> None:
    voxels = np.zeros((30, 30, 30), dtype=np.float32)
    voxels[20:24, 20:24, 20:24] = 100.0
    grid = Geometry((30, 30, 30), (2.0, 2.0, 2.0))
    fixed = grid.apply_to(sitk.GetImageFromArray(voxels))
    through = drawn(tmp_path / "a.png", fixed, fixed, cut_lps=(43.0, 43.0, 43.0))
    beside = drawn(tmp_path / "b.png", fixed, fixed, cut_lps=(20.0, 20.0, 20.0))
    assert (through.min(axis=2) > 200).sum() > (beside.min(axis=2) > 200).sum() + 300


def test_grid_and_outlines_are_drawn_in_colour(can_draw, tmp_path) -> None:
    plain = colourful(drawn(tmp_path / "a.png", image(), image()))
    with_grid = colourful(drawn(tmp_path / "b.png", image(), image(), transform=field_transform(field())))
    with_labels = colourful(drawn(tmp_path / "c.png", image(), image(), labels=[outcome().fixed_labels]))
    assert with_grid > plain + 200
    assert with_labels > plain + 200


def test_an_outcome_has_its_picture(can_draw, tmp_path) -> None:
    environment = dict(os.environ)
    write_outcome_views(outcome(), tmp_path / "a.png", style=SMALL)
    picture = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.png"))).astype(int)
    assert colourful(picture) > 500
    assert dict(os.environ) == environment


@pytest.fixture
def fresh_probe() -> Iterator[None]:
    offscreen_window.cache_clear()
    yield
    offscreen_window.cache_clear()


def test_machines_that_cannot_draw_say_why(fresh_probe, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(sliceview, "_PROBE", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("VTK_DEFAULT_OPENGL_WINDOW", raising=False)
    with pytest.raises(PictureUnavailable, match=r"vtkEGLRenderWindow: ended with code -11.*vtkOSOpenGLRenderWindow"):
        write_slice_views(tmp_path / "a.png", image(), image())
    assert not (tmp_path / "a.png").exists()


def test_a_probe_that_draws_nothing_does_not_count(fresh_probe, monkeypatch) -> None:
    monkeypatch.setattr(sliceview, "_PROBE", "raise SystemExit(3)")
    with pytest.raises(PictureUnavailable, match="code 3"):
        offscreen_window()


def test_inside_of_slicer_its_own_views_are_used(fresh_probe, monkeypatch) -> None:
    monkeypatch.setattr(slicer, "app", object(), raising=False)
    with pytest.raises(PictureUnavailable, match="its own slice views"):
        offscreen_window()
