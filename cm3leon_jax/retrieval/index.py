"""Exact maximum-inner-product search over unit vectors, one code path for every chip.

The bank is read chunk by chunk with a running top-k, so that the scores of a batch of
queries against the whole bank are never held. With a mesh, every device searches its
own rows and the few best of all are merged. Of equal scores the lower row wins, on one
device or many, so that the result is that of a full sort.

Letters: N queries, M bank rows, C rows of a chunk, K results, E width of the vectors.
"""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

NONE = -1  # row of a result that does not exist


class Index:
    """A bank of vectors, placed on the devices once and searched many times.

    Attributes:
      num_rows: Bank rows M.
    """

    def __init__(
        self,
        bank_ME: np.ndarray,
        *,
        chunk_size: int = 8_192,
        mesh: jax.sharding.Mesh | None = None,
    ):
        """Places a bank.

        Args:
          bank_ME: float[M, E]; rows that are not finite stand for documents without
            this part and are never found.
          chunk_size: Rows scored at a time; memory is N x chunk_size floats.
          mesh: Devices to spread the rows over, all axes; None for one device.

        Raises:
          ValueError: If `bank_ME` is no matrix or has no row.
        """
        bank_ME = np.asarray(bank_ME, np.float32)
        if bank_ME.ndim != 2 or not len(bank_ME):
            raise ValueError(
                f"a bank is float[M, E] with at least one row, got {bank_ME.shape}"
            )
        self.num_rows = len(bank_ME)
        self._mesh = mesh
        num_shards = 1 if mesh is None else mesh.size
        per_shard = -(-self.num_rows // num_shards)
        self._chunk_size = min(chunk_size, per_shard)
        per_shard = -(-per_shard // self._chunk_size) * self._chunk_size
        # Rows of padding are not finite either, and so are never found.
        padding = ((0, per_shard * num_shards - self.num_rows), (0, 0))
        padded_ME = np.pad(bank_ME, padding, constant_values=np.nan)
        self._bank_ME = jax.device_put(padded_ME, self._sharding())

    def search(self, queries_NE: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the best `k` rows of each query.

        Args:
          queries_NE: float[N, E]; rows that are not finite find nothing.
          k: Results a query.

        Returns:
          float32[N, k] scores, falling, and int32[N, k] rows; where a query has
          fewer results, -inf and -1.

        Raises:
          ValueError: If `k` or the width is wrong.
        """
        width = self._bank_ME.shape[1]
        queries_NE = np.asarray(queries_NE, np.float32)
        if queries_NE.ndim != 2 or queries_NE.shape[1] != width:
            raise ValueError(
                f"queries are float[N, {width}] like the bank, got {queries_NE.shape};"
                " embed both with the same model"
            )
        if k < 1:
            raise ValueError(f"{k=} must be at least 1")
        found = _search(
            queries_NE, self._bank_ME, k=k, chunk_size=self._chunk_size, mesh=self._mesh
        )
        scores_NK, rows_NK = jax.device_get(found)
        return scores_NK, np.where(np.isneginf(scores_NK), NONE, rows_NK)

    def _sharding(self) -> jax.sharding.Sharding | None:
        if self._mesh is None:
            return None
        rows = jax.sharding.PartitionSpec(self._mesh.axis_names)
        return jax.sharding.NamedSharding(self._mesh, rows)


@functools.partial(jax.jit, static_argnames=("k", "chunk_size", "mesh"))
def _search(
    queries_NE: jax.Array,
    bank_ME: jax.Array,
    *,
    k: int,
    chunk_size: int,
    mesh: jax.sharding.Mesh | None,
) -> tuple[jax.Array, jax.Array]:
    """Searches the shards and merges what they found."""
    if mesh is None:
        return _search_shard(queries_NE, bank_ME, 0, k, chunk_size)
    axes = mesh.axis_names

    def on_each(queries_NE, bank_ME):
        first_row = jax.lax.axis_index(axes) * len(bank_ME)
        found = _search_shard(queries_NE, bank_ME, first_row, k, chunk_size)
        # Gathered in the order of the rows, so that ties still go to the lower one.
        return _best(*jax.lax.all_gather(found, axes, axis=1, tiled=True), k)

    spec = jax.sharding.PartitionSpec
    return jax.shard_map(
        on_each,
        mesh=mesh,
        in_specs=(spec(), spec(axes)),
        out_specs=spec(),
        check_vma=False,  # equal on all devices by the gather, which it cannot see
    )(queries_NE, bank_ME)


def _search_shard(
    queries_NE: jax.Array,
    bank_ME: jax.Array,
    first_row: jax.Array | int,
    k: int,
    chunk_size: int,
) -> tuple[jax.Array, jax.Array]:
    """Returns float32[N, k] scores and int32[N, k] rows, the shard's best."""
    chex.assert_is_divisible(len(bank_ME), chunk_size)
    num_queries, num_chunks = len(queries_NE), len(bank_ME) // chunk_size
    kept = min(k, chunk_size)

    def add_chunk(best, numbered_chunk):
        number, chunk_CE = numbered_chunk
        scores_NC = jnp.matmul(
            queries_NE, chunk_CE.T, precision=jax.lax.Precision.HIGHEST
        )
        scores_NC = jnp.where(jnp.isnan(scores_NC), -jnp.inf, scores_NC)
        scores_NK, places_NK = jax.lax.top_k(scores_NC, kept)
        rows_NK = first_row + number * chunk_size + places_NK
        # The running best stand first: their rows are lower, and top_k is stable.
        scores = jnp.concatenate([best[0], scores_NK], axis=1)
        rows = jnp.concatenate([best[1], rows_NK.astype(jnp.int32)], axis=1)
        return _best(scores, rows, k), None

    nothing = (
        jnp.full((num_queries, k), -jnp.inf, jnp.float32),
        jnp.full((num_queries, k), NONE, jnp.int32),
    )
    chunks = bank_ME.reshape(num_chunks, chunk_size, -1)
    best, _ = jax.lax.scan(add_chunk, nothing, (jnp.arange(num_chunks), chunks))
    return best


def _best(scores: jax.Array, rows: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Keeps the best `k` columns; the leftmost of equals."""
    scores_NK, places_NK = jax.lax.top_k(scores, k)
    return scores_NK, jnp.take_along_axis(rows, places_NK, axis=1)
