"""The groups that are compared in `benchmarks/peers.py`, and the tables and sentences made from their rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from peer_methods import METHODS
from scipy.stats import t as student

KEY = ("group", "fixed", "moving", "contrast", "preset", "method")
MEASURES = ("dice", "mm", "folded", "sd_log_jacobian", "cpu_seconds", "peak_mb")
SAME = tuple(name for name in METHODS if name not in ("diffeo-mind", "greedy-nmi"))
SAME_AND_MIND = tuple(name for name in METHODS if name != "greedy-nmi")
FINE = tuple(name for name in SAME if name != "diffeo-suggested")
OTHER = tuple(name for name in METHODS if name != "ants")


@dataclass(frozen=True)
class Group:
    """Pairs of one kind.

    Attributes
    ----------
    title : for people.
    preset : of the working grid.
    measure : by which methods are compared, a name of `MEASURES`.
    methods : those that run, in the order of the table.
    reference : the one of them that the others are compared with.
    """

    title: str
    preset: str = "fast"
    measure: str = "dice"
    methods: tuple[str, ...] = SAME
    reference: str = "diffeo"


GROUPS = {
    "brain": Group("`brain-t1-nmm`, people that nothing was tuned on, 2 mm, 30 structures", methods=SAME_AND_MIND),
    "heart": Group("`heart-acdc`, end-diastole to end-systole of one person"),
    "atrium": Group("`left-atrium-mr`, two scans"),
    "hippo": Group("`hippocampus-msd04`, two people"),
    "mouse": Group("`mouse-t2`, two animals"),
    "fetal": Group("`fetal-t2`, two states"),
    "heads-same": Group("`spm-contrasts`, a known warp of the same head, same contrast", measure="mm"),
    "heads": Group("`spm-contrasts`, a known warp of one head, another contrast of it", "fast", "mm", OTHER),
    "prostate": Group("`prostate-mr-us`, MR and ultrasound, from the centres of the glands: its Dice", "fast", "dice", OTHER),
    "brain-remapped": Group("`brain-t1-nmm`, the moving T1 remapped by curves that rise and fall, 2 mm", "fast", "dice", OTHER),
    "brain-fine": Group("`brain-t1-nmm`, people that nothing was tuned on, 1 mm, 30 structures", "fine", methods=FINE),
}
"""The groups by name, in the order in which they are run."""

Row = dict[str, str]

HEAD = """# Our engines beside their peers

`make bench-peers` runs what is missing, keeps a row for each run in `benchmarks/results/peers.csv`, and writes this document
from the rows. Pairs and seed stood in `benchmarks/peer_pairs.py` before the first run.

All methods start from the same alignment (ours) and get the same images on the same working grid, each run in a process of
its own with one thread. All are measured by our own metrics:

- Dice is the mean over labels on the fixed image's own grid; folding is the share of the fixed foreground whose Jacobian
  determinant is 0 or less, in percent.
- CPU seconds are user and system time of the registration alone, on a machine shared with other work. MB is the peak memory
  of the whole process, Python and its packages included.
- ± is the 95 % interval of the mean of the paired differences (Student's t) over the pairs that both methods have run on;
  their number stands in brackets where it is smaller than n.
- n is how many pairs a method has run on; where it is less than that of the others, the rest did not run, and all its
  numbers but the paired difference are those of fewer pairs.
- MB is the mean of the runs that measured it; an earlier run of some methods on the same alignments and images did not.
- Prostates start from the centers of their glands, because no alignment by grey values holds there ([why](alignment.md)).
- Some alignments (mice, fetal brains) are of an earlier state of the affine step: Dice of today's differs by up to .01 on
  three of them that were compared. What is compared on a pair always started from one alignment.
- A run by another version of a method is done anew. `python benchmarks/peers.py check` compares our warp by each peer's field
  with the peer's own warped image.

"""

MEANINGS = {
    "dice": "Dice",
    "mm": "error in mm",
    "folded": "folded %",
    "sd_log_jacobian": "SD log J",
    "cpu_seconds": "CPU s",
    "peak_mb": "MB",
}
DIGITS = {"dice": 4, "mm": 2, "folded": 4, "sd_log_jacobian": 2, "cpu_seconds": 1, "peak_mb": 0}


@dataclass(frozen=True)
class Difference:
    """By how much one method is better than the reference over the pairs of both.

    Attributes
    ----------
    mean : above 0 where the method is better, in the unit of the measure.
    half : half the width of the 95 % interval of the mean; NaN for fewer than two pairs.
    count : pairs that both have run on.
    """

    mean: float
    half: float
    count: int

    @property
    def clear(self) -> int:
        """Return 1 where the method is better, -1 where it is worse, and 0 where the interval holds 0."""
        return 0 if not abs(self.mean) > self.half else int(np.sign(self.mean))


def number(value: float, digits: int, sign: str = "") -> str:
    """Return a number as the tables show it: without a zero before the point, and with a "+" where `sign` is that."""
    if not np.isfinite(value):
        return "-"
    text = f"{value:{sign}.{digits}f}"
    return text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text


def by_pair(rows: Iterable[Row], measure: str) -> dict[tuple[str, ...], float]:
    """Return a measure of each pair that has it."""
    return {(row["fixed"], row["moving"], row["contrast"]): float(row[measure]) for row in rows if row[measure]}


def difference(rows: Sequence[Row], reference: Sequence[Row], measure: str) -> Difference:
    """Compare a method's rows with those of the reference, pair by pair."""
    ours, theirs = by_pair(rows, measure), by_pair(reference, measure)
    better = -1 if measure == "mm" else 1
    found = np.array([better * (ours[pair] - theirs[pair]) for pair in sorted(ours.keys() & theirs.keys())])
    if len(found) < 2:
        return Difference(float(found.mean()) if len(found) else float("nan"), float("nan"), len(found))
    half = float(student.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found)))
    return Difference(float(found.mean()), half, len(found))


