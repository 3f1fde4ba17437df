"""The conditional network as an engine: its weights by name, its grid, the direction of its transform, files that are refused."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import blob_image, job_of
from HyperPredictRegLib import workflow
from HyperPredictRegLib.core.errors import Cancelled, InputError
from HyperPredictRegLib.core.progress import ProgressEvent
from HyperPredictRegLib.core.resources import threads
from HyperPredictRegLib.engines import conditional, conditional_network, engine_infos, engine_names, get_engine
from HyperPredictRegLib.engines.base import Registration, RegistrationTask, for_pair, settings_hash
from HyperPredictRegLib.engines.conditional import (
    WEIGHTS_VARIABLE,
    ConditionalEngine,
    ConditionalSettings,
    network_grid,
    on_working_grid,
)
from HyperPredictRegLib.engines.conditional_network import PyramidNetwork, read_network
from HyperPredictRegLib.engines.demons import DemonsEngine
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import displacement_field, field_transform

GRID = Geometry((40, 36, 32), (2.0, 2.0, 2.0), (-30.0, 11.0, 5.0), (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
SMALL = {"size": (32, 40, 48), "center": (15.5, 19.5, 23.5), "extent": (24.0, 28.0, 34.0), "brightness": 0.5}
SEED = 5


def weights(wide: int = 2, deep: int = 4, raised: int = 2, blocks: int = 5) -> dict[str, torch.Tensor]:
    """Return random weights under the names of the public ones."""
    shapes: dict[str, tuple[int, ...]] = {}
    for prefix, channels, up in (("model_lvl2.model_lvl1.", 2, deep), ("model_lvl2.", 5, deep), ("", 5, raised)):
        both = wide + up
        shapes |= {
            f"{prefix}input_encoder_lvl1.0.weight": (wide, channels, 3, 3, 3),
            f"{prefix}input_encoder_lvl1.2.weight": (wide, wide, 3, 3, 3),
            f"{prefix}down_conv.weight": (deep, wide, 3, 3, 3),
            f"{prefix}up.weight": (deep, up, 2, 2, 2),
            f"{prefix}output_lvl1.0.weight": (both // 2, both, 3, 3, 3),
            f"{prefix}output_lvl1.2.weight": (3, both // 2, 3, 3, 3),
        }
        for block in range(blocks):
            name = f"{prefix}resblock_group_lvl1.{2 * block}"
            for part in (1, 2):
                shapes |= {
                    f"{name}.ai{part}.style.weight": (2 * deep, 64),
                    f"{name}.ai{part}.style.bias": (2 * deep,),
                    f"{name}.conv{part}.weight": (deep, deep, 3, 3, 3),
                }
            for layer, given in zip((0, 2, 4, 6), (1, 64, 64, 64), strict=True):
                shapes |= {f"{name}.mapping.{layer}.weight": (64, given), f"{name}.mapping.{layer}.bias": (64,)}
    rng = np.random.default_rng(SEED)
    return {
        name: torch.from_numpy((rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32))
        for name, shape in shapes.items()
    }


def saved(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights as a training writes it: the state of a module, which has attributes of its own."""
    module = torch.nn.Module()
    state = module.state_dict()
    state.update(weights())
    file = tmp_path_factory.mktemp("weights") / "small.pth"
    file.write_bytes(saved(state))
    return file


@pytest.fixture
def settings(path: Path) -> ConditionalSettings:
    return ConditionalSettings(str(path), **SMALL)  # type: ignore[arg-type]


def pair() -> tuple[sitk.Image, sitk.Image]:
    images = blob_image(GRID), blob_image(GRID, shift_mm=(3.0, -2.0, 2.0))
    fixed, moving = (sitk.Cast(image / 160, sitk.sitkFloat32) for image in images)
    return fixed, moving


def register(settings: ConditionalSettings, setting: dict[str, float] | None = None, **changes: Any) -> Registration:
    fixed, moving = pair()
    task = RegistrationTask(fixed, moving, setting or {}, settings, SEED)
    with threads(1):
        return ConditionalEngine().register(replace(task, **changes))


def voxels(found: Registration) -> np.ndarray:
    return sitk.GetArrayFromImage(displacement_field(found.transform, GRID))


# The network


