"""How an image of any anatomy comes to look: contrast, texture, slices, field of view, noise and what is missing or added."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from HyperPredictRegLab.synthesis.anatomies import AIR, LESION
from HyperPredictRegLab.synthesis.maps import smooth

CONTRASTS = ("mr", "ct", "ultrasound", "scan")
"""Any intensities in the dark; Hounsfield units; speckle and shadows; the real image that belongs to a label map."""

RATIOS = (3, 5, 7, 9)
"""Thickness of a slice over the width of its voxels. Odd, so that the middle of a slice is a place of the finer grid."""

_LEAST_SLICES = 4
"""Fewer cannot be registered."""


@dataclass(frozen=True)
class Look:
    """All that chance decided about one image but for its anatomy.

    Attributes
    ----------
    contrast : one of `CONTRASTS`.
    contrast_seed : of the tissues' intensities; two images with one number have the same contrast.
    seed : of all else that fills voxels.
    texture, shared : standard deviation of the variation within tissue, and which share of it belongs to the anatomy, so that it
        moves with it and is there again at the next visit.
    texture_length : its correlation length in voxels.
    blur : standard deviation of the point spread in voxels.
    bias : half range of the logarithm of the shading.
    noise : standard deviation, 1 = the brightest tissue.
    gamma : exponent applied to intensities.
    dark_air : whether air is exactly the lowest value, as after stripping.
    slice_axis, slice_ratio : axis (k, j, i = 0, 1, 2) and thickness of the slices in voxels; 1 is isotropic.
    cut : share of the field of view that is missing at the low and the high end of k, j and i.
    change : "" or "lost" (tissue is gone, fluid or air in its place) or "added" (something that only this image shows).
    change_size : its radius as a share of the smallest side.
    """

    contrast: str
    contrast_seed: int
    seed: int
    texture: float
    shared: float
    texture_length: float
    blur: float
    bias: float
    noise: float
    gamma: float
    dark_air: bool
    slice_axis: int
    slice_ratio: int
    cut: tuple[float, float, float, float, float, float]
    change: str
    change_size: float


@dataclass(frozen=True, eq=False)
class Seen:
    """An image as it is written.

    Attributes
    ----------
    voxels : uint8, or int16 Hounsfield units, (k, j, i).
    labels : uint8 on the same grid; 0 where no label names what is there.
    first : place of voxel (0, 0, 0) on the grid that it was made on, (k, j, i), in that grid's voxels.
    steps : how many of those voxels one of its own has along k, j, i.
    """

    voxels: np.ndarray
    labels: np.ndarray
    first: tuple[float, float, float]
    steps: tuple[int, int, int]


def imaged(codes: np.ndarray, tissues: np.ndarray, common: np.ndarray, scan: np.ndarray | None, look: Look) -> Seen:
    """Make the image that a look describes.

    Parameters
    ----------
    codes : uint8, see `Anatomy`.
    tissues : see `Anatomy`.
    common : texture that belongs to the anatomy, standard deviation 1, on the same grid.
    scan : real intensities on the same grid, 0 to 1; needed by the contrast "scan".
    """
    rng = np.random.default_rng([look.seed, 1])
    codes = _changed(codes, look, rng)
    voxels = _signal(codes, tissues, common, scan, look, rng)
    labels = np.where(codes < 200, codes, 0).astype(np.uint8)
    air = codes == AIR
    if look.contrast == "ultrasound":
        voxels = _insonified(voxels, look, rng)
    first, steps = [0.0, 0.0, 0.0], [1, 1, 1]
    if look.slice_ratio > 1:
        axis = look.slice_axis
        ratio = _thickness(look.slice_ratio, voxels.shape[axis])
        voxels = ndimage.uniform_filter1d(voxels, ratio, axis=axis)
        every = (slice(None),) * axis + (slice(ratio // 2, None, ratio),)
        voxels, labels, air = voxels[every], labels[every], air[every]
        first[axis], steps[axis] = (ratio - 1) / 2, ratio
    window = []
    for axis, count in enumerate(voxels.shape):
        low, high = (round(look.cut[2 * axis + end] * count) for end in (0, 1))
        if count - low - high < 4:
            low, high = 0, 0
        window.append(slice(low, count - high))
        first[axis] += low * steps[axis]
    shown = tuple(window)
    voxels, labels, air = voxels[shown], labels[shown], air[shown]
    return Seen(_received(voxels, air, look, rng), np.ascontiguousarray(labels), tuple(first), tuple(steps))  # type: ignore[arg-type]


def _thickness(ratio: int, count: int) -> int:
    """Return the ratio, less if fewer than `_LEAST_SLICES` slices as thick were made of `count` voxels."""
    while ratio > 1 and len(range(ratio // 2, count, ratio)) < _LEAST_SLICES:
        ratio -= 2
    return ratio


def intensities(look: Look, tissues: np.ndarray) -> np.ndarray:
    """Return the mean of every code, shape (256,): 0 is air, 1 the brightest tissue or, of CT, water."""
    rng = np.random.default_rng([look.contrast_seed, 2])
    if look.contrast == "ct":
        kinds = rng.random(256)
        values = rng.uniform(0.9, 1.13, 256)
        values[kinds < 0.15] = rng.uniform(1.25, 2.2, 256)[kinds < 0.15]
        values[kinds > 0.93] = rng.uniform(0.15, 0.5, 256)[kinds > 0.93]
    else:
        values = rng.uniform(0.12, 1, 256)
    # Not every border is seen: some tissues look like another.
    like = rng.integers(1, 256, 256)
    values = np.where(rng.random(256) < 0.2, values[like], values)[tissues]
    own = np.random.default_rng([look.seed, 3])
    values = values + own.normal(0, 0.012, 256)
    values[AIR] = 0
    return np.maximum(values, 0).astype(np.float32)


def _changed(codes: np.ndarray, look: Look, rng: np.random.Generator) -> np.ndarray:
    if not look.change:
        return codes
    inside = np.argwhere(codes > 0)
    if not len(inside):
        return codes
    center = inside[int(rng.integers(len(inside)))]
    radius = look.change_size * min(codes.shape)
    away = np.meshgrid(*(np.arange(n) - c for n, c in zip(codes.shape, center, strict=True)), indexing="ij", sparse=True)
    distance = np.sqrt(sum(part.astype(np.float32) ** 2 for part in away)) / radius
    where = (distance + smooth(codes.shape, 0.2, max(4.0, radius), rng) < 1) & (codes > 0)
    lost_to_air = look.change == "lost" and rng.random() < 0.4
    return np.where(where, np.uint8(AIR if lost_to_air else LESION), codes)


def _signal(
    codes: np.ndarray, tissues: np.ndarray, common: np.ndarray, scan: np.ndarray | None, look: Look, rng: np.random.Generator
) -> np.ndarray:
    table = intensities(look, tissues)
    own = rng.standard_normal(codes.shape, dtype=np.float32)
    if look.texture_length > 0.5:
        own = ndimage.gaussian_filter(own, look.texture_length)
        own /= max(float(own.std()), 1e-6)
    if look.contrast == "scan" and scan is not None:
        voxels = np.where(codes == LESION, table[LESION], scan).astype(np.float32)
        return ndimage.gaussian_filter(voxels + 0.3 * look.texture * own * (codes > 0), look.blur)
    liveliness = np.random.default_rng([look.contrast_seed, 4]).uniform(0.4, 1.6, 256).astype(np.float32)[tissues]
    liveliness[AIR] = 0
    varied = np.float32(np.sqrt(look.shared)) * common + np.float32(np.sqrt(1 - look.shared)) * own
    return ndimage.gaussian_filter(table[codes] + look.texture * liveliness[codes] * varied, look.blur)


def _insonified(voxels: np.ndarray, look: Look, rng: np.random.Generator) -> np.ndarray:
    """Return an ultrasound image: speckle, weaker with depth, with the shadows of what lets nothing through."""
    parts = [ndimage.gaussian_filter(rng.standard_normal(voxels.shape, dtype=np.float32), (0.6, 1.1, 0.8)) for _ in range(2)]
    speckle = np.sqrt(parts[0] ** 2 + parts[1] ** 2)
    voxels = voxels * (0.35 + 0.65 * speckle / speckle.mean())
    axis = int(rng.integers(1, 3))
    depth = np.linspace(0, 1, voxels.shape[axis], dtype=np.float32).reshape([-1 if n == axis else 1 for n in range(3)])
    voxels *= np.exp(-float(rng.uniform(0, 1.2)) * depth)
    face = tuple(1 if n == axis else count for n, count in enumerate(voxels.shape))
    for _ in range(int(rng.integers(0, 4))):
        where = smooth(face, 1.0, 0.2 * min(voxels.shape), rng) > 1.3
        voxels = np.where(where & (depth > rng.uniform(0.2, 0.7)), voxels * np.float32(rng.uniform(0.1, 0.5)), voxels)
    return np.log1p(4 * np.maximum(voxels, 0)) / np.log(5)


def _received(voxels: np.ndarray, air: np.ndarray, look: Look, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(voxels.shape, dtype=np.float32) * np.float32(look.noise)
    if look.contrast == "ct":
        units = 1000 * (voxels + noise) - 1000
        return np.clip(np.rint(np.where(air & look.dark_air, -1000, units)), -1024, 3071).astype(np.int16)
    bias = smooth(voxels.shape, 1, float(rng.uniform(0.5, 1)) * max(voxels.shape), rng)
    voxels = voxels * np.exp(bias * (look.bias / max(float(np.abs(bias).max()), 1e-6)))
    other = rng.standard_normal(voxels.shape, dtype=np.float32) * np.float32(look.noise)
    voxels = np.sqrt((voxels + noise) ** 2 + other**2)
    voxels = np.minimum(voxels / max(float(np.percentile(voxels, 99.7)), 1e-6), 1.05) ** look.gamma
    found = np.clip(np.rint(240 * voxels), 1 if look.dark_air else 0, 255).astype(np.uint8)
    found[air & look.dark_air] = 0
    return found
