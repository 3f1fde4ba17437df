"""Draw the pictures of the panel that README and tutorial show: the real panel, clicked through on the stand-in for Slicer.

    python docs/make_panel_pictures.py

The stand-in (Testing/slicerhost) is not Slicer: fonts, colours and widths differ from it, texts and order do not.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TOP / "Testing"), str(TOP / "Testing" / "Python")]

import slicer  # noqa: E402
import slicerhost  # noqa: E402
from panel_samples import MODULE_FILE, finish  # noqa: E402
from PySide6.QtCore import Qt  # noqa: E402

OUT = TOP / "Resources" / "Screenshots"
WIDTH = 460
SECTIONS = ("inputs", "best", "register", "result", "apply")


def show_only(panel: slicerhost.Panel, *sections: str) -> None:
    """Open these sections and close all others."""
    for name in SECTIONS:
        getattr(panel.ui, f"{name}CollapsibleButton").setCollapsed(name not in sections)


def main(out: Path = OUT) -> None:
    """Click through the tutorial and take a picture of each step."""
    with slicerhost.start() as host:
        panel = host.open_module(MODULE_FILE)
        host.startup()

        def picture(name: str, *sections: str, **look: Any) -> None:
            show_only(panel, *sections)
            host.let_qt_work()
            slicerhost.screenshot(panel.frame, out / f"panel-{name}.png", width=WIDTH, **look)

        slicerhost.press_button("SampleBrainPair")
        ui = panel.ui
        for selector, name in (("fixed", "BrainFixed"), ("moving", "BrainMoving")):
            getattr(ui, f"{selector}Selector").setCurrentNode(slicer.util.getNode(name))
            getattr(ui, f"{selector}SegmentationSelector").setCurrentNode(slicer.util.getNode(f"{name}Segmentation"))
        ui.moreInputsCollapsibleButton.setCollapsed(False)
        picture("1-inputs", "inputs")
        ui.moreInputsCollapsibleButton.setCollapsed(True)
        ui.suggestButton.click()
        finish(host, panel, 600)
        picture("2-suggestion", "best")
        ui.criterionCollapsibleButton.setCollapsed(False)
        for row in range(ui.structuresTable.rowCount):
            if "ventricle" in ui.structuresTable.item(row, 0).text():
                ui.structuresTable.item(row, 0).setCheckState(Qt.CheckState.Checked)
        ui.weightSlider.setValue(120)
        picture("3-manual", "best")
        ui.manualCheckBox.setChecked(False)
        for row in range(ui.structuresTable.rowCount):
            ui.structuresTable.item(row, 0).setCheckState(Qt.CheckState.Unchecked)
        ui.criterionCollapsibleButton.setCollapsed(True)
        show_only(panel, "register")
        ui.registerButton.click()
        host.wait_until(lambda: ui.progressBar.value >= 55, 300)
        picture("4-registering", "register")
        finish(host, panel, 600)
        picture("5-result", "result")
        items = ui.itemsList
        for row in range(items.count):
            if items.item(row).text() in ("BrainMoving", "BrainMovingSegmentation"):
                items.item(row).setCheckState(Qt.CheckState.Checked)
        host.let_qt_work()
        ui.applyButton.click()
        picture("6-apply", "apply")
        picture("dark", "inputs", "best", "register", dark=True)
        picture("whole", *SECTIONS)
        for one in host.panels:
            one.close()
        complaints = host.complaints()
    if complaints:
        raise SystemExit("\n".join(complaints))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
