"""The best rows by products of bfloat16, and yet exactly those of float32.

Chips multiply bfloat16 from two to six times as fast as float32. So a first pass finds
somewhat more rows than are asked for by rounded vectors, a second scores these few in
float32, and a bound on what rounding can do tells whether any other row could have been
among the best:

    |q.v - q'.v'|  <=  |q - q'| |v|  +  |q'| |v - v'|  +  what summing up loses

with q', v' the rounded vectors and the real lengths of all four. A row that the first
pass left out scores no more there than the last one kept, so by float32 no more than
that plus the bound. Queries whose k-th best is above it are done. The others (many
near-duplicates, lengths far apart) are searched again with products of float32, a few at
a time, so that the result never depends on the bound, only the time does.

Every score that is returned is summed up in float32 by one and the same function, so
equal vectors have equal scores and of these the lower row wins.

Letters: N queries, M bank rows, D shards, K results, E width of the vectors.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cm3leon_jax import cpu
from cm3leon_jax.retrieval import chunks
from cm3leon_jax.retrieval.chunks import Best

_AT_ONCE = 64  # queries whose few rows are scored in float32 at a time
_AGAIN = 128  # queries that are searched a second time at once
_MANY = 65_536  # rows; with fewer, sorting more of them takes what the products save
_TINY = 2.0**-126  # smaller numbers may count as 0
_SLACK = 1 + 2.0**-10  # for the rounding of the bound itself


class Rows(NamedTuple):
    """A bank as it is searched, on one device or over the shards of many.

    Attributes:
      vectors_ME: float[M, E], 0 where there is no vector.
      exists_M: bool[M], False for rows that are never found.
      longest_D: float32[D], no vector of the shard is longer.
      most_lost_D: float32[D], nor what rounding one to bfloat16 takes from it.
    """

    vectors_ME: jax.Array
    exists_M: jax.Array
    longest_D: jax.Array
    most_lost_D: jax.Array


def pays(dtype: str, num_rows: int) -> bool:
    """Whether so many rows of a dtype on a device are searched sooner in two passes."""
    is_fast = jax.default_backend() != "cpu" or cpu.multiplies_bfloat16()
    return dtype == "float32" and num_rows >= _MANY and is_fast


def prepare(vectors_ME: jax.Array, num_shards: int = 1) -> Rows:
    """Makes a bank ready to be searched; the array that is given is used up.

    Args:
      vectors_ME: float[M, E]; rows that are not finite are never found.
      num_shards: D, devices that hold M / D rows each.
    """
    exists_M, longest_D, most_lost_D = _measure(vectors_ME, num_shards)
    return Rows(_without(vectors_ME, exists_M), exists_M, longest_D, most_lost_D)


def find_best(
    queries_NE: jax.Array,
    rows: Rows,
    k: int,
    *,
    chunk_size: int,
    recall: float = 0.0,
    use_two_passes: bool = False,
) -> Best:
    """Returns the best `k` of one device's rows.

    Args:
      queries_NE: float32[N, E]; rows that are not finite find nothing.
      rows: Of one device; M is a multiple of `chunk_size`.
      k: Results a query.
      chunk_size: Rows scored at a time.
      recall: 0 for the best, else what `approx_max_k` aims at in each chunk.
      use_two_passes: Whether to multiply bfloat16 first. No other rows are found.
    """
    asks_N = jnp.isfinite(queries_NE).all(axis=1)
    queries_NE = jnp.where(asks_N[:, None], queries_NE, 0)
    # As many again, and a few: random vectors of 512 numbers have 0.8 times as many
    # others within the bound (k=32 of 1M).
    num_kept = k + max(32, k + k // 2)
    if use_two_passes and not recall:
        found = _in_two_passes(queries_NE, rows, asks_N, (k, num_kept), chunk_size)
    else:
        found = chunks.find_best(
            queries_NE,
            rows.vectors_ME,
            rows.exists_M,
            k,
            chunk_size=chunk_size,
            dtype=rows.vectors_ME.dtype.name,
            recall=recall,
        )
    return Best(jnp.where(asks_N[:, None], found.scores, -jnp.inf), found.rows)


def _in_two_passes(
    queries_NE: jax.Array,
    rows: Rows,
    asks_N: jax.Array,
    counts: tuple[int, int],
    chunk_size: int,
) -> Best:
    """The best `k` of `num_kept` that a first pass keeps; again where it is not sure."""
    k, num_kept = counts

    def search(queries_NE: jax.Array, count: int, dtype: str) -> tuple[Best, jax.Array]:
        """The best `k`, and the score of the last row that was looked at."""
        found = chunks.find_best(
            queries_NE,
            rows.vectors_ME,
            rows.exists_M,
            count,
            chunk_size=chunk_size,
            dtype=dtype,
        )
        return _score_again(queries_NE, rows, found, k), found.scores[:, -1]

    best, last_N = search(queries_NE, num_kept, "bfloat16")
    left_out_N = last_N + _most_error(queries_NE, rows)
    # Fewer rows than were asked for: none is left out. What is nan is not sure.
    is_sure_N = (best.scores[:, -1] > left_out_N) | jnp.isneginf(left_out_N)

    def search_again(state: tuple[Best, jax.Array]) -> tuple[Best, jax.Array]:
        """Searches the next few queries with products of float32."""
        best, is_sure_N = state
        size = min(_AGAIN, len(queries_NE))
        places = jnp.nonzero(~is_sure_N, size=size, fill_value=len(queries_NE))[0]
        some_NE = queries_NE.at[places].get(mode="fill", fill_value=0)
        again, _ = search(some_NE, k, "float32")
        best = Best(
            best.scores.at[places].set(again.scores, mode="drop"),
            best.rows.at[places].set(again.rows, mode="drop"),
        )
        return best, is_sure_N.at[places].set(True, mode="drop")

    state = (best, is_sure_N | ~asks_N)
    return jax.lax.while_loop(lambda state: ~state[1].all(), search_again, state)[0]


def _score_again(queries_NE: jax.Array, rows: Rows, found: Best, k: int) -> Best:
    """The best `k` of the rows that were found, by sums of float32."""
    # In their order, so that ties go to the lower one.
    rows_NK = jnp.sort(jnp.where(jnp.isneginf(found.scores), chunks.NONE, found.rows))

    def score(asked: tuple[jax.Array, jax.Array]) -> jax.Array:
        """One query's scores: sums, not a product of matrices, to treat rows alike."""
        query_E, rows_K = asked
        vectors_KE = rows.vectors_ME[jnp.maximum(rows_K, 0)]
        scores_K = jnp.sum(vectors_KE * query_E[None], axis=1)
        return jnp.where((rows_K < 0) | jnp.isnan(scores_K), -jnp.inf, scores_K)

    size = min(_AT_ONCE, len(queries_NE))
    scores_NK = jax.lax.map(score, (queries_NE, rows_NK), batch_size=size)
    return chunks.keep_best(scores_NK, rows_NK, k)


