"""What a label of a user's label map stands for: its name says more than its number."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from HyperPredictRegLib.predictor.card import read_card
from HyperPredictRegLib.predictor.features import PairFeatures
from HyperPredictRegLib.predictor.paths import bundled
from HyperPredictRegLib.predictor.structures import known_code

FOLDER = bundled("demons", "fast") or Path("missing")
KNOWN = {int(label): name for label, name in read_card(FOLDER).structures.items()}


@pytest.mark.parametrize(
    ("label", "name", "code"),
    [
        (17, "", 17),
        (17, "Label 17", 17),
        (17, "Segment_17", 17),
        (3, "left lateral ventricle", 4),
        (1, "Left-Hippocampus", 17),
        (1, "Hippocampus_Left", 17),
        (10, "Left-Thalamus-Proper", 10),
        (26, "Left-Accumbens-area", 26),
        (28, "Left-VentralDC", 28),
        (14, "3rd-Ventricle", 14),
        (2, "white matter", None),
        (2, "left tumour", None),
        (3, "Segment_2", None),
        (1, "", None),
        (99, "", None),
        (17, "cyst", None),
        (17, "right hippocampus", 53),
        (12, "left", None),
    ],
)
def test_names_win_over_numbers(label: int, name: str, code: int | None) -> None:
    assert known_code(label, name, KNOWN) == code


def test_a_renumbered_segmentation_is_foreseen_like_the_original() -> None:
    pytest.importorskip("torch")
    from HyperPredictRegLib.predictor.predictor import Predictor

    predictor = Predictor.load(FOLDER)
    token = dict.fromkeys(predictor.bundle.ensemble.reading.tokens, 0.3)
    pair = dict.fromkeys(predictor.bundle.ensemble.reading.features, 0.5)
    features = PairFeatures(pair=pair, tokens={17: token, 4: token})
    original = predictor.forecast(features)
    renumbered = replace(features, tokens={1: token, 2: token})
    named = predictor.forecast(renumbered, names={1: "Left-Hippocampus", 2: "left lateral ventricle"})
    assert np.array_equal(named.curves.dice.value, original.curves.dice.value)
    assert not named.warnings
    unnamed = predictor.forecast(renumbered, names={1: "one thing", 2: "another"})
    assert not np.array_equal(unnamed.curves.dice.value, original.curves.dice.value)
    assert "one thing, another" in unnamed.warnings[0]
