"""Pictures of panels."""

from __future__ import annotations

from pathlib import Path

from PySide6 import QtGui, QtWidgets

from slicerhost.missing import HostError
from slicerhost.modulepanel import qSlicerModulePanel

_DARK = {
    "Window": "#353535", "WindowText": "#ffffff", "Base": "#2a2a2a", "AlternateBase": "#353535", "Text": "#ffffff",
    "Button": "#353535", "ButtonText": "#ffffff", "BrightText": "#ff5050", "Highlight": "#2a82da", "HighlightedText": "#ffffff",
    "ToolTipBase": "#353535", "ToolTipText": "#ffffff", "PlaceholderText": "#a0a0a0", "Link": "#6ab0ff"}  # fmt: skip
_LIGHT = {
    "Window": "#efefef", "WindowText": "#000000", "Base": "#ffffff", "AlternateBase": "#f7f7f7", "Text": "#000000",
    "Button": "#efefef", "ButtonText": "#000000", "BrightText": "#ffffff", "Highlight": "#308cc6", "HighlightedText": "#ffffff",
    "ToolTipBase": "#ffffdc", "ToolTipText": "#000000", "PlaceholderText": "#808080", "Link": "#0000ff"}  # fmt: skip


def _palette(colors: dict[str, str]) -> QtGui.QPalette:
    palette = QtGui.QPalette()
    roles = QtGui.QPalette.ColorRole
    for name, color in colors.items():
        palette.setColor(getattr(roles, name), QtGui.QColor(color))
    for name in ("WindowText", "Text", "ButtonText"):
        palette.setColor(QtGui.QPalette.ColorGroup.Disabled, getattr(roles, name), QtGui.QColor("#8c8c8c"))
    return palette


def screenshot(widget: QtWidgets.QWidget, path: Path, *, width: int = 480, dark: bool = False) -> None:
    """Write a picture (.png) of a panel at its full height, in Slicer's light or dark colours.

    Parameters
    ----------
    widget : the panel's frame, or any widget of it, while the module is the one that is shown.
    path : where the picture goes.
    width : of the module panel, pixels.
    dark : white on black.
    """
    panel = widget.window()
    if not isinstance(panel, qSlicerModulePanel):
        raise HostError("Only the module that is shown can be photographed.")
    before, size = QtWidgets.QApplication.palette(), panel.size
    QtWidgets.QApplication.setPalette(_palette(_DARK if dark else _LIGHT))
    try:
        panel.fit(width)
        picture = widget.grab()
    finally:
        QtWidgets.QApplication.setPalette(before)
        panel.resize(size)
        QtWidgets.QApplication.processEvents()
    if not picture.save(str(path), "PNG"):
        raise HostError(f"The picture {Path(path).name} cannot be written.")
