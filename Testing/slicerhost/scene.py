"""The application's scene: real MRML with what Slicer's application logic adds to it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import slicer
import vtk

SLICE_VIEWS = ("Red", "Yellow", "Green")
_ORIENTATIONS = {"Red": "Axial", "Yellow": "Sagittal", "Green": "Coronal"}
# Shown in the subject hierarchy as soon as they are in the scene; Slicer asks its plugins.
_IN_HIERARCHY = ("vtkMRMLDisplayableNode", "vtkMRMLTableNode", "vtkMRMLTextNode", "vtkMRMLPlotChartNode", "vtkMRMLPlotSeriesNode")


class ApplicationScene:
    """A scene with colours, slice views, module logics, reading of bundles and a subject hierarchy that fills itself."""

    def __init__(self) -> None:
        self.scene = slicer.vtkMRMLScene()
        self._cache = tempfile.TemporaryDirectory(prefix="slicerhost-cache-")
        self.logic = slicer.vtkSlicerApplicationLogic()
        self.logic.SetMRMLScene(self.scene)
        self.logic.SetTemporaryPath(self._cache.name)
        colors = self.logic.GetColorLogic()
        colors.SetMRMLScene(self.scene)
        colors.AddDefaultColorNodes()
        self.logic.SetModuleLogic("Colors", colors)
        self._parts = [colors, self.logic]
        self._prepare_reading()
        self.slice_logics: dict[str, Any] = {}
        self._prepare_views()
        self.module_logics = self._make_module_logics()
        self._observed: list[int] = []
        self._fill_hierarchy()

    def _prepare_reading(self) -> None:
        self._remote = slicer.vtkMRMLRemoteIOLogic()
        self._remote.SetMRMLApplicationLogic(self.logic)
        cache = Path(self._cache.name) / "RemoteIO"
        cache.mkdir()
        self._remote.GetCacheManager().SetRemoteCacheDirectory(str(cache))
        self._remote.SetMRMLScene(self.scene)
        self._remote.AddDataIOToScene()
        self._manager = slicer.vtkDataIOManagerLogic()
        self._manager.SetMRMLApplicationLogic(self.logic)
        self._manager.SetAndObserveDataIOManager(self._remote.GetDataIOManager())
        self._parts.insert(0, self._remote)

    def _prepare_views(self) -> None:
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(self.scene, True)
        logics = vtk.vtkCollection()
        for name in SLICE_VIEWS:
            logic = slicer.vtkMRMLSliceLogic()
            logic.SetMRMLApplicationLogic(self.logic)
            logic.SetMRMLScene(self.scene)
            node = logic.AddSliceNode(name)
            node.SetName(name)
            node.SetOrientation(_ORIENTATIONS[name])
            self.slice_logics[name] = logic
            logics.AddItem(logic)
        self.logic.SetSliceLogics(logics)
        self.logic.SetViewLogics(vtk.vtkCollection())
        layout = slicer.vtkMRMLLayoutNode()
        layout.SetSingletonTag("vtkMRMLLayoutNode")
        self.layout_node = self.scene.AddNode(layout)
        crosshair = slicer.vtkMRMLCrosshairNode()
        crosshair.SetCrosshairName("default")
        self.scene.AddNode(crosshair)
        plot_view = slicer.vtkMRMLPlotViewNode()
        plot_view.SetSingletonTag("PlotView1")
        plot_view.SetName("PlotView1")
        plot_view.SetLayoutName("PlotView1")
        self.scene.AddNode(plot_view)

    def _make_module_logics(self) -> dict[str, Any]:
        logics = {}
        for name, kind in (
            ("Volumes", slicer.vtkSlicerVolumesLogic),
            ("Segmentations", slicer.vtkSlicerSegmentationsModuleLogic),
            ("Transforms", slicer.vtkSlicerTransformLogic),
            ("Plots", slicer.vtkSlicerPlotsLogic),
            ("Tables", slicer.vtkSlicerTablesLogic),
            ("Markups", slicer.vtkSlicerMarkupsLogic),
            ("SubjectHierarchy", slicer.vtkSlicerSubjectHierarchyModuleLogic),
        ):
            logic = kind()
            logic.SetMRMLApplicationLogic(self.logic)
            logic.SetMRMLScene(self.scene)
            self.logic.SetModuleLogic(name, logic)
            logics[name] = logic
            self._parts.insert(0, logic)
        return logics

    def _fill_hierarchy(self) -> None:
        scene = self.scene
        slicer.vtkMRMLSubjectHierarchyNode.ResolveSubjectHierarchy(scene)

        def add(node: Any) -> None:
            if node.GetHideFromEditors() or not any(node.IsA(kind) for kind in _IN_HIERARCHY):
                return
            hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
            if hierarchy is not None and hierarchy.GetItemByDataNode(node) == hierarchy.GetInvalidItemID():
                hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)

        @vtk.calldata_type(vtk.VTK_OBJECT)
        def added(_scene: Any, _event: str, node: Any) -> None:
            if node.IsA("vtkMRMLSubjectHierarchyNode"):
                slicer.vtkMRMLSubjectHierarchyNode.ResolveSubjectHierarchy(scene)
            elif not scene.IsImporting():
                add(node)

        @vtk.calldata_type(vtk.VTK_OBJECT)
        def removed(_scene: Any, _event: str, node: Any) -> None:
            hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
            item = hierarchy.GetItemByDataNode(node) if hierarchy is not None and not scene.IsClosing() else 0
            if item:
                hierarchy.RemoveItem(item, False, False)

        def imported(*_: Any) -> None:
            for node in list(scene.GetNodes()):
                add(node)

        events = slicer.vtkMRMLScene
        for event, follow in (
            (events.NodeAddedEvent, added),
            (events.NodeAboutToBeRemovedEvent, removed),
            (events.EndImportEvent, imported),
            (events.EndCloseEvent, lambda *_: slicer.vtkMRMLSubjectHierarchyNode.ResolveSubjectHierarchy(scene)),
        ):
            self._observed.append(scene.AddObserver(event, follow))

    def close(self) -> None:
        """Take everything apart."""
        for tag in self._observed:
            self.scene.RemoveObserver(tag)
        self.scene.Clear(1)
        self._remote.RemoveDataIOFromScene()
        for logic in self.slice_logics.values():
            logic.SetMRMLScene(None)
        self.logic.SetSliceLogics(vtk.vtkCollection())
        for part in self._parts:
            # Without any scene, the segmentations' logic looks for a subject hierarchy all the same, and warns.
            part.SetMRMLScene(slicer.vtkMRMLScene() if part is self.module_logics["Segmentations"] else None)
        self._cache.cleanup()
