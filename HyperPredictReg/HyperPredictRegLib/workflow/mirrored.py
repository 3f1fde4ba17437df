"""Whether exchanged labels, such as left and right, or a mirrored image would explain why a pair agrees so little."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.alignment import AlignmentSettings, align
from HyperPredictRegLib.core.errors import InputError, RegistrationError
from HyperPredictRegLib.core.formatting import number
from HyperPredictRegLib.core.progress import CancelCheck, never
from HyperPredictRegLib.preprocessing.image_set import Inputs
from HyperPredictRegLib.preprocessing.working_grid import on_grid
from HyperPredictRegLib.quality.measurement import Measurement, nearest
from HyperPredictRegLib.quality.metrics import dice_coefficients, mutual_information
from HyperPredictRegLib.results.report import DiceMeasure, MirrorCheck
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.structures import structure_name

_GAIN = 0.15
"""Dice by which another explanation must be better: registrations of one pair of people differ by a tenth of this."""
_GAIN_OF_SIMILARITY = 1.2
"""The same for the mutual information above none; mirrored brains, which look alike, differ by a twentieth."""
_LEAST_MORE = 0.01
"""Mutual information that is more than chance where two images have nearly none."""
_MOST_LABELS = 2000
"""A map of more objects numbers them one by one, as cells are, and knows no sides."""
_SIDES = {
    "left": "right", "l": "r", "lh": "rh", "lt": "rt", "sin": "dex", "sinister": "dexter", "sinistra": "dextra",
}  # fmt: skip
_OTHER_SIDE = _SIDES | {right: left for left, right in _SIDES.items()}


def exchanged_labels(fixed: sitk.Image, warped: sitk.Image, dice: DiceMeasure) -> MirrorCheck | None:
    """Find pairs of structures of which each lies where the other should.

    The label maps themselves tell, whatever the structures are called: structures left and right in a mirrored image, or in a
    label map whose sides were exchanged. Both of a pair must agree better with the other's place than with their own.

    Parameters
    ----------
    fixed, warped : label maps on one grid.
    dice : of the structures that both have.

    Returns
    -------
    The pairs and what mean Dice would be without the exchange, or None if there are none.
    """
    labels = np.array([structure.label for structure in dice.structures])
    if not 2 <= len(labels) <= _MOST_LABELS:
        return None
    agreement = _agreement(fixed, warped, labels)
    own = np.diag(agreement)
    both = np.minimum(agreement, agreement.T)
    gain = np.triu(both - np.maximum(own[:, None], own[None, :]), k=1)
    rows, columns = np.nonzero(gain > _GAIN)
    order = np.argsort(-gain[rows, columns], kind="stable")
    taken: set[int] = set()
    pairs, better = [], own.copy()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in taken and column not in taken:
            taken |= {row, column}
            pairs.append((int(labels[row]), int(labels[column])))
            better[row], better[column] = agreement[row, column], agreement[column, row]
    if not pairs:
        return None
    return MirrorCheck(tuple(sorted(pairs)), dice=dice.mean, dice_explained=float(better.mean()))


def mirrored_image(
    inputs: Inputs, found: Measurement, grid: Geometry, settings: AlignmentSettings, *, seed: int, cancelled: CancelCheck = never
) -> MirrorCheck | None:
    """Mirror the moving image, align it quickly, and tell whether it then agrees better than the image as it is.

    Even without being deformed it must overlap better than the registered image does; where no labels tell, it must be far
    more similar than the aligned image is.

    Parameters
    ----------
    found : the measurements of the registration.
    grid : the working grid, on which similarity is measured.
    settings : of the alignment.

    Returns
    -------
    The numbers of both, or None if mirroring explains nothing.
    """
    moving, measured = inputs.moving, found.measured
    foreground = _flipped(moving.foreground)
    mask = None if moving.mask is None else _flipped(moving.mask)
    try:
        transform = align(
            inputs.fixed.normalised,
            _flipped(moving.normalised),
            _quick(settings),
            seed=seed,
            fixed_foreground=inputs.fixed.foreground,
            moving_foreground=foreground,
            fixed_mask=inputs.fixed.mask,
            moving_mask=mask,
            cancelled=cancelled,
        ).transform
    except (InputError, RegistrationError):
        return None
    after = on_grid(_flipped(moving.normalised), grid, transform)
    similarity = mutual_information(found.fixed_on_grid, after, found.foreground)
    check = MirrorCheck(similarity=measured.similarity_before, similarity_explained=similarity)
    dice = measured.dice
    if dice is None or inputs.fixed.labels is None or moving.labels is None:
        more = similarity - measured.similarity_before
        return check if more > max(_LEAST_MORE, (_GAIN_OF_SIMILARITY - 1) * (measured.similarity_before - 1)) else None
    labels = nearest(_flipped(moving.labels), Geometry.of(inputs.fixed.image), transform)
    overlaps = dice_coefficients(inputs.fixed.labels, labels)
    explained = float(np.mean([overlaps.get(structure.label, 0.0) for structure in dice.structures]))
    better = explained > max(dice.mean, dice.mean_before) + _GAIN
    return replace(check, dice=dice.mean, dice_explained=explained) if better else None


def mirror_words(check: MirrorCheck, names: Mapping[int, str]) -> str:
    """Ask the user about what `exchanged_labels` or `mirrored_image` found, in a sentence with its numbers.

    Parameters
    ----------
    names : of structures, by label; where one is missing, FreeSurfer's codes are known.
    """
    if check.pairs:
        count, example = len(check.pairs), " and ".join(f"'{_name(label, names)}'" for label in check.pairs[0])
        sided = all(_are_sides(_name(a, names), _name(b, names)) for a, b in check.pairs)
        what = "Left and right seem" if sided else "Structures seem"
        which = f"{'' if count == 1 else f'{count} pairs such as '}{example} lie in each other's place"
        question = (
            "is one of the images mirrored, or are left and right exchanged in one of the label maps?"
            if sided
            else "is one of the images mirrored, or are labels, such as left and right, exchanged in one of the label maps?"
        )
        gain = f"exchanging them in one label map would raise mean Dice from {number(check.dice, 3)} to "
        return f"{what} to be exchanged: {which}, and {gain}{number(check.dice_explained, 3)}: {question}"
    if check.dice_explained is not None:
        how = (
            f"overlaps with a mean Dice of {number(check.dice_explained, 3)} when it is merely aligned, against "
            f"{number(check.dice, 3)} as it is"
        )
    else:
        how = (
            f"is far more similar to the fixed one (normalised mutual information {number(check.similarity_explained, 3)} "
            f"after alignment, against {number(check.similarity, 3)} as it is)"
        )
    return f"The mirrored moving image {how}: is one of the images mirrored, that is, are left and right exchanged in it?"


def _agreement(fixed: sitk.Image, warped: sitk.Image, labels: np.ndarray) -> np.ndarray:
    """Return Dice of every fixed structure (rows) with every warped structure (columns)."""
    count = len(labels)
    both = [sitk.GetArrayViewFromImage(image) for image in (fixed, warped)]
    somewhere = (both[0] != 0) | (both[1] != 0)
    places = []
    for values in (array[somewhere] for array in both):
        place = np.minimum(np.searchsorted(labels, values), count - 1)
        places.append(np.where(labels[place] == values, place, count))
    joint = np.bincount(places[0] * (count + 1) + places[1], minlength=(count + 1) ** 2).reshape(count + 1, count + 1)
    sizes = joint.sum(axis=1)[:count, None] + joint.sum(axis=0)[None, :count]
    agreement: np.ndarray = 2 * joint[:count, :count] / np.maximum(sizes, 1)
    return agreement


def _quick(settings: AlignmentSettings) -> AlignmentSettings:
    """Return settings for an alignment that need not be exact."""
    return replace(
        settings,
        voxels_across=40,
        shrink_factors=(2.0, 1.0),
        smoothing_sigmas=(0.5, 0.5),
        iterations=(60, 30),
        sampling_percentages=(100.0, 50.0),
        multi_start=False,
    )


def _flipped(image: sitk.Image) -> sitk.Image:
    """Return the image with its content mirrored, in place, along the grid axis that runs most from left to right."""
    direction = np.array(image.GetDirection()).reshape(3, 3)
    axes = [False] * 3
    axes[int(np.argmax(np.abs(direction[0])))] = True
    flipped = sitk.Flip(image, axes)
    flipped.CopyInformation(image)
    return flipped


def _name(label: int, names: Mapping[int, str]) -> str:
    return names.get(label) or structure_name(label)


def _are_sides(one: str, other: str) -> bool:
    """Tell whether two names are those of one structure on either side, such as "Left-Putamen" and "Right-Putamen"."""
    some, others = _words(one), _words(other)
    differing = [(a, b) for a, b in zip(some, others, strict=False) if a != b]
    return len(some) == len(others) and len(differing) == 1 and _OTHER_SIDE.get(differing[0][0]) == differing[0][1]


def _words(name: str) -> list[str]:
    return [word.casefold() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+", name)]
