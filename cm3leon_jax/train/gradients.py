"""Gradients of weights, added up over devices that each keep a share.

A weight's gradient is a product summed over the rows of all devices. Left to itself the
compiler gives every device all of the sum (an all-reduce), of which it then takes its
share: twice the bytes that a reduce-scatter sends.

Source: ZeRO, arXiv:1910.02054, section 7; what libtpu does, docs/benchmarks.md.
"""

import functools
import math
from collections.abc import Callable, Mapping

import jax
from jax.sharding import PartitionSpec

from cm3leon_jax import sharding
from cm3leon_jax.models import block, layers

Logical = tuple[str | None, ...]

_WIDE = 128  # columns of a share that libtpu scatters; of narrower ones it may send all


def shared(
    mesh: jax.sharding.Mesh, logical_axes: Mapping[str, Logical]
) -> block.Shared | None:
    """Returns how the devices add up a weight's gradient, each keeping its own share.

    Every device multiplies its own rows, and `reduced` does the rest.

    Args:
      mesh: from `make_mesh`.
      logical_axes: weight's name -> logical axes.

    Returns:
      A function of a weight's name for `transformer.Transformer.__call__`; None where
      weights are not cut along rows' axis, and there is nothing to gain.
    """
    if not sharding.axes(mesh, "embed"):
        return None

    @functools.cache
    def of_weight(name: str) -> Callable[[layers.Outer], layers.Outer]:
        """Of the products that are gradients of the weight of this name."""
        logical = logical_axes[name]
        dimension = logical.index("embed")

        def over_devices(product: layers.Outer) -> layers.Outer:
            """The product of each device's rows, then their sum."""

            def summed(a, b, dtype, product_dtype=None):
                """Of the signature of `layers.outer`."""
                local = lambda a, b: reduced(
                    product(a, b, dtype, product_dtype), mesh, dimension
                )
                inputs, outputs = logical[: a.ndim - 2], logical[a.ndim - 2 :]
                return jax.shard_map(
                    local,
                    mesh=mesh,
                    in_specs=(_of_rows(inputs), _of_rows(outputs)),
                    out_specs=sharding.spec(logical),
                    check_vma=False,
                )(a, b)

            return summed

        return over_devices

    return of_weight


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


def _of_rows(logical: Logical) -> PartitionSpec:
    """Of activations [batch, length, ...] that are not cut along the model width."""
    rest = (None if name == "embed" else name for name in logical)
    return sharding.spec(("batch", "length", *rest))
