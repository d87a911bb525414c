"""The CPU as the device that computes: its instructions, memory and compiler."""

import ctypes
import logging
import os
import pathlib
from collections.abc import Mapping

import jax

_LOGGER = logging.getLogger(__name__)

# glibc's malloc.h.
_MALLOC_NAMES = {
    "trim_threshold": -1,
    "mmap_threshold": -3,
    "mmap_max": -4,
    "arena_max": -8,
}
_KEEPING = {"trim_threshold": 2**31 - 1, "mmap_max": 0, "arena_max": 1}
_RETURNING = {"mmap_threshold": 1 << 20, "arena_max": 1}


def use_devices(num_cpu_devices: int = 0) -> None:
    """Sets up a CPU's devices; call it before anything else touches JAX.

    Args:
      num_cpu_devices: devices that a CPU pretends to be, 0 for JAX's own choice.
        With one a core, each computes its share of the rows by itself.
    """
    if num_cpu_devices:
        jax.config.update("jax_num_cpu_devices", num_cpu_devices)
        keep_freed_memory()
        _add_thread(num_cpu_devices)


def _add_thread(num_cpu_devices: int) -> None:
    """Has XLA use more threads than devices, where it has no more cores than these.

    With a device a core one thread at times takes both devices' programs, and goes from
    one to the other while the second thread sleeps, for all of a step.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    if (cores or os.cpu_count() or 1) <= num_cpu_devices:
        os.environ.setdefault("NPROC", str(num_cpu_devices + 1))


def compiler_options(mesh: jax.sharding.Mesh) -> dict[str, bool]:
    """Returns what a step on a mesh is compiled with, for `jax.jit`.

    On CPU, operations in the order of the program instead of one that lets many run at
    a time: where each core is a device, nothing is left to run them. It gains beside
    other work, and little alone (docs/LOG.md, 2026-11-22).
    """
    if mesh.devices.flat[0].platform != "cpu":
        return {}
    return {"xla_cpu_enable_concurrency_optimized_scheduler": False}


def multiplies_bfloat16() -> bool:
    """Whether the device is a CPU with instructions for bfloat16 products.

    Where Linux does not tell (`/proc/cpuinfo`), the answer is no.
    """
    if jax.default_backend() != "cpu":
        return False
    try:
        words = set(pathlib.Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


def return_freed_memory() -> None:
    """Tells the C library to give large blocks back to the system at once.

    By default it keeps what was freed in several heaps of 64 MB, more than a program
    needs that holds one array at a time.
    """
    _set_malloc(_RETURNING)


def keep_freed_memory() -> None:
    """Tells the C library to keep what a step frees, for the next step.

    By default it goes back to the system, and every step has its pages cleared and
    mapped again: a fifth of the time of a small step on CPU, a tenth of encoding a
    picture of 256 pixels.

    What is kept has holes: a step's block is often laid elsewhere than where the last
    one was freed, until the heap is up to twice as large as needed. Where the process
    was started with large pages (`GLIBC_TUNABLES=glibc.malloc.hugetlb=1`) nothing is
    set: less memory, for somewhat more time in large steps (docs/benchmarks.md).
    """
    if "glibc.malloc.hugetlb=1" not in os.environ.get("GLIBC_TUNABLES", ""):
        _set_malloc(_KEEPING)


def _set_malloc(settings: Mapping[str, int]) -> None:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # not glibc (macOS, musl): no such setting
        return
    for name, value in settings.items():
        if not mallopt(_MALLOC_NAMES[name], value):
            _LOGGER.warning("the C library refused %s=%d", name, value)
