"""A registration network that is told how strongly to regularize: three levels, each of which adds to the displacements so far.

Source of the architecture: Mok & Chung, "Conditional Deformable Image Registration with Convolutional Neural Network", MICCAI
2021, doi:10.1007/978-3-030-87202-1_4. Parameters are called as in the authors' public weights, so that these are found by name.

Volumes are float32 tensors of shape (1, channels, d, h, w). Displacements are in unit coordinates, in which a volume reaches from
-1 to 1 along each axis; component 0 lies along w, 1 along h and 2 along d. Whoever imports this needs torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from HyperPredictRegLib.core.tensor_files import read_tensors

REACH = 0.4
"""The longest displacement that one level adds, in unit coordinates, as the public weights were trained."""

MULTIPLE = 8
"""Numbers of voxels along each axis are multiples of this: the coarsest level looks at every eighth one."""

_CODE = 64
"""Length of what the regularization weight is turned into before it sets the contrast of each channel."""

_SLOPE = 0.2
_PLANES, _HALO = 32, 2
"""So many planes are convolved at a time, with so many beside them, which two convolutions of width 3 reach."""

_MOST_CHANNELS, _MOST_BLOCKS = 256, 12

Step = Callable[[float], None]
"""Is told how many voxels were worked on since it was called before; may raise to stop the work."""


@dataclass(frozen=True)
class Widths:
    """What weights say of their network.

    Attributes
    ----------
    wide : channels at the full size of a level.
    deep : channels at half the size.
    raised : channels that the finest level brings back from half to full size.
    blocks : conditioned blocks at half the size, by level, the finest first.
    """

    wide: int
    deep: int
    raised: int
    blocks: tuple[int, int, int]

    @classmethod
    def of(cls, weights: Mapping[str, Any]) -> Widths:
        """Read the widths off the shapes of a table of weights.

        Raises
        ------
        ValueError : they are those of no such network.
        """
        shapes = []
        for name in ("down_conv.weight", "up.weight"):
            if name not in weights:
                raise ValueError(f"it lacks '{name}'")
            shapes.append(tuple(weights[name].shape))
        if any(len(shape) != 5 for shape in shapes):
            raise ValueError("its network is not one for volumes")
        (deep, wide), raised = shapes[0][:2], shapes[1][1]
        places = [re.compile(rf"{re.escape(prefix)}resblock_group_lvl1\.\d+\.conv1\.weight") for prefix in _PREFIXES]
        counts = [sum(place.fullmatch(name) is not None for name in weights) for place in places]
        channels = wide, deep, raised
        if not all(1 <= n <= _MOST_CHANNELS for n in channels) or not all(1 <= n <= _MOST_BLOCKS for n in counts):
            raise ValueError(f"its network has {channels} channels and {counts} blocks, which is none that is known")
        return cls(wide, deep, raised, (counts[0], counts[1], counts[2]))


_PREFIXES = ("", "model_lvl2.", "model_lvl2.model_lvl1.")
"""Of the names of the parameters of each level, the finest first."""


class ConditionedNorm(nn.Module):
    """Normalizes each channel of a volume, then scales and shifts it as the code says."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.style = nn.Linear(_CODE, 2 * channels)

    def forward(self, volume: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        """Return a volume of the same shape; `code` has shape (1, 64)."""
        scale, shift = self.style(code)[..., None, None, None].chunk(2, dim=1)
        return (1 + scale) * functional.instance_norm(volume) + shift


class ConditionedBlock(nn.Module):
    """Two convolutions beside a shortcut, each after a norm that the regularization weight sets."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        lengths = (1, _CODE, _CODE, _CODE, _CODE)
        self.mapping = nn.Sequential(
            *(layer for given, made in pairwise(lengths) for layer in (nn.Linear(given, made), _leaky()))
        )
        self.ai1, self.ai2 = ConditionedNorm(channels), ConditionedNorm(channels)
        self.conv1, self.conv2 = _convolution(channels, channels), _convolution(channels, channels)

    def forward(self, volume: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return a volume of the same shape; `weight` has shape (1, 1)."""
        code = self.mapping(weight)
        inner = self.conv1(functional.leaky_relu(self.ai1(volume, code), _SLOPE))
        added: torch.Tensor = self.conv2(functional.leaky_relu(self.ai2(inner, code), _SLOPE))
        return added + volume


class Level(nn.Module):
    """One level: features at its full size, blocks at half of it, and the displacement that it adds."""

    def __init__(self, channels: int, widths: Widths, raised: int, blocks: int) -> None:
        super().__init__()
        self.input_encoder_lvl1 = nn.Sequential(
            _convolution(channels, widths.wide), _leaky(), _convolution(widths.wide, widths.wide)
        )
        self.down_conv = _convolution(widths.wide, widths.deep, stride=2)
        # The activation after each block has no weights, but a number.
        self.resblock_group_lvl1 = nn.ModuleList(
            layer for _ in range(blocks) for layer in (ConditionedBlock(widths.deep), _leaky())
        )
        self.up = nn.ConvTranspose3d(widths.deep, raised, 2, stride=2, bias=False)
        both = raised + widths.wide
        self.output_lvl1 = nn.Sequential(_convolution(both, both // 2), _leaky(), _convolution(both // 2, 3), nn.Softsign())

    def features(self, volume: torch.Tensor, step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the level sees at its full size, and at half of it."""
        full = _by_slabs(self.input_encoder_lvl1, lambda low, high: volume[:, :, low:high], volume.shape[2], step)
        return full, self.down_conv(full)

    def added(
        self, full: torch.Tensor, half: torch.Tensor, weight: torch.Tensor, step: Step
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the displacement that the level adds, and what the next finer level takes up at half of its size."""
        for layer in self.resblock_group_lvl1:
            if isinstance(layer, ConditionedBlock):
                half = layer(half, weight)
                step(_voxels(full) / len(self.resblock_group_lvl1) * 2)
            else:
                half = layer(half)

        def beside(low: int, high: int) -> torch.Tensor:
            return torch.cat((self.up(half[:, :, low // 2 : high // 2]), full[:, :, low:high]), dim=1)

        return _by_slabs(self.output_lvl1, beside, full.shape[2], step) * REACH, half

    def raise_up(self, half: torch.Tensor) -> torch.Tensor:
        """Return at full size what the blocks made at half of it."""
        raised: torch.Tensor = self.up(half)
        return raised


@dataclass(frozen=True)
class EncodedPair:
    """What does not depend on the regularization weight.

    Attributes
    ----------
    moving, fixed : at each level, the coarsest first.
    full, half : what the coarsest level sees.
    """

    moving: tuple[torch.Tensor, ...]
    fixed: tuple[torch.Tensor, ...]
    full: torch.Tensor
    half: torch.Tensor


class PyramidNetwork:
    """The whole network with its weights, on one device."""

    def __init__(self, levels: Sequence[Level]) -> None:
        self._levels = tuple(levels)

    def on(self, device: str) -> PyramidNetwork:
        """Return the network on a device; this one stays where it is."""
        return self if device == "cpu" else PyramidNetwork([deepcopy(level).to(device) for level in self._levels])

    def work(self, size: Sequence[int]) -> float:
        """Return how many voxels a registration works on, as its steps count them."""
        voxels = float(size[0]) * size[1] * size[2]
        return 3 * voxels * sum(8.0**-n for n in range(len(self._levels)))

    def encoded(self, moving: torch.Tensor, fixed: torch.Tensor, step: Step) -> EncodedPair:
        """Prepare a pair; both have shape (1, 1, d, h, w), multiples of `MULTIPLE`, intensities 0 to 1."""
        pyramids = []
        for volume in (moving, fixed):
            levels = [volume]
            while len(levels) < len(self._levels):
                levels.insert(0, functional.avg_pool3d(levels[0], 3, stride=2, padding=1, count_include_pad=False))
            pyramids.append(tuple(levels))
        full, half = self._levels[0].features(torch.cat((pyramids[0][0], pyramids[1][0]), dim=1), step)
        return EncodedPair(pyramids[0], pyramids[1], full, half)

    def displacement(
        self, pair: EncodedPair, weight: float, step: Step, seen: Callable[[float], None]
    ) -> torch.Tensor:
        """Return displacements from fixed to moving places, unit coordinates, shape (1, 3, d, h, w).

        Parameters
        ----------
        pair : from `encoded`.
        weight : 0 to 1.
        step : see `Step`.
        seen : is told the mean squared difference of the images that each level begins with.
        """
        condition = torch.full((1, 1), weight, dtype=torch.float32, device=pair.full.device)
        seen(float(functional.mse_loss(pair.moving[0], pair.fixed[0])))
        displacement, half = self._levels[0].added(pair.full, pair.half, condition, step)
        for below, level, moving, fixed in zip(
            self._levels, self._levels[1:], pair.moving[1:], pair.fixed[1:], strict=False
        ):
            before = functional.interpolate(displacement, scale_factor=2, mode="trilinear", align_corners=False)
            warped = _warped(moving, before)
            seen(float(functional.mse_loss(warped, fixed)))
            full, own = level.features(torch.cat((warped, fixed, before), dim=1), step)
            more, half = level.added(full, own + below.raise_up(half), condition, step)
            displacement = before.add_(more)
        return displacement


def read_network(data: bytes) -> PyramidNetwork:
    """Return the network of which a file holds the weights; nothing in it is run.

    Raises
    ------
    ValueError : it is no such file, or holds the weights of another network.
    """
    weights = read_tensors(data, of_a_module=True)
    if not isinstance(weights, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in weights.values()):
        raise ValueError("it is no table of weights by name")
    widths = Widths.of(weights)
    # On this device tensors have a shape and nothing else, so that nothing is allocated for sizes that are not there.
    with torch.device("meta"):
        levels = [
            Level(channels, widths, raised, blocks)
            for channels, raised, blocks in zip((5, 5, 2), (widths.raised, widths.deep, widths.deep), widths.blocks, strict=True)
        ]
    known: set[str] = set()
    for prefix, level in zip(_PREFIXES, levels, strict=True):
        own = {name: weights.get(prefix + name) for name in level.state_dict()}
        for name, expected in level.state_dict().items():
            _check(prefix + name, own[name], tuple(expected.shape))
        known.update(prefix + name for name in own)
        level.load_state_dict(own, assign=True)
        level.requires_grad_(False).eval()
    if more := sorted(set(weights) - known):
        raise ValueError(f"it holds '{more[0][:80]}', which belongs to another network")
    return PyramidNetwork(levels[::-1])


def _check(name: str, weight: torch.Tensor | None, shape: tuple[int, ...]) -> None:
    if weight is None:
        raise ValueError(f"it lacks '{name}'")
    if tuple(weight.shape) != shape or weight.dtype != torch.float32:
        raise ValueError(f"'{name}' has shape {tuple(weight.shape)}, where {shape} belongs")
    if not bool(torch.isfinite(weight).all()):
        raise ValueError(f"'{name}' holds numbers that are not finite")


def _convolution(given: int, made: int, stride: int = 1) -> nn.Conv3d:
    return nn.Conv3d(given, made, 3, stride=stride, padding=1, bias=False)


def _leaky() -> nn.LeakyReLU:
    return nn.LeakyReLU(_SLOPE)


def _voxels(volume: torch.Tensor) -> float:
    return float(volume[0, 0].numel())


def _slabs(length: int) -> Iterator[tuple[int, int, int, int]]:
    """List where each slab begins and ends, and where it does with what lies beside it."""
    for begin in range(0, length, _PLANES):
        end = min(begin + _PLANES, length)
        yield begin, end, max(0, begin - _HALO), min(length, end + _HALO)


def _by_slabs(layers: nn.Module, part: Callable[[int, int], torch.Tensor], length: int, step: Step) -> torch.Tensor:
    """Return what layers of two convolutions make of a volume, a slab at a time: in little memory, and it can be stopped.

    Parameters
    ----------
    layers : keep the size of a volume.
    part : returns the planes from one number to another of what they are given.
    length : planes in all.
    step : is called after each slab.
    """
    made = torch.empty(0)
    for begin, end, low, high in _slabs(length):
        slab = layers(part(low, high))[:, :, begin - low : end - low]
        if not begin:
            made = slab.new_empty((*slab.shape[:2], length, *slab.shape[3:]))
        made[:, :, begin:end] = slab
        step(_voxels(slab))
    return made


def _warped(volume: torch.Tensor, displacement: torch.Tensor) -> torch.Tensor:
    """Sample a volume at displaced places; beyond its border it goes on as it ends."""
    places = displacement.permute(0, 2, 3, 4, 1)
    same = torch.eye(3, 4, device=volume.device)[None]
    places = places + functional.affine_grid(same, [1, 1, *volume.shape[2:]], align_corners=True)
    return functional.grid_sample(volume, places, mode="bilinear", padding_mode="border", align_corners=True)
