"""How far a transform is from the true one, where that is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import displacement_field, field_of, read_transform, transformed_points

_FITTED_PLACES = 4000
"""An affine transform is fitted to about so many."""


@dataclass(frozen=True, eq=False)
class KnownTransform:
    """The true transform of a pair at the places that are judged.

    Attributes
    ----------
    grid : the working grid.
    displacements : of the truth at its voxels, (k, j, i, 3), LPS mm.
    places : bool, (k, j, i): fixed foreground that the truth leads into the moving image; elsewhere nothing can be known.
    """

    grid: Geometry
    displacements: np.ndarray
    places: np.ndarray

    @classmethod
    def of(cls, path: str, grid: Geometry, foreground: sitk.Image, moving: sitk.Image) -> KnownTransform:
        """Read a truth.

        Parameters
        ----------
        path : of the transform from fixed to moving points.
        grid : the working grid, which `foreground`, the fixed one, lies on.
        moving : the moving image, on its own grid.

        Raises
        ------
        InputError : the file cannot be read, or the truth leads nowhere into the moving image.
        """
        transform = read_transform(Path(path), "truth")
        displacements = sitk.GetArrayFromImage(displacement_field(transform, grid))
        k, j, i = np.meshgrid(*(np.arange(n) for n in grid.size[::-1]), indexing="ij")
        here = grid.to_lps(np.stack([i, j, k], axis=-1))
        places = (sitk.GetArrayViewFromImage(foreground) != 0) & _within(Geometry.of(moving), here + displacements)
        field = field_of(transform)
        if field is not None:
            places &= _within(Geometry.of(field), here)
        if not places.any():
            raise InputError(f"The truth '{path}' leads nowhere from the fixed anatomy into the moving image: does it belong?")
        return cls(grid, displacements, places)

    def errors(self, transform: sitk.Transform) -> tuple[float, float]:
        """Return the median and the 95th percentile of a transform's distance to the truth, in mm."""
        away = (sitk.GetArrayFromImage(displacement_field(transform, self.grid)) - self.displacements)[self.places]
        median, most = np.percentile(np.linalg.norm(away, axis=-1), (50, 95))
        return float(median), float(most)


    def global_misfit(self, alignment: sitk.Transform) -> float:
        """Return the median distance, in mm, between an alignment and the affine transform that comes nearest to the truth."""
        chosen = np.argwhere(self.places)
        chosen = chosen[:: max(1, len(chosen) // _FITTED_PLACES)]
        here = self.grid.to_lps(chosen[:, ::-1].astype(float))
        there = here + self.displacements[tuple(chosen.T)]
        rows = np.column_stack([here - here.mean(axis=0), np.ones(len(here))])
        best = rows @ np.linalg.lstsq(rows, there, rcond=None)[0]
        return float(np.median(np.linalg.norm(transformed_points(alignment, here) - best, axis=1)))


def _within(geometry: Geometry, points: np.ndarray) -> np.ndarray:
    """Tell which LPS points (..., 3) lie in a grid's outermost voxels or between them."""
    index = geometry.to_index(points)
    return np.asarray(((index > -0.5) & (index < np.array(geometry.size) - 0.5)).all(axis=-1))
