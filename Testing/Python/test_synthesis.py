"""Synthetic training pairs: what they show, and that a seed makes the same ones again."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.progress import ProgressEvent
from HyperPredictRegLib.preprocessing.intensity import foreground, normalised
from HyperPredictRegLib.quality.metrics import dice_coefficients
from HyperPredictRegLib.spatial.geometry import Geometry
from scipy import ndimage

from HyperPredictRegLab.manifest import read_manifest, subject_cv_folds
from HyperPredictRegLab.synthesis.maps import STRUCTURES, anatomy_places, head_map, rendered, smallest_jacobian
from HyperPredictRegLab.synthesis.pairs import COLUMNS, plan_pair, write_pairs
from HyperPredictRegLab.synthesis.recipe import DEFAULT_MIX, TISSUES, Recipe, draw_recipe

SIZE = 57
WHITE = TISSUES.index("white")


def toy_head(stretch: float) -> np.ndarray:
    """Return a head of shells: skin, skull, fluid, cortex, white matter, ventricles; the left half has the lower codes."""
    k, j, i = np.indices((SIZE, SIZE, SIZE)) - (SIZE - 1) / 2
    distance = np.sqrt(k**2 + (j / stretch) ** 2 + i**2)
    left = i > 0
    codes = np.zeros(distance.shape, dtype=np.uint16)
    for radius, one, other in ((26, 511, 511), (23, 515, 515), (21, 24, 24), (18, 3, 42), (14, 2, 41), (6, 4, 43)):
        codes[distance < radius] = np.where(left, one, other)[distance < radius]
    deep = (np.abs(k + 9) < 3) & (np.abs(j) < 4) & (np.abs(i) < 6)
    codes[deep] = np.where(left, 10, 49)[deep]
    for code, place in ((5, 9), (25, 11), (136, 3), (85, 16), (600, 22)):
        codes[SIZE // 2 : SIZE // 2 + 2, SIZE // 2 + place, SIZE // 2 : SIZE // 2 + 2] = code
    return codes


def save(codes: np.ndarray, path: Path, spacing: float = 1.0) -> Path:
    image = sitk.GetImageFromArray(codes)
    image.SetSpacing((spacing,) * 3)
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("maps")
    return [save(toy_head(stretch), folder / f"head{n}.nii.gz") for n, stretch in enumerate((1.0, 1.05, 0.95))]


@pytest.fixture(scope="module")
def pairs(maps: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(maps, tmp_path_factory.mktemp("pairs"), count=6, seed=11)


def rows_of(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def bytes_of(manifest: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(manifest.parent.rglob("*")) if path.is_file()}


def plain(kind: str = "usual", seed: int = 0, **changes: object) -> Recipe:
    """Return a recipe whose images of one map share a grid, whatever else differs."""
    recipe = draw_recipe(kind, np.random.default_rng(seed))[0]
    still = {"whole_head": True, "slice_mm": 1, "cortex_growth_mm": 0.0, "label_growth_mm": 0.0, "scales": (1.0, 1.0, 1.0)}
    return replace(recipe, **(still | changes))


def test_the_manifest_lists_pairs_that_a_sweep_can_read(pairs: Path) -> None:
    rows = rows_of(pairs)
    assert [row["pair"] for row in rows] == [f"pair-{n:05d}" for n in range(6)]
    assert tuple(rows[0]) == COLUMNS
    assert [pair.group for pair in read_manifest(pairs)] == [row["group"] for row in rows]
    assert {row["group"] for row in rows} <= set(DEFAULT_MIX)
    for row in rows:
        recipe = json.loads(row["recipe"])
        assert recipe["fixed"]["noise"] > 0
        assert (row["fixed_subject"] == row["moving_subject"]) == (row["group"] in ("rescan", "relative"))
        for role in ("fixed", "moving"):
            image, labels = (sitk.ReadImage(str(pairs.parent / row[column])) for column in (role, f"{role}_labels"))
            assert Geometry.of(image).matches(Geometry.of(labels))
            assert image.GetPixelID() == labels.GetPixelID() == sitk.sitkUInt8


def test_labels_are_known_structures_without_fluid_outside_the_ventricles(maps: list[Path]) -> None:
    labels = sitk.GetArrayFromImage(rendered(maps[0], plain(warp_mm=0.0, scales=(1.0, 1.0, 1.0)))[1])
    assert set(np.unique(labels)) == {0, 2, 3, 4, 10, 41, 42, 43, 49}
    codes = toy_head(1.0)
    # Lesions (25) count as white matter, the plexus (136) as ventricle; 5, 24, 85 and the head's tissues as nothing.
    for label, merged in ((2, (2, 25)), (4, (4, 136)), (3, (3,)), (49, (49,))):
        assert (labels == label).sum() == np.isin(codes, merged).sum()
    assert 24 not in STRUCTURES and len(STRUCTURES) == 29


def test_a_seed_makes_the_same_files_again_and_another_seed_others(pairs: Path, maps: list[Path], tmp_path: Path) -> None:
    again = write_pairs(maps, tmp_path / "again", count=2, seed=11)
    other = write_pairs(maps, tmp_path / "other", count=2, seed=12)
    first = bytes_of(pairs)
    for name, content in bytes_of(again).items():
        if name != "manifest.csv":
            assert content == first[name]
    assert rows_of(again) == rows_of(pairs)[:2]
    assert rows_of(other)[0]["recipe"] != rows_of(pairs)[0]["recipe"]


def test_ranges_join_and_a_lost_file_is_made_again(pairs: Path, maps: list[Path], tmp_path: Path) -> None:
    write_pairs(maps, tmp_path, count=3, seed=11, first=3)
    manifest = write_pairs(maps, tmp_path, count=3, seed=11)
    assert bytes_of(manifest) == bytes_of(pairs)
    lost, retained = tmp_path / "images" / "pair-00001_moving.nii.gz", tmp_path / "images" / "pair-00002_moving.nii.gz"
    lost.unlink()
    untouched = retained.stat().st_mtime_ns
    heard: list[ProgressEvent] = []
    write_pairs(maps, tmp_path, count=6, seed=11, progress=heard.append)
    assert bytes_of(manifest) == bytes_of(pairs)
    assert retained.stat().st_mtime_ns == untouched
    assert heard[-1].fraction == 1.0 and len(heard) == 7


def test_even_pairs_stay_within_folds_and_odd_ones_cross_them() -> None:
    people = [Path(f"person{n}.nii.gz") for n in range(12)]
    cv_folds = subject_cv_folds(path.name.removesuffix(".nii.gz") for path in people)
    of = {path: cv_folds[path.name.removesuffix(".nii.gz")] for path in people}
    within = sum(of[a] == of[b] for a in people for b in people if a != b)
    planned = [plan_pair(people, n, seed=4, kinds={"usual": 1}).maps for n in range(4 * within)]
    even, odd = planned[::2], planned[1::2]
    assert all(a != b and of[a] == of[b] for a, b in even)
    assert all(of[a] != of[b] for a, b in odd)
    # Each couple comes once before any comes again, then all in another order.
    assert len(set(even[:within])) == len(set(even[within:])) == within == 18
    assert even[:within] != even[within:]
    assert len(set(odd)) == len(odd)


def test_few_people_are_all_paired_with_each_other() -> None:
    people = [Path(f"{name}.nii.gz") for name in "abc"]
    planned = [plan_pair(people, n, seed=4, kinds={"usual": 1}).maps for n in range(12)]
    for part in (planned[::2], planned[1::2]):
        assert len(set(part)) == 6 and all(a != b for a, b in part)
    again = plan_pair(people, 0, seed=4, kinds={"rescan": 1}).maps
    assert again == (planned[0][0], planned[0][0])
    assert plan_pair(people[:1], 0, seed=4, kinds={"usual": 1}).kind == "relative"


def test_the_mix_of_kinds_is_the_one_asked_for() -> None:
    people = [Path(f"{name}.nii.gz") for name in "abc"]
    kinds = Counter(plan_pair(people, n, seed=1).kind for n in range(600))
    for kind, weight in DEFAULT_MIX.items():
        # Three standard deviations of a binomial share.
        assert kinds[kind] / 600 == pytest.approx(weight, abs=3 * np.sqrt(weight * (1 - weight) / 600)), kind
    assert {plan_pair(people, n, seed=1, kinds={"thick": 2.0}).kind for n in range(5)} == {"thick"}


def test_what_a_seed_draws_stays_the_same_in_later_versions() -> None:
    people = [Path(f"{name}.nii.gz") for name in "abc"]
    pair = plan_pair(people, 7, seed=3)
    fixed, moving = pair.recipes
    drawn = (pair.kind, pair.maps[0].name, fixed.noise, moving.warp_mm, moving.blur_mm, moving.translation_mm)
    assert drawn == ("relative", "a.nii.gz", 0.0267, 0.925, 0.882, (14.481, -16.835, 15.2249))


def test_kinds_are_what_their_names_say() -> None:
    def drawn(kind: str) -> list[tuple[Recipe, Recipe]]:
        return [draw_recipe(kind, np.random.default_rng(n)) for n in range(40)]

    assert all(a.contrast == b.contrast == "t1" for a, b in drawn("usual"))
    assert all(a.contrast != b.contrast for a, b in drawn("cross"))
    assert all(a.contrast == b.contrast != "t1" for a, b in drawn("contrast"))
    assert all(min(a.noise, b.noise) >= 0.08 for a, b in drawn("noisy"))
    assert all((a.ventricle_growth_mm > 0) != (b.ventricle_growth_mm > 0) for a, b in drawn("atrophy"))
    assert all(max(a.slice_mm, b.slice_mm) > 1 for a, b in drawn("thick"))
    assert all(a.anatomy_seed == b.anatomy_seed and a.image_seed != b.image_seed for a, b in drawn("rescan"))
    assert all(a.anatomy_seed != b.anatomy_seed for a, b in (*drawn("usual"), *drawn("relative")))
    assert all(a.cortex_growth_mm == b.cortex_growth_mm for a, b in drawn("relative"))
    assert all(np.linalg.norm(b.rotation_degrees) <= 15.01 for _, b in drawn("usual"))


def test_a_rescan_shows_the_same_anatomy_and_another_person_does_not(maps: list[Path]) -> None:
    one = plain(warp_mm=2.5, warp_length_mm=15.0, jitter_mm=0.0)
    again = replace(one, image_seed=one.image_seed + 1, noise=0.05)
    other = replace(one, anatomy_seed=one.anatomy_seed + 1)
    (image, labels), (new_image, same), (_, different) = (rendered(maps[0], recipe) for recipe in (one, again, other))
    assert np.array_equal(sitk.GetArrayFromImage(labels), sitk.GetArrayFromImage(same))
    assert not np.array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(new_image))
    assert dice_coefficients(labels, different)[3] < 0.9
    moved = rendered(maps[0], replace(again, position_warp_mm=0.6))[1]
    assert 0.8 < dice_coefficients(labels, moved)[3] < 1


def test_no_anatomy_folds_however_strong_the_deformation(maps: list[Path]) -> None:
    ids = head_map(maps[0])
    for seed in range(3):
        recipe = plain(anatomy_seed=seed, warp_mm=9.0, warp_length_mm=12.0, ventricle_growth_mm=8.0)
        places = anatomy_places(ids, recipe)
        # On every voxel, where the check itself looks at every second one.
        assert smallest_jacobian(places) > 0.1
        weak = anatomy_places(ids, replace(recipe, warp_mm=0.0, ventricle_growth_mm=0.0))
        assert np.abs(places - weak).max() > 2


def test_the_jacobian_of_a_known_map() -> None:
    k, j, i = np.indices((6, 7, 8)).astype(np.float32)
    assert smallest_jacobian(np.stack([0.5 * k, 2 * j + i, 3 * i])) == pytest.approx(3)
    assert smallest_jacobian(np.stack([-k, j, i])) == pytest.approx(-1)


def test_atrophy_widens_ventricles_and_thick_cortex_fills_fluid(maps: list[Path]) -> None:
    def volume(codes: tuple[int, ...], **changes: object) -> int:
        labels = sitk.GetArrayFromImage(rendered(maps[0], plain(warp_mm=0.0, **changes))[1])
        return int(np.isin(labels, codes).sum())

    assert volume((4, 43), ventricle_growth_mm=3.0) > 1.3 * volume((4, 43))
    assert volume((3, 42), label_growth_mm=1.0) > 1.1 * volume((3, 42))
    assert volume((2, 41), label_growth_mm=1.0) == volume((2, 41))


def test_edges_lie_beside_the_labels_but_not_far(maps: list[Path]) -> None:
    sharp = {"noise": 0.0, "texture": 0.0, "grain": 0.0, "blur_mm": 0.3, "bias": 0.0, "gamma": 1.0, "warp_mm": 0.0}
    means = tuple(1.0 if n == WHITE else 0.3 * (n > 0) for n in range(len(TISSUES)))

    def disagreement(jitter_mm: float) -> float:
        image, labels = rendered(maps[0], plain(jitter_mm=jitter_mm, jitter_length_mm=6.0, means=means, **sharp))
        seen = sitk.GetArrayFromImage(image) > 160
        expected = np.isin(sitk.GetArrayFromImage(labels), (2, 41))
        return float((seen != expected).sum() / expected.sum())

    assert disagreement(0.0) < 0.02
    assert 0.04 < disagreement(0.7) < 0.3


def test_thick_slices_keep_the_anatomy_where_it_was(maps: list[Path]) -> None:
    thin = plain(warp_mm=0.0, jitter_mm=0.0, noise=0.01, rotation_degrees=(0.0, 0.0, 12.0), translation_mm=(5.0, 0.0, -8.0))
    for axis in range(3):
        image, labels = rendered(maps[0], replace(thin, slice_axis=axis, slice_mm=4))
        assert image.GetSpacing()[axis] == 4.0
        full, _ = rendered(maps[0], thin)
        assert np.allclose(image.GetDirection(), full.GetDirection())
        assert np.asarray(image.GetSize())[axis] == pytest.approx(full.GetSize()[axis] / 4, abs=1)
        assert labels.GetSize() == image.GetSize()


def test_skull_stripped_images_are_zero_outside_and_whole_heads_are_not(maps: list[Path]) -> None:
    bare = plain(whole_head=False, warp_mm=0.0, jitter_mm=0.0, noise=0.03, strip_leaves_other_tissue=False)
    image, labels = rendered(maps[0], bare)
    voxels, marked = sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(labels) > 0
    assert (voxels[marked] > 0).mean() > 0.99
    far = ndimage.distance_transform_edt(~marked) > 5
    assert far.any() and not voxels[far].any()
    head = sitk.GetArrayFromImage(rendered(maps[0], plain(warp_mm=0.0, noise=0.03))[0])
    assert (head > 0).mean() > (voxels > 0).mean()
    assert (head[0, 0] > 0).any()


def test_the_pipeline_finds_the_foreground_of_each_pair(pairs: Path) -> None:
    for pair in read_manifest(pairs):
        image, labels = sitk.ReadImage(pair.fixed), sitk.GetArrayFromImage(sitk.ReadImage(pair.fixed_labels))
        mask = foreground(image)
        found = sitk.GetArrayFromImage(mask) > 0
        assert found[labels > 0].mean() > 0.95
        scaled = sitk.GetArrayFromImage(normalised(image, mask))
        assert 0.5 < np.percentile(scaled[found], 99) <= 1.5


@pytest.mark.data
def test_a_real_head_looks_like_a_t1_scan(data_folder: Path) -> None:
    path = data_folder / "synthseg-labels" / "synthseg_03_head.nii.gz"
    image, labels = rendered(path, replace(draw_recipe("usual", np.random.default_rng(8))[0], whole_head=False, slice_mm=1))
    mask = foreground(image)
    voxels, codes = sitk.GetArrayFromImage(normalised(image, mask)), sitk.GetArrayFromImage(labels)
    assert set(np.unique(codes)) == {0, *STRUCTURES}
    white, pallidum, thalamus, putamen, cortex, fluid = (
        voxels[np.isin(codes, pair)].mean() for pair in ((2, 41), (13, 52), (10, 49), (12, 51), (3, 42), (4, 43))
    )
    # Measured in three OASIS-1 scans: 0.87, 0.86, 0.74, 0.71, 0.54, 0.34.
    assert white == pytest.approx(0.87, abs=0.08)
    assert cortex == pytest.approx(0.54, abs=0.1)
    assert white > thalamus > cortex > fluid and pallidum > putamen > cortex
    assert (sitk.GetArrayFromImage(mask)[codes > 0] > 0).mean() > 0.98


def test_maps_that_cannot_be_used_are_refused_in_a_sentence(maps: list[Path], tmp_path: Path) -> None:
    def refused(pattern: str, labels: list[Path], **changes: object) -> None:
        with pytest.raises(InputError, match=pattern):
            write_pairs(labels, tmp_path / "out", **({"count": 1, "seed": 1} | changes))

    refused("no label maps", [])
    refused("shows no brain", [save(np.full((9, 9, 9), 600, np.uint16), tmp_path / "mud.nii.gz")])
    refused("voxels of", [save(toy_head(1.0), tmp_path / "coarse.nii.gz", spacing=2.0)])
    refused("does not exist", [tmp_path / "nobody.nii.gz"])
    refused("same file name", [maps[0], maps[0]])
    refused("kinds", maps, kinds={"usal": 1.0})
    refused("kinds", maps, kinds={"usual": 0.0})
    refused("negative", maps, count=-1)


def test_a_folder_of_another_seed_is_left_alone(pairs: Path, maps: list[Path]) -> None:
    before = bytes_of(pairs)
    with pytest.raises(InputError, match="another seed"):
        write_pairs(maps, pairs.parent, count=8, seed=99)
    assert bytes_of(pairs) == before


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no such files")
def test_a_map_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nrrd")
    with pytest.raises(InputError, match=r"label map '.*' is a named pipe"):
        head_map(tmp_path / "pipe.nrrd")


def test_codes_beyond_all_that_are_known_cost_no_memory(tmp_path: Path) -> None:
    codes = np.zeros((12, 12, 12), dtype=np.uint32)
    codes[4:8, 4:8, 4:8] = 2
    sitk.WriteImage(sitk.GetImageFromArray(codes), str(tmp_path / "plain.nrrd"))
    codes[5, 5, 5], codes[6, 6, 6] = 4_000_000_000, 600
    sitk.WriteImage(sitk.GetImageFromArray(codes), str(tmp_path / "odd.nrrd"))
    plain, odd = head_map(tmp_path / "plain.nrrd"), head_map(tmp_path / "odd.nrrd")
    changed = odd[odd != plain]
    assert len(changed) == 2 and len(set(changed.tolist())) == 1
