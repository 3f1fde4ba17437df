"""From a recipe to a pair: two images, their labels, the true transform where there is one, and the alignment to start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.predictor.features import LEAST_FOREGROUND_VOXELS
from HyperPredictRegLib.preprocessing.intensity import foreground
from HyperPredictRegLib.spatial.geometry import Geometry, homogeneous
from scipy import ndimage
from scipy.spatial.transform import Rotation

from HyperPredictRegLab.synthesis.anatomies import (
    ORGANS,
    Anatomy,
    is_sparse,
    map_anatomy,
    shape_anatomy,
    with_body,
    without_surroundings,
)
from HyperPredictRegLab.synthesis.any_recipe import MOST_EDGE_MM, AnyRecipe
from HyperPredictRegLab.synthesis.looks import Look, Seen, imaged
from HyperPredictRegLab.synthesis.maps import nearest_codes
from HyperPredictRegLab.synthesis.warps import difference, drawn_warp

_MARGIN = 3
_LEAST_SIDE, _MOST_SIDE = 18, 96
_LEAST_SHOWN, _MOST_LONGER = 8 * LEAST_FOREGROUND_VOXELS, 2.0
"""Cubic voxels of foreground that a fixed image needs to be described, and by how much the sides of one that shows less grow."""
_CUT_FACE = 0.3
"""Share of a map's face that shows tissue from which on it is taken to go on beyond."""
_LEAST_LABEL_VOXELS = 30
"""Smaller structures count in no fit of one map to the other."""


@dataclass(frozen=True, eq=False)
class Scene:
    """A finished pair.

    Attributes
    ----------
    fixed, moving : images, uint8 or int16.
    fixed_labels, moving_labels : uint8, each on its image's grid.
    truth : displacement field in LPS mm, float32, from fixed to moving points, on a grid of cubic voxels; None for two people.
    start : linear, fixed to moving points; None where the product is to find it.
    """

    fixed: sitk.Image
    moving: sitk.Image
    fixed_labels: sitk.Image
    moving_labels: sitk.Image
    truth: sitk.Image | None
    start: sitk.AffineTransform | None


@dataclass(frozen=True, eq=False)
class _Stage:
    """A grid of shape (k, j, i) over an anatomy: its voxel z lies at `center + ratio * (z - middle)` of the map's voxels."""

    anatomy: Anatomy
    shape: tuple[int, int, int]
    center: np.ndarray
    ratio: float

    @property
    def middle(self) -> np.ndarray:
        return (np.array(self.shape) - 1) / 2

    def at(self, places: np.ndarray) -> np.ndarray:
        """Return the map's places, shape (3, k, j, i), of places on the stage."""
        offset = (self.center - self.ratio * self.middle).reshape(3, 1, 1, 1)
        return np.asarray(np.float32(self.ratio) * places + offset.astype(np.float32))

    def codes(self, places: np.ndarray) -> np.ndarray:
        """Return the codes at places on the stage."""
        return nearest_codes(self.anatomy.codes, self.at(places))

    def scan(self, places: np.ndarray) -> np.ndarray | None:
        """Return the real image at places on the stage, None if the anatomy has none."""
        if self.anatomy.scan is None:
            return None
        smooth = ndimage.gaussian_filter(self.anatomy.scan, 0.4 * self.ratio) if self.ratio > 1.2 else self.anatomy.scan
        return np.asarray(ndimage.map_coordinates(smooth, self.at(places), order=1, mode="nearest"))


def made(recipe: AnyRecipe, maps: Mapping[str, Sequence[Path]]) -> Scene:
    """Make the pair that a recipe describes, or a larger one if its fixed image shows too little to be described.

    Parameters
    ----------
    recipe : what to make.
    maps : label maps by anatomy, as the recipe was drawn for.

    Raises
    ------
    InputError : a label map cannot be used.
    """
    scene, longer = _made(recipe, maps), 1.0
    while longer < _MOST_LONGER and (shown := _shown(scene.fixed)) < _LEAST_SHOWN:
        longer = min(_MOST_LONGER, 1.1 * longer * (_LEAST_SHOWN / max(shown, 1)) ** (1 / 3))
        moved = {"amplitude": recipe.amplitude * longer, "length": recipe.length * longer}
        scene = _made(replace(recipe, voxels=round(recipe.voxels * longer), **moved), maps)
    return scene


