"""What folding would tear or turn inside out is left out, and nothing of it stays behind."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import SimpleITK as sitk

slicer = pytest.importorskip("slicer", reason="needs slicer-core or Slicer")

from applying_samples import (  # noqa: E402
    MIRRORED,
    Result,
    markups,
    model,
    nodes_of,
    places,
    registered,
)
from HyperPredictRegLib.core.json_records import to_json  # noqa: E402
from HyperPredictRegLib.results.report import GridUsed  # noqa: E402
from HyperPredictRegLib.slicerbridge.applying import apply_to_nodes  # noqa: E402
from HyperPredictRegLib.slicerbridge.provenance import read_report_node  # noqa: E402
from HyperPredictRegLib.slicerbridge.segmentations import to_segmentation_node  # noqa: E402
from HyperPredictRegLib.slicerbridge.volumes import to_volume_node  # noqa: E402
from HyperPredictRegLib.spatial.transforms import transformed_points  # noqa: E402
from slicerbridge_samples import OBLIQUE, image, labels  # noqa: E402


@pytest.fixture(scope="module")
def folding() -> Result:
    made = registered(peak_mm=16.0)
    share = (sitk.GetArrayFromImage(made.outcome.jacobian) <= 0).mean()
    assert 0.02 < share < 0.3, share
    return made


@pytest.mark.parametrize("backward", [False, True])
def test_points_in_folds_are_refused_with_their_number(folding, backward) -> None:
    voxels = np.argwhere(sitk.GetArrayFromImage(folding.outcome.jacobian) <= 0)[:, ::-1]
    # Voxels well inside of what is folded, whose neighbors are folded too.
    bad = OBLIQUE.to_lps(voxels[:3])
    good = OBLIQUE.to_lps(np.array([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    fixed_points = np.concatenate([bad, good])
    points = fixed_points if backward else transformed_points(folding.map, fixed_points)
    for node, what in ((model(folding.scene, points), "vertices"), (markups(folding.scene, "Fiducial", points), "points")):
        before = nodes_of(folding.scene)
        done = folding.apply_to_nodes(node, backward=backward)
        assert not done.nodes and nodes_of(folding.scene) == before
        sentence = done.refused[0][1]
        assert f"of its 5 {what} lie where the transform folds" in sentence
        count = int(sentence.partition(" of its ")[0].split()[-1])
        # Forward, a folded place has several origins, and the search may end at one that is not folded.
        assert count == 3 if backward else 1 <= count <= 3
    safe = markups(folding.scene, "Fiducial", points[3:])
    assert len(folding.apply_to_nodes(safe, backward=backward).nodes) == 1


@pytest.mark.parametrize("backward", [False, True])
def test_segments_in_folds_are_refused_and_volumes_come_with_a_warning(folding, backward) -> None:
    grid = OBLIQUE if backward else MIRRORED
    segmentation = to_segmentation_node(labels(grid), folding.scene, "Parts", names={3: "A", 17: "B", 300: "C"})
    before = nodes_of(folding.scene)
    done = folding.apply_to_nodes(segmentation, backward=backward)
    assert not done.nodes and nodes_of(folding.scene) == before
    sentence = done.refused[0][1]
    assert f"'{segmentation.GetName()}' was not propagated" in sentence and "be folded voxels (more than 0.5 %)" in sentence
    done = folding.apply_to_nodes(to_volume_node(image(grid), folding.scene, "Picture"), backward=backward)
    assert len(done.nodes) == 1 and "are folded" in done.warnings[0]
    # A segment far from all folded voxels may go.
    corner = np.zeros(grid.size[::-1], dtype=np.uint8)
    corner[:4, :4, :4] = 1
    apart = to_segmentation_node(grid.apply_to(sitk.GetImageFromArray(corner)), folding.scene, "Corner")
    assert len(folding.apply_to_nodes(apart, backward=backward).nodes) == 1


def test_folded_voxels_are_taken_from_the_determinant_that_was_measured() -> None:
    """The measured folding and the refusal speak of the same voxels, also where differences over 0.02 mm see no fold."""
    made = registered()
    made.nodes.jacobian.GetImageData().SetScalarComponentFromDouble(12, 11, 10, 0, -0.1)
    points = OBLIQUE.to_lps(np.array([[12.0, 11.0, 10.0], [12.3, 10.8, 10.1], [12.0, 11.0, 11.0]]))
    for backward in (False, True):
        start = points if backward else transformed_points(made.map, points)
        done = made.apply_to_nodes(markups(made.scene, "Fiducial", start), backward=backward)
        assert "2 of its 3 points" in done.refused[0][1]


def test_without_inverse_and_determinant_nodes_they_are_computed(folding) -> None:
    nodes = replace(folding.nodes, inverse=None, jacobian=None)
    bad = OBLIQUE.to_lps(np.argwhere(sitk.GetArrayFromImage(folding.outcome.jacobian) <= 0)[:2, ::-1])
    done = apply_to_nodes(folding.scene, [markups(folding.scene, "Fiducial", bad)], nodes, backward=True)
    assert "2 of its 2 points" in done.refused[0][1]


def test_without_the_determinant_as_many_folded_voxels_are_found(folding) -> None:
    coarse = OBLIQUE.covering(OBLIQUE.corners_lps(), 3.7, 0.0)
    nodes = replace(folding.nodes, fixed=to_volume_node(image(coarse), folding.scene, "Coarse"))
    picture = to_volume_node(image(MIRRORED), folding.scene, "Picture")
    changed = folding.scene.AddNewNodeByClass("vtkMRMLTextNode", "Changed")
    changed.SetText("no report")
    less = [{}, {"jacobian": None}, {"jacobian": None, "report": changed}, {"jacobian": None, "report": None}]
    told = [apply_to_nodes(folding.scene, picture, replace(nodes, **gone)).warnings for gone in less]
    found = {one.partition(" of the voxels")[0] for warnings in told for one in warnings if "are folded" in one}
    assert len(found) == 1 and found.pop()[0].isdigit()


def test_the_end_of_a_single_field_is_not_folded() -> None:
    made = registered(transform_as="field", field_spacing_mm=2.0)
    report = read_report_node(made.nodes.report)
    wide = GridUsed(**asdict(OBLIQUE.padded((4, 4, 4), (4, 4, 4))))
    made.nodes.report.SetText(to_json(replace(report, working_grid=wide)))
    picture = to_volume_node(image(MIRRORED), made.scene, "Picture")
    done = apply_to_nodes(made.scene, picture, replace(made.nodes, jacobian=None))
    assert not any("are folded" in one for one in done.warnings)


def test_a_single_field_is_not_relied_on_beyond_its_volume() -> None:
    made = registered(transform_as="field", field_spacing_mm=2.0)
    inside, beyond = OBLIQUE.centre_lps[None], OBLIQUE.to_lps([[-9.0, 5.0, 5.0]])
    done = made.apply_to_nodes(*(markups(made.scene, "Fiducial", transformed_points(made.map, p)) for p in (inside, beyond)))
    assert np.linalg.norm(places(done.nodes[0]) - inside) < 0.5  # mm, one field of 2 mm
    assert "1 of its 1 points" in done.refused[0][1]
