"""Landmarks that lead a registration: the start that they give, and their pull on the deformation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.alignment import Alignment, AlignmentSettings
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.formatting import distance
from HyperPredictRegLib.engines.base import Registration
from HyperPredictRegLib.preprocessing.image_set import Inputs, Side
from HyperPredictRegLib.preprocessing.intensity import points_of
from HyperPredictRegLib.results.job import LANDMARK_USES, Job
from HyperPredictRegLib.results.prediction import LandmarkStart
from HyperPredictRegLib.results.report import LandmarkPull
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.landmark_fit import LandmarkFit, fit_landmarks
from HyperPredictRegLib.spatial.landmark_warp import LandmarkWarp, landmark_warp
from HyperPredictRegLib.spatial.transforms import composed, displacement_field, field_transform, inverted, transformed_points

RADIUS = 0.5
"""How far a landmark draws its surroundings along, of the size of the anatomy."""

_WORSE, _WORSE_VOXELS = 1.5, 2.0
"""The affine step may miss the landmarks by so many times what a fit to the others misses each by, and so many voxels more."""
_GREW_VOXELS = 0.25
_OUTSIDE = 0.5
"""Landmarks farther outside of their image, in parts of its diagonal, are given in other coordinates."""


def fitted_start(job: Job, inputs: Inputs) -> LandmarkFit | None:
    """Return the fit to the landmarks that the affine step starts from; None if it starts from something else.

    Raises
    ------
    InputError : the landmarks lie outside of the images, or no fit can be made to them.
    """
    fixed, moving = _pairs(inputs)
    if not job.uses_landmarks or not len(fixed):
        return None
    for side, points, name in ((inputs.fixed, fixed, "fixed"), (inputs.moving, moving, "moving")):
        _check_inside(side, points, name)
    return fit_landmarks(fixed, moving)


def transform_of(fit: LandmarkFit) -> sitk.AffineTransform:
    """Return a fit as a transform from fixed to moving points, LPS mm."""
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(fit.matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(fit.matrix[:3, 3].tolist())
    return transform


def better_at_landmarks(
    found: Alignment,
    fit: LandmarkFit,
    inputs: Inputs,
    settings: AlignmentSettings,
    align: Callable[[AlignmentSettings], Alignment],
) -> tuple[Alignment, LandmarkStart, AlignmentSettings]:
    """Return the affine step as found or, where it misses the landmarks by far more than their fit, the fit itself.

    The fit was made to the landmarks, so it is judged by how far it misses those that are left out of it.

    Parameters
    ----------
    settings : with which `found` was made.
    align : aligns the pair from the fit, with other settings.

    Returns
    -------
    The alignment, what a report says of it, and the settings that give it.
    """
    missed = float(_missed(found.transform, inputs).mean())
    left_out = None if fit.left_out_mm is None else float(fit.left_out_mm.mean())
    fitted = float(fit.residual_mm.mean())
    expected = fitted if left_out is None else left_out
    voxel = max(max(side.image.GetSpacing()) for side in (inputs.fixed, inputs.moving))
    warnings = fit.warnings
    retained = missed > _WORSE * expected + _WORSE_VOXELS * voxel
    if retained:
        settings = replace(settings, stages=())
        found = align(settings)
        warnings = (
            *warnings,
            f"The affine step led away from the landmarks ({distance(missed)} at them on average, {distance(fitted)} for the "
            "fit to them that it started from), so that fit was taken as it is: do images and landmarks show the same anatomy?",
        )
    start = LandmarkStart(fit.kind, len(fit.residual_mm), fitted, left_out, missed, retained)
    found = replace(found, warnings=(*warnings, *found.warnings), doubts=(*warnings, *found.doubts))
    return found, start, settings


@dataclass(frozen=True)
class Pull:
    """Landmarks that pull the deformation of a pair.

    Attributes
    ----------
    affine : the affine step, fixed to moving points, LPS mm.
    inputs : the pair with its landmarks.
    warp : draws the fixed landmarks to where `affine` brings them onto the moving ones.
    """

    affine: sitk.AffineTransform
    inputs: Inputs
    warp: LandmarkWarp

    @classmethod
    def of(cls, job: Job, inputs: Inputs, affine: sitk.AffineTransform) -> Pull | None:
        """Return the pull of the landmarks after the affine step; None if the job asks for none."""
        fixed = _pairs(inputs)[0]
        if job.landmarks_for != LANDMARK_USES[2] or not len(fixed):
            return None
        return cls(affine, inputs, landmark_warp(fixed, _targets(affine, inputs) - fixed, _radius_mm(inputs)))

    @property
    def through(self) -> sitk.CompositeTransform:
        """Map fixed to moving points through the pull and the affine step: what the engine's moving image is sampled by."""
        return composed(self.affine, field_transform(self.warp.field))

    def after(self, registration: Registration, grid: Geometry) -> tuple[Registration, LandmarkPull]:
        """Return a registration of the images that were drawn together as one of the aligned images, and what came of the pull.

        Where the engine has moved the landmarks apart again, they pull once more.
        """
        before, pulled = (float(_missed(one, self.inputs).mean()) for one in (self.affine, self.through))
        inner = sitk.CompositeTransform([field_transform(self.warp.field), registration.transform])
        registered = float(_missed(composed(self.affine, inner), self.inputs).mean())
        again = registered > pulled + _GREW_VOXELS * min(grid.spacing)
        if again:
            places = transformed_points(inner, _pairs(self.inputs)[0])
            second = landmark_warp(places, _targets(self.affine, self.inputs) - places, _radius_mm(self.inputs))
            inner = sitk.CompositeTransform([field_transform(second.field), inner])
        found = LandmarkPull(
            before_mm=before,
            pulled_mm=pulled,
            left_out_mm=float(self.warp.left_out_mm.mean()),
            registered_mm=registered,
            again=again,
            weakened=self.warp.weakened,
        )
        warnings = (*registration.warnings, *_weak_words(found))
        return replace(registration, transform=field_transform(displacement_field(inner, grid)), warnings=warnings), found


