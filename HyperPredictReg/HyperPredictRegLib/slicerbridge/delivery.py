"""What a finished task made, put where the user wants it: into the scene of its volumes, or into a folder."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.outcome import Outcome
from HyperPredictRegLib.prediction import Foresight
from HyperPredictRegLib.slicerbridge import foretold
from HyperPredictRegLib.slicerbridge.placement import record_inputs
from HyperPredictRegLib.slicerbridge.scene import OutcomeNodes, add_outcome_for
from HyperPredictRegLib.slicerbridge.task import Task

_LONGEST_NAME = 100
_PAGE_FILES = ("report.html", "report.json", "*.png")


def deliver_foresight(foresight: Foresight, task: Task, *, earlier: Any = None) -> Any:
    """Put a prediction into the scene of its volumes, in place of an `earlier` one if that is whole; return its text node.

    Parameters
    ----------
    task : what made it.
    earlier : text node of a prediction, or None.
    """
    nodes = None
    if earlier is not None and earlier.GetScene() is not None:
        try:
            nodes = foretold.foresight_nodes_of(earlier)
        except InputError:
            nodes = None
    if nodes is None:
        nodes = foretold.add_foresight(task.request.fixed.GetScene(), foresight)
    else:
        foretold.update_foresight(nodes, foresight)
    record_inputs(nodes.report, task.request, task.places)
    return nodes.report


def deliver_outcome(
    task: Task, *, transform_as: str = "composite", field_spacing_mm: float | None = None
) -> tuple[OutcomeNodes, Outcome]:
    """Put the result of a finished registration into the scene of its volumes, all of it or nothing; see `add_outcome_for`.

    Raises
    ------
    InputError : its volumes have left the scene in the meantime.
    """
    outcome, scene = task.outcome(), task.request.fixed.GetScene()
    nodes = add_outcome_for(scene, outcome, task.given, transform_as=transform_as, field_spacing_mm=field_spacing_mm)
    return nodes, outcome


def save_page(results: Path, folder: Path, name: str) -> Path:
    """Copy a report page with its pictures and numbers into a new folder; return the page.

    Parameters
    ----------
    results : where the page was drawn.
    folder : an existing folder; nothing in it is changed.
    name : of the new folder in it; a number is added if it is taken.

    Raises
    ------
    InputError : it cannot be written there.
    """
    stem = re.sub(r'[\\/:*?"<>|\x00-\x1f]+', " ", name).strip(" .")[:_LONGEST_NAME] or "registration"
    try:
        target = Path(folder) / stem
        number = 1
        while target.exists():
            number += 1
            target = Path(folder) / f"{stem} {number}"
        target.mkdir()
        for pattern in _PAGE_FILES:
            for file in sorted(results.glob(pattern)):
                shutil.copy2(file, target / file.name)
    except OSError as error:
        raise InputError(f"The report could not be saved in '{folder}' ({error.strerror}): choose another folder.") from error
    return target / "report.html"
