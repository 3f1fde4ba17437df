"""A finished registration as a Slicer scene, and scenes without the Slicer application."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer
import vtk

from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.geometry import Geometry
from HyperPredictRegLib.outcome import Outcome
from HyperPredictRegLib.slicerbridge.provenance import add_report_node, link_images, record_provenance
from HyperPredictRegLib.slicerbridge.segmentations import propagate, register_conversions, to_segmentation_node
from HyperPredictRegLib.slicerbridge.tables import TraceNodes, add_measures_table, add_structures_table, add_trace
from HyperPredictRegLib.slicerbridge.transforms import (
    cubic_reload_difference_mm,
    to_transform_node,
    use_linear_interpolation_everywhere,
)
from HyperPredictRegLib.slicerbridge.volumes import to_volume_node

_SLICE_VIEWS = ("Red", "Yellow", "Green")


@dataclass(frozen=True)
class OutcomeNodes:
    """The nodes of one registration; None where the outcome has no such part."""

    fixed: Any
    moving: Any
    warped: Any
    jacobian: Any
    transform: Any
    fixed_segmentation: Any | None
    moving_segmentation: Any | None
    propagated_segmentation: Any | None
    structures: Any | None
    measures: Any
    alignment_trace: TraceNodes | None
    registration_trace: TraceNodes | None
    report: Any

    def all(self) -> list[Any]:
        """Return every node, in the order of the fields."""
        nodes: list[Any] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, TraceNodes):
                nodes += [value.table, value.curves, *value.series, value.chart]
            elif value is not None:
                nodes.append(value)
        return nodes


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
    return scene


def add_outcome(
    scene: Any, outcome: Outcome, *, fixed_node: Any = None, moving_node: Any = None, segmentation_node: Any = None
) -> OutcomeNodes:
    """Add a registration to `scene`: images, transform, segmentations, tables, charts and report, in one folder.

    The moving volume is not put under the transform and the warped one has no parent transform either, so that nothing is
    moved twice.

    Parameters
    ----------
    scene : vtkMRMLScene, the application's or a new one.
    outcome : what to add.
    fixed_node, moving_node : the volumes if they are in the scene already; they are left as they are.
    segmentation_node : a segmentation of the moving volume to propagate instead of the outcome's labels, with its segments'
        ids, names, colours, terminology and overlaps; it is left as it is.
    """
    report = outcome.report
    names = outcome.label_names
    grid = Geometry.of(outcome.fixed)

    def segmentation(labels: Any, name: str) -> Any | None:
        return None if labels is None else to_segmentation_node(labels, scene, name, names=names)

    dice = report.measured.dice
    nodes = OutcomeNodes(
        fixed=fixed_node or to_volume_node(outcome.fixed, scene, "Fixed"),
        moving=moving_node or to_volume_node(outcome.moving, scene, "Moving"),
        warped=to_volume_node(outcome.warped, scene, "Moving warped"),
        jacobian=to_volume_node(outcome.jacobian, scene, "Jacobian determinant"),
        transform=to_transform_node(outcome.transform, scene, "Moving to fixed"),
        fixed_segmentation=segmentation(outcome.fixed_labels, "Fixed segmentation"),
        moving_segmentation=segmentation_node or segmentation(outcome.moving_labels, "Moving segmentation"),
        propagated_segmentation=segmentation(outcome.warped_labels, "Propagated segmentation")
        if segmentation_node is None
        else propagate(segmentation_node, outcome.transform, grid, scene, "Propagated segmentation"),
        structures=add_structures_table(scene, dice.structures) if dice is not None else None,
        measures=add_measures_table(scene, report.measured),
        alignment_trace=add_trace(scene, report.alignment.stages, "Alignment metric"),
        registration_trace=add_trace(scene, report.registration, "Registration metric"),
        report=add_report_node(scene, report),
    )
    for node, volume in (
        (nodes.fixed_segmentation, nodes.fixed),
        (nodes.moving_segmentation, nodes.moving),
        (nodes.propagated_segmentation, nodes.fixed),
    ):
        if node is not None and node is not segmentation_node:
            node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    nodes.transform.SetDescription(_reload_note(outcome))
    link_images(nodes.transform, nodes.fixed, nodes.moving)
    inputs = (nodes.fixed, nodes.moving, nodes.fixed_segmentation, nodes.moving_segmentation)
    record_provenance([node for node in nodes.all() if not any(node is i for i in inputs)], report)
    theirs = [node for node in (fixed_node, moving_node, segmentation_node) if node is not None]
    ours = [node for node in nodes.all() if not any(node is other for other in theirs)]
    put_in_folder(scene, ours, f"Registration with {report.engine.name}")
    return nodes


def put_in_folder(scene: Any, nodes: list[Any], name: str) -> int:
    """Put nodes into a new subject hierarchy folder and return the folder's item number."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    if hierarchy is None:
        hierarchy = scene.AddNewNodeByClass("vtkMRMLSubjectHierarchyNode")
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), name)
    for node in nodes:
        # The application makes items by itself; outside of it nobody does.
        item = hierarchy.GetItemByDataNode(node)
        if item == hierarchy.GetInvalidItemID():
            hierarchy.CreateItem(folder, node)
        else:
            hierarchy.SetItemParent(item, folder)
    return int(folder)


@contextmanager
def application_logic(scene: Any) -> Iterator[Any]:
    """Give `scene` what the Slicer application gives its own: colours, bundle reading, conversions of segmentations.

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
    # Bundles are unpacked into the cache folder, which has to be there and empty.
    with tempfile.TemporaryDirectory(prefix="hyperpredictreg-") as cache:
        remote.SetMRMLApplicationLogic(logic)
        remote.GetCacheManager().SetRemoteCacheDirectory(cache)
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


def _reload_note(outcome: Outcome) -> str:
    """Say on the transform itself what its grid comes to where Slicer opens the scene without this extension."""
    inside = np.argwhere(sitk.GetArrayViewFromImage(outcome.foreground) > 0)[:, ::-1]
    # A thousand voxels spread evenly; half a voxel aside, because on the voxels all interpolations agree.
    chosen = inside[:: max(1, len(inside) // 1000)] + 0.5
    if not len(chosen):
        return ""
    apart = cubic_reload_difference_mm(outcome.transform, Geometry.of(outcome.foreground).to_lps(chosen))
    return (
        "Displacement fields are interpolated linearly. Slicer without HyperPredictReg reads them as cubic, which moves points "
        f"of the foreground by {apart.mean():.2g} mm on average and by {apart.max():.2g} mm at most."
    )


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
