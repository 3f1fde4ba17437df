"""The whole panel: its sections, and what its buttons do."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from HyperPredictRegLib.engines import get_engine
from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.panel import expected, packages
from HyperPredictRegLib.panel.applying import ApplySection
from HyperPredictRegLib.panel.choosing import ChoiceSection
from HyperPredictRegLib.panel.inputs import InputsSection, request_of, what_is_missing
from HyperPredictRegLib.panel.parameters import TransformKind, predictable_words
from HyperPredictRegLib.panel.results import ResultSection
from HyperPredictRegLib.panel.running import Runner
from HyperPredictRegLib.predictor.paths import bundled
from HyperPredictRegLib.slicerbridge.delivery import deliver_foresight, deliver_outcome, save_page
from HyperPredictRegLib.slicerbridge.storing import check_storage
from HyperPredictRegLib.slicerbridge.task import Task
from HyperPredictRegLib.slicerbridge.volumes import volume_geometry
from HyperPredictRegLib.workflow.foresight import foresight_of


class Panel:
    """Puts the sections together; knows parameters only through the function that returns the current ones.

    Parameters
    ----------
    ui : the widgets of the .ui file by name.
    logic : HyperPredictRegLogic.
    parameters : returns the current ParameterNode, or None.
    requirements : path of the requirements file of the report page.
    """

    def __init__(self, ui: Any, logic: Any, parameters: Callable[[], Any], requirements: str) -> None:
        self.ui = ui
        self.logic = logic
        self._parameters = parameters
        self._requirements = requirements
        self._registrations: dict[str, Task] = {}
        self._entered = False
        self._unseen = False
        self._listing = False
        self._refreshing = False
        if choices := predictable_words():
            where = _("Predictions are made for {choices}.").format(choices=choices)
            ui.presetComboBox.setToolTip(f"{ui.presetComboBox.toolTip} {where}")
        self.runner = Runner(ui, self._update_buttons)
        self.inputs = InputsSection(ui, parameters)
        self.choice = ChoiceSection(ui, parameters)
        self.result = ResultSection(ui, parameters)
        self.applying = ApplySection(ui, self.result)
        ui.suggestButton.connect("clicked(bool)", self._suggestOrCancel)
        ui.registerButton.connect("clicked(bool)", self._registerOrCancel)
        ui.pageButton.connect("clicked(bool)", self._makePage)

    def refresh(self) -> None:
        """Show what the parameter node says; called whenever it has changed."""
        parameters = self._parameters()
        if parameters is None or self._refreshing:
            return
        self._refreshing = True
        try:
            self.inputs.refresh()
            self.choice.refresh()
            if self.result.refresh():
                self.applying.refresh()
            engine, preset = parameters.engine.value, parameters.preset.value
            words = expected.expected_words(parameters.fixedVolume, engine, preset)
            self.ui.expectedLabel.setText(words)
            self.ui.expectedLabel.setVisible(bool(words))
            self.ui.fieldSpacingSpinBox.setEnabled(parameters.transformKind is TransformKind.FIELD)
            self.ui.limitCheckBox.setEnabled(not parameters.byHand)
            for widget in (self.ui.foldingLimitSpinBox, self.ui.domainComboBox):
                widget.setEnabled(parameters.limitFolding and not parameters.byHand)
            self._show_hint(parameters)
            self._update_buttons()
        finally:
            self._refreshing = False

    def nodesChanged(self, caller: Any = None, event: Any = None) -> None:  # noqa: N802 - Slicer's style
        """List the scene's nodes anew, once all of a batch are there."""
        if not self._listing:
            self._listing = True
            qt.QTimer.singleShot(0, self._list_nodes)

    def stop(self) -> None:
        """End everything that runs, and forget the files of the last registration."""
        self.runner.cancel()
        for task in self._registrations.values():
            task.close()
        self._registrations.clear()

    def pause(self) -> None:
        """Leave the views alone, because the user has left the module."""
        self._entered = False
        self.result.pause()

    def enter(self) -> None:
        """Show what has come while the user was elsewhere."""
        self._entered = True
        if self._unseen:
            self._unseen = False
            self.result.present()
        else:
            self.result.resume()

    def begin_anew(self) -> None:
        """Forget what was said about another set of parameters."""
        self.runner.forget()
        self.applying.forget()

    def release(self) -> None:
        """Let go of everything that belongs to a scene that closes."""
        self.begin_anew()
        self._unseen = False
        self.choice.release()
        self.result.release()
        self.applying.release()
        self._update_buttons()

    def _list_nodes(self) -> None:
        self._listing = False
        for report in [one for one in self._registrations if slicer.mrmlScene.GetNodeByID(one) is None]:
            self._registrations.pop(report).close()
        if self._parameters() is not None:
            self.result.forget_removed()
            self.applying.refresh()

    def _show_hint(self, parameters: Any) -> None:
        """Say beside the button that a number by hand is not corrected."""
        symbol = _symbol(parameters)
        self.ui.hintLabel.setText(
            _("{symbol} = {weight:.3g} is taken as it is (by hand): the folding limit is not enforced.").format(
                symbol=symbol, weight=parameters.weight
            )
        )
        self.ui.hintLabel.setVisible(parameters.byHand)

    def _update_buttons(self) -> None:
        parameters, busy = self._parameters(), self.runner.busy
        kind = self.runner.task.kind if self.runner.task is not None else ""
        missing, symbol = what_is_missing(parameters), _symbol(parameters)
        register, suggest = self.ui.registerButton, self.ui.suggestButton
        register.setText(_("&Cancel") if kind == "register" else _("&Register"))
        register.setToolTip(
            _("End the registration now; the scene stays as it was.") if kind == "register"
            else missing or _(
                "Align, choose {symbol}, register, measure the folding, and correct {symbol} until your limit holds."
            ).format(symbol=symbol)
        )
        register.setEnabled(kind == "register" or (not busy and not missing))
        why_not = missing or self._nothing_to_foresee(parameters)
        suggest.setText(_("&Cancel") if kind == "predict" else _("Su&ggest {symbol}").format(symbol=symbol))
        suggest.setToolTip(
            why_not
            or _("Align the two volumes, look at them, and foresee the result for every {symbol}. Registers nothing yet.").format(
                symbol=symbol
            )
        )
        suggest.setEnabled(kind == "predict" or (not busy and not why_not))
        self.ui.pageButton.setText(_("Cancel") if kind == "page" else _("Report &page"))
        self.ui.pageButton.setEnabled(kind == "page" or (not busy and self.result.nodes is not None))

    @staticmethod
    def _nothing_to_foresee(parameters: Any) -> str:
        if parameters is None or bundled(parameters.engine.value, parameters.preset.value) is not None:
            return ""
        choices = predictable_words()
        words = _("Predictions are made for {choices} only.") if choices else _("No predictor is installed.")
        words += " " + _("\"Register\" starts from a fixed {symbol} and corrects it.")
        return words.format(choices=choices, symbol=_symbol(parameters))

    def _suggestOrCancel(self) -> None:  # noqa: N802
        if self.runner.busy:
            self.runner.cancel()
            return
        if not packages.make_torch_ready():
            words = _("Nothing can be foreseen without PyTorch. \"Register\" starts from a fixed {symbol} and corrects it.")
            self.runner.say(words.format(symbol=_symbol(self._parameters())))
            return
        parameters = self._parameters()
        self._begin("predict", parameters, request_of(parameters, forPrediction=True), self._foreseen)

    def _registerOrCancel(self) -> None:  # noqa: N802
        if self.runner.busy:
            self.runner.cancel()
            return
        parameters = self._parameters()
        if not parameters.byHand and not self._nothing_to_foresee(parameters):
            # Without PyTorch the work goes on with a fixed λ, and says so in the result.
            packages.make_torch_ready(ask_again=False)
        # As it is chosen now: the user may turn to other things while it runs.
        stored = _stored_as(parameters)

        def check() -> None:
            check_storage(volume_geometry(parameters.fixedVolume), *stored)

        self._begin("register", parameters, request_of(parameters), partial(self._registered, stored=stored), check)

    def _begin(
        self, kind: str, parameters: Any, request: Any, done: Callable[[Any, Any], bool], check: Callable[[], None] | None = None
    ) -> None:
        try:
            if check is not None:
                check()
            task = self.logic.begin(kind, request)
        except InputError as error:
            self._failed(str(error))
            return
        except Exception as error:
            self._failed(_("It could not be started: {reason}").format(reason=error))
            raise
        self.runner.start(task, lambda finished: self._finished(done, finished, parameters), self._failed)

    def _finished(self, done: Callable[[Any, Any], bool], task: Any, parameters: Any) -> bool:
        kept = done(task, parameters)
        if not self._is_current(parameters):
            # What is on the screen has nothing to do with it.
            self.runner.say(_("Done, for the parameter set \"{name}\".").format(name=parameters.parameterNode.GetName()))
        return kept

    def _is_current(self, parameters: Any) -> bool:
        """Tell whether a set of parameters is shown now; each visit to a set makes another wrapper of its node."""
        current = self._parameters()
        return current is not None and current.parameterNode is parameters.parameterNode

    def _foreseen(self, task: Task, parameters: Any) -> bool:
        with slicer.util.tryWithErrorDisplay(_("The prediction could not be shown.")):
            foresight = task.foresight()
            if self._is_current(parameters):
                self.choice.take(foresight, task)
            else:
                parameters.foresight = deliver_foresight(foresight, task, earlier=parameters.foresight)
        return False

    def _registered(self, task: Task, parameters: Any, stored: tuple[str, float | None]) -> bool:
        with slicer.util.tryWithErrorDisplay(_("The result could not be put into the scene."), waitCursor=True):
            nodes, outcome = deliver_outcome(task, transform_as=stored[0], field_spacing_mm=stored[1])
            foresight = foresight_of(outcome)
            self._keep(task, nodes.report, parameters.result)
            with slicer.util.NodeModify(parameters):
                parameters.result = nodes.report
                if foresight is not None:
                    parameters.foresight = deliver_foresight(foresight, task, earlier=parameters.foresight)
            expected.learn(outcome.report)
            if self._is_current(parameters):
                self.refresh()
                # Elsewhere the views belong to another module.
                self._unseen = not self._entered
                if self._entered:
                    self.result.present()
        return True

    def _failed(self, sentence: str) -> None:
        self.runner.say(sentence)
        slicer.util.errorDisplay(sentence, windowTitle=_("HyperPredict Registration"))

    def _keep(self, task: Task, report: Any, earlier: Any) -> None:
        """Keep the files of a registration, from which its report page can be drawn, in place of those of the one before."""
        before = None if earlier is None else self._registrations.pop(earlier.GetID(), None)
        if before is not None:
            before.close()
        self._registrations[report.GetID()] = task

    def _makePage(self) -> None:  # noqa: N802
        if self.runner.busy:
            self.runner.cancel()
            return
        report = self._parameters().result
        task = None if report is None else self._registrations.get(report.GetID())
        if task is None:
            self._failed(_("The pictures of this result are no longer at hand: register once more, then make the report page."))
            return
        if not packages.make_page_ready(self._requirements):
            self.runner.say(_("The report page needs the packages jinja2 and matplotlib, which are not installed."))
            return
        folder = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("Where to save the report"))
        if folder:
            self.runner.start(task.draw_page(), lambda drawn: self._page_drawn(drawn, Path(folder)), self._failed)

    def _page_drawn(self, drawn: Any, folder: Path) -> bool:
        with slicer.util.tryWithErrorDisplay(_("The report could not be saved.")):
            request = drawn.request
            page = save_page(drawn.folder, folder, f"{request.moving.GetName()} to {request.fixed.GetName()}")
            self.runner.say(_("The report is saved as {page}.").format(page=page))
            qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(page)))
        return False


def _symbol(parameters: Any) -> str:
    """Return how the method writes the parameter that is chosen for each pair; λ as long as there is no method."""
    return "λ" if parameters is None else get_engine(parameters.engine.value).hyperparameters[0].symbol


def _stored_as(parameters: Any) -> tuple[str, float | None]:
    """Return how the transform is to be stored, and the spacing of its field in mm; None as it was registered."""
    as_field = parameters.transformKind is TransformKind.FIELD
    return parameters.transformKind.value, parameters.fieldSpacing if as_field and parameters.fieldSpacing > 0 else None
