"""The live preview: while λ is moved, a worker answers with about what it would make of the moving volume."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.panel.arranging import show_text
from HyperPredictRegLib.panel.parameters import request_of
from HyperPredictRegLib.panel.running import POLL_MILLISECONDS
from HyperPredictRegLib.presentation.panel import PanelView
from HyperPredictRegLib.presentation.preview import preview_name, preview_words
from HyperPredictRegLib.slicerbridge.previewing import PreviewTask, PreviewVolume, content_of, work_of


class PreviewSection:
    """Runs the preview while its box is ticked, and ends it with all that it has shown when it no longer fits.

    Attributes
    ----------
    task : the worker, or None.
    volume : what it is shown in, or None.
    """

    def __init__(self, ui: Any, parameters: Callable[[], Any], view: Callable[[], PanelView | None]) -> None:
        self.ui = ui
        self.task: PreviewTask | None = None
        self.volume: PreviewVolume | None = None
        self._parameters = parameters
        self._view = view
        self._work = self._content = ""
        self._asked: Any = None
        self._offered: Any = None
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MILLISECONDS)
        self._timer.connect("timeout()", self._poll)
        ui.previewCheckBox.connect("toggled(bool)", self._toggled)

    def refresh(self, view: PanelView) -> None:
        """Follow what is chosen: ask for the setting of now; begin anew if what is chosen was edited; end if it is another."""
        box = self.ui.previewCheckBox
        if view.preview != self._offered:
            self._offered = view.preview
            box.setEnabled(view.preview.enabled)
            box.setToolTip(view.preview.tooltip)
        if self.task is None:
            return
        try:
            self._follow(view)
        except InputError as error:
            self.stop(str(error))

    def stop(self, sentence: str = "") -> None:
        """End the worker, take the preview out of the scene and untick the box; say why, if there is something to say."""
        self._timer.stop()
        task, self.task = self.task, None
        if task is not None:
            task.close()
        volume, self.volume = self.volume, None
        if volume is not None:
            volume.remove()
        box = self.ui.previewCheckBox
        if box.checked:
            box.blockSignals(True)
            box.setChecked(False)
            box.blockSignals(False)
        show_text(self.ui.previewLabel, sentence)

    def _request(self, view: PanelView) -> Any:
        return request_of(self._parameters(), replace(view, manual=False))

    def _follow(self, view: PanelView) -> None:
        if not view.preview.enabled:
            self.stop()
            return
        request = self._request(view)
        if work_of(request) != self._work:
            self.stop()
        elif content_of(request) != self._content:
            self._begin(view)
        elif view.setting != self._asked:
            self._ask(view)

    def _toggled(self, on: bool) -> None:
        view = self._view()
        if not on or view is None or self._parameters() is None:
            self.stop()
        else:
            self._begin(view)

    def _begin(self, view: PanelView) -> None:
        self.stop()
        self.ui.previewCheckBox.blockSignals(True)
        self.ui.previewCheckBox.setChecked(True)
        self.ui.previewCheckBox.blockSignals(False)
        try:
            request = self._request(view)
            self._work, self._content = work_of(request), content_of(request)
            self.task = PreviewTask(request)
            self.volume = PreviewVolume(slicer.mrmlScene, request.fixed, request.moving)
            self._ask(view)
        except InputError as error:
            self.stop(str(error))
            return
        show_text(self.ui.previewLabel, _("Preview: reading and aligning the volumes, once ..."))
        self._timer.start()

    def _ask(self, view: PanelView) -> None:
        if self.task is not None:
            self._asked = dict(view.setting)
            self.task.ask(self._asked)

    def _poll(self) -> None:
        task, view = self.task, self._view()
        if task is None or view is None or self.volume is None:
            return
        ending = task.ending
        task.poll()
        if ending is None:
            ending = task.ending
        if ending is not None:
            self.stop(ending.sentence)
            return
        answered = task.news()
        if answered is None:
            return
        words = answered.sentence
        if answered.image:
            shown = preview_words(view.space, answered.setting, answered.spacing_mm, answered.seconds)
            words = f"{shown} {words}".rstrip()
        try:
            if answered.image:
                self.volume.show(task.image(answered), preview_name(view.space, answered.setting))
            show_text(self.ui.previewLabel, words)
        except InputError as error:
            show_text(self.ui.previewLabel, str(error))
