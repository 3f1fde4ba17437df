"""Which structures count: what a user calls them, turned into what the predictor's curves call them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.reading.files import is_regular

_MOST_DIGITS = 10


def structure_weights(text: str, named: Mapping[int, str], trained: Mapping[int, str]) -> dict[str, float]:
    """Read "left hippocampus,53:2" as weights by the names that the curves have.

    Parameters
    ----------
    text : names or label values, each with an optional weight after a colon.
    named : the user's names of labels, which win.
    trained : the predictor's names; if neither has any, names are taken as they are.

    Raises
    ------
    InputError : a structure that nobody knows, one twice, or no structure at all.
    """
    names = {**trained, **{label: name for label, name in named.items() if name}}
    words = {_plain(name): label for names_of in (trained, names) for label, name in names_of.items()}
    found: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        word, weight = _weighted(part, words)
        name = _name(word, words, names)
        if name in found:
            raise InputError(f"--structures names '{name}' twice: give each structure once.")
        found[name] = weight
    if not found:
        raise InputError("--structures names no structure: write names or label values with commas between them.")
    return found


def user_names(label_names: str | None, moving_labels: str | None) -> dict[int, str]:
    """Return the names that the user's files give to labels, as `read_inputs` will find them; unreadable label maps give none."""
    from HyperPredictRegLib.labels import embedded_label_names, read_label_names
    from HyperPredictRegLib.reading.volumes import stated_volume

    names: dict[int, str] = {}
    if moving_labels is not None and is_regular(Path(moving_labels)):
        import SimpleITK as sitk

        # Whoever reads all of it says what is wrong with it; here it must only not reach a library that it would crash.
        with suppress(InputError, RuntimeError):
            stated_volume(moving_labels, "moving labels")
            reader = sitk.ImageFileReader()
            reader.SetFileName(moving_labels)
            reader.ReadImageInformation()
            names = embedded_label_names(reader)
    return names if label_names is None else names | read_label_names(label_names)


def trained_names(predictor: str, engine: str, preset: str) -> dict[int, str]:
    """Return the structures that the predictor of a job knows; none where there is no predictor.

    Raises
    ------
    InputError : a folder was named that holds no bundle.
    """
    from HyperPredictRegLib.predictor.card import read_card
    from HyperPredictRegLib.predictor.paths import bundled

    folder = None if predictor == "none" else bundled(engine, preset) if predictor == "bundled" else Path(predictor)
    return {} if folder is None else {int(label): name for label, name in read_card(folder).structures.items()}


def _weighted(part: str, words: Mapping[str, int]) -> tuple[str, float]:
    word, colon, weight = part.rpartition(":")
    if not colon or _plain(part) in words:
        return part, 1.0
    try:
        return word.strip(), float(weight)
    except ValueError as error:
        raise InputError(f"'{part}' in --structures has no weight after its colon: write NAME:NUMBER.") from error


def _name(word: str, words: Mapping[str, int], names: Mapping[int, str]) -> str:
    # Not isdigit alone, for which ² is a digit.
    if word.isascii() and word.isdigit() and len(word) <= _MOST_DIGITS:
        return names.get(int(word)) or f"label {int(word)}"
    if _plain(word) in words:
        return names[words[_plain(word)]]
    if not names:
        return word
    near = difflib.get_close_matches(_plain(word), words, n=3, cutoff=0.5)
    offer = [names[words[name]] for name in near] or list(names.values())
    raise InputError(f"No structure is called '{word}': write its label value, or one of {', '.join(offer)}.")


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("-", " ").replace("_", " ").split())