def smooth(shape: tuple[int, int, int], seed: int) -> torch.Tensor:
    coarse = np.random.default_rng(seed).random((1, 1, 4, 5, 6), np.float32)
    return torch.nn.functional.interpolate(torch.from_numpy(coarse), size=shape, mode="trilinear")


def displaced(content: dict[str, torch.Tensor], weight: float) -> np.ndarray:
    network = read_network(saved(content))
    moving, fixed = smooth((32, 40, 48), 1), smooth((32, 40, 48), 2)
    with torch.inference_mode():
        pair = network.encoded(moving, fixed, lambda _: None)
        return np.asarray(network.displacement(pair, weight, lambda _: None, lambda _: None)[0].numpy())


COMPUTED = (
    ((2, 4, 2), 0.0, (0.302674, 0.115703, -0.091504, 0.084355, 0.028426, -0.202332, 0.161703)),
    ((2, 4, 2), 0.4, (0.30097, 0.116759, -0.11863, 0.100306, 0.001955, -0.189459, 0.164445)),
    ((4, 4, 4), 0.0, (-0.317634, -0.080771, -0.243918, 0.046064, 0.016694, -0.020454, 0.131968)),
    ((4, 4, 4), 0.4, (-0.301806, -0.093941, -0.241449, 0.040946, 0.022109, -0.030633, 0.133255)),
)
"""By channels of the light and the full network, and by weight: what the authors' program makes of these weights and images."""


@pytest.mark.parametrize(("widths", "weight", "expected"), COMPUTED)
def test_the_network_computes_what_the_authors_code_does(
    widths: tuple[int, int, int], weight: float, expected: tuple[float, ...]
) -> None:
    field = displaced(weights(*widths), weight)
    found = [*field[:, 10, 20, 30], *field[:, 31, 0, 5], field.std()]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_slabs_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = displaced(weights(), 0.3)
    monkeypatch.setattr(conditional_network, "_PLANES", 6)
    np.testing.assert_allclose(displaced(weights(), 0.3), whole, atol=1e-6)


# Files


def without(name: str) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in weights().items() if key != name}


def packed(data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
    return stream.getvalue()


def with_nan() -> dict[str, torch.Tensor]:
    content = weights()
    content["model_lvl2.up.weight"][0, 0, 0, 0, 0] = float("nan")
    return content


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("harm",)


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "not a zip file"),
    "text": (lambda: b"weights\n" * 99, "not a zip file"),
    "truncated": (lambda: saved(weights())[:-3000], "not a zip file"),
    "cut in the middle": (lambda: saved(weights())[5000:], "does not hold the weights"),
    "packed": (lambda: packed(saved(weights())), "packed"),
    "code": (lambda: saved({"up.weight": Harm()}), "asks for '"),
    "plain pickle": (lambda: pickle.dumps(Harm()), "not a zip file"),
    "a list": (lambda: saved([torch.zeros(3)]), "no table of weights"),
    "numbers": (lambda: saved({"up.weight": 3}), "no table of weights"),
    "nothing": (lambda: saved({}), "lacks 'down_conv.weight'"),
    "another network": (lambda: saved({"encoder.0.weight": torch.zeros(8, 2, 3, 3, 3)}), "lacks 'down_conv.weight'"),
    "for pictures": (lambda: saved({n: w[..., 0] if w.dim() == 5 else w for n, w in weights().items()}), "not one for volumes"),
    "a weight less": (lambda: saved(without("model_lvl2.up.weight")), "lacks 'model_lvl2.up.weight'"),
    "a level less": (lambda: saved({n: w for n, w in weights().items() if "model_lvl1" not in n}), "blocks, which is none"),
    "a weight more": (lambda: saved({**weights(), "more": torch.zeros(1)}), "holds 'more'"),
    "another shape": (lambda: saved({**weights(), "down_conv.weight": torch.zeros(4, 2, 5, 3, 3)}), "(4, 2, 3, 3, 3) belongs"),
    "doubles": (lambda: saved({name: weight.double() for name, weight in weights().items()}), "asks for 'torch DoubleStorage'"),
    "no numbers": (lambda: saved(with_nan()), "not finite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_hold_no_such_weights_are_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, message = REFUSED[name]
    file = tmp_path / "weights.pth"
    file.write_bytes(made())
    with pytest.raises(InputError) as caught:
        register(ConditionalSettings(str(file), **SMALL))  # type: ignore[arg-type]
    sentence = str(caught.value)
    assert message in sentence and sentence.endswith(".") and "\n" not in sentence and len(sentence) < 700, sentence
    assert "harm" not in capsys.readouterr().out


def test_a_file_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch, settings: ConditionalSettings) -> None:
    monkeypatch.setattr(conditional, "MOST_BYTES", 1000)
    with pytest.raises(InputError, match=r"longer than 0\.001 MB"):
        register(settings)


