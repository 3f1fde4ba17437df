"""What the pairs of any anatomy show: label maps of people and animals, and shapes that chance draws."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.spatial.reading.volumes import read_volume
from scipy import ndimage
from scipy.spatial.transform import Rotation

from HyperPredictRegLab.synthesis.maps import TISSUE_OF_CODE, smooth

SHAPES = ("cells", "blobs", "sheets", "tubes", "nested")
"""Kinds of random shapes: compartments that touch, ellipsoids, folded layers, branching vessels, shells."""

ORGANS = "organs"
"""Structures of real maps, turned, scaled and laid into a body that nobody has."""

AIR, CONTEXT, BODY, FILLING, LESION = 0, 200, 250, 251, 254
"""Codes: nothing; from `CONTEXT` on what images show but no label names: 200-249 tissue of the maps, then what was added."""

LEAST_PEOPLE = 4
"""Maps that an anatomy needs for pairs of two people; with fewer they may well show one person."""

_SPARSE = 0.22
_SCANNED_BODY = 0.3
"""Of a scan's range, above its air."""
_SIDES = re.compile(r"[-_ ](lt|rt|l|r|left|right)(?=$|[-_ ])", re.IGNORECASE)
_HEAD_CODES = (2, 3, 41, 42)


@dataclass(frozen=True, eq=False)
class Anatomy:
    """What is there to be imaged.

    Attributes
    ----------
    codes : uint8, order (k, j, i): 1 to 199 are structures, for the others see `CONTEXT`.
    edge_mm : of its cubic voxels.
    tissues : code by code, shape (256,): those with the same number look alike, as the left and the right kidney do.
    scan : float32 on the same grid, the real image that belongs to the map, 0 to 1; None if there is none.
    """

    codes: np.ndarray
    edge_mm: float
    tissues: np.ndarray
    scan: np.ndarray | None = None


Placed = tuple[tuple[slice, ...], np.ndarray]
"""A box and what is true in it."""


@lru_cache(maxsize=128)
def map_anatomy(path: Path) -> Anatomy:
    """Read a label map, cropped to what it shows; an image ``X_img`` beside a map ``X_lab`` becomes its scan.

    Raises
    ------
    InputError : the file cannot be read, is no 3-D map, is empty, or its voxels are no cubes.
    """
    image = sitk.DICOMOrient(_volume(path), "LPS")
    spacing = np.array(image.GetSpacing())
    if not np.allclose(spacing, spacing[0], rtol=0.02):
        raise InputError(f"The label map {path} has voxels of {image.GetSpacing()} mm: resample it to cubes first.")
    raw = sitk.GetArrayFromImage(image).astype(np.int64)
    codes = np.where(raw < CONTEXT, np.maximum(raw, 0), CONTEXT + raw % (BODY - CONTEXT)).astype(np.uint8)
    if not codes.any():
        raise InputError(f"The label map {path} holds no label at all.")
    scan = None
    beside = path.with_name(path.name.replace("_lab.", "_img."))
    if beside != path and beside.is_file():
        found = sitk.DICOMOrient(_volume(beside), "LPS")
        if found.GetSize() == image.GetSize():
            values = sitk.GetArrayFromImage(found).astype(np.float32)
            low, high = np.percentile(values, (0.5, 99.7))
            scan = np.clip((values - low) / max(high - low, 1e-6), 0, 1.1)
    box = tuple(slice(int(part.start), int(part.stop)) for part in ndimage.find_objects((codes > 0).astype(np.uint8))[0])
    cropped = np.ascontiguousarray(codes[box])
    return Anatomy(cropped, float(spacing[0]), _twins(path, cropped), None if scan is None else scan[box])


def _volume(path: Path) -> sitk.Image:
    image = read_volume(path, "label map").image
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"The label map {path} is not one 3-D volume.")
    return image


def _twins(path: Path, codes: np.ndarray) -> np.ndarray:
    """Return the table of tissues: structures whose names differ by their side only are one."""
    tissues = np.arange(256)
    present = np.unique(codes)
    if np.isin(_HEAD_CODES, present).all():
        names = {int(code): TISSUE_OF_CODE.get(int(code), str(code)) for code in present if code < CONTEXT}
    else:
        names = _names(path.parent / "labels.csv")
    first: dict[str, int] = {}
    for code in present:
        name = _SIDES.sub("", names.get(int(code), str(code))).lower()
        tissues[code] = first.setdefault(name, int(code))
    return tissues


@lru_cache(maxsize=32)
def _names(path: Path) -> dict[int, str]:
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if (row.get("code") or "").isdigit() and row.get("name")]
    return {int(row["code"]): row["name"] for row in rows}


