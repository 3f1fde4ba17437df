"""Image geometry without voxels: where a grid lies in physical space (LPS, millimetres).

Index order is (i, j, k) as in SimpleITK; NumPy arrays of voxels are indexed (k, j, i).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

_MIXES_NO_VALUES = frozenset({sitk.sitkNearestNeighbor, sitk.sitkLabelGaussian, sitk.sitkLabelLinear})
# Each integer type with the floating type that holds its values while they are interpolated.
_WIDE = {
    **dict.fromkeys((sitk.sitkUInt8, sitk.sitkInt8, sitk.sitkUInt16, sitk.sitkInt16), sitk.sitkFloat32),
    **dict.fromkeys((sitk.sitkUInt32, sitk.sitkInt32, sitk.sitkUInt64, sitk.sitkInt64), sitk.sitkFloat64),
}

_ON_GRID = 1e-4  # of a voxel

IDENTITY_DIRECTION = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Geometry:
    """A regular 3-D grid of voxel centres in LPS millimetres.

    Attributes
    ----------
    size : number of voxels along i, j, k.
    spacing : distance between voxel centres along i, j, k, in mm.
    origin : LPS position of the centre of voxel (0, 0, 0), in mm.
    direction : nine numbers, row by row; the columns are the unit vectors of the i, j, k axes in LPS.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = IDENTITY_DIRECTION

    @classmethod
    def of(cls, image: sitk.Image) -> Geometry:
        """Return the geometry of a 3-D SimpleITK image."""
        return cls(
            size=tuple(image.GetSize()),
            spacing=tuple(image.GetSpacing()),
            origin=tuple(image.GetOrigin()),
            direction=tuple(image.GetDirection()),
        )

    def apply_to(self, image: sitk.Image) -> sitk.Image:
        """Give `image`, which must have this size, this spacing, origin and direction, in place; return it."""
        if tuple(image.GetSize()) != self.size:
            raise ValueError(f"an image of size {image.GetSize()} cannot take a geometry of size {self.size}")
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)
        return image

    def holding(self, voxels: np.ndarray, *, vectors: bool = False) -> sitk.Image:
        """Return an image on this grid with voxels of shape (k, j, i), or of vectors (k, j, i, components)."""
        return self.apply_to(sitk.GetImageFromArray(voxels, isVector=vectors))

    @property
    def direction_matrix(self) -> np.ndarray:
        """Direction cosines, shape (3, 3); columns are the i, j, k axes in LPS."""
        return np.array(self.direction, dtype=float).reshape(3, 3)

    @property
    def index_to_lps(self) -> np.ndarray:
        """Homogeneous matrix, shape (4, 4), from continuous (i, j, k) to LPS mm."""
        return homogeneous(self.direction_matrix * np.array(self.spacing), self.origin)

    @property
    def voxel_count(self) -> int:
        """Number of voxels."""
        return math.prod(int(n) for n in self.size)

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Edge lengths of the grid that the voxels fill, in mm."""
        return tuple(n * s for n, s in zip(self.size, self.spacing, strict=True))  # type: ignore[return-value]

    @property
    def centre_lps(self) -> np.ndarray:
        """Centre of the grid, shape (3,), LPS mm."""
        return self.to_lps((np.array(self.size) - 1) / 2)

    def to_lps(self, indices: np.ndarray | Sequence[float]) -> np.ndarray:
        """Map continuous indices (..., 3), order i, j, k, to LPS mm (..., 3)."""
        return np.asarray(indices, dtype=float) @ self.index_to_lps[:3, :3].T + np.array(self.origin)

    def to_index(self, points_lps: np.ndarray | Sequence[float]) -> np.ndarray:
        """Map LPS mm (..., 3) to continuous indices (..., 3), order i, j, k."""
        offset = np.asarray(points_lps, dtype=float) - np.array(self.origin)
        return offset @ np.linalg.inv(self.index_to_lps[:3, :3]).T

    def corners_lps(self) -> np.ndarray:
        """Return the eight outer corners of the grid (voxel edges, not centres), shape (8, 3), LPS mm."""
        corners = [tuple((-0.5, n - 0.5)[c] for n, c in zip(self.size, pick, strict=True))
                   for pick in itertools.product((0, 1), repeat=3)]
        return self.to_lps(np.array(corners))

    def padded(self, lower: Sequence[int], upper: Sequence[int]) -> Geometry:
        """Return this grid with whole voxels added (or, if negative, removed) before and after each axis."""
        size = tuple(int(n + a + b) for n, a, b in zip(self.size, lower, upper, strict=True))
        origin = tuple(self.to_lps([-float(a) for a in lower]).tolist())
        return Geometry(size, self.spacing, origin, self.direction)  # type: ignore[arg-type]

    def covering(self, points_lps: np.ndarray, spacing: float, margin_mm: float) -> Geometry:
        """Return an isotropic grid along this one's axes that encloses points with a margin.

        Parameters
        ----------
        points_lps : shape (n, 3), LPS mm.
        spacing : voxel edge in mm.
        margin_mm : at least this much room between the points' bounding box and the grid's outermost voxel centres.
        """
        along_axes = np.asarray(points_lps, dtype=float) @ self.direction_matrix
        low, high = along_axes.min(axis=0) - margin_mm, along_axes.max(axis=0) + margin_mm
        size = np.maximum(np.ceil((high - low) / spacing).astype(int) + 1, 1)
        # Spread the rounding evenly, so that the grid stays centred on the points.
        start = (low + high) / 2 - (size - 1) * spacing / 2
        origin = self.direction_matrix @ start
        return Geometry(tuple(int(n) for n in size), (spacing,) * 3, tuple(origin.tolist()), self.direction)  # type: ignore[arg-type]

    def continued_over(self, points_lps: np.ndarray) -> Geometry:
        """Return the grid of this one's points, as if it went on without end, that encloses other points.

        Parameters
        ----------
        points_lps : shape (n, 3), LPS mm.
        """
        index = self.to_index(np.asarray(points_lps, dtype=float))
        # A point that only rounding moves off the grid must not add a layer of voxels.
        low = np.floor(index.min(axis=0) + _ON_GRID).astype(int)
        high = np.ceil(index.max(axis=0) - _ON_GRID).astype(int)
        size = np.maximum(high - low + 1, 1)
        origin = self.to_lps(low.astype(float))
        return Geometry(tuple(int(n) for n in size), self.spacing, tuple(origin.tolist()), self.direction)  # type: ignore[arg-type]

    def matches(self, other: Geometry, tolerance_voxels: float = 1e-3) -> bool:
        """Tell whether both grids have the same size and corners within `tolerance_voxels` of a voxel."""
        if self.size != other.size:
            return False
        limit = tolerance_voxels * min(self.spacing)
        return bool(np.abs(self.corners_lps() - other.corners_lps()).max() <= limit)

    def resample(
        self,
        image: sitk.Image,
        transform: sitk.Transform | None = None,
        *,
        interpolator: int = sitk.sitkLinear,
        default_value: float = 0.0,
        pixel_type: int = sitk.sitkUnknown,
    ) -> sitk.Image:
        """Sample `image` on this grid through `transform`, which maps points of this grid to points of the image.

        Integers stay integers, but are interpolated as floating-point numbers, rounded (halves up) and kept in the range of
        their type; ITK itself cuts the fraction off, which darkens images by half a unit and makes masks smaller.
        """
        own_type = image.GetPixelID()
        rounded = pixel_type == sitk.sitkUnknown and own_type in _WIDE and interpolator not in _MIXES_NO_VALUES
        result = sitk.Resample(
            image,
            self.size,
            transform if transform is not None else sitk.Transform(3, sitk.sitkIdentity),
            interpolator,
            self.origin,
            self.spacing,
            self.direction,
            default_value,
            _WIDE[own_type] if rounded else pixel_type,
        )
        return _whole_numbers(result, own_type) if rounded else result


def homogeneous(linear: np.ndarray | None = None, shift: np.ndarray | Sequence[float] = (0.0, 0.0, 0.0)) -> np.ndarray:
    """Return the matrix (4, 4) of a linear part (3, 3), by default the identity, and a shift (3,)."""
    matrix = np.eye(4)
    matrix[:3, 3] = shift
    if linear is not None:
        matrix[:3, :3] = linear
    return matrix


def _whole_numbers(image: sitk.Image, pixel_type: int) -> sitk.Image:
    """Return a floating-point image as integers of a type, rounded and clamped."""
    kind = sitk.GetArrayViewFromImage(sitk.Image(1, 1, 1, pixel_type)).dtype
    lowest, highest = float(np.iinfo(kind).min), float(np.iinfo(kind).max)
    if kind.itemsize < 8:
        return sitk.Clamp(sitk.Round(image), pixel_type, lowest, highest)
    # SimpleITK's Round is wrong beyond 2 to the power of 62, and floating-point numbers cannot hold the greatest 64-bit integer.
    voxels = np.floor(sitk.GetArrayViewFromImage(image) + 0.5)
    return Geometry.of(image).holding(np.clip(voxels, lowest, np.nextafter(highest, 0.0)).astype(kind))
