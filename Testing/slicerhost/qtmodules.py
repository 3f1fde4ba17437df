"""The modules `qt` and `ctk` as a Slicer module imports them: only the names that are checked here."""

from __future__ import annotations

from types import ModuleType
from typing import Any, ClassVar

from PySide6 import QtCore, QtGui, QtWidgets

from slicerhost.collapsible import ctkCollapsibleButton
from slicerhost.missing import HostError, strict_module
from slicerhost.uiloader import QUiLoader

_CORE = "QDate QDateTime QDir QEvent QFile QFileInfo QIODevice QLocale QObject QPoint QProcess QRect QSize QTime QTimer QUrl Qt"
_GUI = "QBrush QColor QCursor QFont QFontMetrics QIcon QImage QKeySequence QPainter QPalette QPixmap"
_WIDGETS = """
QAbstractItemView QApplication QButtonGroup QCheckBox QComboBox QDialog QDoubleSpinBox QFormLayout QFrame QGridLayout
QGroupBox QHBoxLayout QHeaderView QLabel QLayout QLineEdit QListWidget QListWidgetItem QMessageBox QPlainTextEdit
QProgressBar QPushButton QRadioButton QScrollArea QSizePolicy QSlider QSpacerItem QSpinBox QStyle QTableWidget
QTableWidgetItem QTextEdit QToolButton QVBoxLayout QWidget
"""


class QSettings:
    """Settings that live as long as the test and touch nobody's files."""

    store: ClassVar[dict[str, Any]] = {}

    def value(self, key: str, default: Any = None) -> Any:
        """Return a setting."""
        return self.store.get(key, default)

    def setValue(self, key: str, value: Any) -> None:  # noqa: N802 - Qt's name.
        """Set a setting."""
        self.store[key] = value

    def contains(self, key: str) -> bool:
        """Say whether a setting is there."""
        return key in self.store

    def remove(self, key: str) -> None:
        """Forget a setting."""
        self.store.pop(key, None)


class QDesktopServices:
    """Opens nothing: what a module wanted opened is kept in `opened`."""

    opened: ClassVar[list[str]] = []

    @staticmethod
    def openUrl(url: QtCore.QUrl) -> bool:  # noqa: N802 - Qt's name.
        """Note down the address."""
        if not isinstance(url, QtCore.QUrl):
            raise TypeError(f"qt.QDesktopServices.openUrl takes a qt.QUrl, not {url!r}.")
        QDesktopServices.opened.append(url.toString())
        return True


class QFileDialog:
    """Asks for files and folders: the test puts the user's choices into `answers` first ("" for Cancel)."""

    answers: ClassVar[list[str]] = []

    @classmethod
    def _next(cls, what: str) -> str:
        if not cls.answers:
            raise HostError(
                f"The module asks for {what}, and the test did not say which: qt.QFileDialog.answers.append(...) first."
            )
        return cls.answers.pop(0)

    @classmethod
    def getExistingDirectory(cls, parent: Any = None, caption: str = "", directory: str = "") -> str:  # noqa: N802 - Qt's name.
        """Return the folder that the test chose."""
        return cls._next(f"a folder ('{caption}')")

    @classmethod
    def getOpenFileName(cls, parent: Any = None, caption: str = "", directory: str = "", kinds: str = "") -> str:  # noqa: N802
        """Return the file that the test chose; PythonQt returns the name alone."""
        return cls._next(f"a file to open ('{caption}')")

    @classmethod
    def getSaveFileName(cls, parent: Any = None, caption: str = "", directory: str = "", kinds: str = "") -> str:  # noqa: N802
        """Return the file that the test chose; PythonQt returns the name alone."""
        return cls._next(f"a file to save ('{caption}')")


def make_qt() -> ModuleType:
    """Return the module `qt`."""
    contents: dict[str, Any] = {
        "QSettings": QSettings,
        "QDesktopServices": QDesktopServices,
        "QFileDialog": QFileDialog,
        "QUiLoader": QUiLoader,
    }
    for module, names in ((QtCore, _CORE), (QtGui, _GUI), (QtWidgets, _WIDGETS)):
        contents.update({name: getattr(module, name) for name in names.split()})
    return strict_module("qt", contents, "A stand-in for Slicer's qt, on PySide6.")


def make_ctk() -> ModuleType:
    """Return the module `ctk`."""
    return strict_module("ctk", {"ctkCollapsibleButton": ctkCollapsibleButton}, "A stand-in for Slicer's ctk.")
