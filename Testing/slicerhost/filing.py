"""Reading and writing of files as `slicer.util.load*` and `save*` ask for it."""
# ruff: noqa: N802 - Slicer's names.

from __future__ import annotations

from pathlib import Path
from typing import Any

from slicerhost.missing import Strict, missing
from slicerhost.scene import ApplicationScene

_KINDS = {
    "SceneFile": (".mrml", ".mrb"),
    "SegmentationFile": (".seg.nrrd", ".seg.nhdr"),
    "TransformFile": (".h5", ".tfm"),
    "TableFile": (".csv", ".tsv"),
    "MarkupsFile": (".mrk.json", ".fcsv"),
    "VolumeFile": (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd"),
}


class CoreIOManager(Strict):
    """`slicer.app.coreIOManager()`: the kinds of files that a registration needs, by the real logics."""

    _host_name = "slicer.app.coreIOManager()"

    def __init__(self, application_scene: ApplicationScene) -> None:
        self._application = application_scene

    def fileType(self, path: str) -> str:
        """Return the kind of a file, by its name."""
        name = str(path).lower()
        for kind, endings in _KINDS.items():
            if name.endswith(endings):
                return kind
        raise missing(self._host_name, f"fileType for '{Path(path).name}'")

    def loadNodes(self, kind: str, properties: dict[str, Any], loaded: Any, _messages: Any = None) -> bool:
        """Load a file; the new node goes into the collection `loaded`."""
        path = str(properties["fileName"])
        if not Path(path).exists():
            return False
        if kind == "SceneFile":
            return self._load_scene(path, bool(properties.get("clear", False)))
        logics = self._application.module_logics
        name = properties.get("name") or Path(path).name.split(".")[0]
        if kind == "VolumeFile":
            node = logics["Volumes"].AddArchetypeVolume(path, name, 1 if properties.get("labelmap") else 0)
        elif kind == "SegmentationFile":
            node = logics["Segmentations"].LoadSegmentationFromFile(path, True, name)
        elif kind == "TransformFile":
            node = logics["Transforms"].AddTransform(path, self._application.scene)
        elif kind == "TableFile":
            node = logics["Tables"].AddTable(path, name)
        elif kind == "MarkupsFile":
            node = self._application.scene.GetNodeByID(logics["Markups"].LoadMarkups(path, name) or "")
        else:
            raise missing(self._host_name, f"loadNodes('{kind}')")
        if node is not None:
            loaded.AddItem(node)
        return node is not None

    def _load_scene(self, path: str, clear: bool) -> bool:
        scene = self._application.scene
        if path.lower().endswith(".mrb"):
            return bool(scene.ReadFromMRB(path, clear))
        scene.SetURL(path)
        scene.SetRootDirectory(str(Path(path).parent))
        return bool(scene.Connect() if clear else scene.Import())

    def saveNodes(self, kind: str, properties: dict[str, Any], _messages: Any = None) -> bool:
        """Save the scene (as .mrb or .mrml) or one node."""
        path = str(properties["fileName"])
        scene = self._application.scene
        if kind == "SceneFile":
            if path.lower().endswith(".mrb"):
                return bool(scene.WriteToMRB(path))
            scene.SetRootDirectory(str(Path(path).parent))
            return bool(scene.Commit(path))
        node = scene.GetNodeByID(properties.get("nodeID") or "")
        storage = node.CreateDefaultStorageNode() if node is not None else None
        if storage is None:
            return False
        storage.UnRegister(None)
        storage.SetFileName(path)
        storage.SetScene(scene)
        return bool(storage.WriteData(node))
