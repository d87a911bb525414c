"""Vector quantisation: each latent vector becomes the nearest entry of a codebook.

Holds the look-up, its straight-through gradient and the two penalties that
train it. How the codebook is kept alive during training (revival, moving
averages) is in `train/codebook.py`.

Letters: B pictures, Y and X rows and columns of the latent grid, P = Y * X
codes a picture, N latent vectors, C codebook entries, D width of an entry.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import nnx


class Quantized(NamedTuple):
    """What quantisation makes of latents.

    Attributes:
      vectors_BYXD: float[B, Y, X, D], the nearest entries, with the gradient of
        the latents (straight through).
      codes_BYX: int32[B, Y, X], which entries, in [0, C).
      codebook_loss: float[], pulls the entries to the latents.
      commitment_loss: float[], pulls the latents to their entries.
      latents_BYXD: float[B, Y, X, D], what was compared with the entries
        (of unit length when the look-up is normalised).
    """

    vectors_BYXD: jax.Array
    codes_BYX: jax.Array
    codebook_loss: jax.Array
    commitment_loss: jax.Array
    latents_BYXD: jax.Array


def unit(x_ND: jax.Array) -> jax.Array:
    """Returns vectors scaled to length 1 along the last dimension.

    Args:
      x_ND: float[..., D].

    Returns:
      float[..., D]; a zero vector stays zero.
    """
    square_N1 = jnp.sum(x_ND * x_ND, axis=-1, keepdims=True)
    return x_ND * jax.lax.rsqrt(jnp.maximum(square_N1, 1e-12))


def nearest(latents_ND: jax.Array, entries_CD: jax.Array) -> jax.Array:
    """Returns the index of the entry at the smallest Euclidean distance.

    Of equally near entries the first one is taken, so the answer does not
    depend on the machine. The term |latent|^2 is the same for all entries and
    is left out.

        latents  [[0.0], [0.5], [2.0]]   entries  [[0.0], [1.0], [1.0]]
        codes    [0, 0, 1]

    Args:
      latents_ND: float[N, D].
      entries_CD: float[C, D].

    Returns:
      int32[N], in [0, C).
    """
    chex.assert_equal_shape_suffix([latents_ND, entries_CD], 1)
    # Highest precision: in bfloat16, a TPU's default, near entries change places.
    dots_NC = jnp.matmul(latents_ND, entries_CD.T, precision=jax.lax.Precision.HIGHEST)
    lengths_1C = jnp.sum(entries_CD * entries_CD, axis=-1)[None, :]
    return jnp.argmin(lengths_1C - 2.0 * dots_NC, axis=-1).astype(jnp.int32)


class Quantizer(nnx.Module):
    """A codebook with its look-up.

    Attributes:
      embedding: float32[C, D], the entries, drawn uniformly from +-1/C.
      use_l2_norm: compare directions, not points: latents and entries are
        scaled to unit length first (LlamaGen, Janus).

    Source: VQ-VAE, arXiv:1711.00937, section 3.1; the normalised look-up is
    ViT-VQGAN's, arXiv:2110.04627, section 3.2.
    """

    def __init__(
        self, codebook_size: int, code_dim: int, *, use_l2_norm: bool, rngs: nnx.Rngs
    ):
        shape, limit = (codebook_size, code_dim), 1.0 / codebook_size
        self.embedding = nnx.Param(
            jax.random.uniform(rngs.params(), shape, minval=-limit, maxval=limit)
        )
        self.use_l2_norm = use_l2_norm

    def entries(self) -> jax.Array:
        """Returns float32[C, D], the entries as they are compared and decoded."""
        table_CD = self.embedding[...]
        return unit(table_CD) if self.use_l2_norm else table_CD

    def look_up(self, codes_BYX: jax.Array) -> jax.Array:
        """Returns the entries of codes: int[B, Y, X] -> float32[B, Y, X, D]."""
        return self.entries()[codes_BYX]

    def encode(self, latents_BYXD: jax.Array) -> jax.Array:
        """Returns the nearest entries: float[B, Y, X, D] -> int32[B, Y, X]."""
        if self.use_l2_norm:
            latents_BYXD = unit(latents_BYXD)
        latents_ND = latents_BYXD.reshape(-1, latents_BYXD.shape[-1])
        return nearest(latents_ND, self.entries()).reshape(latents_BYXD.shape[:-1])

    def __call__(self, latents_BYXD: jax.Array) -> Quantized:
        """Quantises latents for training.

        The gradient of the decoder passes the look-up as if it were not there:
        d loss / d latent = d loss / d entry.

        Args:
          latents_BYXD: float[B, Y, X, D].

        Returns:
          A Quantized.
        """
        chex.assert_rank(latents_BYXD, 4)
        latents_BYXD = unit(latents_BYXD) if self.use_l2_norm else latents_BYXD
        codes_BYX = self.encode(jax.lax.stop_gradient(latents_BYXD))
        entries_BYXD = self.look_up(codes_BYX)
        fixed_BYXD = jax.lax.stop_gradient(latents_BYXD)
        codebook_loss = jnp.mean((entries_BYXD - fixed_BYXD) ** 2)
        held_BYXD = jax.lax.stop_gradient(entries_BYXD)
        commitment_loss = jnp.mean((latents_BYXD - held_BYXD) ** 2)
        vectors_BYXD = latents_BYXD + jax.lax.stop_gradient(held_BYXD - latents_BYXD)
        return Quantized(
            vectors_BYXD, codes_BYX, codebook_loss, commitment_loss, latents_BYXD
        )
