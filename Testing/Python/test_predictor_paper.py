"""The published predictor as a baseline: its layout, its loss, what is trained and what is not, and that it learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import blob_image
from HyperPredictRegLib.alignment.aligned_pair import AlignedPair
from HyperPredictRegLib.core.errors import Cancelled, InputError
from HyperPredictRegLib.core.progress import ProgressEvent
from HyperPredictRegLib.engines import get_engine
from HyperPredictRegLib.spatial.geometry import Geometry

torch = pytest.importorskip("torch")

from HyperPredictRegLab.baselines import FROZEN, PUBLISHED, PaperNetwork, PaperPredictor, PaperSettings, paper_image, train_paper  # noqa: E402  # noqa: E402
from HyperPredictRegLab.training.examples import Examples  # noqa: E402

SIZE = (10, 12, 14)
PAIRS, STRUCTURES, VALUES = 96, 3, 6
TRAIN = np.arange(PAIRS) < 64
VALIDATION = (np.arange(PAIRS) >= 64) & (np.arange(PAIRS) < 80)
TEST = ~TRAIN & ~VALIDATION
QUICK = PaperSettings(epochs=3, patience=3)


@pytest.fixture(scope="module")
def planted() -> tuple[Examples, np.ndarray]:
    """Dice falls with λ, and with contrast between the two images; folding falls with λ."""
    random = np.random.default_rng(3)
    contrast = random.uniform(0, 1, PAIRS)
    k, j, i = np.meshgrid(*(np.linspace(-1, 1, n) for n in SIZE), indexing="ij")
    ball = 1 / (1 + np.exp((np.sqrt(k**2 + j**2 + i**2) - 0.7) / 0.1))
    images = np.stack([np.stack([ball, ball * (1 - 0.8 * c)]) for c in contrast]) + 0.01 * random.normal(size=(PAIRS, 2, *SIZE))
    values = 10 ** random.uniform(-3, 1, (PAIRS, VALUES))
    levels = np.array([0.9, 0.8, 0.7])
    dice = levels[None, :, None] - 0.05 * (np.log10(values) + 3)[:, None] - 0.3 * contrast[:, None, None]
    folding = 2.0 / (1 + values * 30) * (0.5 + contrast[:, None])
    none = np.zeros((PAIRS, 0))
    return Examples(
        pairs=tuple(f"pair-{n}" for n in range(PAIRS)),
        subjects=np.array([[f"a{n}", f"b{n}"] for n in range(PAIRS)]),
        groups=np.full(PAIRS, ""),
        engine="demons",
        settings_hash="0",
        preset="fast",
        features_version="1",
        parameter=get_engine("demons").info.search_space.first,
        feature_names=(),
        token_names=(),
        labels=(2, 3, 17),
        features=none,
        tokens=np.zeros((PAIRS, STRUCTURES, 0)),
        values=values,
        dice=dice,
        folding_foreground=5 * folding,
        folding_grid=folding,
        sd_log_jacobian=folding,
        hd95=folding,
    ), images.astype(np.float16)


def trained(planted: tuple[Examples, np.ndarray], settings: PaperSettings = QUICK, **changes: np.ndarray) -> PaperPredictor:
    return train_paper(replace(planted[0], **changes), planted[1], TRAIN, VALIDATION, settings)


def weights(predictor: PaperPredictor, part: str) -> torch.Tensor:
    return torch.cat([p.flatten() for p in getattr(predictor.network, part).parameters()])


def test_the_network_has_the_published_numbers_of_weights() -> None:
    # With 35 structures: MELBA 2024, Figure 1, and its code; the encoder is SYMNet's, start width 7.
    network = PaperNetwork(35, PUBLISHED)
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    assert count.pop("encoder") == 507465
    assert count == {"embedding": 1120, "trunk": 5696, "dice_head": 6435, "folding_head": 2113}
    wider = PaperNetwork(35, replace(PUBLISHED, statistics="mean-min-max", hidden_layers=2))
    assert wider.trunk[0].in_features == 3 * 56 + 32
    assert [layer.out_features for layer in wider.folding_head if hasattr(layer, "out_features")] == [32, 8, 1]


def test_the_encoder_halves_four_times_and_passes_contrast_on() -> None:
    torch.manual_seed(0)
    network = PaperNetwork(2, FROZEN)
    image = torch.rand(1, 2, 32, 48, 64)
    channels = network.encoder(image)
    assert channels.shape == (1, 56, 2, 3, 4)
    assert network.pooled(image)[0].numpy() == pytest.approx(channels.mean(dim=(2, 3, 4))[0].detach().numpy(), rel=1e-5)
    assert (network.pooled(2 * image) / network.pooled(image)).nanmedian() == pytest.approx(2, rel=1e-4)
    whole = PaperNetwork(2, replace(FROZEN, statistics="mean-min-max"))
    mean, least, greatest = whole.pooled(image)[0].split(56)
    assert (least <= mean).all()
    assert (mean <= greatest).all()
    assert (least < greatest).any()


def test_it_learns_how_dice_depends_on_the_weight_and_on_the_images(planted: tuple[Examples, np.ndarray]) -> None:
    examples, images = planted
    predictor = trained(planted, replace(FROZEN, epochs=100))
    dice, folding = predictor.predict(images[TEST], examples.values[TEST])
    truth = examples.dice[TEST]
    by_weight = [np.polyfit(np.log(examples.values[TRAIN]).ravel(), examples.dice[TRAIN][:, s].ravel(), 1) for s in range(3)]
    blind = np.stack([np.polyval(line, np.log(examples.values[TEST])) for line in by_weight], axis=1)
    # What cannot be known without the images is 0.3 times a uniform contrast: a mean error of about 0.07.
    assert np.abs(blind - truth).mean() > 0.06
    assert np.abs(dice - truth).mean() < 0.035
    assert np.abs(folding - examples.folding_grid[TEST]).mean() < 0.12 < 0.3 * examples.folding_grid[TEST].std()
    mismatched, _ = predictor.predict(images[TEST][::-1].copy(), examples.values[TEST])
    assert np.abs(mismatched - truth).mean() > 2 * np.abs(dice - truth).mean()


def test_a_trained_encoder_learns_too(planted: tuple[Examples, np.ndarray]) -> None:
    settings = replace(QUICK, epochs=6)
    frozen, free = trained(planted, settings), trained(planted, replace(settings, trained_encoder=True))
    assert torch.equal(weights(frozen, "encoder"), weights(trained(planted), "encoder"))
    assert not torch.equal(weights(frozen, "encoder"), weights(free, "encoder"))
    assert min(loss for _, loss in free.losses) < 0.5 * free.losses[0][1]


def test_a_frozen_encoders_channels_are_rescaled_unless_asked_not_to(planted: tuple[Examples, np.ndarray]) -> None:
    network = trained(planted).network
    with torch.no_grad():
        pooled = network.pooled(torch.as_tensor(planted[1][TRAIN], dtype=torch.float32))
    rescaled = ((pooled - network.pooled_mean) / network.pooled_scale).numpy()
    np.testing.assert_allclose(rescaled.mean(axis=0), 0, atol=1e-3)
    assert np.sqrt(np.mean(rescaled**2)) == pytest.approx(1, rel=1e-3)
    # Images that are all alike leave nothing to rescale by; others must not blow up for that.
    for alike in (np.repeat(planted[1][:1], PAIRS, axis=0), np.zeros_like(planted[1])):
        blind = train_paper(planted[0], alike, TRAIN, VALIDATION, QUICK)
        assert np.abs(blind.predict(alike, np.array([0.1]))[0]).max() < 2
        assert blind.network.pooled_scale > 1e-4 * blind.network.pooled_mean.abs().mean()
    for settings in (replace(QUICK, rescaled=False), replace(QUICK, trained_encoder=True)):
        plain = trained(planted, settings).network
        assert (plain.pooled_mean == 0).all()
        assert (plain.pooled_scale == 1).all()


def test_the_published_embedding_gets_no_gradient(planted: tuple[Examples, np.ndarray]) -> None:
    fixed = replace(QUICK, trained_embedding=False)
    one, more = (trained(planted, replace(fixed, epochs=n)) for n in (1, 4))
    assert torch.equal(weights(one, "embedding"), weights(more, "embedding"))
    assert not torch.equal(weights(one, "trunk"), weights(more, "trunk"))
    assert all(p.grad is None for p in more.network.embedding.parameters())
    with_gradient = trained(planted)
    assert not torch.equal(weights(with_gradient, "embedding"), weights(one, "embedding"))


def test_missing_dice_is_masked_and_not_counted_as_zero(planted: tuple[Examples, np.ndarray]) -> None:
    examples, images = planted
    dice = examples.dice.copy()
    dice[::2, 1] = np.nan
    settings = replace(FROZEN, epochs=30)
    found, _ = trained(planted, settings, dice=dice).predict(images[TEST], examples.values[TEST])
    as_zero, _ = trained(planted, settings, dice=np.nan_to_num(dice)).predict(images[TEST], examples.values[TEST])
    truth = examples.dice[TEST][:, 1].mean()
    assert abs(found[:, 1].mean() - truth) < 0.05
    assert as_zero[:, 1].mean() < truth - 0.2


def test_what_is_masked_has_no_influence(planted: tuple[Examples, np.ndarray]) -> None:
    examples, images = planted
    values, dice, folding = examples.values.copy(), examples.dice.copy(), examples.folding_grid.copy()
    values[:, -1], dice[:, :, -1], folding[:, -1] = np.nan, np.nan, np.nan
    dice[:, 2] = np.nan
    plain = trained(planted, values=values, dice=dice, folding_grid=folding)
    assert plain.known.tolist() == [True, True, False]
    found = plain.predict(images, np.array([0.1, 1.0]))
    assert np.isnan(found[0][:, 2]).all()
    # Leaving λ out is enough: Dice and folding beside it must not be looked at; nor must pairs outside both masks.
    wild_dice, wild_folding = np.where(np.isnan(dice), dice, examples.dice), folding.copy()
    wild_dice[:, :2, -1], wild_folding[:, -1] = 50.0, 0.001
    wild_dice[TEST], wild_folding[TEST] = 99.0, 99.0
    again = trained(planted, values=values, dice=wild_dice, folding_grid=wild_folding).predict(images, np.array([0.1, 1.0]))
    for one, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_channels_of_an_encoder_stand_for_the_images(planted: tuple[Examples, np.ndarray]) -> None:
    examples, images = planted
    settings = replace(QUICK, rescaled=False)
    by_images = trained(planted, settings)
    with torch.no_grad():
        channels = by_images.network.pooled(torch.as_tensor(images, dtype=torch.float32)).numpy()
    by_channels = train_paper(examples, channels, TRAIN, VALIDATION, settings)
    np.testing.assert_allclose(by_channels.losses, by_images.losses, rtol=1e-4)
    values = np.array([0.01, 0.3])
    np.testing.assert_allclose(by_channels.predict(channels[:4], values)[0], by_images.predict(images[:4], values)[0], atol=1e-4)
    cases = [
        (channels[:, :-1], settings, r"shape \(96, 55\), but \(pairs, 56\) is needed for statistics 'mean'"),
        (channels, replace(settings, statistics="mean-min-max"), r"\(pairs, 168\) is needed"),
        (channels, replace(settings, trained_encoder=True), "give the images"),
        (channels[:-1], settings, r"shape \(95, 56\), but \(96, 56\) is needed"),
        (np.where(channels == channels.max(), np.nan, channels), settings, "not finite"),
    ]
    for given, how, message in cases:
        with pytest.raises(InputError, match=message):
            train_paper(examples, given, TRAIN, VALIDATION, how)
    with pytest.raises(InputError, match=r"shape \(4, 2, 10, 12, 14\), but \(4, 56\) is needed"):
        by_channels.predict(images[:4], values)


def test_predictions_have_the_promised_shapes(planted: tuple[Examples, np.ndarray]) -> None:
    images = planted[1]
    predictor = trained(planted)
    shared = np.array([0.0, 1e-5, 0.3, np.nan])
    dice, folding = predictor.predict(images[:5].astype(np.float32), shared)
    assert dice.shape == (5, STRUCTURES, 4)
    assert folding.shape == (5, 4)
    assert np.isnan(dice[..., 3]).all()
    assert np.isnan(folding[:, 3]).all()
    assert (folding[:, :3] > 0).any()
    np.testing.assert_array_equal(dice[..., 0], dice[..., 1])
    own, _ = predictor.predict(images[:5], np.tile(shared, (5, 1)))
    with torch.no_grad():
        predictor.network.folding_head[-1].bias -= 10
    assert (predictor.predict(images[:5], shared)[1][:, :3] == 0).all()
    np.testing.assert_allclose(own, dice, atol=1e-6)
    assert predictor.predict(images[:0], shared)[0].shape == (0, STRUCTURES, 4)
    assert predictor.predict(images[:2], np.geomspace(1e-4, 1, 40000))[0].shape == (2, STRUCTURES, 40000)


def test_folding_is_of_the_domain_that_was_asked_for(planted: tuple[Examples, np.ndarray]) -> None:
    grid, foreground = trained(planted), trained(planted, replace(QUICK, domain="foreground"))
    assert grid.greatest_folding == pytest.approx(planted[0].folding_grid[TRAIN].max())
    values = np.array([1e-3, 0.1])
    np.testing.assert_allclose(
        foreground.predict(planted[1], values)[1], 5 * grid.predict(planted[1], values)[1], rtol=1e-4, atol=1e-4
    )


def test_alpha_weighs_folding(planted: tuple[Examples, np.ndarray]) -> None:
    settings = replace(QUICK, epochs=10, alpha=0.0)
    without, much = trained(planted, settings), trained(planted, replace(settings, alpha=5.0))
    start = trained(planted, replace(settings, epochs=1))
    assert torch.equal(weights(without, "folding_head"), weights(start, "folding_head"))
    assert not torch.equal(weights(much, "folding_head"), weights(start, "folding_head"))


def test_a_seed_repeats_and_the_callers_state_stays(planted: tuple[Examples, np.ndarray]) -> None:
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    one, same = trained(planted), trained(planted)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    other = trained(planted, replace(QUICK, seed=1))
    assert one.losses == same.losses
    assert torch.equal(weights(one, "trunk"), weights(same, "trunk"))
    assert one.losses != other.losses


def test_the_best_epoch_is_kept_and_patience_ends(planted: tuple[Examples, np.ndarray]) -> None:
    # A great learning rate makes the validation loss jump.
    settings = replace(QUICK, epochs=60, patience=4, learning_rate=0.03)
    predictor = trained(planted, settings)
    held_out = [loss for _, loss in predictor.losses]
    best = int(np.argmin(held_out))
    assert len(held_out) == best + 1 + 4 < 60
    examples, images = planted
    dice, folding = predictor.predict(images[VALIDATION], examples.values[VALIDATION])
    unit = predictor.greatest_folding
    loss = np.mean((dice - examples.dice[VALIDATION]) ** 2)
    # The loss sees folding below 0, predictions do not: what is cut off can only make this smaller.
    assert loss <= held_out[best] + 1e-6
    assert loss + np.mean(((folding - examples.folding_grid[VALIDATION]) / unit) ** 2) <= held_out[best] + 1e-6
    shorter = trained(planted, replace(settings, epochs=best + 1))
    assert torch.equal(weights(shorter, "trunk"), weights(predictor, "trunk"))


def test_progress_is_told_and_cancelling_stops(planted: tuple[Examples, np.ndarray]) -> None:
    events: list[ProgressEvent] = []
    train_paper(*planted, TRAIN, VALIDATION, QUICK, events.append)
    assert [e.stage for e in events] == ["encode", "train", "train", "train"]
    assert events[-1].fraction == 1
    with pytest.raises(Cancelled):
        train_paper(*planted, TRAIN, VALIDATION, QUICK, cancelled=lambda: len(events) > 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"statistics": "median"}, "statistics cannot be 'median': choose one of mean, mean-min-max"),
        ({"hidden_layers": 3}, "hidden_layers cannot be 3: choose one of 1, 2"),
        ({"domain": "brain"}, "choose one of grid, foreground"),
        ({"epochs": 0}, "epochs is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"alpha": -1.0}, "alpha is -1.0"),
    ],
)
def test_settings_are_checked(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PaperSettings(**changes)


def test_bad_input_is_named(planted: tuple[Examples, np.ndarray]) -> None:
    examples, images = planted
    cases = [
        (images[:-1], TRAIN, VALIDATION, r"shape \(95, 2, 10, 12, 14\), but \(96, 2"),
        (images[:, :1], TRAIN, VALIDATION, "make all by paper_image"),
        (images[:, :, 0], TRAIN, VALIDATION, "make all by paper_image"),
        (np.where(images > 0.5, np.inf, images), TRAIN, VALIDATION, "not finite"),
        (images, TRAIN.astype(int), VALIDATION, "train_mask is int"),
        (images, TRAIN[:-1], VALIDATION, r"train_mask is bool of shape \(95,\)"),
        (images, TRAIN, np.zeros(PAIRS, bool), "validation_mask picks no pair"),
        (images, TRAIN, VALIDATION | (np.arange(PAIRS) == 3), "1 pairs are in both masks"),
    ]
    for pictures, train, validation, message in cases:
        with pytest.raises(InputError, match=message):
            train_paper(examples, pictures, train, validation, QUICK)
    nothing = replace(examples, dice=np.full_like(examples.dice, np.nan))
    with pytest.raises(InputError, match="training pairs have no Dice"):
        train_paper(nothing, images, TRAIN, VALIDATION, QUICK)
    with pytest.raises(InputError, match="λ is negative"):
        train_paper(replace(examples, values=-examples.values), images, TRAIN, VALIDATION, QUICK)
    with pytest.raises(InputError, match="loss became infinite with a learning_rate of"):
        trained(planted, replace(QUICK, learning_rate=1e30))
    predictor = trained(planted)
    with pytest.raises(InputError, match=r"\(3, 2, 10, 12, 14\) is needed"):
        predictor.predict(images[:3, ..., 1:], np.array([0.1]))
    with pytest.raises(InputError, match=r"shape \(4, 2\) for 3 pairs"):
        predictor.predict(images[:3], np.ones((4, 2)))


def test_images_fill_the_working_grid(oblique: Geometry) -> None:
    fixed, moving = blob_image(oblique) / 100, blob_image(oblique, shift_mm=(6.0, 0.0, 0.0)) / 50
    pair = AlignedPair(oblique, fixed, moving, None, None)
    size = (7, 9, 8)
    image = paper_image(pair, size)
    assert image.dtype == np.float32
    assert image.shape == (2, 8, 9, 7)
    for channel, source in zip(image, (moving, fixed), strict=True):
        # Smoothing and linear interpolation keep the mean of a body that lies inside the box.
        assert channel.mean() == pytest.approx(sitk.GetArrayFromImage(source).mean(), rel=0.05)
    # A ramp along each axis of the grid comes out as its value at the small voxels' centres: no shift, no swapped axis.
    for axis, count in enumerate(oblique.size):
        along = np.broadcast_to(
            ((np.arange(count) + 0.5) / count).reshape([-1 if a == 2 - axis else 1 for a in range(3)]), oblique.size[::-1]
        )
        ramp = oblique.apply_to(sitk.GetImageFromArray(along.astype(np.float32)))
        sampled = paper_image(AlignedPair(oblique, ramp, ramp, None, None), size)[0]
        line = np.moveaxis(sampled, 2 - axis, 0).reshape(size[axis], -1)
        expected = (np.arange(size[axis]) + 0.5) / size[axis]
        # The outermost voxels feel the smoothing's edge.
        np.testing.assert_allclose(line[1:-1], np.tile(expected[1:-1, None], line.shape[1]), atol=0.01)
    larger = tuple(2 * n for n in oblique.size)
    assert paper_image(pair, larger).shape == (2, *larger[::-1])
    for wrong in ((7, 9), (7, 9, 0), (7, 9.5, 8)):
        with pytest.raises(InputError, match="three whole numbers"):
            paper_image(pair, wrong)
