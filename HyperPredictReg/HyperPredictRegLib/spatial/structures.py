"""Names of structures: when two names mean the same one, and which structure of a vocabulary a name or a label stands for.

A vocabulary gives each code its name, such as {17: "left hippocampus"}. Bundles have theirs in their cards; FreeSurfer's is here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping
from typing import TypeVar

Code = TypeVar("Code")

_MIDLINE = {
    14: "third ventricle", 15: "fourth ventricle", 16: "brain stem", 24: "CSF", 72: "fifth ventricle",
    77: "white matter hypointensities", 80: "non-white matter hypointensities", 85: "optic chiasm",
    251: "corpus callosum posterior", 252: "corpus callosum mid posterior", 253: "corpus callosum central",
    254: "corpus callosum mid anterior", 255: "corpus callosum anterior",
}  # fmt: skip
_SIDED = {
    "cerebral white matter": (2, 41),
    "cerebral cortex": (3, 42),
    "lateral ventricle": (4, 43),
    "inferior lateral ventricle": (5, 44),
    "cerebellar white matter": (7, 46),
    "cerebellar cortex": (8, 47),
    "thalamus": (10, 49),
    "caudate": (11, 50),
    "putamen": (12, 51),
    "pallidum": (13, 52),
    "hippocampus": (17, 53),
    "amygdala": (18, 54),
    "accumbens": (26, 58),
    "ventral diencephalon": (28, 60),
    "vessel": (30, 62),
    "choroid plexus": (31, 63),
}

FREESURFER: Mapping[int, str] = {
    **{codes[side]: f"{word} {name}" for name, codes in _SIDED.items() for side, word in enumerate(("left", "right"))},
    **_MIDLINE,
}
"""The vocabulary of FreeSurfer's and SynthSeg's codes of brain structures."""

_SYNONYMS = {
    "l": "left", "lh": "left", "lt": "left", "sin": "left", "sinister": "left", "sinistra": "left",
    "r": "right", "rh": "right", "rt": "right", "dex": "right", "dexter": "right", "dextra": "right",
    "3rd": "third", "4th": "fourth", "5th": "fifth", "inf": "inferior", "lat": "lateral", "vent": "ventricle",
    "cerebellum": "cerebellar", "cerebrum": "cerebral", "ctx": "cortex", "wm": "white matter", "cc": "corpus callosum",
    "dc": "diencephalon", "ventraldc": "ventral diencephalon", "brainstem": "brain stem",
}  # fmt: skip
_FILLING = frozenset({"proper", "area", "of", "the"})
_PLACEHOLDER = re.compile(r"(?:label|segment|segmentation|structure|region|class|object|value)?[\W_]*(\d*)")

_LEAST_CODES = 6
_MOST_UNKNOWN = 3
_LEAST_SPREAD = 1.5


def identity(name: str) -> str:
    """Return a text that is equal for names of one structure, such as "Left-Thalamus-Proper" and "thalamus (left)".

    Case, punctuation and the order of words do not count, nor do words that only fill; sides and usual abbreviations are written
    out. The identity of an identity is itself. A name without letters and digits has the identity "".
    """
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFKC", name))
    words = [word for word in re.split(r"[\W_]+", unicodedata.normalize("NFKC", apart.casefold())) if word]
    known = {part for word in words for part in _SYNONYMS.get(word, word).split()}
    return " ".join(sorted(known - _FILLING or known))


def says_nothing(name: str) -> bool:
    """Tell whether a name is one that programs give where people gave none: "", "Segment_2", "label 17", "3"."""
    return _PLACEHOLDER.fullmatch(name.strip().casefold()) is not None


def match(name: str, vocabulary: Mapping[Code, str]) -> Code | None:
    """Return the code of the structure that a name means; None if it means none, or if several could be meant.

    Parameters
    ----------
    name : as people or programs wrote it; one that says nothing, such as "Segment_2", means only what is called exactly so.
    vocabulary : names by code; a code may be anything, also the name itself.
    """
    found = [code for code, theirs in vocabulary.items() if theirs == name]
    if not found and not says_nothing(name):
        meant = identity(name)
        found = [code for code, theirs in vocabulary.items() if identity(theirs) == meant]
    return found[0] if len(found) == 1 else None


def codes_of(labels: Collection[int], names: Mapping[int, str], vocabulary: Mapping[int, str]) -> tuple[dict[int, int], str]:
    """Return which structures of a vocabulary the labels of a label map stand for; a name says more than a value.

    Values alone are taken for codes only where nothing names any of the labels and they look like the vocabulary's, see
    `look_like_codes`: 1, 2, 3 are more often a count than FreeSurfer's codes.

    Parameters
    ----------
    labels : the values in the label map, without the background.
    names : name of each label that has one.
    vocabulary : names by code.

    Returns
    -------
    codes : by label, for those that stand for a structure of the vocabulary.
    note : a sentence for the user where values were taken for codes, else "".
    """
    # "Label 17" repeats the value 17 and names nothing; "Segment_2" with another value contradicts it.
    unnamed = [label for label in labels if _repeats(names.get(label, ""), label)]
    if len(unnamed) == len(labels) and look_like_codes(labels, _whole(vocabulary)):
        codes = {label: label for label in labels if label in vocabulary}
        example = next(iter(codes), None)
        if example is None:
            return {}, ""
        return codes, (
            f"The labels have no names. {len(codes)} of the {len(labels)} values are taken for codes of structures, such as "
            f"{example} for '{vocabulary[example]}': give a table of label names if they mean something else."
        )
    matched = {label: match(names.get(label, ""), vocabulary) for label in labels}
    return {label: code for label, code in matched.items() if code is not None}, ""


def look_like_codes(labels: Collection[int], vocabulary: Mapping[int, str]) -> bool:
    """Tell whether values without names can be taken for codes of a vocabulary.

    At least six must be known and at most three unknown, and they must be spread as codes are, not counted through.
    """
    known = sum(label in vocabulary for label in labels)
    spread = max(labels, default=0) >= _LEAST_SPREAD * len(labels)
    return known >= _LEAST_CODES and len(labels) - known <= _MOST_UNKNOWN and spread


def structure_name(label: int) -> str:
    """Return the name of one of FreeSurfer's codes, such as "left hippocampus"; "label N" for an unknown one."""
    return FREESURFER.get(label, f"label {label}")


def _repeats(name: str, label: int) -> bool:
    placeholder = _PLACEHOLDER.fullmatch(name.strip().casefold())
    return placeholder is not None and placeholder.group(1).lstrip("0") in ("", str(label))


def _whole(vocabulary: Mapping[int, str]) -> Mapping[int, str]:
    """Return FreeSurfer's vocabulary in place of a part of it: a whole brain has more labels than a bundle was trained on."""
    return FREESURFER if all(FREESURFER.get(code) == name for code, name in vocabulary.items()) else vocabulary
