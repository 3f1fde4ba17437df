"""The whole panel: its sections, what its buttons do, and the one refresh that shows what the parameter node says."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.panel import packages
from HyperPredictRegLib.panel.applying import ApplySection
from HyperPredictRegLib.panel.choosing import ChoiceSection
from HyperPredictRegLib.panel.parameters import MASKS, Transform, request_of, segment_ids, segment_name, state_of, stored_as
from HyperPredictRegLib.panel.previewing import PreviewSection
from HyperPredictRegLib.panel.results import ResultSection
from HyperPredictRegLib.panel.running import Runner, known_rate, learn_rate
from HyperPredictRegLib.presentation.choices import engines_tooltip, has_predictor, predictable_words
from HyperPredictRegLib.presentation.panel import PanelView, panel_view
from HyperPredictRegLib.slicerbridge.outcome_nodes import check_storage
from HyperPredictRegLib.slicerbridge.task import Task, deliver_outcome, deliver_prediction, save_page
from HyperPredictRegLib.slicerbridge.volumes import volume_geometry


class Panel:
    """Puts the sections together; knows parameters only through the function that returns the current ones.

    Parameters
    ----------
    ui : the widgets of the .ui file by name.
    logic : HyperPredictRegLogic.
    parameters : returns the current ParameterNode, or None.
    requirements : path of the requirements file of the report page.

    Attributes
    ----------
    view : what is shown now, or None.
    """

    def __init__(self, ui: Any, logic: Any, parameters: Callable[[], Any], requirements: str) -> None:
        self.ui = ui
        self.logic = logic
        self.view: PanelView | None = None
        self._parameters = parameters
        self._requirements = requirements
        self._registrations: dict[str, Task] = {}
        self._entered = False
        self._unseen = False
        self._listing = False
        self._refreshing = False
        ui.engineComboBox.setToolTip(f"{ui.engineComboBox.toolTip}\n{engines_tooltip()}")
        if choices := predictable_words():
            where = _("Trained predictors are there for {choices}; else trial registrations choose.").format(choices=choices)
            ui.presetComboBox.setToolTip(f"{ui.presetComboBox.toolTip} {where}")
        self.runner = Runner(ui, self._show)
        self.inputs = InputsSection(ui, parameters)
        self.choice = ChoiceSection(ui, parameters, lambda: self.view)
        self.previews = PreviewSection(ui, parameters, lambda: self.view)
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
            if self.result.refresh():
                self.applying.refresh()
            self.ui.fieldSpacingSpinBox.setEnabled(parameters.transformKind is Transform.FIELD)
            self._show()
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
        self.previews.stop()
        for task in self._registrations.values():
            task.close()
        self._registrations.clear()

    def pause(self) -> None:
        """Leave the views alone, because the user has left the module."""
        self._entered = False
        self.previews.stop()
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
        self.previews.stop()
        self.applying.forget()

    def release(self) -> None:
        """Let go of everything that belongs to a scene that closes."""
        self.begin_anew()
        self._unseen = False
        self.view = None
        self.choice.release()
        self.result.release()
        self.applying.release()
        self._show()

    def _list_nodes(self) -> None:
        self._listing = False
        for report in [one for one in self._registrations if slicer.mrmlScene.GetNodeByID(one) is None]:
            self._registrations.pop(report).close()
        if self._parameters() is not None:
            self.result.forget_removed()
            self.applying.refresh()
            self._show()

    def _show(self) -> None:
        """Collect the state, let the presentation say what is shown of it, and render that."""
        parameters = self._parameters()
        buttons = ("register", "suggest", "page")
        if parameters is None:
            for name in buttons:
                getattr(self.ui, f"{name}Button").setEnabled(False)
            return
        prediction, stale = self.choice.found(parameters)
        state = state_of(
            parameters,
            prediction=prediction,
            stale=stale,
            curve=self.choice.curve,
            rate=known_rate(parameters.engine.value),
            running=self.runner.kind,
            registered=self.result.nodes is not None,
        )
        before, self.view = self.view, panel_view(state, self.view)
        self._remember(parameters, self.view)
        self.choice.show(self.view, before)
        self.previews.refresh(self.view)
        for name in buttons:
            button, shown = getattr(self.ui, f"{name}Button"), getattr(self.view, name)
            if before is None or shown != getattr(before, name):
                button.setText(shown.text)
                button.setToolTip(shown.tooltip)
                button.setEnabled(shown.enabled)
        self.ui.limitCheckBox.setEnabled(not self.view.manual)
        for widget in (self.ui.deviceComboBox, self.ui.deviceComboBoxLabel):
            widget.setVisible(len(self.view.devices) > 1)
        for widget in (self.ui.foldingLimitSpinBox, self.ui.domainComboBox):
            widget.setEnabled(parameters.limitFolding and not self.view.manual)

    def _remember(self, parameters: Any, view: PanelView) -> None:
        """Let the parameter node say what is shown, so that it is saved with the scene."""
        now = {"setting": view.setting, "settingOf": view.state.engine, "manual": view.manual}
        was = {"setting": view.state.setting, "settingOf": view.state.setting_of, "manual": view.state.manual}
        if now == was:
            return
        refreshing, self._refreshing = self._refreshing, True
        try:
            with slicer.util.NodeModify(parameters):
                for name in (name for name in now if now[name] != was[name]):
                    setattr(parameters, name, now[name])
        finally:
            self._refreshing = refreshing

    def _suggestOrCancel(self) -> None:  # noqa: N802
        if self.runner.busy:
            self.runner.cancel()
            return
        parameters, view = self._parameters(), self.view
        if view is not None and has_predictor(view.state.engine, view.state.preset):
            # Without PyTorch the trial registrations choose, and the prediction says so.
            packages.make_torch_ready(ask_again=False)
        self._begin("predict", parameters, request_of(parameters), self._predicted)

    def _registerOrCancel(self) -> None:  # noqa: N802
        if self.runner.busy:
            self.runner.cancel()
            return
        parameters, view = self._parameters(), self.view
        if parameters is None or view is None:
            return
        # As it is chosen now: the user may turn to other things while it runs.
        stored, request = stored_as(parameters), request_of(parameters, view)
        state = view.state
        if not (view.manual or request.prediction) and has_predictor(state.engine, state.preset):
            # Without PyTorch the trial registrations choose, and the result says so.
            packages.make_torch_ready(ask_again=False)

        def check() -> None:
            check_storage(volume_geometry(parameters.fixedVolume), *stored)

        self._begin("register", parameters, request, partial(self._registered, stored=stored), check)

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
        retained = done(task, parameters)
        if not self._is_current(parameters):
            # What is on the screen has nothing to do with it.
            self.runner.say(_("Done, for the parameter set \"{name}\".").format(name=parameters.parameterNode.GetName()))
        return retained

    def _is_current(self, parameters: Any) -> bool:
        """Tell whether a set of parameters is shown now; each visit to a set makes another wrapper of its node."""
        current = self._parameters()
        return current is not None and current.parameterNode is parameters.parameterNode

    def _predicted(self, task: Task, parameters: Any) -> bool:
        with slicer.util.tryWithErrorDisplay(_("The prediction could not be shown.")):
            prediction = task.prediction()
            if self._is_current(parameters):
                self.choice.take(prediction, task)
                self.refresh()
            else:
                parameters.prediction = deliver_prediction(prediction, task, earlier=parameters.prediction)
        return False

    def _registered(self, task: Task, parameters: Any, stored: tuple[str, float | None]) -> bool:
        with slicer.util.tryWithErrorDisplay(_("The result could not be put into the scene."), waitCursor=True):
            nodes, outcome = deliver_outcome(task, transform_as=stored[0], field_spacing_mm=stored[1])
            self._keep(task, nodes.report, parameters.result)
            with slicer.util.NodeModify(parameters):
                parameters.result = nodes.report
                if outcome.prediction is not None and task.request.prediction is None:
                    parameters.prediction = deliver_prediction(outcome.prediction, task, earlier=parameters.prediction)
            learn_rate(outcome.report)
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


class InputsSection:
    """Keeps the two mask selectors and their lists of segments in step with the parameter node.

    A mask may be of several node classes, for which parameter nodes have no connection to a selector of their own.

    Attributes
    ----------
    listening : whether what the selectors say is a choice of the user.
    """

    def __init__(self, ui: Any, parameters: Callable[[], Any]) -> None:
        self._parameters = parameters
        self._selectors = {"fixed": ui.fixedMaskSelector, "moving": ui.movingMaskSelector}
        self._segments = {"fixed": ui.fixedMaskSegmentComboBox, "moving": ui.movingMaskSegmentComboBox}
        self._listed: dict[str, list[tuple[str, str]]] = {}
        self.listening = False
        self._filling = False
        for side in MASKS:
            self._selectors[side].connect("currentNodeChanged(vtkMRMLNode*)", partial(self._maskChosen, side))
            self._segments[side].connect("currentIndexChanged(int)", partial(self._segmentChosen, side))

    def refresh(self) -> None:
        """Show what the parameter node says; called whenever it has changed."""
        parameters = self._parameters()
        if parameters is None or self._filling:
            return
        self._filling = True
        try:
            for side, (mask, segment) in MASKS.items():
                node = getattr(parameters, mask)
                self._selectors[side].setCurrentNode(node)
                self._list_segments(side, node, getattr(parameters, segment))
        finally:
            self._filling = False

    def _list_segments(self, side: str, node: Any, chosen: str) -> None:
        combo, ids = self._segments[side], segment_ids(node)
        segments = [(one, segment_name(node, one)) for one in ids]
        if segments != self._listed.get(side):
            self._listed[side] = segments
            combo.clear()
            combo.setEnabled(bool(segments))
            combo.addItem(_("All segments"))
            for _id, name in segments:
                combo.addItem(name)
        combo.setCurrentIndex(ids.index(chosen) + 1 if chosen in ids else 0)

    def _maskChosen(self, side: str, node: Any) -> None:  # noqa: N802 - Slicer's style
        parameters = self._parameters()
        if self._filling or not self.listening or parameters is None:
            return
        mask, segment = MASKS[side]
        if node is getattr(parameters, mask):
            # It was renamed.
            return
        setattr(parameters, mask, node)
        setattr(parameters, segment, "")
        self.refresh()

    def _segmentChosen(self, side: str, index: int) -> None:  # noqa: N802
        parameters = self._parameters()
        if self._filling or not self.listening or parameters is None or index < 0:
            return
        mask, segment = MASKS[side]
        segments = segment_ids(getattr(parameters, mask))
        setattr(parameters, segment, segments[index - 1] if 0 < index <= len(segments) else "")
