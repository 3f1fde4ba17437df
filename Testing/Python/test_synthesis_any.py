"""Synthetic pairs of any anatomy: that their truth is true, what they show, and that a seed makes the same ones again."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.predictor.features import LEAST_FOREGROUND_VOXELS
from HyperPredictRegLib.quality.metrics import dice_coefficients, jacobian_determinant
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import field_transform

from HyperPredictRegLab.manifest import read_manifest
from HyperPredictRegLab.sweep.truths import KnownTransform
from HyperPredictRegLab.synthesis.anatomies import LESION, SHAPES, map_anatomy, shape_anatomy, with_body
from HyperPredictRegLab.synthesis.any_pairs import COLUMNS, anatomy_maps, plan_any_pair, write_any_pairs
from HyperPredictRegLab.synthesis.any_recipe import GROUPS, STARTS, AnyRecipe, draw_any
from HyperPredictRegLab.synthesis.looks import Look, imaged, intensities
from HyperPredictRegLab.synthesis.scenes import Scene, made
from HyperPredictRegLab.synthesis.warps import FAMILIES, LEAST_JACOBIAN, difference, drawn_warp

SMALL = (20, 22)
WHOLE = (0.0,) * 6


def save(codes: np.ndarray, path: Path, spacing: tuple[float, float, float] = (0.5, 0.5, 0.5)) -> None:
    path.parent.mkdir(exist_ok=True)
    image = sitk.GetImageFromArray(codes)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))


def toy_map(stretch: float) -> np.ndarray:
    """Return an animal of four organs in air."""
    k, j, i = np.indices((26, 26, 26)) - 12.5
    codes = np.zeros(k.shape, dtype=np.uint8)
    for code, radius, at in ((1, 11, 0), (2, 5, -4), (3, 5, 4), (7, 2.5, 0)):
        codes[k**2 + (j / stretch) ** 2 + (i - at) ** 2 < radius**2] = code
    return codes


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    folder = tmp_path_factory.mktemp("maps")
    for n, stretch in enumerate((0.85, 0.9, 1.0, 1.1)):
        save(toy_map(stretch), folder / "animals" / f"animal{n}_lab.nii.gz")
    save(toy_map(1.0)[::-1] * 20, folder / "animals" / "animal0_img.nii.gz")
    names = "code,name\n1,body\n2,kidney_left\n3,kidney_right\n7,heart\n"
    (folder / "animals" / "labels.csv").write_text(names, encoding="utf-8")
    return anatomy_maps(folder, ["animals"])


def plain_look(seed: int = 5, **changes: object) -> Look:
    look = Look(
        contrast="mr", contrast_seed=3, seed=seed, texture=0.02, shared=1.0, texture_length=2.0, blur=0.5, bias=0.0, noise=0.005,
        gamma=1.0, dark_air=True, slice_axis=0, slice_ratio=1, cut=WHOLE, change="", change_size=0.0,
    )  # fmt: skip
    return replace(look, **changes)  # type: ignore[arg-type]


def plain(**changes: object) -> AnyRecipe:
    """Return the recipe of a pair of touching compartments with nothing but a known deformation and a pose."""
    recipe = draw_any({}, np.random.default_rng(1), SMALL)
    still = {
        "group": "known-warp", "domain": "shapes-cells", "maps": (), "voxels": 44, "edge_mm": 0.5, "view": "whole",
        "family": "smooth", "amplitude": 1.5, "length": 9.0, "fixed": plain_look(5), "moving": plain_look(6),
        "start": "near", "seed": 28,
    }  # fmt: skip
    return replace(recipe, **(still | changes))  # type: ignore[arg-type]


def by_truth(scene: Scene) -> dict[int, float]:
    """Return Dice of the moving labels with the fixed ones once the truth has warped them."""
    assert scene.truth is not None
    warped = Geometry.of(scene.fixed).resample(
        scene.moving_labels, field_transform(scene.truth), interpolator=sitk.sitkNearestNeighbor
    )
    return dice_coefficients(scene.fixed_labels, warped)


def determinants(field: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(jacobian_determinant(field))


def known(scene: Scene, folder: Path) -> KnownTransform:
    sitk.WriteImage(scene.truth, str(folder / "truth.mha"))
    everywhere = Geometry.of(scene.fixed)
    ones = sitk.Image(scene.fixed.GetSize(), sitk.sitkUInt8) + 1
    return KnownTransform.of(str(folder / "truth.mha"), everywhere, everywhere.apply_to(ones), scene.moving)


def rows_of(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_manifest_lists_what_a_sweep_reads_and_a_seed_makes_the_same_files(
    maps: dict[str, list[Path]], tmp_path: Path
) -> None:
    whole = write_any_pairs(maps, tmp_path / "whole", count=6, seed=4, voxels=SMALL)
    part = write_any_pairs(maps, tmp_path / "part", count=2, seed=4, first=3, voxels=SMALL)
    rows = rows_of(whole)
    assert tuple(rows[0]) == COLUMNS and rows_of(part) == rows[3:5]
    for path in (part.parent / "images").iterdir():
        assert path.read_bytes() == (whole.parent / "images" / path.name).read_bytes(), path.name
    for pair, row in zip(read_manifest(whole), rows, strict=True):
        recipe = json.loads(row["recipe"])
        assert pair.group in GROUPS and pair.domain == recipe["domain"]
        assert (pair.truth == "") == (pair.group == "two-people")
        assert (pair.start == "") == (recipe["start"] == "product")
        assert (pair.fixed_subject == pair.moving_subject) == (pair.group in ("known-warp", "follow-up"))
        for image, labels in ((pair.fixed, pair.fixed_labels), (pair.moving, pair.moving_labels)):
            assert Geometry.of(sitk.ReadImage(image)).matches(Geometry.of(sitk.ReadImage(labels)))
    with pytest.raises(InputError, match="another seed"):
        write_any_pairs(maps, tmp_path / "whole", count=1, seed=5, voxels=SMALL)


def test_every_kind_is_drawn_and_half_of_the_contrasts_differ(maps: dict[str, list[Path]]) -> None:
    recipes = [plan_any_pair(maps, number, seed=2).recipe for number in range(400)]
    assert {r.group for r in recipes} == set(GROUPS) and {r.start for r in recipes} == set(STARTS)
    assert {r.domain for r in recipes} == {"animals", "organs", *(f"shapes-{kind}" for kind in SHAPES)}
    different = np.mean([r.fixed.contrast_seed != r.moving.contrast_seed for r in recipes])
    assert 0.38 < different < 0.58
    assert {r.fixed.contrast for r in recipes} == {"mr", "ct", "ultrasound", "scan"}
    known = np.mean([r.group != "two-people" for r in recipes])
    assert 0.65 < known < 0.9


@pytest.mark.parametrize("family", FAMILIES)
def test_the_truth_leads_every_structure_home(family: str) -> None:
    scene = made(plain(family=family), {})
    found = by_truth(scene)
    assert len(found) >= 4 and np.mean(list(found.values())) > 0.9
    start = Geometry.of(scene.fixed).resample(scene.moving_labels, scene.start, interpolator=sitk.sitkNearestNeighbor)
    assert np.mean(list(found.values())) > np.mean(list(dice_coefficients(scene.fixed_labels, start).values()))
    assert determinants(sitk.Cast(scene.truth, sitk.sitkVectorFloat64)).min() > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_no_deformation_folds_however_large(family: str) -> None:
    shift = drawn_warp((20, 22, 24), family, 30.0, 5.0, np.random.default_rng(3))
    field = sitk.GetImageFromArray(np.moveaxis(shift[::-1], 0, -1).astype(float), isVector=True)
    assert np.abs(shift).max() > 0.3
    assert determinants(field).min() > LEAST_JACOBIAN / 3


def test_two_visits_without_motion_differ_by_their_pose_alone(tmp_path: Path) -> None:
    scene = made(plain(group="follow-up", amplitude=0.0), {})
    assert known(scene, tmp_path).global_misfit(field_transform(scene.truth)) < 1e-3
    assert known(scene, tmp_path).errors(field_transform(scene.truth)) == pytest.approx((0, 0), abs=1e-4)


def test_a_failed_start_is_off_and_a_near_one_is_not(tmp_path: Path) -> None:
    off: dict[str, list[float]] = {"near": [], "failed": []}
    for seed in range(36):
        drawn = draw_any({}, np.random.default_rng(seed), SMALL)
        if drawn.start in off:
            same = {name: getattr(drawn, name) for name in ("start", "start_rotation", "start_shift", "start_scale")}
            scene = made(plain(voxels=20, amplitude=0.3, **same), {})
            off[drawn.start].append(known(scene, tmp_path).global_misfit(scene.start) / 0.5)
    assert len(off["failed"]) >= 3 and len(off["near"]) >= 8
    assert max(off["near"]) < 2.5 and np.median(off["near"]) < 1
    assert np.median(off["failed"]) > 2.5


def test_thick_slices_lie_where_their_middle_is() -> None:
    codes = shape_anatomy("cells", 30, np.random.default_rng(2)).codes
    none = np.zeros(codes.shape, dtype=np.float32)
    still = {"texture": 0.0, "noise": 0.0, "blur": 0.01, "contrast": "ct", "dark_air": False}
    fine, thick = (
        imaged(codes, np.arange(256), none, None, plain_look(slice_axis=1, slice_ratio=ratio, **still)) for ratio in (1, 5)
    )
    assert thick.first == (0, 2, 0) and thick.steps == (1, 5, 1)
    count = thick.voxels.shape[1]
    blocks = fine.voxels[:, : 5 * count].reshape(codes.shape[0], count, 5, codes.shape[2]).mean(axis=2)
    assert np.abs(blocks - thick.voxels).max() < 1.5
    assert np.array_equal(thick.labels, fine.labels[:, 2 : 5 * count : 5])
    scene = made(plain(fixed=plain_look(slice_axis=1, slice_ratio=3)), {})
    i, j, k = scene.fixed.GetSpacing()
    assert (i, j, k) == pytest.approx((0.5, 1.5, 0.5)) and np.mean(list(by_truth(scene).values())) > 0.85


def test_slices_are_less_thick_where_too_few_would_be_left() -> None:
    scene = made(plain(voxels=20, fixed=plain_look(slice_axis=0, slice_ratio=9)), {})
    assert scene.fixed.GetSize()[2] >= 4 and scene.fixed.GetSpacing()[2] > 0.5
    assert Geometry.of(scene.fixed).matches(Geometry.of(scene.fixed_labels))


def test_a_pair_that_shows_too_little_is_made_larger(maps: dict[str, list[Path]]) -> None:
    few = plain(domain="animals", maps=(maps["animals"][0].name,), edge_mm=0.0, voxels=20, view="stripped")
    scene = made(few, maps)
    shown = np.count_nonzero(sitk.GetArrayFromImage(scene.fixed_labels))
    assert shown > 8 * LEAST_FOREGROUND_VOXELS > 1.25 * 20**3 * np.mean(toy_map(0.85) > 0)
    assert np.mean(list(by_truth(scene).values())) > 0.9
    enough = made(replace(few, voxels=36), maps)
    assert np.prod(enough.fixed.GetSize()) == pytest.approx(42**3, rel=0.1)


def test_a_cut_view_is_a_part_of_the_whole_in_its_place() -> None:
    whole, cut = (made(plain(moving=plain_look(6, cut=shares, noise=0.0)), {}) for shares in (WHOLE, (0.3, 0, 0, 0.2, 0, 0)))
    size, less = np.array(whole.moving.GetSize()), np.array(cut.moving.GetSize())
    assert less.tolist() == [size[0], size[1] - round(0.2 * size[1]), size[2] - round(0.3 * size[2])]
    there = Geometry.of(cut.moving).resample(whole.moving_labels, interpolator=sitk.sitkNearestNeighbor)
    assert np.array_equal(sitk.GetArrayFromImage(there), sitk.GetArrayFromImage(cut.moving_labels))
    assert np.mean(list(by_truth(whole).values())) > 0.9 > np.mean(list(by_truth(cut).values()))


def test_contrasts_are_shared_or_not_and_twins_look_alike(maps: dict[str, list[Path]]) -> None:
    tissues = map_anatomy(maps["animals"][0]).tissues
    assert tissues[2] == tissues[3] != tissues[7]
    one, again, other = (intensities(plain_look(seed, contrast_seed=c), tissues) for seed, c in ((1, 3), (2, 3), (1, 4)))
    assert np.abs(one - again).max() < 0.1 < np.abs(one - other).max() and one[0] == 0
    units = made(plain(fixed=plain_look(contrast="ct", dark_air=True)), {}).fixed
    voxels = sitk.GetArrayFromImage(units)
    assert units.GetPixelID() == sitk.sitkInt16 and voxels.min() >= -1024 and -200 < np.median(voxels[voxels > -500]) < 1300
    seen = [made(plain(fixed=plain_look(contrast=contrast)), {}).fixed for contrast in ("mr", "ultrasound")]
    sound = [sitk.GetArrayFromImage(image).astype(float) for image in seen]
    rough = [np.abs(np.diff(v, axis=0))[v[1:] > 0].mean() / v[v > 0].mean() for v in sound]
    assert rough[1] > 1.5 * rough[0]


def test_what_is_missing_or_added_is_in_one_image_only() -> None:
    scene = made(plain(fixed=plain_look(change="added", change_size=0.25)), {})
    bare = made(plain(), {})
    one, other = (sitk.GetArrayFromImage(s.fixed_labels) for s in (scene, bare))
    changed = one != other
    assert changed.any() and (one[changed] == 0).all() and one.max() < LESION
    assert np.array_equal(sitk.GetArrayFromImage(scene.moving), sitk.GetArrayFromImage(bare.moving))


def test_two_people_are_brought_together_by_their_labels(maps: dict[str, list[Path]]) -> None:
    names = tuple(path.name for path in (maps["animals"][0], maps["animals"][3]))
    still = {"start_rotation": (0, 0, 0), "start_shift": (0, 0, 0), "start_scale": (0, 0, 0), "domain": "animals", "maps": names}
    scene = made(plain(group="two-people", edge_mm=0.0, **still), maps)
    assert scene.truth is None
    warped = Geometry.of(scene.fixed).resample(scene.moving_labels, scene.start, interpolator=sitk.sitkNearestNeighbor)
    found = dice_coefficients(scene.fixed_labels, warped)
    assert set(found) == {1, 2, 3, 7} and min(found[1], found[2]) > 0.75


def test_the_difference_of_two_maps_leads_one_to_the_other() -> None:
    one, other = toy_map(0.8), toy_map(1.15)
    shift = difference(one, other, np.random.default_rng(1))
    places = np.rint(np.indices(one.shape) + shift).astype(int).clip(0, 25)
    assert (one[tuple(places)] == other).mean() > 0.5 * (1 + (one == other).mean())


def test_shapes_have_four_to_thirty_labels_and_organs_get_a_body(maps: dict[str, list[Path]]) -> None:
    for kind in SHAPES:
        labels = np.unique(shape_anatomy(kind, 30, np.random.default_rng(8)).codes)
        assert 3 <= ((labels > 0) & (labels < 200)).sum() <= 32, kind
    bare = map_anatomy(maps["animals"][1])
    clad = with_body(bare, np.random.default_rng(1), always=True)
    assert (clad.codes >= 200).sum() > 0.1 * (bare.codes > 0).sum()
    assert (np.bincount(clad.codes.ravel(), minlength=9)[1:8] == np.bincount(bare.codes.ravel(), minlength=9)[1:8]).all()


@pytest.mark.parametrize("spoiled", ["empty", "flat", "none"])
def test_a_map_that_cannot_be_used_is_named(spoiled: str, tmp_path: Path) -> None:
    path = tmp_path / "odd" / "odd_lab.nii.gz"
    codes = np.zeros((8, 8, 8), dtype=np.uint8) if spoiled == "empty" else toy_map(1.0)
    if spoiled != "none":
        save(codes, path, (0.5, 0.5, 2.0) if spoiled == "flat" else (1.0, 1.0, 1.0))
    with pytest.raises(InputError, match="odd"):
        map_anatomy(anatomy_maps(tmp_path, ["odd"])["odd"][0])
