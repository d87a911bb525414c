"""Collapse and divergence are named; a training that goes well is left alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cm3leon_jax.models import discriminator
from cm3leon_jax.train import codebook, pixels, players
from cm3leon_jax.train.pixel_guard import PixelGuard, PixelGuardConfig
from tests import shapes

PICTURES = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
OPTIMIZER = players.OptimizerConfig(
    peak_lr=3e-3, discriminator_lr=1e-2, warmup_steps=1, num_steps=200, beta1=0.9
)
GOOD_CODEBOOK = codebook.CodebookConfig(use_mean=True, decay=0.9)
GOOD_LOSS = pixels.LossConfig(adversarial_weight=0.0, gradient_pyramid_weight=0.0)


# A colour for each patch: drawn well before the discriminator starts.
COLOURS = np.random.default_rng(1).integers(0, 256, (8, 4, 4, 3), np.uint8)
COLOURS = COLOURS.repeat(4, axis=1).repeat(4, axis=2)


def _train(loss, codes, config, spoil=lambda state: state, steps=30, pictures=PICTURES):
    judge = discriminator.DiscriminatorConfig(8, 1, 4)
    state = spoil(pixels.init(shapes.PATCHES, judge, loss, OPTIMIZER, seed=0))
    step = jax.jit(pixels.make_step(loss, codes, OPTIMIZER))
    guard = PixelGuard(config)
    for number in range(1, steps + 1):
        state, metrics = step(state, pictures)
        guard.inspect(number, metrics)


def _far_away(state):
    """All entries but two are where no latent comes."""
    entries = state.model.quantize.embedding
    entries[...] = jnp.full_like(entries[...], 1e3).at[:2].set(entries[...][:2])
    return state


def test_collapse_is_named_without_revival_and_does_not_happen_with_it():
    config = PixelGuardConfig(min_perplexity=3.0, after_steps=10)
    _train(GOOD_LOSS, GOOD_CODEBOOK, config, _far_away)
    dead = dataclasses.replace(GOOD_CODEBOOK, revive_until=0.0)
    with pytest.raises(FloatingPointError, match="collapse.*revive_until"):
        _train(GOOD_LOSS, dead, config, _far_away)


def _playing(weight, ramp):
    """A discriminator that starts at step 60."""
    return dataclasses.replace(
        GOOD_LOSS,
        adversarial_weight=weight,
        adversarial_start=60,
        adversarial_ramp=ramp,
    )


def test_divergence_of_a_training_is_named_where_the_discriminator_overruns_it():
    config = PixelGuardConfig(max_rise=1.5, after_steps=20)
    more = {"steps": 160, "pictures": COLOURS}
    _train(_playing(0.8, 50), GOOD_CODEBOOK, config, **more)  # the usual weight
    with pytest.raises(FloatingPointError, match="divergence.*adversarial") as error:
        _train(_playing(1_000.0, 1), GOOD_CODEBOOK, config, **more)
    step = int(str(error.value).split()[1].rstrip(":"))
    assert 60 < step < 160


def _errors(after):
    """The reconstruction terms of a run whose discriminator starts at step 100."""
    return [0.2 + 0.8 * 0.95**step for step in range(100)] + [after] * 200


def test_divergence_is_named_when_pictures_become_worse():
    config = PixelGuardConfig(max_rise=2.0, after_steps=50)
    guard = PixelGuard(config)
    for step, error in enumerate(_errors(0.3), 1):  # a player's start costs a little
        guard.inspect(step, {"perplexity": 9.0, "reconstruction": error})
    guard = PixelGuard(config)
    with pytest.raises(FloatingPointError, match="divergence.*adversarial_ramp"):
        for step, error in enumerate(_errors(0.9), 1):
            guard.inspect(step, {"perplexity": 9.0, "reconstruction": error})
    assert 100 < step < 200


def test_guard_forgives_single_steps_and_rests_at_first_but_not_what_lasts():
    guard = PixelGuard(PixelGuardConfig(2.0, 2.0, 5))
    for step in range(1, 100):
        jumps = step < 5 or step == 50
        guard.inspect(
            step,
            {
                "perplexity": 1.0 if jumps else 9.0,
                "reconstruction": 3.0 if jumps else 1,
            },
        )
    with pytest.raises(FloatingPointError):
        for step in range(100, 1_000):
            guard.inspect(step, {"perplexity": 1.0, "reconstruction": 3.0})


def test_guard_that_is_off_lets_everything_pass():
    guard = PixelGuard(PixelGuardConfig())
    seen = [guard.inspect(n, {"perplexity": 1.0}) for n in range(1, 200)]
    assert seen == [None] * 199


def test_rise_that_is_met_at_once_is_refused():
    with pytest.raises(ValueError, match="must be above 1"):
        PixelGuardConfig(max_rise=0.5)
