"""How different two pictures look, without a trained network.

`gradient_pyramid` is the stand-in where no LPIPS weights are given; it is not LPIPS and
is never reported under that name.

Letters: B pictures, Y and X rows and columns, C channels.
"""

import jax
import jax.numpy as jnp

NUM_SCALES = 3


def gradient_pyramid(a_BYXC: jax.Array, b_BYXC: jax.Array) -> jax.Array:
    """Returns the mean difference of the pictures' edges at full, half and quarter size.

    Blind to a shift of the brightness, sensitive to blur and to displaced edges, which
    a mean absolute difference of pixels forgives too easily.

    Args:
      a_BYXC: float[B, Y, X, C], sides that are multiples of 4.
      b_BYXC: float[B, Y, X, C].

    Returns:
      float[], 0 for equal pictures.
    """
    difference_BYXC = a_BYXC - b_BYXC  # all that follows is linear up to the modulus
    total = jnp.zeros(())
    for scale in range(NUM_SCALES):
        if scale > 0:
            difference_BYXC = _halve(difference_BYXC)
        down_BYXC = difference_BYXC[:, 1:] - difference_BYXC[:, :-1]
        right_BYXC = difference_BYXC[:, :, 1:] - difference_BYXC[:, :, :-1]
        total += jnp.mean(jnp.abs(down_BYXC)) + jnp.mean(jnp.abs(right_BYXC))
    return total / NUM_SCALES


def _halve(x_BYXC: jax.Array) -> jax.Array:
    B, Y, X, C = x_BYXC.shape
    return jnp.mean(x_BYXC.reshape(B, Y // 2, 2, X // 2, 2, C), axis=(2, 4))
