"""Fits to landmarks and the pull of landmarks: right on random points, refused where they say nothing, never folding."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.landmark_fit import affine_matrix, fit_landmarks, similarity_matrix
from HyperPredictRegLib.spatial.landmark_warp import SOFTNESS, STEEPEST, LandmarkWarp, landmark_warp
from HyperPredictRegLib.spatial.transforms import field_transform, jacobian_matrices, transformed_points
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

CORNERS = np.array([[0, 0, 0], [60, 0, 0], [0, 80, 0], [0, 0, 50], [55, 70, 10], [20, 60, 45], [50, 10, 40], [10, 30, 25.0]])


def moved(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def random_matrix(random: np.random.Generator, kind: str) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.random(random_state=random).as_matrix()
    if kind != "rigid":
        matrix[:3, :3] *= random.uniform(0.5, 2.0)
    if kind == "affine":
        matrix[:3, :3] @= np.eye(3) + random.uniform(-0.2, 0.2, (3, 3))
    matrix[:3, 3] = random.uniform(-300, 300, 3)
    return matrix


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(3, 12), kind=st.sampled_from(["rigid", "similarity", "affine"]))
def test_any_transform_is_found_from_enough_points(seed: int, count: int, kind: str) -> None:
    random = np.random.default_rng(seed)
    least = {"rigid": 3, "similarity": 4, "affine": 6}[kind]
    points = np.concatenate([CORNERS[:least], random.uniform(-100, 100, (max(count - least, 0), 3))])
    matrix = random_matrix(random, kind)
    fit = fit_landmarks(points, moved(matrix, points))
    elsewhere = random.uniform(-100, 100, (5, 3))
    assert np.abs(moved(fit.matrix, elsewhere) - moved(matrix, elsewhere)).max() < 1e-6  # mm
    assert fit.residual_mm.max() < 1e-6 and fit.warnings == ()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_no_similarity_fits_better_and_none_mirrors(seed: int) -> None:
    random = np.random.default_rng(seed)
    fixed, moving = random.uniform(-50, 50, (2, 6, 3))
    best = similarity_matrix(fixed, moving)
    assert np.linalg.det(best[:3, :3]) > 0
    error = np.square(moved(best, fixed) - moving).sum()
    for _ in range(20):
        other = best.copy()
        turn = Rotation.from_rotvec(random.normal(scale=0.1, size=3)).as_matrix()
        other[:3, :3] = random.uniform(0.9, 1.1) * turn @ best[:3, :3]
        other[:3, 3] += random.normal(size=3)
        assert np.square(moved(other, fixed) - moving).sum() >= error - 1e-6


def test_the_fit_is_as_general_as_points_allow() -> None:
    random = np.random.default_rng(3)
    noise = random.normal(scale=0.5, size=CORNERS.shape)
    stretched = moved(np.diag([1.5, 0.8, 1.0, 1.0]), CORNERS)
    assert fit_landmarks(CORNERS[:3], CORNERS[:3] + noise[:3]).kind == "rigid"
    assert fit_landmarks(CORNERS[:5], stretched[:5]).kind == "similarity"
    assert fit_landmarks(CORNERS, stretched + noise).kind == "affine"
    # Six or more, but an affine fit to them would be one to their noise.
    assert fit_landmarks(CORNERS, 1.2 * CORNERS + noise).kind == "similarity"
    flat = CORNERS * (1, 1, 0)
    assert fit_landmarks(flat, stretched * (1, 1, 0)).kind == "similarity"
    assert fit_landmarks(CORNERS[:3], CORNERS[:3]).left_out_mm is None


def test_a_pair_left_out_is_missed_as_a_fit_to_the_others_misses_it() -> None:
    moving = CORNERS[:5] + np.random.default_rng(4).normal(scale=2.0, size=(5, 3))
    fit = fit_landmarks(CORNERS[:5], moving)
    assert fit.left_out_mm is not None
    for n in range(5):
        others = np.delete(np.arange(5), n)
        matrix = similarity_matrix(CORNERS[others], moving[others])
        assert abs(np.linalg.norm(moved(matrix, CORNERS[n]) - moving[n]) - fit.left_out_mm[n]) < 1e-9  # mm
    assert fit.left_out_mm.mean() > fit.residual_mm.mean()


def test_affine_of_least_squares_is_that_of_the_normal_equations() -> None:
    moving = CORNERS + np.random.default_rng(5).normal(scale=3.0, size=CORNERS.shape)
    rows = np.c_[CORNERS, np.ones(len(CORNERS))]
    expected = np.linalg.solve(rows.T @ rows, rows.T @ moving).T
    assert np.abs(affine_matrix(CORNERS, moving)[:3] - expected).max() < 1e-9


@pytest.mark.parametrize(
    ("fixed", "moving", "sentence"),
    [
        (CORNERS[:2], CORNERS[:2], "at least 3 pairs, but there are 2"),
        (CORNERS[:1], CORNERS[:1], "at least 3 pairs, but there is 1"),
        (np.ones((4, 3)) * 7, CORNERS[:4], "The fixed landmarks all lie at one place"),
        (CORNERS[:4], np.arange(4.0)[:, None] * np.array([1, 2, 3]), "The moving landmarks lie on one line"),
        (CORNERS, CORNERS * (-1, 1, 1), "fit only when one image is mirrored"),
        (CORNERS, CORNERS[[3, 5, 6, 1, 0, 7, 2, 4]], "do not fit each other"),
        (CORNERS[:5], CORNERS[[0, 4, 2, 3, 1]], "landmarks 2 and 5 seem to be exchanged"),
    ],
)
def test_points_that_say_nothing_are_refused(fixed: np.ndarray, moving: np.ndarray, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        fit_landmarks(fixed, moving)


def test_pairs_that_do_not_fit_the_others_are_named() -> None:
    noise = np.random.default_rng(6).normal(scale=0.3, size=CORNERS.shape)
    assert fit_landmarks(CORNERS, CORNERS + noise).warnings == ()
    astray = CORNERS + noise
    astray[4] += (0, 12, 0)
    (sentence,) = fit_landmarks(CORNERS, astray).warnings
    assert sentence.startswith("Landmark 5 does not fit the others")
    near = np.vstack([CORNERS, [[22.0, 55.0, 40.0]]])
    (sentence,) = fit_landmarks(near, (near + 0.1 * noise[[*range(8), 0]])[[0, 1, 2, 3, 4, 8, 6, 7, 5]]).warnings
    assert sentence.startswith("The landmarks 6 and 9 seem to be exchanged")


def slopes(warp: LandmarkWarp, random: np.random.Generator) -> np.ndarray:
    """Return the slopes of a warp's displacements at random places, shape (n, 3, 3)."""
    box = Geometry.of(warp.field).corners_lps()
    places = random.uniform(box.min(axis=0), box.max(axis=0), (400, 3))
    return jacobian_matrices(field_transform(warp.field), places, 1.0) - np.eye(3)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 12), size=st.floats(0.1, 40))
