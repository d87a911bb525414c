"""Next-token cross-entropy that never holds the logits of a whole batch.

The head and the cross-entropy run together over pieces of the rows. Gradients with
respect to features and table are computed in the forward pass, while a piece's
logits are there, so that the backward pass only scales them and no logits are kept
or computed twice.

On a mesh each device computes the pieces of its own rows (`shard_map`): the table is
gathered once a step, in the features' dtype, and its gradient, summed up in float32 over
the pieces, is reduced once. Along the vocabulary's axis each device has its own ids, and
only maxima and sums of a token's logits are exchanged.

Letters: B rows, L sequence, D model width, V vocabulary; lower case: this device's part.
"""

import dataclasses
import functools
import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from cm3leon_jax import sharding
from cm3leon_jax.models import layers
from cm3leon_jax.train import shares

_LOGIT_BYTES = 4  # logits and their softmax are float32


@dataclasses.dataclass(frozen=True)
class _How:
    """What a loss is computed with; hashable, for `custom_vjp`."""

    num_chunks: int
    z_loss: float
    product_dtype: str | None
    gradient_dtype: str
    mesh: jax.sharding.Mesh | None

    def axes(self, *logical: str) -> tuple[str, ...]:
        """Mesh axes to exchange over, none on one device."""
        return sharding.axes(self.mesh, *logical)


