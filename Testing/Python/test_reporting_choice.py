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
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.search_space import SearchSpace
from HyperPredictRegLib.reporting import prediction_figures, prediction_page, report_page, sheet, wording
from HyperPredictRegLib.reporting.outlook import chances, setting_map
from HyperPredictRegLib.results.exchange import read_prediction
from HyperPredictRegLib.results.job import Criterion
from HyperPredictRegLib.results.outcome import Outcome
from HyperPredictRegLib.results.prediction import Band, Choice, Outlook, Prediction, PredictionSurface, Reliability
from HyperPredictRegLib.results.report import DiceMeasure, Trial
from reporting_samples import (
    NASTY,
    STEP,
    assert_not_blank,
    check_page,
    compared_anew,
    make_bootstrapped,
    make_map,
    make_outcome,
    make_prediction,
    make_surface,
    make_unreliable,
    render,
    structure,
    trial,
    with_choice,
    with_measured,
    with_report,
)

CORRECTED = (trial(0.52, 0.93), trial(0.66, 0.21))
OVER = (trial(0.52, 2.93), trial(0.66, 1.8), trial(4.5, 0.7))
HELPS = "Deforming helps with a chance of"
ALL_FILES = {
    "prediction": "prediction.json", "curves_table": "curves.csv", "curves_picture": "curves.png",
    "structures_picture": "structures.png", "prediction_page": "prediction.html",
}


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return make_outcome()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prediction, Path, dict[str, str]]:
    folder, predicted = tmp_path_factory.mktemp("prediction") / "new", make_prediction()
    return predicted, folder, reporting.write_prediction(predicted, folder)


def at(weight: float) -> dict[str, float]:
    return {"regularization_weight": weight}


def message(sentence: str) -> str:
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


def test_a_prediction_holds_every_part(written: tuple[Prediction, Path, dict[str, str]]) -> None:
    predicted, folder, roles = written
    assert roles == ALL_FILES
    assert sorted(p.name for p in folder.iterdir()) == sorted(roles.values())
    found = read_prediction(folder / "prediction.json")
    assert dataclasses.replace(found, surface=predicted.surface) == predicted
    np.testing.assert_array_equal(found.surface.values, predicted.surface.values)
    for name, band in predicted.surface.bands.items():
        np.testing.assert_array_equal(found.surface.bands[name].upper, band.upper)
    for picture in ("curves.png", "structures.png"):
        assert_not_blank((folder / picture).read_bytes())
    html = (folder / "prediction.html").read_text(encoding="utf-8")
    check_page(
        html,
        expected=(
            "Reliable This pair is like those", predicted.choice.sentence, "the fixed one is λ = 0.7", "brain-t1 1.0", "Demons",
            "the upper end of the 90 % band of folding under 0.5 % of the foreground", "fixed scan.nii.gz", "4711",
            "read 1.2 s, alignment 8.0 s, predict 0.8 s, together 10.0 s", "dice_LABEL_NAME", "λ (regularization weight)",
        ),
        unexpected=("could not be made", "Warnings", "not to be trusted"),
    )
    assert body_of(html).startswith("λ = 0.781 is suggested: predicted are a mean Dice of 0.791 (0.771 to 0.806) and 0.02 % ")


def test_the_table_holds_every_curve(written: tuple[Prediction, Path, dict[str, str]]) -> None:
    predicted, folder, _ = written
    rows = list(csv.DictReader(io.StringIO((folder / "curves.csv").read_text(encoding="utf-8"))))
    surface = predicted.surface
    assert list(rows[0])[:5] == [
        "regularization_weight", "mean_dice", "mean_dice_lower", "mean_dice_upper", "folding_foreground_percent",
    ]
    assert len(rows[0]) == 1 + 3 * (4 + len(surface.structures))

    def column(name: str) -> np.ndarray:
        return np.array([float(row[name]) for row in rows])

    for name, expected in (
        ("regularization_weight", surface.values[:, 0]),
        ("mean_dice_upper", surface.mean_dice.upper),
        ("folding_foreground_percent", surface.folding_foreground.value),
        ("folding_grid_percent_lower", surface.folding_grid.lower),
        ("sd_log_jacobian", surface.sd_log_jacobian.value),
        ("dice_3_Left Thalamus", surface.dice.value[2]),
        ("dice_3_Left Thalamus_lower", surface.dice.lower[2]),
    ):
        assert column(name) == pytest.approx(expected, rel=1e-5)


