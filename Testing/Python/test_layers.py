"""The floors of the library: each room imports only from below its own floor, and only bridge and panel know Slicer."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
PACKAGE = "HyperPredictRegLib"
LIBRARY = TOP / "HyperPredictReg" / PACKAGE
LABORATORY = TOP / "HyperPredictRegLab"

FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"core"}),
    frozenset({"spatial"}),
    frozenset({"results"}),
    frozenset({"preprocessing", "selection"}),
    frozenset({"quality"}),
    frozenset({"engines"}),
    frozenset({"alignment"}),
    frozenset({"predictor"}),
    frozenset({"workflow"}),
    frozenset({"reporting"}),
    frozenset({"presentation", "worker"}),
    frozenset({"slicerbridge"}),
    frozenset({"cli", "panel"}),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
LABORATORY_FLOORS = ("manifest", "synthesis", "sweep", "training", "baselines", "evaluation", "commands")

SLICER_SIDE = frozenset({"slicer", "slicer_core", "vtk", "vtkmodules", "qt", "ctk", "SampleData", "PySide6"})
KNOWS_SLICER = frozenset({"slicerbridge", "panel"})

# What Slicer does not ship, or what takes seconds to load: none of it may be needed to predict and register.
STAYS_UNLOADED = ("slicer", "vtk", "qt", "ctk", "torch", "matplotlib", "jinja2", "typer", "rich", "pandas", "nilearn")


def files() -> list[Path]:
    """List the library's Python files."""
    return sorted(LIBRARY.rglob("*.py"))


def room_of(file: Path) -> str | None:
    """Name the room a file belongs to; the package's own `__init__.py` belongs to none."""
    first = file.relative_to(LIBRARY).parts[0]
    return None if first == "__init__.py" else first.removesuffix(".py")


def module_name(file: Path) -> str:
    """Return the dotted name under which a file is imported."""
    top = LABORATORY if file.is_relative_to(LABORATORY) else LIBRARY
    parts = file.relative_to(top.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in files()}


def imported_modules(tree: ast.AST, here: str, is_package: bool) -> list[tuple[str, int]]:
    """List each import in a file, also those inside functions, as (dotted name, line)."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = here.split(".")
                retained = parts[: len(parts) - node.level + int(is_package)]
                base = ".".join([*retained, base]) if base else ".".join(retained)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found.append((full if full in MODULES or base == LABORATORY.name else base, node.lineno))
    return found


@cache
def imports_of(file: Path) -> tuple[tuple[str, int], ...]:
    """List the imports of one file of the library."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return tuple(imported_modules(tree, module_name(file), file.name == "__init__.py"))


def broken_floor(source_room: str, target_room: str) -> bool:
    """Tell whether an import from one room to another goes sideways or up."""
    return source_room != target_room and FLOOR_OF[target_room] >= FLOOR_OF[source_room]


def test_every_room_has_a_floor() -> None:
    rooms = {room for file in files() if (room := room_of(file))}
    homeless = sorted(rooms - FLOOR_OF.keys())
    assert not homeless, f"give these rooms a floor in FLOORS of {Path(__file__).name}: {', '.join(homeless)}"


def test_no_room_stands_on_two_floors() -> None:
    assert sum(len(rooms) for rooms in FLOORS) == len(FLOOR_OF)


def test_imports_go_strictly_downward() -> None:
    wrong = []
    for file in files():
        source = room_of(file)
        for name, line in imports_of(file):
            parts = name.split(".")
            if parts[0] != PACKAGE or len(parts) < 2:
                continue
            assert source is not None, f"{file.name}:{line} imports {name}, but the package itself must import nothing"
            if broken_floor(source, parts[1]):
                floors = f"{source} (floor {FLOOR_OF[source]}) imports {parts[1]} (floor {FLOOR_OF[parts[1]]})"
                wrong.append(f"{file.relative_to(TOP)}:{line}: {floors}")
    assert not wrong, "\n".join(wrong)


def test_files_do_not_import_in_a_circle() -> None:
    graph = {
        name: {target for target, _ in imports_of(file) if target in MODULES and target not in (PACKAGE, name)}
        for name, file in MODULES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("imports go in a circle: " + " -> ".join(error.args[1]))


def test_only_bridge_and_panel_import_slicer() -> None:
    found = [
        f"{file.relative_to(TOP)}:{line} imports {name}: that belongs in slicerbridge or panel"
        for file in files()
        if room_of(file) not in KNOWS_SLICER
        for name, line in imports_of(file)
        if name.split(".")[0] in SLICER_SIDE
    ]
    assert not found, "\n".join(found)


def test_the_laboratory_stands_on_the_product_and_nothing_stands_on_it() -> None:
    wrong = []
    for file in files():
        wrong += [f"{module_name(file)}:{line}" for name, line in imports_of(file) if name.split(".")[0] == LABORATORY.name]
    for file in sorted(LABORATORY.rglob("*.py")):
        room = file.relative_to(LABORATORY).parts[0].removesuffix(".py")
        for name, line in imports_of(file):
            parts = name.split(".")
            if parts[0] != LABORATORY.name or room == "__init__":
                continue
            below = LABORATORY_FLOORS.index(parts[1]) <= LABORATORY_FLOORS.index(room)
            wrong += [] if below else [f"{file.relative_to(TOP)}:{line} imports {name}"]
    assert not wrong, f"the product imports the laboratory, or the laboratory upwards: {', '.join(wrong)}"


def test_nothing_in_the_library_imports_the_module() -> None:
    for file in files():
        assert "HyperPredictReg" not in {name.split(".")[0] for name, _ in imports_of(file)}, file.name


def test_registering_loads_nothing_that_slicer_lacks() -> None:
    # `reporting` may draw and the bridge may use MRML; the workflow and all below it must do without. Of the predictor, only
    # what looks at a pair and chooses λ: its network needs torch, and is loaded once something is to be predicted.
    below = {room for rooms in FLOORS[: FLOOR_OF["workflow"] + 1] for room in rooms} - {"predictor"}
    rooms = [name for name, file in MODULES.items() if room_of(file) in below]
    # What computes on a graphics card, and a trained network, is loaded once that is asked for.
    for file in ("tensor_fields", "conditional_network"):
        rooms.remove(f"{PACKAGE}.engines.{file}")
    rooms += [f"{PACKAGE}.predictor.{file}" for file in ("card", "features")]
    assert {f"{PACKAGE}.workflow", f"{PACKAGE}.engines", f"{PACKAGE}.alignment"} <= set(rooms) <= set(MODULES)
    code = (
        "import importlib, json, sys\n"
        f"for name in {sorted(rooms)!r}: importlib.import_module(name)\n"
        f"print(json.dumps([name for name in {STAYS_UNLOADED!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import slicer.util", "slicer.util"),
        ("def f():\n    from HyperPredictRegLib.results import job", f"{PACKAGE}.results.job"),
        ("from ..results.job import Job", f"{PACKAGE}.results.job"),
        ("from . import base", f"{PACKAGE}.engines.base"),
        ("from HyperPredictRegLib import __version__", PACKAGE),
    ],
)
def test_the_reader_of_imports_sees_every_form(text: str, expected: str) -> None:
    found = imported_modules(ast.parse(text), f"{PACKAGE}.engines.some_engine", is_package=False)
    assert [name for name, _ in found] == [expected]


def test_the_floor_rule_can_fail() -> None:
    assert broken_floor("results", "workflow")
    assert broken_floor("engines", "alignment")
    assert not broken_floor("workflow", "engines")
    assert not broken_floor("engines", "engines")
