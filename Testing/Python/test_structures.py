"""What a name or a label means: one structure has many spellings, a placeholder means none, and values alone mean little."""

from __future__ import annotations

import string
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from HyperPredictRegLib.predictor.card import bundled, read_card
from HyperPredictRegLib.predictor.features import PairFeatures
from HyperPredictRegLib.spatial.structures import (
    FREESURFER,
    codes_of,
    identity,
    look_like_codes,
    match,
    says_nothing,
    structure_name,
)
from hypothesis import given
from hypothesis import strategies as st

FOLDER = bundled("demons", "fast") or Path("missing")
KNOWN = {int(label): name for label, name in read_card(FOLDER).structures.items()}
WHOLE_BRAIN = (2, 3, 4, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 41, 42, 43, 46, 47, 49, 50, 51, 52, 53, 54)
CODES = st.sampled_from(sorted(FREESURFER))
WORDS = st.lists(st.text(string.ascii_letters, min_size=1, max_size=9), min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("left lateral ventricle", 4),
        ("Left-Hippocampus", 17),
        ("Hippocampus_Left", 17),
        ("hippocampus (L)", 17),
        ("LeftHippocampus", 17),
        ("right hippocampus", 53),
        ("Left-Thalamus-Proper", 10),
        ("Left-Accumbens-area", 26),
        ("Left-VentralDC", 28),
        ("Left-Cerebellum-Cortex", 8),
        ("Right-Cerebral-White-Matter", 41),
        ("Left-Inf-Lat-Vent", 5),
        ("3rd-Ventricle", 14),
        ("Brain-Stem", 16),
        ("brainstem", 16),
        ("CC_Mid_Anterior", 254),
        ("hippocampus", None),
        ("left right hippocampus", None),
        ("white matter", None),
        ("left tumour", None),
        ("left", None),
        ("cyst", None),
        ("Segment_2", None),
        ("Segment 2", None),
        ("label 2", None),
        ("2", None),
        ("", None),
    ],
)
def test_a_name_means_one_structure_or_none(name: str, code: int | None) -> None:
    assert match(name, FREESURFER) == code


@given(CODES, st.permutations(range(6)), st.sampled_from([" ", "_", "-", ", ", " / "]), st.booleans())
def test_order_case_and_punctuation_do_not_count(code: int, order: list[int], between: str, upper: bool) -> None:
    words = FREESURFER[code].split()
    shuffled = between.join(words[n] for n in order if n < len(words))
    assert match(shuffled.upper() if upper else shuffled.title(), FREESURFER) == code


@given(WORDS)
def test_an_identity_is_its_own_identity(words: list[str]) -> None:
    name = "-".join(words)
    assert identity(identity(name)) == identity(name) != ""


@given(WORDS)
def test_sides_are_never_one(words: list[str]) -> None:
    name = " ".join(words)
    assert (identity(f"left {name}") == identity(f"right {name}")) is ({"left", "right"} <= set(identity(name).split()))


@given(st.sampled_from(["Segment", "segment", "LABEL", "region", ""]), st.sampled_from(["_", " ", "-", ""]), st.integers(0, 3000))
def test_placeholders_mean_nothing(word: str, between: str, number: int) -> None:
    name = f"{word}{between}{number}"
    assert says_nothing(name)
    assert match(name, FREESURFER) is None
    assert match(name, {1: "x", 2: name}) == 2


def test_two_structures_of_one_name_are_ambiguous() -> None:
    twice = {1: "Left-Thalamus", 2: "left thalamus proper", 3: "liver"}
    assert match("thalamus, left", twice) is None
    assert match("Left-Thalamus", twice) == 1
    assert match("Liver", twice) == 3


def test_all_of_the_vocabulary_can_be_told_apart() -> None:
    assert len({identity(name) for name in FREESURFER.values()}) == len(FREESURFER)
    assert KNOWN.items() <= FREESURFER.items()
    assert (structure_name(53), structure_name(5000)) == ("right hippocampus", "label 5000")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (range(1, 31), {}),
        (range(2, 9), {}),
        (range(1, 9), {n: f"Segment_{n}" for n in range(1, 9)}),
        ((2, 4, 41, 43), {}),
        ((1, 2, 3), {1: "label 1"}),
        (WHOLE_BRAIN, {n: f"Segment_{n + 1}" for n in WHOLE_BRAIN}),
        ((*WHOLE_BRAIN, 600, 601, 602, 603), {}),
        (WHOLE_BRAIN, {2: "tumour"}),
    ],
    ids=["counted", "counted from 2", "Slicer's", "few", "three", "contradicted", "many unknown", "one is named"],
)
def test_values_alone_are_no_codes(labels, names) -> None:
    assert codes_of(tuple(labels), names, KNOWN) == ({}, "")


@pytest.mark.parametrize("names", [{}, {n: f"Label {n}" for n in WHOLE_BRAIN}, dict.fromkeys(WHOLE_BRAIN, "")])
def test_values_of_a_whole_brain_are_codes_and_that_is_told(names) -> None:
    codes, note = codes_of((*WHOLE_BRAIN, 24, 85, 9999), names, KNOWN)
    assert codes == {n: n for n in WHOLE_BRAIN}
    assert note.startswith("The labels have no names. 25 of the 28 values are taken for codes of structures, such as 2 for 'left")
    assert look_like_codes(WHOLE_BRAIN, KNOWN)


def test_names_win_over_values() -> None:
    names = {17: "cyst", 3: "left lateral ventricle", 1: "Left-Hippocampus"}
    assert codes_of((1, 3, 17, 41), names, KNOWN) == ({1: 17, 3: 4}, "")


def test_a_renumbered_segmentation_is_predicted_like_the_original() -> None:
    pytest.importorskip("torch")
    from HyperPredictRegLib.predictor.predictor import Predictor

    predictor = Predictor.load(FOLDER)
    token = dict.fromkeys(predictor.bundle.ensemble.reading.tokens, 0.3)
    pair = dict.fromkeys(predictor.bundle.ensemble.reading.features, 0.5)
    features = PairFeatures(pair=pair, tokens={17: token, 4: token})
    original, _, nothing = predictor.predict(features, names={17: KNOWN[17], 4: KNOWN[4]})
    renumbered = replace(features, tokens={1: token, 2: token})
    named, _, warnings = predictor.predict(renumbered, names={1: "Left-Hippocampus", 2: "left lateral ventricle"})
    assert np.array_equal(named.dice.value, original.dice.value)
    assert not warnings and not nothing
    unnamed, _, warnings = predictor.predict(features, names={17: "Segment_1", 4: "Segment_2"})
    assert not np.array_equal(unnamed.dice.value, original.dice.value)
    assert "Segment_1, Segment_2" in warnings[0]