def test_the_table_of_structures_has_the_largest_gain_first(written: tuple[Prediction, Path, dict[str, str]]) -> None:
    rows = table_of((written[1] / "prediction.html").read_text(encoding="utf-8"), "structures")
    assert len(rows) == 30
    assert rows[0] == ["Left Hippocampus", "1", "λ = 0.669", "0.831 (0.801 to 0.856)", "0.823 (0.793 to 0.848)", "+0.008"]
    gains = [float(row[-1].replace("\N{MINUS SIGN}", "-")) for row in rows]
    assert gains == sorted(gains, reverse=True) and gains[-1] < 0


def test_numbers_that_are_missing_are_empty_cells_and_dashes(tmp_path: Path) -> None:
    surface = make_surface(("one", "two"))
    for part in (surface.dice.value, surface.dice.lower, surface.dice.upper):
        part[1] = math.nan
    first = make_prediction(surface).structures[0]
    broken = dataclasses.replace(first, dice_at_choice=dataclasses.replace(first.dice, upper=math.nan))
    lost = make_prediction(surface, structures=(broken,))
    assert set(reporting.write_prediction(lost, tmp_path)) == set(ALL_FILES)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "curves.csv").read_text(encoding="utf-8"))))
    assert {row["dice_2_two_upper"] for row in rows} == {""}
    check_page((tmp_path / "prediction.html").read_text(encoding="utf-8"), expected=("to –)",))
    json.loads((tmp_path / "prediction.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)


def test_an_unreliable_pair_suggests_nothing_and_says_so_first(tmp_path: Path) -> None:
    reporting.write_prediction(make_unreliable(), tmp_path)
    html = (tmp_path / "prediction.html").read_text(encoding="utf-8")
    assert body_of(html).startswith("No λ is suggested, because what was measured of this pair speaks against it")
    check_page(
        html,
        expected=("start from the fixed λ = 0.7", "Unreliable What was", "less than in 99 %", "not to be trusted for this pair"),
        unexpected=("is suggested:", "Suggested", "choose for itself", "About 90 % of true values lie"),
    )


def test_a_prediction_without_dice_says_the_error_its_gain_and_the_chances(tmp_path: Path) -> None:
    prediction = make_bootstrapped()
    roles = reporting.write_prediction(prediction, tmp_path)
    assert "structures_picture" not in roles
    html = (tmp_path / "prediction.html").read_text(encoding="utf-8")
    error = prediction.choice.predicted.error_mm
    first = message(wording.first_line_of_prediction(prediction))
    assert first.startswith(f"λ = {prediction.choice.setting['regularization_weight']:.3g} is suggested: expected error ")
    assert f"{error.value:.2f} mm ({error.lower:.2f} to {error.upper:.2f})" in first
    assert f"{1.53 - error.value:.2f} mm less than affine only (1.53 mm)" in first and first.endswith("; reliable.")
    check_page(
        html,
        expected=(
            "Deforming helps with a chance of 92 %. The chance that the alignment has failed is 3 %.", "Gain by deforming",
            "from coarse trial registrations of this very pair", "Why reliable?", "no Dice is predicted",
        ),
        unexpected=("Mean Dice", "by the predictor"),
    )
    rows = list(csv.DictReader(io.StringIO((tmp_path / "curves.csv").read_text(encoding="utf-8"))))
    assert "mean_dice" not in rows[0]
    assert float(rows[3]["error_95_mm_upper"]) == pytest.approx(prediction.surface.error_95_mm.upper[3], rel=1e-5)


def test_the_picture_of_errors_shows_what_the_affine_step_leaves() -> None:
    prediction = make_bootstrapped()
    marks = prediction_figures.Marks(chosen=prediction.choice.setting, affine_error_mm=1.53)
    figure = prediction_figures.draw_prediction(prediction.surface, prediction.criterion, marks, sheet.LIGHT)
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert "Expected error, mm" in words and "affine only 1.53 mm" in words and "Mean Dice" not in words
    low, high = figure.axes[0].get_ylim()
    assert low == 0 and high > prediction.surface.error_mm.upper.max()


@pytest.mark.parametrize(
    ("outlook", "words"),
    [
        (None, ""), (Outlook(None, None), ""),
        (Outlook(0.001, 1.0), f"{HELPS} over 99 %. The chance that the alignment has failed is under 1 %."),
        (Outlook(None, 0.5), f"{HELPS} 50 %."),
    ],
)  # fmt: skip
def test_chances_are_said_in_percent(outlook: Outlook | None, words: str) -> None:
    assert chances(outlook) == words


def test_two_parameters_are_shown_as_a_map_of_text_with_limit_and_choice() -> None:
    prediction = make_prediction(make_map(200))
    surface, (title, *rows, across) = prediction.surface, setting_map(prediction)
    assert title.startswith("Mean Dice over λ (across) and") and "! may fold 0.5 % or more" in title
    assert len(rows) == 5 and all(len(row.split()) == 8 for row in rows) and len(across.split()) == 7
    # The lower left corner: the least of both parameters.
    corner = rows[-1].split()
    low = surface.values[:, 0].min(), surface.values[:, 1].min()
    (at,) = np.flatnonzero((surface.values == low).all(axis=1))
    assert corner[1].rstrip("!*") == wording.number(surface.mean_dice.value[at], 3)
    assert corner[1].endswith("!") == bool(surface.folding_foreground.upper[at] >= 0.5)
    assert sum(row.count("*") for row in rows) == 1
    assert setting_map(make_prediction()) == []


def test_unreliable_curves_look_so_and_bear_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(prediction_page, "themed_picture", lambda caption, draw: drawn.append(draw(sheet.LIGHT)))
    for given in (make_unreliable(), make_prediction()):
        prediction_page._pictures(given)
    unreliable, _, reliable, _ = (
        [text.get_text() for holder in (*figure.axes, *figure.legends) for text in holder.texts] for figure in drawn
    )
    assert "predicted, not to be trusted" in unreliable and "fixed λ = 0.7" in unreliable
    assert not any("λ*" in text for text in unreliable)
    assert "predicted" in reliable and "λ* = 0.781" in reliable


def test_without_a_feasible_setting_that_comes_first() -> None:
    surface = make_surface()
    folding = Band(*(np.full(len(surface.values), percent) for percent in (3.0, 1.0, 9.0)))
    hopeless = make_prediction(dataclasses.replace(surface, folding_foreground=folding))
    sentence = message(wording.first_line_of_prediction(hopeless))
    assert sentence.startswith("No λ is predicted to keep folding under 0.5 % of the foreground; λ = 4.5 should fold least:")
    assert "3.00 % (1.00 % to 9.00 %) of the foreground folded" in sentence


@pytest.mark.parametrize("library", ["matplotlib.figure", "jinja2"])
def test_without_a_library_the_numbers_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    if library == "jinja2":
        monkeypatch.setattr(prediction_page, "_pictures", lambda *given: [])
    roles = reporting.write_prediction(make_unreliable(), tmp_path)
    assert roles == {role: name for role, name in ALL_FILES.items() if not role.endswith("_picture")}
    html = (tmp_path / "prediction.html").read_text(encoding="utf-8")
    check_page(html, expected=("correlate less", f"{library.partition('.')[0]} could not be loaded"))
    assert body_of(html).startswith("No λ is suggested")
    assert (tmp_path / "curves.csv").stat().st_size > 1000 and (tmp_path / "prediction.json").stat().st_size > 500


def test_names_are_escaped(outcome: Outcome) -> None:
    surface = make_surface((NASTY + "$x", NASTY + ',"\n'))
    nasty = make_prediction(
        surface, predictor=NASTY, choice=Choice(at(0.7), NASTY + "choice"),
        reliability=Reliability("uncertain", (NASTY + "reason",)), warnings=(NASTY + "warning",), seconds={NASTY: 1.0},
    )
    for html in (prediction_page.render_prediction(nasty, []), prediction_page.plain_prediction(nasty, NASTY)):
        assert "<b>&" not in html
        check_page(html, expected=(NASTY + "reason", NASTY + "warning", NASTY + "choice"))
    header = next(csv.reader(io.StringIO(prediction_page.curves_table(surface))))
    assert header[-3] == f'dice_2_{NASTY},"'
    assert_not_blank(sheet.png(prediction_figures.draw_structures(surface, (), prediction_figures.Marks(), sheet.LIGHT)))
    html = render(with_choice(outcome, CORRECTED, sentence=NASTY, reliability=Reliability("unreliable", (NASTY + "why",))))
    assert "<b>&" not in html
    check_page(html, expected=(NASTY + "why", "Unreliable"))


def test_two_parameters_are_drawn_as_maps(tmp_path: Path) -> None:
    predicted = make_prediction(make_map())
    roles = reporting.write_prediction(predicted, tmp_path)
    assert set(roles) == set(ALL_FILES) - {"structures_picture"}
    assert_not_blank((tmp_path / "curves.png").read_bytes())
    html = (tmp_path / "prediction.html").read_text(encoding="utf-8")
    chosen = message(wording.setting(predicted.surface.space, predicted.choice.setting))
    assert message(body_of(html)).startswith(f"{chosen} is suggested: ") and " mm" in chosen and chosen.startswith("λ = ")
    check_page(html, expected=("Predicted maps", f"Why {chosen}", "λ (regularization weight)", "s (step length)", chosen))
    assert table_of(html, "structures")[0][2].startswith("λ = ")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "curves.csv").read_text(encoding="utf-8"))))
    assert list(rows[0])[:3] == ["regularization_weight", "step", "mean_dice"] and len(rows) == 24 * 24


