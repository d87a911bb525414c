"""Products with a backward pass of their own equal the derived ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cm3leon_jax.models import layers

SHAPES = {  # inputs, outputs
    "wider": ((6,), (20,)),
    "narrower": ((20,), (6,)),
    "query, key, value": ((8,), (3, 2, 4)),
    "heads": ((2, 4), (8,)),
}


def _drawn(inputs, outputs):
    """How many dimensions are summed over; inputs, weights, the result's gradient."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    x, weights = draw(2, 5, *inputs), draw(*inputs, *outputs)
    return len(inputs), x, weights, draw(2, 5, *outputs)


@pytest.mark.parametrize("name", SHAPES)
def test_project_equals_tensordot_forward_and_backward(name):
    num, x, weights, grad = _drawn(*SHAPES[name])
    ours, ours_vjp = jax.vjp(lambda x, w: layers.project(x, w, num), x, weights)
    theirs, theirs_vjp = jax.vjp(lambda x, w: jnp.tensordot(x, w, num), x, weights)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    for a, b in zip(ours_vjp(grad), theirs_vjp(grad), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SHAPES)
def test_rounded_factors_give_float32_sums_close_to_the_unrounded(name):
    num, x, weights, grad = _drawn(*SHAPES[name])
    rounded = lambda x: x.astype(jnp.bfloat16).astype(jnp.float32)
    ours, vjp = jax.vjp(lambda *a: layers.project(*a, num, "bfloat16"), x, weights)
    # Factors that are bfloat16 already: the products are exact, the sums float32.
    exact = jnp.tensordot(rounded(x), rounded(weights), num)
    np.testing.assert_allclose(ours, exact, rtol=1e-5, atol=1e-5)
    plain = lambda x, w: jnp.tensordot(x, w, num)
    _, plain_vjp = jax.vjp(plain, rounded(x), rounded(weights))
    for a, b in zip(vjp(grad), plain_vjp(rounded(grad)), strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_project_keeps_the_gradient_of_the_weights_in_their_dtype():
    x = jnp.ones((1, 2, 4), jnp.bfloat16)
    loss = lambda w: layers.project(x, w).astype(jnp.float32).sum()
    assert layers.project(x, jnp.ones((4, 3))).dtype == jnp.bfloat16
    assert jax.grad(loss)(jnp.ones((4, 3))).dtype == jnp.float32


def test_layer_norm_has_mean_0_and_variance_1():
    x = 5 + 3 * jax.random.normal(jax.random.key(0), (2, 3, 64))
    y = np.asarray(layers.layer_norm(x, 1e-5))
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(y.var(-1), 1, atol=1e-4)
