"""What a predictor is, readable without torch, and where the bundles are that come with the extension."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.files import read_text
from HyperPredictRegLib.core.json_records import from_json
from HyperPredictRegLib.core.search_space import SearchSpace, Setting
from HyperPredictRegLib.spatial.structures import codes_of

T = TypeVar("T")

FORMAT = 2
"""Of bundles that predict Dice and folding over one parameter."""

OUTLOOK_FORMAT = 3
"""Of bundles that tell errors in mm and chances, too, maybe over several parameters: earlier versions cannot read them."""

ANY_PRESET = "any"
"""Ends the name of the folder of a bundle that serves several presets."""
CARD_FILE = "card.json"

MOST_BYTES = 2_000_000
"""Of a card: ours have three thousand, and name twenty people; this is enough for ten thousand."""

USUAL_POINTS = 61
"""Of a usual shape, evenly spaced from 0 to 1 over the first parameter's range on its scale."""

MOST_LETTERS = 1000
MOST_DIGITS = 10


@dataclass(frozen=True)
class Card:
    """What a predictor is and what it may be used for.

    Attributes
    ----------
    format : of this file.
    name, version, licence : of the predictor.
    engine, engine_version, settings_hash, preset : whose results it predicts, and nobody else's.
    features_version : meaning of the features it reads.
    alignment : settings of the affine step that its examples were made with, see `AlignmentSettings`.
    preprocessing : version of foreground, intensities and working grid, see `preprocessing.VERSION`.
    space : the parameters of the engine, with the ranges that it was trained on.
    structures : names of the structures it knows, by label value.
    assumed : features that nobody can measure, such as how far labels stray from the image, by name.
    fixed : the cross-validated setting for those who cannot use a prediction.
    training_data : where the examples came from.
    training : settings of the training.
    subjects : every person it was trained on, with the number of the cross-validation fold.
    pairs, registrations : examples it was trained on.
    accuracy : measured on held-out people, by name; see the evaluation report.
    model_sha256 : checksum of ``model.pt``.
    held : values of the engine's other parameters, their defaults, that all examples were made with.
    presets : those that it serves, if that is more than `preset`.
    evidence_version : meaning of the evidence that it reads, see `evidence.VERSION`; "" if it reads none.
    chosen : the parameters along which choosing was measured; empty where it was along all. Unless asked for other settings, it
        tells of these, with the others at their defaults.
    domains : kinds of images that it was trained or calibrated on, each with what was measured there when it was left out.
    usual : mean shape of the gain of overlap over the first parameter, see `usual.leaning`; empty where none was measured.
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
    alignment: dict[str, Any]
    preprocessing: str
    space: SearchSpace
    structures: dict[str, str]
    assumed: dict[str, float]
    fixed: Setting
    training_data: str
    training: dict[str, Any]
    subjects: dict[str, int]
    pairs: int
    registrations: int
    accuracy: dict[str, float]
    model_sha256: str = ""
    held: Setting = field(default_factory=dict)
    presets: tuple[str, ...] = ()
    evidence_version: str = ""
    chosen: tuple[str, ...] = ()
    domains: dict[str, dict[str, float]] = field(default_factory=dict)
    usual: tuple[float, ...] = ()

    def serves(self, preset: str) -> bool:
        """Tell whether it predicts registrations at a resolution preset."""
        return preset in (self.presets or (self.preset,))

    def identified(self, labels: Collection[int], names: Mapping[int, str]) -> tuple[dict[int, int], dict[int, str], str]:
        """Return which of its structures the labels of a segmentation stand for, by `names` if these are known.

        Returns
        -------
        codes : by label, for those that it knows.
        called : what each label is called in a prediction.
        note : a sentence for the user where values alone were taken for codes, else "".
        """
        known = {int(label): name for label, name in self.structures.items()}
        codes, note = codes_of(labels, names, known)
        called = {label: names.get(label) or known.get(codes.get(label, -1)) or f"label {label}" for label in labels}
        return codes, called, note


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
    if card.format not in (FORMAT, OUTLOOK_FORMAT):
        raise InputError(
            f"The predictor '{folder}' has format {card.format}, this version reads {FORMAT} and {OUTLOOK_FORMAT}: update either."
        )
    wrong = _wrong(card)
    if wrong:
        raise InputError(f"The predictor's card '{path}' has {wrong} that cannot be: install the bundle again.")
    return card


def _wrong(card: Card) -> str:
    """Name what a card says that cannot be, in words; "" if all can."""
    measured = [number for found in card.domains.values() for number in found.values()]
    numbers = (*card.assumed.values(), *card.accuracy.values(), *card.held.values(), *measured)
    texts = (
        card.name, card.version, card.licence, card.engine, card.engine_version, card.settings_hash, card.preset,
        card.features_version, card.preprocessing, card.training_data, *card.structures.values(), *card.presets,
        card.evidence_version, *card.domains,
    )  # fmt: skip
    checks = (
        ("a text", all(len(text) <= MOST_LETTERS and text.isprintable() for text in texts)),
        ("a fixed setting", set(card.fixed) == set(card.space.names) and all(p.holds(card.fixed[p.name]) for p in card.space)),
        ("parameters to choose", set(card.chosen) <= set(card.space.names)),
        ("a number", all(math.isfinite(number) for number in (*numbers, *card.usual))),
        ("a usual shape", len(card.usual) in (0, USUAL_POINTS)),
        ("label values", all(label.isascii() and label.isdigit() and len(label) <= MOST_DIGITS for label in card.structures)),
        ("a checksum", re.fullmatch("[0-9a-f]{64}", card.model_sha256) is not None),
    )
    return next((what for what, right in checks if not right), "")


_LIBRARY = Path(__file__).resolve().parents[1]


def bundled(engine: str, preset: str) -> Path | None:
    """Return the folder of the first of `all_bundled`, or None if there is none."""
    return next(iter(all_bundled(engine, preset)), None)


def all_bundled(engine: str, preset: str) -> tuple[Path, ...]:
    """Return the folders of the bundles that predict an engine at a preset: one for this preset alone before one for several.

    Slicer and a source tree keep bundles in ``Resources/Models`` beside the library; pip installs them below ``share`` of the
    environment.
    """
    found = []
    for name in (f"{engine}-{preset}", f"{engine}-{ANY_PRESET}"):
        for models in (_LIBRARY.parent / "Resources" / "Models", Path(sys.prefix) / "share" / "hyperpredictreg" / "models"):
            if (models / name / CARD_FILE).is_file():
                found.append(models / name)
                break
    return tuple(folder for folder in found if folder.name.endswith(f"-{preset}") or _serves(folder, preset))


def _serves(folder: Path, preset: str) -> bool:
    """Tell whether a bundle serves a preset; a damaged one is taken to, so that it is told of where it is loaded."""
    try:
        return read_card(folder).serves(preset)
    except InputError:
        return True