def test_more_parameters_cost_only_the_pictures(tmp_path: Path, outcome: Outcome) -> None:
    surface = make_map(6)
    third = dataclasses.replace(STEP, name="third", symbol="t")
    space = SearchSpace((*surface.space, third))
    values = np.concatenate([surface.values, surface.values[:, 1:]], axis=1)
    predicted = make_prediction(dataclasses.replace(surface, space=space, values=values))
    roles = reporting.write_prediction(predicted, tmp_path)
    assert set(roles) == {"prediction", "curves_table", "prediction_page"}
    html = (tmp_path / "prediction.html").read_text(encoding="utf-8")
    check_page(html, expected=("a prediction over 3 parameters (λ, s, t), which no picture shows",), unexpected=("could not",))
    assert (tmp_path / "curves.csv").read_text(encoding="utf-8").startswith("regularization_weight,step,third,mean_dice,")
    with pytest.raises(InputError, match="3 parameters"):
        prediction_figures.draw_prediction(predicted.surface, Criterion(), prediction_figures.Marks(), sheet.LIGHT)
    report = dataclasses.replace(
        outcome.report, engine=dataclasses.replace(outcome.report.engine, space=space), choice=predicted.choice,
        setting=predicted.choice.setting,
    )  # fmt: skip
    html = render(dataclasses.replace(outcome, report=report, prediction=predicted))
    expected = ("over 3 parameters, so no picture", "How the setting was chosen")
    check_page(html, expected=expected, unexpected=("Predicted curves",))


