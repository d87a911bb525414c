"""The bi-encoder: CLIP's two towers, from pictures and texts to unit vectors.

The architecture is CLIP's exactly (LayerNorm epsilon 1e-5, quick GELU, class token,
causal text attention, pooling at the end-of-text token), so that published weights of
ViT-B/32, ViT-L/14 and ViT-L/14-336 fit, and so do small towers trained from nothing.
No tokenizer, no file, no mesh here.

Letters: B rows, Y X pixel rows and columns, C colour channels, P picture patches, L
positions of a tower (patches and the class token, or text pieces), M keys, D tower
width, H heads, K width per head, E width of the common space.

Source: Learning Transferable Visual Models From Natural Language Supervision,
arXiv:2103.00020, section 2.
"""

import dataclasses
import functools
import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import nnx

_EPSILON = 1e-5  # CLIP's LayerNorm epsilon
INITIAL_LOGIT_SCALE = math.log(1 / 0.07)  # CLIP, section 2.5


@dataclasses.dataclass(frozen=True)
class TowerConfig:
    """Shape of one tower.

    Attributes:
      num_layers: Transformer blocks.
      model_dim: Width D; a multiple of `num_heads`.
      num_heads: Attention heads.
      mlp_dim: Hidden width of a block's MLP; CLIP has 4 D.
    """

    num_layers: int
    model_dim: int
    num_heads: int
    mlp_dim: int

    def __post_init__(self):
        if self.model_dim % self.num_heads:
            raise ValueError(
                f"model_dim={self.model_dim} must be a multiple of"
                f" num_heads={self.num_heads}; try {_above(self)}"
            )


