"""Names of FreeSurfer's and SynthSeg's codes of brain structures."""

from __future__ import annotations

import re
from collections.abc import Mapping

_MIDLINE = {14: "third ventricle", 15: "fourth ventricle", 16: "brain stem", 24: "CSF"}
_SIDED = {
    2: "cerebral white matter",
    3: "cerebral cortex",
    4: "lateral ventricle",
    5: "inferior lateral ventricle",
    7: "cerebellar white matter",
    8: "cerebellar cortex",
    10: "thalamus",
    11: "caudate",
    12: "putamen",
    13: "pallidum",
    17: "hippocampus",
    18: "amygdala",
    26: "accumbens",
    28: "ventral diencephalon",
}
_RIGHT = {
    41: 2, 42: 3, 43: 4, 44: 5, 46: 7, 47: 8, 49: 10, 50: 11, 51: 12, 52: 13, 53: 17, 54: 18, 58: 26, 60: 28,
}  # fmt: skip


def structure_name(label: int) -> str:
    """Return the name of a code, such as "left hippocampus"; "label N" for an unknown one."""
    if label in _MIDLINE:
        return _MIDLINE[label]
    if label in _SIDED:
        return f"left {_SIDED[label]}"
    if label in _RIGHT:
        return f"right {_SIDED[_RIGHT[label]]}"
    return f"label {label}"


def known_code(label: int, name: str, known: Mapping[int, str]) -> int | None:
    """Return the code of the known structure that a label of a user's label map stands for; None for any other structure.

    A name says more than a number: segmentations are often numbered 1, 2, 3, whatever they show.

    Parameters
    ----------
    label : value in the label map.
    name : what the user calls it, or "" where nobody has named it: then the value must be a code itself.
    known : names by code, such as {17: "left hippocampus"}.
    """
    if not name or re.fullmatch(rf"(label|segment)[ _-]*0*{label}", name.strip(), flags=re.IGNORECASE):
        return label if label in known else None
    words = _words(name)
    for code, theirs in known.items():
        if words == _words(theirs):
            return code
    # FreeSurfer's own names, such as "Left-Thalamus-Proper" for 10, stray a little from ours: the value tells what is meant.
    ours = _words(known.get(label, ""))
    return label if ours & _SIDES <= words and _akin(words - _SIDES, ours - _SIDES) else None


_SIDES = frozenset({"left", "right"})
_LEAST_LETTERS = 5


def _words(name: str) -> frozenset[str]:
    return frozenset(re.split(r"[\W_]+", name.casefold())) - {""}


def _akin(some: frozenset[str], others: frozenset[str]) -> bool:
    """Tell whether a word of some length begins one of the other names' words, or the other way about."""
    return any(
        min(len(a), len(b)) >= _LEAST_LETTERS and (a.startswith(b) or b.startswith(a)) for a in some for b in others
    )
