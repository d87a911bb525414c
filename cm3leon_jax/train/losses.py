"""Next-token cross-entropy that never holds the logits of a whole batch.

The head and the cross-entropy run together over pieces of the rows. Gradients with
respect to features and table are computed in the forward pass, while a piece's
logits are there, so that the backward pass only scales them and no logits are kept
or computed twice.

Letters: B rows, L sequence, D model width, V vocabulary.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from cm3leon_jax.models import layers

_LOGIT_BYTES = 4  # logits and their softmax are float32


def next_token_loss(
    x_BLD: jax.Array,
    table_VD: jax.Array,
    targets_BL: jax.Array,
    weights_BL: jax.Array,
    *,
    num_chunks: int = 1,
    z_loss: float = 0.0,
    product_dtype: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns the weighted sum of the tokens' losses, and each token's own.

    Sums, not means: dividing by the weight of all microbatches and devices makes
    one batch equal its parts. Differentiable in `x_BLD` and `table_VD` only, and
    only through the sum.

    Args:
      x_BLD: float[B, L, D], features after the final norm.
      table_VD: float[V, D], the head's weights.
      targets_BL: int32[B, L], the next token's id, in [0, V).
      weights_BL: float32[B, L], of each token's loss; 0 on padding.
      num_chunks: pieces of each row; must divide L. See `chunks_for`.
      z_loss: factor of log(sum of exp(logits))^2, which keeps logits from drifting
        (PaLM, arXiv:2204.02311, section 5; 1e-5 in Chameleon, 0 in CM3Leon). It is
        part of the sum but not of the tokens' losses.
      product_dtype: see `layers.project`.

    Returns:
      `(total, nll_BL)`: float32[], and float32[B, L] in nats, without weights.
    """
    dims = chex.Dimensions(D=x_BLD.shape[2])
    dims["BL"] = targets_BL.shape
    chex.assert_shape(x_BLD, dims["BLD"])
    chex.assert_shape(weights_BL, dims["BL"])
    options = (num_chunks, z_loss, product_dtype)
    return _loss(x_BLD, table_VD, targets_BL, weights_BL, *options)


def chunks_for(
    chunk_bytes: int, *, batch: int, length: int, vocab_size: int, num_shards: int = 1
) -> int:
    """Returns the fewest pieces of a row whose logits fit `chunk_bytes` a device.

    Args:
      chunk_bytes: limit for one piece's float32 logits on one device.
      batch: rows of the whole (micro)batch, B.
      length: L, which the result divides.
      vocab_size: V.
      num_shards: devices that the logits are spread over.
    """
    whole = batch * length * vocab_size * _LOGIT_BYTES / num_shards
    wanted = max(1, int(np.ceil(whole / chunk_bytes)))
    divisors = [n for n in range(1, length + 1) if length % n == 0]
    return next((n for n in divisors if n >= wanted), length)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _loss(x_BLD, table_VD, targets_BL, weights_BL, num_chunks, z_loss, dtype):
    """Runs without gradients, for evaluation."""
    table_DV = layers.swap(table_VD, 1, dtype)

    def piece(_, part):
        x_BLD, targets_BL, weights_BL = part
        logits_BLV = layers.contract(x_BLD, table_DV, 1, dtype, jnp.float32)
        norm_BL = jax.nn.logsumexp(logits_BLV, axis=-1)
        nll_BL = norm_BL - _pick(logits_BLV, targets_BL)
        return None, (_total(nll_BL, norm_BL, weights_BL, z_loss), nll_BL)

    parts = _split((x_BLD, targets_BL, weights_BL), num_chunks)
    _, (totals, nll) = jax.lax.scan(piece, None, parts)
    return totals.sum(), _joined(nll)


def _loss_forward(x_BLD, table_VD, targets_BL, weights_BL, num_chunks, z_loss, dtype):
    table_DV = layers.swap(table_VD, 1, dtype)

    def piece(grad_table_VD, part):
        x_BLD, targets_BL, weights_BL = part
        logits_BLV = layers.contract(x_BLD, table_DV, 1, dtype, jnp.float32)
        # One exponential serves the loss and the gradient.
        highest_BL1 = logits_BLV.max(axis=-1, keepdims=True)
        exps_BLV = jnp.exp(logits_BLV - highest_BL1)
        sums_BL = exps_BLV.sum(axis=-1)
        norm_BL = highest_BL1[..., 0] + jnp.log(sums_BL)
        nll_BL = norm_BL - _pick(logits_BLV, targets_BL)
        # d(nll)/d(logit) = softmax - onehot; the z term adds 2 z norm softmax.
        scale_BL = weights_BL * (1 + 2 * z_loss * norm_BL) / sums_BL
        hits_BLV = targets_BL[..., None] == jnp.arange(table_VD.shape[0])[None, None]
        grad_BLV = exps_BLV * scale_BL[..., None]
        grad_BLV -= jnp.where(hits_BLV, weights_BL[..., None], 0)
        grad_BLV = grad_BLV.astype(x_BLD.dtype)
        grad_x_BLD = layers.contract(grad_BLV, table_VD, 1, dtype)
        grad_table_VD += layers.outer(grad_BLV, x_BLD, jnp.float32, dtype)
        total = _total(nll_BL, norm_BL, weights_BL, z_loss)
        return grad_table_VD, (total, nll_BL, grad_x_BLD)

    parts = _split((x_BLD, targets_BL, weights_BL), num_chunks)
    zeros_VD = jnp.zeros(table_VD.shape, jnp.float32)
    grad_table_VD, (totals, nll, grad_x) = jax.lax.scan(piece, zeros_VD, parts)
    gradients = (_joined(grad_x), grad_table_VD.astype(table_VD.dtype))
    return (totals.sum(), _joined(nll)), gradients


def _loss_backward(num_chunks, z_loss, dtype, gradients, cotangents):
    del num_chunks, z_loss, dtype
    scale = cotangents[0]
    grad_x_BLD, grad_table_VD = jax.tree.map(
        lambda x: x * scale.astype(x.dtype), gradients
    )
    return grad_x_BLD, grad_table_VD, None, None


_loss.defvjp(_loss_forward, _loss_backward)


def _pick(logits_BLV: jax.Array, targets_BL: jax.Array) -> jax.Array:
    return jnp.take_along_axis(logits_BLV, targets_BL[..., None], axis=-1)[..., 0]


def _total(nll_BL, norm_BL, weights_BL, z_loss: float) -> jax.Array:
    return (weights_BL * (nll_BL + z_loss * jnp.square(norm_BL))).sum()


def _split(arrays, num_chunks: int):
    """[B, L, ...] -> [pieces, B, L / pieces, ...]; rows stay on their devices."""

    def split(x):
        batch, length = x.shape[:2]
        if length % num_chunks:
            raise ValueError(f"{num_chunks=} must divide the row length {length}")
        x = x.reshape(batch, num_chunks, length // num_chunks, *x.shape[2:])
        return jnp.moveaxis(x, 1, 0)

    return jax.tree.map(split, arrays)


def _joined(x: jax.Array) -> jax.Array:
    """[pieces, B, l, ...] -> [B, L, ...]."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])
