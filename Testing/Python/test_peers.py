"""The benchmark beside peers: what its tables say, peers that are not installed, and a run in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from HyperPredictRegLib.spatial.transforms import field_transform

TOP = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def benchmarks_folder() -> Any:
    """Let the tests import what lies in the folder of the benchmarks."""
    sys.path.insert(0, str(TOP / "benchmarks"))
    yield
    sys.path.remove(str(TOP / "benchmarks"))


def row(method: str, number: int, **values: object) -> dict[str, str]:
    """Return a row as the CSV file holds it."""
    import peers

    empty = dict.fromkeys(peers.COLUMNS, "")
    given = {"group": "heart", "fixed": f"p{number}", "moving": "m", "contrast": "same", "preset": "fast", "method": method}
    return empty | given | {name: str(value) for name, value in values.items()}


def lines_of(text: str, name: str) -> list[str]:
    """Return the cells of a method's line in the table of a group (not in that of the settings)."""
    lines = [line for line in text.split("## ", 1)[1].splitlines() if line.startswith("|") and f"`{name}`" in line.split("|")[1]]
    assert len(lines) == 1
    return [cell.strip() for cell in lines[0].strip("|").split("|")]


def case_of(fixed: sitk.Image, moving: sitk.Image) -> Any:
    """Return two images as a case without labels."""
    import peer_pairs

    return peer_pairs.Case(fixed, moving, sitk.Transform(3, sitk.sitkIdentity), fixed > 0)


def test_a_table_compares_pair_by_pair_and_says_who_is_ahead() -> None:
    import peer_tables

    rows = [row("diffeo", n, dice=0.8 + 0.01 * n, folded=0.0, cpu_seconds=2.0) for n in range(4)]
    rows += [row("greedy", n, dice=0.81 + 0.01 * n + 0.001 * (n % 2), folded=0.5, cpu_seconds=40.0) for n in range(3)]
    rows += [row("demons", n, dice=0.7, folded=0.0) for n in range(4)]
    rows += [row("affine", n, dice=0.815 + 0.001 * (-1) ** n) for n in range(4)]
    text = peer_tables.document(rows)
    # Differences .010, .011, .010: their standard error is .001 / 3, and Student's t of two degrees of freedom 4.3027.
    assert lines_of(text, "greedy") == ["`greedy`", ".8203", "+.0103 ± .0014", ".5000", "40.0", "3"]
    assert lines_of(text, "diffeo")[:3] == ["**`diffeo`**", ".8150", ""]
    assert "Ahead of `diffeo`: `greedy` (by .0103 ± .0014, n 3)." in text
    assert "No clear difference from `diffeo`: `affine` (n 4)." in text
    assert "Behind `diffeo`: `demons`." in text


def test_less_is_better_in_millimeters_and_failures_are_counted() -> None:
    import peer_tables

    rows = [row("diffeo", n, group="heads-same", mm=2.0) for n in range(3)]
    rows += [row("greedy", n, group="heads-same", mm=1.5) for n in range(2)]
    rows += [row("greedy", 2, group="heads-same", failure="status 1: it broke")]
    text = peer_tables.document(rows)
    assert lines_of(text, "greedy") == ["`greedy`", "1.50", "+.50 ± .00", "2 (1 failed)"]
    assert "Ahead of `diffeo`: `greedy` (by .50 mm ± .00, n 2)." in text


def test_methods_that_did_not_run_are_not_in_the_table() -> None:
    import peer_tables

    text = peer_tables.document([row("diffeo", 1, dice=0.8)])
    assert "`greedy`" not in text
    assert "Ahead" not in text


def test_a_peer_that_is_not_installed_is_left_out_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    import peer_methods
    import peers

    known = {"ours": peer_methods.METHODS["affine"], "theirs": peer_methods.Method("", print, "no_such_package", install="`pip`")}
    assert peers.available(known, known) == ("ours",)
    assert capsys.readouterr().out == "theirs: left out: 'no_such_package' is not installed; get it by `pip`.\n"