# The report


def test_the_first_line_when_the_limit_was_kept(outcome: Outcome) -> None:
    once = compared_anew(with_measured(with_choice(outcome, (trial(0.66, 0.21),)), sd_log_jacobian=0.49))
    assert message(wording.first_line(once.report)) == (
        "The folding limit was kept: 0.21 % of the foreground is folded at λ = 0.66, and at most 0.5 % was allowed; "
        "0.10 % (0.03 % to 0.30 %) was predicted; mean Dice of 2 structures is 0.750, and 0.742 (0.722 to 0.757) was predicted."
    )
    twice = with_choice(outcome, CORRECTED)
    assert message(wording.first_line(twice.report)).endswith(
        "at λ = 0.52, tried first, 0.84 % (0.28 % to 2.51 %) was predicted and 0.93 % measured; "
        "mean Dice of 2 structures is 0.750, and 0.742 (0.722 to 0.757) was predicted."
    )


def test_a_limit_that_could_not_be_kept_is_the_very_first_line(outcome: Outcome) -> None:
    over = with_choice(outcome, OVER, predicted=None)
    for html in (render(over), report_page.plain_report(over.report, "broken")):
        assert body_of(html).startswith(
            "λ could not be chosen so that at most 0.5 % of the foreground is folded: 0.70 % of the foreground is folded at "
            "λ = 4.5, the last of 3 values tried"
        )
    banner = ElementTree.fromstring(render(over)).find(".//div[@id='first-line']")
    assert banner is not None and "attend" in str(banner.get("class"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"limit_met": None, "criterion": Criterion(folding_limit=None)}, "No folding limit was set, and 0.21 % of"),
        ({"predicted": None, "by": "fixed", "reliability": None}, "was allowed; no prediction was made."),
        ({"predicted": None, "by": "fixed", "reliability": Reliability("unreliable")}, "; the prediction was not used, because"),
        ({"criterion": Criterion(domain="grid")}, "The folding limit was kept: 0.08 % of the grid is folded"),
        ({"by": "user", "limit_met": None, "criterion": None}, "λ was given, and 0.21 % of the foreground is folded"),
        ({"by": "user", "limit_met": False, "predicted": None}, "The folding limit was not kept: 0.21 %"),
    ],
)
def test_the_first_line_in_other_states(outcome: Outcome, changes: dict[str, object], expected: str) -> None:
    changed = with_choice(outcome, (trial(0.66, 0.21),), **changes)
    assert expected in wording.first_line(changed.report)
    check_page(render(changed), expected=(message(wording.first_line(changed.report)),))