def _above(tower: TowerConfig) -> int:
    return -(-tower.model_dim // tower.num_heads) * tower.num_heads


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """Shape of a bi-encoder.

    Attributes:
      image_size: Pixels a side of the square picture; a multiple of `patch_size`.
      patch_size: Pixels a side of a patch.
      vision: The picture tower.
      text: The text tower.
      vocab_size: Number of text ids.
      max_length: Text positions, begin and end tokens included; CLIP has 77.
      eos_id: Id of the end-of-text token; a text is read at its first one.
      embed_dim: Width E of the common space.
      activation: "quick_gelu", OpenAI's, or "gelu", of some later trainings.
    """

    image_size: int
    patch_size: int
    vision: TowerConfig
    text: TowerConfig
    vocab_size: int
    max_length: int
    eos_id: int
    embed_dim: int
    activation: str = "quick_gelu"

    def __post_init__(self):
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"{self.activation=} is unknown; known: {', '.join(ACTIVATIONS)}"
            )
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size={self.image_size} must be a multiple of"
                f" patch_size={self.patch_size}"
            )

    @property
    def num_patches(self) -> int:
        """Patches of one picture."""
        return (self.image_size // self.patch_size) ** 2


def quick_gelu(x: jax.Array) -> jax.Array:
    """CLIP's activation, x sigmoid(1.702 x), elementwise."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS = {
    "quick_gelu": quick_gelu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
}

_L14_VISION = TowerConfig(num_layers=24, model_dim=1024, num_heads=16, mlp_dim=4096)
_L14_TEXT = TowerConfig(num_layers=12, model_dim=768, num_heads=12, mlp_dim=3072)
# CLIP's own BPE: 49,408 ids, the end-of-text token last.
_CLIP_TEXT: dict[str, Any] = {"vocab_size": 49_408, "max_length": 77, "eos_id": 49_407}

# The published shapes. The paper retrieves with ViT-B/32.
SHAPES = {
    "vit_b32": ClipConfig(
        image_size=224,
        patch_size=32,
        vision=TowerConfig(num_layers=12, model_dim=768, num_heads=12, mlp_dim=3072),
        text=TowerConfig(num_layers=12, model_dim=512, num_heads=8, mlp_dim=2048),
        embed_dim=512,
        **_CLIP_TEXT,
    ),
    "vit_l14": ClipConfig(
        image_size=224,
        patch_size=14,
        vision=_L14_VISION,
        text=_L14_TEXT,
        embed_dim=768,
        **_CLIP_TEXT,
    ),
    "vit_l14_336": ClipConfig(
        image_size=336,
        patch_size=14,
        vision=_L14_VISION,
        text=_L14_TEXT,
        embed_dim=768,
        **_CLIP_TEXT,
    ),
}


class Attention(nnx.Module):
    """Multi-head self-attention with biases, CLIP's."""

    def __init__(self, tower: TowerConfig, *, rngs: nnx.Rngs):
        """Makes the four projections.

        Args:
          tower: The tower's shape.
          rngs: Source of the parameters.
        """
        width = tower.model_dim
        self.num_heads = tower.num_heads
        init = nnx.initializers.normal(width**-0.5)
        out_init = nnx.initializers.normal(
            width**-0.5 * (2 * max(tower.num_layers, 1)) ** -0.5
        )
        # One matrix for queries, keys and values: one product instead of three.
        self.qkv = nnx.Linear(width, 3 * width, kernel_init=init, rngs=rngs)
        self.out = nnx.Linear(width, width, kernel_init=out_init, rngs=rngs)

    def __call__(self, x_BLD: jax.Array, *, is_causal: bool) -> jax.Array:
        """Mixes positions; float[B, L, D] to float[B, L, D]."""
        batch, length, width = x_BLD.shape
        head_dim = width // self.num_heads
        qkv = self.qkv(x_BLD).reshape(batch, length, 3, self.num_heads, head_dim)
        q_BHLK, k_BHMK, v_BHMK = qkv.transpose(2, 0, 3, 1, 4)
        scores_BHLM = jnp.einsum("bhlk,bhmk->bhlm", q_BHLK, k_BHMK) * head_dim**-0.5
        scores_BHLM = scores_BHLM.astype(jnp.float32)
        if is_causal:
            causal_11LM = jnp.tril(jnp.ones((1, 1, length, length), bool))
            scores_BHLM = jnp.where(causal_11LM, scores_BHLM, -jnp.inf)
        weights_BHLM = jax.nn.softmax(scores_BHLM, axis=-1).astype(x_BLD.dtype)
        mixed_BHLK = jnp.einsum("bhlm,bhmk->bhlk", weights_BHLM, v_BHMK)
        return self.out(mixed_BHLK.transpose(0, 2, 1, 3).reshape(x_BLD.shape))


class Block(nnx.Module):
    """A pre-norm transformer block."""

    def __init__(self, tower: TowerConfig, activation: str, *, rngs: nnx.Rngs):
        """Makes the block.

        Args:
          tower: The tower's shape.
          activation: One of `ACTIVATIONS`.
          rngs: Source of the parameters.
        """
        width = tower.model_dim
        self.activation = activation
        self.norm_1 = nnx.LayerNorm(width, epsilon=_EPSILON, rngs=rngs)
        self.attention = Attention(tower, rngs=rngs)
        self.norm_2 = nnx.LayerNorm(width, epsilon=_EPSILON, rngs=rngs)
        self.mlp_in = nnx.Linear(
            width,
            tower.mlp_dim,
            kernel_init=nnx.initializers.normal((2 * width) ** -0.5),
            rngs=rngs,
        )
        self.mlp_out = nnx.Linear(
            tower.mlp_dim,
            width,
            kernel_init=nnx.initializers.normal(
                width**-0.5 * (2 * max(tower.num_layers, 1)) ** -0.5
            ),
            rngs=rngs,
        )

    def __call__(self, x_BLD: jax.Array, *, is_causal: bool) -> jax.Array:
        """Mixes positions, then channels; float[B, L, D] to float[B, L, D]."""
        x_BLD = x_BLD + self.attention(self.norm_1(x_BLD), is_causal=is_causal)
        hidden_BLF = self.mlp_in(self.norm_2(x_BLD))
        return x_BLD + self.mlp_out(ACTIVATIONS[self.activation](hidden_BLF))


class VisionTower(nnx.Module):
    """Pictures to vectors of the common space, not yet of unit length."""

    def __init__(self, config: ClipConfig, *, rngs: nnx.Rngs):
        """Makes the tower.

        Args:
          config: The bi-encoder's shape.
          rngs: Source of the parameters.
        """
        tower = config.vision
        width = tower.model_dim
        init = nnx.initializers.normal(width**-0.5)
        self.patch_size = config.patch_size
        # The patch convolution as one matrix product, which is the same sum.
        self.patches = nnx.Linear(
            3 * config.patch_size**2,
            width,
            use_bias=False,
            kernel_init=nnx.initializers.lecun_normal(),
            rngs=rngs,
        )
        self.class_token_D = nnx.Param(init(rngs.params(), (width,)))
        self.positions_LD = nnx.Param(
            init(rngs.params(), (config.num_patches + 1, width))
        )
        self.norm_in = nnx.LayerNorm(width, epsilon=_EPSILON, rngs=rngs)
        self.blocks = nnx.List(
            Block(tower, config.activation, rngs=rngs) for _ in range(tower.num_layers)
        )
        self.norm_out = nnx.LayerNorm(width, epsilon=_EPSILON, rngs=rngs)
        self.projection = nnx.Linear(
            width, config.embed_dim, use_bias=False, kernel_init=init, rngs=rngs
        )

    def __call__(
        self, pixels_BYXC: jax.Array, kept_BP: jax.Array | None = None
    ) -> jax.Array:
        """Returns one vector a picture.

        Args:
          pixels_BYXC: float[B, Y, X, 3], normalised as the weights expect.
          kept_BP: int32[B, P'], the patches that are seen (row-major numbers from
            0), or None for all of them. Fewer patches cost less.

        Returns:
          float[B, E], of any length.
        """
        chex.assert_rank(pixels_BYXC, 4)
        positions_1LD = self.positions_LD[...][None]
        x_BPD = self.patches(cut_patches(pixels_BYXC, self.patch_size))
        x_BPD = x_BPD + positions_1LD[:, 1:]
        if kept_BP is not None:
            x_BPD = jnp.take_along_axis(x_BPD, kept_BP[:, :, None], axis=1)
        first_11D = self.class_token_D[...][None, None] + positions_1LD[:, :1]
        first_B1D = jnp.broadcast_to(first_11D, (len(x_BPD), 1, x_BPD.shape[2]))
        x_BLD = self.norm_in(jnp.concatenate([first_B1D, x_BPD], axis=1))
        for block in self.blocks:
            x_BLD = block(x_BLD, is_causal=False)
        return self.projection(self.norm_out(x_BLD[:, 0]))


class TextTower(nnx.Module):
    """Texts to vectors of the common space, not yet of unit length."""

    def __init__(self, config: ClipConfig, *, rngs: nnx.Rngs):
        """Makes the tower.

        Args:
          config: The bi-encoder's shape.
          rngs: Source of the parameters.
        """
        tower = config.text
        width = tower.model_dim
        self.eos_id = config.eos_id
        self.tokens = nnx.Embed(
            config.vocab_size,
            width,
            embedding_init=nnx.initializers.normal(0.02),
            rngs=rngs,
        )
        self.positions_LD = nnx.Param(
            nnx.initializers.normal(0.01)(rngs.params(), (config.max_length, width))
        )
        self.blocks = nnx.List(
            Block(tower, config.activation, rngs=rngs) for _ in range(tower.num_layers)
        )
        self.norm_out = nnx.LayerNorm(width, epsilon=_EPSILON, rngs=rngs)
        self.projection = nnx.Linear(
            width,
            config.embed_dim,
            use_bias=False,
            kernel_init=nnx.initializers.normal(width**-0.5),
            rngs=rngs,
        )

    def __call__(self, ids_BL: jax.Array) -> jax.Array:
        """Returns one vector a text, read at its first end-of-text token.

        What follows that token is never seen, so any padding will do.

        Args:
          ids_BL: int32[B, L], L at most `max_length`, each row with `eos_id`.

        Returns:
          float[B, E], of any length.
        """
        chex.assert_rank(ids_BL, 2)
        length = ids_BL.shape[1]
        x_BLD = self.tokens(ids_BL) + self.positions_LD[...][None, :length]
        for block in self.blocks:
            x_BLD = block(x_BLD, is_causal=True)
        ends_B = jnp.argmax(ids_BL == self.eos_id, axis=1)
        pooled_B1D = jnp.take_along_axis(x_BLD, ends_B[:, None, None], axis=1)
        return self.projection(self.norm_out(pooled_B1D[:, 0]))


class Clip(nnx.Module):
    """Both towers and the learnt temperature."""

    def __init__(self, config: ClipConfig, *, rngs: nnx.Rngs):
        """Makes a bi-encoder.

        Args:
          config: Its shape.
          rngs: Source of the parameters.
        """
        self.vision = VisionTower(config, rngs=rngs)
        self.text = TextTower(config, rngs=rngs)
        self.logit_scale = nnx.Param(jnp.asarray(INITIAL_LOGIT_SCALE, jnp.float32))

    def embed_pictures(
        self, pixels_BYXC: jax.Array, kept_BP: jax.Array | None = None
    ) -> jax.Array:
        """Returns float32[B, E] unit vectors; arguments as `VisionTower`."""
        return unit(self.vision(pixels_BYXC, kept_BP))

    def embed_texts(self, ids_BL: jax.Array) -> jax.Array:
        """Returns float32[B, E] unit vectors; argument as `TextTower`."""
        return unit(self.text(ids_BL))


def cut_patches(pixels_BYXC: jax.Array, patch_size: int) -> jax.Array:
    """Cuts pictures into flat patches, row by row, pixels (y, x, channel) inside.

    Args:
      pixels_BYXC: float[B, Y, X, 3], sides multiples of `patch_size`.
      patch_size: Pixels a side of a patch.

    Returns:
      float[B, P, patch_size * patch_size * 3].
    """
    batch, height, width, channels = pixels_BYXC.shape
    rows, columns = height // patch_size, width // patch_size
    cells = pixels_BYXC.reshape(
        batch, rows, patch_size, columns, patch_size, channels
    ).transpose(0, 1, 3, 2, 4, 5)
    return cells.reshape(batch, rows * columns, -1)


def unit(x: jax.Array) -> jax.Array:
    """Scales vectors along the last axis to length 1, in float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)


def normalize_pixels(pictures_BYXC: jax.Array) -> jax.Array:
    """Bytes to what the towers expect: CLIP's mean and deviation a channel.

    Args:
      pictures_BYXC: uint8[B, Y, X, 3], RGB.

    Returns:
      float32[B, Y, X, 3].
    """
    mean = jnp.array([0.48145466, 0.4578275, 0.40821073])[None, None, None]
    deviation = jnp.array([0.26862954, 0.26130258, 0.27577711])[None, None, None]
    return (pictures_BYXC.astype(jnp.float32) / 255 - mean) / deviation
