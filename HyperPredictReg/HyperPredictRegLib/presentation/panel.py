"""The panel as values: what a user has chosen and what is predicted go in, all that is shown of it comes out."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass, field, replace

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.formatting import capitalized
from HyperPredictRegLib.core.search_space import Parameter, SearchSpace, Setting
from HyperPredictRegLib.presentation import choices
from HyperPredictRegLib.presentation.map_picture import over_limit_words
from HyperPredictRegLib.presentation.preview import PreviewView, preview_view
from HyperPredictRegLib.presentation.result import BAD, DOUBTFUL, GOOD, mark
from HyperPredictRegLib.reporting.outlook import chances, expectation_parts
from HyperPredictRegLib.reporting.wording import is_unreliable, reliability_meaning, setting
from HyperPredictRegLib.results.formatting import banded_percent, quality_words
from HyperPredictRegLib.results.job import Criterion, check_landmarks
from HyperPredictRegLib.results.prediction import Choice, Prediction, PredictionSurface
from HyperPredictRegLib.selection import choose, interpolated
from HyperPredictRegLib.selection.interpolation import band_value, beside
from HyperPredictRegLib.spatial.geometry import Geometry

_COLORS = {"reliable": GOOD, "uncertain": DOUBTFUL, "unreliable": BAD}
_MOST_DECIMALS = 6

STALE = {
    "volumes": "The last prediction was for other volumes.",
    "inputs": "The last prediction was made with another mask, segmentation, channel, start or landmarks.",
    "places": "The volumes have moved since the last prediction.",
    "method": "The last prediction was for another registration method, resolution preset or seed.",
}
"""By what has changed: why the last prediction does not count."""


@dataclass(frozen=True)
class PanelState:
    """What a user has chosen, and what is there.

    Attributes
    ----------
    engine, preset : names.
    criterion : with every structure that the user has ticked.
    setting : values of the engine's parameters as they stand; may lack some.
    setting_of : the engine that they are of.
    manual : register with the setting as it is.
    prediction : the last one, or None.
    stale : why that does not count, a key of `STALE` or a sentence; "" if it counts.
    segments : names of the segments of the moving segmentation.
    curve : name of the structure whose curves are shown; "" is all of them together.
    grid : of the fixed volume, or None.
    rate : seconds for each million voxels as measured on this computer, or None.
    missing : what has to be chosen before anything can run, as a sentence; "" if nothing is missing.
    several : whether a further channel is chosen.
    running : kind of the task that runs ("predict", "register", "page"), or "".
    registered : whether a result is shown.
    """

    engine: str
    preset: str
    criterion: Criterion = field(default_factory=Criterion)
    setting: Setting = field(default_factory=dict)
    setting_of: str = ""
    manual: bool = False
    prediction: Prediction | None = None
    stale: str = ""
    segments: tuple[str, ...] = ()
    curve: str = ""
    grid: Geometry | None = None
    rate: float | None = None
    missing: str = ""
    several: bool = False
    running: str = ""
    registered: bool = False


@dataclass(frozen=True)
class ParameterView:
    """How one parameter is shown; `share` is where it stands in its range, from 0 to 1, on its own scale."""

    name: str
    symbol: str
    label: str
    suffix: str
    tooltip: str
    low: float
    high: float
    value: float
    share: float
    decimals: int
    step: float


@dataclass(frozen=True)
class StructureRow:
    """One row of the table of structures."""

    name: str
    ticked: bool
    weight: str
    dice: str


@dataclass(frozen=True)
class ButtonView:
    """One button; where it is not enabled, the tooltip says why."""

    text: str
    tooltip: str
    enabled: bool


@dataclass(frozen=True)
class PanelView:
    """What is shown. Texts that are "" are hidden; `reliability` and `reasons` are rich text, the others plain.

    Attributes
    ----------
    state : what it is a view of.
    space : what the setting can be chosen from for this pair, as far as that is known.
    unpredicted : the setting that a registration without a prediction begins with.
    prediction : the one that counts, with the criterion and choice of now, or None: what charts show.
    criterion : the state's, without structures that this pair does not have.
    suggested : λ* by the criterion, or None.
    setting, manual : what the parameters are to say.
    legend : kinds of marks in the charts ("chosen", "fixed", "yours") and of what is hatched in a map ("over"), with what they
        mean.
    curves : entries of the list of structures whose curves can be shown, after that of all together.
    preview : whether the live preview can be switched on.
    devices : that the engine computes on; there is a choice where they are several.
    """

    state: PanelState
    space: SearchSpace
    unpredicted: Setting
    prediction: Prediction | None
    criterion: Criterion
    suggested: Choice | None
    setting: Setting
    manual: bool
    parameters: tuple[ParameterView, ...]
    rows: tuple[StructureRow, ...]
    curves: tuple[str, ...]
    reliability: str
    reasons: str
    read_out: str
    legend: tuple[tuple[str, str], ...]
    hint: str
    expected: str
    register: ButtonView
    suggest: ButtonView
    page: ButtonView
    preview: PreviewView
    devices: tuple[str, ...] = ("cpu",)

    @property
    def symbol(self) -> str:
        """Return the symbol of the parameter that the slider moves."""
        return self.space.first.symbol

    @property
    def as_map(self) -> bool:
        """Tell whether maps are shown, and not charts: of a prediction over two parameters."""
        return self.prediction is not None and len(self.prediction.surface.space) == 2


def missing_inputs(fixed: object | None, moving: object | None) -> str:
    """Say which volumes have to be chosen before anything can run, or "" if none is missing."""
    if fixed is None and moving is None:
        return "Select a fixed and a moving volume first."
    if fixed is None or moving is None:
        return f"Select a {'fixed' if fixed is None else 'moving'} volume first."
    return "Fixed and moving are the same volume: select two." if fixed is moving else ""


def missing_channel(fixed: object | None, moving: object | None) -> str:
    """Say which volume a further channel lacks, or "" if it lacks none or there is no such channel."""
    if (fixed is None) != (moving is None):
        side = "fixed" if fixed is None else "moving"
        return f"Channel 2 has no {side} volume: select one, or none for both of its sides."
    return "Fixed and moving are the same volume in channel 2: select two." if fixed is moving is not None else ""


def missing_landmarks(use: str, fixed: object | None, moving: object | None, initial: object | None) -> str:
    """Say why landmarks cannot be used as chosen, or "" if they can."""
    try:
        check_landmarks(use, fixed, moving, initial)
    except InputError as error:
        return str(error)
    return ""


def panel_view(state: PanelState, before: PanelView | None = None) -> PanelView:
    """Return what is shown of a state.

    Parameters
    ----------
    before : the view until now, from which is taken what has not changed, as while a slider is moved.
    """
    counts = state.prediction if not state.stale else None
    space, unpredicted = _basis(state, counts, before)
    criterion = _known_part(state, counts)
    prediction, suggested, sentence = _chosen(state, counts, criterion, before)
    own = state.setting_of == state.engine
    manual = state.manual and own
    setting_now = _setting(space, state.setting if own else {}, manual, prediction, unpredicted)
    here, elsewhere = None, ""
    if prediction is not None and not is_unreliable(prediction):
        elsewhere = beside(prediction.surface, setting_now)
        here = None if elsewhere else interpolated(prediction.surface, prediction.surface.space.rows([setting_now]))
    reliability, reasons = _reliability(state, prediction, suggested, sentence)
    return PanelView(
        state=state,
        space=space,
        unpredicted=unpredicted,
        prediction=prediction,
        criterion=criterion,
        suggested=suggested,
        setting=setting_now,
        manual=manual,
        parameters=tuple(_parameter_view(parameter, setting_now[parameter.name]) for parameter in space),
        rows=_rows(state, prediction, criterion, here),
        curves=() if prediction is None else prediction.surface.structures,
        reliability=reliability,
        reasons=reasons,
        read_out=elsewhere or _read_out(state, space, manual, prediction, suggested, here),
        legend=_legend(space.first.symbol, prediction, criterion),
        hint=f"{space.text(setting_now)} is taken as it is (manual): the folding limit is not enforced." if manual else "",
        expected=_expected(state, before),
        register=_register_button(state, space.first.symbol),
        suggest=_suggest_button(state, space.first.symbol),
        page=_page_button(state),
        devices=choices.engine_info(state.engine).devices,
        preview=_preview(state, space.first.symbol),
    )


def manual_setting(view: PanelView, name: str, *, share: float | None = None, value: float = 0.0) -> Setting:
    """Return the setting after one parameter was moved to a share of its range or, without one, to a value; kept inside."""
    parameter = view.space[name]
    moved = value if share is None else float(parameter.from_unit(share))
    return {**view.setting, name: min(max(moved, parameter.low), parameter.high)}


def chosen_setting(view: PanelView, values: Setting) -> Setting:
    """Return the setting after several parameters were set at once, as by a click on a map; kept inside."""
    moved = {name: min(max(value, view.space[name].low), view.space[name].high) for name, value in values.items()}
    return {**view.setting, **moved}


def ticked_weights(view: PanelView, row: int, *, ticked: bool | None = None, typed: str = "") -> dict[str, float]:
    """Return the weights of the structures after a row was ticked or unticked or, without that, a weight was typed."""
    name = view.rows[row].name
    weights = dict((view.state if view.prediction is None else view).criterion.structures)
    try:
        number = float(typed.replace(",", "."))
    except ValueError:
        number = 0.0
    if not math.isfinite(number):
        number = 0.0
    if ticked is not None:
        number = (number if number > 0 else 1.0) if ticked else 0.0
    weights.pop(name, None)
    return {**weights, name: number} if number > 0 else weights


# What is chosen


def _basis(state: PanelState, counts: Prediction | None, before: PanelView | None) -> tuple[SearchSpace, Setting]:
    """Return the range of the setting and where it begins without a prediction; looked up only where that can have changed."""
    key = (state.engine, state.preset, state.grid, counts is None)
    if before is not None and state.prediction is before.state.prediction:
        old = before.state
        if key == (old.engine, old.preset, old.grid, before.prediction is None):
            return before.space, before.unpredicted
    if counts is not None:
        predicted, fixed = counts.surface.space, counts.choice.fixed
        # Parameters that nothing is predicted over can be set all the same.
        space = SearchSpace(tuple(predicted[p.name] if p.name in predicted.names else p for p in counts.engine.space))
        if fixed:
            return space, {p.name: min(max(fixed.get(p.name, p.default), p.low), p.high) for p in space}
    else:
        grid = None if state.grid is None else choices.estimated_grid(state.grid, state.preset)
        space = choices.estimated_space(state.engine, grid)
    return space, choices.unpredicted_setting(state.engine, state.preset, space)


def _known_part(state: PanelState, counts: Prediction | None) -> Criterion:
    """Return the criterion without structures that this pair does not have, as far as that is known."""
    if not state.criterion.structures:
        return state.criterion
    if counts is not None:
        known = counts.surface.structures
    else:
        known = state.segments or choices.structures_of(state.engine, state.preset)
    ticked = {name: weight for name, weight in state.criterion.structures.items() if weight > 0 and name in known}
    return replace(state.criterion, structures=ticked)


def _chosen(
    state: PanelState, counts: Prediction | None, criterion: Criterion, before: PanelView | None
) -> tuple[Prediction | None, Choice | None, str]:
    """Return the prediction with the choice of now, λ* or None, and the reason for either."""
    if counts is None:
        return None, None, ""
    unchanged = before is not None and before.state.prediction is state.prediction and before.criterion == criterion
    if is_unreliable(counts):
        same = before.prediction if before is not None and unchanged and before.prediction is not None else None
        return same or replace(counts, criterion=criterion), None, counts.choice.sentence
    if before is not None and unchanged and before.suggested is not None and before.prediction is not None:
        return before.prediction, before.suggested, before.suggested.sentence
    try:
        best = choose(counts.surface, criterion, counts.predictor, counts.engine.space.defaults)
    except InputError as error:
        return replace(counts, criterion=criterion), None, str(error)
    best = replace(best, fixed=counts.choice.fixed)
    return replace(counts, criterion=criterion, choice=best), best, best.sentence


def _setting(space: SearchSpace, given: Setting, manual: bool, prediction: Prediction | None, unpredicted: Setting) -> Setting:
    base = unpredicted if prediction is None else {**unpredicted, **prediction.choice.setting}
    values = {**base, **{name: value for name, value in given.items() if name in space.names}} if manual else base
    return {p.name: min(max(values[p.name], p.low), p.high) for p in space}


# What is shown


def _parameter_view(parameter: Parameter, value: float) -> ParameterView:
    smoother = "right" if parameter.regularizes == "up" else "left"
    unit = f" {parameter.unit}" if parameter.unit else ""
    scale = ", on a logarithmic scale" if parameter.scale == "log" else ""
    # Three significant digits of the least number that matters.
    least = parameter.low if parameter.scale == "log" else (parameter.high - parameter.low) / 10
    return ParameterView(
        name=parameter.name,
        symbol=parameter.symbol,
        label=f"&{parameter.symbol}:" if len(parameter.symbol) == 1 else f"{parameter.symbol}:",
        suffix=f" {parameter.unit}" if parameter.unit not in ("", "voxels") else "",
        tooltip=(
            f"{parameter.title}, {parameter.low:.3g} to {parameter.high:.3g}{unit}{scale}. {parameter.tooltip} "
            f"The farther to the {smoother}, the smoother."
        ),
        low=parameter.low,
        high=parameter.high,
        value=value,
        share=float(parameter.to_unit(value)),
        decimals=min(max(2 - math.floor(math.log10(least)), 0), _MOST_DECIMALS),
        step=10.0 ** (math.floor(math.log10(parameter.high - parameter.low)) - 1),
    )


def _rows(
    state: PanelState, prediction: Prediction | None, criterion: Criterion, here: PredictionSurface | None
) -> tuple[StructureRow, ...]:
    # Without a prediction, what was ticked before can still be unticked.
    names = tuple(state.criterion.structures) if prediction is None else prediction.surface.structures
    dice = [math.nan] * len(names) if here is None else here.dice.value[:, 0].tolist()
    weights = state.criterion.structures if prediction is None else criterion.structures
    return tuple(
        StructureRow(
            name,
            weights.get(name, 0.0) > 0,
            f"{weights[name]:g}" if weights.get(name, 0.0) > 0 else "",
            f"{value:.2f}" if math.isfinite(value) else "",
        )
        for name, value in zip(names, dice, strict=True)
    )


def _reliability(state: PanelState, prediction: Prediction | None, suggested: Choice | None, sentence: str) -> tuple[str, str]:
    """Return the reliability in one line with what is recommended, and all reasons, as rich text."""
    if prediction is None:
        return html.escape(STALE.get(state.stale, state.stale)) if state.prediction is not None or state.stale else "", ""
    level, meaning = prediction.reliability.level, reliability_meaning(prediction.reliability, prediction.predictor)
    reasons = [reason for reason in (*prediction.reliability.reasons, *prediction.warnings) if reason != meaning]
    # A suggestion is short; that there is none, or that it breaks the limit, is said in full.
    advice, remark = sentence, meaning
    if suggested is not None and suggested.predicted is not None and suggested.feasible:
        remark = f"{setting(prediction.surface.space, suggested.setting)} is suggested."
        parts = expectation_parts(suggested.predicted, prediction.outlook, state.criterion)
        advice = f"{capitalized(' · '.join(parts))}."
        reasons = [sentence, meaning, *reasons]
    line = f"{mark(_COLORS[level])} <b>Reliability: {level}.</b> {html.escape(remark)}"
    if advice:
        line += f"<br><b>{html.escape(advice)}</b>"
    if words := chances(prediction.outlook):
        line += f" {html.escape(words)}"
    return line.replace(" %", "\u00a0%"), "".join(f"<p>{html.escape(reason)}</p>" for reason in reasons)


def _read_out(
    state: PanelState, space: SearchSpace, manual: bool, prediction: Prediction | None, suggested: Choice | None,
    here: PredictionSurface | None,
) -> str:  # fmt: skip
    symbol = space.first.symbol
    if prediction is None:
        return f"Nothing is predicted yet: press \"Suggest {symbol}\", or register, and what comes out is measured."
    if here is None:
        return "Unreliable: what the curves say of this pair is not to be relied on."
    goal, folding = state.criterion.goal, band_value(here.folding(state.criterion.domain), 0)
    what = quality_words(here.measure(goal), band_value(here.quality(goal), 0))
    words = f"{what}, folding {banded_percent(folding)}".replace(" %", "\u00a0%")
    who = f"Manual {symbol}: " if manual else "Suggested: " if suggested is not None else ""
    return who + words


def _legend(symbol: str, prediction: Prediction | None, criterion: Criterion) -> tuple[tuple[str, str], ...]:
    if prediction is None:
        return ()
    space = prediction.surface.space
    over: tuple[tuple[str, str], ...] = ()
    if len(space) == 2:
        symbol = " and ".join(parameter.symbol for parameter in space)
        over = (("over", words),) if (words := over_limit_words(criterion)) else ()
    chosen = () if is_unreliable(prediction) else (("chosen", f"suggested {symbol}"),)
    fixed = (("fixed", f"{symbol} without a prediction"),) if prediction.choice.fixed else ()
    return (*chosen, *fixed, ("yours", f"your {symbol}"), *over)


def _expected(state: PanelState, before: PanelView | None) -> str:
    if state.grid is None:
        return ""
    if before is not None:
        old = before.state
        if (old.engine, old.preset, old.grid, old.rate) == (state.engine, state.preset, state.grid, state.rate):
            return before.expected
    return choices.expected_words(state.engine, choices.estimated_grid(state.grid, state.preset), state.rate)


# Buttons


def _why_not(state: PanelState) -> str:
    """Say why nothing can run with what is chosen, or ""."""
    info = choices.engine_info(state.engine)
    why_not = state.missing or info.unavailable
    if why_not or not state.several or info.channels:
        return why_not
    return f"{info.title} compares one pair of volumes only: leave channel 2 out{choices.channel_engines()}."


def _preview(state: PanelState, symbol: str) -> PreviewView:
    return preview_view(state.engine, symbol, _why_not(state) or ("Wait for the end of what runs." if state.running else ""))


def _register_button(state: PanelState, symbol: str) -> ButtonView:
    if state.running == "register":
        return ButtonView("&Cancel", "End the registration now; the scene stays as it was.", True)
    why_not = _why_not(state)
    what = f"Align, choose {symbol}, register, measure the folding, and correct {symbol} until your limit holds."
    return ButtonView("&Register", why_not or what, not state.running and not why_not)


def _suggest_button(state: PanelState, symbol: str) -> ButtonView:
    what = f"Align the two volumes, look at them, and predict the result for every {symbol}. Registers nothing yet."
    if state.running == "predict":
        return ButtonView("&Cancel", what, True)
    why_not = _why_not(state)
    return ButtonView(f"Su&ggest {symbol}", why_not or what, not state.running and not why_not)


def _page_button(state: PanelState) -> ButtonView:
    if state.running == "page":
        return ButtonView("Cancel", "Stop drawing the report.", True)
    if not state.registered:
        return ButtonView("Report &page", "Register first: there is no result.", False)
    return ButtonView("Report &page", "Make a report with pictures that opens in the web browser.", not state.running)
