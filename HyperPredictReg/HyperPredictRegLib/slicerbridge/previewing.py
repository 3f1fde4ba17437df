"""A preview in the scene: the worker that makes it, and the volume, shown for as long as it lasts and never saved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import SimpleITK as sitk
import slicer
import vtk

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.slicerbridge.request import Request, places_of
from HyperPredictRegLib.slicerbridge.task import Task
from HyperPredictRegLib.slicerbridge.together import forget_item, keep_out_of_files
from HyperPredictRegLib.slicerbridge.volumes import look_alike, numpy_matrix, to_volume_node, update_volume_node
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
        self._display: Any = None
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
        # The user may have deleted the one before.
        self.remove()
        node = self._node = to_volume_node(image, self._scene, name)
        self._display = node.GetDisplayNode()
        look_alike(node, self._moving)
        keep_out_of_files(node)
        self._before = {
            view.GetID(): (view.GetBackgroundVolumeID(), view.GetForegroundVolumeID(), view.GetForegroundOpacity())
            for view in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
        }
        slicer.util.setSliceViewerLayers(background=self._fixed, foreground=node, foregroundOpacity=_OPACITY)

    def remove(self) -> None:
        """Take the volume out of the scene, and show in the slice views again what they showed before.

        If the user has deleted the volume, the rest of this is done all the same.
        """
        node, self._node = self._node, None
        display, self._display = self._display, None
        if node is None:
            return
        for identity, layers in self._before.items():
            view = self._scene.GetNodeByID(identity)
            # None where the volume was deleted; anything else the user has turned to.
            if view is not None and view.GetForegroundVolumeID() in (None, "", node.GetID()):
                self._restore(view, *layers)
        self._before = {}
        if node.GetScene() is not None:
            forget_item(self._scene, node)
            self._scene.RemoveNode(node)
        if display is not None and display.GetScene() is not None:
            self._scene.RemoveNode(display)

    def _restore(self, view: Any, background: str | None, foreground: str | None, opacity: float) -> None:
        """Show in a slice view what it showed before, as far as that is still in the scene."""
        if not background or self._scene.GetNodeByID(background) is not None:
            view.SetBackgroundVolumeID(background)
        still_there = foreground and self._scene.GetNodeByID(foreground) is not None
        view.SetForegroundVolumeID(foreground if still_there else None)
        view.SetForegroundOpacity(opacity)


def work_of(request: Request) -> str:
    """Return in words what a preview is of beside the setting: the nodes that are chosen, and options; another text ends it."""
    nodes = {role: node.GetID() for role, node in _nodes(request).items()}
    options = {name: str(value) for name, value in request.options.items() if name not in ("setting", "criterion", "device")}
    return json.dumps([nodes, options])


def content_of(request: Request) -> str:
    """Return in words what the nodes hold: another text says that something was moved or edited, so that it begins anew.

    Of voxels, and of what no more can be said of, only when they were last changed.
    """
    nodes = _nodes(request)
    changed: dict[str, list[Any]] = {role: _changed(nodes[role]) for role in ("fixed", "moving") if role in nodes}
    for role in ("fixed_mask", "moving_mask"):
        if (node := nodes.get(role)) is not None:
            above = node.GetParentTransformNode()
            changed[role] = [*_changed(node), 0 if above is None else above.GetTransformToWorldMTime()]
    if (start := nodes.get("initial_transform")) is not None:
        changed["initial_transform"] = [start.GetTransformToWorldMTime()]
    return json.dumps([places_of(request), changed])


def _nodes(request: Request) -> dict[str, Any]:
    """Return the nodes by the roles that count for a preview."""
    chosen = {
        "fixed": request.fixed, "moving": request.moving, "initial_transform": request.initial_transform,
        "fixed_mask": request.fixed_mask and request.fixed_mask.node,
        "moving_mask": request.moving_mask and request.moving_mask.node,
        "fixed_landmarks": request.fixed_landmarks, "moving_landmarks": request.moving_landmarks,
    }  # fmt: skip
    return {role: node for role, node in chosen.items() if node is not None}


def _changed(node: Any) -> list[Any]:
    """Return when voxels, of a volume or of each segment, were last changed; of a volume also the matrix from its indices."""
    if node.IsA("vtkMRMLSegmentationNode"):
        segmentation = node.GetSegmentation()
        kind = segmentation.GetSourceRepresentationName()
        segments = {one: segmentation.GetSegment(one).GetRepresentation(kind) for one in segmentation.GetSegmentIDs()}
        return [{one: None if held is None else held.GetMTime() for one, held in segments.items()}]
    matrix, data = vtk.vtkMatrix4x4(), node.GetImageData()
    node.GetIJKToRASMatrix(matrix)
    return [None if data is None else data.GetMTime(), numpy_matrix(matrix).tolist()]
