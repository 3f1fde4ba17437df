"""From a label map to an image of a person who does not exist: virtual anatomy, contrast, artefacts, header."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.spatial.reading.volumes import read_volume
from scipy import ndimage
from scipy.spatial.transform import Rotation
from scipy.special import ndtr

from HyperPredictRegLab.synthesis.recipe import TISSUES, Recipe

STRUCTURES = (2, 3, 4, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 26, 28, 41, 42, 43, 46, 47, 49, 50, 51, 52, 53, 54, 58, 60)
"""FreeSurfer codes of the structures in the written labels. 24 is missing: the maps call all fluid so, atlases a small part."""

TISSUE_OF_CODE = {
    0: "air", 2: "white", 3: "cortex", 4: "csf", 5: "csf", 7: "cerebellar_white", 8: "cerebellar_cortex", 10: "thalamus",
    11: "caudate", 12: "putamen", 13: "pallidum", 14: "csf", 15: "csf", 16: "brain_stem", 17: "hippocampus", 18: "amygdala",
    24: "csf", 25: "lesion", 26: "accumbens", 28: "ventral_dc", 30: "vessel", 41: "white", 42: "cortex", 43: "csf", 44: "csf",
    46: "cerebellar_white", 47: "cerebellar_cortex", 49: "thalamus", 50: "caudate", 51: "putamen", 52: "pallidum",
    53: "hippocampus", 54: "amygdala", 57: "lesion", 58: "accumbens", 60: "ventral_dc", 62: "vessel", 72: "csf", 85: "chiasm",
    136: "choroid", 137: "choroid", 163: "choroid", 164: "choroid", 502: "muscle", 506: "eye", 507: "muscle", 508: "mucosa",
    509: "mucosa", 511: "skin", 512: "bone", 514: "mucosa", 515: "bone", 516: "marrow", 530: "muscle",
}  # fmt: skip
_LABEL_OF_CODE = {code: code for code in STRUCTURES} | {25: 2, 57: 41, 30: 2, 62: 41, 136: 4, 163: 43}
_CODES = tuple(TISSUE_OF_CODE)
_TISSUE_OF_ID = np.array([TISSUES.index(name) for name in TISSUE_OF_CODE.values()], dtype=np.uint8)
_LABEL_OF_ID = np.array([_LABEL_OF_CODE.get(code, 0) for code in _CODES], dtype=np.uint8)
_IS_BRAIN = np.array([0 < code < 500 and code != 24 for code in _CODES])
_IS_FLUID_OR_BRAIN = np.array([0 < code < 500 for code in _CODES])
_IS_VENTRICLE = np.isin(_CODES, (4, 43, 136, 163))
_ROOM_AROUND_BRAIN = (25, 40, 40)
"""Voxels (k, j, i) kept around the brain of a map: what lies farther below is neck."""

_SPLINE_SD = 0.4794**1.5
"""Standard deviation of a cubic B-spline volume whose coefficients have 1: the integral of the squared basis, per axis."""


@lru_cache(maxsize=64)
def head_map(path: Path) -> np.ndarray:
    """Return a map's voxels around the brain, as positions in this file's table of codes.

    Parameters
    ----------
    path : label map with SynthSeg's codes, 1 mm voxels; any orientation.

    Returns
    -------
    ids : uint8, order (k, j, i), axes LPS, read-only.

    Raises
    ------
    InputError : the file cannot be read, its voxels are not 1 mm, or it holds none of the brain's codes.
    """
    image = read_volume(path, "label map").image
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"The label map {path} is not one 3-D volume of labels.")
    if not np.allclose(image.GetSpacing(), 1, atol=0.02):
        raise InputError(f"The label map {path} has voxels of {image.GetSpacing()} mm: resample it to 1 mm first.")
    codes = sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS")).astype(np.int64)
    unknown = _CODES.index(507)
    # The last place stands for all codes beyond, of which there are billions.
    table = np.full(max(500, *_CODES) + 2, 0, dtype=np.uint8)
    table[500:] = unknown
    table[list(_CODES)] = np.arange(len(_CODES))
    ids = table[np.clip(codes, 0, len(table) - 1)]
    brain = _IS_BRAIN[ids]
    if not brain.any():
        raise InputError(f"The label map {path} shows no brain: it needs FreeSurfer's codes, such as 2, 3, 41 and 42.")
    retained = np.ascontiguousarray(ids[_box(brain, _ROOM_AROUND_BRAIN)])
    retained.setflags(write=False)
    return retained


@lru_cache(maxsize=64)
def _cortex_nearby(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return how much cortex surrounds each voxel of a map, 0 to 255, and where that is mostly the left one."""
    ids = head_map(path)
    left, right = (
        ndimage.gaussian_filter((ids == _CODES.index(code)).astype(np.float32), 1.0, truncate=3) for code in (3, 42)
    )
    return np.rint(255 * np.maximum(left, right)).astype(np.uint8), left >= right


