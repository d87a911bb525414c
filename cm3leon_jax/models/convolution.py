"""Convolutional parts that image networks are made of; layout NHWC.

Letters: B pictures, Y and X rows and columns, C channels, P places (Y * X), M places that
are looked at.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from cm3leon_jax.models import winograd

NORMS = ("group", "position")
_CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))  # of two by two pixels


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
        return GroupNorm(channels, groups, self.epsilon)


class GroupNorm(nnx.Module):
    """Normalises over a group of channels and the whole picture.

    As `nnx.GroupNorm`, of whose sums XLA makes slow loops on CPUs: here each channel is
    summed by itself first, and a picture is read once for its sums and once to be scaled.
    """

    def __init__(self, channels: int, num_groups: int, epsilon: float):
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.num_groups = num_groups
        self.epsilon = epsilon

    def __call__(self, x_BYXC: jax.Array) -> jax.Array:
        """Returns float[B, Y, X, C] of the input's type; sums are in float32."""
        B, Y, X, C = x_BYXC.shape
        wide_BYXC = x_BYXC.astype(jnp.float32)
        over_group = lambda sums_BC: (
            jnp.mean(sums_BC.reshape(B, self.num_groups, -1), axis=-1, keepdims=True)
            / (Y * X)
        )
        mean_BG1 = over_group(jnp.sum(wide_BYXC, axis=(1, 2)))
        square_BG1 = over_group(jnp.sum(wide_BYXC * wide_BYXC, axis=(1, 2)))
        variance_BG1 = jnp.maximum(square_BG1 - mean_BG1 * mean_BG1, 0.0)
        inverse_BG1 = jax.lax.rsqrt(variance_BG1 + self.epsilon)
        scale_1GK, bias_1GK = (
            leaf[...].reshape(1, self.num_groups, -1)
            for leaf in (self.scale, self.bias)
        )
        factor_BGK = scale_1GK * inverse_BG1
        shift_BGK = bias_1GK - factor_BGK * mean_BG1
        factor_B11C, shift_B11C = (
            each.reshape(B, 1, 1, C) for each in (factor_BGK, shift_BGK)
        )
        return (wide_BYXC * factor_B11C + shift_B11C).astype(x_BYXC.dtype)


class Conv(nnx.Conv):
    """A convolution with a bias that keeps the sides, zeros around."""

    def __call__(self, inputs: jax.Array, out_sharding=None) -> jax.Array:
        """Returns float[B, Y, X, outputs]; large ones in tiles on a CPU."""
        kernel_YXCK = self.kernel[...]
        dtype = jnp.result_type(inputs, kernel_YXCK)
        if winograd.is_worth_it(inputs.shape, kernel_YXCK.shape, dtype):
            assert self.bias is not None
            bias_111K = self.bias[...][None, None, None]
            x_BYXC, kernel_YXCK = inputs.astype(dtype), kernel_YXCK.astype(dtype)
            return winograd.convolve(x_BYXC, kernel_YXCK) + bias_111K
        return super().__call__(inputs, out_sharding=out_sharding)


def conv(inputs: int, outputs: int, kernel: int, rngs: nnx.Rngs) -> Conv:
    """Returns a convolution with a square kernel."""
    return Conv(inputs, outputs, (kernel, kernel), rngs=rngs)


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
    """Doubles the sides by repetition, then a convolution.

    Of the nine pixels that a 3x3 kernel sees among repeated ones, four are different, so
    that each of the four pixels made from one is a convolution of the small picture with
    a 2x2 kernel of sums: 2.25 times less to multiply.

        pixels  a a b b c c     kernel  k l m
        at the first  b:  a k + b (l + m)
        at the second b:  b (k + l) + c m
    """

    def __init__(self, channels: int, kernel: int, rngs: nnx.Rngs):
        self.conv = conv(channels, channels, kernel, rngs)

    def __call__(self, x_BYXC: jax.Array) -> jax.Array:
        """Returns float[B, 2Y, 2X, C]."""
        if self.conv.kernel_size != (3, 3):
            return self.conv(jnp.repeat(jnp.repeat(x_BYXC, 2, axis=1), 2, axis=2))
        B, Y, X, _ = x_BYXC.shape
        kernel_YXCK = _corner_kernels(self.conv.kernel[...])
        dtype = jnp.result_type(x_BYXC, kernel_YXCK)
        wide_BYXK = jax.lax.conv_general_dilated(
            x_BYXC.astype(dtype),
            kernel_YXCK.astype(dtype),
            (1, 1),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        assert self.conv.bias is not None
        bias_111K = self.conv.bias[...][None, None, None]
        # The first pixel of a pair ends its window where the second begins its own.
        corners = [
            corner_BYXC[:, a : a + Y, b : b + X] + bias_111K
            for corner_BYXC, (a, b) in zip(
                jnp.split(wide_BYXK, 4, axis=-1), _CORNERS, strict=True
            )
        ]
        rows = [jnp.stack(pair, axis=3) for pair in (corners[:2], corners[2:])]
        return jnp.stack(rows, axis=2).reshape(B, 2 * Y, 2 * X, -1)


def _corner_kernels(kernel_YXCK: jax.Array) -> jax.Array:
    """Returns the kernels of the four pixels made from one, in the order of `_CORNERS`.

    Args:
      kernel_YXCK: float[3, 3, C, K].

    Returns:
      float[2, 2, C, 4 K].
    """
    halves = lambda k: (jnp.stack([k[0], k[1] + k[2]]), jnp.stack([k[0] + k[1], k[2]]))
    turned = lambda k: jnp.swapaxes(k, 0, 1)
    found = [
        turned(both) for rows in halves(kernel_YXCK) for both in halves(turned(rows))
    ]
    return jnp.concatenate(found, axis=-1)
