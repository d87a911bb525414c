"""Laws of the two-player step."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cm3leon_jax.models import discriminator, lpips, quantizer, vqgan
from cm3leon_jax.train import codebook, perceptual, pixels, players
from tests import shapes

LOSS = pixels.LossConfig(adversarial_weight=0.0, gradient_pyramid_weight=0.1)
PLAYING = dataclasses.replace(
    LOSS, adversarial_weight=0.8, adversarial_start=2, adversarial_ramp=2
)
OPTIMIZER = players.OptimizerConfig(
    peak_lr=1e-2, discriminator_lr=1e-3, warmup_steps=1, num_steps=40, beta1=0.9
)
CODEBOOK = codebook.CodebookConfig(use_mean=True, decay=0.9)
PICTURES = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)


@functools.cache
def _start(loss):
    config = discriminator.DiscriminatorConfig(8, 1, 4)
    return pixels.init(shapes.PATCHES, config, loss, OPTIMIZER, seed=0)


@functools.cache
def _step(loss):
    return jax.jit(pixels.make_step(loss, CODEBOOK, OPTIMIZER))


def _train(loss, steps):
    state, rows = _start(loss), []
    for _ in range(steps):
        state, metrics = _step(loss)(state, PICTURES)
        rows.append({name: float(value) for name, value in metrics.items()})
    return state, rows


def test_training_lowers_the_loss_on_a_fixed_batch():
    _, rows = _train(LOSS, 30)
    assert rows[-1]["reconstruction"] < 0.8 * rows[1]["reconstruction"]


def test_step_is_the_same_every_time():
    one, two = (_train(LOSS, 3)[0] for _ in range(2))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("legacy", [False, True])
def test_beta_weighs_the_term_that_its_rule_names(legacy):
    zeros = jnp.zeros((1, 1, 1, 1))
    quantized = quantizer.Quantized(
        zeros, zeros.astype(jnp.int32), jnp.float32(3.0), jnp.float32(5.0), zeros
    )
    config = pixels.LossConfig(beta=0.25, beta_legacy=legacy, codebook_weight=2.0)
    expected = 2.0 * (5.0 + 0.25 * 3.0 if legacy else 3.0 + 0.25 * 5.0)
    np.testing.assert_allclose(pixels.codebook_terms(quantized, config), expected)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [(3.0, 2.0, 1.5), (1.0, 0.0, 1e4), (0.0, 5.0, 0.0), (1e9, 1.0, 1e4)],
)
def test_adaptive_weight_is_the_ratio_of_norms_within_its_clamp(ours, theirs, expected):
    weight = players.adaptive_weight(jnp.array([[ours]]), jnp.array([[theirs]]))
    np.testing.assert_allclose(weight, expected, rtol=1e-3)


def test_hinge_loss_is_zero_for_a_sure_discriminator():
    ones = jnp.ones((1, 2, 2, 1))
    assert players.hinge_loss(ones, -ones) == 0.0
    assert players.hinge_loss(-ones, ones) == 2.0


def test_discriminator_rests_before_its_start():
    start = _start(PLAYING)
    state, rows = _train(PLAYING, 2)
    for a, b in zip(
        jax.tree.leaves(start.discriminator),
        jax.tree.leaves(state.discriminator),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    assert rows[-1]["discriminator"] == 0.0
    alone, _ = _train(LOSS, 2)
    np.testing.assert_allclose(
        state.model.decoder.conv_out.kernel[...],
        alone.model.decoder.conv_out.kernel[...],
        rtol=1e-4,
        atol=1e-6,
    )


def test_discriminator_plays_after_its_start_and_training_stays_finite():
    _, rows = _train(PLAYING, 12)
    assert rows[-1]["discriminator"] > 0.0
    assert rows[-1]["reconstruction"] < rows[1]["reconstruction"]
    assert all(np.isfinite(list(row.values())).all() for row in rows)


def test_gradients_that_are_not_finite_change_no_weight():
    model, player = _start(LOSS).model.quantize, optax.adam(1e-2)
    broken = jax.tree.map(lambda x: x * jnp.nan, model)
    start = player.init(model.embedding[...].reshape(-1))
    after, state, skipped = players.apply(player, broken, start, model)
    assert skipped == 1.0
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(model), strict=True):
        np.testing.assert_array_equal(a, b)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_eight_devices_equal_one():
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    place = lambda *axes: jax.sharding.NamedSharding(
        mesh, jax.sharding.PartitionSpec(*axes)
    )
    alone, _ = _step(LOSS)(_start(LOSS), PICTURES)
    shared, _ = _step(LOSS)(
        jax.device_put(_start(LOSS), place()), jax.device_put(PICTURES, place("data"))
    )
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(shared), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_gradient_pyramid_ignores_brightness_and_sees_blur():
    image = jnp.asarray(PICTURES / 255, jnp.float32)
    assert perceptual.gradient_pyramid(image, image) == 0.0
    shifted = perceptual.gradient_pyramid(image, image + 0.1)
    np.testing.assert_allclose(shifted, 0.0, atol=1e-6)
    blurred = (image + jnp.roll(image, 1, axis=2)) / 2
    assert perceptual.gradient_pyramid(image, blurred) > 0.1


BOXES = np.tile(np.float32([[0.0, 0.0, 0.5, 0.5]]), (8, 1, 1))


def test_crop_of_the_whole_picture_is_the_picture_and_of_a_part_the_part():
    image = jnp.asarray(PICTURES, jnp.float32)
    boxes = jnp.array([[0.0, 0.0, 1.0, 1.0], [0.5, 0.25, 1.0, 0.75]])
    boxes = jnp.tile(boxes[None], (8, 1, 1))
    np.testing.assert_allclose(
        perceptual.crop(image, boxes, 16)[:, 0], image, atol=1e-3
    )
    part = perceptual.crop(image, boxes, 8)[:, 1]
    np.testing.assert_allclose(part, image[:, 4:12, 8:16], atol=1e-3)
    # Half as many pixels: no pixel is left out, so that a mean stays a mean.
    mean = perceptual.crop(image, boxes, 4)[:, 0].mean()
    np.testing.assert_allclose(mean, image.mean(), rtol=0.01)


def test_boxes_without_weight_change_nothing_and_are_finite():
    image = jnp.asarray(PICTURES, jnp.float32)
    nothing = perceptual.Crops(jnp.zeros((8, 2, 4)), jnp.zeros((8, 2)))
    assert perceptual.crop_loss(image, image + 1.0, nothing, 8, None) == 0.0
    slope = jax.grad(lambda x: perceptual.crop_loss(x, image, nothing, 8, None))(
        image + 1.0
    )
    np.testing.assert_array_equal(slope, 0.0)


def test_crops_lower_the_error_inside_the_boxes_at_equal_steps():
    """The quarter that counts more is drawn better than without the term."""
    crops = perceptual.Crops(jnp.asarray(BOXES), jnp.full((8, 1), 4.0))
    loss = dataclasses.replace(LOSS, crop_size=8)
    step = jax.jit(pixels.make_step(loss, CODEBOOK, OPTIMIZER))
    errors = []
    for aids in (pixels.NO_AIDS, pixels.Aids(crops)):
        state = _start(LOSS)
        for _ in range(40):
            state, metrics = step(state, PICTURES, aids)
        assert ("crops" in metrics) == (aids.crops is not None)
        image = vqgan.from_bytes(PICTURES)
        difference = np.abs(np.asarray(state.model(image)[0]) - image)
        errors.append([difference[:, :8, :8].mean(), difference.mean()])
    (inside, _), (inside_with, _) = errors
    assert inside_with < 0.95 * inside


def _lpips():
    """LPIPS' network, so narrow that it costs nothing; any weights make a distance."""
    return lpips.Lpips(rngs=nnx.Rngs(0), widths=((4, 4), (8,)))


def test_lpips_is_reported_under_its_name_only_where_it_is_given():
    loss = dataclasses.replace(LOSS, lpips_weight=1.0)
    image = vqgan.from_bytes(jnp.asarray(PICTURES))
    run = jax.jit(
        lambda aids: pixels.reconstruction_loss(0.5 * image, image, loss, aids)
    )
    without, terms = run(pixels.NO_AIDS)
    assert "lpips" not in terms
    with_it, terms = run(pixels.Aids(lpips=_lpips()))
    np.testing.assert_allclose(with_it - without, terms["lpips"], rtol=1e-4)
    assert terms["lpips"] > 0


def test_lpips_has_a_finite_gradient_where_pictures_are_equal():
    image = vqgan.from_bytes(jnp.asarray(PICTURES))
    network = _lpips()
    value, slope = jax.value_and_grad(lambda x: network(x, image).sum())(image)
    assert value == 0.0
    np.testing.assert_array_equal(slope, 0.0)
