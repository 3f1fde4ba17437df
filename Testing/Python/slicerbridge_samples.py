"""Small made-up images, transforms and outcomes for the tests of the slicerbridge, and a guard against VTK errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import SimpleITK as sitk
import vtk
from HyperPredictRegLib.core.trace import LevelTrace
from HyperPredictRegLib.engines.demons import DemonsEngine
from HyperPredictRegLib.results.job import EngineUsed, Job
from HyperPredictRegLib.results.outcome import Outcome
from HyperPredictRegLib.results.prediction import Choice
from HyperPredictRegLib.results.report import (
    AlignmentUsed,
    DiceMeasure,
    Distances,
    FoldingPercent,
    GridUsed,
    Measured,
    Report,
    StructureMeasure,
)
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import field_transform

ROTATION = sitk.Euler3DTransform((1.0, 2.0, 3.0), 0.25, -0.3, 0.2, (2.0, -3.0, 1.5))
OBLIQUE = Geometry((24, 22, 20), (2.0, 2.5, 3.0), (-20.0, 11.0, -35.0), ROTATION.GetMatrix())
LEFT_HANDED = Geometry(OBLIQUE.size, OBLIQUE.spacing, OBLIQUE.origin, tuple(np.ravel(OBLIQUE.direction_matrix * (-1, 1, 1))))
AXIAL = Geometry((24, 22, 20), (2.0, 2.5, 3.0), (-20.0, 11.0, -35.0))
_FLIP = np.array([-1.0, -1.0, 1.0])


@contextmanager
def vtk_errors_fail() -> Iterator[list[str]]:
    """Raise at the end of the block if VTK or MRML logged an error in it."""
    errors: list[str] = []

    def note(caller: Any, event: str, text: str) -> None:
        errors.append(text)

    note.CallDataType = vtk.VTK_STRING  # type: ignore[attr-defined]
    window = vtk.vtkOutputWindow.GetInstance()
    tag = window.AddObserver("ErrorEvent", note)
    try:
        yield errors
    finally:
        window.RemoveObserver(tag)
    assert not errors, "VTK reported: " + " | ".join(errors)


def image(geometry: Geometry = OBLIQUE, pixel_type: int = sitk.sitkInt16, seed: int = 5) -> sitk.Image:
    """Return random voxels from 0 to 99."""
    voxels = np.random.default_rng(seed).integers(0, 100, geometry.size[::-1]).astype(np.int16)
    return geometry.apply_to(sitk.Cast(sitk.GetImageFromArray(voxels), pixel_type))


def labels(geometry: Geometry = OBLIQUE) -> sitk.Image:
    """Return three boxes with the labels 3, 17 and 300."""
    voxels = np.zeros(geometry.size[::-1], dtype=np.uint16)
    voxels[3:9, 4:12, 5:12] = 3
    voxels[9:15, 4:12, 5:12] = 17
    voxels[5:14, 13:18, 8:20] = 300
    return geometry.apply_to(sitk.GetImageFromArray(voxels))


def field(geometry: Geometry = OBLIQUE, peak_mm: float = 4.0, seed: int = 7) -> sitk.Image:
    """Return a smooth random displacement field, LPS mm, that is exactly zero on its outermost layer of voxels."""
    rough = np.random.default_rng(seed).normal(size=(*geometry.size[::-1], 3))
    smooth = np.array(sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(rough, isVector=True), 2.0)))
    for axis in range(3):
        fall = np.sin(np.linspace(0, np.pi, smooth.shape[axis]))
        fall[[0, -1]] = 0
        smooth = smooth * fall.reshape([-1 if a == axis else 1 for a in range(4)])
    return geometry.apply_to(sitk.GetImageFromArray(smooth * (peak_mm / np.abs(smooth).max()), isVector=True))


def bspline(geometry: Geometry = OBLIQUE) -> sitk.BSplineTransform:
    """Return a random cubic B-spline over the grid."""
    transform = sitk.BSplineTransformInitializer(image(geometry), [5, 4, 3], 3)
    transform.SetParameters(np.random.default_rng(3).normal(scale=2.0, size=len(transform.GetParameters())).tolist())
    return transform


def affine() -> sitk.AffineTransform:
    """Return an affine transform with a shear and a centre."""
    transform = sitk.AffineTransform(3)
    transform.SetMatrix((1.05, 0.02, -0.04, 0.01, 0.97, 0.03, 0.05, -0.02, 1.02))
    transform.SetTranslation((1.0, -2.0, 0.5))
    transform.SetCenter((3.0, 4.0, 5.0))
    return transform


def similarity() -> sitk.Similarity3DTransform:
    """Return a rotation with a scale and a centre."""
    return sitk.Similarity3DTransform(1.08, (0.2, 0.5, 0.8), 0.2, (1.0, 2.0, 3.0), (2.0, 1.0, -4.0))


def transforms(geometry: Geometry = OBLIQUE) -> dict[str, sitk.Transform]:
    """Return one transform of each kind that SimpleITK makes."""
    grid, spline = field_transform(field(geometry)), bspline(geometry)
    return {
        "identity": sitk.Transform(3, sitk.sitkIdentity),
        "translation": sitk.TranslationTransform(3, (1.0, -2.0, 3.0)),
        "euler": ROTATION,
        "versor": sitk.VersorRigid3DTransform((0.1, 0.7, 0.7), 0.3, (1.0, 2.0, -3.0), (4.0, 3.0, 2.0)),
        "similarity": similarity(),
        "affine": affine(),
        "bspline": spline,
        "field": grid,
        "composite-linear": sitk.CompositeTransform([affine(), ROTATION]),
        "composite-field": sitk.CompositeTransform([affine(), grid]),
        "composite-nested": sitk.CompositeTransform(
            [ROTATION, sitk.CompositeTransform([sitk.CompositeTransform([similarity(), grid]), affine()]), spline]
        ),
    }


def random_points(geometry: Geometry, count: int = 1000, margin_voxels: float = 4.0) -> np.ndarray:
    """Return points inside the grid, shape (count, 3), LPS mm."""
    top = np.array(geometry.size) - 1 - margin_voxels
    return geometry.to_lps(np.random.default_rng(11).uniform(margin_voxels, top, (count, 3)))


def through_node(node: Any, points_lps: np.ndarray) -> np.ndarray:
    """Map points, LPS mm, by what the node does from parent."""
    transform = node.GetTransformFromParent()
    transform.Update()
    return np.array([transform.TransformDoublePoint(*point) for point in points_lps * _FLIP]) * _FLIP


@cache
def outcome(geometry: Geometry = OBLIQUE) -> Outcome:
    """Return a finished registration with all its parts, the same one each time: its images are not to be changed."""
    distances = Distances(1.0, 2.0, 3.0)
    structures = (
        StructureMeasure(3, "Links <&> ö", 0.8, 0.5, None, 1.0, 2.0, 3.0),
        StructureMeasure(17, "Right", 0.7, 0.6, 2.5, 1.2, 2.0, 2.0),
    )
    measured = Measured(
        FoldingPercent(0.1, 0.2), 0.3, 0.4, 2.0, distances, distances, 0.5, 0.9, DiceMeasure(0.75, 0.55, structures)
    )

    def level(stage: str, number: int, count: int) -> LevelTrace:
        values = tuple(float(v) for v in np.linspace(1, 0.1, count))
        return LevelTrace(stage, number, 2.0, 1.0, "mean squares", values, 0.1, count, "converged", 1.0)

    report = Report(
        job=Job("fixed.nii", "moving.nii", "out", seed=99, engine="demons"),
        engine=EngineUsed("demons", "1", "Demons", DemonsEngine.info.search_space, {"iterations": 5}, "0123"),
        setting={"regularization_weight": 1.5},
        inputs=(),
        working_grid=GridUsed(geometry.size, geometry.spacing, geometry.origin, geometry.direction),
        alignment=AlignmentUsed({}, "mean squares", (level("affine", 0, 5), level("affine", 1, 3)), tuple(np.eye(4).ravel()), 1),
        registration=(level("deformable", 0, 4), level("deformable", 1, 7)),
        measured=measured,
        seconds={"all": 1.0},
        peak_memory_mb=10.0,
        warnings=("Something <b>bold</b>.",),
        versions={"SimpleITK": "2.5"},
        outputs={},
        choice=Choice({"regularization_weight": 1.5}, "The user chose.", by="user"),
    )
    transform = transforms(geometry)["composite-field"]
    fixed, moving, structure = image(geometry), image(geometry, seed=6), labels(geometry)
    unit = sitk.Cast(fixed, sitk.sitkFloat32)
    return Outcome(
        report=report,
        fixed=fixed,
        moving=moving,
        warped=geometry.resample(moving, transform),
        transform=sitk.CompositeTransform(transform),
        inverse=transform,
        fixed_on_grid=unit,
        moving_aligned=unit,
        moving_registered=unit,
        foreground=sitk.Cast(structure > 0, sitk.sitkUInt8),
        jacobian=unit / 100 + 0.5,
        fixed_labels=structure,
        moving_labels=structure,
        warped_labels=geometry.resample(structure, transform, interpolator=sitk.sitkNearestNeighbor),
        label_names={3: "Links <&> ö", 17: "Right"},
    )
