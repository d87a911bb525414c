"""The best rows of one device's bank for each query, found chunk by chunk.

The scores of a batch of queries against the whole bank are never held. Of equal scores
the lower row wins, so that the result is that of a full sort.

Sorting is slow everywhere, and few rows of a chunk are better than the worst of the
running best. So a chunk is first reduced to the maxima of its segments of 64 rows, which
is one pass; only segments whose maximum beats the worst of the best become candidates.
Where a query has too many of them (in the first chunks), the best of the whole chunk do.
The candidates of a few chunks are then sorted into the running best at once.

Letters: N queries, M bank rows, J chunks of a group, C rows of a chunk, G segments of a
chunk, S segments that are looked at, R rows of a segment, W candidates of a chunk, K
results, E width of the vectors.

Source of the approximate option: TPU-KNN, arXiv:2206.14286 (`jax.lax.approx_max_k`).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

NONE = -1  # row of a result that does not exist
_GROUP = 8  # chunks whose candidates are sorted in at once
_SEGMENT = 64  # rows whose maximum is looked at first
_MAX_SEGMENTS = 16  # of a chunk that are looked at for a query without sorting all


class Best(NamedTuple):
    """The best rows of each query, best first.

    Attributes:
      scores: float32[N, K], -inf where there is no row.
      rows: int32[N, K], without meaning where there is none.
    """

    scores: jax.Array
    rows: jax.Array


def layout(num_rows: int, chunk_size: int) -> tuple[int, int]:
    """Returns the size and number of chunks for `num_rows`, of `chunk_size` at most.

    The last are filled up: as evenly as whole groups and segments allow.
    """
    num_chunks = -(-num_rows // chunk_size)
    if num_chunks > _GROUP:
        num_chunks = -(-num_chunks // _GROUP) * _GROUP
    size = -(-num_rows // num_chunks)
    if chunk_size % _SEGMENT == 0:
        size = -(-size // _SEGMENT) * _SEGMENT
    return size, num_chunks


def find_best(
    queries_NE: jax.Array,
    vectors_ME: jax.Array,
    exists_M: jax.Array,
    k: int,
    *,
    chunk_size: int,
    dtype: str,
    recall: float = 0.0,
) -> Best:
    """Returns the best `k` of one device's rows.

    Args:
      queries_NE: float[N, E].
      vectors_ME: float[M, E], 0 where there is no vector; M is a multiple of
        `chunk_size`.
      exists_M: bool[M], whether there is a vector.
      k: Results a query.
      chunk_size: Rows scored at a time.
      dtype: Of the factors; products are summed up in float32.
      recall: 0 for the best, else what `approx_max_k` aims at in each chunk.
    """
    num_queries = len(queries_NE)
    chex.assert_is_divisible(len(vectors_ME), chunk_size)
    num_chunks = len(vectors_ME) // chunk_size
    group = next(size for size in range(_GROUP, 0, -1) if num_chunks % size == 0)

    def add_group(best: Best, first_rows_J: jax.Array) -> tuple[Best, None]:
        """Sorts the candidates of the next chunks into the running best."""

        def look(first_row: jax.Array) -> Best:
            """Scores one chunk; what is no better than the best so far is left out."""
            vectors_CE, exists_C = (
                jax.lax.dynamic_slice_in_dim(bank, first_row, chunk_size)
                for bank in (vectors_ME, exists_M)
            )
            scores_NC = _products(queries_NE, vectors_CE, dtype)
            found = _candidates(scores_NC, exists_C, best.scores[:, -1:], k, recall)
            return Best(found.scores, first_row + found.rows)

        found = jax.lax.map(look, first_rows_J)
        # In the order of the rows, the best so far first: ties go to the lower one.
        scores, rows = (
            jnp.concatenate(
                [so_far, jnp.moveaxis(new_JNW, 0, 1).reshape(num_queries, -1)], axis=1
            )
            for so_far, new_JNW in zip(best, found, strict=True)
        )
        return keep_best(scores, rows, k), None

    first_rows = jnp.arange(num_chunks, dtype=jnp.int32).reshape(-1, group) * chunk_size
    return jax.lax.scan(add_group, _nothing(num_queries, k), first_rows)[0]


def keep_best(scores: jax.Array, rows: jax.Array, k: int) -> Best:
    """Keeps the best `k` columns; the leftmost of equals."""
    scores_NK, places_NK = jax.lax.top_k(scores, k)
    return Best(scores_NK, jnp.take_along_axis(rows, places_NK, axis=1))


def _products(queries_NE: jax.Array, vectors_CE: jax.Array, dtype: str) -> jax.Array:
    """float32[N, C]: the scores of a chunk."""
    vectors_EC = vectors_CE.T.astype(dtype)
    if dtype == "bfloat16" and jax.default_backend() == "cpu":
        # XLA on CPU multiplies bfloat16 at full speed only when both factors lie as in
        # memory: rounding is a copy, which then transposes too. The barrier keeps the
        # copy, and a row of numbers leaves XLA no choice of how they lie.
        shape = vectors_EC.shape
        vectors_EC = jax.lax.optimization_barrier(vectors_EC.reshape(-1)).reshape(shape)
    return jnp.matmul(
        queries_NE.astype(dtype),
        vectors_EC,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def _candidates(
    scores_NC: jax.Array,
    exists_C: jax.Array,
    worst_N1: jax.Array,
    k: int,
    recall: float,
) -> Best:
    """W places of a chunk among which are all of its best `k` that beat the worst.

    Equal scores stand in the order of their places.
    """
    num_queries, size = scores_NC.shape
    take_all = functools.partial(_best_of_chunk, scores_NC, exists_C, k, recall)
    if recall or size % _SEGMENT:
        return take_all()
    maxima_NG = scores_NC.reshape(num_queries, -1, _SEGMENT).max(axis=2)
    # A score equal to the worst of the best is not better: its row is higher. The
    # maximum of a segment with a score of nan is nan, and is looked at.
    is_better_NG = ~(maxima_NG <= worst_N1)
    rank_NG = jnp.cumsum(is_better_NG, axis=1, dtype=jnp.int32)
    num_segments = min(_MAX_SEGMENTS, size // _SEGMENT)
    num_candidates = max(num_segments * _SEGMENT, min(k, size))
    return jax.lax.cond(
        rank_NG[:, -1].max() > num_segments,
        lambda: _filled_up(take_all(), num_candidates),
        lambda: _filled_up(
            _best_segments(scores_NC, exists_C, rank_NG, num_segments), num_candidates
        ),
    )


def _best_of_chunk(
    scores_NC: jax.Array, exists_C: jax.Array, k: int, recall: float
) -> Best:
    """The best places of a whole chunk."""
    scores_NC = _known(scores_NC, exists_C[None])
    k = min(k, scores_NC.shape[1])
    if recall:
        return Best(*jax.lax.approx_max_k(scores_NC, k, recall_target=recall))
    return Best(*jax.lax.top_k(scores_NC, k))


def _best_segments(
    scores_NC: jax.Array, exists_C: jax.Array, rank_NG: jax.Array, num_segments: int
) -> Best:
    """All places of the segments where `rank_NG` rises, in their order."""
    num_queries = len(scores_NC)
    scores_NGR = scores_NC.reshape(num_queries, -1, _SEGMENT)
    wanted_1S1 = 1 + jnp.arange(num_segments, dtype=jnp.int32)[None, :, None]
    # As many segments end before the wanted rank is reached.
    segment_NS1 = jnp.sum(
        rank_NG[:, None] < wanted_1S1, axis=2, keepdims=True, dtype=jnp.int32
    )
    exists_NS1 = segment_NS1 < rank_NG.shape[1]
    segment_NS1 = jnp.where(exists_NS1, segment_NS1, 0)
    scores_NSR = jnp.take_along_axis(scores_NGR, segment_NS1, axis=1)
    exists_NSR = exists_C.reshape(-1, _SEGMENT)[segment_NS1[:, :, 0]] & exists_NS1
    within_11R = jnp.arange(_SEGMENT, dtype=jnp.int32)[None, None]
    places_NSR = segment_NS1 * _SEGMENT + within_11R
    return Best(
        _known(scores_NSR, exists_NSR).reshape(num_queries, -1),
        places_NSR.reshape(num_queries, -1),
    )


def _known(scores: jax.Array, exists: jax.Array) -> jax.Array:
    """Scores of what there is; -inf for rows that are missing and sums that are nan."""
    return jnp.where(exists & ~jnp.isnan(scores), scores, -jnp.inf)


def _filled_up(best: Best, count: int) -> Best:
    """Puts empty places behind, until there are `count`."""
    num_queries, missing = len(best.rows), count - best.rows.shape[1]
    if not missing:
        return best
    parts = zip(best, _nothing(num_queries, missing), strict=True)
    return Best(*(jnp.concatenate(pair, axis=1) for pair in parts))


def _nothing(num_queries: int, k: int) -> Best:
    """Places that are empty."""
    return Best(
        jnp.full((num_queries, k), -jnp.inf, jnp.float32),
        jnp.full((num_queries, k), NONE, jnp.int32),
    )
