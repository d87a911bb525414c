"""Exact maximum-inner-product search over unit vectors, one code path for every chip.

The bank is read chunk by chunk with a running top-k, so that the scores of a batch of
queries against the whole bank are never held. With a mesh, every device searches its
own rows and the few best of all are merged. Of equal scores the lower row wins, on one
device or many, so that the result is that of a full sort.

Sorting is slow everywhere, and few rows of a chunk are better than the worst of the
running best. So a chunk is first reduced to the maxima of its segments of 64 rows, which
is one pass; only segments whose maximum beats the worst of the best are sorted in. Where
a query has too many of them (in the first chunks), the whole chunk is.

Letters: N queries, M bank rows, C rows of a chunk, G segments of a chunk, S segments that
are looked at, R rows of a segment, K results, E width of the vectors.

Source of the approximate option: TPU-KNN, arXiv:2206.14286 (`jax.lax.approx_max_k`).
"""

from __future__ import annotations

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

NONE = -1  # row of a result that does not exist
DTYPES = ("float32", "bfloat16")
_SEGMENT = 64  # rows whose maximum is looked at first
_MAX_SEGMENTS = 16  # of a chunk that are sorted in for a query without sorting all


@dataclasses.dataclass(frozen=True)
class IndexConfig:
    """How a bank is searched.

    Attributes:
      chunk_size: Rows scored at a time; memory is N x chunk_size floats.
      dtype: Of the bank on the devices: "float32", or "bfloat16" for half the memory
        and the matrix units of chips, which finds a few others near the last place.
      approximate_recall: 0 for the exact best. Else the share of the best that
        `approx_max_k` aims at in each chunk: faster on TPU, the same elsewhere.

    Raises:
      ValueError: If a field is out of range.
    """

    chunk_size: int = 8_192
    dtype: str = "float32"
    approximate_recall: float = 0.0

    def __post_init__(self):
        if self.chunk_size < 1:
            raise ValueError(f"{self.chunk_size=} must be at least 1")
        if self.dtype not in DTYPES:
            raise ValueError(f"{self.dtype=} must be one of {', '.join(DTYPES)}")
        if not 0 <= self.approximate_recall < 1:
            raise ValueError(f"{self.approximate_recall=} must be in [0, 1)")


