"""The section that applies the transform of a result to other volumes, segmentations, models and points."""

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from HyperPredictRegLib.panel.arranging import breakable
from HyperPredictRegLib.panel.results import ResultSection
from HyperPredictRegLib.slicerbridge.applying import KINDS, apply_to_nodes
from HyperPredictRegLib.slicerbridge.together import ROLE, node_ids_of_runs

_INPUTS = ("fixed", "moving", "fixed_segmentation", "moving_segmentation")
_GOES_ON = ("warped", "propagated_segmentation")  # of another result, for a chain of registrations


class ApplySection:
    """Lists what can be transformed and does it in one go."""

    def __init__(self, ui: Any, results: ResultSection) -> None:
        self.ui = ui
        self._results = results
        self._ids: list[str] = []
        ui.directionComboBox.addItem(_("From the moving volume to the fixed one"))
        ui.directionComboBox.addItem(_("From the fixed volume to the moving one"))
        ui.directionComboBox.connect("currentIndexChanged(int)", lambda index: self.refresh())
        ui.applyButton.connect("clicked(bool)", self._apply)
        ui.itemsList.connect("itemChanged(QListWidgetItem*)", lambda item: self._enable())

    def refresh(self) -> None:
        """List the nodes of the scene that can be transformed; what was ticked stays ticked."""
        ticked = set(self._ticked())
        nodes = applicable_nodes(slicer.mrmlScene, self._results.nodes)
        self.ui.itemsList.blockSignals(True)
        self.ui.itemsList.clear()
        self._ids = [node.GetID() for node in nodes]
        for node in nodes:
            item = qt.QListWidgetItem(node.GetName())
            item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsUserCheckable | qt.Qt.ItemIsSelectable)
            item.setCheckState(qt.Qt.Checked if node.GetID() in ticked else qt.Qt.Unchecked)
            self.ui.itemsList.addItem(item)
        self.ui.itemsList.blockSignals(False)
        self._enable()

    def release(self) -> None:
        """Let go of everything that belongs to a scene that closes."""
        self._ids = []
        self.ui.itemsList.clear()
        self.forget()
        self._enable()

    def forget(self) -> None:
        """Say nothing more of what was transformed before."""
        self.ui.appliedLabel.setText("")

    def _ticked(self) -> list[str]:
        return [
            identity for row, identity in enumerate(self._ids) if self.ui.itemsList.item(row).checkState() == qt.Qt.Checked
        ]

    def _enable(self) -> None:
        if self._results.nodes is None:
            why = _("Register first: there is no transform to apply.")
        elif not self._ticked():
            why = _("Tick at least one item of the list.")
        else:
            why = ""
        self.ui.applyButton.setEnabled(not why)
        what = _("Make a transformed copy of everything that is ticked. The originals stay as they are.")
        self.ui.applyButton.setToolTip(why or what)

    def _apply(self) -> None:
        nodes = [node for identity in self._ticked() if (node := slicer.mrmlScene.GetNodeByID(identity)) is not None]
        result = self._results.nodes
        if result is None:
            return
        with slicer.util.tryWithErrorDisplay(_("Nothing was transformed."), waitCursor=True):
            done = apply_to_nodes(slicer.mrmlScene, nodes, result, backward=self.ui.directionComboBox.currentIndex == 1)
            lines = [_("Transformed: {names}.").format(names=", ".join(n.GetName() for n in done.nodes))] if done.nodes else []
            lines += [_("Refused: {name}. {reason}").format(name=node.GetName(), reason=reason) for node, reason in done.refused]
            self.ui.appliedLabel.setText(breakable("\n".join([*lines, *done.warnings])))
            self.refresh()


def applicable_nodes(scene: Any, result: Any) -> list[Any]:
    """Return the nodes of a scene that a transform can be applied to, without what the registration itself has made."""
    inputs = [getattr(result, name, None) for name in _INPUTS]
    own = [] if result is None else [node for node in result.all() if not any(node is one for one in inputs)]
    made = node_ids_of_runs(scene)
    found = []
    for name in KINDS:
        nodes = scene.GetNodesByClass(name)
        nodes.UnRegister(None)
        for number in range(nodes.GetNumberOfItems()):
            node = nodes.GetItemAsObject(number)
            offered = node.GetID() not in made or node.GetAttribute(ROLE) in _GOES_ON
            if offered and not node.GetHideFromEditors() and not any(node is one for one in own):
                found.append(node)
    return found
