"""Digests of arrays: a sum over their elements, the same under every sharding.

Element i (row-major position in the whole array) with bits w adds

    a = mix(w ^ (i * GOLDEN))        to the first sum,
    b = mix(a + i)                   to the second,

both modulo 2^32; the digest is the two sums, 16 hexadecimal digits. `mix` is a
bijection, so any change of one element changes both sums for certain; any other
accident (pieces swapped, zeroed, shifted) goes unseen with a chance of 2^-64. It is no
defence against someone who means to deceive. Sums have no order: each device adds up
its own part, and what was written on 256 chips is verified on one.

Two forms of the same function: `on_device` is compiled and reads nothing but the
device's memory; `on_host` is NumPy, for the CPU, where it needs no compilation.

Source of `mix`: MurmurHash3's 32-bit finalizer (Austin Appleby, public domain).
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cm3leon_jax.train import hosts

_GOLDEN = 0x9E3779B1  # 2^32 / golden ratio: neighbouring positions lie far apart
_MULTIPLIERS = (0x85EBCA6B, 0xC2B2AE35)
_SHIFTS = (16, 13, 16)
_BLOCK = 1 << 15  # elements at a time on the host: stays in the cache
_MASK = 0xFFFFFFFF

Sums = tuple[int, int]


def of(arrays: Mapping[str, Any]) -> dict[str, str]:
    """Returns the digest of every array, whatever devices and hosts it is spread over.

    All hosts must call it with the same names.

    Args:
      arrays: NumPy or JAX arrays of at most 64 bits an element, no random keys.
    """
    if not arrays:
        return {}
    on_accelerator = any(
        isinstance(x, jax.Array) and x.devices() and _platform(x) != "cpu"
        for x in arrays.values()
    )
    sums = on_device(arrays) if on_accelerator else on_host(arrays)
    return {name: _text(pair) for name, pair in sums.items()}


def of_boxes(
    boxes: Iterable[tuple[np.ndarray, tuple[int, ...]]], shape: tuple[int, ...]
) -> str:
    """Returns the digest of an array that comes in boxes, none of which is kept.

    Args:
      boxes: disjoint, in any order, which together are the array; each with the index
        of its first element.
      shape: of the array.
    """
    return _text(_added(_block_sums(part, start, shape) for part, start in boxes))


def on_device(arrays: Mapping[str, Any]) -> dict[str, Sums]:
    """Returns the sums of every array, computed where the arrays lie."""
    found = jax.device_get(_device_sums(dict(arrays)))
    return {name: (int(first), int(second)) for name, (first, second) in found.items()}


def on_host(arrays: Mapping[str, Any]) -> dict[str, Sums]:
    """Returns the sums of every array, each host adding up what it holds."""
    parts = {
        name: _added(
            _block_sums(part, start, array.shape) for part, start in _parts(array)
        )
        for name, array in arrays.items()
    }
    everyone = hosts.gather(parts)
    return {name: _added(tuple(each[name]) for each in everyone) for name in parts}


@jax.jit
def _device_sums(
    arrays: dict[str, jax.Array],
) -> dict[str, tuple[jax.Array, jax.Array]]:
    return {name: _jax_sums(jnp.asarray(array)) for name, array in arrays.items()}


def _jax_sums(array: jax.Array) -> tuple[jax.Array, jax.Array]:
    words = _jax_words(array)
    position = jnp.zeros(words.shape, jnp.uint32)
    for axis, stride in enumerate(_strides(words.shape)):
        iota = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        position += iota * jnp.uint32(stride & _MASK)
    first = _mix(words ^ (position * jnp.uint32(_GOLDEN)))
    second = _mix(first + position)
    return first.sum(dtype=jnp.uint32), second.sum(dtype=jnp.uint32)


def _jax_words(array: jax.Array) -> jax.Array:
    """The bits of every element as uint32; 64-bit elements become two, low first."""
    if array.dtype == jnp.bool_:
        return array.astype(jnp.uint32)
    bits = 8 * array.dtype.itemsize
    kind = jnp.dtype(f"uint{min(bits, 32)}")
    return jax.lax.bitcast_convert_type(array, kind).astype(jnp.uint32)


def _mix(x: Any) -> Any:
    """MurmurHash3's finalizer, a bijection of 32 bits."""
    kind = jnp.uint32
    x = x ^ (x >> kind(_SHIFTS[0]))
    x = x * kind(_MULTIPLIERS[0])
    x = x ^ (x >> kind(_SHIFTS[1]))
    x = x * kind(_MULTIPLIERS[1])
    return x ^ (x >> kind(_SHIFTS[2]))


