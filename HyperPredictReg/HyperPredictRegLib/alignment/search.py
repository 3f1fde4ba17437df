"""Find poses from nothing: every orientation with every shift, compared by how much one image tells of the other.

Centres of gravity do not agree where one image shows only a part of what the other shows, so shifts are searched too: for each
rotation at once, by fast Fourier transforms on a coarse grid. Poses are compared by their information: the mutual information of
the voxels that both images show, times the number of these voxels. A small overlap, in which any two images can be made to
look alike, cannot win with that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import fft, ndimage

from HyperPredictRegLib.alignment.frame import Level, Pyramid
from HyperPredictRegLib.core.progress import CancelCheck, stop_if
from HyperPredictRegLib.spatial.geometry import Geometry, homogeneous

_BINS = 20
_SEARCH_UNITS = 10.0
"""Voxel edge of the search over all poses, at least; coarser where the transforms would have more than so many voxels."""
_MOST_VOXELS = 120_000
_LEAST_SHOWN = 0.15
"""Poses in which both images show less than this share of the smaller one are not looked at."""
_PEAKS = 2


@dataclass(frozen=True)
class Comparison:
    """How much one image tells of the other in one pose.

    Attributes
    ----------
    information : mutual information in nats, less what chance would give, times the number of voxels that both images show.
    mutual : mutual information in nats of these voxels.
    shown : number of these voxels as a share of those of the image that shows less.
    """

    information: float
    mutual: float
    shown: float


class Comparer:
    """Both images of one level as arrays, ready to be compared in any pose."""

    def __init__(self, level: Level) -> None:
        """Prepare the images of `level`; its masks are obeyed."""
        self.fixed, self.moving = (_Sampled.of(image, mask) for image, mask in (
            (level.fixed, level.fixed_mask), (level.moving, level.moving_mask)))
        self.points = self.fixed.geometry.to_lps(np.argwhere(self.fixed.measured)[:, ::-1])
        self.bins = _binned(self.fixed.voxels[self.fixed.measured])
        self.moving_bins = np.zeros(self.moving.voxels.shape, np.float32)
        self.moving_bins[self.moving.measured] = _ranked(self.moving.voxels[self.moving.measured])
        self.least = min(int(self.fixed.measured.sum()), int(self.moving.measured.sum()))

    def compare(self, matrix: np.ndarray) -> Comparison:
        """Compare the images where `matrix` (4, 4) maps fixed to moving points of the frame."""
        index = self.moving.geometry.to_index(self.points @ matrix[:3, :3].T + matrix[:3, 3])
        at = index[:, ::-1].T
        nearest = np.rint(at).astype(int)
        within = np.all((nearest >= 0) & (nearest < np.array(self.moving.voxels.shape)[:, None]), axis=0)
        within[within] = self.moving.measured[tuple(nearest[:, within])]
        count = int(within.sum())
        if count < 100:
            return Comparison(0.0, 0.0, 0.0)
        values = ndimage.map_coordinates(self.moving_bins, at[:, within], order=1, mode="nearest")
        joint = np.bincount(
            self.bins[within] * _BINS + np.minimum(values.astype(int), _BINS - 1), minlength=_BINS**2
        ).reshape(_BINS, _BINS) / count
        alone = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
        there = joint > 0
        mutual = float(np.sum(joint[there] * np.log(joint[there] / alone[there])))
        used = (np.count_nonzero(joint.sum(axis=1)) - 1) * (np.count_nonzero(joint.sum(axis=0)) - 1)
        return Comparison(mutual * count - used / 2, mutual, count / max(1, self.least))


@dataclass(frozen=True)
class _Sampled:
    geometry: Geometry
    voxels: np.ndarray
    measured: np.ndarray

    @classmethod
    def of(cls, image: sitk.Image, mask: sitk.Image | None) -> _Sampled:
        grid = Geometry.of(image)
        voxels = sitk.GetArrayFromImage(image).astype(np.float32)
        if mask is None:
            return cls(grid, voxels, np.ones(voxels.shape, bool))
        inside = grid.resample(mask, interpolator=sitk.sitkNearestNeighbor)
        return cls(grid, voxels, sitk.GetArrayFromImage(inside) != 0)


def _edges(values: np.ndarray) -> np.ndarray:
    """Return the limits of bins that hold about as many voxels each; one value that fills much gets a bin of its own."""
    low, high = np.percentile(values, (0.5, 99.5))
    even = np.linspace(low, high, _BINS + 1)[1:-1]
    return (even + np.quantile(values, np.linspace(0, 1, _BINS + 1)[1:-1])) / 2


def _binned(values: np.ndarray) -> np.ndarray:
    return np.searchsorted(_edges(values), values)


def _ranked(values: np.ndarray) -> np.ndarray:
    """Return where values lie among the bins, continuously, 0 to `_BINS`."""
    edges = np.maximum.accumulate(np.concatenate([[values.min()], _edges(values), [values.max()]]))
    edges = edges + np.arange(len(edges)) * 1e-6 * max(float(np.ptp(edges)), 1e-6)
    return np.interp(values, edges, np.arange(_BINS + 1)).astype(np.float32)


def search_units(pyramid: Pyramid) -> float:
    """Return the voxel edge, in units of the frame, at which a search over all poses is affordable."""
    fixed, moving = (np.array(Geometry.of(image).extent_mm) / pyramid.frame.unit_mm for image in pyramid.images)
    return max(_SEARCH_UNITS, float(np.prod(fixed + np.linalg.norm(moving)) / _MOST_VOXELS) ** (1 / 3))


def search(level: Level, rotations: np.ndarray, *, cancelled: CancelCheck) -> tuple[np.ndarray, np.ndarray]:
    """Return for every rotation the shifts that fit best, and how well, best first.

    Parameters
    ----------
    level : coarse images in the frame.
    rotations : shape (n, 3, 3).
    cancelled : asked before every rotation.

    Returns
    -------
    poses, scores : fixed-to-moving matrices, shape (m, 4, 4), and scores, shape (m,); comparable with each other only.
    """
    field = _Field.of(level)
    poses, scores = [], []
    for turn in rotations:
        stop_if(cancelled)
        for pose, score in field.best(turn):
            poses.append(pose)
            scores.append(score)
    order = np.argsort(-np.array(scores), kind="stable")
    return np.array(poses).reshape(-1, 4, 4)[order], np.array(scores)[order]


@dataclass(frozen=True)
class _Field:
    """Both images, and the fixed one's transforms.

    The moving image is laid, turned, on a cubic grid along the fixed image's axes around its own middle; `side` voxels of
    `voxel` units. `shape` is that of the transforms, in which the cube fits beside the fixed image.
    """

    fixed: _Features
    moving: _Features
    spectra: tuple[np.ndarray, ...]
    shape: list[int]
    side: int
    voxel: float
    least: float

    @classmethod
    def of(cls, level: Level) -> _Field:
        fixed, moving = _Features.of(level.fixed, level.fixed_mask), _Features.of(level.moving, level.moving_mask)
        voxel = level.fixed.GetSpacing()[0]
        corners = moving.geometry.corners_lps() - moving.geometry.centre_lps
        side = math.ceil(2 * float(np.linalg.norm(corners, axis=1).max()) / voxel) + 1
        shape = [fft.next_fast_len(n + side - 1, real=True) for n in fixed.measured.shape]
        spectra = tuple(np.conj(fft.rfftn(channel, shape)) for channel in fixed.all_channels)
        least = _LEAST_SHOWN * min(int(fixed.measured.sum()), int(moving.measured.sum()))
        return cls(fixed, moving, spectra, shape, side, voxel, least)

    def best(self, turn: np.ndarray) -> list[tuple[np.ndarray, float]]:
        """Return the best poses (4, 4) with one rotation (3, 3), and their scores."""
        grid, middle = self.moving.geometry, self.moving.geometry.centre_lps
        # Columns are the directions of the array's axes.
        step = turn @ self.fixed.geometry.direction_matrix[:, ::-1] * self.voxel
        along = grid.direction_matrix[:, ::-1].T @ step / np.array(grid.spacing[::-1])[:, None]
        centre = np.full(3, (self.side - 1) / 2)
        offset = grid.to_index(middle)[::-1] - along @ centre
        laid = [ndimage.affine_transform(c, along, offset, (self.side,) * 3, order=1, mode="constant")
                for c in self.moving.all_channels]
        alike, edges, shown = (
            fft.irfftn(fft.rfftn(one, self.shape) * other, self.shape) for one, other in zip(laid, self.spectra, strict=True)
        )
        # At index d stands the sum over p of fixed[p] * laid[p + d]. Another contrast may turn the sign.
        score = np.where(shown >= self.least, np.abs(alike) + edges, -np.inf)
        found = []
        for _ in range(_PEAKS):
            peak = np.unravel_index(int(np.argmax(score)), score.shape)
            if not np.isfinite(score[peak]):
                break
            shift = np.array([p if p < self.side else p - n for p, n in zip(peak, self.shape, strict=True)], dtype=float)
            to = middle + step @ (shift - centre) - turn @ np.array(self.fixed.geometry.origin)
            found.append((homogeneous(turn, to), float(score[peak])))
            score[np.ix_(*(np.arange(p - 2, p + 3) % n for p, n in zip(peak, self.shape, strict=True)))] = -np.inf
        return found


@dataclass(frozen=True)
class _Features:
    geometry: Geometry
    measured: np.ndarray
    channels: tuple[np.ndarray, np.ndarray]

    @property
    def all_channels(self) -> tuple[np.ndarray, ...]:
        """Intensities, edges, and where the image was measured."""
        return (*self.channels, self.measured.astype(np.float32))

    @classmethod
    def of(cls, image: sitk.Image, mask: sitk.Image | None) -> _Features:
        """Prepare intensities and the strength of their edges, each with mean 0 and variance 1 where the image was measured."""
        sampled = _Sampled.of(image, mask)
        inside = sampled.measured
        edges = ndimage.gaussian_gradient_magnitude(sampled.voxels, 0.7)
        return cls(sampled.geometry, inside, (_standard(_clipped(sampled.voxels), inside), _standard(_clipped(edges), inside)))


def _clipped(values: np.ndarray) -> np.ndarray:
    return np.minimum(values, np.percentile(values, 99))


def _standard(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    spread = float(values[inside].std())
    centred = (values - values[inside].mean()) * inside
    return (centred / spread if spread > 0 else centred).astype(np.float32)
