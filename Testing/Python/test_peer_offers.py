"""What peers offer beside ours: the documents are those that the committed tables give, and every cell names its source."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def benchmarks_folder() -> Any:
    """Let the tests import what lies in the folder of the benchmarks."""
    sys.path.insert(0, str(TOP / "benchmarks"))
    yield
    sys.path.remove(str(TOP / "benchmarks"))


def table_of(**marks: tuple[str, ...]) -> dict[str, Any]:
    """Return a table of two peers and ours, with a row for each name: the marks of ours and of the two."""
    rows = []
    for title, given in marks.items():
        cells = {}
        for key, mark in zip(("ours", "one", "two"), given, strict=True):
            cells[key] = {"mark": mark} if mark == "not checked" else {"mark": mark, "text": f"{key} {mark}", "sources": ["A"]}
        rows.append({"title": title, "better": "text" not in given, "cells": cells})
    peers = [{"key": key, "name": key.title(), "what": "what it is"} for key in ("ours", "one", "two")]
    source = {"url": "https://github.com/a/b/blob/0123456789/folder/file.py", "date": "2026-01-02"}
    return {"read": "2026-11-28", "peers": peers, "sources": {"A": source}, "rows": rows}


def rows_of(group: str, method: str, values: list[float], measure: str = "dice") -> list[dict[str, str]]:
    """Return rows as the CSV file holds them, one for each value."""
    import peers

    empty = dict.fromkeys(peers.COLUMNS, "")
    given = {"group": group, "moving": "m", "contrast": "same", "preset": "fast", "method": method, "cpu_seconds": "2.0"}
    return [empty | given | {"fixed": f"p{n}", measure: str(value)} for n, value in enumerate(values)]


@pytest.mark.parametrize("action", ["table", "compare"])
def test_the_command_writes_the_committed_documents(action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import peers

    names = {"DOCUMENT": "peers-measured.md", "COMPARISON": "peers.md"}
    for constant, name in names.items():
        assert getattr(peers, constant) == TOP / "docs" / name
        monkeypatch.setattr(peers, constant, tmp_path / name)
    monkeypatch.setattr(sys, "argv", ["peers.py", action])
    peers.main()
    written = {file.name for file in tmp_path.iterdir()}
    assert written == (set(names.values()) if action == "table" else {"peers.md"})
    for name in written:
        assert (tmp_path / name).read_bytes() == (TOP / "docs" / name).read_bytes(), "run `python benchmarks/peers.py table`"


def test_every_cell_has_a_source_that_exists_or_was_not_checked() -> None:
    import peer_offers

    table = peer_offers.offers()
    for source in table["sources"].values():
        if "file" in source:
            assert (TOP / source["file"]).is_file()
        else:
            assert re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+/blob/[0-9a-f]{10}/[\w./+ -]+", source["url"])
            assert re.fullmatch(r"20\d\d-\d\d-\d\d", source["date"]) and source["date"] <= table["read"]
    cells = [cell for row in table["rows"] for cell in row["cells"].values()]
    assert len(cells) > 200
    named = {key for cell in cells for key in cell.get("sources", [])}
    assert named == set(table["sources"])
    assert all(cell.get("sources") or cell == {"mark": "not checked"} for cell in cells)
    ours = {key for row in table["rows"] for key in row["cells"]["ours"]["sources"]}
    assert all("file" in table["sources"][key] for key in ours)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({"mark": "yes", "text": ""}, "name sources that are listed"),
        ({"mark": "yes", "text": "", "sources": ["B"]}, "name sources that are listed"),
        ({"mark": "not checked", "text": "", "sources": ["A"]}, "none where nothing was checked"),
        ({"mark": "surely", "text": "", "sources": ["A"]}, "the mark must be one of yes, part, no"),
        (None, "give one cell for each of ours, one, two"),
    ],
)
def test_a_table_with_a_wrong_cell_is_refused(cell: dict[str, Any] | None, message: str, tmp_path: Path) -> None:
    import peer_offers

    table = table_of(Masks=("yes", "yes", "no"))
    if cell is None:
        del table["rows"][0]["cells"]["two"]
    else:
        table["rows"][0]["cells"]["two"] = cell
    file = tmp_path / "table.json"
    file.write_text(json.dumps(table), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"^table\.json, 'Masks'.*{message}"):
        peer_offers.offers(file)


def test_it_says_where_they_offer_more_and_what_only_we_do() -> None:
    import peer_offers

    marks = {
        "Masks": ("part", "yes", "no"),
        "Presets": ("no", "part", "yes"),
        "Limit": ("yes", "no", "n/a"),
        "Seeds": ("yes", "no", "not checked"),
        "Inverse": ("yes", "yes", "no"),
        "Licence": ("text", "text", "text"),
    }
    text = peer_offers.document(table_of(**marks), [])
    theirs, rest = text.split("## Where they offer more\n")[1].split("## Where none of them", 1)
    assert theirs.strip() == "- **Masks**: One. Ours: part, ours part.\n- **Presets**: One, Two. Ours: no, ours no."
    assert rest.splitlines()[2] == "Limit (yes)."
    assert "| Seeds | yes | no | not checked |" in text
    assert "| Licence |" not in text.split("## Row by row")[0]
    assert "- no: One (one no) [A]\n- not checked: Two\n" in text
    assert text.endswith(
        "| [A] | a/b/folder/file.py | 2026-01-02 |\n\n[A]: https://github.com/a/b/blob/0123456789/folder/file.py\n"
    )


def test_the_best_peer_stands_beside_ours_with_its_interval() -> None:
    import peer_offers

    rows = rows_of("heart", "diffeo", [0.8, 0.81, 0.82]) + rows_of("heart", "greedy", [0.81, 0.82, 0.832])
    rows += rows_of("heart", "ants", [0.7, 0.7]) + rows_of("heart", "demons", [0.9, 0.9, 0.9])
    rows += rows_of("heads", "diffeo", [2.0, 2.0], "mm") + rows_of("heads", "elastix", [1.0, 2.9], "mm")
    rows += rows_of("heads", "affine", [0.5, 0.5, 9.0], "mm") + rows_of("mouse", "affine", [0.85])
    rows += rows_of("mouse", "diffeo", [0.8]) + rows_of("mouse", "niftyreg", [0.9])
    rows += rows_of("hippo", "diffeo", [0.8, 0.9]) + rows_of("hippo", "ants", [0.7, 0.8001]) + rows_of("atrium", "diffeo", [0.8])
    rows += rows_of("fetal", "diffeo", [0.8, 0.8]) + rows_of("fetal", "elastix", [1.0, 0.85])
    rows += rows_of("fetal", "greedy", [0.81, 0.8101])
    lines = [line.split("|")[2:-1] for line in peer_offers.measured_lines(rows) if line.startswith("| `")]
    unclear = "no clear difference; the peer on average"
    neither, second = f"{unclear}; both worse than the affine step", f"{unclear}; **also ahead: `greedy`** (+.0101 ± .0006, n 2)"
    assert [[cell.strip() for cell in line] for line in lines] == [
        # Differences .010, .010, .012: their standard error is .002 / 3, and Student's t of two degrees of freedom 4.3027.
        ["Dice", "-", ".8100", "`greedy`, 2", ".8207", "+.0107 ± .0029", "3", "2.0, 2.0", "**the peer is ahead**"],
        ["Dice", "-", ".8500", "`ants`, 1", ".7500", "-.1000 ± .0006", "2", "2.0, 2.0", "ours is ahead"],
        ["Dice", ".8500", ".8000", "`niftyreg`, 1", ".9000", "+.1000", "1", "2.0, 2.0", "one pair, no interval"],
        ["Dice", "-", ".8000", "`elastix`, 2", ".9250", "+.1250 ± .9530", "2", "2.0, 2.0", second],
        ["mm", ".50", "2.00", "`elastix`, 1", "1.95", "+.05 ± 12.07", "2", "2.0, 2.0", neither],
    ]
