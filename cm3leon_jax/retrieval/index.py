"""Exact maximum-inner-product search over unit vectors, one code path for every chip.

With a mesh, every device searches its own rows (`two_passes.py`, `chunks.py`) and the
few best of all are merged. Of equal scores the lower row wins, on one device or many, so
that the result is that of a full sort.

Letters: N queries, M bank rows, K results, E width of the vectors.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from cm3leon_jax.retrieval import chunks, two_passes
from cm3leon_jax.retrieval.chunks import Best
from cm3leon_jax.retrieval.two_passes import Rows

DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class IndexConfig:
    """How a bank is searched.

    Attributes:
      chunk_size: Rows scored at a time, at most; memory is N x chunk_size floats.
      dtype: Of the bank on the devices: "float32", which is multiplied in bfloat16 at
        first where that is faster and finds the same, or "bfloat16" for half the
        memory, which finds a few others near the last place.
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
        size, num_chunks = chunks.layout(
            -(-self.num_rows // num_shards), config.chunk_size
        )
        self._config = dataclasses.replace(config, chunk_size=size)
        self._use_two_passes = two_passes.pays(config.dtype, size * num_chunks)
        # Rows of padding are not finite, and so are never found.
        missing = size * num_chunks * num_shards - self.num_rows
        if missing:
            filling = np.full((missing, bank_ME.shape[1]), np.nan, np.float32)
            bank_ME = np.concatenate([bank_ME, filling])
        bank_ME = bank_ME.astype(jnp.dtype(config.dtype), copy=False)
        placed_ME = jax.device_put(bank_ME, self._sharding(), may_alias=False)
        self._rows = two_passes.prepare(placed_ME, num_shards)

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
        width = self._rows.vectors_ME.shape[1]
        queries_NE = np.asarray(queries_NE, np.float32)
        if queries_NE.ndim != 2 or queries_NE.shape[1] != width:
            raise ValueError(
                f"queries are float[N, {width}] like the bank, got {queries_NE.shape};"
                " embed both with the same model"
            )
        if k < 1:
            raise ValueError(f"{k=} must be at least 1")
        found = _search(
            queries_NE,
            self._rows,
            k=k,
            config=self._config,
            mesh=self._mesh,
            use_two_passes=self._use_two_passes,
        )
        scores_NK, rows_NK = jax.device_get(found)
        return scores_NK, np.where(np.isneginf(scores_NK), chunks.NONE, rows_NK)

    def _sharding(self) -> jax.sharding.Sharding | None:
        if self._mesh is None:
            return None
        rows = jax.sharding.PartitionSpec(self._mesh.axis_names)
        return jax.sharding.NamedSharding(self._mesh, rows)


@functools.partial(jax.jit, static_argnames=("k", "config", "mesh", "use_two_passes"))
def _search(
    queries_NE: jax.Array,
    rows: Rows,
    *,
    k: int,
    config: IndexConfig,
    mesh: jax.sharding.Mesh | None,
    use_two_passes: bool,
) -> Best:
    """Searches the shards and merges what they found."""

    def search_own(queries_NE: jax.Array, rows: Rows) -> Best:
        """Searches one device's rows."""
        return two_passes.find_best(
            queries_NE,
            rows,
            k,
            chunk_size=config.chunk_size,
            recall=config.approximate_recall,
            use_two_passes=use_two_passes,
        )

    if mesh is None:
        return search_own(queries_NE, rows)
    axes = mesh.axis_names

    def on_each(queries_NE: jax.Array, rows: Rows) -> Best:
        """Every device returns the best of all."""
        found = search_own(queries_NE, rows)
        first_row = jax.lax.axis_index(axes) * len(rows.exists_M)
        # Gathered in the order of the rows, so that ties still go to the lower one.
        scores, rows_found = jax.lax.all_gather(
            (found.scores, first_row + found.rows), axes, axis=1, tiled=True
        )
        return chunks.keep_best(scores, rows_found, k)

    spec = jax.sharding.PartitionSpec
    return jax.shard_map(
        on_each,
        mesh=mesh,
        in_specs=(spec(), spec(axes)),
        out_specs=spec(),
        check_vma=False,  # equal on all devices by the gather, which it cannot see
    )(queries_NE, rows)
