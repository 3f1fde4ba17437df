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
from HyperPredictRegLib.predictor.network import CHANCES, CurveNetwork, Ensemble, NetworkSettings, Reading
from HyperPredictRegLib.predictor.ood import OodDetector
from HyperPredictRegLib.predictor.splines import Knots, basis_size

LEVEL = 0.9

LEAST_FOLDING = 0.002
"""Percent. Below this, one voxel in fifty thousand, folding counts as none: its logarithm would be noise."""


@dataclass(frozen=True)
class OutlookWidths:
    """How an outlook's uncalibrated numbers become bands and chances, so that they hold in domains never seen.

    Attributes
    ----------
    curves : factors of the error scales of `OUTLOOK_CURVES`.
    affine_error : factor of the affine error's scale.
    chances : slope and offset by which each logit of `CHANCES` becomes that of the chance.
    failed : chance from which an alignment is said to have failed.
    domains : kinds of images that all of it was calibrated on.
    """

    curves: tuple[float, float, float]
    affine_error: float
    chances: tuple[tuple[float, float], tuple[float, float]]
    failed: float
    domains: int


@dataclass(frozen=True)
class BandWidths:
    """Factors by which predicted error scales become 90 % bands.

    Attributes
    ----------
    dice, mean_dice : with a moving segmentation.
    dice_unsegmented, mean_dice_unsegmented : without one.
    curves : of folding in the foreground, folding in the grid, and SD log-Jacobian.
    subjects : people that they were calibrated on.
    outlook : of a network with an outlook.
    """

    dice: float
    mean_dice: float
    dice_unsegmented: float
    mean_dice_unsegmented: float
    curves: tuple[float, float, float]
    subjects: int
    outlook: OutlookWidths | None = None


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
        # As of old where there is one parameter.
        "knots": list(ensemble.knots[0]) if len(ensemble.knots) == 1 else [list(own) for own in ensemble.knots],
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
    knots = _knots(content["knots"])
    sizes = tuple(basis_size(own) for own in knots)
    counted = (len(features), len(tokens) + 1, len(labels), math.prod(sizes))
    if len(knots) != len(card.space) or settings.axes not in (sizes, () if len(sizes) == 1 else sizes):
        raise ValueError("its curves run over other parameters than its card names")
    if counted != (settings.pair_features, settings.token_features, settings.structures, settings.basis):
        raise ValueError("its features, labels or knots are not as many as its settings say")
    widths = _widths(content["widths"])
    if settings.outlook is not (widths.outlook is not None):
        raise ValueError("its network and its widths do not tell the same things")
    shapes = dict.fromkeys(_READING[:2], (settings.members, len(features)))
    shapes |= dict.fromkeys(_READING[2:], (settings.members, len(tokens)))
    read = {name: _array(content["reading"][name], shape, name) for name, shape in shapes.items()}
    return Bundle(
        card,
        Ensemble(_network(settings, content["network"]), Reading(features, tokens, **read), card.space, knots, labels),
        widths,
        _ood(content),
    )


def _knots(given: Any) -> Knots:
    several = tuple(given) if all(isinstance(own, list | tuple) for own in given) else (given,)
    knots = tuple(tuple(_number(knot, "knots") for knot in own) for own in several)
    if not knots or any(len(own) < 2 or own[0] >= own[-1] or any(a > b for a, b in pairwise(own)) for own in knots):
        raise ValueError("its knots do not rise")
    return knots


def _settings(given: Any) -> NetworkSettings:
    settings = NetworkSettings(**given)
    for name, most in _SIZES.items():
        size, least = getattr(settings, name), int(name != "structures")
        if type(size) is not int or not least <= size <= most:
            raise ValueError(f"its setting {name} is {str(size)[:20]}, where {least} to {most} can be")
    if type(settings.axes) is not tuple or not all(type(flag) is bool for flag in (settings.outlook, settings.leveled)):
        raise ValueError("its settings axes, outlook or leveled have another type")
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
    widths = {name: _number(given[name], "widths") for name in given if name not in ("curves", "subjects", "outlook")}
    if len(curves) != 3 or min(*curves, *widths.values()) < 0 or type(given["subjects"]) is not int or given["subjects"] < 1:
        raise ValueError("its widths of bands cannot be")
    outlook = None if given.get("outlook") is None else _outlook_widths(given["outlook"])
    return BandWidths(**widths, curves=curves, subjects=given["subjects"], outlook=outlook)


def _outlook_widths(given: Any) -> OutlookWidths:
    curves = tuple(_number(width, "widths") for width in given["curves"])
    affine_error, failed = (_number(given[name], "widths") for name in ("affine_error", "failed"))
    chances = tuple((_number(slope, "widths"), _number(offset, "widths")) for slope, offset in given["chances"])
    fits = len(curves) == 3 and len(chances) == len(CHANCES) and type(given["domains"]) is int and given["domains"] >= 1
    if not fits or min(*curves, affine_error, *(slope for slope, _ in chances)) < 0 or not 0 < failed <= 1:
        raise ValueError("its widths of an outlook cannot be")
    return OutlookWidths(curves, affine_error, chances, failed, given["domains"])  # type: ignore[arg-type]


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
