"""What the devices at hand reach, measured: for those that no data sheet describes.

Two rates, with all devices of a mesh at work at once, since they may share memory and
power: of a product of the model's own shape, and of passes over arrays of the model's
own size. The second is not the memory's bandwidth but what elementwise work reaches on
it, exponentials and reductions among it.
"""

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import psutil
from jax.sharding import NamedSharding, PartitionSpec

from cm3leon_jax import devices
from cm3leon_jax.models import layers
from cm3leon_jax.plan import hlo, traffic

_REPEATS = 8  # in one program, so that starting it does not count
_SECONDS = 0.5  # that a measurement lasts at least
_MIN_TIMES = 5


def measure(
    mesh: jax.sharding.Mesh,
    *,
    tokens: int,
    width: int,
    wide: int,
    dtype: str,
    memory_bytes: float,
) -> devices.Device:
    """Returns a device of what one device of a mesh reaches.

    Args:
      mesh: whose devices all work at once.
      tokens: that one device has at a time.
      width: of the model.
      wide: inner width of its MLP.
      dtype: of the factors of products.
      memory_bytes: that one device has.
    """
    count = mesh.size
    rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    whole = NamedSharding(mesh, PartitionSpec())
    x_ND = jax.device_put(jnp.ones((count * tokens, width), dtype), rows)
    up_DF = jax.device_put(jnp.full((width, wide), 1e-3, dtype), whole)
    down_FD = jax.device_put(jnp.full((wide, width), 1e-3, dtype), whole)
    seconds = _time(_products, x_ND, up_DF, down_FD)
    flops = _REPEATS * 2 * 2 * tokens * width * wide
    wide_NF = jax.device_put(jnp.ones((count * tokens, wide), jnp.float32), rows)
    passes = jax.jit(_passes)
    text = passes.lower(wide_NF).compile().as_text() or ""
    moved = traffic.find(hlo.parse(text)).total
    pass_seconds = _time(passes, wide_NF)
    return devices.Device(
        name="measured",
        kinds=(mesh.devices.flat[0].device_kind,),
        peak_flops=flops / seconds,
        memory_bytes=memory_bytes,
        memory_bandwidth=moved / pass_seconds,
        link_bandwidth=moved / pass_seconds,  # devices of one CPU share its memory
        product_share=1.0,
        memory_share=1.0,
        source="measured here",
    )


def host_memory_bytes() -> float:
    """Returns the memory of this machine."""
    return psutil.virtual_memory().total


@jax.jit
def _products(x_ND: jax.Array, up_DF: jax.Array, down_FD: jax.Array) -> jax.Array:
    for _ in range(_REPEATS):
        wide_NF = jnp.dot(x_ND, up_DF, preferred_element_type=jnp.float32)
        x_ND = jnp.dot(wide_NF.astype(x_ND.dtype), down_FD)
    return x_ND


def _passes(x_NF: jax.Array) -> jax.Array:
    for _ in range(_REPEATS):
        x_NF = layers.layer_norm(jax.nn.relu(x_NF), 1e-5)
    return x_NF


def _time(function: Callable[..., jax.Array], *arguments: jax.Array) -> float:
    """Median seconds of a call."""
    jax.block_until_ready(function(*arguments))
    times, end = [], time.perf_counter() + _SECONDS
    while time.perf_counter() < end or len(times) < _MIN_TIMES:
        since = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - since)
    return statistics.median(times)
