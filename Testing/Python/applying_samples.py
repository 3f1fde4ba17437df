"""A registration with a known map in a scene, and models and markups to apply it to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from HyperPredictRegLib.quality.metrics import jacobian_determinant
from HyperPredictRegLib.results.outcome import Outcome
from HyperPredictRegLib.slicerbridge.applying import Applied, apply_to_nodes
from HyperPredictRegLib.slicerbridge.outcome_nodes import OutcomeNodes, add_outcome
from HyperPredictRegLib.slicerbridge.scene import application_logic
from HyperPredictRegLib.slicerbridge.transforms import to_transform_node
from HyperPredictRegLib.slicerbridge.volumes import LPS_RAS, to_volume_node
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import composed, displacement_field, field_transform, inverted
from slicerbridge_samples import LEFT_HANDED, OBLIQUE, affine, field, image, labels, outcome

FLIP = np.diag(LPS_RAS)[:3]
# Left-handed, over the same part of space as the fixed grid.
MIRRORED = Geometry(OBLIQUE.size, OBLIQUE.spacing, tuple(OBLIQUE.to_lps([23.0, 0.0, 0.0])), LEFT_HANDED.direction)


@dataclass
class Result:
    """A registration in a scene, and what it is."""

    scene: Any
    outcome: Outcome
    nodes: OutcomeNodes

    def apply_to_nodes(self, *nodes: Any, backward: bool = False) -> Applied:
        return apply_to_nodes(self.scene, nodes, self.nodes, backward=backward)

    def one(self, node: Any, backward: bool = False) -> Any:
        done = self.apply_to_nodes(node, backward=backward)
        assert not done.refused, done.refused
        return done.nodes[0]

    def told(self, *nodes: Any, backward: bool = False) -> list[str]:
        """Return the warnings but those of what is cut off: the two grids do not cover the same part of space."""
        return [one for one in self.apply_to_nodes(*nodes, backward=backward).warnings if "the rest is cut off" not in one]

    @property
    def map(self) -> sitk.Transform:
        return self.outcome.transform


def registered(peak_mm: float = 4.0, **options: Any) -> Result:
    """Return a pair, the fixed volume oblique, the moving one left-handed, with an affine and a deformation that is known."""
    scene, done = slicer.vtkMRMLScene(), known_outcome(peak_mm)
    with application_logic(scene):
        fixed, moving = to_volume_node(done.fixed, scene, "Atlas"), to_volume_node(done.moving, scene, "Ann")
        nodes = add_outcome(scene, done, fixed_node=fixed, moving_node=moving, **options)
    return Result(scene, done, nodes)


@cache
def known_outcome(peak_mm: float) -> Outcome:
    """Return a registration whose deformation is known; its images are not to be changed."""
    transform = composed(affine(), field_transform(field(OBLIQUE, peak_mm=peak_mm)))
    moving = image(MIRRORED, seed=6)
    return replace(
        outcome(),
        transform=transform,
        inverse=inverted(transform, OBLIQUE),
        jacobian=jacobian_determinant(displacement_field(transform, OBLIQUE)),
        moving=moving,
        warped=OBLIQUE.resample(moving, transform),
        moving_labels=labels(MIRRORED),
    )


def model(scene: Any, points_lps: np.ndarray, name: str = "Surface") -> Any:
    """Return a model of triangles between points."""
    points, faces = vtk.vtkPoints(), vtk.vtkCellArray()
    for point in points_lps * FLIP:
        points.InsertNextPoint(*point.tolist())
    for n in range(len(points_lps) - 2):
        faces.InsertNextCell(3, [n, n + 1, n + 2])
    surface = vtk.vtkPolyData()
    surface.SetPoints(points)
    surface.SetPolys(faces)
    node = scene.AddNewNodeByClass("vtkMRMLModelNode", name)
    node.SetAndObservePolyData(surface)
    return node


def sphere(scene: Any, centre_lps: np.ndarray, radius: float = 6.0) -> Any:
    source = vtk.vtkSphereSource()
    source.SetCenter(*(centre_lps * FLIP).tolist())
    source.SetRadius(radius)
    source.SetThetaResolution(24)
    source.SetPhiResolution(24)
    source.Update()
    node = scene.AddNewNodeByClass("vtkMRMLModelNode", "Ball")
    node.SetAndObservePolyData(source.GetOutput())
    return node


def vertices(node: Any) -> np.ndarray:
    surface = node.GetPolyData()
    return np.array([surface.GetPoint(n) for n in range(surface.GetNumberOfPoints())]) * FLIP


def markups(scene: Any, kind: str, points_lps: np.ndarray) -> Any:
    node = scene.AddNewNodeByClass(f"vtkMRMLMarkups{kind}Node", f"My {kind}")
    for number, point in enumerate(points_lps * FLIP):
        node.AddControlPointWorld(*point.tolist(), f"label {number}")
    return node


def places(node: Any) -> np.ndarray:
    return np.array([node.GetNthControlPointPositionWorld(n) for n in range(node.GetNumberOfControlPoints())]) * FLIP


def nodes_of(scene: Any) -> list[str]:
    return [scene.GetNthNode(n).GetID() for n in range(scene.GetNumberOfNodes())]


def put_under(result: Result, node: Any, transform: sitk.Transform) -> None:
    node.SetAndObserveTransformNodeID(to_transform_node(transform, result.scene, "Above").GetID())