def _shown(image: sitk.Image) -> float:
    """Return how much foreground an image has, in cubes of its shortest edge."""
    try:
        inside = int(np.count_nonzero(sitk.GetArrayViewFromImage(foreground(image))))
    except InputError:
        return 0.0
    return float(inside * np.prod(np.array(image.GetSpacing()) / min(image.GetSpacing())))


def _made(recipe: AnyRecipe, maps: Mapping[str, Sequence[Path]]) -> Scene:
    rng = np.random.default_rng([recipe.seed, 1])
    shown = _stages(recipe, maps, rng)
    grid = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shown[0].shape), indexing="ij"))
    shift = _shift(recipe, shown, grid, rng)
    places = grid + shift
    two_people = recipe.group == "two-people"
    pose = _pose(recipe, shown[1 if two_people else 0])
    other = shown[1] if two_people else shown[0]
    shape = tuple(int(n) for n in np.clip(np.rint(np.array(other.shape) * 1.08 / recipe.moving_edge), _LEAST_SIDE, _MOST_SIDE))
    moving_grid = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij"))
    moving_places = _linear(_about(pose, other.middle, shape), moving_grid)
    texture = _texture(recipe, shown[0].shape, rng)
    frames = _frames(recipe, shown[0], shape)
    fixed, fixed_labels = _image(shown[0], places, texture, recipe.fixed, frames[0])
    moving, moving_labels = _image(other, moving_places, texture, recipe.moving, frames[1])
    truth = None
    if not two_people:
        back = _linear(np.linalg.inv(_about(pose, other.middle, shape)), places)
        truth = _field(back, frames)
    start = _start(recipe, truth, (fixed_labels, moving_labels), frames[0].spacing[0])
    return Scene(fixed, moving, fixed_labels, moving_labels, truth, start)


def _stages(recipe: AnyRecipe, maps: Mapping[str, Sequence[Path]], rng: np.random.Generator) -> list[_Stage]:
    """Return the anatomy of each map on a stage; all have the shape of the first."""
    if not recipe.maps:
        everyone = [path for paths in maps.values() for path in paths] if recipe.domain == ORGANS else []
        kind = recipe.domain.removeprefix("shapes-")
        found = [shape_anatomy(kind, round(1.3 * recipe.voxels), rng, everyone)]
    else:
        by_name = {path.name: path for path in maps[recipe.domain]}
        found = [map_anatomy(by_name[name]) for name in recipe.maps]
        seed = int(rng.integers(2**31))
        if recipe.view == "stripped" and not any(is_sparse(anatomy) for anatomy in found):
            found = [without_surroundings(anatomy) for anatomy in found]
        else:
            found = [with_body(anatomy, np.random.default_rng(seed), recipe.view == "body") for anatomy in found]
    shares, shift = np.ones(3), np.zeros(3)
    if recipe.view == "inside":
        shares, shift = rng.uniform(0.5, 0.8, 3), rng.uniform(-0.35, 0.35, 3)
    stages: list[_Stage] = []
    for anatomy in found:
        extent = np.array(anatomy.codes.shape, dtype=float)
        room = 0.0 if recipe.view == "inside" else 2.0 * _MARGIN
        if not stages:
            ratio = float(np.prod(extent * shares) ** (1 / 3) / recipe.voxels)
            k, j, i = np.clip(np.rint(extent * shares / ratio + room), _LEAST_SIDE, _MOST_SIDE).astype(int).tolist()
            shape = (k, j, i)
        else:
            # Another person fills the view as the first one does, but for what is drawn as the pose's scale.
            ratio = float(np.prod(extent * shares) ** (1 / 3) / recipe.voxels)
            shape = stages[0].shape
        center = (extent - 1) / 2 + shift * (extent - extent * shares)
        stages.append(_Stage(_edged(anatomy), shape, center + 1, ratio))
    return stages


