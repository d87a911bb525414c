"""Laws of the two-player step."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cm3leon_jax.models import discriminator, quantizer, vqgan
from cm3leon_jax.train import codebook, perceptual, pixels

SHAPE = vqgan.VqganConfig(
    image_size=16,
    patch_size=4,
    base_channels=16,
    multipliers=(1,),
    encoder_kernels=(1,),
    decoder_kernels=(1,),
    num_res_blocks=1,
    attention_sizes=(),
    use_mid_block=False,
    use_mid_attention=False,
    latent_channels=8,
    code_dim=4,
    codebook_size=16,
    norm="position",
)
LOSS = pixels.LossConfig(adversarial_weight=0.0, gradient_pyramid_weight=0.1)
PLAYING = dataclasses.replace(
    LOSS, adversarial_weight=0.8, adversarial_start=2, adversarial_ramp=2
)
OPTIMIZER = pixels.OptimizerConfig(
    peak_lr=1e-2, discriminator_lr=1e-3, warmup_steps=1, num_steps=40, beta1=0.9
)
CODEBOOK = codebook.CodebookConfig(use_mean=True, decay=0.9)
PICTURES = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)


@functools.cache
def _start(loss):
    config = discriminator.DiscriminatorConfig(8, 1, 4)
    return pixels.init(SHAPE, config, loss, OPTIMIZER, seed=0)


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
    weight = pixels.adaptive_weight(jnp.array([[ours]]), jnp.array([[theirs]]))
    np.testing.assert_allclose(weight, expected, rtol=1e-3)


def test_hinge_loss_is_zero_for_a_sure_discriminator():
    ones = jnp.ones((1, 2, 2, 1))
    assert pixels.hinge_loss(ones, -ones) == 0.0
    assert pixels.hinge_loss(-ones, ones) == 2.0


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
    after, state, skipped = pixels._apply(player, broken, start, model)
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
