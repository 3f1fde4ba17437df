"""Names of FreeSurfer's and SynthSeg's codes of brain structures."""

from __future__ import annotations

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