def _mix_in_place(x: np.ndarray, scratch: np.ndarray) -> None:
    """`_mix` on uint32 without an allocation a step: the host's time is memory's."""
    for shift, factor in zip(_SHIFTS, (*_MULTIPLIERS, None), strict=True):
        np.right_shift(x, np.uint32(shift), out=scratch)
        np.bitwise_xor(x, scratch, out=x)
        if factor is not None:
            np.multiply(x, np.uint32(factor), out=x)


def _parts(array: Any) -> Iterator[tuple[np.ndarray, tuple[int, ...]]]:
    """The parts of an array that this host is to count, with where they begin."""
    if not isinstance(array, jax.Array):
        if hosts.is_first():  # every host holds the whole
            yield np.asarray(array), (0,) * np.ndim(array)
        return
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            start = tuple(piece.start or 0 for piece in shard.index)
            yield np.asarray(shard.data), start


def _block_sums(part: np.ndarray, start: tuple[int, ...], shape: Any) -> Sums:
    """The sums of a box of the array that begins at `start`."""
    words = _host_words(part)
    extra = words.ndim - part.ndim
    strides = _strides((*shape, *words.shape[part.ndim :]))
    width = words.shape[-1] if words.ndim else 1
    rows = words.reshape(-1, width) if words.size else words.reshape(0, width)
    offsets = _row_offsets(words.shape[:-1], (*start, *((0,) * extra)), strides)
    columns = np.arange(width, dtype=np.uint64)
    step = max(1, _BLOCK // max(1, width))
    total = (0, 0)
    for row in range(0, len(rows), step):
        for column in range(0, width, _BLOCK):
            at = slice(column, column + _BLOCK)
            position = offsets[row : row + step, None] + columns[None, at]
            block = rows[row : row + step, at]
            total = _added((total, _sums(block, position.astype(np.uint32))))
    return total


def _sums(words: np.ndarray, position: np.ndarray) -> Sums:
    scratch = np.empty_like(position)
    x = position * np.uint32(_GOLDEN)
    np.bitwise_xor(x, words, out=x)
    _mix_in_place(x, scratch)
    first = int(x.sum(dtype=np.uint64)) & _MASK
    np.add(x, position, out=x)
    _mix_in_place(x, scratch)
    return first, int(x.sum(dtype=np.uint64)) & _MASK


def _row_offsets(
    lead: tuple[int, ...], start: tuple[int, ...], strides: list[int]
) -> np.ndarray:
    """uint64[rows]: where each row of a box begins in the whole array."""
    last = start[-1] if start else 0
    offsets = np.array([last], np.uint64)
    for size, first, stride in zip(lead, start, strides, strict=False):
        along = (first + np.arange(size, dtype=np.uint64)) * np.uint64(stride)
        offsets = (offsets[:, None] + along[None]).reshape(-1)
    return offsets


def _host_words(part: np.ndarray) -> np.ndarray:
    bits = 8 * part.dtype.itemsize
    flat = np.ascontiguousarray(part).reshape(part.shape)
    if bits == 64:
        return flat[..., None].view(np.uint32)
    return flat.view(np.dtype(f"uint{bits}"))


def _strides(shape: tuple[int, ...]) -> list[int]:
    """Elements between neighbours along each axis, row-major."""
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _text(sums: Sums) -> str:
    first, second = sums
    return f"{first:08x}{second:08x}"


def _added(sums: Any) -> Sums:
    first = second = 0
    for a, b in sums:
        first, second = (first + a) & _MASK, (second + b) & _MASK
    return first, second


def _platform(array: jax.Array) -> str:
    return next(iter(array.devices())).platform
