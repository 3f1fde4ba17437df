"""A small stand-in for Slicer's Qt side, so that pytest can load a scripted module's very file and click through its panel.

It stands on Slicer's real MRML layer (slicer-core: nodes, scene, events, logics, slicer.util) and on PySide6 without a screen,
which it gives the manners of PythonQt (properties are attributes, signals are named by signature). The widgets, the application
object, the base classes and the parameter node wrapper are our own, written after reading what Slicer's do.

    with slicerhost.watched() as host:
        panel = host.open_module(Path("HyperPredictReg/HyperPredictReg.py"))
        host.click(panel.ui.applyButton)

What it does NOT cover, so that a module which passes here still has to be opened in Slicer once:

- how it looks: Slicer's style, fonts and widths; slice and 3D views show nothing (their nodes and logics are real);
- Qt 5.15, with which Slicer 5.12 is built: this is Qt 6, and PySide6 converts types more strictly than PythonQt does in
  places (numbers to texts) and less in others (enumerations are no integers, tuples and lists are both taken);
- PythonQt's memory: who owns a widget, and what happens to it after deleteLater();
- widgets that the .ui of this project does not use (segment editor, subject hierarchy tree, unit-aware sliders, path buttons);
- node selectors: the popup's own rows (create, rename, delete), trees, and editing of nodes; `addNode()` does what its row does;
- plots: interaction, and VTK's own choice of ticks and margins;
- unions, packs and Any in parameter nodes; generated GUIs;
- downloads, DICOM, command line modules, settings on disk, translations, installing of packages, the main window, its menus
  and module selector (what was selected is noted down), the developers' buttons other than Reload;
- timing of the event loop, several screens, and everything that another extension does.
"""

from __future__ import annotations

from slicerhost.host import Host, start, watched
from slicerhost.missing import HostError, MissingInHost
from slicerhost.panel import Panel, unconnected_parameters
from slicerhost.pictures import screenshot
from slicerhost.pythonqt import stray_attributes
from slicerhost.sampledata import press_button

__all__ = [
    "Host",
    "HostError",
    "MissingInHost",
    "Panel",
    "press_button",
    "screenshot",
    "start",
    "stray_attributes",
    "unconnected_parameters",
    "watched",
]
