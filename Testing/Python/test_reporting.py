"""The report page: what it says, what it says when parts are missing, and that it is one safe file."""

from __future__ import annotations

import dataclasses
import math
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from HyperPredictRegLib import reporting
from HyperPredictRegLib.reporting import figures, report_page, sheet, wording
from HyperPredictRegLib.results.job import EngineUsed
from HyperPredictRegLib.results.outcome import Outcome
from HyperPredictRegLib.results.report import DiceMeasure, Distances, FoldingPercent, InputUsed, Measured, StructureMeasure
from reporting_samples import (
    NASTY,
    PICTURES,
    SPACE,
    assert_not_blank,
    check_page,
    level,
    make_outcome,
    render,
    structure,
    with_measured,
    with_report,
)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return make_outcome()


@pytest.fixture(scope="module")
def written(outcome: Outcome, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("report")
    return folder, reporting.write_report(outcome, folder)


# The whole report


def test_report_holds_every_part(outcome: Outcome, written: tuple[Path, dict[str, str]]) -> None:
    folder, roles = written
    assert roles == {**PICTURES, "report_page": "report.html"}
    assert sorted(p.name for p in folder.iterdir()) == sorted(roles.values())
    text = check_page(
        (folder / "report.html").read_text(encoding="utf-8"),
        expected=(
            "moving.nrrd registered to fixed scan.nii.gz",
            "raised the mean Dice of 2 structures from 0.450 to 0.750; 0.25 % of the foreground is folded",
            "going there and back misses the start by 0.21 mm on average; there is 1 warning to read below.",
            "The moving image is coarser than the fixed one.",
            "Radiological convention: the patient’s right (R) is on your left",
            "tilted by up to 14°",
            "The affine alignment alone gives 1.33 everywhere.",
            "It used all the iterations it was allowed",
            "maximum number of iterations",
            "The metric had stopped changing: it converged.",
            "absentee",
            "hyperpredictreg register --job report.json --out again",
            "0123456789abcdef", "ab" * 32, "4711", "321 MB", "SimpleITK 2.5.7", "40 × 36 × 30 voxels of 4 × 4 × 4 mm",
            "Regularization weight λ = 1.5 (range 0.1 to 10 voxels, default 1)",
            "alignment 1.0 s, registration 2.5 s, together 3.5 s",
            "HD95", "Inverse consistency", "Jacobian determinant",
        ),
        unexpected=("could not be made",),
    )
    assert text.index("core") < text.index("shell", text.index("Lowest Dice first")), "the lowest Dice comes first"


@pytest.mark.parametrize("name", PICTURES.values())
def test_pictures_beside_the_page_are_png_and_not_blank(written: tuple[Path, dict[str, str]], name: str) -> None:
    content = (written[0] / name).read_bytes()
    assert content.startswith(b"\x89PNG")
    assert_not_blank(content)


def test_writing_again_replaces_the_files(outcome: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_page, "_pictures", lambda *given: [])
    monkeypatch.setattr(report_page, "render_report", lambda *given: "new")
    (tmp_path / "report.html").write_text("old")
    reporting.write_report(outcome, tmp_path / "made" / "now")
    assert reporting.write_report(outcome, tmp_path) == {"report_page": "report.html"}
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == "new"
    assert (tmp_path / "made" / "now" / "report.html").read_text(encoding="utf-8") == "new"


def test_names_from_files_are_escaped(outcome: Outcome) -> None:
    nasty = with_report(
        with_measured(outcome, dice=DiceMeasure(0.5, 0.5, (structure(1, NASTY, 0.5),), (NASTY + "absent",))),
        warnings=(NASTY + "warning",),
        registration=(level(stop_reason=NASTY + "stop", stage=NASTY + "stage"),),
        inputs=(InputUsed("fixed", NASTY + "path", (1, 1, 1), (1.0, 1.0, 1.0), NASTY),),
        engine=EngineUsed(NASTY, NASTY, NASTY, SPACE, {NASTY: NASTY}, NASTY),
        versions={NASTY: NASTY},
        outputs={NASTY: NASTY},
        seconds={NASTY: 1.0},
        job=dataclasses.replace(outcome.report.job, fixed=NASTY + "file", moving="a\x00\x1b\ud800b"),
    )
    html = render(nasty)
    assert "<b>&" not in html
    check_page(html, expected=tuple(NASTY + word for word in ("warning", "stop", "stage", "path", "absent", "file")))
    assert NASTY in check_page(report_page.plain_report(nasty.report, NASTY))


# What is missing


def test_without_labels(outcome: Outcome) -> None:
    job = dataclasses.replace(outcome.report.job, fixed_labels=None)
    bare = with_report(with_measured(outcome, dice=None), job=job)
    bare = dataclasses.replace(bare, fixed_labels=None, moving_labels=None, warped_labels=None)
    assert "outlines_picture" not in report_page.captions(bare)
    check_page(
        render(bare),
        expected=("overlap was not measured, because labels were not given for both images", "No structures were compared"),
        unexpected=("Outlines of the structures", "Mean Dice", "Lowest Dice first"),
    )


def test_with_moving_labels_only(outcome: Outcome) -> None:
    propagated = dataclasses.replace(with_measured(outcome, dice=None), fixed_labels=None)
    figure = figures.draw_outlines(propagated)
    assert [text.get_text() for text in figure.texts] == ["labels propagated from the moving image"]


@pytest.mark.parametrize("dice", [None, DiceMeasure(math.nan, math.nan, (), ("left", "right"))], ids=["none", "empty"])
def test_no_structure_in_both_label_maps(outcome: Outcome, dice: DiceMeasure | None) -> None:
    absent = "left, right." if dice is not None else ""
    text = check_page(render(with_measured(outcome, dice=dice)), expected=(absent,), unexpected=("labels were not given",))
    assert text.count("because no structure is present in both label maps") == 2


def test_the_start_is_named(outcome: Outcome) -> None:
    assert figures.Scene.of(outcome).before_title == "Before: affine alignment only"
    given = with_report(outcome, job=dataclasses.replace(outcome.report.job, initial_transform="start.h5"))
    assert figures.Scene.of(given).before_title == "Before: the given initial transform only"


def test_numbers_that_are_not_numbers_become_dashes(outcome: Outcome) -> None:
    nan = math.nan
    lost = Distances(nan, nan, nan)
    broken = (
        StructureMeasure(3, None, nan, nan, None, nan, math.inf, 0.0),  # type: ignore[arg-type]
        StructureMeasure(4, nan, 0.5, nan, nan, None, 1.0, 1.0),  # type: ignore[arg-type]
        structure(5, "  ", 0.7),
    )
    measured = Measured(FoldingPercent(nan, nan), nan, nan, nan, lost, lost, nan, nan, DiceMeasure(nan, nan, broken), lost, None)
    html = render(with_report(outcome, measured=measured, peak_memory_mb=nan, setting={"regularization_weight": nan}))
    text = check_page(html, expected=("folding could not be measured",))
    assert "Landmark error – → – mm" in text
    table = ElementTree.fromstring(html).find(".//section[@id='structures']")
    assert table is not None
    rows = [[cell.text or "" for cell in row.iter("td")] for row in table.iter("tr")]
    assert [row[:2] for row in rows if row] == [["–", "4"], ["–", "5"], ["–", "3"]]
    assert rows[-1][2:4] == ["–", "–"]


def test_what_the_engine_chose_is_said(outcome: Outcome) -> None:
    note = "Inside the anatomy the images have the same contrast: 'lncc' compares them."
    check_page(render(with_report(outcome, engine_notes=(note,))), expected=("Chosen by the engine", note))
    check_page(render(outcome), unexpected=("Chosen by the engine",))


def test_without_traces(outcome: Outcome) -> None:
    silent = with_report(outcome, registration=(), alignment=dataclasses.replace(outcome.report.alignment, stages=()))
    assert "trace_picture" not in report_page.captions(silent)
    check_page(render(silent), expected=("No trace was recorded.",))


@pytest.mark.parametrize("library", ["matplotlib.figure", "matplotlib.backends.backend_agg"])
def test_without_matplotlib(outcome: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    assert reporting.write_report(outcome, tmp_path) == {"report_page": "report.html"}
    text = check_page((tmp_path / "report.html").read_text(encoding="utf-8"), expected=("Dice", "Parts that could not be made"))
    assert text.count("matplotlib could not be loaded") == len(PICTURES)


def test_without_jinja(outcome: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.setattr(report_page, "_pictures", lambda *given: [])
    reporting.write_report(outcome, tmp_path)
    check_page(
        (tmp_path / "report.html").read_text(encoding="utf-8"),
        expected=("raised the mean Dice", "jinja2 could not be loaded", "report.json"),
    )


def test_one_picture_that_fails_is_named_and_the_others_stay(
    outcome: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object) -> None:
        raise RuntimeError("the pen <broke>")

    monkeypatch.setattr(figures, "draw_jacobian", fail)
    for other in ("draw_overlay", "draw_checkerboard", "draw_deformed_grid"):
        monkeypatch.setattr(figures, other, lambda *given: figures.draw_trace([level()], sheet.LIGHT))
    roles = reporting.write_report(outcome, tmp_path)
    assert set(PICTURES) - set(roles) == {"jacobian_picture"}
    check_page(
        (tmp_path / "report.html").read_text(encoding="utf-8"),
        expected=("This picture could not be made: the pen <broke>", "Parts that could not be made: Change of volume."),
    )


def test_images_that_do_not_fit_together_cost_only_the_pictures_of_them(outcome: Outcome, tmp_path: Path) -> None:
    odd = dataclasses.replace(outcome, foreground=outcome.foreground[:20])
    assert set(reporting.write_report(odd, tmp_path)) == {"outlines_picture", "trace_picture", "report_page"}
    check_page((tmp_path / "report.html").read_text(encoding="utf-8"), expected=("This picture could not be made",))


# Words


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [(0.4, 0.6, "raised"), (0.6, 0.4, "lowered"), (0.6, 0.602, "about where it was"), (math.nan, 0.6, "is 0.600")],
)
def test_verdict_on_overlap(outcome: Outcome, before: float, after: float, words: str) -> None:
    changed = with_measured(outcome, dice=DiceMeasure(after, before, (structure(1, "one", after, before),)))
    assert words in wording.verdict(changed.report)
    assert "the one structure" in wording.verdict(changed.report)


def test_verdict_on_landmarks(outcome: Outcome) -> None:
    landmarks = with_measured(outcome, dice=None, tre_mm=Distances(2.0, 3.0, 4.0), tre_before_mm=Distances(7.0, 9.0, 11.0))
    assert wording.verdict(landmarks.report).startswith("Registration took the mean landmark error from 7.00 mm to 2.00 mm;")


def test_attention_is_asked_for_only_with_a_reason(outcome: Outcome) -> None:
    calm = with_measured(with_report(outcome, warnings=()), folding_percent=FoldingPercent(0.0, 0.0))
    assert not wording.needs_attention(calm.report)
    assert "no voxel of the foreground is folded" in wording.verdict(calm.report)
    assert "no warnings" in wording.verdict(calm.report)
    worse = DiceMeasure(0.3, 0.5, (structure(1, "one", 0.3, 0.5),))
    for reason in (
        with_report(calm, warnings=("look",)),
        with_report(calm, alignment=dataclasses.replace(calm.report.alignment, warnings=("look",))),
        with_measured(calm, folding_percent=FoldingPercent(0.001, 0.0)),
        with_measured(calm, folding_percent=FoldingPercent(math.nan, 0.0)),
        with_measured(calm, dice=worse),
        with_measured(calm, tre_mm=Distances(2.0, 2.0, 2.0), tre_before_mm=Distances(1.0, 1.0, 1.0)),
    ):
        assert wording.needs_attention(reason.report)


def test_numbers_in_words() -> None:
    assert wording.percent(0.0) == "0 %"
    assert wording.percent(0.0004) == "under 0.01 %"
    assert wording.percent(1.234) == "1.23 %"
    assert wording.number(-1.0, 1) == "\N{MINUS SIGN}1.0"
    assert wording.number(-0.0, 1) == "0.0"
    assert wording.file_name("C:\\scans\\brain\\") == "brain"
