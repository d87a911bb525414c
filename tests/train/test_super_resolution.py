"""Laws of the super-resolution step."""

import dataclasses
import functools

import jax
import numpy as np
from flax import nnx

from cm3leon_jax.models import discriminator, lpips, super_resolution
from cm3leon_jax.train import players
from cm3leon_jax.train import super_resolution as training

SHAPE = super_resolution.SuperResolutionConfig(4, 8, 1, 4, use_bicubic_base=True)
LOSS = training.LossConfig(adversarial_weight=0.0, players_start=100)
PLAYING = training.LossConfig(
    perceptual_weight=0.1, adversarial_weight=0.1, players_start=2, players_ramp=2
)
OPTIMIZER = players.OptimizerConfig(
    peak_lr=3e-3, discriminator_lr=1e-3, warmup_steps=1, num_steps=30, beta1=0.9
)
LARGE = np.random.default_rng(0).integers(0, 2, (8, 4, 4, 3), np.uint8) * 255
LARGE = LARGE.repeat(8, axis=1).repeat(8, axis=2)
SMALL = LARGE[:, ::4, ::4]


@functools.cache
def _start(loss):
    judge = discriminator.DiscriminatorConfig(8, 1, 4)
    return training.init(SHAPE, judge, loss, OPTIMIZER, seed=0)


@functools.cache
def _step(loss):
    return jax.jit(training.make_step(loss, OPTIMIZER))


def _train(loss, steps, network=None):
    state, rows = _start(loss), []
    for _ in range(steps):
        state, metrics = _step(loss)(state, SMALL, LARGE, network)
        rows.append({name: float(value) for name, value in metrics.items()})
    return state, rows


def test_training_beats_bicubic_where_it_begins():
    state, rows = _train(LOSS, 30)
    assert rows[-1]["l1"] < 0.95 * rows[0]["l1"]
    image = super_resolution.from_bytes(LARGE)
    small = super_resolution.from_bytes(SMALL)
    bicubic = np.abs(super_resolution.bicubic(small, 4) - image).mean()
    np.testing.assert_allclose(rows[0]["l1"], bicubic, rtol=1e-4)
    averaged = training.averaged(state)
    assert np.abs(averaged(small) - image).mean() < bicubic


def test_only_pixels_count_before_the_players_start():
    alone = dataclasses.replace(PLAYING, perceptual_weight=0.0, adversarial_weight=0.0)
    one, _ = _train(alone, 2)
    two, rows = _train(PLAYING, 2)
    np.testing.assert_allclose(
        one.model.conv_hr.kernel[...], two.model.conv_hr.kernel[...], atol=1e-6
    )
    assert rows[-1]["discriminator"] == 0.0
    _, rows = _train(PLAYING, 6)
    assert rows[-1]["discriminator"] > 0.0
    assert all(np.isfinite(list(row.values())).all() for row in rows)


def test_lpips_stands_under_its_name_only_where_it_is_given():
    _, rows = _train(LOSS, 1)
    assert "gradient_pyramid" in rows[0] and "lpips" not in rows[0]
    network = lpips.Lpips(rngs=nnx.Rngs(0), widths=((4,),))
    _, rows = _train(LOSS, 1, network)
    assert "lpips" in rows[0] and "gradient_pyramid" not in rows[0]


def test_given_weights_are_the_first_ones():
    state, _ = _train(LOSS, 2)
    judge = discriminator.DiscriminatorConfig(8, 1, 4)
    after = training.init(SHAPE, judge, LOSS, OPTIMIZER, seed=0, model=state.model)
    np.testing.assert_array_equal(
        after.model.conv_hr.kernel[...], state.model.conv_hr.kernel[...]
    )
    assert int(after.step) == 0


def test_eight_devices_equal_one():
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    place = lambda *axes: jax.sharding.NamedSharding(
        mesh, jax.sharding.PartitionSpec(*axes)
    )
    # Noise: where a picture is met exactly, the sign of a rounding would decide.
    large = np.random.default_rng(1).integers(0, 256, LARGE.shape, np.uint8)
    alone, _ = _step(LOSS)(_start(LOSS), SMALL, large)
    shared, _ = _step(LOSS)(
        jax.device_put(_start(LOSS), place()),
        jax.device_put(SMALL, place("data")),
        jax.device_put(large, place("data")),
    )
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(shared), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