# Where the weights are


def unavailable() -> str:
    return next(info.unavailable for info in engine_infos() if info.name == ConditionalEngine.info.name)


def test_without_weights_the_engine_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    name = ConditionalEngine.info.name
    assert name in engine_names()
    for sentence in (unavailable(), ConditionalEngine.info.lacking({"weights": str(tmp_path)})):
        assert "setting 'weights'" in sentence and WEIGHTS_VARIABLE in sentence and "\n" not in sentence
    with pytest.raises(InputError, match="needs the weights of a trained network"):
        get_engine(name)
    with pytest.raises(InputError, match="are not at"):
        get_engine(name, {"weights": str(tmp_path / "gone.pth")})
    with pytest.raises(InputError, match="needs the weights of a trained network"):
        register(ConditionalSettings(**SMALL))  # type: ignore[arg-type]
    without_torch = replace(ConditionalEngine.info, packages={"no_such_package": "install it"})
    assert "no_such_package" in without_torch.unavailable


def test_weights_are_found_by_setting_or_environment(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    assert get_engine(ConditionalEngine.info.name, {"weights": str(path)}).info.kind == "network"
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(path))
    assert not unavailable()
    by_environment = register(ConditionalSettings(**SMALL))  # type: ignore[arg-type]
    np.testing.assert_array_equal(voxels(by_environment), voxels(register(ConditionalSettings(str(path), **SMALL))))  # type: ignore[arg-type]


def test_the_hash_is_that_of_the_weights_not_of_their_place(path: Path, tmp_path: Path, settings: ConditionalSettings) -> None:
    copy, other = tmp_path / "copy.pth", tmp_path / "other.pth"
    copy.write_bytes(path.read_bytes())
    other.write_bytes(saved(weights(blocks=4)))
    engine = ConditionalEngine()
    assert settings_hash(engine, replace(settings, weights=str(copy))) == settings_hash(engine, settings)
    assert settings_hash(engine, replace(settings, weights=str(other))) != settings_hash(engine, settings)
    assert settings_hash(engine, replace(settings, brightness=0.6)) != settings_hash(engine, settings)


@pytest.mark.parametrize(
    "wrong",
    [{"size": (32, 40, 50)}, {"size": (8, 40, 48)}, {"size": (800, 800, 800)}, {"extent": (0.0, 20.0, 20.0)},
     {"center": (40.0, 19.5, 23.5)}, {"center": (float("nan"), 19.5, 23.5)}, {"brightness": 0.0}],
)  # fmt: skip
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        ConditionalSettings(**{**SMALL, **wrong})


# Its grid and the direction of its transform


def test_the_networks_grid_holds_the_anatomy_as_the_training_did() -> None:
    k, j, i = np.indices(GRID.size[::-1])
    places = GRID.to_lps(np.stack([i, j, k], axis=-1))
    middle, radii = GRID.centre_lps + np.array([2.0, -3.0, 1.0]), np.array([22.0, 26.0, 18.0])
    inside = np.linalg.norm((places - middle) / radii, axis=-1) < 1
    settings = ConditionalSettings(**SMALL)  # type: ignore[arg-type]
    grid = network_grid(GRID.holding(inside.astype(np.float32)), settings)
    assert grid.size == (48, 40, 32)
    # Tensors are indexed to the left, inferior and anterior: k, j, i.
    np.testing.assert_allclose(grid.to_index(middle)[::-1], SMALL["center"], atol=0.5)
    np.testing.assert_allclose(grid.direction_matrix.T @ (-1, -1, -1), (1, 1, -1), atol=1e-12)
    left, anterior, superior = np.eye(3) * radii * (1, -1, 1)
    np.testing.assert_allclose(grid.to_index(middle + left) - grid.to_index(middle), (0, 0, SMALL["extent"][0] / 1.8), rtol=0.05)  # type: ignore[index]
    assert grid.to_index(middle + anterior)[0] > grid.to_index(middle)[0]
    assert grid.to_index(middle + superior)[1] < grid.to_index(middle)[1]