def test_a_run_in_its_own_process_gives_the_field_and_what_it_used(tmp_path: Path) -> None:
    import peers

    places = np.indices((24, 24, 24)) - 11.5
    blobs = [np.exp(-((places - np.reshape(shift, (3, 1, 1, 1))) ** 2).sum(axis=0) / 40) for shift in ((0, 0, 0), (0, 0, 2))]
    fixed, moving = (sitk.GetImageFromArray(blob.astype(np.float32)) for blob in blobs)
    for image in (fixed, moving):
        image.SetDirection((0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0))
        image.SetOrigin((30.0, -20.0, 10.0))
    field, usage = peers.registered("demons", case_of(fixed, moving), tmp_path)
    warped = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, field_transform(field)))
    assert np.abs(warped - blobs[0]).mean() < 0.4 * np.abs(blobs[1] - blobs[0]).mean()
    assert field.GetOrigin() == fixed.GetOrigin()
    assert usage["cpu_seconds"] > 0
    assert 20 < usage["peak_mb"] < 4000


def test_a_failed_run_says_so(tmp_path: Path) -> None:
    import peers

    image = sitk.Image(8, 8, 8, sitk.sitkFloat32)
    with pytest.raises(RuntimeError, match="status 1: 'affine' has nothing to run"):
        peers.registered("affine", case_of(image, image), tmp_path)


def test_a_pair_without_alignment_leaves_one_row_and_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import peer_pairs
    import peer_tables
    import peers
    from HyperPredictRegLib.core.errors import RegistrationError

    tried = []

    def failing(pair: Any, preset: str, cache: Path) -> None:
        tried.append(pair)
        raise RegistrationError("The affine alignment collapsed.")

    pair = peer_pairs.Pair("heart", "p1", "m")
    monkeypatch.setattr(peers, "RESULTS", tmp_path / "rows.csv")
    monkeypatch.setattr(peers, "case_of", failing)
    monkeypatch.setattr(peers, "pairs", lambda group: [pair])
    for _ in range(2):
        peers.run(["heart"], ["affine", "diffeo"], None, tmp_path)
    assert tried == [pair]
    (row,) = peers.read()
    assert (row["method"], row["failure"]) == ("affine", "no alignment: The affine alignment collapsed.")
    assert "no alignment" in capsys.readouterr().out
    assert lines_of(peer_tables.document([row]), "affine") == ["`affine`", "0 (1 failed)"]


def test_runs_go_through_the_groups_pair_by_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    import peer_pairs
    import peers

    counts = {"heart": 3, "hippo": 1, "brain-fine": 5}
    monkeypatch.setattr(peers, "pairs", lambda group: [peer_pairs.Pair(group, str(n), "m") for n in range(counts[group])])
    runs = [(run.pair.group, run.pair.fixed, run.method) for run in peers.planned(counts, ["diffeo", "ants"])]
    assert runs[:4] == [("heart", "0", "diffeo"), ("heart", "0", "ants"), ("hippo", "0", "diffeo"), ("hippo", "0", "ants")]
    assert [pair for group, pair, method in runs if (group, method) == ("brain-fine", "ants")] == ["0", "1", "2"]
    assert len(runs) == 2 * (3 + 1 + 5) - 2
    assert {run.pair.fixed for run in peers.planned(counts, ["diffeo"], 2)} == {"0", "1"}


def test_a_start_from_glands_puts_their_centres_onto_each_other() -> None:
    import peer_pairs

    labels = []
    for first in ((2, 3, 4), (6, 3, 1)):
        voxels = np.zeros((12, 12, 12), np.uint8)
        voxels[tuple(slice(n, n + 3) for n in first)] = peer_pairs.GLAND
        image = sitk.GetImageFromArray(voxels)
        image.SetSpacing((0.5, 1.0, 2.0))
        labels.append(image)
    shift = peer_pairs.centred_glands(*labels)
    centres = [peer_pairs.centroids(image, (peer_pairs.GLAND,))[0] for image in labels]
    assert np.allclose(shift.TransformPoint(centres[0].tolist()), centres[1])
    assert np.allclose(shift.GetTranslation(), (-1.5, 0.0, 8.0))