def _edged(anatomy: Anatomy) -> Anatomy:
    """Return the anatomy with one more voxel on all sides, which is air unless the map was cut off there inside of the body.

    What lies beyond a map is what its border shows.
    """
    codes = np.pad(anatomy.codes, 1, mode="edge")
    for axis in range(3):
        for end in (0, -1):
            face = np.moveaxis(codes, axis, 0)[end]
            if (face > 0).mean() < _CUT_FACE:
                face[...] = 0
    scan = None if anatomy.scan is None else np.where(codes > 0, np.pad(anatomy.scan, 1, mode="edge"), 0)
    return replace(anatomy, codes=codes, scan=scan)


def _shift(recipe: AnyRecipe, shown: Sequence[_Stage], grid: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if recipe.group == "real-difference":
        return difference(shown[0].codes(grid), shown[1].codes(grid), rng)
    if recipe.group == "two-people" or recipe.amplitude == 0:
        return np.zeros_like(grid)
    return drawn_warp(shown[0].shape, recipe.family, recipe.amplitude, recipe.length, rng)


def _pose(recipe: AnyRecipe, stage: _Stage) -> np.ndarray:
    """Return the linear map (3, 4), order (k, j, i), from the moving grid's voxels about its middle to the stage's."""
    turn = Rotation.from_rotvec(recipe.rotation, degrees=True).as_matrix() @ np.diag(recipe.scale)
    return np.column_stack([recipe.moving_edge * turn, np.array(recipe.shift) * stage.shape])


def _about(pose: np.ndarray, middle: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return a pose as a homogeneous matrix (4, 4) of voxel places."""
    linear = pose[:, :3]
    return homogeneous(linear, middle + pose[:, 3] - linear @ ((np.array(shape) - 1) / 2))


def _linear(matrix: np.ndarray, places: np.ndarray) -> np.ndarray:
    moved = np.tensordot(matrix[:3, :3], places, axes=1) + matrix[:3, 3].reshape(3, 1, 1, 1)
    return np.asarray(moved, dtype=np.float32)


def _texture(recipe: AnyRecipe, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return the texture that belongs to the anatomy, on its stage; standard deviation 1."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), max(0.7, recipe.fixed.texture_length))
    return np.asarray(field / field.std())


def _frames(recipe: AnyRecipe, stage: _Stage, shape: Sequence[int]) -> tuple[Geometry, Geometry]:
    """Return where the grids of the fixed and the moving image lie before slices are thick and views are cut."""
    edge = recipe.edge_mm or min(stage.anatomy.edge_mm * stage.ratio, MOST_EDGE_MM)
    found = []
    away = edge * max(stage.shape) * np.array(recipe.shift)
    for size, width, rotation, place in (
        (stage.shape, edge, (0.0, 0.0, 0.0), np.zeros(3)),
        (shape, edge * recipe.moving_edge, recipe.header_rotation, away),
    ):
        direction = Rotation.from_rotvec(rotation, degrees=True).as_matrix()
        origin = place - direction @ (width * (np.array(size[::-1]) - 1) / 2)
        found.append(
            Geometry(
                (int(size[2]), int(size[1]), int(size[0])),
                (float(width),) * 3,
                (float(origin[0]), float(origin[1]), float(origin[2])),
                tuple(direction.ravel().tolist()),
            )
        )
    return found[0], found[1]


def _image(
    stage: _Stage, places: np.ndarray, texture: np.ndarray, look: Look, frame: Geometry
) -> tuple[sitk.Image, sitk.Image]:
    common = ndimage.map_coordinates(texture, places, order=1, mode="reflect")
    scan = stage.scan(places) if look.contrast == "scan" else None
    seen = imaged(stage.codes(places), stage.anatomy.tissues, common, scan, look)
    where = _frame_of(seen, frame)
    return where.holding(seen.voxels), where.holding(seen.labels)


def _frame_of(seen: Seen, frame: Geometry) -> Geometry:
    first, steps = np.array(seen.first[::-1]), seen.steps[::-1]
    origin = frame.to_lps(first)
    spacing = np.array(frame.spacing) * steps
    size = seen.labels.shape[::-1]
    return Geometry(
        (int(size[0]), int(size[1]), int(size[2])),
        (float(spacing[0]), float(spacing[1]), float(spacing[2])),
        (float(origin[0]), float(origin[1]), float(origin[2])),
        frame.direction,
    )


def _field(places: np.ndarray, frames: tuple[Geometry, Geometry]) -> sitk.Image:
    """Return the displacements in LPS mm that lead from the fixed grid's voxels to places on the moving grid, (3, k, j, i)."""
    k, j, i = np.meshgrid(*(np.arange(n) for n in frames[0].size[::-1]), indexing="ij")
    here = frames[0].to_lps(np.stack([i, j, k], axis=-1))
    there = frames[1].to_lps(np.moveaxis(places[::-1], 0, -1).astype(float))
    return frames[0].holding((there - here).astype(np.float32), vectors=True)


def _start(
    recipe: AnyRecipe, truth: sitk.Image | None, labels: tuple[sitk.Image, sitk.Image], edge: float
) -> sitk.AffineTransform | None:
    if recipe.start == "product":
        return None
    here, there = _label_centers(*labels) if truth is None else _field_points(truth, labels[0])
    center = here.mean(axis=0)
    linear, shift = _fitted(here - center, there)
    turn = Rotation.from_rotvec(recipe.start_rotation, degrees=True).as_matrix()
    matrix = linear @ turn @ np.diag(np.exp(recipe.start_scale))
    offset = shift + edge * np.array(recipe.start_shift) - matrix @ center
    transform = sitk.AffineTransform(3)
    # Rounded: sums come out alike to the last digit on no two computers.
    transform.SetMatrix(np.round(matrix, 7).ravel().tolist())
    transform.SetTranslation(np.round(offset, 6).tolist())
    return transform


def _field_points(truth: sitk.Image, labels: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """Return places within the labels (everywhere if there are none) and where the truth leads them, each (n, 3)."""
    grid = Geometry.of(truth)
    named = sitk.GetArrayFromImage(grid.resample(labels, interpolator=sitk.sitkNearestNeighbor)) > 0
    chosen = np.argwhere(named if named.sum() > 500 else np.ones_like(named))
    chosen = chosen[:: max(1, len(chosen) // 4000)]
    here = grid.to_lps(chosen[:, ::-1].astype(float))
    return here, here + sitk.GetArrayViewFromImage(truth)[tuple(chosen.T)]


def _label_centers(fixed: sitk.Image, moving: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """Return the centers of the structures that both maps have, each once for every 500 voxels, (n, 3) LPS mm."""
    sides = []
    for image in (fixed, moving):
        codes = sitk.GetArrayFromImage(image)
        counts = np.bincount(codes.ravel(), minlength=256)
        present = [int(code) for code in np.flatnonzero(counts) if code and counts[code] >= _LEAST_LABEL_VOXELS]
        centers = np.array(ndimage.center_of_mass(codes > 0, codes, present)).reshape(-1, 3)
        sides.append((dict(zip(present, Geometry.of(image).to_lps(centers[:, ::-1]), strict=True)), counts))
    shared = sorted(set(sides[0][0]) & set(sides[1][0]))
    if not shared:
        boxes = [np.array(Geometry.of(i).to_lps((np.array(i.GetSize(), dtype=float) - 1) / 2)) for i in (fixed, moving)]
        return boxes[0][None], boxes[1][None]
    often = [1 + int(min(sides[0][1][code], sides[1][1][code])) // 500 for code in shared]
    return tuple(np.repeat([side[code] for code in shared], often, axis=0) for side, _ in sides)  # type: ignore[return-value]


def _fitted(here: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the linear part (3, 3) and the shift that fit places about their mean; held back along what they hardly span."""
    shift = there.mean(axis=0)
    moment = here.T @ here / len(here)
    brake = max(0.02 * float(np.trace(moment)), 1e-9) * np.eye(3)
    cross = (there - shift).T @ here / len(here)
    turn = _rotation(cross) if len(here) >= 3 else np.eye(3)
    if len(here) > 200:
        brake *= 1e-3
    return (cross + turn @ brake) @ np.linalg.inv(moment + brake), shift


def _rotation(cross: np.ndarray) -> np.ndarray:
    """Return the rotation nearest to a cross-covariance (Kabsch)."""
    left, _, right = np.linalg.svd(cross)
    return np.asarray(left @ np.diag([1, 1, np.sign(np.linalg.det(left @ right))]) @ right)
