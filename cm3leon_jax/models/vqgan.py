"""The image tokenizer's network: pixels -> latents -> codes -> pixels.

The layers, their order and their names are those of taming-transformers'
VQGAN, which Make-A-Scene, Chameleon and LlamaGen / Janus share, so that
weights move between them by a table of names. Layout is NHWC. No losses here.

Letters: B pictures, Y and X rows and columns, C channels, D width of a
codebook entry, P codes a picture.
"""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import nnx

from cm3leon_jax.models import convolution, quantizer


@dataclasses.dataclass(frozen=True)
class VqganConfig:
    """Shape of a VQGAN.

    Attributes:
      image_size: side of the (square) picture in pixels.
      patch_size: pixels a side that are folded into channels before the first
        convolution and unfolded after the last; 1 (none) in published models.
      base_channels: width of the first level.
      multipliers: width of each level over `base_channels`; every level but the
        last halves the sides.
      encoder_kernels: side of the kernels at each level, 3 in published models; 1
        keeps a level from looking at its neighbours, so that codes say nothing of them.
      decoder_kernels: likewise, the finest level first.
      num_res_blocks: residual blocks a level (the decoder has one more).
      attention_sizes: sides of the levels that have self-attention.
      use_mid_block: whether two residual blocks stand at the lowest level.
      use_mid_attention: whether self-attention stands between those two.
      latent_channels: channels that the encoder ends with and the decoder begins with.
      code_dim: width of a codebook entry.
      codebook_size: number of codebook entries.
      use_l2_norm: whether the look-up compares directions (LlamaGen, Janus).
      norm: "group" (over a group of channels and the whole picture) or
        "position" (over the channels of one place; keeps codes local).
      num_groups: groups of "group"; narrow levels use the largest number below
        that divides their width.
      norm_epsilon: added to the variance.
      use_decoder: False for a checkpoint that has an encoder and a codebook alone;
        such a network cannot be trained.
    """

    image_size: int = 256
    patch_size: int = 1
    base_channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 4)
    encoder_kernels: tuple[int, ...] = (3, 3, 3, 3)
    decoder_kernels: tuple[int, ...] = (3, 3, 3, 3)
    num_res_blocks: int = 2
    attention_sizes: tuple[int, ...] = (32,)
    use_mid_block: bool = True
    use_mid_attention: bool = True
    latent_channels: int = 256
    code_dim: int = 256
    codebook_size: int = 8_192
    use_l2_norm: bool = False
    norm: str = "group"
    num_groups: int = 32
    norm_epsilon: float = 1e-6
    use_decoder: bool = True

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if isinstance(getattr(self, field.name), list):  # from JSON
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))
        _ = self.norm_config  # refuses an unknown norm
        for name in ("encoder_kernels", "decoder_kernels"):
            if len(getattr(self, name)) != len(self.multipliers):
                raise ValueError(
                    f"{name}={getattr(self, name)} must have one side for each of the"
                    f" {len(self.multipliers)} levels of multipliers={self.multipliers}"
                )
        if self.image_size < self.stride or self.image_size % self.stride:
            raise ValueError(
                f"{self.image_size=} must be a multiple of the stride "
                f"{self.stride} (patch_size and one halving a level but the last)"
            )

    @property
    def norm_config(self) -> convolution.NormConfig:
        """The norm of every block."""
        return convolution.NormConfig(self.norm, self.num_groups, self.norm_epsilon)

    @property
    def stride(self) -> int:
        """Pixels a side that one code stands for."""
        return self.patch_size * 2 ** (len(self.multipliers) - 1)

    @property
    def grid_size(self) -> int:
        """Codes a side."""
        return self.image_size // self.stride

    @property
    def codes_per_image(self) -> int:
        """Codes a picture."""
        return self.grid_size**2

    def channels(self, level: int) -> int:
        """Returns the width of a level, 0 being the finest."""
        return self.base_channels * self.multipliers[level]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `VqganConfig(**values)` is the way back."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }


def from_bytes(pictures_BYXC: jax.Array) -> jax.Array:
    """Returns pictures as the network reads them: uint8 -> float32 in [-1, 1]."""
    return pictures_BYXC.astype(jnp.float32) / 127.5 - 1.0


