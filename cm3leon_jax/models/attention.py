"""Attention over packed rows and over a key-value cache.

Plain JAX on one device. Kernels for accelerators come from libraries and are
handed to the model as a function of the same signature as `attend_packed`.

Letters: B rows, L queries, M keys, H heads, K width per head, 1 broadcast.
"""

import itertools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

# Added to hidden scores: they vanish beside any visible one, and a row in which all
# are hidden stays finite, which minus infinity would not.
_HIDDEN = -1e30
_MAX_BLOCKS = 4
_MIN_BLOCK = 64  # queries; shorter products are slower than the ones they save


class Rounded(NamedTuple):
    """Cached keys or values in 8 bits, each vector with a scale of its own.

    Attributes:
      values_BHMK: int8[B, H, M, K].
      scale_BHM1: float32[B, H, M, 1].
    """

    values_BHMK: jax.Array
    scale_BHM1: jax.Array


Cached = jax.Array | Rounded  # keys or values of one layer


class KVCache(NamedTuple):
    """Keys and values of the tokens seen so far, one pair of arrays a layer.

    Attributes:
      k_BHMK: num_layers x float[B, H, M, K] or `Rounded`, keys.
      v_BHMK: num_layers x float[B, H, M, K] or `Rounded`, values.
      valid_BM: bool[B, M], False for slots not yet written and for left padding.
      length: int32[], slots written; the same for every row (pad on the left).
    """

    k_BHMK: tuple[Cached, ...]
    v_BHMK: tuple[Cached, ...]
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

    scores_BHLM = jnp.einsum("blhk,bmhk->bhlm", q_BLHK, k_BMHK)
    scores_BHLM = scores_BHLM * q_BLHK.shape[-1] ** -0.5
    weights_BHLM = _masked_softmax(scores_BHLM, mask_B1LM).astype(v_BMHK.dtype)
    return jnp.einsum("bhlm,bmhk->blhk", weights_BHLM, v_BMHK)


@jax.custom_vjp
def attend_packed(
    q_BLHK: jax.Array, k_BLHK: jax.Array, v_BLHK: jax.Array, segment_ids_BL: jax.Array
) -> jax.Array:
    """Returns causal attention inside each document of a packed row.

    The signature that every training kernel has. Equal to `attend` with
    `packed_causal_mask`, but a block of queries is multiplied only with the keys up
    to its end (5/8 of the products for four blocks), the softmax is divided after the
    product with the values, and the backward pass contracts with the narrow array on
    the left, which XLA on CPU must transpose: 1.7 times as fast there.

    Args:
      q_BLHK: float[B, L, H, K], queries.
      k_BLHK: float[B, L, H, K], keys.
      v_BLHK: float[B, L, H, K], values.
      segment_ids_BL: int32[B, L], 1-based document number, 0 for padding.

    Returns:
      float[B, L, H, K], in the dtype of `v_BLHK`.
    """
    return _packed_forward(q_BLHK, k_BLHK, v_BLHK, segment_ids_BL)[0]


def _packed_forward(q_BLHK, k_BLHK, v_BLHK, segment_ids_BL):
    chex.assert_equal_shape([q_BLHK, k_BLHK, v_BLHK])
    scale = q_BLHK.shape[-1] ** -0.5
    q_BHLK, k_BHMK, v_BHMK = map(_heads_first, (q_BLHK * scale, k_BLHK, v_BLHK))
    mask_B1LM = packed_causal_mask(segment_ids_BL)
    mixed, saved = [], []
    for start, end in _blocks(q_BHLK.shape[2]):
        k_BHmK, v_BHmK = k_BHMK[:, :, :end], v_BHMK[:, :, :end]
        scores_BHlm = _batched(q_BHLK[:, :, start:end], k_BHmK, 3, 3, jnp.float32)
        hidden_B1lm = jnp.where(mask_B1LM[:, :, start:end, :end], 0.0, _HIDDEN)
        scores_BHlm += hidden_B1lm
        exps_BHlm = jnp.exp(scores_BHlm - scores_BHlm.max(-1, keepdims=True))
        inverse_BHl1 = 1 / exps_BHlm.sum(-1, keepdims=True)
        exps_BHlm = exps_BHlm.astype(v_BHMK.dtype)
        mixed_BHlK = _batched(exps_BHlm, v_BHmK, 3, 2, jnp.float32) * inverse_BHl1
        mixed.append(mixed_BHlK.astype(v_BHMK.dtype))
        saved.append((exps_BHlm, inverse_BHl1))
    mixed_BHLK = jnp.concatenate(mixed, axis=2)
    return _heads_first(mixed_BHLK), (q_BHLK, k_BHMK, v_BHMK, mixed_BHLK, saved)


