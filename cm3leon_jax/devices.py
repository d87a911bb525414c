"""What one accelerator chip has: memory, arithmetic, bandwidths, each with its source.

Peaks are of the data sheet, dense, in bfloat16: the denominator of utilisation (MFU).
What can be reached of them is kept apart (`product_share`, `memory_share`), and serves
estimates of time only.

TPUs are counted in chips here. Product names of v4 and v5p count TensorCores, two a
chip: v5p-128 is 64 chips. A v4 chip shows as two devices where megacore is off.
"""

import dataclasses
import difflib
from typing import Any

_GIB = 2**30
# Largest share that a product of 8,192-wide bfloat16 matrices and a copy reached on a
# v6e: 827 of 918 TFLOP/s and 1,360 of 1,640 GB/s
# (github.com/AI-Hypercomputer/tpu-recipes, microbenchmarks/README.md). For the other
# generations no such table was found, and the same shares are assumed.
_TPU_PRODUCT_SHARE, _TPU_MEMORY_SHARE = 0.90, 0.83
_RING_LENGTHS = {2: 16, 3: 4}  # by dimensions of the torus


@dataclasses.dataclass(frozen=True)
class Device:
    """One chip.

    Attributes:
      name: how this project calls it.
      kinds: what `jax.Device.device_kind` says.
      peak_flops: FLOP/s, dense, bfloat16.
      memory_bytes: what a program may use of its memory; of TPUs as libtpu states it.
      memory_bandwidth: bytes/s of its memory.
      link_bandwidth: bytes/s that it can send over all its links together.
      product_share: of `peak_flops`, what large products reach.
      memory_share: of `memory_bandwidth`, what a copy reaches.
      torus_dims: dimensions of the torus that its links form; 0: through a switch.
      ring_length: shortest torus dimension that is closed to a ring (half the
        bandwidth otherwise).
      source: where the numbers come from.
    """

    name: str
    kinds: tuple[str, ...]
    peak_flops: float
    memory_bytes: float
    memory_bandwidth: float
    link_bandwidth: float
    product_share: float
    memory_share: float
    torus_dims: int = 0
    ring_length: int = 1
    source: str = ""


def _tpu(name: str, *, torus_dims: int, **fields: Any) -> Device:
    """A TPU, with what all generations have in common."""
    return Device(
        name,
        torus_dims=torus_dims,
        ring_length=_RING_LENGTHS[torus_dims],
        product_share=_TPU_PRODUCT_SHARE,
        memory_share=_TPU_MEMORY_SHARE,
        source=f"https://cloud.google.com/tpu/docs/{name}",
        **fields,
    )


DEVICES = (
    _tpu(
        "v4",
        kinds=("TPU v4",),
        peak_flops=275e12,
        memory_bytes=30.75 * _GIB,
        memory_bandwidth=1.2e12,
        link_bandwidth=6 * 45e9,  # jax-ml.github.io/scaling-book/tpus, one way
        torus_dims=3,
    ),
    _tpu(
        "v5e",
        kinds=("TPU v5 lite", "TPU v5e"),
        peak_flops=197e12,
        memory_bytes=15.75 * _GIB,
        memory_bandwidth=819e9,
        link_bandwidth=1600e9 / 8,
        torus_dims=2,
    ),
    _tpu(
        "v5p",
        kinds=("TPU v5", "TPU v5p"),
        peak_flops=459e12,
        memory_bytes=95.74 * _GIB,
        memory_bandwidth=2765e9,
        link_bandwidth=4800e9 / 8,
        torus_dims=3,
    ),
    _tpu(
        "v6e",
        kinds=("TPU v6 lite", "TPU v6e"),
        peak_flops=918e12,
        memory_bytes=31.25 * _GIB,
        memory_bandwidth=1640e9,
        link_bandwidth=3200e9 / 8,  # an older revision of the page says 3,584 Gbps
        torus_dims=2,
    ),
    Device(
        name="h100",
        kinds=("NVIDIA H100 80GB HBM3",),
        peak_flops=989e12,
        memory_bytes=80e9,
        memory_bandwidth=3.35e12,
        link_bandwidth=450e9,
        product_share=0.80,
        memory_share=0.89,
        source="https://www.nvidia.com/en-us/data-center/h100/",
    ),
    Device(
        name="h200",
        kinds=("NVIDIA H200",),
        peak_flops=989e12,
        memory_bytes=141e9,
        memory_bandwidth=4.8e12,
        link_bandwidth=450e9,
        product_share=0.80,  # 8,192-wide products on random data: 769 to 798 TFLOP/s
        memory_share=0.89,  # a copy: 4.3 TB/s
        source="https://www.nvidia.com/en-us/data-center/h200/",
    ),
    Device(
        name="a100",
        kinds=("NVIDIA A100-SXM4-80GB",),
        peak_flops=312e12,
        memory_bytes=80e9,
        memory_bandwidth=2.039e12,
        link_bandwidth=300e9,
        product_share=0.80,
        memory_share=0.89,
        source="https://www.nvidia.com/en-us/data-center/a100/",
    ),
)


def named(name: str) -> Device:
    """Returns the chip of this project's name.

    Raises:
      ValueError: if there is none, with the nearest known name.
    """
    for device in DEVICES:
        if device.name == name:
            return device
    names = [device.name for device in DEVICES]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
    raise ValueError(f"no device {name!r}; did you mean {near!r}? known: {names}")


def of_kind(kind: str) -> Device | None:
    """Returns the chip that JAX calls `kind`, or None: a CPU, or one not in the table.

    Args:
      kind: `jax.Device.device_kind`.
    """
    return next((device for device in DEVICES if kind in device.kinds), None)