def to_bytes(image_BYXC: jax.Array) -> jax.Array:
    """Undoes `from_bytes`; what is beyond [-1, 1] is cut off."""
    levels_BYXC = (image_BYXC.astype(jnp.float32) + 1.0) * 127.5
    return jnp.clip(jnp.round(levels_BYXC), 0, 255).astype(jnp.uint8)


class Level(nnx.Module):
    """Residual blocks at one resolution, each followed by attention if asked for.

    `downsample` or `upsample`, whichever is not None, leads to the next level.
    """

    def __init__(
        self,
        inputs: int,
        level: int,
        *,
        config: VqganConfig,
        rngs: nnx.Rngs,
        is_encoder: bool,
    ):
        num_blocks = config.num_res_blocks + (0 if is_encoder else 1)
        size = config.image_size // (config.patch_size * 2**level)
        kernels = config.encoder_kernels if is_encoder else config.decoder_kernels
        outputs, kernel = config.channels(level), kernels[level]
        widths = [inputs] + [outputs] * (num_blocks - 1)
        self.block = nnx.List(
            [
                convolution.ResBlock(width, outputs, kernel, config.norm_config, rngs)
                for width in widths
            ]
        )
        use_attention = size in config.attention_sizes
        self.attn = nnx.List(
            [
                convolution.AttentionBlock(outputs, config.norm_config, rngs)
                for _ in widths
            ]
            if use_attention
            else []
        )
        has_lower = is_encoder and level < len(config.multipliers) - 1
        self.downsample = convolution.Downsample(outputs, rngs) if has_lower else None
        has_upper = not is_encoder and level > 0
        self.upsample = (
            convolution.Upsample(outputs, kernels[level - 1], rngs)
            if has_upper
            else None
        )

    def __call__(self, x_BYXC: jax.Array) -> jax.Array:
        """Returns float[B, Y, X, C]; going down or up is left to the caller."""
        for i, block in enumerate(self.block):
            x_BYXC = block(x_BYXC)
            if len(self.attn):
                x_BYXC = self.attn[i](x_BYXC)
        return x_BYXC


class Mid(nnx.Module):
    """Two residual blocks at the lowest resolution, attention between them."""

    def __init__(self, kernel: int, config: VqganConfig, rngs: nnx.Rngs):
        channels = config.channels(-1)
        self.block_1 = convolution.ResBlock(
            channels, channels, kernel, config.norm_config, rngs
        )
        use_attention = config.use_mid_attention
        self.attn_1 = (
            convolution.AttentionBlock(channels, config.norm_config, rngs)
            if use_attention
            else None
        )
        self.block_2 = convolution.ResBlock(
            channels, channels, kernel, config.norm_config, rngs
        )

    def __call__(self, x_BYXC: jax.Array) -> jax.Array:
        """Returns float[B, Y, X, C]."""
        x_BYXC = self.block_1(x_BYXC)
        if self.attn_1 is not None:
            x_BYXC = self.attn_1(x_BYXC)
        return self.block_2(x_BYXC)


class Encoder(nnx.Module):
    """Pixels to latents: float[B, Y, X, 3] -> float[B, Y/f, X/f, latent_channels]."""

    def __init__(self, config: VqganConfig, rngs: nnx.Rngs):
        last, kernels = len(config.multipliers) - 1, config.encoder_kernels
        inputs, width = 3 * config.patch_size**2, config.base_channels
        self.patch_size = config.patch_size
        self.conv_in = convolution.conv(inputs, width, kernels[0], rngs)
        levels = []
        for i in range(last + 1):
            levels.append(Level(width, i, config=config, rngs=rngs, is_encoder=True))
            width = config.channels(i)
        self.down = nnx.List(levels)
        self.mid = Mid(kernels[-1], config, rngs) if config.use_mid_block else None
        self.norm_out = config.norm_config.make(width, rngs)
        self.conv_out = convolution.conv(
            width, config.latent_channels, kernels[-1], rngs
        )

    def __call__(self, image_BYXC: jax.Array) -> jax.Array:
        """Returns latents; the picture's values are in [-1, 1]."""
        h_BYXC = self.conv_in(convolution.fold(image_BYXC, self.patch_size))
        for level in self.down:
            h_BYXC = level(h_BYXC)
            if level.downsample is not None:
                h_BYXC = level.downsample(h_BYXC)
        if self.mid is not None:
            h_BYXC = self.mid(h_BYXC)
        return self.conv_out(nnx.swish(self.norm_out(h_BYXC)))


