"""Training pairs made from label maps: images of people who do not exist, whose labels are known.

After Billot et al., Medical Image Analysis 86 (2023) 102789, doi:10.1016/j.media.2023.102789 (SynthSeg), and Hoffmann et al.,
IEEE TMI 41 (2022) 543, doi:10.1109/TMI.2021.3116879 (SynthMorph), with realistic contrasts in most pairs.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
import SimpleITK as sitk
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.files import check_writable, writing_into
from HyperPredictRegLib.core.progress import Progress, ProgressEvent, silent

from HyperPredictRegLab.manifest import CV_FOLDS, csv_rows, subject_cv_folds
from HyperPredictRegLab.synthesis.maps import rendered
from HyperPredictRegLab.synthesis.recipe import DEFAULT_MIX, Recipe, draw_recipe

COLUMNS = (
    "pair", "fixed", "moving", "fixed_labels", "moving_labels", "fixed_subject", "moving_subject", "group",
    "label_noise_mm", "recipe",
)  # fmt: skip
"""Columns of the manifest; `group` is the kind of pair, `recipe` JSON of both images' recipes and the maps' names."""

NUMBER_DIGITS = 5
MOST_PAIRS = 10**NUMBER_DIGITS
"""Of a set: what the digits of a pair's name can tell apart."""

MOST_SEED = 2**63

_ROLES = ("fixed", "fixed_labels", "moving", "moving_labels")


@dataclass(frozen=True)
class PlannedPair:
    """One pair before its images are made.

    Attributes
    ----------
    name : of the pair, unique in its folder.
    kind : one of `DEFAULT_MIX`.
    maps : label maps of the fixed and the moving subject; the same twice for a rescan.
    recipes : of the fixed and the moving image.
    """

    name: str
    kind: str
    maps: tuple[Path, Path]
    recipes: tuple[Recipe, Recipe]

    def file(self, role: str) -> str:
        """Return the path of "fixed", "moving", "fixed_labels" or "moving_labels" relative to the manifest."""
        return f"images/{self.name}_{role}.nii.gz"

    @property
    def files(self) -> tuple[str, ...]:
        """Return the paths of all its files relative to the manifest."""
        return tuple(self.file(role) for role in _ROLES)

    def row(self) -> dict[str, str]:
        """Return the pair's row in the manifest, see `COLUMNS`."""
        fixed, moving = (_subject(path) for path in self.maps)
        recipe = {"fixed": asdict(self.recipes[0]), "moving": asdict(self.recipes[1])}
        return {
            "pair": self.name,
            **{role: self.file(role) for role in _ROLES},
            "fixed_subject": fixed,
            "moving_subject": moving,
            "group": self.kind,
            "label_noise_mm": f"{np.hypot(self.recipes[0].jitter_mm, self.recipes[1].jitter_mm):.4f}",
            "recipe": json.dumps(recipe, separators=(",", ":")),
        }


