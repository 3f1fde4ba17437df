"""The section of the inputs: what masks consist of, and whether all that is needed is there."""

from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from HyperPredictRegLib.panel.parameters import job_options
from HyperPredictRegLib.slicerbridge.request import MaskChoice, Request

# Of each side: the parameters that name its mask and the segment of it.
_MASKS = {"fixed": ("fixedMask", "fixedMaskSegment"), "moving": ("movingMask", "movingMaskSegment")}


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
        self.listening = False
        self._filling = False
        ui.fixedMaskSelector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: self._maskChosen("fixed", node))
        ui.movingMaskSelector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: self._maskChosen("moving", node))
        ui.fixedMaskSegmentComboBox.connect("currentIndexChanged(int)", lambda index: self._segmentChosen("fixed", index))
        ui.movingMaskSegmentComboBox.connect("currentIndexChanged(int)", lambda index: self._segmentChosen("moving", index))

    def refresh(self) -> None:
        """Show what the parameter node says; called whenever it has changed."""
        parameters = self._parameters()
        if parameters is None or self._filling:
            return
        self._filling = True
        try:
            for side, (mask, segment) in _MASKS.items():
                node, chosen = getattr(parameters, mask), getattr(parameters, segment)
                self._selectors[side].setCurrentNode(node)
                self._list_segments(self._segments[side], node, chosen)
        finally:
            self._filling = False

    def _list_segments(self, combo: Any, node: Any, chosen: str) -> None:
        segments = segment_ids(node)
        combo.clear()
        combo.setEnabled(bool(segments))
        combo.addItem(_("All segments"))
        for segment_id in segments:
            combo.addItem(node.GetSegmentation().GetSegment(segment_id).GetName())
        combo.setCurrentIndex(segments.index(chosen) + 1 if chosen in segments else 0)

    def _maskChosen(self, side: str, node: Any) -> None:  # noqa: N802 - Slicer's style
        parameters = self._parameters()
        if self._filling or not self.listening or parameters is None:
            return
        mask, segment = _MASKS[side]
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
        mask, segment = _MASKS[side]
        segments = segment_ids(getattr(parameters, mask))
        setattr(parameters, segment, segments[index - 1] if 0 < index <= len(segments) else "")


def segment_ids(node: Any) -> list[str]:
    """Return the ids of a segmentation's segments; none for any other node."""
    if node is None or not node.IsA("vtkMRMLSegmentationNode"):
        return []
    return list(node.GetSegmentation().GetSegmentIDs())


def what_is_missing(parameters: Any) -> str:
    """Say what has to be chosen before anything can be registered, or "" if nothing is missing."""
    if parameters is None:
        return _("Open a scene first.")
    if parameters.fixedVolume is None and parameters.movingVolume is None:
        return _("Select a fixed and a moving volume first.")
    if parameters.fixedVolume is None:
        return _("Select a fixed volume first.")
    if parameters.movingVolume is None:
        return _("Select a moving volume first.")
    if parameters.fixedVolume is parameters.movingVolume:
        return _("Fixed and moving are the same volume: select two.")
    return ""


def request_of(parameters: Any, *, forPrediction: bool = False) -> Request:  # noqa: N803
    """Return what a parameter node asks for."""
    masks = {}
    for side, (mask, segment) in _MASKS.items():
        node = getattr(parameters, mask)
        masks[f"{side}_mask"] = None if node is None else MaskChoice(node, getattr(parameters, segment))
    return Request(
        fixed=parameters.fixedVolume,
        moving=parameters.movingVolume,
        fixed_segmentation=parameters.fixedSegmentation,
        moving_segmentation=parameters.movingSegmentation,
        initial_transform=parameters.initialTransform,
        options=job_options(parameters, forPrediction=forPrediction),
        **masks,
    )
