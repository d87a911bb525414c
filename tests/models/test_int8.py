"""Weights and cache in 8 bits: near what they were rounded from, and as small."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cm3leon_jax.models import attention, int8, transformer

CONFIG = transformer.TransformerConfig(
    num_layers=2,
    num_heads=2,
    model_dim=32,
    head_dim=16,
    mlp_dim=64,
    vocab_size=48,
    max_length=16,
    tie_embeddings=False,
    qk_norm=True,
)
_extend = jax.jit(lambda model, *rows: model.extend(*rows))


@pytest.fixture(scope="module")
def model():
    shapes = jax.eval_shape(lambda: transformer.Transformer(CONFIG, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    random = lambda leaf: jnp.asarray(rng.normal(0, 0.2, leaf.shape), jnp.float32)
    return transformer.unstack(jax.tree.map(random, shapes))


def test_rounded_example():
    values, scale = attention.rounded(jnp.array([[0.5, -1.0]]), 1)
    assert values.tolist() == [[64, -127]]
    np.testing.assert_allclose(scale, [[1 / 127]], rtol=1e-6)
    values, _ = attention.rounded(jnp.zeros((1, 2)), 1)
    assert values.tolist() == [[0, 0]]


def test_rounding_is_off_by_half_a_step_at_most():
    x = jax.random.normal(jax.random.key(0), (5, 7, 3))
    values, scale = attention.rounded(x, (0, 1))
    assert values.dtype == jnp.int8
    assert scale.shape == (1, 1, 3)
    step = jnp.broadcast_to(scale, x.shape)
    assert bool((jnp.abs(values * step - x) <= 0.501 * step).all())


@pytest.mark.parametrize("cache", [False, True])
def test_logits_are_near_those_of_the_model(model, cache):
    tokens = np.random.default_rng(1).integers(0, 48, (3, 10)).astype(np.int32)
    positions = np.broadcast_to(np.arange(10), (3, 10))
    small = int8.round_weights(model, cache=cache)
    found = []
    for each in (model, small):
        rows = (tokens, positions, each.init_cache(3, 12))
        x_BLD, written = _extend(each, *rows)
        found.append((np.asarray(each.head(x_BLD, 8, 20)), written))
    (exact, _), (near, written) = found
    error = np.abs(near - exact).max() / np.abs(exact).max()
    assert 0 < error < 0.05
    assert isinstance(written.k_BHMK[0], attention.Rounded) == cache


def test_weights_take_a_quarter_of_the_memory(model):
    size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))
    small = int8.round_weights(model)
    assert size(small) < 0.35 * size(model)
    cache, rounded = (
        model.init_cache(2, 16),
        int8.round_weights(model, cache=True).init_cache(2, 16),
    )
    assert size(rounded) < 0.4 * size(cache)


def test_a_stacked_model_is_refused():
    stacked = transformer.Transformer(CONFIG, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="unstack"):
        int8.round_weights(stacked)