def test_displacements_of_the_network_become_millimeters(oblique: Geometry) -> None:
    corners = oblique.corners_lps()
    edges = tuple(np.ptp(corners @ np.array(conditional._AXES).reshape(3, 3), axis=0) / (np.array((48, 40, 32)) - 6))
    grid = Geometry((48, 40, 32), edges, (0.0, 0.0, 0.0), conditional._AXES)
    grid = replace(grid, origin=tuple((oblique.centre_lps - grid.centre_lps).tolist()))

    def moved(places: np.ndarray) -> np.ndarray:
        x, y, z = np.moveaxis((places - oblique.centre_lps) / 20, -1, 0)
        return np.stack([1.5 + 0.8 * np.sin(y), -2.0 + 0.5 * x * z, 0.7 + 0.6 * np.cos(x + z)], axis=-1)

    k, j, i = np.indices(grid.size[::-1])
    places = grid.to_lps(np.stack([i, j, k], axis=-1))
    unit = (grid.to_index(places + moved(places)) - grid.to_index(places)) * 2 / (np.array(grid.size) - 1)
    transform = field_transform(on_working_grid(np.moveaxis(unit, -1, 0), grid, oblique))
    points = oblique.to_lps(np.random.default_rng(SEED).uniform(2, np.array(oblique.size) - 3, (50, 3)))
    found = np.array([transform.TransformPoint(point) for point in points.tolist()])
    np.testing.assert_allclose(found - points, moved(points), atol=0.03)


def test_displacements_go_on_beyond_the_networks_grid() -> None:
    grid = Geometry((48, 40, 32), (0.5, 0.5, 0.5), tuple(GRID.centre_lps.tolist()), conditional._AXES)
    unit = np.broadcast_to(np.array([0.1, 0.2, -0.1])[:, None, None, None], (3, 32, 40, 48))
    field = sitk.GetArrayFromImage(on_working_grid(unit, grid, GRID))
    np.testing.assert_allclose(field, np.broadcast_to(field[0, 0, 0], field.shape), atol=1e-9)
    np.testing.assert_allclose(field[0, 0, 0], 0.25 * np.array([-0.1 * 31, -0.1 * 47, -0.2 * 39]), atol=1e-9)