def _packed_backward(residuals, grad_BLHK):
    q_BHLK, k_BHMK, v_BHMK, mixed_BHLK, saved = residuals
    grad_BHLK = _heads_first(grad_BLHK).astype(jnp.float32)
    # The softmax's backward subtracts sum(weights * d weights) = sum(out * d out).
    delta_BHL1 = (grad_BHLK * mixed_BHLK).sum(-1, keepdims=True)
    grad_q, grad_k_BHMK, grad_v_BHMK = (
        [],
        jnp.zeros_like(k_BHMK),
        jnp.zeros_like(v_BHMK),
    )
    for (start, end), (exps_BHlm, inverse_BHl1) in zip(
        _blocks(q_BHLK.shape[2]), saved, strict=True
    ):
        block = (slice(None), slice(None), slice(start, end))
        grad_BHlK = grad_BHLK[block] * inverse_BHl1
        delta_BHl1 = delta_BHL1[block] * inverse_BHl1
        grad_BHlK = grad_BHlK.astype(v_BHMK.dtype)
        back_BHlm = _batched(grad_BHlK, v_BHMK[:, :, :end], 3, 3, jnp.float32)
        back_BHlm = (exps_BHlm * (back_BHlm - delta_BHl1)).astype(q_BHLK.dtype)
        grad_q.append(_batched(back_BHlm, k_BHMK[:, :, :end], 3, 2))
        grad_k_BHKm = _batched(q_BHLK[block], back_BHlm, 2, 2)
        grad_v_BHKm = _batched(grad_BHlK, exps_BHlm, 2, 2)
        # Without the barrier XLA would swap the operands back.
        grad_k_BHKm, grad_v_BHKm = jax.lax.optimization_barrier(
            (grad_k_BHKm, grad_v_BHKm)
        )
        grad_k_BHMK = grad_k_BHMK.at[:, :, :end].add(jnp.swapaxes(grad_k_BHKm, 2, 3))
        grad_v_BHMK = grad_v_BHMK.at[:, :, :end].add(jnp.swapaxes(grad_v_BHKm, 2, 3))
    grad_q_BHLK = jnp.concatenate(grad_q, axis=2) * q_BHLK.shape[-1] ** -0.5
    gradients = (grad_q_BHLK, grad_k_BHMK, grad_v_BHMK)
    return (*map(_heads_first, gradients), None)


attend_packed.defvjp(_packed_forward, _packed_backward)


def attend_cached(
    q_BLHK: jax.Array,
    k_BHMK: Cached,
    v_BHMK: Cached,
    mask_B1LM: jax.Array,
) -> jax.Array:
    """Returns attention over a cache, whose keys lie head by head.

    Scales of a rounded cache multiply scores and weights, not keys and values.

    Args:
      q_BLHK: float[B, L, H, K], queries.
      k_BHMK: float[B, H, M, K] or rounded, cached keys.
      v_BHMK: float[B, H, M, K] or rounded, cached values.
      mask_B1LM: bool[B, 1, L, M], True where a query may see a slot.

    Returns:
      float[B, L, H, K].
    """
    k_BHMK, k_scale_BH1M = _parts(k_BHMK, q_BLHK.dtype)
    v_BHMK, v_scale_BH1M = _parts(v_BHMK, q_BLHK.dtype)
    scores_BHLM = jnp.einsum("blhk,bhmk->bhlm", q_BLHK, k_BHMK)
    scores_BHLM *= q_BLHK.shape[-1] ** -0.5
    if k_scale_BH1M is not None:
        scores_BHLM *= k_scale_BH1M
    weights_BHLM = _masked_softmax(scores_BHLM, mask_B1LM)
    if v_scale_BH1M is not None:
        weights_BHLM *= v_scale_BH1M
    return jnp.einsum("bhlm,bhmk->blhk", weights_BHLM.astype(v_BHMK.dtype), v_BHMK)


