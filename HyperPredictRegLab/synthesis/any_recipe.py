"""What chance decides about a pair of any anatomy, drawn from a seed before any voxel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from HyperPredictRegLab.synthesis.anatomies import LEAST_PEOPLE, ORGANS, SHAPES
from HyperPredictRegLab.synthesis.looks import RATIOS, Look
from HyperPredictRegLab.synthesis.warps import FAMILIES

GROUPS = {"known-warp": 0.48, "follow-up": 0.15, "real-difference": 0.14, "two-people": 0.23}
"""One anatomy and a drawn deformation of it; the same with little or no motion; a deformation found between two real maps; the
maps of two people, whose labels are the only truth. With how often each is drawn."""

REAL_SHARE, ORGANS_SHARE = 0.5, 0.1
"""Of the pairs of the first two groups: real label maps, and structures of them laid into a drawn body; else drawn shapes."""

DIFFERENT_SHARE, THICK_SHARE, CUT_SHARE, CHANGE_SHARE = 0.5, 0.2, 0.25, 0.2
CT_SHARE, ULTRASOUND_SHARE, SCAN_SHARE = 0.2, 0.1, 0.25

VOXELS = (22, 40)
"""Least and largest edge of a cube with as many voxels as an image has: a registration then takes a second of a busy core."""

LEAST_EDGE_MM, MOST_EDGE_MM = 0.05, 4.0

STARTS = {"product": 0.34, "near": 0.44, "failed": 0.22}
"""How the pair is aligned when it is registered: by the product's affine step; by the best affine fit of the truth, displaced a
little, as a finished affine step leaves a pair; displaced so far that no deformation can mend it."""


@dataclass(frozen=True)
class AnyRecipe:
    """All that chance decided about one pair.

    Attributes
    ----------
    group : one of `GROUPS`.
    domain : the folder that the maps came from, or "shapes-" and a kind of `SHAPES`, or `ORGANS`.
    maps : names of the label maps, fixed and moving; empty for shapes.
    seed : of the anatomy and the deformation.
    voxels : edge of a cube with as many voxels as the images have.
    edge_mm : of the fixed image's voxels; 0 stands for that of the map, as coarse as `voxels` makes it.
    moving_edge : edge of the moving image's voxels over that.
    view : "whole", "stripped" (what labels name alone), "body" (laid into tissue) or "inside" (a crop with tissue all round).
    family, amplitude, length : of the deformation, see `drawn_warp`; in voxels.
    rotation, scale, shift : pose of the moving object: rotation vector in degrees, three factors, shift in shares of the view.
    header_rotation : of the moving image's axes, rotation vector in degrees.
    start : one of `STARTS`.
    start_rotation, start_shift, start_scale : how far it is displaced, in degrees, voxels and logarithms of a factor.
    fixed, moving : looks of the two images.
    """

    group: str
    domain: str
    maps: tuple[str, ...]
    seed: int
    voxels: int
    edge_mm: float
    moving_edge: float
    view: str
    family: str
    amplitude: float
    length: float
    rotation: tuple[float, ...]
    scale: tuple[float, ...]
    shift: tuple[float, ...]
    header_rotation: tuple[float, ...]
    start: str
    start_rotation: tuple[float, ...]
    start_shift: tuple[float, ...]
    start_scale: tuple[float, ...]
    fixed: Look
    moving: Look


def draw_any(maps: dict[str, list[Path]], rng: np.random.Generator, voxels: tuple[int, int] = VOXELS) -> AnyRecipe:
    """Draw a pair.

    Parameters
    ----------
    maps : label maps by anatomy; may be empty.
    rng : the only source of chance.
    voxels : least and largest edge of a cube with as many voxels as the images have.
    """
    group = str(rng.choice(list(GROUPS), p=list(GROUPS.values())))
    several = [name for name, paths in maps.items() if len(paths) >= LEAST_PEOPLE]
    domain, chosen = _anatomy(maps, several, group, rng)
    if len(chosen) < 2 and group in ("real-difference", "two-people"):
        group = "known-warp"
    amplitude = _amplitude(group, rng)
    look, other = _looks(group, rng)
    angle = abs(rng.normal(0, 8)) if rng.random() < 0.85 else rng.uniform(15, 45)
    start = str(rng.choice(list(STARTS), p=list(STARTS.values())))
    failed = start == "failed"
    count = round(float(voxels[0] * (voxels[1] / voxels[0]) ** rng.random()))
    return AnyRecipe(
        group=group,
        domain=domain,
        maps=tuple(chosen),
        seed=_seed(rng),
        voxels=count,
        edge_mm=0.0 if chosen and rng.random() < 0.7 else _round(LEAST_EDGE_MM * (MOST_EDGE_MM / LEAST_EDGE_MM) ** rng.random()),
        moving_edge=_round(np.exp(rng.uniform(-0.22, 0.22))),
        view=str(rng.choice(("whole", "stripped", "body", "inside"), p=(0.4, 0.2, 0.2, 0.2))),
        family=str(rng.choice(FAMILIES, p=(0.35, 0.35, 0.18, 0.12))),
        amplitude=_round(amplitude),
        length=_round(count * np.exp(rng.uniform(np.log(0.13), np.log(0.45)))),
        rotation=_turned(rng, angle),
        scale=_rounded(np.exp(rng.normal(0, 0.05) + rng.normal(0, 0.03, 3))),
        shift=_rounded(rng.uniform(-0.08, 0.08, 3)),
        header_rotation=_turned(rng, abs(rng.normal(0, 12))) if rng.random() < 0.5 else (0.0, 0.0, 0.0),
        start=start,
        start_rotation=_turned(rng, rng.uniform(8, 70) if failed else abs(rng.normal(0, 1.5))),
        start_shift=_rounded(rng.normal(0, 1, 3) * (rng.uniform(1, 7) if failed else rng.uniform(0, 0.8))),
        start_scale=_rounded(rng.normal(0, 0.08 if failed else 0.012, 3)),
        fixed=look,
        moving=other,
    )


def _amplitude(group: str, rng: np.random.Generator) -> float:
    """Draw how far a deformation moves, in voxels: with a tail of large motion, and of two visits little or nothing."""
    if group == "follow-up":
        return 0.0 if rng.random() < 0.3 else float(np.exp(rng.uniform(np.log(0.1), np.log(0.6))))
    drawn = float(np.exp(rng.uniform(np.log(0.5), np.log(3.5))))
    return drawn * float(rng.uniform(1.5, 3)) if rng.random() < 0.12 else drawn


def _anatomy(
    maps: dict[str, list[Path]], several: Sequence[str], group: str, rng: np.random.Generator
) -> tuple[str, list[str]]:
    """Draw what is shown: (domain, names of the maps)."""
    of_two = group in ("real-difference", "two-people")
    choice = rng.random()
    names = list(several) if of_two else list(maps)
    if names and (of_two or choice < REAL_SHARE):
        domain = str(rng.choice(names))
        order = rng.permutation(len(maps[domain]))[: 2 if of_two else 1]
        return domain, [maps[domain][int(n)].name for n in order]
    if maps and choice < REAL_SHARE + ORGANS_SHARE:
        return ORGANS, []
    return f"shapes-{rng.choice(SHAPES)}", []


def _looks(group: str, rng: np.random.Generator) -> tuple[Look, Look]:
    """Draw the looks of both images: one contrast or two, one kind of slices or two."""
    follow_up = group == "follow-up"
    kind = _contrast(rng)
    different = rng.random() < (0.25 if follow_up else DIFFERENT_SHARE)
    seeds = [_seed(rng)] * 2 if not different else [_seed(rng), _seed(rng)]
    kinds = [kind, _contrast(rng) if different else kind]
    shared = float(rng.uniform(0.6, 1)) if follow_up else float(rng.uniform(0, 1)) * (group != "two-people")
    thick = rng.random() < THICK_SHARE
    both = thick and rng.random() < 0.6
    axis, ratio = int(rng.integers(3)), int(rng.choice(RATIOS, p=(0.4, 0.3, 0.15, 0.15)))
    drawn = [_look(contrast, number, shared, rng) for contrast, number in zip(kinds, seeds, strict=True)]
    if thick:
        which = int(rng.integers(2))
        sliced = [replace(look, slice_axis=axis, slice_ratio=ratio) for look in drawn]
        drawn = [after if both or n == which else before for n, (before, after) in enumerate(zip(drawn, sliced, strict=True))]
    if rng.random() < CUT_SHARE:
        which = int(rng.integers(2))
        drawn[which] = replace(drawn[which], cut=_cut(rng))
    if rng.random() < CHANGE_SHARE:
        which = int(rng.integers(2))
        size = round(float(rng.uniform(0.06, 0.22)), 4)
        drawn[which] = replace(drawn[which], change=("lost", "added")[int(rng.integers(2))], change_size=size)
    return drawn[0], drawn[1]


def _contrast(rng: np.random.Generator) -> str:
    choice = rng.random()
    if choice < CT_SHARE:
        return "ct"
    if choice < CT_SHARE + ULTRASOUND_SHARE:
        return "ultrasound"
    return "scan" if choice < CT_SHARE + ULTRASOUND_SHARE + SCAN_SHARE else "mr"


def _look(contrast: str, contrast_seed: int, shared: float, rng: np.random.Generator) -> Look:
    noisy = rng.random() < 0.15
    soft = rng.random() < 0.1
    return Look(
        contrast=contrast,
        contrast_seed=contrast_seed,
        seed=_seed(rng),
        texture=_round(rng.uniform(0.005, 0.09)) if contrast != "ct" else _round(rng.uniform(0.004, 0.03)),
        shared=_round(shared),
        texture_length=_round(np.exp(rng.uniform(np.log(0.4), np.log(5)))),
        blur=_round(rng.uniform(1.0, 1.8) if soft else rng.uniform(0.4, 0.9)),
        bias=_round(rng.uniform(0, 0.5) * rng.uniform(0.2, 1)),
        noise=_round(rng.uniform(0.06, 0.16) if noisy else np.exp(rng.uniform(np.log(0.004), np.log(0.06)))),
        gamma=_round(np.exp(rng.uniform(-0.25, 0.25))),
        dark_air=bool(rng.random() < 0.5),
        slice_axis=0,
        slice_ratio=1,
        cut=(0.0,) * 6,
        change="",
        change_size=0.0,
    )


def _cut(rng: np.random.Generator) -> tuple[float, float, float, float, float, float]:
    shares = [0.0] * 6
    for _ in range(int(rng.integers(1, 3))):
        shares[int(rng.integers(6))] = round(float(rng.uniform(0.1, 0.4)), 4)
    a, b, c, d, e, f = shares
    return a, b, c, d, e, f


def _turned(rng: np.random.Generator, degrees: float) -> tuple[float, ...]:
    """Return a rotation vector about a random axis."""
    return _rounded(Rotation.from_rotvec(degrees * _unit(rng), degrees=True).as_rotvec(degrees=True))


def _unit(rng: np.random.Generator) -> np.ndarray:
    axis = rng.normal(size=3)
    return np.asarray(axis / np.linalg.norm(axis))


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _round(value: float) -> float:
    return round(float(value), 4)


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)
