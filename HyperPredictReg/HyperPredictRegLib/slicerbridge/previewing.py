"""A preview in the scene: the worker that makes it, and the volume, shown for as long as it lasts and never saved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import SimpleITK as sitk
import slicer

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.slicerbridge.request import Request, places_of
from HyperPredictRegLib.slicerbridge.task import Task
from HyperPredictRegLib.slicerbridge.together import keep_out_of_files
from HyperPredictRegLib.slicerbridge.volumes import look_alike, to_volume_node, update_volume_node
from HyperPredictRegLib.worker.preview_files import Answered, Asked, ask, read_answered

_OPACITY = 0.5


class PreviewTask(Task):
    """A worker that has a pair aligned and answers the setting that was asked for last, until it is closed.

    Call `poll` from time to time, as of any `Task`; then `news`.
    """

    def __init__(self, request: Request) -> None:
        """Check what is asked; nothing is copied yet. A prediction that the request names gives its alignment.

        Raises
        ------
        InputError : a node or an option cannot be used.
        """
        super().__init__("preview", replace(request, options={**request.options, "setting": {}}))
        self._number = 0
        self._seen = 0

    def ask(self, setting: Mapping[str, float]) -> None:
        """Ask for a setting, in place of any that is not begun with."""
        self._number += 1
        try:
            ask(self._workplace, Asked(self._number, dict(setting)))
        except OSError as error:
            raise InputError(f"The setting could not be handed on ({error.strerror}): is there room on the disk?") from error

    def news(self) -> Answered | None:
        """Return the newest answer if it has not been returned before."""
        found = read_answered(self._workplace)
        if found is None or found.number <= self._seen:
            return None
        self._seen = found.number
        return found

    def image(self, answered: Answered) -> sitk.Image:
        """Return the image of an answer.

        Raises
        ------
        InputError : it cannot be read, for example because it was replaced meanwhile.
        """
        try:
            return sitk.ReadImage(str(self._workplace / answered.image))
        except RuntimeError as error:
            raise InputError("The preview could not be read: move the slider once more.") from error


class PreviewVolume:
    """The volume that previews are shown in, over the fixed volume; made with the first one, gone with `remove`, never saved."""

    def __init__(self, scene: Any, fixed: Any, moving: Any) -> None:
        self._scene, self._fixed, self._moving = scene, fixed, moving
        self._node: Any = None
        self._before: dict[str, tuple[Any, Any, float]] = {}

    @property
    def node(self) -> Any:
        """Return the volume node, or None while there is none."""
        return None if self._node is None or self._node.GetScene() is None else self._node

    def show(self, image: sitk.Image, name: str) -> None:
        """Show an image under a name; where the user has turned to something else in a slice view, that stays."""
        node = self.node
        if node is not None:
            update_volume_node(node, image)
            node.SetName(name)
            return
        node = self._node = to_volume_node(image, self._scene, name)
        look_alike(node, self._moving)
        keep_out_of_files(node)
        self._before = {
            view.GetID(): (view.GetBackgroundVolumeID(), view.GetForegroundVolumeID(), view.GetForegroundOpacity())
            for view in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
        }
        slicer.util.setSliceViewerLayers(background=self._fixed, foreground=node, foregroundOpacity=_OPACITY)

    def remove(self) -> None:
        """Take the volume out of the scene, and show in the slice views again what they showed before."""
        node, self._node = self.node, None
        if node is None:
            return
        for identity, (background, foreground, opacity) in self._before.items():
            view = self._scene.GetNodeByID(identity)
            if view is not None and view.GetForegroundVolumeID() == node.GetID():
                view.SetBackgroundVolumeID(background)
                view.SetForegroundVolumeID(foreground)
                view.SetForegroundOpacity(opacity)
        self._before = {}
        display = node.GetDisplayNode()
        self._scene.RemoveNode(node)
        if display is not None:
            self._scene.RemoveNode(display)


def work_of(request: Request) -> str:
    """Return in words what a preview depends on beside the setting; another text asks for another preview."""
    nodes = {
        role: node.GetID()
        for role in ("fixed", "moving", "fixed_mask", "moving_mask", "initial_transform", "fixed_landmarks", "moving_landmarks")
        if (node := getattr(getattr(request, role), "node", getattr(request, role))) is not None
    }
    options = {name: str(value) for name, value in request.options.items() if name not in ("setting", "criterion", "device")}
    return json.dumps([nodes, options, places_of(request)])