def attend_next(
    q_B1HK: jax.Array,
    new_k_B1HK: jax.Array,
    new_v_B1HK: jax.Array,
    k_BHMK: Cached,
    v_BHMK: Cached,
    mask_B11M: jax.Array,
) -> jax.Array:
    """Returns attention of one more token over the cache before it, and over itself.

    Equal to `attend_cached` after `write`, but the cache is read as it was: XLA on CPU
    would write into one copy of it for every reader. The cache stands on the left of
    its products, else it would be copied transposed too.

    Args:
      q_B1HK: float[B, 1, H, K], query.
      new_k_B1HK: float[B, 1, H, K], key of the token itself.
      new_v_B1HK: float[B, 1, H, K], its value.
      k_BHMK: float[B, H, M, K] or rounded, cached keys.
      v_BHMK: float[B, H, M, K] or rounded, cached values.
      mask_B11M: bool[B, 1, 1, M], True where the token may see an earlier slot.

    Returns:
      float[B, 1, H, K].
    """
    q_BHK1 = q_B1HK.transpose(0, 2, 3, 1) * q_B1HK.shape[-1] ** -0.5
    new_k_BH1K, new_v_BH1K = (x.swapaxes(1, 2) for x in (new_k_B1HK, new_v_B1HK))
    k_BHMK, k_scale_BH1M = _parts(k_BHMK, q_B1HK.dtype)
    v_BHMK, v_scale_BH1M = _parts(v_BHMK, q_B1HK.dtype)
    past_BH1M = jnp.einsum("bhmk,bhkl->bhml", k_BHMK, q_BHK1).swapaxes(2, 3)
    past_BH1M = past_BH1M.astype(jnp.float32)
    if k_scale_BH1M is not None:
        past_BH1M *= k_scale_BH1M
    self_BH11 = jnp.einsum("bhmk,bhkl->bhml", new_k_BH1K, q_BHK1).astype(jnp.float32)
    past_BH1M = jnp.where(mask_B11M, past_BH1M, jnp.finfo(jnp.float32).min)
    largest_BH11 = jnp.maximum(past_BH1M.max(-1, keepdims=True), self_BH11)
    past_BH1M = jnp.exp(past_BH1M - largest_BH11)
    self_BH11 = jnp.exp(self_BH11 - largest_BH11)
    total_BH11 = past_BH1M.sum(-1, keepdims=True) + self_BH11
    if v_scale_BH1M is not None:
        past_BH1M *= v_scale_BH1M
    past_BHM1 = past_BH1M.swapaxes(2, 3).astype(v_BHMK.dtype)
    mixed_BHK1 = jnp.einsum("bhmk,bhml->bhkl", v_BHMK, past_BHM1)
    mixed_BH1K = mixed_BHK1.swapaxes(2, 3) + self_BH11 * new_v_BH1K
    return (mixed_BH1K / total_BH11).astype(q_B1HK.dtype).swapaxes(1, 2)


def write(cache_BHMK: Cached, new_BLHK: jax.Array, start: jax.Array) -> Cached:
    """Returns the cached keys or values with slots [start, start + L) written.

    Args:
      cache_BHMK: float[B, H, M, K] or rounded, one array of a `KVCache`; donate it.
      new_BLHK: float[B, L, H, K], of the new tokens.
      start: int32[], first slot; start + L must not exceed M.
    """
    new_BHLK = new_BLHK.transpose(0, 2, 1, 3)
    if isinstance(cache_BHMK, Rounded):
        return jax.tree.map(
            lambda old, new: jax.lax.dynamic_update_slice(old, new, (0, 0, start, 0)),
            cache_BHMK,
            Rounded(*rounded(new_BHLK, 3)),
        )
    new_BHLK = new_BHLK.astype(cache_BHMK.dtype)
    return jax.lax.dynamic_update_slice(cache_BHMK, new_BHLK, (0, 0, start, 0))


def rounded(x: jax.Array, axis: int | tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Returns `x` in 8 bits and its scale, one for all values along `axis`.

        x       [0.5 -1.0]
        values  [64 -127]    scale  [1 / 127]

    Args:
      x: float.
      axis: dimensions that share a scale.

    Returns:
      int8 of the shape of `x`; float32 with 1 along `axis`.
    """
    x = x.astype(jnp.float32)
    largest = jnp.abs(x).max(axis, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1.0) / 127
    return jnp.round(x / scale).astype(jnp.int8), scale


def _parts(cache_BHMK: Cached, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array | None]:
    """A cache's numbers as factors, and the scale of each slot if it has one."""
    if isinstance(cache_BHMK, Rounded):
        scale_BH1M = cache_BHMK.scale_BHM1.swapaxes(2, 3)
        return cache_BHMK.values_BHMK.astype(dtype), scale_BH1M
    return cache_BHMK, None


def _masked_softmax(scores_BHLM: jax.Array, mask_B1LM: jax.Array) -> jax.Array:
    scores_BHLM = scores_BHLM.astype(jnp.float32)
    # finfo.min, not -inf: an all-masked (padding) row must stay finite.
    scores_BHLM = jnp.where(mask_B1LM, scores_BHLM, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores_BHLM, axis=-1)


def _blocks(length: int) -> list[tuple[int, int]]:
    """Cuts the queries into a few blocks of about equal length."""
    count = max(1, min(_MAX_BLOCKS, length // _MIN_BLOCK))
    bounds = [length * i // count for i in range(count + 1)]
    return list(itertools.pairwise(bounds))


def _heads_first(x: jax.Array) -> jax.Array:
    """[B, L, H, K] -> [B, H, L, K], and back."""
    return x.transpose(0, 2, 1, 3)


def _batched(a: jax.Array, b: jax.Array, over_a: int, over_b: int, dtype=None):
    """The product of [B, H, ...] arrays, one dimension of each contracted."""
    dims = (((over_a,), (over_b,)), ((0, 1), (0, 1)))
    return jax.lax.dot_general(a, b, dims, preferred_element_type=dtype)
