"""Parts of image networks equal their plain definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cm3leon_jax.models import convolution

RNG = np.random.default_rng(0)


def _draw(*shape):
    return jnp.asarray(RNG.normal(size=shape).astype(np.float32))


@pytest.mark.parametrize("kernel", [1, 3])
def test_upsample_is_a_convolution_of_repeated_pixels(kernel):
    layer = convolution.Upsample(3, kernel, nnx.Rngs(0))
    layer.conv.bias[...] = _draw(3)
    x = _draw(2, 5, 4, 3)
    repeated = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    np.testing.assert_allclose(layer(x), layer.conv(repeated), atol=1e-5)


def test_upsample_has_the_gradients_of_that_convolution():
    layer = convolution.Upsample(3, 3, nnx.Rngs(0))
    x, weights = _draw(1, 3, 4, 3), _draw(1, 6, 8, 3)

    def plain(layer, x):
        return layer.conv(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2))

    def slopes(run):
        return jax.grad(lambda layer, x: (run(layer, x) * weights).sum(), (0, 1))(
            layer, x
        )

    one, other = slopes(lambda layer, x: layer(x)), slopes(plain)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def _norms(dtype=None):
    ours = convolution.NormConfig("group", 4, 1e-3).make(8, nnx.Rngs(0))
    theirs = nnx.GroupNorm(8, num_groups=4, epsilon=1e-3, dtype=dtype, rngs=nnx.Rngs(0))
    for name in ("scale", "bias"):
        getattr(ours, name)[...] = getattr(theirs, name)[...] = _draw(8)
    return ours, theirs


def test_group_norm_is_flax():
    ours, theirs = _norms()
    x = 3.0 * _draw(2, 6, 5, 8) + 2.0
    np.testing.assert_allclose(ours(x), theirs(x), atol=1e-5)
    slope = lambda norm: jax.grad(lambda x: (norm(x) ** 3).sum())(x)
    np.testing.assert_allclose(slope(ours), slope(theirs), rtol=1e-3, atol=1e-3)


def test_group_norm_of_half_precision_sums_in_single():
    ours, theirs = _norms(jnp.float32)
    x = (_draw(1, 64, 64, 8) + 8.0).astype(jnp.bfloat16)
    assert ours(x).dtype == jnp.bfloat16
    np.testing.assert_allclose(ours(x), theirs(x), rtol=2e-2, atol=2e-2)


def test_flat_picture_stays_finite():
    ours, _ = _norms()
    x = jnp.full((1, 4, 4, 8), 1e3)
    assert np.isfinite(jax.grad(lambda x: ours(x).sum())(x)).all()