def test_no_pull_folds_space(seed: int, count: int, size: float) -> None:
    random = np.random.default_rng(seed)
    points = random.uniform(-60, 60, (count, 3))
    asked = random.normal(scale=size, size=(count, 3))
    warp = landmark_warp(points, asked, 50.0)
    assert warp.slope <= STEEPEST
    found = slopes(warp, random)
    # Differences across a voxel's border mix two slopes, so that only a little more may be found.
    assert np.linalg.norm(found, ord=2, axis=(1, 2)).max() <= 1.1 * STEEPEST
    assert np.linalg.det(found + np.eye(3)).min() > 0
    assert np.linalg.norm(asked - warp.reached) < np.linalg.norm(asked)


def test_a_landmark_alone_draws_its_surroundings_and_nothing_far_off() -> None:
    point, asked = np.array([[5.0, -3.0, 8.0]]), np.array([[4.0, 0.0, -2.0]])
    warp = landmark_warp(point, asked, 40.0)
    transform = field_transform(warp.field)
    assert not warp.weakened and warp.radius_mm == 40.0
    assert np.abs(warp.reached - asked / (1 + SOFTNESS)).max() < 1e-9  # mm
    assert np.abs(transformed_points(transform, point) - point - warp.reached).max() < 0.05  # mm
    beyond = point + np.array([[41.0, 0, 0], [0, -200.0, 0]])
    assert np.abs(transformed_points(transform, beyond) - beyond).max() == 0.0
    assert np.abs(warp.left_out_mm - np.linalg.norm(asked)).max() < 1e-9  # mm: without it nothing moves
    assert np.abs(sitk.GetArrayViewFromImage(warp.field)[[0, -1]]).max() == 0.0


def test_neighbors_that_are_drawn_apart_give_way() -> None:
    points = np.array([[0.0, 0, 0], [2.0, 0, 0], [60.0, 0, 0]])
    warp = landmark_warp(points, np.array([[8.0, 0, 0], [-8.0, 0, 0], [0, 3.0, 0]]), 40.0)
    assert warp.weakened and warp.slope <= STEEPEST
    assert abs(warp.reached[0, 0]) < 2.0  # mm


def test_what_is_missed_without_a_landmark_is_what_the_others_leave() -> None:
    random = np.random.default_rng(8)
    points, asked = random.uniform(-40, 40, (5, 3)), random.normal(scale=0.5, size=(5, 3))
    whole = landmark_warp(points, asked, 60.0)
    assert not whole.weakened
    for n in range(5):
        others = np.delete(np.arange(5), n)
        part = landmark_warp(points[others], asked[others], 60.0)
        there = transformed_points(field_transform(part.field), points[n : n + 1]) - points[n]
        assert abs(np.linalg.norm(asked[n] - there) - whole.left_out_mm[n]) < 0.02  # mm: the field is linear between nodes
