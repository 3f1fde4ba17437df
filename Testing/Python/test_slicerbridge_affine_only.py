"""What the affine step alone gives lies beside the result in the scene, ready to be kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

slicer = pytest.importorskip("slicer", reason="needs slicer-core or Slicer")

from HyperPredictRegLib.results.outcome import affine_warped  # noqa: E402
from HyperPredictRegLib.slicerbridge.outcome_nodes import add_outcome, read_back, remove_outcome  # noqa: E402
from HyperPredictRegLib.slicerbridge.segmentations import from_segmentation_node, to_segmentation_node  # noqa: E402
from HyperPredictRegLib.slicerbridge.volumes import to_volume_node, volume_geometry  # noqa: E402
from HyperPredictRegLib.spatial.geometry import Geometry  # noqa: E402
from HyperPredictRegLib.spatial.transforms import transformed_points  # noqa: E402
from slicerbridge_samples import OBLIQUE, outcome, random_points, through_node  # noqa: E402


def test_transform_volume_and_segmentation_are_there(scene: Any) -> None:
    done = outcome()
    nodes = add_outcome(scene, done)
    points = random_points(OBLIQUE)
    assert np.allclose(through_node(nodes.affine_transform, points), transformed_points(done.affine, points), atol=1e-6)
    assert "affine only" in nodes.affine_transform.GetName()
    expected = affine_warped(done)
    assert expected is not None and volume_geometry(nodes.affine_warped).matches(Geometry.of(done.fixed))
    assert np.array_equal(slicer.util.arrayFromVolume(nodes.affine_warped), sitk.GetArrayFromImage(expected))
    assert not nodes.affine_segmentation.GetDisplayNode().GetVisibility()
    grid = Geometry.of(done.fixed)
    propagated = sitk.GetArrayFromImage(from_segmentation_node(nodes.affine_segmentation, grid).image) != 0
    labels = grid.resample(done.moving_labels, done.affine, interpolator=sitk.sitkNearestNeighbor)
    assert np.array_equal(propagated, sitk.GetArrayFromImage(labels) != 0)


def test_they_belong_to_the_result(scene: Any) -> None:
    done = outcome()
    moving = to_volume_node(done.moving, scene, "Ann")
    segments = to_segmentation_node(done.moving_labels, scene, "Parts of Ann")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    before = scene.GetNumberOfNodes()
    nodes = add_outcome(scene, done, moving_node=moving, segmentation_node=segments)
    made = (nodes.warped, nodes.affine_warped, nodes.affine_transform, nodes.affine_segmentation)
    assert len({hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) for node in made}) == 1
    assert read_back(scene, nodes.report).affine_warped is nodes.affine_warped
    assert nodes.affine_warped.GetAttribute("HyperPredictReg.engine") == nodes.warped.GetAttribute("HyperPredictReg.engine")
    remove_outcome(scene, nodes)
    assert scene.GetNumberOfNodes() == before
