"""What many tests need: where the real data is, and small images to register."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from HyperPredictRegLib.geometry import Geometry

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The real labelled data; tests that need it skip where it is not at hand."""
    named = os.environ.get("HYPERPREDICTREG_DATA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data is not here: set HYPERPREDICTREG_DATA to its folder")
    return folder


@pytest.fixture
def oblique() -> Geometry:
    """A small anisotropic grid whose axes lie askew."""
    angle = np.deg2rad(25)
    about_z = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(0.3), -np.sin(0.3)], [0, np.sin(0.3), np.cos(0.3)]])
    return Geometry((28, 24, 20), (1.5, 2.0, 2.5), (12.0, -30.0, 7.0), tuple((about_z @ about_x).ravel()))


def blob_image(geometry: Geometry, shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0), bend: float = 0.0) -> sitk.Image:
    """Return a smooth 'organ' with two inner structures around the grid's centre; `bend` makes a banana of it."""
    k, j, i = np.indices(geometry.size[::-1])
    places = geometry.to_lps(np.stack([i, j, k], axis=-1)) - geometry.centre_lps - np.array(shift_mm)
    half = min(geometry.extent_mm) / 2
    local = places / half
    local[..., 0] += bend * (local[..., 1] ** 2 - 0.25)

    def ball(centre: tuple[float, float, float], radius: float) -> np.ndarray:
        distance = np.linalg.norm(local - np.array(centre), axis=-1)
        return 1 / (1 + np.exp((distance - radius) / 0.04))

    voxels = 100 * ball((0, 0, 0), 0.7) + 60 * ball((0.25, 0.1, 0), 0.25) - 50 * ball((-0.3, -0.1, 0.1), 0.2)
    return geometry.apply_to(sitk.GetImageFromArray(voxels.astype(np.float32)))


def blob_labels(image: sitk.Image) -> sitk.Image:
    """Return labels 1 (body), 2 (bright) and 3 (dark) of a `blob_image`."""
    voxels = sitk.GetArrayFromImage(image)
    labels = np.where(voxels > 130, 2, np.where(voxels > 75, 1, np.where(voxels > 40, 3, 0))).astype(np.uint16)
    result = sitk.GetImageFromArray(labels)
    result.CopyInformation(image)
    return result