def cells(name: str, rows: Sequence[Row], group: Group, reference: Sequence[Row], measures: Sequence[str]) -> list[str]:
    """Return the cells of a method's row in the table of a group."""
    there = [row for row in rows if not row["failure"]]
    line = [f"**`{name}`**" if name == group.reference else f"`{name}`"]
    for measure in measures:
        values = list(by_pair(there, measure).values())
        line.append(number(float(np.mean(values)), DIGITS[measure]) if values else "-")
        if measure == group.measure:
            found = difference(there, reference, measure)
            few = f" (n {found.count})" if found.count < len(values) or found.count == 1 else ""
            half = f" ± {number(found.half, DIGITS[measure])}" if found.count > 1 else ""
            shown = number(found.mean, DIGITS[measure], "+") + (half + few if found.count else "")
            if name == group.reference:
                shown = ""
            line.append(shown)
    failed = len(rows) - len(there)
    return [*line, f"{len(there)}" + (f" ({failed} failed)" if failed else "")]


def sentences(rows: dict[str, list[Row]], group: Group) -> list[str]:
    """Say who is ahead of the reference, who is level with it, and that all others are behind."""
    reference = rows.get(group.reference, [])
    unit, digits = (" mm", 2) if group.measure == "mm" else ("", 4)
    found = {name: difference(part, reference, group.measure) for name, part in rows.items() if name != group.reference}
    found = {name: diff for name, diff in found.items() if diff.count > 1}
    ahead = [
        f"`{n}` (by {number(d.mean, digits)}{unit} ± {number(d.half, digits)}, n {d.count})"
        for n, d in found.items()
        if d.clear > 0
    ]
    level = [f"`{n}` (n {d.count})" for n, d in found.items() if d.clear == 0]
    behind = [f"`{n}`" for n, d in found.items() if d.clear < 0]
    spoken = []
    for names, text in ((ahead, "Ahead of"), (level, "No clear difference from"), (behind, "Behind")):
        if names:
            spoken.append(f"{text} `{group.reference}`: {', '.join(names)}.")
    return spoken


def table(name: str, rows: Sequence[Row]) -> str:
    """Return the table of a group and what it says, from its rows."""
    group = GROUPS[name]
    parts: dict[str, list[Row]] = defaultdict(list)
    for method in group.methods:
        if mine := [row for row in rows if row["method"] == method]:
            parts[method] = mine
    measures = [m for m in MEANINGS if any(row[m] for row in rows)]
    heads = [""]
    for measure in measures:
        heads += [MEANINGS[measure], *([f"better than `{group.reference}` by"] if measure == group.measure else [])]
    lines = [f"## {group.title}", "", f"| {' | '.join([*heads, 'n'])} |", "|" + "---|" * (len(heads) + 1)]
    for method, mine in parts.items():
        lines.append(f"| {' | '.join(cells(method, mine, group, parts.get(group.reference, []), measures))} |")
    return "\n".join([*lines, "", *sentences(parts, group), ""])


def document(rows: Sequence[Row]) -> str:
    """Return the whole document, in Markdown."""
    parts: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        parts[row["group"]].append(row)
    versions = {name: sorted({row["version"] for row in rows if row["method"] == name}) for name in METHODS}
    settings = [f"| `{name}` | {', '.join(found)} | {METHODS[name].title} |" for name, found in versions.items() if found]
    text = HEAD + "\n".join(["| method | version | settings |", "|---|---|---|", *settings, "", ""])
    return text + "\n".join(table(name, parts[name]) for name in GROUPS if name in parts)
