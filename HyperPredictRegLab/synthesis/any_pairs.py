"""Training pairs of any anatomy: random shapes and real label maps, with the true transform beside most of them.

That a network trained on random shapes serves real images was found by Hoffmann et al., IEEE TMI 41 (2022) 543,
doi:10.1109/TMI.2021.3116879 (SynthMorph), and Dey et al., arXiv:2411.02372. How a pair is made: `docs/predictor.md`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.files import writing_into
from HyperPredictRegLib.core.progress import Progress, silent
from HyperPredictRegLib.spatial.transforms import write_transform

from HyperPredictRegLab.synthesis.any_recipe import VOXELS, AnyRecipe, draw_any
from HyperPredictRegLab.synthesis.pairs import NUMBER_DIGITS, PairSet, write_image
from HyperPredictRegLab.synthesis.scenes import made

COLUMNS = (
    "pair", "fixed", "moving", "fixed_labels", "moving_labels", "fixed_subject", "moving_subject", "group", "domain",
    "truth", "start", "recipe",
)  # fmt: skip
"""Columns of the manifest: `domain` is the anatomy, `group` one of `any_recipe.GROUPS`; `truth`, the field from fixed to moving
points, is empty where labels are all that is known; `start`, the alignment to register from, where the product is to find it."""

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")


@dataclass(frozen=True)
class PlannedAnyPair:
    """One pair before its images are made.

    Attributes
    ----------
    name : of the pair, unique in its folder.
    recipe : what to make.
    maps : label maps by anatomy.
    """

    name: str
    recipe: AnyRecipe
    maps: Mapping[str, Sequence[Path]] = field(repr=False)

    @property
    def kind(self) -> str:
        """Return what kind of pair it is, for people."""
        return f"{self.recipe.domain}, {self.recipe.group}"

    @property
    def files(self) -> tuple[str, ...]:
        """Return the paths of all its files relative to the manifest."""
        return tuple(path for path in self._paths().values() if path)

    def row(self) -> dict[str, str]:
        """Return the pair's row in the manifest, see `COLUMNS`."""
        fixed, moving = self._subjects()
        return {
            "pair": self.name,
            **self._paths(),
            "fixed_subject": fixed,
            "moving_subject": moving,
            "group": self.recipe.group,
            "domain": self.recipe.domain,
            "recipe": json.dumps(asdict(self.recipe), separators=(",", ":")),
        }

    def write(self, folder: Path) -> None:
        """Make the pair's files; the fixed image comes last, so that a pair that is listed has all."""
        scene = made(self.recipe, self.maps)
        paths = self._paths()
        for role, image in (
            ("truth", scene.truth), ("fixed_labels", scene.fixed_labels), ("moving_labels", scene.moving_labels),
            ("moving", scene.moving), ("fixed", scene.fixed),
        ):  # fmt: skip
            if image is not None:
                write_image(image, folder / paths[role])
        if scene.start is not None:
            with writing_into(folder / "images", "files", ""):
                write_transform(scene.start, folder / paths["start"])

    def _paths(self) -> dict[str, str]:
        found = {role: f"images/{self.name}_{role}.nii.gz" for role in ("fixed", "moving", "fixed_labels", "moving_labels")}
        found["truth"] = "" if self.recipe.group == "two-people" else f"images/{self.name}_truth.mha"
        found["start"] = "" if self.recipe.start == "product" else f"images/{self.name}_start.tfm"
        return found

    def _subjects(self) -> tuple[str, str]:
        """Return who is shown: an anatomy that chance made is nobody else's; a difference between two people shows both."""
        if not self.recipe.maps:
            subject = f"{self.recipe.domain}-{self.name}"
            return subject, subject
        stems = [f"{self.recipe.domain}-{name.split('.')[0]}" for name in self.recipe.maps]
        return stems[0], stems[-1]


def plan_any_pair(
    maps: Mapping[str, Sequence[Path]], number: int, *, seed: int, voxels: tuple[int, int] = VOXELS
) -> PlannedAnyPair:
    """Decide all about pair `number`; it depends on nothing but the arguments, the maps' names among them."""
    rng = np.random.default_rng([seed, number, 7])
    recipe = draw_any({name: list(paths) for name, paths in maps.items()}, rng, voxels)
    return PlannedAnyPair(f"pair-{number:0{NUMBER_DIGITS}d}", recipe, maps)


def write_any_pairs(
    maps: Mapping[str, Sequence[Path]],
    folder: Path,
    *,
    count: int,
    seed: int,
    first: int = 0,
    voxels: tuple[int, int] = VOXELS,
    progress: Progress = silent,
) -> Path:
    """Make pairs of any anatomy; they are written, listed, resumed and extended as `write_pairs` does.

    Parameters
    ----------
    maps : label maps by anatomy, with cubic voxels; an image ``X_img`` beside a map ``X_lab`` serves as its scan. Those of four
        and more people make pairs of two people as well. May be empty: then all pairs show random shapes.
    voxels : least and largest edge of a cube with as many voxels as an image has.

    Returns
    -------
    manifest : path of `manifest.csv`, see `COLUMNS`.

    Raises
    ------
    InputError : a map that cannot be used, or a folder that holds pairs of another recipe.
    """
    if any(not paths for paths in maps.values()):
        raise InputError("An anatomy was named that has no label maps: leave it out, or give its folder.")
    return PairSet(
        COLUMNS, lambda number: plan_any_pair(maps, number, seed=seed, voxels=voxels), lambda where, pair: pair.write(where)
    ).write(folder, count=count, seed=seed, first=first, progress=progress)


def anatomy_maps(folder: Path, names: Sequence[str]) -> dict[str, list[Path]]:
    """Return the label maps in subfolders: all files ``*_lab.*`` where there are any, else all volumes.

    Raises
    ------
    InputError : a subfolder cannot be read, or holds no label maps.
    """
    found = {}
    for name in dict.fromkeys(names):
        try:
            paths = sorted(path for path in (folder / name).iterdir() if path.name.lower().endswith(ENDINGS))
        except OSError as error:
            raise InputError(f"The folder of label maps '{folder / name}' cannot be read ({error.strerror}).") from error
        found[name] = [path for path in paths if "_lab." in path.name.lower()] or paths
        if not found[name]:
            raise InputError(f"The folder '{folder / name}' holds no label maps: give one with {', '.join(ENDINGS)} files.")
    return found
