"""Nodes that belong together: added all or none, found again by the report of their run, and put into one folder.

The report, a text node, refers to each node of its run by a role, itself included. Slicer adapts references when a scene is
imported into another one and drops those to nodes that are removed; attributes would be shared by copies of a node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import slicer
import vtk

ROLE = "HyperPredictReg.role"
"""The attribute that says what a node was made as; copies of the node have it too."""

_REFERENCE = "HyperPredictReg."  # and the role
_MADE = "HyperPredictReg.made"  # attribute of a report: the roles of the nodes that its run made


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


def remove_run(scene: Any, report: Any) -> None:
    """Remove what a run made, its report too, with display and storage nodes, and the folders that this leaves empty."""
    nodes = list(_made(report).values())
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


def keep_out_of_files(node: Any) -> None:
    """Leave a node, and how it is displayed, out of what is saved of its scene; it can be made anew from what is saved.

    Slicer writes transforms as uncompressed double numbers, whatever the storage node's compression says: each displacement
    field takes 24 bytes a voxel.
    """
    for one in (node, *(_attached(node) if node.IsA("vtkMRMLDisplayableNode") else ())):
        one.SetSaveWithScene(False)


def forget_item(scene: Any, node: Any) -> None:
    """Remove what the subject hierarchy lists of a node, if it does; the node stays."""
    if scene.GetNumberOfNodesByClass("vtkMRMLSubjectHierarchyNode") == 0:
        return
    hierarchy = _hierarchy(scene)
    item = hierarchy.GetItemByDataNode(node)
    if item != hierarchy.GetInvalidItemID():
        hierarchy.RemoveItem(item, False, False)


def drop_items_without_node(scene: Any) -> int:
    """Remove what a loaded scene's hierarchy still lists of our runs' nodes that are not saved; return how many items."""
    if scene.GetNumberOfNodesByClass("vtkMRMLSubjectHierarchyNode") == 0:
        return 0
    hierarchy = _hierarchy(scene)
    folders = {item_above(scene, text) for text in _texts(scene) if _made(text)} - {int(hierarchy.GetSceneItemID())}
    # Folders, patients and studies have no node either, but a level.
    empty = [
        item
        for folder in folders
        for item in _children(hierarchy, folder)
        if hierarchy.GetItemDataNode(item) is None and not hierarchy.GetItemLevel(item)
    ]
    for item in empty:
        hierarchy.RemoveItem(item, False, False)
    return len(empty)


def item_above(scene: Any, node: Any) -> int:
    """Return the subject hierarchy item that a node lies under, such as its study; the scene's if it is in none."""
    hierarchy = _hierarchy(scene)
    item = hierarchy.GetItemByDataNode(node)
    above = hierarchy.GetInvalidItemID() if item == hierarchy.GetInvalidItemID() else hierarchy.GetItemParent(item)
    return int(hierarchy.GetSceneItemID() if above == hierarchy.GetInvalidItemID() else above)


def mark_run(report: Any, made: Mapping[str, Any], inputs: Mapping[str, Any] | None = None) -> None:
    """Let the report of a run refer to nodes by their roles, in addition to those that it refers to already.

    Parameters
    ----------
    report : vtkMRMLTextNode; at the first call it is itself among those that were made.
    made : what the run has made.
    inputs : what it was made of, which is not removed with it.
    """
    for role, node in {**(inputs or {}), **made}.items():
        report.SetNodeReferenceID(_REFERENCE + role, node.GetID())
    for role, node in made.items():
        node.SetAttribute(ROLE, role)
    known = (report.GetAttribute(_MADE) or "").split()
    report.SetAttribute(_MADE, " ".join(dict.fromkeys([*known, *made])))


def report_of(node: Any) -> Any | None:
    """Return the report of the run that made a node, which may be the report itself; None if no run of its scene did."""
    for text in _texts(node.GetScene()):
        if any(one is node for one in _made(text).values()):
            return text
    return None


def nodes_of_run(node: Any) -> dict[str, Any]:
    """Return by role the nodes that are still in the scene of the run that made a node; its inputs too, but not their copies."""
    report = report_of(node)
    return {} if report is None else _referenced(report)


def node_ids_of_runs(scene: Any) -> set[str]:
    """Return the ids of all nodes that the registrations and predictions of a scene have made; of their inputs none."""
    return {node.GetID() for text in _texts(scene) for node in _made(text).values()}


def _referenced(report: Any) -> dict[str, Any]:
    names = [report.GetNthNodeReferenceRole(n) for n in range(report.GetNumberOfNodeReferenceRoles())]
    found = {name.removeprefix(_REFERENCE): report.GetNodeReference(name) for name in names if name.startswith(_REFERENCE)}
    return {role: node for role, node in found.items() if node is not None}


def _made(report: Any) -> dict[str, Any]:
    """Return by role what the run of a report made; nothing for a text that is no report, or only the copy of one."""
    roles = (report.GetAttribute(_MADE) or "").split()
    found = {role: node for role, node in _referenced(report).items() if role in roles} if roles else {}
    return found if any(node is report for node in found.values()) else {}


def _texts(scene: Any | None) -> list[Any]:
    if scene is None:
        return []
    count = scene.GetNumberOfNodesByClass("vtkMRMLTextNode")
    return [scene.GetNthNodeByClass(n, "vtkMRMLTextNode") for n in range(count)]


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
