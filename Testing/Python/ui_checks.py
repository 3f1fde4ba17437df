"""Reads a .ui file and the code that uses it, without Qt, and lists what does not fit: each check returns sentences."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from xml.etree import ElementTree

WORK_BY_THEMSELVES = {"ctkCollapsibleButton", "ctkCollapsibleGroupBox", "qMRMLCollapsibleButton", "QTabWidget", "QScrollArea"}
SHOW_ONLY = {"QLabel", "QWidget", "QFrame", "QGroupBox", "QProgressBar", "Line", "qMRMLWidget"}
SAY_WHAT_THEY_ARE = {"QPushButton", "QToolButton", "QCheckBox", "QRadioButton", "ctkPushButton", "ctkCheckBox"}

# The designer plugins of Slicer 5.12 and of its CTK, as far as a panel of a module may need them.
KNOWN_TO_SLICER = re.compile(
    r"ctk(CheckableComboBox|CheckablePushButton|CheckBox|CollapsibleButton|CollapsibleGroupBox|"
    r"ColorPickerButton|ComboBox|CoordinatesWidget|DirectoryButton|DoubleRangeSlider|DoubleSlider|"
    r"DoubleSpinBox|ExpandButton|ExpandableWidget|FittedTextBrowser|MatrixWidget|MenuButton|PathLineEdit|"
    r"PopupWidget|PushButton|RangeSlider|RangeWidget|SearchBox|SliderWidget|TreeComboBox)"
    r"|qMRML(CheckableNodeComboBox|CollapsibleButton|LabelComboBox|ListWidget|NodeAttributeTableWidget|"
    r"NodeComboBox|PlotWidget|RangeWidget|SegmentSelectorWidget|SegmentsTableView|SliceWidget|SliderWidget|"
    r"SpinBox|SubjectHierarchyComboBox|SubjectHierarchyTreeView|TableView|TextWidget|TreeView|"
    r"VolumeInfoWidget|VolumeThresholdWidget|Widget|WindowLevelWidget)"
    r"|qSlicerPresetComboBox|qSlicerSimpleMarkupsWidget|qSlicerWidget"
)

# Which widgets Slicer's parameter node can be connected to, by what the parameter is; it compares classes exactly.
CONNECTED_BY = {
    "bool": {"QCheckBox", "ctkCheckBox", "QPushButton", "ctkCheckablePushButton"},
    "int": {"QSlider", "QSpinBox", "QDoubleSpinBox", "ctkSliderWidget", "qMRMLSliderWidget", "ctkDoubleSlider"},
    "float": {"QDoubleSpinBox", "ctkSliderWidget", "qMRMLSliderWidget", "ctkDoubleSlider", "ctkDoubleSpinBox", "qMRMLSpinBox"},
    "str": {"QLineEdit", "QLabel", "QTextEdit", "QComboBox", "ctkComboBox"},
    "node": {"qMRMLNodeComboBox"},
    "enum": {"QComboBox", "ctkComboBox"},
}


@dataclass(frozen=True)
class Widget:
    """One widget: its class, name, plain properties, and whether other widgets lie in it."""

    kind: str
    name: str
    properties: dict[str, str]
    is_container: bool

    @property
    def is_interactive(self) -> bool:
        """Tell whether a user acts on it, and code or a parameter must hear of that."""
        return self.kind not in WORK_BY_THEMSELVES | SHOW_ONLY


@dataclass(frozen=True)
class Panel:
    """A .ui file, parsed."""

    root: ElementTree.Element

    @classmethod
    def read(cls, file: Path) -> Panel:
        """Parse a .ui file."""
        return cls(ElementTree.fromstring(file.read_text(encoding="utf-8")))

    @cached_property
    def widgets(self) -> list[Widget]:
        """Every widget, the outermost first."""
        found = []
        for element in self.root.iter("widget"):
            values = {p.get("name", ""): "".join(p.itertext()).strip() for p in element.findall("property")}
            inner = element.find(".//widget") is not None
            found.append(Widget(element.get("class", ""), element.get("name", ""), values, inner))
        return found

    @cached_property
    def names(self) -> set[str]:
        """The names of all widgets, layouts and actions: what `ui.` may be followed by."""
        return {e.get("name", "") for tag in ("widget", "layout", "action", "spacer") for e in self.root.iter(tag)}

    def parameters(self) -> dict[str, Widget]:
        """Return the widgets that are tied to a parameter, by its name."""
        return {w.properties["SlicerParameterName"]: w for w in self.widgets if "SlicerParameterName" in w.properties}

    def connections(self) -> list[dict[str, str]]:
        """Return sender, signal, receiver and slot of each connection."""
        return [{part.tag: (part.text or "").strip() for part in c} for c in self.root.iter("connection")]


@dataclass(frozen=True)
class Uses:
    """What code takes from `ui`: names, and patterns where a name is put together."""

    names: frozenset[str]
    patterns: tuple[str, ...]
    style_sheets: int

    def covers(self, name: str) -> bool:
        """Tell whether a widget is used."""
        return name in self.names or any(re.fullmatch(pattern, name) for pattern in self.patterns)


def _is_ui(node: ast.AST) -> bool:
    return (isinstance(node, ast.Name) and node.id == "ui") or (isinstance(node, ast.Attribute) and node.attr == "ui")


def uses_in(trees: Iterable[ast.AST]) -> Uses:
    """Collect what follows `ui.` or `self.ui.`, and what `getattr(ui, ...)` asks for."""
    names, patterns, style_sheets = set(), [], 0
    for node in (n for tree in trees for n in ast.walk(tree)):
        if isinstance(node, ast.Attribute):
            style_sheets += node.attr in ("styleSheet", "setStyleSheet")
            if _is_ui(node.value):
                names.add(node.attr)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr" and _is_ui(node.args[0]):
            if isinstance(node.args[1], ast.Constant):
                names.add(str(node.args[1].value))
            elif isinstance(node.args[1], ast.JoinedStr):
                parts = (re.escape(str(p.value)) if isinstance(p, ast.Constant) else r"\w+" for p in node.args[1].values)
                patterns.append("".join(parts))
    return Uses(frozenset(names), tuple(patterns), style_sheets)


def parameter_types(trees: Iterable[ast.Module]) -> dict[str, str]:
    """Return what each parameter is ("bool", "int", "float", "str", "node", "enum" or "other"), by its name."""
    trees = list(trees)
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    enums = {c.name for c in classes if any(ast.unparse(base).split(".")[-1].endswith("Enum") for base in c.bases)}
    for node in (n for tree in trees for n in tree.body if isinstance(n, ast.Assign) and isinstance(n.value, ast.Call)):
        if ast.unparse(node.value.func).lower().endswith("enum"):
            # Made at run time, such as the enum of engines.
            enums |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    found = {}
    for node in classes:
        if "parameterNodeWrapper" not in {ast.unparse(d).split(".")[-1] for d in node.decorator_list}:
            continue
        for line in (n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)):
            kind = line.annotation
            if isinstance(kind, ast.Subscript) and ast.unparse(kind.value).split(".")[-1] in ("Annotated", "Optional"):
                kind = kind.slice.elts[0] if isinstance(kind.slice, ast.Tuple) else kind.slice
            text = ast.unparse(kind).split(".")[-1]
            plain = text if text in ("bool", "int", "float", "str") else "other"
            found[line.target.id] = "node" if text.startswith("vtkMRML") else "enum" if text in enums else plain
    return found


def unknown_names(panel: Panel, uses: Uses) -> list[str]:
    """List what code expects of the .ui file in vain."""
    missing = [f"the code uses ui.{name}, which the .ui file lacks" for name in sorted(uses.names - panel.names)]
    patterns = [p for p in uses.patterns if not any(re.fullmatch(p, name) for name in panel.names)]
    return missing + [f"the code asks ui for names like '{p}', and no widget has one" for p in patterns]


def unused_widgets(panel: Panel, uses: Uses) -> list[str]:
    """List widgets that do nothing: no code knows them and no parameter is tied to them."""
    tied = {w.name for w in panel.parameters().values()}
    idle = [w for w in panel.widgets if w.is_interactive and w.name not in tied and not uses.covers(w.name)]
    blank = [w for w in panel.widgets if w.kind == "QLabel" and not w.properties.get("text") and not uses.covers(w.name)]
    return [f"{w.name} ({w.kind}) is used by no code and tied to no parameter" for w in idle + blank]


def wrong_parameters(panel: Panel, types: dict[str, str]) -> list[str]:
    """List parameters that do not exist, and widgets that Slicer cannot tie to theirs."""
    wrong = []
    names = [w.properties["SlicerParameterName"] for w in panel.widgets if "SlicerParameterName" in w.properties]
    wrong += [f"two widgets are tied to the parameter '{name}'" for name, n in Counter(names).items() if n > 1]
    for name, widget in panel.parameters().items():
        if name not in types:
            wrong.append(f"{widget.name} is tied to '{name}', which the parameter node lacks")
        elif widget.kind not in CONNECTED_BY.get(types[name], ()):
            wrong.append(f"{widget.name} is a {widget.kind}, which Slicer cannot tie to '{name}' ({types[name]})")
    for element in panel.root.iter("property"):
        if element.get("name") == "SlicerParameterName" and element.get("stdset") != "0":
            wrong.append(f"the SlicerParameterName '{''.join(element.itertext()).strip()}' lacks stdset=\"0\"")
    return wrong


def without_tooltip(panel: Panel) -> list[str]:
    """List interactive widgets that do not explain themselves under the mouse."""
    return [f"{w.name} has no toolTip" for w in panel.widgets if w.is_interactive and not w.properties.get("toolTip")]


def wrong_classes(panel: Panel) -> list[str]:
    """List custom widgets that are not declared, not used, declared twice or unknown to Slicer; and a wrong root."""
    declared = Counter((e.findtext("class") or "") for e in panel.root.iter("customwidget"))
    used = {w.kind for w in panel.widgets if not w.kind.startswith("Q") and w.kind != "Line"}
    filled = {w.kind for w in panel.widgets if w.is_container}
    containers = {e.findtext("class") for e in panel.root.iter("customwidget") if e.findtext("container") == "1"}
    wrong = [f"{kind} is not declared under customwidgets" for kind in sorted(used - set(declared))]
    wrong += [f"{kind} is declared under customwidgets and not used" for kind in sorted(set(declared) - used)]
    wrong += [f"{kind} is declared {n} times" for kind, n in declared.items() if n > 1]
    wrong += [f"{kind} is not a widget that Slicer's panels know" for kind in sorted(used) if not KNOWN_TO_SLICER.fullmatch(kind)]
    wrong += [f"{kind} holds widgets, but is not declared a container" for kind in sorted(filled & used - containers)]
    if not panel.widgets or panel.widgets[0].kind != "qMRMLWidget":
        wrong.append("the outermost widget is no qMRMLWidget, so it cannot hand the scene on")
    return wrong


def wrong_connections(panel: Panel) -> list[str]:
    """List connections that lead nowhere, and node selectors that would never hear of the scene."""
    wrong, root = [], panel.widgets[0].name
    for c in panel.connections():
        ends = c["sender"], c["receiver"]
        wrong += [f"a connection names '{end}', which does not exist" for end in ends if end not in panel.names]
        wrong += [f"'{c[w]}' is not a signature" for w in ("signal", "slot") if not re.fullmatch(r"\w+\([\w*:, ]*\)", c[w])]
    hear = {
        c["receiver"]
        for c in panel.connections()
        if (c["sender"], c["signal"], c["slot"]) == (root, "mrmlSceneChanged(vtkMRMLScene*)", "setMRMLScene(vtkMRMLScene*)")
    }
    deaf = [w.name for w in panel.widgets[1:] if w.kind.startswith("qMRML") and "Button" not in w.kind and w.name not in hear]
    return wrong + [f"{name} is not told of the scene" for name in deaf]


def wrong_names(panel: Panel) -> list[str]:
    """List names that are missing or used twice."""
    names = [e.get("name", "") for tag in ("widget", "layout", "action", "spacer") for e in panel.root.iter(tag)]
    return [f"the name '{name}' occurs {n} times" for name, n in Counter(names).items() if n > 1 or not name]


def custom_styles(panel: Panel, uses: Uses) -> list[str]:
    """List style sheets: a module looks like the rest of Slicer, in the dark theme too."""
    found = [f"{w.name} has a styleSheet" for w in panel.widgets if "styleSheet" in w.properties]
    return found + (["the code sets a style sheet"] if uses.style_sheets else [])


def wrong_tab_order(panel: Panel) -> list[str]:
    """List layouts whose widgets are not written in reading order (Tab follows it), and tab stops that do not exist."""
    wrong = []
    for layout in panel.root.iter("layout"):
        places = [(int(item.get("row", 0)), int(item.get("column", 0))) for item in layout.findall("item")]
        if layout.get("class") in ("QFormLayout", "QGridLayout") and places != sorted(set(places)):
            wrong.append(f"the items of {layout.get('name')} are not in reading order, or two share a place")
    stops = [(e.text or "").strip() for e in panel.root.iter("tabstop")]
    wrong += [f"the tab stop '{name}' does not exist" for name in stops if name not in panel.names]
    return wrong + [f"the tab stop '{name}' is named twice" for name, n in Counter(stops).items() if n > 1]


def _mnemonics(panel: Panel) -> Iterator[tuple[str, str]]:
    for widget in panel.widgets:
        match = re.search(r"&(\w)", widget.properties.get("text", "").replace("&&", ""))
        if match:
            yield match.group(1).lower(), widget.name


def out_of_reach(panel: Panel) -> list[str]:
    """List widgets that a screen reader cannot name, labels whose buddy does not exist, and letters that two widgets claim."""
    buddies = {w.properties["buddy"]: w.name for w in panel.widgets if "buddy" in w.properties}
    wrong = [f"the buddy '{name}' of {label} does not exist" for name, label in buddies.items() if name not in panel.names]
    for widget in panel.widgets:
        named = widget.name in buddies or widget.properties.get("accessibleName")
        if widget.kind in SAY_WHAT_THEY_ARE:
            named = named or widget.properties.get("text")
        if widget.is_interactive and not named:
            wrong.append(f"{widget.name} has neither a label with it as buddy nor an accessibleName")
    letters: dict[str, list[str]] = {}
    for letter, name in _mnemonics(panel):
        letters.setdefault(letter, []).append(name)
    return wrong + [f"Alt+{key.upper()} belongs to {' and '.join(names)}" for key, names in letters.items() if len(names) > 1]
