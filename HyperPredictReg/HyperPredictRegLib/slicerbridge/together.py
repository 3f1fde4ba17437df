"""Nodes that belong together: added all or none, found again by run and role, and kept in one folder."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import slicer
import vtk

RUN = "HyperPredictReg.run"
"""The attribute by which all nodes of one registration or prediction are known, in saved scenes too."""

ROLE = "HyperPredictReg.role"
"""The attribute that says what a node is within its run."""


@contextmanager
def all_or_none(scene: Any) -> Iterator[None]:
    """Keep what is added to `scene` in the block only if the block ends well; otherwise the scene is as it was.

    The views are not drawn anew for each node, but once at the end.
    """
    known, items = {node.GetID() for node in _nodes(scene)}, set(_items(scene))
    scene.StartState(scene.BatchProcessState)
    try:
        yield
    except BaseException:
        # Items go first and without their nodes: an item whose node has gone says so in a warning.
        for item in reversed([item for item in _items(scene) if item not in items]):
            _hierarchy(scene).RemoveItem(item, False, False)
        for node in reversed([node for node in _nodes(scene) if node.GetID() not in known]):
            scene.RemoveNode(node)
        raise
    finally:
        scene.EndState(scene.BatchProcessState)


def remove_run(scene: Any, run: str) -> None:
    """Remove the nodes of a run with their display and storage nodes from `scene`, and the folders that this leaves empty."""
    nodes = [node for node in _nodes(scene) if node.GetAttribute(RUN) == run]
    hierarchy = _hierarchy(scene)
    scene.StartState(scene.BatchProcessState)
    try:
        folders = set()
        for node in nodes:
            item = hierarchy.GetItemByDataNode(node)
            if item != hierarchy.GetInvalidItemID():
                folders.add(hierarchy.GetItemParent(item))
                hierarchy.RemoveItem(item, False, False)
            attached = _attached(node)
            scene.RemoveNode(node)
            for other in attached:
                scene.RemoveNode(other)
        for folder in folders - {hierarchy.GetSceneItemID()}:
            if hierarchy.GetItemDataNode(folder) is None and _is_folder(hierarchy, folder) and not _children(hierarchy, folder):
                hierarchy.RemoveItem(folder, False, False)
    finally:
        scene.EndState(scene.BatchProcessState)


def put_in_folder(scene: Any, nodes: Sequence[Any], name: str, parent: int | None = None) -> int:
    """Put nodes into a new subject hierarchy folder and return the folder's item number.

    Parameters
    ----------
    scene : vtkMRMLScene.
    nodes : what to put in.
    name : the folder's name.
    parent : the item that the folder goes under; the scene itself if left out.
    """
    hierarchy = _hierarchy(scene)
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID() if parent is None else parent, name)
    put_under(scene, nodes, folder)
    return int(folder)


def put_under(scene: Any, nodes: Sequence[Any], folder: int) -> None:
    """Put nodes under a subject hierarchy item."""
    hierarchy = _hierarchy(scene)
    for node in nodes:
        # The application makes items by itself; outside of it nobody does.
        item = hierarchy.GetItemByDataNode(node)
        if item == hierarchy.GetInvalidItemID():
            hierarchy.CreateItem(folder, node)
        else:
            hierarchy.SetItemParent(item, folder)


def item_above(scene: Any, node: Any) -> int:
    """Return the subject hierarchy item that a node lies under, such as its study; the scene's if it is in none."""
    hierarchy = _hierarchy(scene)
    item = hierarchy.GetItemByDataNode(node)
    above = hierarchy.GetInvalidItemID() if item == hierarchy.GetInvalidItemID() else hierarchy.GetItemParent(item)
    return int(hierarchy.GetSceneItemID() if above == hierarchy.GetInvalidItemID() else above)


def mark_run(roles: Mapping[str, Any], run: str | None = None) -> str:
    """Write a run's name, by default a new one, and each node's role into the nodes' attributes; return the name."""
    run = run or uuid.uuid4().hex
    for role, node in roles.items():
        node.SetAttribute(RUN, run)
        node.SetAttribute(ROLE, role)
    return run


def nodes_of_run(scene: Any, run: str) -> dict[str, Any]:
    """Return the nodes of a run that are still in the scene, by role."""
    found: dict[str, Any] = {}
    for node in _nodes(scene):
        if node.GetAttribute(RUN) == run and node.GetAttribute(ROLE):
            found.setdefault(node.GetAttribute(ROLE), node)
    return found


def _nodes(scene: Any) -> list[Any]:
    return [scene.GetNthNode(n) for n in range(scene.GetNumberOfNodes())]


def _attached(node: Any) -> list[Any]:
    """Return a node's display and storage nodes."""
    found = []
    if node.IsA("vtkMRMLDisplayableNode"):
        found += [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]
    if node.IsA("vtkMRMLStorableNode"):
        found += [node.GetNthStorageNode(n) for n in range(node.GetNumberOfStorageNodes())]
    return [one for one in found if one is not None]


def _hierarchy(scene: Any) -> Any:
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)


def _items(scene: Any) -> list[int]:
    """Return all subject hierarchy items, children after their parents; none if the scene has no hierarchy yet."""
    if scene.GetNumberOfNodesByClass("vtkMRMLSubjectHierarchyNode") == 0:
        return []
    hierarchy = _hierarchy(scene)
    return _children(hierarchy, hierarchy.GetSceneItemID(), recursive=True)


def _children(hierarchy: Any, item: int, recursive: bool = False) -> list[int]:
    ids = vtk.vtkIdList()
    hierarchy.GetItemChildren(item, ids, recursive)
    return [ids.GetId(n) for n in range(ids.GetNumberOfIds())]


def _is_folder(hierarchy: Any, item: int) -> bool:
    return str(hierarchy.GetItemLevel(item)) == slicer.vtkMRMLSubjectHierarchyConstants.GetSubjectHierarchyLevelFolder()
