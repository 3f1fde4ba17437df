"""A predictor on disk: a folder with ``card.json`` (what it is) and ``model.pt`` (plain tensors).

Loading never runs code: the tensors are read with torch's restricted unpickler, after their checksum has agreed with the card.
"""

from __future__ import annotations

import hashlib
import pickle
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.predictor.bands import BandWidths
from HyperPredictRegLib.predictor.card import CARD_FILE, Card, read_card
from HyperPredictRegLib.predictor.ensemble import Ensemble, Reading
from HyperPredictRegLib.predictor.network import CurveNetwork, NetworkSettings
from HyperPredictRegLib.predictor.novelty import Novelty
from HyperPredictRegLib.records import to_json

LARGEST_BYTES = 50_000_000
_MODEL = "model.pt"


@dataclass(frozen=True)
class Bundle:
    """A predictor in parts."""

    card: Card
    ensemble: Ensemble
    widths: BandWidths
    novelty: Novelty


def save_bundle(bundle: Bundle, folder: Path) -> Card:
    """Write a bundle, both files under temporary names first; the card is returned with the checksum that it got."""
    folder.mkdir(parents=True, exist_ok=True)
    ensemble, novelty = bundle.ensemble, bundle.novelty
    reading = ensemble.reading
    content = {
        "network": {name: tensor.contiguous() for name, tensor in ensemble.network.state_dict().items()},
        "settings": asdict(ensemble.network.settings),
        "features": list(reading.features),
        "tokens": list(reading.tokens),
        "knots": list(ensemble.knots),
        "labels": list(ensemble.labels),
        "reading": {name: _tensor(getattr(reading, name)) for name in _READING},
        "novelty": {name: _tensor(getattr(novelty, name)) for name in _NOVELTY},
        "novelty_features": list(novelty.features),
        "thresholds": [novelty.amber, novelty.red],
        "widths": asdict(bundle.widths),
    }
    model, written = folder / f".{_MODEL}.tmp", folder / f".{CARD_FILE}.tmp"
    try:
        torch.save(content, model)
        card = replace(bundle.card, model_sha256=_checksum(model))
        written.write_text(to_json(card), encoding="utf-8")
        # Killed between the two, the old card's checksum refuses the new model.
        model.replace(folder / _MODEL)
        written.replace(folder / CARD_FILE)
    finally:
        model.unlink(missing_ok=True)
        written.unlink(missing_ok=True)
    return card


def load_bundle(folder: Path | str) -> Bundle:
    """Read a bundle.

    Raises
    ------
    InputError : it is missing, of another format, corrupt, truncated, or not what its card says.
    """
    folder = Path(folder)
    if not (folder / CARD_FILE).is_file() or not (folder / _MODEL).is_file():
        raise InputError(f"'{folder}' is no predictor: a bundle is a folder with {CARD_FILE} and {_MODEL}.")
    card = read_card(folder)
    model = folder / _MODEL
    if model.stat().st_size > LARGEST_BYTES:
        size = model.stat().st_size / 1e6
        raise InputError(f"'{model}' has {size:.0f} MB, far more than a predictor needs; it was not opened.")
    if _checksum(model) != card.model_sha256:
        raise InputError(
            f"'{model}' is not the file that its card describes: it is damaged, incomplete or was exchanged. "
            "Install the bundle again."
        )
    try:
        with warnings.catch_warnings():
            # What torch only warns of, a file that it did not write, is refused below.
            warnings.simplefilter("ignore")
            content = torch.load(model, map_location="cpu", weights_only=True)
        return _assembled(card, content)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"'{model}' does not hold the tensors of a predictor ({str(error).splitlines()[0][:120]}); nothing in it was run."
        ) from error


_READING = ("feature_mean", "feature_sd", "token_mean", "token_sd")
_NOVELTY = ("mean", "sd", "precision")


def _assembled(card: Card, content: dict[str, Any]) -> Bundle:
    network = CurveNetwork(NetworkSettings(**content["settings"]))
    network.load_state_dict(content["network"])
    network.eval()
    reading = Reading(
        tuple(content["features"]),
        tuple(content["tokens"]),
        **{name: content["reading"][name].numpy().astype(float) for name in _READING},
    )
    widths = dict(content["widths"]) | {"curves": tuple(content["widths"]["curves"])}
    return Bundle(
        card,
        Ensemble(network, reading, tuple(content["knots"]), tuple(content["labels"])),
        BandWidths(**widths),
        Novelty(
            tuple(content["novelty_features"]),
            **{name: content["novelty"][name].numpy().astype(float) for name in _NOVELTY},
            amber=content["thresholds"][0],
            red=content["thresholds"][1],
        ),
    )


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(array, dtype=torch.float32)


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
