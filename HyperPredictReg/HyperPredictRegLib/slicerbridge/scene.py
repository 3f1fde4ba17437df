"""A finished registration as a Slicer scene, and scenes without the Slicer application."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import slicer
import vtk

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.results.outcome import Outcome
from HyperPredictRegLib.slicerbridge.outcome_nodes import OutcomeNodes, add_outcome
from HyperPredictRegLib.slicerbridge.segmentations import register_conversions
from HyperPredictRegLib.slicerbridge.together import drop_items_without_node
from HyperPredictRegLib.slicerbridge.transforms import use_linear_interpolation_everywhere
from HyperPredictRegLib.worker import new_workplace, remove_workplace

_SLICE_VIEWS = ("Red", "Yellow", "Green")


def write_scene(outcome: Outcome, path: Path) -> None:
    """Write a registration as a Slicer scene bundle (.mrb) that Slicer opens; an existing file is replaced at the end.

    Raises
    ------
    InputError : `path` does not end with .mrb.
    OSError : the scene cannot be written there.
    """
    path = Path(path)
    if path.suffix.lower() != ".mrb":
        raise InputError(f"The scene '{path}' should have a name that ends with .mrb.")
    scene = slicer.vtkMRMLScene()
    with application_logic(scene):
        nodes = add_outcome(scene, outcome)
        _show(scene, nodes)
        save_scene(scene, path)
        scene.Clear(1)


def save_scene(scene: Any, path: Path) -> None:
    """Write `scene` as a bundle (.mrb): first under a temporary name, then renamed.

    Raises
    ------
    OSError : the scene cannot be written there.
    """
    path = Path(path)
    # Beside the target, because a rename cannot cross file systems; under the final name, because the bundle repeats it.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".scene-") as folder:
        draft = Path(folder) / path.name
        if not scene.WriteToMRB(str(draft)) or not draft.exists():
            raise OSError(f"The scene '{path}' could not be written: is there room on the disk, and may you write there?")
        draft.replace(path)


def open_scene(path: Path) -> Any:
    """Read a scene bundle (.mrb) or file (.mrml) into a new vtkMRMLScene, outside of the Slicer application.

    Displacement grids are set to linear interpolation, as ITK reads them.

    Raises
    ------
    InputError : the file is missing or cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"The scene '{path}' does not exist.")
    is_bundle = path.suffix.lower() != ".mrml"
    # Checked first, because Slicer's unpacking of a damaged bundle leaves the process in another working directory.
    if is_bundle and not zipfile.is_zipfile(path):
        raise InputError(f"The scene '{path}' could not be read: it is no Slicer scene bundle, or it is damaged.")
    scene = slicer.vtkMRMLScene()
    with application_logic(scene):
        if is_bundle:
            read = scene.ReadFromMRB(str(path.absolute()))
        else:
            scene.SetURL(str(path.absolute()))
            scene.SetRootDirectory(str(path.absolute().parent))
            read = scene.Import()
    if not read:
        raise InputError(f"The scene '{path}' could not be read: it is no Slicer scene, or it is damaged.")
    use_linear_interpolation_everywhere(scene)
    drop_items_without_node(scene)
    return scene


@contextmanager
def application_logic(scene: Any) -> Iterator[Any]:
    """Give `scene` what the Slicer application gives its own: colors, bundle reading, conversions of segmentations.

    Yields
    ------
    logic : the vtkSlicerApplicationLogic, which stands for the application only within the `with` block.
    """
    logic = slicer.vtkSlicerApplicationLogic()
    logic.SetMRMLScene(scene)
    colors = logic.GetColorLogic()
    colors.SetMRMLScene(scene)
    colors.AddDefaultColorNodes()
    logic.SetModuleLogic("Colors", colors)
    logic.SetSliceLogics(vtk.vtkCollection())
    logic.SetViewLogics(vtk.vtkCollection())
    register_conversions()
    remote = slicer.vtkMRMLRemoteIOLogic()
    manager = slicer.vtkDataIOManagerLogic()
    # Bundles are unpacked into the cache folder, which has to be there and empty; one that a killed process leaves goes later.
    workplace = new_workplace()
    try:
        cache = workplace / "cache"
        cache.mkdir()
        remote.SetMRMLApplicationLogic(logic)
        remote.GetCacheManager().SetRemoteCacheDirectory(str(cache))
        remote.SetMRMLScene(scene)
        remote.AddDataIOToScene()
        manager.SetMRMLApplicationLogic(logic)
        manager.SetAndObserveDataIOManager(remote.GetDataIOManager())
        try:
            yield logic
        finally:
            remote.RemoveDataIOFromScene()
            for part in (remote, colors, logic):
                part.SetMRMLScene(None)
    finally:
        remove_workplace(workplace)


def _show(scene: Any, nodes: OutcomeNodes) -> None:
    """Let the slice views that Slicer opens show the warped volume half transparent over the fixed one."""
    for view in _SLICE_VIEWS:
        composite = slicer.vtkMRMLSliceCompositeNode()
        composite.SetLayoutName(view)
        composite.SetSingletonTag(view)
        composite.SetName(view)
        composite.SetBackgroundVolumeID(nodes.fixed.GetID())
        composite.SetForegroundVolumeID(nodes.warped.GetID())
        composite.SetForegroundOpacity(0.5)
        scene.AddNode(composite)
    if nodes.moving_segmentation is not None:
        nodes.moving_segmentation.GetDisplayNode().SetVisibility(False)
