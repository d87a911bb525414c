"""Weights of which every device keeps a share: gathered for use, gradients added up.

A product needs all of a weight, and its gradient is a sum over the rows of all devices,
of which each keeps its share again. Left to itself the compiler may do either by an
all-reduce: twice the bytes that an all-gather or a reduce-scatter sends.

Source: ZeRO, arXiv:1910.02054, section 7; what libtpu does, docs/benchmarks.md.
"""

import dataclasses
import math
from collections.abc import Mapping

import jax
from jax.sharding import PartitionSpec

from cm3leon_jax import sharding
from cm3leon_jax.models import block, layers

Logical = tuple[str | None, ...]

# Columns of a share that libtpu sends alone; of narrower ones it may send all.
_WIDE = 128


@dataclasses.dataclass(frozen=True)
class Share:
    """How one weight is cut along `fsdp`; a `layers.Shared`.

    Attributes:
      mesh: from `make_mesh`.
      logical: the weight's logical axes.
    """

    mesh: jax.sharding.Mesh
    logical: Logical

    def whole(self, weights: jax.Array) -> jax.Array:
        """Returns the weight with its model width on every device.

        Args:
          weights: each device's share, in the dtype in which it travels.
        """
        return jax.shard_map(
            lambda share: gathered(share, self.mesh, self._dimension),
            mesh=self.mesh,
            in_specs=sharding.spec(self.logical),
            out_specs=_without_embed(self.logical),
            check_vma=False,
        )(weights)

    def sum_of(self, product: layers.Outer) -> layers.Outer:
        """Returns the product of each device's rows, then their sum in shares."""

        def summed(a, b, dtype, product_dtype=None):
            """Of the signature of `layers.outer`."""
            local = lambda a, b: reduced(
                product(a, b, dtype, product_dtype), self.mesh, self._dimension
            )
            inputs, outputs = self.logical[: a.ndim - 2], self.logical[a.ndim - 2 :]
            return jax.shard_map(
                local,
                mesh=self.mesh,
                in_specs=(_of_rows(inputs), _of_rows(outputs)),
                out_specs=sharding.spec(self.logical),
                check_vma=False,
            )(a, b)

        return summed

    @property
    def _dimension(self) -> int:
        return self.logical.index("embed")


def of_weights(
    mesh: jax.sharding.Mesh, logical_axes: Mapping[str, Logical]
) -> block.Shared | None:
    """Returns how the devices share each weight.

    Args:
      mesh: from `make_mesh`.
      logical_axes: weight's name -> logical axes.

    Returns:
      A function of a weight's name for `transformer.Transformer.__call__`; None where
      weights are not cut along rows' axis, and there is nothing to gain.
    """
    if not sharding.axes(mesh, "embed"):
        return None
    return lambda name: Share(mesh, logical_axes[name])


def gathered(x: jax.Array, mesh: jax.sharding.Mesh | None, dimension: int) -> jax.Array:
    """Returns the shares of all devices side by side, in `shard_map`.

    In the stages of `reduced`, the other way: among the devices of a group, then among
    those of the same place, so that shares come out in order.

    Args:
      x: [...], this device's share.
      mesh: that the function runs on; None for one device, which has all.
      dimension: that is cut along `fsdp`.
    """
    for axis in sharding.axes(mesh, "embed"):
        assert mesh is not None
        count = mesh.shape[axis]
        for groups in reversed(_stages(count, x.shape[dimension] * count)):
            x = jax.lax.all_gather(
                x, axis, axis=dimension, axis_index_groups=groups, tiled=True
            )
    return x


def reduced(x: jax.Array, mesh: jax.sharding.Mesh | None, dimension: int) -> jax.Array:
    """Returns this device's share of the sum of all devices' `x`, in `shard_map`.

    Among many devices in two stages, first among those of the same place in their
    group: libtpu scatters large shares, but sends all of the sum where a share is
    narrower than a tile (128 columns of 4,096 among 32 chips, not 16 among 256).

    Args:
      x: float[...], summed over the axes of rows and pieces of rows.
      mesh: that the function runs on; None for one device, which has the sum.
      dimension: that is cut along `fsdp`.
    """
    keep = sharding.axes(mesh, "embed")
    for axis in keep:
        assert mesh is not None
        for groups in _stages(mesh.shape[axis], x.shape[dimension]):
            x = jax.lax.psum_scatter(
                x,
                axis,
                scatter_dimension=dimension,
                axis_index_groups=groups,
                tiled=True,
            )
    others = tuple(a for a in sharding.axes(mesh, "batch", "length") if a not in keep)
    return jax.lax.psum(x, others) if others else x


def _stages(count: int, size: int) -> list[list[list[int]] | None]:
    """Groups of devices that scatter among themselves, stage after stage."""
    if size // count >= _WIDE:
        return [None]
    inner = max(n for n in range(1, math.isqrt(count) + 1) if count % n == 0)
    if inner == 1:
        return [None]
    strided = [list(range(i, count, inner)) for i in range(inner)]
    together = [list(range(i, i + inner)) for i in range(0, count, inner)]
    return [strided, together]


def _without_embed(logical: Logical) -> PartitionSpec:
    return sharding.spec(tuple(None if name == "embed" else name for name in logical))


def _of_rows(logical: Logical) -> PartitionSpec:
    """Of activations [batch, length, ...] that are not cut along the model width."""
    return PartitionSpec(*sharding.spec(("batch", "length")), *_without_embed(logical))
