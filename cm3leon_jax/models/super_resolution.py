"""The network that makes a drawn picture two or four times as large: RRDB, ESRGAN's.

Layers and their names are those of Real-ESRGAN's generator, so that its weights load by a
table of names. Layout is NHWC. No losses here.

Letters: B pictures, Y and X rows and columns, C channels.

Source: ESRGAN, arXiv:1809.00219, section 3.1; Real-ESRGAN, arXiv:2107.10833, figure 4.
"""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import nnx

from cm3leon_jax.models import convolution

SCALES = (2, 4)
_SLOPE = 0.2  # of the leaky rectifier below zero
_RESIDUAL = 0.2  # share of a block's output that is added to its input
_INIT_SHARE = 0.1  # of He's deviation in dense blocks, ESRGAN's section 3.1
_CONVS = 5  # convolutions of a dense block
_DENSE_BLOCKS = 3  # dense blocks of a block


@dataclasses.dataclass(frozen=True)
class SuperResolutionConfig:
    """Shape of the network.

    Attributes:
      scale: how many times larger a side becomes, 2 or 4. For 2 the pixels are folded
        by 2 first, and the rest is the network for 4.
      channels: width between blocks.
      num_blocks: residual-in-residual dense blocks.
      growth_channels: width that each convolution of a dense block adds.
      use_bicubic_base: whether the bicubic enlargement is added to the output, so that
        an untrained network is bicubic; Real-ESRGAN's does not.
    """

    scale: int = 4
    channels: int = 64
    num_blocks: int = 23
    growth_channels: int = 32
    use_bicubic_base: bool = False

    def __post_init__(self):
        if self.scale not in SCALES:
            raise ValueError(f"{self.scale=} must be one of {SCALES}")
        for name in ("channels", "num_blocks", "growth_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")

    @property
    def fold_size(self) -> int:
        """Pixels a side that are folded into channels first; divides a picture's sides."""
        return 4 // self.scale

    @property
    def reach(self) -> int:
        """Pixels of the small picture to each side that a large pixel depends on.

        One for each convolution on the small grid, and two for the four convolutions
        on the grids twice and four times as fine, or for bicubic.
        """
        inner = 2 + _CONVS * _DENSE_BLOCKS * self.num_blocks + 2
        return self.fold_size * inner

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `SuperResolutionConfig(**values)` is the way back."""
        return dataclasses.asdict(self)


class DenseBlock(nnx.Module):
    """Five convolutions, each of which sees the outputs of all before it."""

    def __init__(self, config: SuperResolutionConfig, rngs: nnx.Rngs):
        init = nnx.initializers.variance_scaling(
            2.0 * _INIT_SHARE**2, "fan_in", "normal"
        )
        layers = []
        for i in range(_CONVS):
            inputs = config.channels + i * config.growth_channels
            outputs = config.growth_channels if i < _CONVS - 1 else config.channels
            layers.append(
                nnx.Conv(inputs, outputs, (3, 3), kernel_init=init, rngs=rngs)
            )
        self.conv = nnx.List(layers)

    def __call__(self, x_BYXC: jax.Array) -> jax.Array:
        """Returns float[B, Y, X, C], as wide as the input."""
        seen_BYXC = x_BYXC
        for conv in self.conv[:-1]:
            more_BYXC = nnx.leaky_relu(conv(seen_BYXC), _SLOPE)
            seen_BYXC = jnp.concatenate([seen_BYXC, more_BYXC], axis=-1)
        return x_BYXC + _RESIDUAL * self.conv[-1](seen_BYXC)


class ResidualBlock(nnx.Module):
    """Three dense blocks, added to the input (a residual in residual dense block)."""

    def __init__(self, config: SuperResolutionConfig, rngs: nnx.Rngs):
        self.rdb = nnx.List([DenseBlock(config, rngs) for _ in range(_DENSE_BLOCKS)])

    def __call__(self, x_BYXC: jax.Array) -> jax.Array:
        """Returns float[B, Y, X, C], as wide as the input."""
        h_BYXC = x_BYXC
        for block in self.rdb:
            h_BYXC = block(h_BYXC)
        return x_BYXC + _RESIDUAL * h_BYXC


class SuperResolution(nnx.Module):
    """Small pictures to large ones."""

    def __init__(self, config: SuperResolutionConfig, *, rngs: nnx.Rngs):
        self.config = config
        width = config.channels
        conv = lambda: convolution.conv(width, width, 3, rngs)
        self.conv_first = convolution.conv(3 * config.fold_size**2, width, 3, rngs)
        self.body = nnx.List(
            [ResidualBlock(config, rngs) for _ in range(config.num_blocks)]
        )
        self.conv_body = conv()
        self.conv_up1 = conv()
        self.conv_up2 = conv()
        self.conv_hr = conv()
        self.conv_last = convolution.conv(width, 3, 3, rngs)
        if config.use_bicubic_base:
            self.conv_last.kernel[...] = jnp.zeros_like(self.conv_last.kernel[...])

    def features(self, image_BYXC: jax.Array) -> jax.Array:
        """Returns what the last convolution reads: float[B, scale Y, scale X, C]."""
        h_BYXC = self.conv_first(convolution.fold(image_BYXC, self.config.fold_size))
        first_BYXC = h_BYXC
        for block in self.body:
            h_BYXC = block(h_BYXC)
        h_BYXC = first_BYXC + self.conv_body(h_BYXC)
        for conv in (self.conv_up1, self.conv_up2):
            h_BYXC = jnp.repeat(jnp.repeat(h_BYXC, 2, axis=1), 2, axis=2)
            h_BYXC = nnx.leaky_relu(conv(h_BYXC), _SLOPE)
        return nnx.leaky_relu(self.conv_hr(h_BYXC), _SLOPE)

    def __call__(self, image_BYXC: jax.Array) -> jax.Array:
        """Returns the large pictures.

        Args:
          image_BYXC: float[B, Y, X, 3], in [0, 1]; `fold_size` divides Y and X.

        Returns:
          float[B, scale Y, scale X, 3], about in [0, 1].
        """
        chex.assert_shape(image_BYXC, (None, None, None, 3))
        output_BYXC = self.conv_last(self.features(image_BYXC))
        if self.config.use_bicubic_base:
            output_BYXC += bicubic(image_BYXC, self.config.scale)
        return output_BYXC


def bicubic(image_BYXC: jax.Array, scale: int) -> jax.Array:
    """Returns pictures enlarged by bicubic interpolation."""
    B, Y, X, C = image_BYXC.shape
    return jax.image.resize(image_BYXC, (B, scale * Y, scale * X, C), "bicubic")


def from_bytes(pictures_BYXC: jax.Array) -> jax.Array:
    """Returns pictures as the network reads them: uint8 -> float32 in [0, 1]."""
    return pictures_BYXC.astype(jnp.float32) / 255.0


def to_bytes(image_BYXC: jax.Array) -> jax.Array:
    """Undoes `from_bytes`; what is beyond [0, 1] is cut off."""
    levels_BYXC = image_BYXC.astype(jnp.float32) * 255.0
    return jnp.clip(jnp.round(levels_BYXC), 0, 255).astype(jnp.uint8)