def next_token_loss(
    x_BLD: jax.Array,
    table_VD: jax.Array,
    targets_BL: jax.Array,
    weights_BL: jax.Array,
    *,
    num_chunks: int = 1,
    z_loss: float = 0.0,
    product_dtype: str | None = None,
    gradient_dtype: str = "float32",
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns the weighted sum of the tokens' losses, and each token's own.

    Sums, not means: dividing by the weight of all microbatches and devices makes
    one batch equal its parts. Differentiable in `x_BLD` and `table_VD` only, and
    only through the sum.

    Args:
      x_BLD: float[B, L, D], features after the final norm.
      table_VD: float[V, D], the head's weights; multiplied in the features' dtype,
        their gradient is in their own.
      targets_BL: int32[B, L], the next token's id, in [0, V).
      weights_BL: float32[B, L], of each token's loss; 0 on padding.
      num_chunks: pieces of each row on a device; must divide its length there. See
        `chunks_for`.
      z_loss: factor of log(sum of exp(logits))^2, which keeps logits from drifting
        (PaLM, arXiv:2204.02311, section 5; 1e-5 in Chameleon, 0 in CM3Leon). It is
        part of the sum but not of the tokens' losses.
      product_dtype: see `layers.project`.
      gradient_dtype: likewise; of the table's, after the pieces are added in float32.
      mesh: that the arrays lie on; one device by default.

    Returns:
      `(total, nll_BL)`: float32[], and float32[B, L] in nats, without weights.
    """
    dims = chex.Dimensions(D=x_BLD.shape[2])
    dims["BL"] = targets_BL.shape
    chex.assert_shape(x_BLD, dims["BLD"])
    chex.assert_shape(weights_BL, dims["BL"])
    mesh = None if mesh is None or mesh.size == 1 else mesh
    how = _How(num_chunks, z_loss, product_dtype, gradient_dtype, mesh)
    return _loss(x_BLD, table_VD, targets_BL, weights_BL, how)


def chunks_for(
    chunk_bytes: int,
    *,
    num_rows: int,
    length: int,
    vocab_size: int,
    mesh: jax.sharding.Mesh | None = None,
) -> int:
    """Returns the fewest pieces of a row whose logits fit `chunk_bytes` a device.

    Args:
      chunk_bytes: limit for one piece's float32 logits on one device.
      num_rows: B, of the whole (micro)batch.
      length: L; the result divides a device's part of it.
      vocab_size: V.
      mesh: that the logits are spread over; one device by default.
    """
    local_length = length // sharding.count(mesh, "length")
    shards = sharding.count(mesh, "batch", "length", "vocab")
    logits = num_rows * length * vocab_size / shards
    wanted = max(1, math.ceil(logits * _LOGIT_BYTES / chunk_bytes))
    divisors = [n for n in range(1, local_length + 1) if local_length % n == 0]
    return next((n for n in divisors if n >= wanted), local_length)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _loss(x_BLD, table_VD, targets_BL, weights_BL, how: _How):
    """Runs without gradients, for evaluation."""
    return _on_mesh(_values, how)(x_BLD, table_VD, targets_BL, weights_BL)


def _loss_forward(x_BLD, table_VD, targets_BL, weights_BL, how: _How):
    found = _on_mesh(_values_and_gradients, how)(
        x_BLD, table_VD, targets_BL, weights_BL
    )
    return found[:2], found[2:]


def _loss_backward(how: _How, saved, cotangents):
    del how
    scale = cotangents[0]
    grad_x_BLD, grad_table_VD = jax.tree.map(lambda x: x * scale.astype(x.dtype), saved)
    return grad_x_BLD, grad_table_VD, None, None


_loss.defvjp(_loss_forward, _loss_backward)


def _on_mesh(function, how: _How):
    """The function of one device's parts, on every device of the mesh."""
    local = functools.partial(function, how)
    if how.mesh is None:
        return local
    x, table = (
        sharding.spec(("batch", "length", None)),
        sharding.spec(("vocab", "embed")),
    )
    ids = sharding.spec(("batch", "length"))
    results = (PartitionSpec(), ids, x, table)
    return jax.shard_map(
        local,
        mesh=how.mesh,
        in_specs=(x, table, ids, ids),
        out_specs=results if function is _values_and_gradients else results[:2],
        check_vma=False,
    )


def _values(how: _How, x_blD, table_vd, targets_bl, weights_bl):
    table_Dv = layers.swap(_gathered(how, table_vd, x_blD.dtype), 1, how.product_dtype)

    def piece(_, part):
        """Losses of one piece of the rows."""
        x_blD, targets_bl, weights_bl = part
        logits_blv = _logits(how, x_blD, table_Dv)
        *_, norm_bl = _softmax(how, logits_blv)
        nll_bl = norm_bl - _pick(how, logits_blv, targets_bl)
        return None, (_total(how, nll_bl, norm_bl, weights_bl), nll_bl)

    parts = _split((x_blD, targets_bl, weights_bl), how.num_chunks)
    _, (totals, nll) = jax.lax.scan(piece, None, parts)
    return _sum(totals.sum(), how.axes("batch", "length")), _joined(nll)


def _values_and_gradients(how: _How, x_blD, table_vd, targets_bl, weights_bl):
    table_vD = _gathered(how, table_vd, x_blD.dtype)
    table_Dv = layers.swap(table_vD, 1, how.product_dtype)
    num_ids = table_vD.shape[0]
    ids_11v = _first_id(how, num_ids) + jnp.arange(num_ids)[None, None]

    def piece(grad_table_vD, part):
        """Losses and gradients of one piece; the table's gradient is added up."""
        x_blD, targets_bl, weights_bl = part
        logits_blv = _logits(how, x_blD, table_Dv)
        # One exponential serves the loss and the gradient.
        exps_blv, sums_bl, norm_bl = _softmax(how, logits_blv)
        nll_bl = norm_bl - _pick(how, logits_blv, targets_bl)
        # d(nll)/d(logit) = softmax - onehot; the z term adds 2 z norm softmax.
        scale_bl = weights_bl * (1 + 2 * how.z_loss * norm_bl) / sums_bl
        grad_blv = exps_blv * scale_bl[..., None]
        hits_blv = targets_bl[..., None] == ids_11v
        grad_blv -= jnp.where(hits_blv, weights_bl[..., None], 0)
        grad_blv = grad_blv.astype(x_blD.dtype)
        grad_x_blD = layers.contract(grad_blv, table_vD, 1, how.product_dtype)
        grad_table_vD += layers.outer(grad_blv, x_blD, jnp.float32, how.product_dtype)
        total = _total(how, nll_bl, norm_bl, weights_bl)
        return grad_table_vD, (total, nll_bl, grad_x_blD)

    parts = _split((x_blD, targets_bl, weights_bl), how.num_chunks)
    zeros_vD = jnp.zeros(table_vD.shape, jnp.float32)
    grad_table_vD, (totals, nll, grad_x) = jax.lax.scan(piece, zeros_vD, parts)
    total = _sum(totals.sum(), how.axes("batch", "length"))
    grad_x_blD = _sum(_joined(grad_x), how.axes("vocab"))
    grad_table_vd = _reduced(how, grad_table_vD).astype(table_vd.dtype)
    return total, _joined(nll), grad_x_blD, grad_table_vd


def _gathered(how: _How, table_vd: jax.Array, dtype: Any) -> jax.Array:
    """Whole rows of the table, rounded before they travel."""
    return shares.gathered(table_vd.astype(how.product_dtype or dtype), how.mesh, 1)


def _reduced(how: _How, grad_vD: jax.Array) -> jax.Array:
    """The table's gradient from all rows, each device keeping its own columns."""
    return shares.reduced(grad_vD.astype(how.gradient_dtype), how.mesh, 1)


def _sum(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    return jax.lax.psum(x, axes) if axes else x


def _logits(how: _How, x_blD: jax.Array, table_Dv: jax.Array) -> jax.Array:
    return layers.contract(x_blD, table_Dv, 1, how.product_dtype, jnp.float32)


def _first_id(how: _How, num_ids: int) -> jax.Array | int:
    """The first id of this device's part of the vocabulary."""
    axes = how.axes("vocab")
    return jax.lax.axis_index(axes) * num_ids if axes else 0


def _softmax(how: _How, logits_blv: jax.Array):
    """Exponentials, their sum over all ids, and the logarithm of the true sum."""
    highest_bl = logits_blv.max(axis=-1)
    if how.axes("vocab"):
        highest_bl = jax.lax.pmax(highest_bl, how.axes("vocab"))
    exps_blv = jnp.exp(logits_blv - highest_bl[..., None])
    sums_bl = _sum(exps_blv.sum(axis=-1), how.axes("vocab"))
    return exps_blv, sums_bl, highest_bl + jnp.log(sums_bl)


def _pick(how: _How, logits_blv: jax.Array, targets_bl: jax.Array) -> jax.Array:
    """The targets' logits, from whichever device has them."""
    if not how.axes("vocab"):
        return jnp.take_along_axis(logits_blv, targets_bl[..., None], axis=-1)[..., 0]
    num_ids = logits_blv.shape[-1]
    places_bl = targets_bl - _first_id(how, num_ids)
    is_here_bl = (places_bl >= 0) & (places_bl < num_ids)
    places_bl1 = jnp.where(is_here_bl, places_bl, 0)[..., None]
    picked_bl = jnp.take_along_axis(logits_blv, places_bl1, axis=-1)[..., 0]
    return _sum(jnp.where(is_here_bl, picked_bl, 0), how.axes("vocab"))


def _total(how: _How, nll_bl, norm_bl, weights_bl) -> jax.Array:
    return (weights_bl * (nll_bl + how.z_loss * jnp.square(norm_bl))).sum()


def _split(arrays, num_chunks: int):
    """[b, l, ...] -> [pieces, b, l / pieces, ...]."""

    def split(x):
        """One array, its pieces in front."""
        batch, length = x.shape[:2]
        if length % num_chunks:
            raise ValueError(f"{num_chunks=} must divide the row length {length}")
        x = x.reshape(batch, num_chunks, length // num_chunks, *x.shape[2:])
        return jnp.moveaxis(x, 1, 0)

    return jax.tree.map(split, arrays)


def _joined(x: jax.Array) -> jax.Array:
    """[pieces, b, l, ...] -> [b, pieces * l, ...]."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])