def _most_error(queries_NE: jax.Array, rows: Rows) -> jax.Array:
    """float32[N]: scores of the two passes differ by no more; nan where unknown."""
    width = queries_NE.shape[1]
    length_N, lost_N = _lengths(queries_NE)
    longest, most_lost = rows.longest_D[0], rows.most_lost_D[0]
    rounding_N = lost_N * longest + (length_N + lost_N) * most_lost
    # Sums of E float32 products, in any order, on chips that cut off what does not fit:
    # E 2^-23 of the lengths in each pass.
    summing_N = (width + 8) * 2.0**-22 * (length_N + lost_N) * (longest + most_lost)
    return (rounding_N + summing_N) * _SLACK + 4 * width * _TINY


@functools.partial(jax.jit, static_argnums=1)
def _measure(
    vectors_ME: jax.Array, num_shards: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Which rows exist, and the greatest lengths of those that do, a shard."""
    exists_M = jnp.isfinite(vectors_ME).all(axis=1)
    vectors_ME = jnp.where(exists_M[:, None], vectors_ME, 0).astype(jnp.float32)
    length_M, lost_M = _lengths(vectors_ME)
    longest_D = length_M.reshape(num_shards, -1).max(axis=1)
    return exists_M, longest_D, lost_M.reshape(num_shards, -1).max(axis=1)


@functools.partial(jax.jit, donate_argnums=0)
def _without(vectors_ME: jax.Array, exists_M: jax.Array) -> jax.Array:
    """The vectors, 0 for those that do not exist."""
    return jnp.where(exists_M[:, None], vectors_ME, 0)


def _lengths(vectors_ME: jax.Array) -> tuple[jax.Array, jax.Array]:
    """float32[M], float32[M]: no less than |v| and than |v - v'|; nan if unknown."""
    # Not astype and back, which XLA may leave out.
    rounded_ME = jax.lax.reduce_precision(vectors_ME, exponent_bits=8, mantissa_bits=7)
    lost_M = _length(vectors_ME - rounded_ME)
    return _length(vectors_ME), lost_M + vectors_ME.shape[1] * _TINY


def _length(vectors_ME: jax.Array) -> jax.Array:
    """float32[M], of numbers whose squares may be too large or too small for float32."""
    scale_M1 = jnp.maximum(jnp.abs(vectors_ME).max(axis=1, keepdims=True), _TINY)
    squares_M = jnp.sum(jnp.square(vectors_ME / scale_M1), axis=1)
    return scale_M1[:, 0] * jnp.sqrt(squares_M) * _SLACK