@pytest.mark.parametrize(
    ("names", "subject", "changed", "here"),
    [
        (("step",), "s", "lowered from s = 3 mm", "s = 1 mm"),
        (("regularization_weight", "step"), "the setting", "changed from λ = 1, s = 3 mm", "λ = 1, s = 1 mm"),
    ],
)
def test_sentences_go_by_the_parameters_of_the_engine(
    outcome: Outcome, names: tuple[str, ...], subject: str, changed: str, here: str
) -> None:
    space = SearchSpace(tuple(make_map(3).space[name] for name in names))
    trials = (map_trial(1.0, 3.0, 2.0), map_trial(1.0, 1.0, 0.2))
    found = with_choice(outcome, trials, by="fixed", predicted=None, reliability=None)
    trials = tuple(dataclasses.replace(one, setting={name: one.setting[name] for name in names}) for one in trials)
    engine = dataclasses.replace(found.report.engine, space=space)
    found = with_report(found, engine=engine, trials=trials, setting=trials[-1].setting)
    first = message(wording.first_line(found.report))
    assert f"is folded at {here}, {changed}, at which too much was folded, and at most 0.5 % was allowed" in first
    over = message(wording.first_line(with_report(found, limit_met=False).report))
    capital = "The setting" if len(names) > 1 else "s"
    assert over.startswith(f"{capital} could not be chosen so that at most 0.5 % of the foreground is folded")
    chosen = f"so the first {subject.removeprefix('the ')} was the fixed one"
    check_page(render(found), expected=(f"How {subject} was chosen", chosen))


