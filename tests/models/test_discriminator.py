"""The patch discriminator's grid and its independence of other pictures."""

import chex
import jax
import numpy as np
from flax import nnx

from cm3leon_jax.models import discriminator

CONFIG = discriminator.DiscriminatorConfig(base_channels=8, num_layers=2, num_groups=4)


def _scores(images):
    rngs = nnx.Rngs(jax.random.key(0, impl="rbg"))  # compiles faster
    return discriminator.PatchDiscriminator(CONFIG, rngs=rngs)(images)


def test_scores_are_a_grid_of_patches():
    scores = jax.eval_shape(_scores, np.zeros((2, 32, 32, 3), np.float32))
    chex.assert_shape(scores, (2, 6, 6, 1))


def test_score_does_not_depend_on_the_other_pictures():
    images = np.random.default_rng(0).normal(size=(3, 32, 32, 3))
    others = np.concatenate([images[:1], images[:2] + 1.0])
    scores = jax.jit(_scores)
    np.testing.assert_allclose(scores(images)[:1], scores(others)[:1], rtol=1e-5)