def with_body(anatomy: Anatomy, rng: np.random.Generator, always: bool = False) -> Anatomy:
    """Lay a body of soft tissue around organs that a map shows alone, filled with what no label names.

    Without `always` only where the organs fill little of their box. A scan shows its own body, and so do maps that name skin.
    """
    if anatomy.scan is not None:
        seen = ndimage.binary_fill_holes(ndimage.binary_opening(anatomy.scan > _SCANNED_BODY))
        return replace(anatomy, codes=np.where((anatomy.codes == 0) & seen, np.uint8(BODY), anatomy.codes))
    codes = anatomy.codes
    if (codes >= CONTEXT).any() or not (always or is_sparse(anatomy)):
        return anatomy
    margin = max(4, int(0.12 * max(codes.shape)))
    padded = np.pad(codes, margin)
    thin = (slice(None, None, 2),) * 3
    near = ndimage.gaussian_filter((padded[thin] > 0).astype(np.float32), margin / 3)
    coarse = ndimage.binary_fill_holes(ndimage.binary_closing(near > 0.05, iterations=max(2, margin // 2)))
    body = ndimage.zoom(coarse, 2, order=0)[tuple(slice(0, n) for n in padded.shape)]
    body = np.pad(body, [(0, n - m) for n, m in zip(padded.shape, body.shape, strict=True)], mode="edge")
    filling = smooth(padded.shape, 1.0, float(rng.uniform(0.08, 0.2)) * max(padded.shape), rng)
    filled = np.where(filling > 0.5, FILLING, np.where(filling < -0.7, FILLING + 1, BODY)).astype(np.uint8)
    return Anatomy(np.where((padded == 0) & body, filled, padded), anatomy.edge_mm, anatomy.tissues)


def is_sparse(anatomy: Anatomy) -> bool:
    """Tell whether a map names a few organs only, which nobody images without the body around them."""
    return bool((anatomy.codes > 0).mean() < _SPARSE)


def without_surroundings(anatomy: Anatomy) -> Anatomy:
    """Return what labels name alone, as after skull-stripping: cropped, and without fluid (24) around a brain."""
    keep = (anatomy.codes > 0) & (anatomy.codes < CONTEXT)
    if np.isin(_HEAD_CODES, np.unique(anatomy.codes)).all():
        keep &= anatomy.codes != 24
    keep = ndimage.binary_closing(keep, iterations=2) & (anatomy.codes > 0) | keep
    box = ndimage.find_objects(keep.astype(np.uint8))[0]
    scan = None if anatomy.scan is None else np.where(keep, anatomy.scan, 0)[box]
    return Anatomy(np.where(keep, anatomy.codes, 0)[box], anatomy.edge_mm, anatomy.tissues, scan)


def shape_anatomy(kind: str, size: int, rng: np.random.Generator, maps: Sequence[Path] = ()) -> Anatomy:
    """Draw random shapes of 4 to 30 labels.

    Parameters
    ----------
    kind : one of `SHAPES`, or `ORGANS`, which takes its structures from `maps`.
    size : voxels along a typical axis.
    """
    shape = tuple(int(n) for n in np.clip(size * np.exp(rng.normal(0, 0.18, 3)), 0.6 * size, 1.5 * size))
    count = int(rng.integers(4, 31))
    around = _outline(shape, rng)
    if kind == "cells":
        codes = _cells(shape, count, rng)
    elif kind == "sheets":
        folded = smooth(shape, 1.0, float(rng.uniform(0.12, 0.3)) * size, rng)
        codes = (1 + np.floor((folded + 4) * rng.uniform(1.5, 4)).astype(int) % count).astype(np.uint8)
    elif kind == "nested":
        depth = ndimage.distance_transform_edt(around if not around.all() else np.pad(around, 1))
        depth = depth if depth.shape == shape else depth[1:-1, 1:-1, 1:-1]
        layers = np.sort(rng.uniform(0, 1, min(count, int(rng.integers(2, 8)))))
        codes = (1 + np.searchsorted(layers, depth / depth.max())).astype(np.uint8)
        codes = _pasted(codes, _ellipsoids(shape, max(0, count - 1 - len(layers)), rng), 2 + len(layers))
    elif kind == "tubes":
        codes = _pasted(_filling(shape, rng), _tubes(shape, count, rng), 1)
    elif kind == ORGANS and maps:
        codes = _pasted(_filling(shape, rng), _organs(shape, max(4, count // 2), rng, maps), 1)
    else:
        codes = _pasted(_filling(shape, rng), _ellipsoids(shape, count, rng), 1)
    return Anatomy(np.where(around, codes, 0).astype(np.uint8), 1.0, np.arange(256))


def _outline(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return where there is tissue: everywhere in a third, else a lumpy body in air."""
    if rng.random() < 0.33:
        return np.ones(shape, dtype=bool)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij", sparse=True)
    power = float(rng.uniform(1.8, 4))
    distance = sum(np.abs(axis / rng.uniform(0.75, 0.95)) ** power for axis in axes)
    lumps = smooth(shape, float(rng.uniform(0.05, 0.3)), float(rng.uniform(0.2, 0.5)) * min(shape), rng)
    inside = np.asarray(distance + lumps < 1)
    pieces, count = ndimage.label(inside)
    return pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:]) if count else np.ones(shape, dtype=bool)


def _cells(shape: tuple[int, ...], count: int, rng: np.random.Generator) -> np.ndarray:
    length = float(rng.uniform(0.1, 0.25)) * min(shape)
    highest, codes = np.full(shape, -np.inf, dtype=np.float32), np.zeros(shape, dtype=np.uint8)
    for code in range(1, count + 1):
        field = smooth(shape, 1.0, length, rng)
        codes[field > highest] = code
        np.maximum(highest, field, out=highest)
    return codes


def _filling(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    field = smooth(shape, 1.0, float(rng.uniform(0.15, 0.4)) * min(shape), rng)
    return np.where(field > 0.6, FILLING, np.where(field < -0.6, FILLING + 1, BODY)).astype(np.uint8)


def _pasted(codes: np.ndarray, masks: Sequence[Placed], first: int) -> np.ndarray:
    for code, (box, mask) in enumerate(masks, first):
        codes[box][mask] = code
    return codes


def _ellipsoids(shape: tuple[int, ...], count: int, rng: np.random.Generator) -> list[Placed]:
    found: list[Placed] = []
    everywhere = (slice(None),) * 3
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1).astype(np.float32)
    for _ in range(count):
        radii = np.exp(rng.uniform(np.log(0.04), np.log(0.22), 3)) * min(shape)
        turn = Rotation.random(random_state=int(rng.integers(2**31))).as_matrix()
        center = np.array([rng.uniform(0.12, 0.88) * n for n in shape])
        away = (grid - center) @ turn / radii
        found.append((everywhere, np.einsum("...a,...a->...", away, away) < 1))
    return found


def _tubes(shape: tuple[int, ...], count: int, rng: np.random.Generator) -> list[Placed]:
    """Draw curves that wander through the body, some of them branches of earlier ones, as thick as vessels are."""
    found: list[Placed] = []
    starts = [np.array([rng.uniform(0.2, 0.8) * n for n in shape])]
    for _ in range(count):
        place, heading = starts[int(rng.integers(len(starts)))].copy(), rng.normal(size=3)
        drawn = np.zeros(shape, dtype=bool)
        for step in range(int(rng.uniform(0.4, 1.4) * max(shape) * 2)):
            heading = heading / np.linalg.norm(heading) + rng.normal(0, 0.12, 3)
            place += 0.5 * heading / np.linalg.norm(heading)
            index = np.rint(place).astype(int)
            if (index < 0).any() or (index >= shape).any():
                break
            drawn[tuple(index)] = True
            if step % 15 == 14:
                starts.append(place.copy())
        if rng.random() < 0.4:
            starts.append(np.array([rng.uniform(0.2, 0.8) * n for n in shape]))
        if drawn.any():
            radius = float(rng.uniform(1.2, 0.07 * min(shape) + 1.5))
            found.append(((slice(None),) * 3, ndimage.distance_transform_edt(~drawn) < radius))
    return found


def _organs(shape: tuple[int, ...], count: int, rng: np.random.Generator, maps: Sequence[Path]) -> list[Placed]:
    found: list[Placed] = []
    for _ in range(count):
        codes = map_anatomy(maps[int(rng.integers(len(maps)))]).codes
        present = [int(code) for code in np.unique(codes) if 0 < code < CONTEXT]
        if not present:
            continue
        code = present[int(rng.integers(len(present)))]
        organ = codes[ndimage.find_objects((codes == code).astype(np.uint8))[0]] == code
        target = rng.uniform(0.15, 0.45) * min(shape)
        zoom = max(organ.shape) / target
        turn = Rotation.random(random_state=int(rng.integers(2**31))).as_matrix() * zoom
        reach = int(np.ceil(target))
        offset = (np.array(organ.shape) - 1) / 2 - turn @ np.full(3, (reach - 1) / 2)
        mask = ndimage.affine_transform(organ.astype(np.uint8), turn, offset, (reach,) * 3, order=0) > 0
        corner = [int(rng.integers(0, max(1, n - reach))) for n in shape]
        box = tuple(slice(c, min(c + reach, n)) for c, n in zip(corner, shape, strict=True))
        found.append((box, mask[tuple(slice(0, part.stop - part.start) for part in box)]))
    return found