def test_a_given_lambda_has_a_first_line_but_no_section(outcome: Outcome) -> None:
    words = "λ = 1.5 was given; 0.25 % of the foreground is folded"
    agreement = "registration raised the mean Dice of 2 structures from 0.450 to 0.750"
    assert message(wording.first_line(outcome.report)) == f"{words}; {agreement}."
    unlabelled = with_measured(outcome, dice=None)
    assert message(wording.first_line(unlabelled.report)) == f"{words}."
    assert "curves_picture" not in report_page.captions(outcome)
    # As the workflow reports it: one registration, and no criterion.
    html = render(with_report(outcome, trials=(trial(1.5, 0.25),)))
    assert message(body_of(html)).startswith(words)
    check_page(html, unexpected=("How λ was chosen", "predicted", "Predicted"))


def test_predicted_and_measured_stand_side_by_side(outcome: Outcome) -> None:
    rows = table_of(render(with_choice(outcome, CORRECTED)), "choice")
    assert [row[0] for row in rows] == ["λ = 0.52", "", "", "λ = 0.66", "", "", ""]
    assert rows[0][1:] == ["Folding of the foreground", "0.84 % (0.28 % to 2.51 %)", "0.93 %", "inside the band"]
    assert rows[3][1:] == ["Mean Dice of 2 structures", "0.742 (0.722 to 0.757)", "0.750", "inside the band"]
    assert rows[4][1:] == ["Folding of the foreground", "0.10 % (0.03 % to 0.30 %)", "0.21 %", "inside the band"]
    assert rows[6][-1] == "below the band"
    hardly = table_of(render(with_choice(outcome, (trial(4.0, 0.0008),))), "choice")
    assert hardly[1][1:] == ["Folding of the foreground", "under 0.01 %", "under 0.01 %", "inside the band"]


def test_dice_is_compared_only_over_structures_that_were_predicted(outcome: Outcome) -> None:
    chosen = with_choice(outcome, (trial(0.66, 0.21),))
    other = DiceMeasure(0.5, 0.4, (structure(1, "shell", 0.9), structure(7, "never predicted", 0.1)))
    html = render(compared_anew(with_measured(chosen, dice=other)))
    assert table_of(html, "choice")[0][1:4] == ["Dice of the one structure (predicted for 2)", "0.832 (0.802 to 0.857)", "0.900"]
    predicted_dice = {row[0]: row[4] for row in table_of(html, "structures")}
    assert predicted_dice["never predicted"] == "–" and predicted_dice["shell"].startswith("0.8")
    nameless = DiceMeasure(0.5, 0.4, (structure(1, "label 1", 0.9), structure(2, "label 2", 0.5)))
    rows = table_of(render(compared_anew(with_measured(chosen, dice=nameless))), "choice")
    assert rows[0][1] == "Mean Dice of 2 structures" and rows[0][3] == "0.700", "labels match where names do not"
    bare = render(compared_anew(with_measured(chosen, dice=None)))
    assert not any("Dice" in row[1] for row in table_of(bare, "choice"))


def test_every_trial_is_listed(outcome: Outcome) -> None:
    assert [row.over for row in wording.trial_rows(with_choice(outcome, CORRECTED).report)] == [True, False]
    unlimited = with_choice(outcome, CORRECTED, criterion=Criterion(folding_limit=None))
    assert {(row.outcome, row.over) for row in wording.trial_rows(unlimited.report)} == {("no limit", False)}
    rows = table_of(render(with_choice(outcome, CORRECTED)), "choice", 1)
    assert rows == [
        ["1", "λ = 0.52", "0.93 %", "0.37 %", "0.310", "over the limit", "41.5"],
        ["2", "λ = 0.66 (the result)", "0.21 %", "0.08 %", "0.310", "kept", "41.5"],
    ]


def test_a_corrected_lambda_beyond_the_curves_is_not_compared(outcome: Outcome) -> None:
    far = with_choice(outcome, (trial(0.52, 0.93), trial(9.0, 0.0)))
    assert [row[0] for row in table_of(render(far), "choice")] == ["λ = 0.52", "", ""]


