"""The user goes on while a registration runs: its result is for the inputs as they were, and says what has changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

slicer = pytest.importorskip("slicer", reason="needs slicer-core or Slicer")

from HyperPredictRegLib.results.outcome import Outcome  # noqa: E402
from HyperPredictRegLib.slicerbridge.outcome_nodes import OutcomeNodes, add_outcome_for, read_back  # noqa: E402
from HyperPredictRegLib.slicerbridge.provenance import Given, at_start, read_report_node  # noqa: E402
from HyperPredictRegLib.slicerbridge.scene import application_logic  # noqa: E402
from HyperPredictRegLib.slicerbridge.segmentations import from_segmentation_node, to_segmentation_node  # noqa: E402
from HyperPredictRegLib.slicerbridge.transforms import to_transform_node  # noqa: E402
from HyperPredictRegLib.slicerbridge.volumes import to_volume_node  # noqa: E402
from HyperPredictRegLib.spatial.transforms import field_transform  # noqa: E402
from slicerbridge_samples import OBLIQUE, ROTATION, field, outcome  # noqa: E402

NAMES = {3: "Caudate", 17: "Putamen", 300: "Thalamus"}
NUMBERS = {f"label_{label}": label for label in NAMES}


@dataclass
class Begun:
    """A registration that has begun and has found `done`."""

    scene: Any
    given: Given
    done: Outcome

    def deliver(self) -> tuple[OutcomeNodes, tuple[str, ...]]:
        """Return the result's nodes, and what its report warns of since the start."""
        nodes = add_outcome_for(self.scene, self.done, self.given)
        return nodes, read_report_node(nodes.report).warnings[len(self.done.report.warnings):]

    def propagated(self, nodes: OutcomeNodes) -> np.ndarray:
        """Return the propagated label of each voxel of the fixed grid."""
        return sitk.GetArrayFromImage(from_segmentation_node(nodes.propagated_segmentation, OBLIQUE, NUMBERS).image)


@pytest.fixture
def begun() -> Iterator[Begun]:
    scene, done = slicer.vtkMRMLScene(), outcome()
    with application_logic(scene):
        nodes = {
            "fixed": to_volume_node(done.fixed, scene, "Atlas"),
            "moving": to_volume_node(done.moving, scene, "Ann"),
            "fixed_segmentation": to_segmentation_node(done.fixed_labels, scene, "Parts of Atlas", names=NAMES),
            "moving_segmentation": to_segmentation_node(done.moving_labels, scene, "Parts of Ann", names=NAMES),
        }
        given = Given(**nodes)
        yield Begun(scene, replace(given, start=at_start(given)), done)


def put_under(node: Any, transform: sitk.Transform, scene: Any, name: str) -> Any:
    above = to_transform_node(transform, scene, name)
    node.SetAndObserveTransformNodeID(above.GetID())
    return above


def expected(done: Outcome) -> np.ndarray:
    return sitk.GetArrayFromImage(done.warped_labels)


def test_where_nothing_has_changed_nothing_is_said(begun) -> None:
    nodes, warnings = begun.deliver()
    assert warnings == () and not nodes.propagated_segmentation.GetDescription()
    assert np.array_equal(begun.propagated(nodes), expected(begun.done))


@pytest.mark.parametrize("how", ["moved", "deformed", "segment removed", "emptied", "erased", "removed"])
def test_segments_are_propagated_as_they_were(begun, how) -> None:
    mine = begun.given.moving_segmentation
    segments = mine.GetSegmentation()
    if how == "moved":
        put_under(mine, ROTATION, begun.scene, "Later")
    elif how == "deformed":
        put_under(mine, field_transform(field()), begun.scene, "Later")
    elif how == "segment removed":
        segments.RemoveSegment("label_17")
    elif how == "emptied":
        segments.RemoveAllSegments()
    elif how == "erased":
        segments.GetSegment("label_3").GetRepresentation("Binary labelmap").GetPointData().GetScalars().Fill(0)
    else:
        begun.scene.RemoveNode(mine)
    nodes, warnings = begun.deliver()
    assert np.array_equal(begun.propagated(nodes), expected(begun.done))
    names = [nodes.propagated_segmentation.GetSegmentation().GetSegment(i).GetName() for i in NUMBERS]
    assert names == list(NAMES.values())
    assert nodes.propagated_segmentation.GetName() == "Parts of Ann in Atlas space"
    (sentence,) = warnings
    what = "removed" if how == "removed" else "edited or moved"
    assert sentence.startswith(f"The segmentation 'Parts of Ann' was {what} while")
    assert sentence in nodes.propagated_segmentation.GetDescription()


def test_a_removed_segmentation_is_not_referred_to(begun) -> None:
    for node in (begun.given.fixed_segmentation, begun.given.moving_segmentation):
        begun.scene.RemoveNode(node)
    nodes, warnings = begun.deliver()
    assert (nodes.fixed_segmentation, nodes.moving_segmentation) == (None, None)
    assert [sentence.split(" while")[0] for sentence in warnings] == [
        "The segmentation 'Parts of Atlas' was removed", "The segmentation 'Parts of Ann' was removed"
    ]  # fmt: skip
    for role in ("fixed_segmentation", "moving_segmentation"):
        assert nodes.report.GetNodeReferenceID(f"HyperPredictReg.{role}") is None
    back = read_back(begun.scene, nodes.report)
    assert (back.fixed_segmentation, back.moving_segmentation) == (None, None)
    # Only the two propagated ones: what the user has removed does not come back.
    assert begun.scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 2


def test_changes_of_the_fixed_side_are_said_too(begun) -> None:
    begun.given.fixed_segmentation.GetSegmentation().RemoveSegment("label_3")
    put_under(begun.given.fixed, ROTATION, begun.scene, "Later")
    nodes, warnings = begun.deliver()
    assert len(warnings) == 2 and not nodes.propagated_segmentation.GetDescription()
    assert "The fixed volume 'Atlas' lies elsewhere" in warnings[0]
    assert "The segmentation 'Parts of Atlas' was edited or moved" in warnings[1]


def test_the_transform_tells_of_the_parents_at_the_start(begun) -> None:
    moving = begun.given.moving
    first = put_under(moving, ROTATION, begun.scene, "First look")
    put_under(first, ROTATION, begun.scene, "Scanner")
    given = replace(begun.given, start=at_start(Given(begun.given.fixed, moving)))
    moving.SetAndObserveTransformNodeID(None)
    nodes = add_outcome_for(begun.scene, begun.done, given)
    assert "put 'Scanner' under this transform" in nodes.transform.GetDescription()
    put_under(moving, ROTATION, begun.scene, "Later")
    assert "under this transform" not in begun.deliver()[0].transform.GetDescription()