def _weak_words(found: LandmarkPull) -> tuple[str, ...]:
    if not found.weakened or found.pulled_mm <= found.before_mm / 2:
        return ()
    return (
        f"The landmarks pull the deformation only from {distance(found.before_mm)} to {distance(found.pulled_mm)} at them on "
        "average, because a stronger pull would fold space: check neighboring landmarks that are drawn apart.",
    )


def _pairs(inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """Return the fixed and the moving landmarks, shape (n, 3) each, LPS mm; none where there are none."""
    fixed, moving = inputs.fixed.landmarks, inputs.moving.landmarks
    return (np.zeros((0, 3)),) * 2 if fixed is None or moving is None else (fixed, moving)


def _missed(transform: sitk.Transform, inputs: Inputs) -> np.ndarray:
    fixed, moving = _pairs(inputs)
    return np.asarray(np.linalg.norm(transformed_points(transform, fixed) - moving, axis=1))


def _targets(affine: sitk.AffineTransform, inputs: Inputs) -> np.ndarray:
    """Return which points the affine step brings to the moving landmarks, shape (n, 3), LPS mm."""
    return transformed_points(inverted(affine), _pairs(inputs)[1])


def _radius_mm(inputs: Inputs) -> float:
    extents = np.ptp(points_of(inputs.fixed.foreground), axis=0) + np.array(inputs.fixed.image.GetSpacing())
    return RADIUS * float(np.exp(np.log(extents).mean()))


def _check_inside(side: Side, points: np.ndarray, name: str) -> None:
    grid = Geometry.of(side.image)
    index, last = grid.to_index(points), np.array(grid.size) - 0.5
    beyond = np.linalg.norm((np.maximum(-0.5 - index, 0) + np.maximum(index - last, 0)) * grid.spacing, axis=1)
    worst = int(np.argmax(beyond))
    if beyond[worst] > _OUTSIDE * np.linalg.norm(grid.extent_mm):
        raise InputError(
            f"Landmark {worst + 1} of the {name} image lies {distance(float(beyond[worst]))} outside of that image: are the "
            "landmarks of this image, in mm, and in the coordinate system that their file states (LPS where it states none)?"
        )