def test_the_report_shows_the_curves_with_the_trials(outcome: Outcome, tmp_path: Path) -> None:
    roles = reporting.write_report(with_choice(outcome, CORRECTED), tmp_path)
    assert roles["curves_picture"] == "curves.png"
    assert_not_blank((tmp_path / "curves.png").read_bytes())
    check_page(
        (tmp_path / "report.html").read_text(encoding="utf-8"),
        expected=("How λ was chosen", "The predictor brain-t1 1.0 chose λ", "Uncertain", "Predicted curves", "Every setting"),
        unexpected=("could not be made",),
    )


def test_folding_within_the_limit_calls_for_no_attention(outcome: Outcome) -> None:
    calm = with_report(with_choice(outcome, (trial(0.66, 0.21),)), warnings=())
    assert not wording.needs_attention(calm.report)
    assert wording.needs_attention(with_report(calm, limit_met=False).report)


def test_what_could_not_be_measured_is_a_dash(outcome: Outcome) -> None:
    lost = with_choice(outcome, (trial(0.52, math.nan), trial(0.66, math.nan)))
    html = render(lost)
    check_page(html, expected=("– of the foreground is folded",))
    assert table_of(html, "choice")[0][3:] == ["–", "–"]
    marks = prediction_figures.Marks(trials=lost.report.trials, measured_dice=math.nan)
    assert_not_blank(sheet.png(prediction_figures.draw_curves(make_surface(), Criterion(), marks, sheet.LIGHT)))


# The pictures of a prediction


def test_zero_folding_has_a_place_of_its_own(outcome: Outcome) -> None:
    surface = make_surface()
    trials = (trial(0.52, 0.93), trial(2.0, 0.0))
    figure = prediction_figures.draw_curves(surface, Criterion(), prediction_figures.Marks(trials=trials), sheet.LIGHT)
    axes = figure.axes[1]
    assert "0 %" in [label.get_text() for label in axes.get_yticklabels()]
    assert axes.get_ylim()[0] < 0 < axes.get_ylim()[1]
    to_screen = axes.transData.transform
    assert to_screen((1.0, 0.0))[1] < to_screen((1.0, 0.0005))[1] < to_screen((1.0, 0.01))[1] - 5
    labels = [text.get_text() for text in axes.texts]
    assert "1: 0.93 %" in labels and "2, the result: 0 %" in labels and "limit 0.5 %" in labels


def test_shaded_is_where_the_upper_band_reaches_the_limit() -> None:
    surface = make_surface()
    figure = prediction_figures.draw_curves(surface, Criterion(), prediction_figures.Marks(), sheet.LIGHT)
    shade = figure.axes[0].collections[0].get_paths()[0].vertices[:, 0]
    upper, weight = surface.folding_foreground.upper, surface.values[:, 0]
    last_over = np.flatnonzero(upper >= 0.5)[-1]
    assert weight[last_over] <= shade.max() <= weight[last_over + 1]
    assert shade.min() == pytest.approx(0.4)
    free = prediction_figures.draw_curves(surface, Criterion(folding_limit=None), prediction_figures.Marks(), sheet.LIGHT)
    assert len(free.axes[0].collections) == 1
    assert not any("limit" in text.get_text() for text in free.axes[1].texts)


@pytest.mark.parametrize("fixed", [0.66, 0.661, 0.7, 3.0])
def test_labels_of_settings_do_not_overlap(fixed: float) -> None:
    marks = prediction_figures.Marks(chosen=at(0.66), fixed=at(fixed))
    axes = prediction_figures.draw_curves(make_surface(), Criterion(), marks, sheet.LIGHT).axes[0]
    renderer = axes.figure.canvas.get_renderer()
    found = {text.get_text()[:2]: text.get_window_extent(renderer) for text in axes.texts}
    assert found["λ*"].x1 < found["fi"].x0 or found["fi"].x1 < found["λ*"].x0


