"""What a predictor is, readable without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.records import from_json

FORMAT = 1
CARD_FILE = "card.json"


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


def read_card(folder: Path | str) -> Card:
    """Read a bundle's card alone; needs no torch.

    Raises
    ------
    InputError : it is missing or of another format.
    """
    path = Path(folder) / CARD_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The predictor's card '{path}' cannot be read ({error}).") from error
    card = from_json(Card, text, f"'{path}'")
    if card.format != FORMAT:
        raise InputError(f"The predictor '{folder}' has format {card.format}, this version reads {FORMAT}: update either.")
    return card
