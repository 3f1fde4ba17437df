"""Where a node came from: which engine, hyperparameters, seed and versions made it, from which images."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import slicer

from HyperPredictRegLib.job import Report
from HyperPredictRegLib.records import from_json, to_json

ENGINE = "HyperPredictReg.engine"
HYPERPARAMETERS = "HyperPredictReg.hyperparameters"
SEED = "HyperPredictReg.seed"
VERSIONS = "HyperPredictReg.versions"


def record_provenance(nodes: Iterable[Any], report: Report) -> None:
    """Write engine, hyperparameters, seed and versions of `report` into attributes of each node, as text or JSON."""
    attributes = {
        ENGINE: f"{report.engine.name} {report.engine.version}",
        HYPERPARAMETERS: json.dumps(report.hyperparameters),
        SEED: str(report.job.seed),
        VERSIONS: json.dumps(report.versions),
    }
    for node in nodes:
        for name, value in attributes.items():
            node.SetAttribute(name, value)


def link_images(transform_node: Any, fixed_node: Any, moving_node: Any) -> None:
    """Refer from a transform node to the volumes it registers, by the roles that Slicer's DICOM export reads."""
    roles = slicer.vtkMRMLTransformNode
    transform_node.SetNodeReferenceID(roles.GetFixedNodeReferenceRole(), fixed_node.GetID())
    transform_node.SetNodeReferenceID(roles.GetMovingNodeReferenceRole(), moving_node.GetID())


def add_report_node(scene: Any, report: Report, name: str = "Registration report") -> Any:
    """Add the whole report, JSON, to `scene` as a vtkMRMLTextNode and return the node."""
    node = scene.AddNewNodeByClass("vtkMRMLTextNode", scene.GetUniqueNameByString(name))
    node.SetText(to_json(report))
    return node


def add_warnings(node: Any, warnings: Sequence[str]) -> None:
    """Add sentences to the warnings of the report that a text node holds."""
    report = read_report_node(node)
    node.SetText(to_json(replace(report, warnings=(*report.warnings, *warnings))))


def read_report_node(node: Any) -> Report:
    """Return the report that `add_report_node` stored; raise `InputError` if the text is no such report."""
    return from_json(Report, node.GetText() or "", f"The text '{node.GetName()}'", any_number=True)
