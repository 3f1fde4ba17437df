"""How a registration's transform is stored in its node: exactly, or as one displacement field; and what that comes to."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.geometry import Geometry
from HyperPredictRegLib.outcome import Outcome
from HyperPredictRegLib.slicerbridge.transforms import cubic_reload_difference_mm, update_transform_node
from HyperPredictRegLib.transforms import displacement_field, field_transform, transformed_points

FIELD_DIFFERENCE = "HyperPredictReg.fieldDifferenceMm"
"""Attribute of a transform node that is one field, JSON: mean and maximum distance from the exact transform, and voxel, in mm."""

EXACT_VOXELS = 1e-3
"""Transforms that lie no farther apart are called the same."""

_MOST_POINTS = 100_000
_MOST_FIELD_POINTS = 50_000_000


def check_storage(fixed: Geometry, transform_as: str, field_spacing_mm: float | None) -> None:
    """Check whether a transform over the fixed volume can be stored so; see `add_outcome` of `outcome_nodes`.

    Raises
    ------
    InputError : there is no such way, or the spacing is not above 0 or needs too much memory.
    """
    if transform_as not in ("composite", "field"):
        raise InputError(f"A transform cannot be stored as '{transform_as}': choose composite or field.")
    if field_spacing_mm is None:
        return
    if not 0 < field_spacing_mm < float("inf"):
        raise InputError(f"The spacing of the displacement field is {field_spacing_mm:g} mm: give more than 0.")
    points = float(np.prod(np.ceil(np.array(fixed.extent_mm) / field_spacing_mm) + 1))
    if points > _MOST_FIELD_POINTS:
        raise InputError(
            f"A displacement field with {field_spacing_mm:g} mm between its points would have {points / 1e6:.0f} million of "
            "them: choose a larger spacing."
        )


def store_as_field(node: Any, outcome: Outcome, spacing_mm: float | None) -> sitk.Transform:
    """Let a transform node hold one displacement field over the fixed volume, not the exact composite, and return it.

    An attribute and the description of the node say how far it is from the exact one.
    """
    fixed = Geometry.of(outcome.fixed)
    if spacing_mm is None:
        # On the points that were registered on, interpolating and mapping by a matrix may change places: nothing is lost.
        grid = Geometry(**asdict(outcome.report.working_grid)).continued_over(fixed.corners_lps())
    else:
        grid = fixed.covering(fixed.corners_lps(), spacing_mm, 0.0)
    single = field_transform(displacement_field(outcome.transform, grid))
    update_transform_node(node, single)
    points = _foreground_voxels(outcome)
    apart = np.linalg.norm(transformed_points(single, points) - transformed_points(outcome.transform, points), axis=1)
    mean, most = (float(apart.mean()), float(apart.max())) if apart.size else (0.0, 0.0)
    node.SetAttribute(FIELD_DIFFERENCE, json.dumps({"mean": mean, "maximum": most, "voxel": min(grid.spacing)}))
    edges = [f"{edge:.3g}" for edge in grid.spacing]
    where = f"of {edges[0] if len(set(edges)) == 1 else ' x '.join(edges)} mm over the fixed volume, and not valid outside of it"
    exactness = (
        f"it differs from the exact transform by {mean:.2g} mm on average over the foreground, by {most:.2g} mm at most"
        if most > EXACT_VOXELS * min(grid.spacing) else "there it is exact"
    )
    node.SetDescription(f"One displacement field {where}: {exactness}.")
    return single


def _foreground_voxels(outcome: Outcome) -> np.ndarray:
    """Return the fixed volume's own voxel centers in its foreground, or a random choice of them: shape (n, 3), LPS mm."""
    fixed = Geometry.of(outcome.fixed)
    inside = fixed.resample(outcome.foreground, interpolator=sitk.sitkNearestNeighbor)
    chosen = np.flatnonzero(sitk.GetArrayViewFromImage(inside))
    if len(chosen) > _MOST_POINTS:
        # Not every n-th: those may all coincide with points of a grid.
        chosen = np.random.default_rng(outcome.report.job.seed).choice(chosen, _MOST_POINTS, replace=False)
    return fixed.to_lps(np.stack(np.unravel_index(chosen, fixed.size[::-1])[::-1], axis=1))


def reload_note(outcome: Outcome, stored: sitk.Transform) -> str:
    """Say on the transform itself what its grid comes to where Slicer opens the scene without this extension."""
    inside = np.argwhere(sitk.GetArrayViewFromImage(outcome.foreground) > 0)[:, ::-1]
    # A thousand voxels spread evenly, and a random place in each: on the points of a grid all interpolations agree.
    chosen = inside[:: max(1, len(inside) // 1000)]
    if not len(chosen):
        return ""
    places = chosen + np.random.default_rng(outcome.report.job.seed).uniform(-0.5, 0.5, chosen.shape)
    apart = cubic_reload_difference_mm(stored, Geometry.of(outcome.foreground).to_lps(places))
    return (
        "Displacement fields are interpolated linearly. Slicer without HyperPredictReg reads them as cubic, which moves points "
        f"of the foreground by {apart.mean():.2g} mm on average and by {apart.max():.2g} mm at most."
    )
