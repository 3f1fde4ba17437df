"""What a report and a prediction say about how λ was chosen: first lines, tables, curves, and what is missing."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from HyperPredictRegLib import reporting
from HyperPredictRegLib.curves import Band
from HyperPredictRegLib.job import Criterion, DiceMeasure, Verdict
from HyperPredictRegLib.outcome import Outcome
from HyperPredictRegLib.prediction import Foresight, Prediction
from HyperPredictRegLib.records import from_json
from HyperPredictRegLib.reporting import captions, choice_wording, curve_figures, foresight, page, prediction_page, sheet, wording
from reporting_samples import (
    LAMBDA,
    NASTY,
    assert_not_blank,
    check_page,
    compared_anew,
    make_curves,
    make_foresight,
    make_outcome,
    make_red,
    render,
    structure,
    trial,
    with_choice,
    with_measured,
    with_report,
)

KEPT = (trial(0.52, 0.93), trial(0.66, 0.21))
OVER = (trial(0.52, 2.93), trial(0.66, 1.8), trial(4.5, 0.7))
ALL_FILES = {
    "prediction": "prediction.json", "curves_table": "curves.csv", "curves_picture": "curves.png",
    "structures_picture": "structures.png", "prediction_page": "prediction.html",
}


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return make_outcome()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Foresight, Path, dict[str, str]]:
    folder, foreseen = tmp_path_factory.mktemp("prediction") / "new", make_foresight()
    return foreseen, folder, reporting.write_prediction(foreseen, folder, (LAMBDA,))


def said(sentence: str) -> str:
    return sentence.replace("\N{NO-BREAK SPACE}", " ")


def body_of(html: str) -> str:
    body = ElementTree.fromstring(html).find("body")
    assert body is not None
    return " ".join(" ".join(body.itertext()).split())


def table_of(html: str, section: str, number: int = 0) -> list[list[str]]:
    found = ElementTree.fromstring(html).find(f".//section[@id='{section}']")
    assert found is not None
    table = list(found.iter("table"))[number]
    return [[" ".join("".join(cell.itertext()).split()) for cell in row.iter("td")] for row in table.iter("tr")][1:]


# The files of a prediction


def test_a_prediction_holds_every_part(written: tuple[Foresight, Path, dict[str, str]]) -> None:
    foreseen, folder, roles = written
    assert roles == ALL_FILES
    assert sorted(p.name for p in folder.iterdir()) == sorted(roles.values())
    assert from_json(Prediction, (folder / "prediction.json").read_text(encoding="utf-8"), "it") == foreseen.prediction
    for picture in ("curves.png", "structures.png"):
        assert_not_blank((folder / picture).read_bytes())
    html = (folder / "prediction.html").read_text(encoding="utf-8")
    check_page(
        html,
        wanted=(
            "Green This pair is like those", foreseen.prediction.choice, "the fixed one is λ = 0.7", "brain-t1 1.0", "demons",
            "the upper end of the 90 % band of folding under 0.5 % of the foreground", "fixed scan.nii.gz", "4711",
            "read 1.2 s, alignment 8.0 s, predict 0.8 s, together 10.0 s", "dice_LABEL_NAME", "λ (regularization weight)",
        ),
        unwanted=("could not be made", "Warnings", "not to be trusted"),
    )
    assert body_of(html).startswith("λ = 0.781 is suggested: foreseen are a mean Dice of 0.791 (0.771 to 0.806) and 0.02 % ")


def test_the_table_holds_every_curve(written: tuple[Foresight, Path, dict[str, str]]) -> None:
    foreseen, folder, _ = written
    rows = list(csv.DictReader(io.StringIO((folder / "curves.csv").read_text(encoding="utf-8"))))
    curves = foreseen.curves
    assert list(rows[0])[:5] == [
        "regularization_weight", "mean_dice", "mean_dice_lower", "mean_dice_upper", "folding_foreground_percent",
    ]
    assert len(rows[0]) == 1 + 3 * (4 + len(curves.structures))

    def column(name: str) -> np.ndarray:
        return np.array([float(row[name]) for row in rows])

    for name, expected in (
        ("regularization_weight", curves.values[:, 0]),
        ("mean_dice_upper", curves.mean_dice.upper),
        ("folding_foreground_percent", curves.folding_foreground.value),
        ("folding_box_percent_lower", curves.folding_box.lower),
        ("sd_log_jacobian", curves.sd_log_jacobian.value),
        ("dice_3_Left Thalamus", curves.dice.value[2]),
        ("dice_3_Left Thalamus_lower", curves.dice.lower[2]),
    ):
        assert column(name) == pytest.approx(expected, rel=1e-5)


def test_the_table_of_structures_has_the_largest_gain_first(written: tuple[Foresight, Path, dict[str, str]]) -> None:
    rows = table_of((written[1] / "prediction.html").read_text(encoding="utf-8"), "structures")
    assert len(rows) == 30
    assert rows[0] == ["Left Hippocampus", "1", "λ = 0.669", "0.831 (0.801 to 0.856)", "0.823 (0.793 to 0.848)", "+0.008"]
    gains = [float(row[-1].replace("\N{MINUS SIGN}", "-")) for row in rows]
    assert gains == sorted(gains, reverse=True) and gains[-1] < 0


def test_numbers_that_are_missing_are_empty_cells_and_dashes(tmp_path: Path) -> None:
    curves = make_curves(("one", "two"))
    for part in (curves.dice.value, curves.dice.lower, curves.dice.upper):
        part[1] = math.nan
    first = make_foresight(curves).prediction.structures[0]
    broken = dataclasses.replace(first, dice_at_choice=dataclasses.replace(first.dice, upper=math.nan))
    lost = make_foresight(curves, structures=(broken,))
    assert set(reporting.write_prediction(lost, tmp_path)) == set(ALL_FILES)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "curves.csv").read_text(encoding="utf-8"))))
    assert {row["dice_2_two_upper"] for row in rows} == {""}
    check_page((tmp_path / "prediction.html").read_text(encoding="utf-8"), wanted=("to –)",))
    json.loads((tmp_path / "prediction.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)


def test_a_red_light_suggests_nothing_and_says_so_first(tmp_path: Path) -> None:
    reporting.write_prediction(make_red(), tmp_path)
    html = (tmp_path / "prediction.html").read_text(encoding="utf-8")
    assert body_of(html).startswith("No λ is suggested, because this pair is unlike")
    check_page(
        html,
        wanted=("start from the fixed λ = 0.7", "Red This pair", "less than in 99 %", "not to be trusted for this pair"),
        unwanted=("is suggested:", "Suggested", "choose for itself", "About 90 % of true values lie"),
    )


def test_red_curves_look_untrustworthy_and_bear_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(foresight, "made_picture", lambda caption, draw, draw_dark: drawn.append(draw()))
    for given in (make_red(), make_foresight()):
        foresight._pictures(given, (LAMBDA,))
    red, _, green, _ = (
        [text.get_text() for holder in (*figure.axes, *figure.legends) for text in holder.texts] for figure in drawn
    )
    assert "foreseen, not to be trusted" in red and "fixed λ = 0.7" in red and not any("λ*" in text for text in red)
    assert "foreseen" in green and "λ* = 0.781" in green


def test_without_a_feasible_setting_that_comes_first() -> None:
    curves = make_curves()
    folds = Band(*(np.full(len(curves.values), percent) for percent in (3.0, 1.0, 9.0)))
    hopeless = make_foresight(dataclasses.replace(curves, folding_foreground=folds)).prediction
    sentence = said(choice_wording.first_line_of_prediction(hopeless))
    assert sentence.startswith("No λ is foreseen to keep folding under 0.5 % of the foreground; λ = 4.5 should fold least:")
    assert "3.00 % (1.00 % to 9.00 %) of the foreground folded" in sentence


@pytest.mark.parametrize("library", ["matplotlib.figure", "jinja2"])
def test_without_a_library_the_numbers_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    if library == "jinja2":
        monkeypatch.setattr(foresight, "_pictures", lambda *given: [])
    roles = reporting.write_prediction(make_red(), tmp_path)
    assert roles == {role: name for role, name in ALL_FILES.items() if not role.endswith("_picture")}
    html = (tmp_path / "prediction.html").read_text(encoding="utf-8")
    check_page(html, wanted=("correlate less", f"{library.partition('.')[0]} could not be loaded"))
    assert body_of(html).startswith("No λ is suggested")
    assert (tmp_path / "curves.csv").stat().st_size > 1000 and (tmp_path / "prediction.json").stat().st_size > 500


def test_names_are_escaped(outcome: Outcome) -> None:
    curves = make_curves((NASTY + "$x", NASTY + ',"\n'))
    nasty = make_foresight(
        curves, predictor=NASTY, verdict=Verdict("amber", (NASTY + "reason",)), warnings=(NASTY + "warning",),
        choice=NASTY + "choice", seconds={NASTY: 1.0},
    )
    for html in (prediction_page.render_page(nasty, [], ()), prediction_page.plain_page(nasty.prediction, NASTY)):
        assert "<b>&" not in html
        check_page(html, wanted=(NASTY + "reason", NASTY + "warning", NASTY + "choice"))
    header = next(csv.reader(io.StringIO(foresight.curves_table(curves))))
    assert header[-3] == f'dice_2_{NASTY},"'
    assert_not_blank(sheet.png(curve_figures.draw_structures(curves, (), curve_figures.Marks(), sheet.LIGHT)))
    html = render(with_choice(outcome, KEPT, choice=NASTY, verdict=Verdict(NASTY, (NASTY + "why",))))
    assert "<b>&" not in html
    check_page(html, wanted=(NASTY + "why", "Red"))


def test_several_hyperparameters_cost_only_the_pictures(tmp_path: Path) -> None:
    curves = make_curves(("one", "two"))
    both = dataclasses.replace(
        curves, names=("regularization_weight", "other"), values=np.repeat(curves.values, 2, axis=1)
    )
    first = make_foresight(curves).prediction
    setting = {"regularization_weight": 0.7, "other": 2.0}
    roles = reporting.write_prediction(Foresight(dataclasses.replace(first, hyperparameters=setting), both), tmp_path)
    assert set(roles) == {"prediction", "curves_table", "prediction_page"}
    check_page((tmp_path / "prediction.html").read_text(encoding="utf-8"), wanted=("λ = 0.7, other = 2 is suggested", "as lines"))
    assert (tmp_path / "curves.csv").read_text(encoding="utf-8").startswith("regularization_weight,other,mean_dice,")


# The report


def test_the_first_line_when_the_limit_was_kept(outcome: Outcome) -> None:
    once = compared_anew(with_measured(with_choice(outcome, (trial(0.66, 0.21),)), sd_log_jacobian=0.49))
    assert said(choice_wording.first_line(once.report)) == (
        "The folding limit was kept: 0.21 % of the foreground is folded at λ = 0.66, and at most 0.5 % was allowed; "
        "0.10 % (0.03 % to 0.30 %) was foreseen; mean Dice of 2 structures is 0.750, and 0.742 (0.722 to 0.757) was foreseen."
    )
    twice = with_choice(outcome, KEPT)
    assert said(choice_wording.first_line(twice.report)).endswith(
        "at λ = 0.52, tried first, 0.84 % (0.28 % to 2.51 %) was foreseen and 0.93 % measured; "
        "mean Dice of 2 structures is 0.750, and 0.742 (0.722 to 0.757) was foreseen."
    )


def test_a_limit_that_could_not_be_kept_is_the_very_first_line(outcome: Outcome) -> None:
    over = with_choice(outcome, OVER, predicted=None)
    for html in (render(over), page.plain_page(over.report, "broken")):
        assert body_of(html).startswith(
            "λ could not be chosen so that at most 0.5 % of the foreground is folded: 0.70 % of the foreground is folded at "
            "λ = 4.5, the last of 3 values tried"
        )
    banner = ElementTree.fromstring(render(over)).find(".//div[@id='first-line']")
    assert banner is not None and "attend" in str(banner.get("class"))


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"limit_kept": None, "criterion": Criterion(folding_limit=None)}, "No folding limit was set, and 0.21 % of"),
        ({"predicted": None, "chosen_by": "fixed", "verdict": None}, "was allowed; no prediction was made."),
        ({"predicted": None, "chosen_by": "fixed", "verdict": Verdict("red")}, "; the prediction was not used, because"),
        ({"criterion": Criterion(domain="box")}, "The folding limit was kept: 0.08 % of the box is folded"),
        ({"chosen_by": "user", "limit_kept": None, "criterion": None}, "λ was given, and 0.21 % of the foreground is folded"),
        ({"chosen_by": "user", "limit_kept": False, "predicted": None}, "The folding limit was not kept: 0.21 %"),
    ],
)
def test_the_first_line_in_other_states(outcome: Outcome, changes: dict[str, object], wanted: str) -> None:
    changed = with_choice(outcome, (trial(0.66, 0.21),), **changes)
    assert wanted in choice_wording.first_line(changed.report)
    check_page(render(changed), wanted=(said(choice_wording.first_line(changed.report)),))


def test_a_given_lambda_has_a_first_line_but_no_section(outcome: Outcome) -> None:
    words = "λ = 1.5 was given; 0.25 % of the foreground is folded"
    agreement = "registration raised the mean Dice of 2 structures from 0.450 to 0.750"
    assert said(choice_wording.first_line(outcome.report)) == f"{words}; {agreement}."
    unlabelled = with_measured(outcome, dice=None)
    assert said(choice_wording.first_line(unlabelled.report)) == f"{words}."
    assert "curves_picture" not in captions.captions(outcome)
    # As the workflow reports it: one registration, and no criterion.
    html = render(with_report(outcome, choice="λ was given.", trials=(trial(1.5, 0.25),)))
    assert said(body_of(html)).startswith(words)
    check_page(html, unwanted=("How λ was chosen", "foreseen", "Foreseen"))


def test_foreseen_and_measured_stand_side_by_side(outcome: Outcome) -> None:
    rows = table_of(render_with_curves(with_choice(outcome, KEPT)), "choice")
    assert [row[0] for row in rows] == ["λ = 0.52", "", "", "λ = 0.66", "", "", ""]
    assert rows[0][1:] == ["Folding of the foreground", "0.84 % (0.28 % to 2.51 %)", "0.93 %", "inside the band"]
    assert rows[3][1:] == ["Mean Dice of 2 structures", "0.742 (0.722 to 0.757)", "0.750", "inside the band"]
    assert rows[4][1:] == ["Folding of the foreground", "0.10 % (0.03 % to 0.30 %)", "0.21 %", "inside the band"]
    assert rows[6][-1] == "below the band"
    hardly = table_of(render_with_curves(with_choice(outcome, (trial(4.0, 0.0008),))), "choice")
    assert hardly[1][1:] == ["Folding of the foreground", "under 0.01 %", "under 0.01 %", "inside the band"]


def test_dice_is_compared_only_over_structures_that_were_foreseen(outcome: Outcome) -> None:
    chosen = with_choice(outcome, (trial(0.66, 0.21),))
    other = DiceMeasure(0.5, 0.4, (structure(1, "shell", 0.9), structure(7, "never foreseen", 0.1)))
    html = render_with_curves(compared_anew(with_measured(chosen, dice=other)))
    assert table_of(html, "choice")[0][1:4] == ["Dice of the one structure (foreseen for 2)", "0.832 (0.802 to 0.857)", "0.900"]
    foreseen_dice = {row[0]: row[4] for row in table_of(html, "structures")}
    assert foreseen_dice["never foreseen"] == "–" and foreseen_dice["shell"].startswith("0.8")
    nameless = DiceMeasure(0.5, 0.4, (structure(1, "label 1", 0.9), structure(2, "label 2", 0.5)))
    rows = table_of(render_with_curves(compared_anew(with_measured(chosen, dice=nameless))), "choice")
    assert rows[0][1] == "Mean Dice of 2 structures" and rows[0][3] == "0.700", "labels match where names do not"
    bare = render_with_curves(compared_anew(with_measured(chosen, dice=None)))
    assert not any("Dice" in row[1] for row in table_of(bare, "choice"))


def test_every_trial_is_listed(outcome: Outcome) -> None:
    assert [row.over for row in choice_wording.trial_rows(with_choice(outcome, KEPT).report)] == [True, False]
    unlimited = with_choice(outcome, KEPT, criterion=Criterion(folding_limit=None))
    assert {(row.outcome, row.over) for row in choice_wording.trial_rows(unlimited.report)} == {("no limit", False)}
    rows = table_of(render_with_curves(with_choice(outcome, KEPT)), "choice", 1)
    assert rows == [
        ["1", "λ = 0.52", "0.93 %", "0.37 %", "0.310", "over the limit", "41.5"],
        ["2", "λ = 0.66 (the result)", "0.21 %", "0.08 %", "0.310", "kept", "41.5"],
    ]


def test_a_corrected_lambda_beyond_the_curves_is_not_compared(outcome: Outcome) -> None:
    far = with_choice(outcome, (trial(0.52, 0.93), trial(9.0, 0.0)))
    assert [row[0] for row in table_of(render_with_curves(far), "choice")] == ["λ = 0.52", "", ""]


def test_the_report_shows_the_curves_with_the_trials(outcome: Outcome, tmp_path: Path) -> None:
    roles = reporting.write_report(with_choice(outcome, KEPT), tmp_path, (LAMBDA,))
    assert roles["curves_picture"] == "curves.png"
    assert_not_blank((tmp_path / "curves.png").read_bytes())
    check_page(
        (tmp_path / "report.html").read_text(encoding="utf-8"),
        wanted=("How λ was chosen", "The predictor brain-t1 1.0 chose λ", "Amber", "Foreseen curves", "Every setting"),
        unwanted=("could not be made",),
    )


def test_folds_within_the_limit_call_for_no_attention(outcome: Outcome) -> None:
    calm = with_report(with_choice(outcome, (trial(0.66, 0.21),)), warnings=())
    assert not wording.needs_attention(calm.report)
    assert wording.needs_attention(with_report(calm, limit_kept=False).report)


def test_what_could_not_be_measured_is_a_dash(outcome: Outcome) -> None:
    lost = with_choice(outcome, (trial(0.52, math.nan), trial(0.66, math.nan)))
    html = render_with_curves(lost)
    check_page(html, wanted=("– of the foreground is folded",))
    assert table_of(html, "choice")[0][3:] == ["–", "–"]
    marks = curve_figures.Marks(trials=lost.report.trials, measured_dice=math.nan)
    assert_not_blank(sheet.png(curve_figures.draw_curves(make_curves(), Criterion(), marks, sheet.LIGHT)))


# The curves


def test_zero_folding_has_a_place_of_its_own(outcome: Outcome) -> None:
    curves = make_curves()
    trials = (trial(0.52, 0.93), trial(2.0, 0.0))
    figure = curve_figures.draw_curves(curves, Criterion(), curve_figures.Marks(trials=trials), sheet.LIGHT)
    axes = figure.axes[1]
    assert "0 %" in [label.get_text() for label in axes.get_yticklabels()]
    assert axes.get_ylim()[0] < 0 < axes.get_ylim()[1]
    to_screen = axes.transData.transform
    assert to_screen((1.0, 0.0))[1] < to_screen((1.0, 0.0005))[1] < to_screen((1.0, 0.01))[1] - 5
    labels = [text.get_text() for text in axes.texts]
    assert "1: 0.93 %" in labels and "2, the result: 0 %" in labels and "limit 0.5 %" in labels


def test_shaded_is_where_the_upper_band_reaches_the_limit() -> None:
    curves = make_curves()
    figure = curve_figures.draw_curves(curves, Criterion(), curve_figures.Marks(), sheet.LIGHT)
    shade = figure.axes[0].collections[0].get_paths()[0].vertices[:, 0]
    upper, weight = curves.folding_foreground.upper, curves.values[:, 0]
    last_over = np.flatnonzero(upper >= 0.5)[-1]
    assert weight[last_over] <= shade.max() <= weight[last_over + 1]
    assert shade.min() == pytest.approx(0.4)
    free = curve_figures.draw_curves(curves, Criterion(folding_limit=None), curve_figures.Marks(), sheet.LIGHT)
    assert len(free.axes[0].collections) == 1
    assert not any("limit" in text.get_text() for text in free.axes[1].texts)


@pytest.mark.parametrize("fixed", [0.66, 0.661, 0.7, 3.0])
def test_labels_of_settings_do_not_overlap(fixed: float) -> None:
    marks = curve_figures.Marks(chosen=0.66, fixed=fixed, hyperparameter=LAMBDA)
    axes = curve_figures.draw_curves(make_curves(), Criterion(), marks, sheet.LIGHT).axes[0]
    renderer = axes.figure.canvas.get_renderer()
    found = {text.get_text()[:2]: text.get_window_extent(renderer) for text in axes.texts}
    assert found["λ*"].x1 < found["fi"].x0 or found["fi"].x1 < found["λ*"].x0


def test_long_names_leave_room_for_the_figure() -> None:
    prediction, curves = make_foresight().prediction, make_curves()
    figure = curve_figures.draw_structures(curves, prediction.structures, curve_figures.Marks(0.7), sheet.DARK)
    assert len(figure.axes) == 30
    renderer = figure.canvas.get_renderer()
    for axes in figure.axes:
        name, own = (text.get_window_extent(renderer) for text in axes.texts)
        assert name.x1 < own.x0 and own.x1 <= axes.get_window_extent(renderer).x1 + 1
        assert axes.get_ylim()[1] <= 1.0
    spans = [np.ptp(axes.get_ylim()) for axes in figure.axes]
    assert spans == pytest.approx([spans[0]] * 30)


def render_with_curves(outcome: Outcome) -> str:
    pictures = tuple(page.Picture(c, problem="left out in this test") for c in captions.captions(outcome).values())
    return page.render_page(outcome.report, pictures, ())
