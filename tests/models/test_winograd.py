"""Convolutions in tiles are convolutions, where they are made so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cm3leon_jax.models import convolution, winograd


def _draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("sides", [(3, 2), (8, 12), (37, 66)])
def test_tiles_are_a_convolution(sides):
    x, kernel = _draw(0, 2, *sides, 5), _draw(1, 3, 3, 5, 7) / 7
    # In double precision: neither is then the other's error.
    expected = np.zeros((2, *sides, 7))
    wide = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    for i in range(3):
        for j in range(3):
            part = wide[:, i : i + sides[0], j : j + sides[1]]
            expected += part @ np.asarray(kernel[i, j], np.float64)
    found = winograd.in_tiles(x, kernel)
    # A plain convolution is off by 5e-7, the usual points by 4e-5.
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(winograd.plain(x, kernel), expected, atol=1e-5)


def test_gradients_are_those_of_a_plain_convolution():
    x, kernel, weights = (
        _draw(0, 1, 6, 9, 3),
        _draw(1, 3, 3, 3, 4),
        _draw(2, 1, 6, 9, 4),
    )
    slopes = lambda run: jax.grad(
        lambda x, kernel: (run(x, kernel) * weights).sum(), (0, 1)
    )(x, kernel)
    pairs = zip(slopes(winograd.convolve), slopes(winograd.plain), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize(("platform", "is_plain"), [("cpu", False), ("tpu", True)])
def test_only_a_cpu_gets_tiles(platform, is_plain):
    traced = jax.jit(winograd.convolve).trace(
        _draw(0, 1, 8, 8, 4), _draw(1, 3, 3, 4, 4)
    )
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("convolution" in text) == is_plain


@pytest.mark.parametrize(
    ("size", "channels", "kernel", "dtype", "expected"),
    [
        (32, 64, 3, jnp.float32, True),
        (16, 64, 3, jnp.float32, False),
        (32, 32, 3, jnp.float32, False),
        (32, 64, 1, jnp.float32, False),
        (32, 64, 3, jnp.bfloat16, False),
    ],
)
def test_a_layer_takes_tiles_where_they_pay(size, channels, kernel, dtype, expected):
    layer = convolution.conv(channels, channels, kernel, nnx.Rngs(0))
    layer = jax.tree.map(lambda leaf: leaf.astype(dtype), layer)
    x = jax.ShapeDtypeStruct((1, size, size, channels), dtype)
    text = str(jax.make_jaxpr(lambda x: layer(x))(x))
    assert ("custom_vjp" in text) == expected


def test_a_layer_in_tiles_is_the_layer():
    layer = convolution.conv(64, 64, 3, nnx.Rngs(0))
    layer.bias[...] = _draw(2, 64)
    x = _draw(0, 1, 33, 32, 64)
    plain = nnx.Conv.__call__(layer, x)
    np.testing.assert_allclose(layer(x), plain, atol=2e-5)