class Index:
    """A bank of vectors, placed on the devices once and searched many times.

    Attributes:
      num_rows: Bank rows M.
    """

    def __init__(
        self,
        bank_ME: np.ndarray,
        config: IndexConfig | None = None,
        *,
        mesh: jax.sharding.Mesh | None = None,
    ):
        """Places a bank.

        Args:
          bank_ME: float[M, E]; rows that are not finite stand for documents without
            this part and are never found.
          config: How it is searched; None for the exact best.
          mesh: Devices to spread the rows over, all axes; None for one device.

        Raises:
          ValueError: If `bank_ME` is no matrix or has no row.
        """
        bank_ME = np.asarray(bank_ME, np.float32)
        if bank_ME.ndim != 2 or not len(bank_ME):
            raise ValueError(
                f"a bank is float[M, E] with at least one row, got {bank_ME.shape}"
            )
        config = config or IndexConfig()
        self.num_rows = len(bank_ME)
        self._mesh = mesh
        num_shards = 1 if mesh is None else mesh.size
        per_shard = -(-self.num_rows // num_shards)
        size = min(config.chunk_size, per_shard)
        self._config = dataclasses.replace(config, chunk_size=size)
        per_shard = -(-per_shard // size) * size
        # Rows of padding are not finite either, and so are never found.
        missing = per_shard * num_shards - self.num_rows
        if missing:
            filling = np.full((missing, bank_ME.shape[1]), np.nan, np.float32)
            bank_ME = np.concatenate([bank_ME, filling])
        bank_ME = bank_ME.astype(jnp.dtype(config.dtype), copy=False)
        self._bank_ME = jax.device_put(bank_ME, self._sharding())

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
            queries_NE, self._bank_ME, k=k, config=self._config, mesh=self._mesh
        )
        scores_NK, rows_NK = jax.device_get(found)
        return scores_NK, np.where(np.isneginf(scores_NK), NONE, rows_NK)

    def _sharding(self) -> jax.sharding.Sharding | None:
        if self._mesh is None:
            return None
        rows = jax.sharding.PartitionSpec(self._mesh.axis_names)
        return jax.sharding.NamedSharding(self._mesh, rows)


@functools.partial(jax.jit, static_argnames=("k", "config", "mesh"))
def _search(
    queries_NE: jax.Array,
    bank_ME: jax.Array,
    *,
    k: int,
    config: IndexConfig,
    mesh: jax.sharding.Mesh | None,
) -> tuple[jax.Array, jax.Array]:
    """Searches the shards and merges what they found."""
    if mesh is None:
        return search_rows(queries_NE, bank_ME, 0, k, config)
    axes = mesh.axis_names

    def on_each(queries_NE, bank_ME):
        """Searches one device's rows; every device returns the best of all."""
        first_row = jax.lax.axis_index(axes) * len(bank_ME)
        found = search_rows(queries_NE, bank_ME, first_row, k, config)
        # Gathered in the order of the rows, so that ties still go to the lower one.
        scores, rows = jax.lax.all_gather(found, axes, axis=1, tiled=True)
        return keep_best(scores, rows, k)

    spec = jax.sharding.PartitionSpec
    return jax.shard_map(
        on_each,
        mesh=mesh,
        in_specs=(spec(), spec(axes)),
        out_specs=spec(),
        check_vma=False,  # equal on all devices by the gather, which it cannot see
    )(queries_NE, bank_ME)


def search_rows(
    queries_NE: jax.Array,
    bank_ME: jax.Array,
    first_row: jax.Array | int,
    k: int,
    config: IndexConfig,
) -> tuple[jax.Array, jax.Array]:
    """Returns float32[N, k] scores and int32[N, k] rows, the shard's best."""
    size = config.chunk_size
    chex.assert_is_divisible(len(bank_ME), size)
    num_queries, num_chunks = len(queries_NE), len(bank_ME) // size
    queries_NE = queries_NE.astype(bank_ME.dtype)
    in_segments = not config.approximate_recall and size % _SEGMENT == 0

    def add_chunk(best, numbered_chunk):
        """Scores the next chunk and sorts it into the running best."""
        number, chunk_CE = numbered_chunk
        scores_NC = jnp.matmul(
            queries_NE,
            chunk_CE.T,
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )
        add = _add_segments if in_segments else _add_all
        row = first_row + number * size
        return add(best, scores_NC, row, config.approximate_recall), None

    nothing = (
        jnp.full((num_queries, k), -jnp.inf, jnp.float32),
        jnp.full((num_queries, k), NONE, jnp.int32),
    )
    chunks = bank_ME.reshape(num_chunks, size, -1)
    best, _ = jax.lax.scan(add_chunk, nothing, (jnp.arange(num_chunks), chunks))
    return best


_Best = tuple[jax.Array, jax.Array]  # float32[N, K] scores, int32[N, K] rows


def _add_all(
    best: _Best, scores_NC: jax.Array, first_row: jax.Array, recall: float
) -> _Best:
    """Sorts a whole chunk into the running best."""
    k, size = best[0].shape[1], scores_NC.shape[1]
    scores_NC = _known(scores_NC)
    if recall:
        scores_NK, places_NK = jax.lax.approx_max_k(
            scores_NC, min(k, size), recall_target=recall
        )
    else:
        scores_NK, places_NK = jax.lax.top_k(scores_NC, min(k, size))
    return _merge(best, scores_NK, first_row + places_NK)


def _add_segments(
    best: _Best, scores_NC: jax.Array, first_row: jax.Array, recall: float
) -> _Best:
    """Sorts those segments in that hold a better score; all if they are many."""
    num_queries, size = scores_NC.shape
    scores_NGR = scores_NC.reshape(num_queries, -1, _SEGMENT)
    # A score equal to the worst of the best is not better: its row is higher.
    is_better_NG = _known(scores_NGR).max(axis=2) > best[0][:, -1:]
    rank_NG = jnp.cumsum(is_better_NG, axis=1, dtype=jnp.int32) * is_better_NG
    num_segments = min(_MAX_SEGMENTS, size // _SEGMENT)
    wanted_1S1 = 1 + jnp.arange(num_segments, dtype=jnp.int32)[None, :, None]

    def add_few(best):
        """Sorts in the segments that hold a better score, and no others."""
        is_it_NSG = rank_NG[:, None, :] == wanted_1S1
        # In the order of the rows, so that ties go to the lower one.
        segment_NS1 = jnp.argmax(is_it_NSG, axis=2, keepdims=True)
        scores_NSR = _known(jnp.take_along_axis(scores_NGR, segment_NS1, axis=1))
        exists_NS1 = jnp.any(is_it_NSG, axis=2, keepdims=True)
        scores_NSR = jnp.where(exists_NS1, scores_NSR, -jnp.inf)
        within_11R = jnp.arange(_SEGMENT, dtype=jnp.int32)[None, None]
        rows_NSR = first_row + segment_NS1 * _SEGMENT + within_11R
        return _merge(
            best,
            scores_NSR.reshape(num_queries, -1),
            rows_NSR.reshape(num_queries, -1),
        )

    return jax.lax.cond(
        rank_NG.max() > num_segments,
        lambda best: _add_all(best, scores_NC, first_row, recall),
        add_few,
        best,
    )


def _known(scores: jax.Array) -> jax.Array:
    """Scores of rows that are missing, which are nan, as -inf."""
    return jnp.where(jnp.isnan(scores), -jnp.inf, scores)


def _merge(best: _Best, scores: jax.Array, rows: jax.Array) -> _Best:
    """Puts later scores beside the running best and keeps the best of both."""
    k = best[0].shape[1]
    # The running best stand first: their rows are lower, and top_k is stable.
    scores = jnp.concatenate([best[0], scores], axis=1)
    rows = jnp.concatenate([best[1], rows.astype(jnp.int32)], axis=1)
    return keep_best(scores, rows, k)


def keep_best(scores: jax.Array, rows: jax.Array, k: int) -> _Best:
    """Keeps the best `k` columns; the leftmost of equals."""
    scores_NK, places_NK = jax.lax.top_k(scores, k)
    return scores_NK, jnp.take_along_axis(rows, places_NK, axis=1)
