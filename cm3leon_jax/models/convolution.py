"""Convolutional parts that image networks are made of; layout NHWC.

Letters: B pictures, Y and X rows and columns, C channels, P places (Y * X), M places that
are looked at.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

NORMS = ("group", "position")


@dataclasses.dataclass(frozen=True)
class NormConfig:
    """Which normalisation stands before each convolution.

    Attributes:
      kind: "group" (over a group of channels and the whole picture) or "position"
        (over the channels of one place; what is far away changes nothing).
      num_groups: groups of "group"; a width that it does not divide takes the largest
        smaller number that does.
      epsilon: added to the variance.
    """

    kind: str
    num_groups: int
    epsilon: float

    def __post_init__(self):
        if self.kind not in NORMS:
            raise ValueError(f"norm={self.kind!r} is unknown; known are {NORMS}")

    def make(self, channels: int, rngs: nnx.Rngs) -> nnx.Module:
        """Returns a norm with a scale and a shift for each channel."""
        if self.kind == "position":
            return nnx.LayerNorm(channels, epsilon=self.epsilon, rngs=rngs)
        counts = range(min(self.num_groups, channels), 0, -1)
        groups = next(count for count in counts if channels % count == 0)
        return nnx.GroupNorm(
            channels, num_groups=groups, epsilon=self.epsilon, rngs=rngs
        )


def conv(inputs: int, outputs: int, kernel: int, rngs: nnx.Rngs) -> nnx.Conv:
    """Returns a convolution with a bias that keeps the sides, zeros around."""
    return nnx.Conv(inputs, outputs, (kernel, kernel), rngs=rngs)


def fold(image_BYXC: jax.Array, patch_size: int) -> jax.Array:
    """Moves patches of pixels into channels.

    Args:
      image_BYXC: float[B, Y, X, C].
      patch_size: side S of a patch; divides Y and X.

    Returns:
      float[B, Y/S, X/S, S*S*C], a patch row by row.
    """
    B, Y, X, C = image_BYXC.shape
    side = patch_size
    x = image_BYXC.reshape(B, Y // side, side, X // side, side, C)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(B, Y // side, X // side, -1)


def unfold(patches_BYXC: jax.Array, patch_size: int) -> jax.Array:
    """Undoes `fold`: float[B, Y, X, S*S*C] -> float[B, Y*S, X*S, C]."""
    B, Y, X, C = patches_BYXC.shape
    side = patch_size
    x = patches_BYXC.reshape(B, Y, X, side, side, C // side**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(B, Y * side, X * side, -1)


class ResBlock(nnx.Module):
    """Norm, swish, convolution, twice, added to the input."""

    def __init__(self, inputs, outputs, kernel, norm: NormConfig, rngs: nnx.Rngs):
        self.norm1 = norm.make(inputs, rngs)
        self.conv1 = conv(inputs, outputs, kernel, rngs)
        self.norm2 = norm.make(outputs, rngs)
        self.conv2 = conv(outputs, outputs, kernel, rngs)
        self.nin_shortcut = (
            conv(inputs, outputs, 1, rngs) if inputs != outputs else None
        )

    def __call__(self, x_BYXC: jax.Array) -> jax.Array:
        """Returns float[B, Y, X, outputs] from float[B, Y, X, inputs]."""
        h_BYXC = self.conv1(nnx.swish(self.norm1(x_BYXC)))
        h_BYXC = self.conv2(nnx.swish(self.norm2(h_BYXC)))
        if self.nin_shortcut is not None:
            x_BYXC = self.nin_shortcut(x_BYXC)
        return x_BYXC + h_BYXC


class AttentionBlock(nnx.Module):
    """Self-attention of one head over all places, added to the input."""

    def __init__(self, channels: int, norm: NormConfig, rngs: nnx.Rngs):
        self.norm = norm.make(channels, rngs)
        self.q = conv(channels, channels, 1, rngs)
        self.k = conv(channels, channels, 1, rngs)
        self.v = conv(channels, channels, 1, rngs)
        self.proj_out = conv(channels, channels, 1, rngs)

    def __call__(self, x_BYXC: jax.Array) -> jax.Array:
        """Returns float[B, Y, X, C], as wide as the input."""
        B, Y, X, C = x_BYXC.shape
        h_BYXC = self.norm(x_BYXC)
        q_BPC, k_BPC, v_BPC = (
            layer(h_BYXC).reshape(B, Y * X, C) for layer in (self.q, self.k, self.v)
        )
        scores_BPM = jnp.einsum("bpc,bmc->bpm", q_BPC, k_BPC) * C**-0.5
        weights_BPM = jax.nn.softmax(scores_BPM.astype(jnp.float32), axis=-1)
        h_BPC = jnp.einsum("bpm,bmc->bpc", weights_BPM.astype(v_BPC.dtype), v_BPC)
        return x_BYXC + self.proj_out(h_BPC.reshape(B, Y, X, C))


class Downsample(nnx.Module):
    """Halves the sides by a strided 3x3 convolution.

    One row and column of zeros below and to the right only: padding on both
    sides shifts the picture by half a pixel and breaks published weights.
    """

    def __init__(self, channels: int, rngs: nnx.Rngs):
        self.conv = nnx.Conv(
            channels, channels, (3, 3), strides=2, padding=((0, 1), (0, 1)), rngs=rngs
        )

    def __call__(self, x_BYXC: jax.Array) -> jax.Array:
        """Returns float[B, Y/2, X/2, C]; odd sides are rounded down."""
        return self.conv(x_BYXC)


class Upsample(nnx.Module):
    """Doubles the sides by repetition, then a convolution."""

    def __init__(self, channels: int, kernel: int, rngs: nnx.Rngs):
        self.conv = conv(channels, channels, kernel, rngs)

    def __call__(self, x_BYXC: jax.Array) -> jax.Array:
        """Returns float[B, 2Y, 2X, C]."""
        return self.conv(jnp.repeat(jnp.repeat(x_BYXC, 2, axis=1), 2, axis=2))
