"""Contrast is judged inside the anatomy: what surrounds it does not decide, and neither does noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from HyperPredictRegLib.alignment import AlignmentSettings, Likeness, align
from HyperPredictRegLib.preprocessing.intensity import foreground, normalised
from HyperPredictRegLib.quality.likeness import likeness
from HyperPredictRegLib.spatial.images import read_image
from scipy import ndimage

SIZE = (56, 60, 52)
CENTRE = np.linalg.norm((np.indices(SIZE).T - (np.array(SIZE) - 1) / 2).T / np.reshape(SIZE, (3, 1, 1, 1)), axis=0)
HEAD, BRAIN = CENTRE < 0.46, CENTRE < 0.36


def tissue(seed: int = 1, sigma: float = 3.0) -> np.ndarray:
    """Return a smooth random pattern, as likely to be anywhere between 0 and 1."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SIZE), sigma)
    ranks = field.ravel().argsort().argsort().reshape(SIZE)
    return ranks / ranks.max()


def noisy(image: np.ndarray, seed: int, level: float = 0.05) -> np.ndarray:
    return image + level * np.random.default_rng(seed).normal(size=SIZE)


def head(brain: np.ndarray) -> np.ndarray:
    """Return a brain in a head: bright scalp over dark bone, the same in any contrast, and black air."""
    shell = np.where(CENTRE < 0.40, 0.1, 1.0)
    return np.where(BRAIN, 0.4 + 0.2 * brain, np.where(HEAD, shell, 0.0))


REMAPPED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "turned round": lambda x: 1 - x,
    "folded": lambda x: np.abs(2 * x - 1),
    "a hat": lambda x: 1 - np.abs(2 * x - 1),
    "a wave": lambda x: 0.5 + 0.5 * np.sin(3 * np.pi * x),
    "tissues exchanged": lambda x: np.interp(x, (0, 0.25, 0.45, 0.6, 0.8, 1), (0.9, 0.5, 0.8, 0.3, 0.6, 0.1)),
}
RISING: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "equal": lambda x: x,
    "gamma": lambda x: x**2.2,
    "square root": np.sqrt,
    "steps": lambda x: np.round(4 * x) / 4,
    "shaded": lambda x: x * np.linspace(0.7, 1.0, SIZE[2]),
}


@pytest.mark.parametrize("kind", REMAPPED)
def test_another_contrast_is_different(kind: str) -> None:
    found = likeness(noisy(tissue(), 1), noisy(REMAPPED[kind](tissue()), 2), HEAD)
    assert found.contrast == "different"
    assert found.refusals == ()


@pytest.mark.parametrize("kind", RISING)
def test_one_contrast_is_the_same_however_scaled(kind: str) -> None:
    assert likeness(noisy(tissue(), 1), noisy(RISING[kind](tissue()), 2), HEAD).contrast == "same"


def test_scalp_and_bone_do_not_decide() -> None:
    """As of T1 and PD: the heads correlate well, the brains do not."""
    one, other = noisy(head(tissue()), 1, 0.02), noisy(head(1 - tissue()), 2, 0.02)
    assert np.corrcoef(one[HEAD], other[HEAD])[0, 1] > 0.7
    assert likeness(one, other, HEAD).contrast == "different"
    assert likeness(one, noisy(head(tissue()), 3, 0.02), HEAD).contrast == "same"


@pytest.mark.parametrize("sigma", [0.0, 1.0, 2.0])
def test_unrelated_images_are_unclear_and_refused(sigma: float) -> None:
    found = likeness(tissue(1, sigma), tissue(2, sigma), HEAD)
    assert found.contrast == "unclear"
    assert any("hardly anything in common" in reason for reason in found.refusals)


def test_noise_is_refused_even_against_itself() -> None:
    noise = np.random.default_rng(3).normal(size=SIZE)
    found = likeness(noise, noise, HEAD)
    assert found.explained > 0.9
    assert [("fixed" in reason, "moving" in reason) for reason in found.refusals] == [(True, False), (False, True)]
    assert "moving" in likeness(tissue(), noise, HEAD).refusals[0]


def test_a_noisy_image_still_has_structure() -> None:
    found = likeness(noisy(tissue(), 1, 0.15), noisy(tissue(), 2, 0.15), HEAD)
    assert (found.contrast, found.refusals) == ("same", ())


def test_constant_and_empty_images_are_refused() -> None:
    flat = np.full(SIZE, 0.5)
    for pair in ((flat, flat), (flat, tissue()), (flat + 1e-4 * tissue(), flat + 1e-4 * tissue())):
        assert any("constant" in reason for reason in likeness(*pair, HEAD).refusals)
    assert likeness(tissue(), tissue(), np.zeros(SIZE, bool)).refusals


@pytest.mark.parametrize("field", ["explained", "varied", "structure"])
def test_what_is_not_a_number_is_refused(field: str) -> None:
    good = Likeness(0.5, 0.0, 0.0, (0.5, 0.5), 1.0)
    assert good.refusals == ()
    assert replace(good, **{field: (np.nan, 0.5) if field == "structure" else np.nan}).refusals


def test_the_search_goes_on_with_mutual_information_where_correlation_misleads() -> None:
    """The first stage finds that the heads correlate; only inside it shows that the contrast differs."""
    fixed, moving = (sitk.GetImageFromArray(noisy(image, n, 0.02).astype(np.float32)) for n, image in enumerate(
        (head(tissue()), head(1 - tissue()))))
    mask = sitk.GetImageFromArray(HEAD.astype(np.uint8))
    quick = AlignmentSettings(multi_start=False, stages=("rigid",))
    result = align(fixed, moving, quick, seed=1, fixed_foreground=mask, moving_foreground=mask)
    assert result.correlation > 0.3
    assert (result.contrast, result.metric) == ("different", "mattes")
    assert len(result.levels) == 3
    told = align(fixed, moving, replace(quick, contrast="same"), seed=1, fixed_foreground=mask, moving_foreground=mask)
    assert (told.contrast, told.metric) == ("same", "correlation")


@pytest.mark.data
@pytest.mark.parametrize(
    ("fixed", "moving", "contrast"),
    [
        ("spm-contrasts/t1_img", "spm-contrasts/pd_img", "different"),
        ("spm-contrasts/t1_img", "spm-contrasts/t2_img", "different"),
        ("brain-t1-nmm/nmm_1000_t1", "brain-t1-nmm/nmm_1001_t1", "same"),
        ("hippocampus-msd04/images/hippocampus_001", "hippocampus-msd04/images/hippocampus_004", "same"),
        ("heart-acdc/p002_ed_img", "heart-acdc/p002_es_img", "same"),
    ],
)
def test_real_pairs(data_folder: Path, fixed: str, moving: str, contrast: str) -> None:
    images = [read_image(data_folder / f"{name}.nii.gz", "image") for name in (fixed, moving)]
    masks = [foreground(image) for image in images]
    scaled = [normalised(image, mask) for image, mask in zip(images, masks, strict=True)]
    quick = AlignmentSettings(multi_start=False, shrink_factors=(4.0, 2.0), smoothing_sigmas=(0.5, 0.5), iterations=(60, 50),
                              sampling_percentages=(100.0, 25.0))  # fmt: skip
    result = align(*scaled, quick, seed=1, fixed_foreground=masks[0], moving_foreground=masks[1])
    assert result.contrast == contrast
    assert result.refusals == ()
