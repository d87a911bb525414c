"""Attention over packed rows and over a key-value cache.

Plain JAX on one device. Kernels for accelerators come from libraries and are
handed to the model as a function of the same signature as `attend_packed`.

Letters: B rows, L queries, M keys, H heads, K width per head, 1 broadcast.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp


class KVCache(NamedTuple):
    """Keys and values of the tokens seen so far, one pair of arrays a layer.

    Attributes:
      k_BHMK: num_layers x float[B, H, M, K], keys.
      v_BHMK: num_layers x float[B, H, M, K], values.
      valid_BM: bool[B, M], False for slots not yet written and for left padding.
      length: int32[], slots written; the same for every row (pad on the left).
    """

    k_BHMK: tuple[jax.Array, ...]
    v_BHMK: tuple[jax.Array, ...]
    valid_BM: jax.Array
    length: jax.Array


def packed_causal_mask(segment_ids_BL: jax.Array) -> jax.Array:
    """Returns which key each query may see in a row of packed documents.

    A token sees itself and the earlier tokens of its own document. Padding
    (segment 0) sees nothing, so its softmax row is uniform and must carry no
    loss weight.

        segment_ids  [1 1 2 2 0]
        mask         [1 0 0 0 0]
                     [1 1 0 0 0]
                     [0 0 1 0 0]
                     [0 0 1 1 0]
                     [0 0 0 0 0]

    Args:
      segment_ids_BL: int32[B, L], 1-based document number, 0 for padding.

    Returns:
      bool[B, 1, L, L], True where attention is allowed.
    """
    chex.assert_rank(segment_ids_BL, 2)
    chex.assert_type(segment_ids_BL, int)
    length = segment_ids_BL.shape[1]
    same_BLM = segment_ids_BL[:, :, None] == segment_ids_BL[:, None, :]
    causal_1LM = jnp.tril(jnp.ones((1, length, length), dtype=bool))
    real_BL1 = (segment_ids_BL > 0)[:, :, None]
    return (same_BLM & causal_1LM & real_BL1)[:, None]


def attend(
    q_BLHK: jax.Array, k_BMHK: jax.Array, v_BMHK: jax.Array, mask_B1LM: jax.Array
) -> jax.Array:
    """Returns scaled dot-product attention, softmax in float32 for any input dtype.

    Args:
      q_BLHK: float[B, L, H, K], queries.
      k_BMHK: float[B, M, H, K], keys.
      v_BMHK: float[B, M, H, K], values.
      mask_B1LM: bool[B, 1, L, M], True where a query may see a key.

    Returns:
      float[B, L, H, K], in the dtype of `v_BMHK`.
    """
    dims = chex.Dimensions(M=k_BMHK.shape[1])
    dims["BLHK"] = q_BLHK.shape
    chex.assert_shape([k_BMHK, v_BMHK], dims["BMHK"])
    chex.assert_shape(mask_B1LM, dims["B1LM"])

    scores_BHLM = jnp.einsum("blhk,bmhk->bhlm", q_BLHK, k_BMHK) * dims.K**-0.5
    weights_BHLM = _masked_softmax(scores_BHLM, mask_B1LM).astype(v_BMHK.dtype)
    return jnp.einsum("bhlm,bmhk->blhk", weights_BHLM, v_BMHK)


def attend_packed(
    q_BLHK: jax.Array, k_BLHK: jax.Array, v_BLHK: jax.Array, segment_ids_BL: jax.Array
) -> jax.Array:
    """Returns causal attention inside each document of a packed row.

    The signature that every training kernel has.

    Args:
      q_BLHK: float[B, L, H, K], queries.
      k_BLHK: float[B, L, H, K], keys.
      v_BLHK: float[B, L, H, K], values.
      segment_ids_BL: int32[B, L], 1-based document number, 0 for padding.

    Returns:
      float[B, L, H, K].
    """
    return attend(q_BLHK, k_BLHK, v_BLHK, packed_causal_mask(segment_ids_BL))


def attend_cached(
    q_BLHK: jax.Array, k_BHMK: jax.Array, v_BHMK: jax.Array, mask_B1LM: jax.Array
) -> jax.Array:
    """Returns attention over a cache, whose keys lie head by head.

    Args:
      q_BLHK: float[B, L, H, K], queries.
      k_BHMK: float[B, H, M, K], cached keys.
      v_BHMK: float[B, H, M, K], cached values.
      mask_B1LM: bool[B, 1, L, M], True where a query may see a slot.

    Returns:
      float[B, L, H, K].
    """
    scores_BHLM = jnp.einsum("blhk,bhmk->bhlm", q_BLHK, k_BHMK)
    scores_BHLM *= q_BLHK.shape[-1] ** -0.5
    weights_BHLM = _masked_softmax(scores_BHLM, mask_B1LM).astype(v_BHMK.dtype)
    return jnp.einsum("bhlm,bhmk->blhk", weights_BHLM, v_BHMK)


def write(cache_BHMK: jax.Array, new_BLHK: jax.Array, start: jax.Array) -> jax.Array:
    """Returns the cached keys or values with slots [start, start + L) written.

    Args:
      cache_BHMK: float[B, H, M, K], one array of a `KVCache`; donate it.
      new_BLHK: float[B, L, H, K], of the new tokens.
      start: int32[], first slot; start + L must not exceed M.
    """
    new_BHLK = new_BLHK.transpose(0, 2, 1, 3).astype(cache_BHMK.dtype)
    return jax.lax.dynamic_update_slice(cache_BHMK, new_BHLK, (0, 0, start, 0))


def _masked_softmax(scores_BHLM: jax.Array, mask_B1LM: jax.Array) -> jax.Array:
    scores_BHLM = scores_BHLM.astype(jnp.float32)
    # finfo.min, not -inf: an all-masked (padding) row must stay finite.
    scores_BHLM = jnp.where(mask_B1LM, scores_BHLM, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores_BHLM, axis=-1)