def plan_pair(labels: Sequence[Path], number: int, *, seed: int, kinds: Mapping[str, float] = DEFAULT_MIX) -> PlannedPair:
    """Decide all about pair `number`; it depends on nothing but the arguments.

    Even numbers walk through the ordered pairs of maps within one CV fold, odd ones through those of different CV folds, each in
    an order drawn from the seed: so half of a set can judge a predictor on people whom it never saw, where of all ordered pairs
    only few could. A rescan or relative shows the fixed subject of its place twice.

    Raises
    ------
    InputError : see `write_pairs`.
    """
    maps = _checked_maps(labels)
    names, weights = _checked_kinds(kinds)
    couples = _couples(maps, within_cv_folds=number % 2 == 0)
    turn, place = divmod(number // 2, len(couples))
    order = np.random.default_rng([seed, turn, number % 2]).permutation(len(couples))
    fixed, moving = couples[int(order[place])]
    rng = np.random.default_rng([seed, number, 2])
    kind = names[int(rng.choice(len(names), p=weights))]
    if kind in ("rescan", "relative"):
        moving = fixed
    elif fixed == moving:
        kind = "relative"
    return PlannedPair(f"pair-{number:0{NUMBER_DIGITS}d}", kind, (maps[fixed], maps[moving]), draw_recipe(kind, rng))


def write_pairs(
    labels: Sequence[Path],
    folder: Path,
    *,
    count: int,
    seed: int,
    kinds: Mapping[str, float] = DEFAULT_MIX,
    first: int = 0,
    progress: Progress = silent,
) -> Path:
    """Make pairs `first` to `first + count - 1` of a set and list all pairs of the folder in its manifest.

    Pair n depends only on the seed, n, the maps' names in order and the kinds, so a set can be extended or resumed: complete
    pairs are kept. Several processes may fill disjoint ranges of one folder; the last to end lists all pairs.

    Parameters
    ----------
    labels : label maps of different people, SynthSeg's or FreeSurfer's codes, 1 mm.
    folder : where `manifest.csv` and `images` go; made if missing.
    count, first : how many pairs, and the number of the first.
    seed : of everything that chance decides.
    kinds : weight of each kind of pair, see `synthesis_recipe.draw_recipe`.
    progress : told about each pair.

    Returns
    -------
    manifest : path of `manifest.csv`, see `COLUMNS`; images and labels are uint8 NIfTI files, labels on their image's grid.

    Raises
    ------
    InputError : no maps, a map that cannot be used, an unknown kind, or a folder that holds pairs of another recipe.
    """
    _checked_maps(labels)
    _checked_kinds(kinds)
    return PairSet(COLUMNS, lambda number: plan_pair(labels, number, seed=seed, kinds=kinds), _write_pair).write(
        folder, count=count, seed=seed, first=first, progress=progress
    )


class Planned(Protocol):
    """A pair before its images are made."""

    @property
    def name(self) -> str:
        """Its name, unique in its folder, ends in its number."""

    @property
    def kind(self) -> str:
        """What kind of pair it is."""

    @property
    def files(self) -> tuple[str, ...]:
        """Its files, relative to the manifest."""

    def row(self) -> dict[str, str]:
        """Its row in the manifest."""


P = TypeVar("P", bound=Planned)


@dataclass(frozen=True)
class PairSet(Generic[P]):
    """Pairs of which each depends on its number only: what is to be made, and how.

    Attributes
    ----------
    columns : of the manifest.
    plan : decides all about the pair of a number.
    make : writes a pair's files into a folder; one whose last file is there counts as complete if all are.
    """

    columns: Sequence[str]
    plan: Callable[[int], P]
    make: Callable[[Path, P], None]

    def write(self, folder: Path, *, count: int, seed: int, first: int, progress: Progress) -> Path:
        """Make pairs `first` to `first + count - 1` and list all of the folder in its manifest; see `write_pairs`."""
        _check_numbers(count, first, seed)
        check_writable(folder)
        manifest = folder / "manifest.csv"
        self._check_same_set(manifest)
        with writing_into(folder / "images", "files", ""):
            (folder / "images").mkdir(parents=True, exist_ok=True)
        for done in range(count):
            pair = self.plan(first + done)
            progress(ProgressEvent("synthesis", done / count, f"{pair.name}: {pair.kind}"))
            if not _complete(folder, pair):
                self.make(folder, pair)
                if done % 20 == 0:
                    self._list(manifest)
        self._list(manifest)
        progress(ProgressEvent("synthesis", 1.0, f"{count} pairs are in {folder}"))
        return manifest

    def _list(self, manifest: Path) -> None:
        pairs = (self.plan(number) for number in _present_numbers(manifest.parent))
        _write_rows(manifest, self.columns, [pair.row() for pair in pairs if _complete(manifest.parent, pair)])

    def _check_same_set(self, manifest: Path) -> None:
        """Refuse to mix two sets in one folder: one manifest could not tell which seed made which image."""
        if not os.path.lexists(manifest):
            return
        rows = csv_rows(manifest, "The manifest")[1]
        if not rows:
            return
        row = rows[0]
        number = row.get("pair", "").removeprefix("pair-")
        numbered = number.isascii() and number.isdigit() and len(number) == NUMBER_DIGITS
        if not numbered or self.plan(int(number)).row() != row:
            raise InputError(
                f"The folder {manifest.parent} holds pairs made from another seed, other maps or other kinds: "
                "give the same ones to extend it, or another folder."
            )


def _check_numbers(count: int, first: int, seed: int) -> None:
    if count < 0 or first < 0 or not 0 <= seed < MOST_SEED:
        raise InputError(
            f"count ({count}), first ({first}) and seed ({seed}) of synthetic pairs must not be negative, "
            f"and the seed is below {MOST_SEED}."
        )
    if first + count > MOST_PAIRS:
        raise InputError(f"Pairs {first} to {first + count - 1} are too many: a set has at most {MOST_PAIRS}, numbered from 0.")


def _write_pair(folder: Path, pair: PlannedPair) -> None:
    for role, path, recipe in zip(("fixed", "moving"), pair.maps, pair.recipes, strict=True):
        image, labels = rendered(path, recipe)
        # Labels go last: a pair whose labels are there has its images too.
        write_image(image, folder / pair.file(role))
        write_image(labels, folder / pair.file(f"{role}_labels"))


def write_image(image: sitk.Image, path: Path) -> None:
    """Write an image so that whoever looks sees all of it or nothing."""
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    with writing_into(path.parent, "files", ""):
        try:
            sitk.WriteImage(image, str(temporary), useCompression=True, compressionLevel=5)
            temporary.replace(path)
        except RuntimeError as error:
            raise OSError(str(error).strip().splitlines()[-1]) from error
        finally:
            temporary.unlink(missing_ok=True)


def _complete(folder: Path, pair: Planned) -> bool:
    return all((folder / file).is_file() for file in pair.files)


def _present_numbers(folder: Path) -> list[int]:
    found = (path.name.split("_")[0].removeprefix("pair-") for path in (folder / "images").glob("pair-*_fixed.nii.gz"))
    return sorted(int(number) for number in found if number.isascii() and number.isdigit() and len(number) == NUMBER_DIGITS)


def _write_rows(manifest: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    temporary = manifest.with_name(f".{os.getpid()}-{manifest.name}")
    with writing_into(manifest.parent, "files", ""):
        try:
            with temporary.open("w", newline="", encoding="utf-8") as stream:
                writer = csv.DictWriter(stream, columns, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
            temporary.replace(manifest)
        finally:
            temporary.unlink(missing_ok=True)


def _couples(maps: Sequence[Path], within_cv_folds: bool) -> list[tuple[int, int]]:
    """Return the ordered pairs of maps in one CV fold or in two; all of them where there are too few maps for CV folds."""
    everyone = [(a, b) for a in range(len(maps)) for b in range(len(maps)) if a != b] or [(0, 0)]
    if len(maps) < 2 * CV_FOLDS:
        return everyone
    cv_folds = subject_cv_folds(_subject(path) for path in maps)
    of = [cv_folds[_subject(path)] for path in maps]
    return [(a, b) for a, b in everyone if (of[a] == of[b]) == within_cv_folds]


def _checked_maps(labels: Sequence[Path]) -> list[Path]:
    maps = [Path(path) for path in labels]
    if not maps:
        raise InputError("There are no label maps to make synthetic pairs from: give at least one.")
    if len({_subject(path) for path in maps}) < len(maps):
        raise InputError("Two of the label maps have the same file name: every map must be of another person.")
    return maps


def _checked_kinds(kinds: Mapping[str, float]) -> tuple[list[str], np.ndarray]:
    unknown = sorted(set(kinds) - set(DEFAULT_MIX))
    weights = np.array(list(kinds.values()), dtype=float)
    if unknown or not (weights >= 0).all() or not weights.sum() > 0 or not np.isfinite(weights).all():
        raise InputError(
            f"The kinds of synthetic pairs {dict(kinds)} cannot be used: name some of {', '.join(DEFAULT_MIX)} "
            "with weights that are not negative and not all 0."
        )
    return list(kinds), weights / weights.sum()


def _subject(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii").removesuffix(".nrrd")