def test_long_names_leave_room_for_the_figure() -> None:
    prediction, surface = make_prediction(), make_surface()
    figure = prediction_figures.draw_structures(surface, prediction.structures, prediction_figures.Marks(at(0.7)), sheet.DARK)
    assert len(figure.axes) == 30
    renderer = figure.canvas.get_renderer()
    for axes in figure.axes:
        name, own = (text.get_window_extent(renderer) for text in axes.texts)
        assert name.x1 < own.x0 and own.x1 <= axes.get_window_extent(renderer).x1 + 1
        assert axes.get_ylim()[1] <= 1.0
    spans = [np.ptp(axes.get_ylim()) for axes in figure.axes]
    assert spans == pytest.approx([spans[0]] * 30)


@pytest.mark.parametrize("regularizes", ["up", "down"])
def test_axes_go_by_the_parameters_own_scale(regularizes: str) -> None:
    step = dataclasses.replace(STEP, regularizes=regularizes)
    values = np.linspace(step.low, step.high, 48)[:, None]
    surface = dataclasses.replace(make_surface(), space=SearchSpace((step,)), values=values)
    marks = prediction_figures.Marks(chosen={"step": -1.0}, fixed={"step": 5.0})
    axes = prediction_figures.draw_curves(surface, Criterion(), marks, sheet.LIGHT).axes[0]
    assert axes.get_xscale() == "linear" and axes.get_xlim() == (-2.0, 6.0)
    assert axes.get_xlabel() == f"s, mm ({'larger' if regularizes == 'up' else 'smaller'} deforms less)"
    assert [text.get_text() for text in axes.texts][:2] == ["s* = -1 mm", "fixed s = 5 mm"]
    assert {label.get_text() for label in axes.get_xticklabels()} >= {"-2", "0", "2", "4", "6"}
    small = prediction_figures.draw_structures(surface, (), marks, sheet.LIGHT).axes[0]
    assert small.get_xscale() == "linear"


def test_the_limit_of_a_map_lies_where_the_upper_band_reaches_it() -> None:
    surface = make_map()
    trials = (map_trial(0.6, 3.0, 0.93), map_trial(1.2, 1.0, 0.21))
    marks = prediction_figures.Marks({"regularization_weight": 1.0, "step": 2.0}, surface.space.defaults, trials)
    figure = prediction_figures.draw_maps(surface, Criterion(), marks, sheet.LIGHT)
    axes = figure.axes[0]
    line = np.concatenate([path.vertices for path in axes.collections[-1].get_paths()])
    settings = surface.space.from_unit(line)
    found = predict_upper(surface, settings)
    assert len(line) > 20 and np.all(np.abs(np.log(found / 0.5)) < 0.6), "one step of the grid is a factor of 1.8"
    assert [text.get_text() for text in axes.texts] == ["1: 0.93 %", "2, the result: 0.21 %", "Mean Dice"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:2] == ["λ* = 1, s* = 2 mm", "fixed λ = 0.7, s = 1 mm"]
    star = next(drawn for drawn in axes.lines if drawn.get_marker() == "*")
    assert star.get_xydata()[0] == pytest.approx(surface.space.to_unit(np.array([[1.0, 2.0]]))[0])
    assert axes.get_ylabel() == "s, mm (smaller deforms less)"
    free = prediction_figures.draw_maps(surface, Criterion(folding_limit=None), prediction_figures.Marks(), sheet.LIGHT)
    assert len(free.axes[0].collections) == 1


def map_trial(weight: float, step: float, folding: float) -> Trial:
    return dataclasses.replace(trial(weight, folding), setting={"regularization_weight": weight, "step": step})


def predict_upper(surface: PredictionSurface, settings: np.ndarray) -> np.ndarray:
    places, asked = surface.space.to_unit(surface.values), surface.space.to_unit(settings)
    nearest = [np.argmin(np.abs(places - place).sum(axis=1)) for place in asked]
    return surface.folding_foreground.upper[nearest]
