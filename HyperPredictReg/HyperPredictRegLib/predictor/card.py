"""What a predictor is, readable without torch."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.files import read_text
from HyperPredictRegLib.records import from_json

T = TypeVar("T")

FORMAT = 1
CARD_FILE = "card.json"

MOST_BYTES = 2_000_000
"""Of a card: ours have three thousand, and name twenty people; this is enough for ten thousand."""

MOST_LETTERS = 1000
MOST_DIGITS = 10


@dataclass(frozen=True)
class Card:
    """What a predictor is and what it may be used for.

    Attributes
    ----------
    format : of this file.
    name, version, licence : of the predictor.
    engine, engine_version, settings_hash, preset : whose results it foresees; any other's are not its business.
    features_version : meaning of the features it reads.
    hyperparameter : name of the λ it foresees.
    lower, upper : the range of λ it was trained on.
    structures : names of the structures it knows, by label value.
    assumed : features that nobody can measure, such as how far labels stray from the image, by name.
    fixed_value : the cross-validated λ for those who cannot use a prediction.
    training_data : where the examples came from.
    training : settings of the training.
    subjects : every person it was trained on, with the number of the fold.
    pairs, registrations : examples it was trained on.
    accuracy : measured on held-out people, by name; see the evaluation report.
    model_sha256 : checksum of ``model.pt``.
    """

    format: int
    name: str
    version: str
    licence: str
    engine: str
    engine_version: str
    settings_hash: str
    preset: str
    features_version: str
    hyperparameter: str
    lower: float
    upper: float
    structures: dict[str, str]
    assumed: dict[str, float]
    fixed_value: float
    training_data: str
    training: dict[str, Any]
    subjects: dict[str, int]
    pairs: int
    registrations: int
    accuracy: dict[str, float]
    model_sha256: str = ""


def read_record(kind: type[T], path: Path, what: str, most: int) -> T:
    """Read a dataclass from a small JSON file.

    Parameters
    ----------
    what : how a sentence about it begins, for example "The predictor's card".
    most : bytes that such a file can have.

    Raises
    ------
    InputError : it cannot be read, is too large, or holds something else.
    """
    text = read_text(path, what.removeprefix("The "), most)
    try:
        return from_json(kind, text, f"{what} '{path}'")
    except (RecursionError, ArithmeticError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        # Nested without end, or a number of thousands of digits.
        raise InputError(f"{what} '{path}' is not what this program writes: make it anew.") from error


def read_card(folder: Path | str) -> Card:
    """Read a bundle's card alone; needs no torch.

    Raises
    ------
    InputError : it is missing, no card, of another format, or says what cannot be.
    """
    path = Path(folder) / CARD_FILE
    card = read_record(Card, path, "The predictor's card", MOST_BYTES)
    if card.format != FORMAT:
        raise InputError(f"The predictor '{folder}' has format {card.format}, this version reads {FORMAT}: update either.")
    wrong = _wrong(card)
    if wrong:
        raise InputError(f"The predictor's card '{path}' has {wrong} that cannot be: install the bundle again.")
    return card


def _wrong(card: Card) -> str:
    """Name what a card says that cannot be, in words; "" if all can."""
    numbers = (*card.assumed.values(), *card.accuracy.values())
    texts = (
        card.name, card.version, card.licence, card.engine, card.engine_version, card.settings_hash, card.preset,
        card.features_version, card.hyperparameter, card.training_data, *card.structures.values(),
    )  # fmt: skip
    checks = (
        ("a text", all(len(text) <= MOST_LETTERS and text.isprintable() for text in texts)),
        ("a range of λ", math.isfinite(card.upper) and 0 < card.lower < card.upper),
        ("a fixed λ", math.isfinite(card.fixed_value) and card.fixed_value > 0),
        ("a number", all(math.isfinite(number) for number in numbers)),
        ("label values", all(label.isascii() and label.isdigit() and len(label) <= MOST_DIGITS for label in card.structures)),
        ("a checksum", re.fullmatch("[0-9a-f]{64}", card.model_sha256) is not None),
    )
    return next((what for what, right in checks if not right), "")