class Decoder(nnx.Module):
    """Latents to pixels; `up[i]` is the level of the encoder's `down[i]`."""

    def __init__(self, config: VqganConfig, rngs: nnx.Rngs):
        last, kernels = len(config.multipliers) - 1, config.decoder_kernels
        width = config.channels(last)
        self.patch_size = config.patch_size
        self.conv_in = convolution.conv(
            config.latent_channels, width, kernels[-1], rngs
        )
        self.mid = Mid(kernels[-1], config, rngs) if config.use_mid_block else None
        levels = []
        for i in range(last, -1, -1):
            level = Level(width, i, config=config, rngs=rngs, is_encoder=False)
            width = config.channels(i)
            levels.insert(0, level)
        self.up = nnx.List(levels)
        self.norm_out = config.norm_config.make(width, rngs)
        outputs = 3 * config.patch_size**2
        self.conv_out = convolution.conv(width, outputs, kernels[0], rngs)

    def features(self, latents_BYXC: jax.Array) -> jax.Array:
        """Returns what `last` reads: the adaptive weight is taken between the two."""
        h_BYXC = self.conv_in(latents_BYXC)
        if self.mid is not None:
            h_BYXC = self.mid(h_BYXC)
        for i in range(len(self.up) - 1, -1, -1):
            h_BYXC = self.up[i](h_BYXC)
            if self.up[i].upsample is not None:
                h_BYXC = self.up[i].upsample(h_BYXC)
        return nnx.swish(self.norm_out(h_BYXC))

    def last(self, features_BYXC: jax.Array) -> jax.Array:
        """Returns the picture from `features`: float[B, Y, X, 3]."""
        return convolution.unfold(self.conv_out(features_BYXC), self.patch_size)

    def __call__(self, latents_BYXC: jax.Array) -> jax.Array:
        """Returns float[B, Y, X, 3]."""
        return self.last(self.features(latents_BYXC))


class Vqgan(nnx.Module):
    """Encoder, codebook and decoder.

    Source: Taming Transformers, arXiv:2012.09841, section 3.1.
    """

    def __init__(self, config: VqganConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = Encoder(config, rngs)
        self.quant_conv = convolution.conv(
            config.latent_channels, config.code_dim, 1, rngs
        )
        self.quantize = quantizer.Quantizer(
            config.codebook_size,
            config.code_dim,
            use_l2_norm=config.use_l2_norm,
            rngs=rngs,
        )
        self.post_quant_conv = convolution.conv(
            config.code_dim, config.latent_channels, 1, rngs
        )
        self.decoder = Decoder(config, rngs) if config.use_decoder else None

    def latents(self, image_BYXC: jax.Array) -> jax.Array:
        """Returns what is quantised: float[B, Y, X, 3] -> float[B, Y/f, X/f, D].

        Args:
          image_BYXC: float[B, Y, X, 3], in [-1, 1], Y = X = `config.image_size`.
        """
        size = self.config.image_size
        chex.assert_shape(image_BYXC, (None, size, size, 3))
        return self.quant_conv(self.encoder(image_BYXC))

    def encode(self, image_BYXC: jax.Array) -> jax.Array:
        """Returns the codes: float[B, Y, X, 3] in [-1, 1] -> int32[B, P], row by row."""
        codes_BYX = self.quantize.encode(self.latents(image_BYXC))
        return codes_BYX.reshape(codes_BYX.shape[0], -1)

    def decode(self, codes_BP: jax.Array) -> jax.Array:
        """Returns the picture: int[B, P] -> float[B, Y, X, 3], about in [-1, 1].

        Raises:
          ValueError: if there is no decoder.
        """
        if self.decoder is None:
            raise ValueError(
                "this image tokenizer has an encoder and a codebook alone, it draws"
                " nothing; convert a checkpoint that has a decoder"
            )
        side = self.config.grid_size
        chex.assert_shape(codes_BP, (None, side * side))
        codes_BYX = codes_BP.reshape(-1, side, side)
        return self.decoder(self.post_quant_conv(self.quantize.look_up(codes_BYX)))

    def __call__(self, image_BYXC: jax.Array) -> tuple[jax.Array, quantizer.Quantized]:
        """Returns the reconstruction and the quantisation behind it."""
        assert self.decoder is not None
        quantized = self.quantize(self.latents(image_BYXC))
        return self.decoder(self.post_quant_conv(quantized.vectors_BYXD)), quantized
