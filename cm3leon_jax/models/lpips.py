"""LPIPS: how different two pictures look, by the features of a trained VGG16.

The network alone; its weights are read by `convert/lpips.py`, there are none here.

Letters: B pictures, Y and X rows and columns, C channels.

Source: Zhang et al., arXiv:1801.03924, section 3, version 0.1 with VGG16.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from cm3leon_jax.models import convolution

# Widths of the convolutions of VGG16, a row a resolution; the last of each is compared.
WIDTHS = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)
_SHIFT = (-0.030, -0.088, -0.188)  # of pixels in [-1, 1]: ImageNet's mean
_SCALE = (0.458, 0.448, 0.450)
_EPSILON = 1e-10  # added to a feature's length


class Lpips(nnx.Module):
    """A distance between pictures; its weights are used, never trained."""

    def __init__(self, *, rngs: nnx.Rngs, widths: tuple[tuple[int, ...], ...] = WIDTHS):
        inputs, stages = 3, []
        for row in widths:
            layers = []
            for width in row:
                layers.append(convolution.conv(inputs, width, 3, rngs))
                inputs = width
            stages.append(nnx.List(layers))
        self.stages = nnx.List(stages)
        self.heads = nnx.List([nnx.Param(jnp.ones(row[-1])) for row in widths])

    def __call__(self, a_BYXC: jax.Array, b_BYXC: jax.Array) -> jax.Array:
        """Returns the distance of each pair.

        Args:
          a_BYXC: float[B, Y, X, 3], in [-1, 1], sides of at least 16.
          b_BYXC: float[B, Y, X, 3].

        Returns:
          float[B], 0 for equal pictures.
        """
        total_B = jnp.zeros(a_BYXC.shape[0])
        both = jnp.concatenate([a_BYXC, b_BYXC])
        pairs = zip(self._features(both), self.heads, strict=True)
        for features_BYXC, head in pairs:
            a_BYXC, b_BYXC = jnp.split(_unit(features_BYXC), 2)
            weighted_BYX = jnp.einsum("byxc,c->byx", (a_BYXC - b_BYXC) ** 2, head[...])
            total_B += jnp.mean(weighted_BYX, axis=(1, 2))
        return total_B

    def _features(self, image_BYXC: jax.Array) -> list[jax.Array]:
        """What the last convolution of each resolution sees, rectified."""
        h_BYXC = (image_BYXC - jnp.array(_SHIFT)[None, None, None]) / jnp.array(_SCALE)[
            None, None, None
        ]
        found = []
        for number, stage in enumerate(self.stages):
            if number:
                h_BYXC = nnx.max_pool(h_BYXC, (2, 2), strides=(2, 2))
            for layer in stage:
                h_BYXC = nnx.relu(layer(h_BYXC))
            found.append(h_BYXC)
        return found


def _unit(x_BYXC: jax.Array) -> jax.Array:
    """Scales the features of a place to length 1; the gradient at 0 is 0."""
    square_BYX1 = jnp.sum(x_BYXC * x_BYXC, axis=-1, keepdims=True)
    is_zero = square_BYX1 == 0
    length_BYX1 = jnp.where(
        is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, square_BYX1))
    )
    return x_BYXC / (length_BYX1 + _EPSILON)