def test_the_transform_maps_fixed_to_moving(settings: ConditionalSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that moves the centre of gravity of what it sees to where it belongs, in place of a trained one."""

    def towards(self: PyramidNetwork, pair: Any, weight: float, step: object, seen: Callable[[float], None]) -> torch.Tensor:
        for _ in pair.fixed:
            seen(0.0)
        volumes = pair.fixed[-1][0, 0].double(), pair.moving[-1][0, 0].double()
        shift = []
        for axis in (2, 1, 0):
            others = [one for one in range(3) if one != axis]
            places = torch.linspace(-1, 1, volumes[0].shape[axis], dtype=torch.float64)
            fixed, moving = ((volume.sum(others) * places).sum() / volume.sum() for volume in volumes)
            shift.append(moving - fixed)
        return torch.stack(shift).float()[None, :, None, None, None].expand(1, 3, *volumes[0].shape)

    monkeypatch.setattr(PyramidNetwork, "displacement", towards)
    fixed, moving = pair()
    found = register(settings)
    np.testing.assert_allclose(voxels(found)[16, 18, 20], (3.0, -2.0, 2.0), atol=0.1)
    errors = [
        float(np.abs(sitk.GetArrayFromImage(fixed) - sitk.GetArrayFromImage(image)).mean())
        for image in (moving, GRID.resample(moving, found.transform))
    ]
    assert errors[1] < 0.1 * errors[0]


# The contract of an engine


def test_one_run_tells_its_levels_weights_and_progress(settings: ConditionalSettings) -> None:
    events: list[ProgressEvent] = []
    before = [sitk.Hash(image) for image in pair()]
    found = register(settings, progress=events.append)
    assert [trace.level for trace in found.levels] == [0, 1, 2]
    assert [trace.shrink_factor for trace in found.levels] == [4.0, 2.0, 1.0]
    assert all(np.isfinite(trace.values).all() and not trace.hit_iteration_limit for trace in found.levels)
    assert found.seed == SEED and found.setting == {"regularization_weight": 0.1} and found.versions["torch"]
    assert "small.pth" in found.notes[0] and "32 x 40 x 48" in found.notes[0]
    fractions = [event.fraction for event in events]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] > 0.99
    assert np.abs(voxels(found)).max() > 0.1
    np.testing.assert_array_equal(voxels(register(settings)), voxels(found))
    assert before == [sitk.Hash(image) for image in pair()]


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), float("inf")])
def test_values_out_of_range_are_refused(settings: ConditionalSettings, value: float) -> None:
    with pytest.raises(InputError, match="choose a value from 0 to 1"):
        register(settings, {"regularization_weight": value})


def test_whoever_cancels_is_heard_between_two_slabs(settings: ConditionalSettings) -> None:
    steps: list[object] = []
    asked: list[int] = []

    def cancelled() -> bool:
        asked.append(len(steps))
        return len(asked) > 5

    with pytest.raises(Cancelled):
        register(settings, progress=steps.append, cancelled=cancelled)
    assert len(steps) <= 5


def test_what_is_outside_of_a_mask_is_background(settings: ConditionalSettings) -> None:
    _, moving = pair()
    k, j, i = np.indices(GRID.size[::-1])
    away = np.hypot(np.hypot(i - 5, j - 5), k - 5)
    spoiled = moving + GRID.holding((away < 3).astype(np.float32))
    mask = GRID.holding((away > 7).astype(np.uint8))
    clean, masked = (
        voxels(register(settings, moving=image, fixed_mask=mask, moving_mask=mask)) for image in (moving, spoiled)
    )
    np.testing.assert_array_equal(masked, clean)
    with pytest.raises(InputError, match="mask of the moving image has no voxel"):
        register(settings, moving_mask=GRID.holding(np.zeros(GRID.size[::-1], np.uint8)))


def test_images_without_anything_to_see_are_refused(settings: ConditionalSettings) -> None:
    for value, message in ((0.3, "one intensity only"), (np.nan, "NaN or infinite")):
        image = GRID.holding(np.full(GRID.size[::-1], value, np.float32))
        with pytest.raises(InputError, match=message):
            register(settings, fixed=image)


def test_many_settings_of_one_pair_share_what_does_not_depend_on_them(
    settings: ConditionalSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[object] = []
    original = PyramidNetwork.encoded

    def counting(self: PyramidNetwork, *given: Any) -> Any:
        encoded.append(given)
        return original(self, *given)

    monkeypatch.setattr(PyramidNetwork, "encoded", counting)
    values = [{"regularization_weight": weight} for weight in (0.0, 0.1, 1.0)]
    with threads(1):
        together = for_pair(ConditionalEngine(), RegistrationTask(*pair(), {}, settings, SEED))
        found = [voxels(together(value)) for value in values]
    assert len(encoded) == 1
    for value, field in zip(values, found, strict=True):
        np.testing.assert_array_equal(voxels(register(settings, value)), field)
    assert np.abs(found[0] - found[2]).max() > 0.01


def test_engines_that_share_nothing_register_each_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks: list[RegistrationTask] = []
    monkeypatch.setattr(DemonsEngine, "register", lambda self, task: tasks.append(task))
    task = RegistrationTask(*pair(), {}, DemonsEngine.settings_type(), SEED)
    for_pair(DemonsEngine(), task)({"regularization_weight": 1.5})
    assert tasks == [replace(task, setting={"regularization_weight": 1.5})]


def test_anatomy_of_another_size_is_warned_of(settings: ConditionalSettings) -> None:
    assert any("unlike what the network was trained on" in warning for warning in register(settings).warnings)
    fits = replace(settings, size=(64, 64, 64), center=(31.5, 31.5, 31.5), extent=(42.0, 42.0, 42.0))
    assert not register(fits).warnings


def test_a_job_runs_with_weights_that_its_settings_name(files: Path, path: Path, tmp_path: Path) -> None:
    given = {"weights": str(path), **{name: list(value) if isinstance(value, tuple) else value for name, value in SMALL.items()}}
    setting = {"regularization_weight": 0.5}
    job = job_of(files, tmp_path, engine=ConditionalEngine.info.name, engine_settings=given, setting=setting)
    report = workflow.compute(job).report
    assert report.engine.name == ConditionalEngine.info.name
    assert report.setting == setting
    assert report.measured.folding_percent.foreground >= 0
    assert any("small.pth" in note for note in report.engine_notes)
