"""A predictor on disk: a folder with ``card.json`` (what it is) and ``model.pt`` (plain tensors).

Loading never runs code: the tensors are read with torch's restricted unpickler, after their checksum has agreed with the card
and the file was looked through (see `read_tensors`). A checksum tells of damage, not of malice: all sizes and numbers are
checked, too.
"""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.files import read_bounded, writing_into
from HyperPredictRegLib.core.json_records import to_json
from HyperPredictRegLib.core.tensor_files import read_tensors
from HyperPredictRegLib.predictor.card import CARD_FILE, Card, read_card
from HyperPredictRegLib.predictor.network import CurveNetwork, Ensemble, NetworkSettings, Reading, basis_size
from HyperPredictRegLib.predictor.ood import OodDetector

LEVEL = 0.9

LEAST_FOLDING = 0.002
"""Percent. Below this, one voxel in fifty thousand, folding counts as none: its logarithm would be noise."""


@dataclass(frozen=True)
class BandWidths:
    """Factors by which predicted error scales become 90 % bands.

    Attributes
    ----------
    dice, mean_dice : with a moving segmentation.
    dice_unsegmented, mean_dice_unsegmented : without one.
    curves : of folding in the foreground, folding in the grid, and SD log-Jacobian.
    subjects : people that they were calibrated on.
    """

    dice: float
    mean_dice: float
    dice_unsegmented: float
    mean_dice_unsegmented: float
    curves: tuple[float, float, float]
    subjects: int


MOST_BYTES = 50_000_000

_MODEL = "model.pt"


@dataclass(frozen=True)
class Bundle:
    """A predictor in parts."""

    card: Card
    ensemble: Ensemble
    widths: BandWidths
    ood: OodDetector


