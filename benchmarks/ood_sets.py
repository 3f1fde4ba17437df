"""Pairs unlike those that the predictor was trained on, to see whether its reliability says so.

    python benchmarks/ood_sets.py OUT      writes images and OUT/manifest.csv; sweep it with: hyperpredictreg sweep --values 0.7

Mouse brains (other species and contrast), hippocampi (a crop of a few centimetres), people of brain-t1-nmm with a simulated
lesion in the moving image, and with the moving image's contrast inverted. Each subject is fixed in one pair and moving in
one.
"""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

DATA = Path(os.environ.get("HYPERPREDICTREG_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
COLUMNS = ("pair", "fixed", "moving", "fixed_labels", "moving_labels", "fixed_subject", "moving_subject", "group")
PEOPLE = ("1008", "1009", "1010", "1011", "1012", "1013", "1014", "1015")
HIPPOCAMPI = 8


def ring(names: list[str]) -> list[tuple[str, str]]:
    """Pair everyone with the next one."""
    return list(zip(names, names[1:] + names[:1], strict=True))


def row(group: str, names: tuple[str, str], images: tuple[Path, Path], labels: tuple[Path, Path]) -> dict[str, str]:
    """Return one line of the manifest."""
    files = [str(path.resolve()) for path in (*images, *labels)]
    return dict(zip(COLUMNS, (f"{group}-{names[0]}-{names[1]}", *files, *names, group), strict=True))


def with_lesion(image: sitk.Image, labels: sitk.Image, seed: int) -> sitk.Image:
    """Put a dark ball with a bright rim, 15 mm in radius, into the white matter of one side."""
    random = np.random.default_rng(seed)
    voxels = sitk.GetArrayFromImage(image).astype(np.float32)
    white = np.argwhere(sitk.GetArrayViewFromImage(labels) == int(random.choice((2, 41))))
    centre = white[random.integers(len(white))]
    spacing = np.array(image.GetSpacing())[::-1]
    distance = np.sqrt((((np.indices(voxels.shape).T - centre) * spacing) ** 2).sum(axis=-1)).T
    brain = voxels > 0
    bright = np.percentile(voxels[brain], 99)
    voxels = np.where(brain & (distance < 18), bright, voxels)
    voxels = np.where(brain & (distance < 15), 0.2 * bright, voxels)
    result = sitk.GetImageFromArray(voxels)
    result.CopyInformation(image)
    return result


def inverted(image: sitk.Image) -> sitk.Image:
    """Invert intensities inside the brain, about as T2 does to T1."""
    voxels = sitk.GetArrayFromImage(image).astype(np.float32)
    brain = voxels > 0
    result = sitk.GetImageFromArray(np.where(brain, np.percentile(voxels[brain], 99.5) * 1.1 - voxels, 0).clip(0))
    result.CopyInformation(image)
    return result


def rows(out: Path) -> list[dict[str, str]]:
    """Make what has to be made, and list all pairs."""
    found = []
    folder = DATA / "mouse-t2"
    mice = sorted(path.name.removesuffix("_t2.nii.gz") for path in folder.glob("*_t2.nii.gz"))
    for names in ring(mice):
        images, labels = (tuple(folder / f"{name}_{kind}.nii.gz" for name in names) for kind in ("t2", "labels"))
        found.append(row("mouse", names, images, labels))  # type: ignore[arg-type]
    folder = DATA / "hippocampus-msd04"
    files = sorted((folder / "images").glob("*.nii.gz"))[:HIPPOCAMPI]
    for names in ring([path.name for path in files]):
        images, labels = (tuple(folder / kind / name for name in names) for kind in ("images", "labels"))
        found.append(row("hippocampus", names, images, labels))  # type: ignore[arg-type]
    folder = DATA / "brain-t1-nmm"
    for number, (fixed, moving) in enumerate(ring(list(PEOPLE))):
        image = sitk.ReadImage(str(folder / f"nmm_{moving}_t1.nii.gz"))
        map_ = sitk.ReadImage(str(folder / f"nmm_{moving}_aseg.nii.gz"))
        labels = (folder / f"nmm_{fixed}_aseg.nii.gz", folder / f"nmm_{moving}_aseg.nii.gz")
        for group, changed in (("lesion-like", with_lesion(image, map_, number)), ("other contrast", inverted(image))):
            path = out / f"{group.replace(' ', '-')}-{moving}.nii.gz"
            sitk.WriteImage(sitk.Cast(changed, sitk.sitkFloat32), str(path))
            found.append(row(group, (fixed, moving), (folder / f"nmm_{fixed}_t1.nii.gz", path), labels))
    return found


def main() -> None:
    """Write the manifest."""
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    with (out / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows(out))
    print(out / "manifest.csv")


if __name__ == "__main__":
    main()
