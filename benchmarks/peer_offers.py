"""What each peer in 3D Slicer offers, row by row beside ours, and the measured summary: the text of `docs/peers.md`.

The facts are in `benchmarks/results/peers-offer.json`: for each row and peer a mark, a few words, and the sources, each a file of
the peer's repository at a commit, with that commit's date. What could not be checked has the mark "not checked" and no source.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from peer_methods import METHODS
from peer_tables import DIGITS, GROUPS, Difference, Row, by_pair, difference, number

TABLE = Path(__file__).resolve().parent / "results" / "peers-offer.json"
OURS = "ours"
NOT_CHECKED = "not checked"
RANKS = {"yes": 2, "part": 1, "no": 0}
MARKS = (*RANKS, "text", "n/a", NOT_CHECKED)
"""Marks of a cell: "text" is a fact without better and worse; "n/a" is of no meaning for that peer."""

HEAD = """# What peers in 3D Slicer offer, beside ours

`python benchmarks/peers.py compare` writes this document: what is offered from `benchmarks/results/peers-offer.json`, what was
measured from `benchmarks/results/peers.csv`. The peers' own files were read on {read}, in stored copies of their repositories
whose dates stand under [Sources](#sources); they may have changed since. Nothing was tried out in Slicer here.

- **yes**, **part** (in part, or only under conditions), **no**: *no* says that we found nothing of the kind in the files named.
  It is weaker than a *yes*: tell us where we overlooked something.
- **n/a**: makes no sense for that peer. **not checked**: we do not know.
"""


def offers(path: Path = TABLE) -> dict[str, Any]:
    """Return the table of what is offered.

    Raises
    ------
    ValueError : a cell is missing, has a mark that is not known, or names no source or one that is not listed.
    """
    table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    keys = [peer["key"] for peer in table["peers"]]
    for row in table["rows"]:
        if list(row["cells"]) != keys:
            raise ValueError(f"{path.name}, '{row['title']}': give one cell for each of {', '.join(keys)}, in this order.")
        for key, cell in row["cells"].items():
            where = f"{path.name}, '{row['title']}', {key}"
            found = cell.get("sources", [])
            if cell["mark"] not in MARKS:
                raise ValueError(f"{where}: the mark must be one of {', '.join(MARKS)}.")
            if (cell["mark"] == NOT_CHECKED) == bool(found) or not set(found) <= set(table["sources"]):
                raise ValueError(f"{where}: name sources that are listed, and none where nothing was checked.")
    return table


def linked(cell: dict[str, Any]) -> str:
    """Return the references to a cell's sources."""
    return "".join(f" [{key}]" for key in cell.get("sources", []))


def at_a_glance(table: dict[str, Any]) -> list[str]:
    """Return the lines of the table of all marks."""
    lines = ["## At a glance", "", f"| | {' | '.join(peer['name'] for peer in table['peers'])} |"]
    lines.append("|" + "---|" * (len(table["peers"]) + 1))
    for row in table["rows"]:
        if row["better"]:
            lines.append(f"| {row['title']} | {' | '.join(cell['mark'] for cell in row['cells'].values())} |")
    return [*lines, ""]


def ahead(table: dict[str, Any]) -> list[str]:
    """Return the lines that say where a peer offers more than we do, and what only we offer."""
    names = {peer["key"]: peer["name"] for peer in table["peers"]}
    theirs, only_ours = [], []
    for row in table["rows"]:
        ranks = {key: RANKS[cell["mark"]] for key, cell in row["cells"].items() if cell["mark"] in RANKS}
        ours = row["cells"][OURS]
        better = [names[key] for key, rank in ranks.items() if rank > ranks.get(OURS, len(RANKS))]
        if row["better"] and better:
            why = f", {ours['text']}" if ours["text"] else ""
            theirs.append(f"- **{row['title']}**: {', '.join(better)}. Ours: {ours['mark']}{why}.")
        open_ones = any(cell["mark"] == NOT_CHECKED for cell in row["cells"].values())
        if row["better"] and not open_ones and all(rank < ranks[OURS] for key, rank in ranks.items() if key != OURS):
            only_ours.append(f"{row['title']} ({ours['mark']})")
    lines = ["## Where they offer more", "", *theirs, "", "## Where none of them offers as much, as far as we saw", ""]
    return [*lines, f"{'; '.join(only_ours)}.", ""]


def row_by_row(table: dict[str, Any]) -> list[str]:
    """Return the lines of all cells, grouped by mark."""
    names = {peer["key"]: peer["name"] for peer in table["peers"]}
    lines = ["## Row by row", ""]
    for row in table["rows"]:
        ours = row["cells"][OURS]
        mark = "" if ours["mark"] == "text" else ours["mark"]
        lines += [f"### {row['title']}", "", f"- **Ours**: {', '.join(filter(None, (mark, ours['text'])))}{linked(ours)}"]
        for kind in MARKS:
            found = [(names[key], cell) for key, cell in row["cells"].items() if key != OURS and cell["mark"] == kind]
            shown = [name + (f" ({cell['text']})" if cell.get("text") else "") + linked(cell) for name, cell in found]
            if shown:
                lines.append(f"- {'' if kind == 'text' else kind + ': '}{'; '.join(shown)}")
        lines.append("")
    return lines


def source_lines(table: dict[str, Any]) -> list[str]:
    """Return the lines that list the sources, with the definitions of their links."""
    lines = ["## Sources", "", "| | file | date of the copy |", "|---|---|---|"]
    links = []
    for key, source in table["sources"].items():
        name = source["file"] if "file" in source else "/".join(source["url"].split("/")[3:5] + source["url"].split("/")[7:])
        lines.append(f"| [{key}] | {name} | {source.get('date', 'this repository')} |")
        links.append(f"[{key}]: {source['url'] if 'url' in source else _from_docs(source['file'])}")
    return [*lines, "", *links]


def _from_docs(name: str) -> str:
    """Return the link from a document in `docs` to a file of this repository."""
    return name.removeprefix("docs/") if name.startswith("docs/") else f"../{name}"


def against_peers(rows: Sequence[Row], group: str) -> dict[str, Difference]:
    """Return for every program of others that ran by how much it is better than our default, on the pairs of both."""
    spec = GROUPS[group]
    ours = [row for row in rows if row["method"] == spec.reference]
    found = {}
    for name in spec.methods:
        if METHODS[name].package:
            one = difference([row for row in rows if row["method"] == name], ours, spec.measure)
            if one.count:
                found[name] = one
    return found


def verdict(found: Difference) -> str:
    """Say who is ahead."""
    if found.count < 2:
        return "one pair, no interval"
    if found.clear:
        return "**the peer is ahead**" if found.clear > 0 else "ours is ahead"
    return f"no clear difference; {'the peer' if found.mean > 0 else 'ours'} on average"


def mean_over(rows: Iterable[Row], measure: str, pairs: set[tuple[str, ...]]) -> float:
    """Return the mean of a measure over some pairs, NaN for none."""
    values = [value for pair, value in by_pair(rows, measure).items() if pair in pairs]
    return sum(values) / len(values) if values else float("nan")


def measured_lines(rows: Sequence[Row]) -> list[str]:
    """Return the lines that compare our default engine with the best peer of each group."""
    heads = ["pairs", "measure", "affine", "`diffeo`", "best peer, of", "its", "better than `diffeo` by", "n", "CPU s", ""]
    lines = ["## Measured", "", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for group, spec in GROUPS.items():
        here = [row for row in rows if row["group"] == group]
        peers = against_peers(here, group)
        if not peers:
            continue
        name, found = max(peers.items(), key=lambda item: item[1].mean)
        affine, *sides = ([row for row in here if row["method"] == method] for method in ("affine", spec.reference, name))
        both = set.intersection(*(set(by_pair(side, spec.measure)) for side in sides))
        digits = DIGITS[spec.measure]
        means = [mean_over(side, spec.measure, both) for side in (affine, *sides)]
        values = [number(mean, digits) for mean in means]
        seconds = [number(mean_over(side, "cpu_seconds", both), 1) for side in sides]
        half = f" ± {number(found.half, digits)}" if found.count > 1 else ""
        measure = "mm" if spec.measure == "mm" else "Dice"
        sign = -1 if measure == "mm" else 1
        harmed = all(sign * (mean - means[0]) < 0 for mean in means[1:])
        sentence = verdict(found) + ("; both worse than the affine step" if harmed else "")
        sentence += "".join(
            f"; **also ahead: `{peer}`** ({number(one.mean, digits, '+')} ± {number(one.half, digits)}, n {one.count})"
            for peer, one in peers.items()
            if one.clear > 0 and peer != name
        )
        cells = [spec.title, measure, *values[:2], f"`{name}`, {len(peers)}", values[2], number(found.mean, digits, "+") + half]
        lines.append(f"| {' | '.join([*cells, str(found.count), ', '.join(seconds), sentence])} |")
    return [
        *lines,
        "",
        "In each line stands the program of others that is best on average of those that ran (their number behind it), chosen",
        "after the fact, which favors it; n is the pairs of both, CPU s ours and its, ± the 95 % interval of the mean of the",
        "paired differences. One or a few pairs prove nothing. Settings, all methods, folding, memory:",
        "[measured](peers-measured.md). Not run: the networks (uniGradICON, IMPACT), whose weights are not here, BRAINS and",
        "Plastimatch.",
        "",
    ]


def document(table: dict[str, Any], rows: Sequence[Row]) -> str:
    """Return the whole document, in Markdown."""
    who = [f"- **{peer['name']}**: {peer['what']}" for peer in table["peers"]]
    parts = [*who, "", *ahead(table), *measured_lines(rows), *at_a_glance(table), *row_by_row(table), *source_lines(table)]
    return HEAD.format(read=table["read"]) + "\n".join(["", *parts]) + "\n"
