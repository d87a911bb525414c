"""A memory bank that no one host can hold: its vectors lie over the devices of all.

All hosts search together. Each brings queries of its own, the devices gather them,
every device searches its own rows, and what it found goes to the device whose query it
answers, with the vectors of the few that were best. So a host needs memory for its share
of the bank alone, and no vector is read from a disk twice.

Every host must call `Spread.search` equally often, in the end with queries of nan.

Letters: N queries of all hosts, n of one device, M bank rows, m of one device, D devices,
K results, E width of the vectors.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cm3leon_jax.retrieval import chunks, index, two_passes

_AXIS = "bank"


class Spread:
    """A bank over the devices of all hosts; see `neighbors.AbstractBank`.

    Attributes:
      ids: int32[M], the rows themselves.
      is_multimodal: bool[M], True for documents of text and picture.
      width: E.
      batch_size: Queries that each host brings to a search.
    """

    def __init__(
        self,
        read: Callable[[int, int], np.ndarray],
        is_multimodal: np.ndarray,
        width: int,
        config: index.IndexConfig,
        *,
        num_queries: int = 1_024,
    ):
        """Reads this host's share of the bank onto its devices.

        Args:
          read: From first row and end to float32[rows, E]; rows that are not finite are
            never found.
          is_multimodal: bool[M].
          width: E.
          config: How it is searched.
          num_queries: Of all hosts, in one search.

        Raises:
          ValueError: If the bank has no row.
        """
        if not len(is_multimodal):
            raise ValueError("a bank needs at least one row, this has none")
        self.ids = np.arange(len(is_multimodal), dtype=np.int32)
        self.is_multimodal = is_multimodal
        devices = sorted(jax.devices(), key=lambda one: (one.process_index, one.id))
        self._mesh = jax.sharding.Mesh(np.array(devices), (_AXIS,))
        self.batch_size, self.width = batch_size(num_queries), width
        per_device = -(-len(self.ids) // len(devices))
        size, num_chunks = chunks.layout(per_device, config.chunk_size)
        self._config = dataclasses.replace(config, chunk_size=size)
        per_device = size * num_chunks
        self._use_two_passes = two_passes.pays(config.dtype, per_device)
        self._by_row = jax.sharding.NamedSharding(
            self._mesh, jax.sharding.PartitionSpec(_AXIS)
        )

        def place(rows: Any) -> np.ndarray:
            """The rows of one device; those past the end are not finite."""
            first, end, _ = rows[0].indices(per_device * len(devices))
            own_mE = np.full((end - first, width), np.nan, np.float32)
            last = min(end, len(self.ids))
            if first < last:
                own_mE[: last - first] = read(first, last)
            return own_mE.astype(jnp.dtype(config.dtype), copy=False)

        shape = (per_device * len(devices), width)
        placed_ME = jax.make_array_from_callback(shape, self._by_row, place)
        self._rows = two_passes.prepare(placed_ME, len(devices))

    def search(self, queries_NE: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the best of all hosts' rows for this host's queries.

        Args:
          queries_NE: float[`batch_size`, E]; rows that are not finite find nothing.
          k: Results a query.

        Returns:
          int32[`batch_size`, k] rows, -1 for none, best first, and their vectors
          float32[`batch_size`, k, E].

        Raises:
          ValueError: If the queries are of another shape.
        """
        expected = (self.batch_size, self.width)
        if np.shape(queries_NE) != expected:
            raise ValueError(
                f"queries are float{list(expected)} on every host, got"
                f" {np.shape(queries_NE)}; embed them with the bank's model"
            )
        queries_NE = jax.make_array_from_process_local_data(
            self._by_row, np.asarray(queries_NE, np.float32)
        )
        rows_NK, vectors_NKE = _search(
            queries_NE,
            self._rows,
            k=k,
            config=self._config,
            mesh=self._mesh,
            use_two_passes=self._use_two_passes,
        )
        return _own(rows_NK), _own(vectors_NKE)


def batch_size(num_queries: int) -> int:
    """Queries that each host brings, of about `num_queries` of all: as many a device."""
    return -(-num_queries // jax.device_count()) * jax.local_device_count()


@functools.partial(jax.jit, static_argnames=("k", "config", "mesh", "use_two_passes"))
def _search(
    queries_NE: jax.Array,
    rows: two_passes.Rows,
    *,
    k: int,
    config: index.IndexConfig,
    mesh: jax.sharding.Mesh,
    use_two_passes: bool,
) -> tuple[jax.Array, jax.Array]:
    """Returns rows and vectors, each device those of its own queries."""

    def on_each(
        queries_nE: jax.Array, rows: two_passes.Rows
    ) -> tuple[jax.Array, jax.Array]:
        """Searches one device's rows for everyone's queries."""
        first_row = jax.lax.axis_index(_AXIS) * len(rows.exists_M)
        found = two_passes.find_best(
            jax.lax.all_gather(queries_nE, _AXIS, tiled=True),
            rows,
            k,
            chunk_size=config.chunk_size,
            recall=config.approximate_recall,
            use_two_passes=use_two_passes,
        )
        scores_nK, rows_nK = chunks.keep_best(
            _to_owner(found.scores), _to_owner(first_row + found.rows), k
        )
        rows_nK = jnp.where(jnp.isneginf(scores_nK), chunks.NONE, rows_nK)
        return rows_nK, _vectors(rows_nK, rows.vectors_ME, first_row)

    spec = jax.sharding.PartitionSpec(_AXIS)
    return jax.shard_map(
        on_each,
        mesh=mesh,
        in_specs=(spec, spec),
        out_specs=(spec, spec),
        check_vma=False,  # the running best begins alike on all devices
    )(queries_NE, rows)


def _to_owner(found_NK: jax.Array) -> jax.Array:
    """[N, K] of each device's rows -> [n, D K], of all rows, for its own queries."""
    num_devices = jax.lax.axis_size(_AXIS)
    found_DnK = found_NK.reshape(num_devices, -1, found_NK.shape[1])
    found_DnK = jax.lax.all_to_all(found_DnK, _AXIS, split_axis=0, concat_axis=0)
    # In the order of the rows, so that ties go to the lower one.
    return jnp.moveaxis(found_DnK, 0, 1).reshape(found_DnK.shape[1], -1)


def _vectors(rows_nK: jax.Array, bank_mE: jax.Array, first_row: jax.Array) -> jax.Array:
    """float32[n, K, E]: every device gives those it holds; 0 where there is no row."""
    place_NK = jax.lax.all_gather(rows_nK, _AXIS, tiled=True) - first_row
    is_here_NK = (place_NK >= 0) & (place_NK < len(bank_mE))
    vectors_NKE = bank_mE[jnp.where(is_here_NK, place_NK, 0)].astype(jnp.float32)
    vectors_NKE = jnp.where(is_here_NK[:, :, None], vectors_NKE, 0)
    return jax.lax.psum_scatter(vectors_NKE, _AXIS, tiled=True)


def _own(spread: jax.Array) -> np.ndarray:
    """This host's rows of a result, in order."""
    shards = sorted(spread.addressable_shards, key=lambda one: one.index[0].start or 0)
    return np.concatenate([np.asarray(one.data) for one in shards])
