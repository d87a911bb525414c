"""Parts of a transformer layer that have no weights: norm and activations.

Letters: D the last dimension.
"""

import functools

import jax
import jax.numpy as jnp

ACTIVATIONS = {
    "relu": jax.nn.relu,  # metaseq's default and the assumption for CM3Leon
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
}


def layer_norm(x: jax.Array, epsilon: float) -> jax.Array:
    """Returns `x` with mean 0 and variance 1 in its last dimension, in float32.

    No learned scale or shift (CM3Leon, arXiv:2309.02591, section 2).

    Args:
      x: float[..., D].
      epsilon: added to the variance.

    Returns:
      float[..., D], in the dtype of `x`.
    """
    x32 = x.astype(jnp.float32)
    centred = x32 - x32.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + epsilon)).astype(x.dtype)