def save_bundle(bundle: Bundle, folder: Path) -> Card:
    """Write a bundle, both files under temporary names first; the card is returned with the checksum that it got.

    Raises
    ------
    InputError : the disk is full, or the folder cannot be written to.
    """
    ensemble, ood = bundle.ensemble, bundle.ood
    reading = ensemble.reading
    content = {
        "network": {name: tensor.contiguous() for name, tensor in ensemble.network.state_dict().items()},
        "settings": asdict(ensemble.network.settings),
        "features": list(reading.features),
        "tokens": list(reading.tokens),
        "knots": list(ensemble.knots),
        "labels": list(ensemble.labels),
        "reading": {name: _tensor(getattr(reading, name)) for name in _READING},
        "ood": {name: _tensor(getattr(ood, name)) for name in _OOD},
        "ood_features": list(ood.features),
        "thresholds": [ood.uncertain, ood.unreliable],
        "widths": asdict(bundle.widths),
    }
    stream = io.BytesIO()
    torch.save(content, stream)
    data = stream.getvalue()
    card = replace(bundle.card, model_sha256=hashlib.sha256(data).hexdigest())
    model, written = folder / f".{_MODEL}.tmp", folder / f".{CARD_FILE}.tmp"
    with writing_into(folder, "files", ""):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            model.write_bytes(data)
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
    InputError : it is missing, of another format, corrupt, truncated, or not what its card says; or it holds numbers that are
        not finite, so that no reliability could be trusted.
    """
    folder = Path(folder)
    if not (folder / CARD_FILE).is_file() or not (folder / _MODEL).is_file():
        raise InputError(f"'{folder}' is no predictor: a bundle is a folder with {CARD_FILE} and {_MODEL}.")
    card = read_card(folder)
    model = folder / _MODEL
    data = read_bounded(model, "predictor's model", MOST_BYTES)
    if hashlib.sha256(data).hexdigest() != card.model_sha256:
        raise InputError(
            f"'{model}' is not the file that its card describes: it is damaged, incomplete or was exchanged. "
            "Install the bundle again."
        )
    try:
        return _assembled(card, read_tensors(data))
    except Exception as error:  # what a damaged file makes its readers raise cannot be listed
        reason = (str(error).strip().splitlines() or [""])[0][:160] or type(error).__name__
        reason = f"it lacks {reason}" if isinstance(error, KeyError) else reason
        raise InputError(f"'{model}' does not hold the tensors of a predictor ({reason}); nothing in it was run.") from error


_READING = ("feature_mean", "feature_sd", "token_mean", "token_sd")
_OOD = ("mean", "sd", "precision")

_SIZES = {
    "members": 100, "pair_features": 5000, "token_features": 1000, "structures": 2000, "basis": 200, "width": 2000,
    "hidden_layers": 5, "embedding": 500,
}  # fmt: skip
"""The most of each that a network is built with; ten times of what ours have, or more."""


def _assembled(card: Card, content: Any) -> Bundle:
    """Build a bundle, having compared all sizes with each other and with the card, and all numbers with what they can be."""
    if not isinstance(content, dict):
        raise ValueError("it is no table of named parts")
    settings = _settings(content["settings"])
    features, tokens = (_names(content[name], name) for name in ("features", "tokens"))
    labels = tuple(content["labels"])
    if any(type(label) is not int for label in labels) or sorted(map(str, labels)) != sorted(card.structures):
        raise ValueError("its labels are not those on its card")
    if len(card.space) > 1:
        raise ValueError("its curves run over one parameter, and its card names several")
    knots = tuple(_number(knot, "knots") for knot in content["knots"])
    rising = all(a <= b for a, b in pairwise(knots)) and knots[0] < knots[-1]
    counted = (len(features), len(tokens) + 1, len(labels), basis_size(knots))
    if not rising or counted != (settings.pair_features, settings.token_features, settings.structures, settings.basis):
        raise ValueError("its features, labels or knots are not as many as its settings say")
    shapes = dict.fromkeys(_READING[:2], (settings.members, len(features)))
    shapes |= dict.fromkeys(_READING[2:], (settings.members, len(tokens)))
    read = {name: _array(content["reading"][name], shape, name) for name, shape in shapes.items()}
    return Bundle(
        card,
        Ensemble(_network(settings, content["network"]), Reading(features, tokens, **read), card.space.first, knots, labels),
        _widths(content["widths"]),
        _ood(content),
    )


def _settings(given: Any) -> NetworkSettings:
    settings = NetworkSettings(**given)
    for name, most in _SIZES.items():
        size = getattr(settings, name)
        if type(size) is not int or not 1 <= size <= most:
            raise ValueError(f"its setting {name} is {str(size)[:20]}, where 1 to {most} can be")
    if not 0 <= _number(settings.dropout, "dropout") < 1:
        raise ValueError("its setting dropout is no share")
    return settings


def _network(settings: NetworkSettings, weights: Any) -> CurveNetwork:
    # On this device tensors have a shape and nothing else, so that nothing is allocated for sizes that are not there.
    with torch.device("meta"):
        network = CurveNetwork(settings)
    expected = network.state_dict()
    if set(weights) != set(expected):
        raise ValueError("its network has other parts than its settings say")
    for name, weight in weights.items():
        _array(weight, tuple(expected[name].shape), name)
    network.load_state_dict(weights, assign=True)
    return network.eval()


def _ood(content: dict[str, Any]) -> OodDetector:
    names = _names(content["ood_features"], "ood_features")
    count = len(names)
    if not count:
        raise ValueError("it compares pairs by nothing")
    arrays = {
        name: _array(content["ood"][name], (count, count) if name == "precision" else (count,), f"ood {name}")
        for name in _OOD
    }
    # A comparison with NaN is false: no pair would ever be unusual, or every one.
    uncertain, unreliable = (_number(threshold, "thresholds") for threshold in content["thresholds"])
    if not 0 < uncertain <= unreliable or not (arrays["sd"] > 0).all():
        raise ValueError("its thresholds or spreads are not above 0 in rising order")
    return OodDetector(names, **arrays, uncertain=uncertain, unreliable=unreliable)


def _widths(given: Any) -> BandWidths:
    curves = tuple(_number(width, "widths") for width in given["curves"])
    widths = {name: _number(given[name], "widths") for name in given if name not in ("curves", "subjects")}
    if len(curves) != 3 or min(*curves, *widths.values()) < 0 or type(given["subjects"]) is not int or given["subjects"] < 1:
        raise ValueError("its widths of bands cannot be")
    return BandWidths(**widths, curves=curves, subjects=given["subjects"])


def _array(tensor: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    if not isinstance(tensor, torch.Tensor) or tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
        raise ValueError(f"its '{name}' has another shape or type than its settings say")
    array = tensor.detach().numpy().astype(float)
    if not np.isfinite(array).all():
        raise ValueError(f"its '{name}' holds numbers that are not finite")
    return array


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"its '{name}' holds {str(value)[:20]}, which is no finite number")
    return float(value)


def _names(given: Any, name: str) -> tuple[str, ...]:
    names = tuple(given)
    if len(set(names)) < len(names) or not all(isinstance(n, str) and n.isidentifier() for n in names):
        raise ValueError(f"its '{name}' are not names")
    return names


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(array, dtype=torch.float32)
