"""Device mesh, the one table from logical axes to mesh axes, and batches on it.

Mesh axes:

    data      copies of the parameters (across slices of a pod)
    fsdp      rows; parameters and moments are cut along it and gathered when used
    tensor    heads, MLP width, vocabulary
    sequence  pieces of long rows; during attention, heads instead

The compiler propagates shardings; where it could choose badly, it is told: activations
between the model's parts by `constrain`, attention by `spread`, which runs a kernel on
every device's own rows and heads.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor", "sequence")

# Logical axis -> mesh axis. None: every device has all of it.
RULES: dict[str, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "replica": "data",  # rows that share one copy of the parameters
    "length": "sequence",
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "mlp": "tensor",
    "layers": None,
    "position": None,
    "qkv": None,
    "head_dim": None,
}


Attention = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]
Constrain = Callable[[jax.Array, tuple[str | None, ...]], jax.Array]


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis; at most one may be -1, for the rest of them."""

    data: int = 1
    fsdp: int = -1
    tensor: int = 1
    sequence: int = 1


def make_mesh(
    config: MeshConfig, devices: Sequence[Any] | None = None
) -> jax.sharding.Mesh:
    """Returns the mesh, its axes of the kind that the compiler propagates (Auto).

    Args:
      config: devices along each axis.
      devices: all devices of all hosts by default.

    Raises:
      ValueError: if the axes do not multiply to the number of devices, or copies do not
        divide among TPU slices.
    """
    devices = devices or jax.devices()
    sizes = [getattr(config, name) for name in AXES]
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
        raise ValueError(
            f"{config} must have positive sizes and at most one -1; the nearest that"
            f" works is {_nearest(config, len(devices))}"
        )
    if -1 in sizes and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices):
        raise ValueError(
            f"{config} does not multiply to the {len(devices)} devices; the nearest"
            f" that works is {_nearest(config, len(devices))}"
        )
    kinds = (jax.sharding.AxisType.Auto,) * len(AXES)
    # TPU slices hold whole copies: only `data` crosses the network between them.
    chips = [device for device in devices if device.platform == "tpu"]
    slices = {getattr(chip, "slice_index", 0) for chip in chips}
    if len(slices) < 2:
        return jax.make_mesh(tuple(sizes), AXES, kinds, devices=devices)
    if sizes[0] % len(slices):
        raise ValueError(f"mesh.data={sizes[0]} must be a multiple of {slices=}")
    inner, outer = (sizes[0] // len(slices), *sizes[1:]), (len(slices), 1, 1, 1)
    arranged = mesh_utils.create_hybrid_device_mesh(inner, outer, devices)
    return jax.sharding.Mesh(arranged, AXES, axis_types=kinds)


def axes(mesh: jax.sharding.Mesh | None, *logical: str) -> tuple[str, ...]:
    """Returns the mesh axes of more than one device that cut these logical axes."""
    found: list[str] = []
    for name in logical if mesh else ():
        rule = RULES[name] or ()
        found += (rule,) if isinstance(rule, str) else rule
    return tuple(axis for axis in found if mesh and mesh.shape[axis] > 1)


def count(mesh: jax.sharding.Mesh | None, *logical: str) -> int:
    """Returns the number of devices that share these logical axes."""
    return math.prod(mesh.shape[axis] for axis in axes(mesh, *logical)) if mesh else 1


def spec(logical: tuple[str | None, ...]) -> PartitionSpec:
    """Returns the mesh axes of an array whose dimensions have these logical axes."""
    return PartitionSpec(*(RULES[name] if name else None for name in logical))


def shardings(
    tree: Any,
    mesh: jax.sharding.Mesh,
    logical_axes: Mapping[str, tuple[str | None, ...]],
) -> Any:
    """Returns the sharding of every array of a state, by the name of its leaf.

    Moments of the optimizer have their parameter's name and take its sharding.
    Arrays without logical axes (counters) are on every device.

    Args:
      tree: pytree of arrays or shapes.
      mesh: from `make_mesh`.
      logical_axes: leaf name -> logical axes; a leaf with one more dimension is
        stacked by layer.

    Raises:
      ValueError: if a dimension is not a multiple of its mesh axis.
    """

    def place(path, leaf):
        """The sharding of one leaf, by the last of its names that has axes."""
        names = [str(getattr(key, "name", "")) for key in path]
        known = [name for name in names if name in logical_axes]
        if not known or leaf.ndim == 0:
            return NamedSharding(mesh, PartitionSpec())
        logical = logical_axes[known[-1]]
        if leaf.ndim == len(logical) + 1:
            logical = ("layers", *logical)
        _check_divides(known[-1], leaf.shape, logical, mesh)
        return NamedSharding(mesh, spec(logical))

    return jax.tree_util.tree_map_with_path(place, tree)


def check_rows(
    mesh: jax.sharding.Mesh,
    *,
    num_rows: int,
    length: int,
    num_heads: int,
    num_microbatches: int = 1,
) -> None:
    """Refuses rows and heads that the mesh cannot share out evenly.

    Args:
      mesh: from `make_mesh`.
      num_rows: of a step, of all hosts.
      length: tokens a row.
      num_heads: of the model; during attention the sequence axis cuts them.
      num_microbatches: pieces of a step that are computed one after the other.

    Raises:
      ValueError: naming what does not divide, and the nearest that does.
    """
    sizes = mesh.shape
    parts = sizes["data"] * sizes["fsdp"]
    for what, value, axes, divisor in (
        (
            "rows a step",
            num_rows,
            f"num_microbatches={num_microbatches} x data x fsdp = {parts}",
            num_microbatches * parts,
        ),
        ("tokens a row", length, "the mesh axis sequence", sizes["sequence"]),
        (
            "heads",
            num_heads,
            "the mesh axes tensor x sequence",
            sizes["tensor"] * sizes["sequence"],
        ),
    ):
        if value % divisor:
            raise ValueError(
                f"{value} {what} must be a multiple of {divisor} ({axes}); the nearest"
                f" is {max(1, round(value / divisor)) * divisor}"
            )


def check_batch(batch_size: int) -> None:
    """Refuses a batch that the devices, of all hosts, cannot share out evenly.

    Raises:
      ValueError: naming the nearest size that they can.
    """
    count = jax.device_count()
    if batch_size % count:
        raise ValueError(
            f"{batch_size=} must be a multiple of the {count} devices; the nearest is"
            f" {max(1, round(batch_size / count)) * count}"
        )


def constrain(mesh: jax.sharding.Mesh) -> Constrain:
    """Returns a function that says where an activation of logical axes lies.

    For `transformer.Transformer.__call__`: without it the compiler may move what is
    small today and large on another mesh.
    """

    def place(x: jax.Array, logical: tuple[str | None, ...]) -> jax.Array:
        sharding = NamedSharding(mesh, spec(logical))
        return jax.lax.with_sharding_constraint(x, sharding)

    return place


def spread(attention: Attention, mesh: jax.sharding.Mesh) -> Attention:
    """Returns attention in which every device computes its own rows and heads.

    A kernel knows one device only. Where rows are cut along the sequence axis, whole
    rows of a share of the heads are exchanged for pieces of all heads, and back
    (DeepSpeed-Ulysses, arXiv:2309.14509): any kernel serves, and each device has the
    same work under a causal mask.

    Args:
      attention: of the signature of `attention.attend_packed`.
      mesh: from `make_mesh`; of one device it changes nothing.
    """
    if mesh.size == 1:
        return attention
    heads = spec(("batch", "length", "heads", "head_dim"))
    pieces = mesh.shape["sequence"]

    def gather(x_BLHK: jax.Array) -> jax.Array:
        """Pieces of rows, all heads -> whole rows, some of the heads."""
        return jax.lax.all_to_all(x_BLHK, "sequence", 2, 1, tiled=True)

    def local(q_BLHK, k_BLHK, v_BLHK, segment_ids_BL):
        """Attention of one device's part."""
        if pieces == 1:
            return attention(q_BLHK, k_BLHK, v_BLHK, segment_ids_BL)
        segment_ids_BL = jax.lax.all_gather(
            segment_ids_BL, "sequence", axis=1, tiled=True
        )
        mixed_BLHK = attention(
            gather(q_BLHK), gather(k_BLHK), gather(v_BLHK), segment_ids_BL
        )
        return jax.lax.all_to_all(mixed_BLHK, "sequence", 1, 2, tiled=True)

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(heads, heads, heads, spec(("batch", "length"))),
        out_specs=heads,
        check_vma=False,  # kernels do not say over which axes their results vary
    )


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Returns the sharding of an array [B, L]: rows over data and fsdp."""
    return NamedSharding(mesh, spec(("batch", "length")))


def put_batch(batch: Any, mesh: jax.sharding.Mesh) -> Any:
    """Puts this host's rows on its devices, as one global batch.

    Args:
      batch: pytree of np.ndarray [B, L], this host's share of the rows.
      mesh: from `make_mesh`.

    Raises:
      ValueError: if rows or length do not divide among the devices.
    """
    sharding = batch_sharding(mesh)
    sizes = dict(mesh.shape)
    hosts = jax.process_count()

    def put(rows_BL: np.ndarray) -> jax.Array:
        """One field of the batch."""
        num_rows, length = rows_BL.shape
        parts = sizes["data"] * sizes["fsdp"]
        if num_rows * hosts % parts or length % sizes["sequence"]:
            raise ValueError(
                f"{num_rows * hosts} rows of {length} tokens must be a multiple of"
                f" data x fsdp = {parts} rows and of sequence = {sizes['sequence']}"
                " tokens; change batch.rows or the mesh"
            )
        return jax.make_array_from_process_local_data(sharding, rows_BL)

    return jax.tree.map(put, batch)


class LocalRows:
    """Rows spread over this process's devices, for networks that are only applied.

    Every device computes as many rows, whatever the number of devices, so that one
    chip and eight run the same program on their rows.

    Attributes:
      num_devices: how many there are.
    """

    def __init__(self, devices: Sequence[Any] | None = None):
        """Takes the devices; by default all of this process."""
        devices = devices or jax.local_devices()
        kinds = (jax.sharding.AxisType.Auto,)
        mesh = jax.make_mesh((len(devices),), ("rows",), kinds, devices=devices)
        self.num_devices = len(devices)
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self._rows = NamedSharding(mesh, PartitionSpec("rows"))

    def put_weights(self, tree: Any) -> Any:
        """Puts arrays on every device."""
        return jax.device_put(tree, self._everywhere)

    def put(self, rows: np.ndarray) -> jax.Array:
        """Spreads rows, a multiple of `num_devices`, over the devices."""
        return jax.device_put(rows, self._rows)


def _nearest(config: MeshConfig, count: int) -> MeshConfig:
    """The mesh of all devices nearest to a wrong one, the rest of them fsdp."""
    sizes = {}
    for name in ("tensor", "sequence", "data"):
        sizes[name] = _divisor(count, max(1, getattr(config, name)))
        count //= sizes[name]
    return MeshConfig(fsdp=count, **sizes)


def _divisor(number: int, limit: int) -> int:
    """The largest divisor of a number up to a limit."""
    return max(n for n in range(1, limit + 1) if number % n == 0)


def _check_divides(name: str, shape, logical, mesh) -> None:
    for size, axis in zip(shape, logical, strict=True):
        mesh_axis = RULES[axis] if axis else None
        if mesh_axis and size % mesh.shape[mesh_axis]:
            raise ValueError(
                f"{name}: {axis}={size} must be a multiple of the mesh axis"
                f" {mesh_axis}={mesh.shape[mesh_axis]}; the nearest that works is"
                f" {mesh_axis}={_divisor(size, mesh.shape[mesh_axis])}"
            )