def _with_thicker_cortex(path: Path, millimetres: float) -> np.ndarray:
    """Return a map's voxels with cortex grown into the fluid around it."""
    ids = head_map(path)
    if millimetres <= 0:
        return ids
    nearby, is_left = _cortex_nearby(path)
    # Beside a flat border the blurred outline falls off as the normal distribution does.
    taken = (ids == _CODES.index(24)) & (nearby > 255 * ndtr(-millimetres))
    return np.where(taken, np.where(is_left, np.uint8(_CODES.index(3)), np.uint8(_CODES.index(42))), ids)


def rendered(path: Path, recipe: Recipe) -> tuple[sitk.Image, sitk.Image]:
    """Make the image and the labels that a recipe describes.

    Parameters
    ----------
    path : label map, see `head_map`.
    recipe : what to make.

    Returns
    -------
    image, labels : uint8 on one grid; labels are 0 or one of `STRUCTURES`.

    Raises
    ------
    InputError : see `head_map`.
    """
    ids = _with_thicker_cortex(path, recipe.cortex_growth_mm)
    places = anatomy_places(head_map(path), recipe)
    anatomy = nearest_codes(_with_thicker_cortex(path, recipe.cortex_growth_mm + recipe.label_growth_mm), places)
    rng = np.random.default_rng(recipe.image_seed)
    for axis, shift in enumerate(deformation(places.shape[1:], recipe.jitter_mm, recipe.jitter_length_mm, rng)):
        places[axis] += shift
    seen = nearest_codes(ids, places)
    voxels = _signal(seen, recipe, rng)
    retained = np.ones_like(seen, dtype=bool) if recipe.whole_head else _stripped(seen, recipe)
    labels = _LABEL_OF_ID[anatomy]
    if recipe.slice_mm > 1:
        axis = 2 - recipe.slice_axis
        voxels = ndimage.uniform_filter1d(voxels, recipe.slice_mm, axis=axis)
        every = (slice(None),) * axis + (slice(recipe.slice_mm // 2, None, recipe.slice_mm),)
        voxels, labels, retained = voxels[every], labels[every], retained[every]
    voxels = _received(voxels, recipe, rng)
    voxels[~retained] = 0
    box = _box(retained | (labels > 0), (3, 3, 3))
    return _with_header(voxels[box], recipe), _with_header(labels[box], recipe)


def anatomy_places(ids: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Return where in the map each voxel of a recipe's virtual anatomy comes from.

    Parameters
    ----------
    ids : result of `head_map`.
    recipe : of one image.

    Returns
    -------
    places : float32, shape (3, k, j, i): map voxel along k, j and i. Its Jacobian determinant stays above 0.2, measured on every
        second voxel: deformations that are too strong for that are reduced.
    """
    rng = np.random.default_rng(recipe.anatomy_seed)
    box = (slice(0, n) for n in ids.shape) if recipe.whole_head else _box(_IS_BRAIN[ids], (6, 6, 6))
    scales = recipe.scales[::-1]
    axes = []
    for part, scale in zip(box, scales, strict=True):
        center, half = (part.start + part.stop - 1) / 2, (part.stop - part.start) / 2
        reach = int(np.ceil(half * scale)) if not recipe.whole_head else int(half)
        axes.append((center + np.arange(-reach, reach + 1) / scale).astype(np.float32))
    shape = tuple(len(axis) for axis in axes)
    # The spline's pattern may not depend on what the image shows, only on the anatomy: rescans share it.
    shift = deformation(shape, recipe.warp_mm, recipe.warp_length_mm, rng)
    if recipe.position_warp_mm > 0:
        own = np.random.default_rng([recipe.image_seed, 1])
        shift += deformation(shape, recipe.position_warp_mm, 20, own)
    grid = [axis.reshape([-1 if n == place else 1 for n in range(3)]) for place, axis in enumerate(axes)]
    places = _unfolded(grid, shift)
    if recipe.ventricle_growth_mm > 0:
        growth = _growth(_IS_VENTRICLE[nearest_codes(ids, places[:, ::3, ::3, ::3])], 3, shape, recipe.ventricle_growth_mm)
        places = _unfolded(list(places), growth)
    return places


def smallest_jacobian(places: np.ndarray, stride: int = 1) -> float:
    """Return the smallest Jacobian determinant of a map of places, shape (3, k, j, i) in voxels, `stride` voxels apart."""
    rows = [np.gradient(part, stride) for part in places]
    determinant = (
        rows[0][0] * (rows[1][1] * rows[2][2] - rows[1][2] * rows[2][1])
        - rows[0][1] * (rows[1][0] * rows[2][2] - rows[1][2] * rows[2][0])
        + rows[0][2] * (rows[1][0] * rows[2][1] - rows[1][1] * rows[2][0])
    )
    return float(determinant.min())


def _unfolded(grid: Sequence[np.ndarray], shift: np.ndarray) -> np.ndarray:
    """Return grid + shift; the shift is reduced until no voxel shrinks to less than a fifth."""
    for _ in range(30):
        thin = slice(None, None, 2)
        coarse = np.stack([(grid[n] + shift[n])[thin, thin, thin] for n in range(3)])
        if smallest_jacobian(coarse, 2) > 0.2:
            break
        shift *= 0.85
    for n in range(3):
        shift[n] += grid[n]
    return shift


def _growth(ventricles: np.ndarray, stride: int, shape: tuple[int, ...], millimetres: float) -> np.ndarray:
    """Return the shift that lets ventricles grow: towards them, down the slope of their blurred outline."""
    blurred = ndimage.gaussian_filter(ventricles.astype(np.float32), 7 / stride)
    slope = np.stack(np.gradient(blurred))
    largest = float(np.sqrt((slope**2).sum(axis=0)).max())
    slope *= millimetres / largest if largest > 0 else 0
    result = np.empty((3, *shape), dtype=np.float32)
    for n in range(3):
        part = slope[n]
        for axis, count in enumerate(shape):
            part = _along(part, _linear_weights(count, stride, part.shape[axis]), axis)
        result[n] = part
    return result


def _linear_weights(count: int, stride: int, knots: int) -> np.ndarray:
    positions = np.minimum(np.arange(count) / stride, knots - 1)
    return np.maximum(0, 1 - np.abs(positions[:, None] - np.arange(knots)[None])).astype(np.float32)


def deformation(shape: tuple[int, ...], sd: float, length: float, rng: np.random.Generator) -> np.ndarray:
    """Return a smooth random shift, shape (3, k, j, i): `smooth` along each axis."""
    return np.stack([smooth(shape, sd, length, rng) for _ in range(3)])


def smooth(shape: tuple[int, ...], sd: float, length: float, rng: np.random.Generator) -> np.ndarray:
    """Return a smooth random volume: a cubic B-spline with knots every `length` voxels."""
    knots = tuple(int(n / length) + 5 for n in shape)
    values = (rng.standard_normal(knots) * (sd / _SPLINE_SD)).astype(np.float32)
    phases = rng.random(3)
    for axis, count in enumerate(shape):
        values = _along(values, _spline_weights(count, length, phases[axis], knots[axis]), axis)
    return values


def _spline_weights(count: int, length: float, phase: float, knots: int) -> np.ndarray:
    t = np.abs(np.arange(count)[:, None] / length + 1 + phase - np.arange(knots)[None])
    return np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.where(t < 2, (2 - t) ** 3 / 6, 0)).astype(np.float32)


def _along(values: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    """Apply `weights`, shape (new, old), along one axis."""
    before, after = values.shape[:axis], values.shape[axis + 1 :]
    flat = values.reshape(int(np.prod(before)), values.shape[axis], int(np.prod(after)))
    done = np.matmul(weights, flat) if after else (flat[..., 0] @ weights.T)[..., None]
    return done.reshape(*before, weights.shape[0], *after)


def nearest_codes(ids: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return a map's codes at places, shape (3, k, j, i) in voxels; beyond the map there is what its border shows."""
    flat = np.zeros(places.shape[1:], dtype=np.int32)
    for n, count in enumerate(ids.shape):
        flat *= count
        flat += np.clip(np.rint(places[n]), 0, count - 1).astype(np.int32)
    return ids.ravel().take(flat)


def _signal(seen: np.ndarray, recipe: Recipe, rng: np.random.Generator) -> np.ndarray:
    """Return the noise-free intensities: means, texture and grain of each tissue, blurred over their borders."""
    means = np.array(recipe.means, dtype=np.float32)
    # Tissues differ in how much they vary; air does not vary at all.
    liveliness = rng.uniform(0.5, 1.5, len(TISSUES)).astype(np.float32) * (np.arange(len(TISSUES)) > 0)
    slow = smooth(seen.shape, recipe.texture, recipe.texture_length_mm, rng)
    slow += rng.standard_normal(seen.shape, dtype=np.float32) * np.float32(recipe.grain)
    slow *= liveliness[_TISSUE_OF_ID][seen]
    slow += means[_TISSUE_OF_ID][seen]
    return ndimage.gaussian_filter(slow, recipe.blur_mm, truncate=3)


def _stripped(seen: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Return where a skull-stripped image has values: brain, and fluid within the margin, smoothly across the sulci."""
    brain = _IS_BRAIN[seen]
    near = ndimage.gaussian_filter(brain.astype(np.float32), recipe.strip_smoothness_mm, truncate=2.5)
    # Beside a flat brain this level lies `strip_margin_mm` away from it, as the blur's integral falls off.
    mask = near > ndtr(-recipe.strip_margin_mm / recipe.strip_smoothness_mm)
    if not recipe.strip_leaves_other_tissue:
        mask &= ndimage.binary_closing(_IS_FLUID_OR_BRAIN[seen])
    return ndimage.binary_opening(mask | brain)


def _received(voxels: np.ndarray, recipe: Recipe, rng: np.random.Generator) -> np.ndarray:
    """Return uint8 intensities as a scanner would: with bias field, noise and gamma; 250 is the 99.5th percentile."""
    white = recipe.means[TISSUES.index("white")]
    bias = smooth(voxels.shape, 1, recipe.bias_length_mm, rng)
    bias *= recipe.bias / max(float(np.abs(bias).max()), 1e-6)
    voxels = voxels * np.exp(bias)
    sd = np.float32(recipe.noise * white)
    voxels += sd * rng.standard_normal(voxels.shape, dtype=np.float32)
    other = sd * rng.standard_normal(voxels.shape, dtype=np.float32)
    voxels = np.sqrt(voxels**2 + other**2)
    top = np.percentile(voxels[::2, ::2, ::2][voxels[::2, ::2, ::2] > 0.05], 99.5)
    voxels = np.minimum(voxels / top, 1.02) ** recipe.gamma
    return np.clip(np.rint(250 * voxels), 1 - recipe.whole_head, 255).astype(np.uint8)


def _with_header(voxels: np.ndarray, recipe: Recipe) -> sitk.Image:
    image = sitk.GetImageFromArray(voxels)
    spacing = np.ones(3)
    spacing[recipe.slice_axis] = recipe.slice_mm
    turn = Rotation.from_rotvec(recipe.rotation_degrees, degrees=True).as_matrix()
    half = spacing * (np.array(image.GetSize()) - 1) / 2
    image.SetSpacing(spacing.tolist())
    image.SetDirection(turn.ravel().tolist())
    image.SetOrigin((np.array(recipe.translation_mm) - turn @ half).tolist())
    return image


def _box(mask: np.ndarray, margin: tuple[int, int, int]) -> tuple[slice, slice, slice]:
    """Return the bounding box of a mask, grown by `margin` voxels as far as the array goes."""
    found = []
    for axis, more in enumerate(margin):
        taken = np.flatnonzero(mask.any(axis=tuple(n for n in range(3) if n != axis)))
        found.append(slice(max(0, int(taken[0]) - more), min(mask.shape[axis], int(taken[-1]) + 1 + more)))
    return found[0], found[1], found[2]
