"""Digests see every bit and no sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cm3leon_jax.train import digests

DTYPES = ("float32", "bfloat16", "int32", "uint8", "bool", "float8_e4m3fn")


def arrays(dtype="float32"):
    draw = np.random.default_rng(0).normal(size=(16, 12), scale=9)
    whole = jnp.asarray(draw).astype(dtype)
    return {"matrix": whole, "scalar": whole[0, 0], "empty": whole[:0], "row": whole[2]}


@pytest.mark.parametrize("dtype", DTYPES)
def test_digest_is_the_same_on_device_on_host_and_under_every_sharding(dtype):
    expected = digests.on_host({k: np.asarray(v) for k, v in arrays(dtype).items()})
    assert (
        digests.on_device(arrays(dtype)) == digests.on_host(arrays(dtype)) == expected
    )
    mesh = jax.make_mesh((4, 2), ("x", "y"), (jax.sharding.AxisType.Auto,) * 2)
    for spec in (("x", "y"), ("y",), (None, "x"), (("x", "y"),), ()):
        spec = jax.sharding.PartitionSpec(*spec)
        place = jax.sharding.NamedSharding(mesh, spec)
        spread = {"matrix": jax.device_put(arrays(dtype)["matrix"], place)}
        assert digests.on_host(spread)["matrix"] == expected["matrix"], spec
        assert digests.on_device(spread)["matrix"] == expected["matrix"], spec


@pytest.mark.parametrize("dtype", DTYPES)
def test_digest_of_boxes_is_that_of_the_whole_in_any_order(dtype):
    whole = np.asarray(arrays(dtype)["matrix"])
    cuts = [(0, 0, 5, 12), (5, 3, 16, 12), (5, 0, 16, 3)]
    boxes = [(whole[y:end_y, x:end_x], (y, x)) for y, x, end_y, end_x in cuts]
    expected = digests.of({"whole": whole})["whole"]
    for some in (boxes, boxes[::-1]):
        assert digests.of_boxes(iter(some), whole.shape) == expected
    assert digests.of_boxes(iter(boxes[1:]), whole.shape) != expected


def test_digest_is_that_of_its_definition():
    words = np.array([7, 0, 2**32 - 1], np.uint32)
    first = second = 0
    for index, word in enumerate(words.tolist()):
        a = mix(word ^ (index * 0x9E3779B1 % 2**32))
        first, second = first + a, second + mix((a + index) % 2**32)
    expected = f"{first % 2**32:08x}{second % 2**32:08x}"
    assert digests.of({"w": words})["w"] == expected
    assert digests.of({"w": words.view(np.float32)})["w"] == expected


def mix(x):
    x ^= x >> 16
    x = x * 0x85EBCA6B % 2**32
    x ^= x >> 13
    x = x * 0xC2B2AE35 % 2**32
    return x ^ (x >> 16)


def test_every_flipped_bit_changes_both_sums():
    array = np.zeros((5, 7), np.float32)
    before = digests.on_host({"x": array})["x"]
    bits = array.view(np.uint32)
    for position in range(array.size):
        for bit in range(32):
            bits.flat[position] ^= np.uint32(1 << bit)
            after = digests.on_host({"x": array})["x"]
            assert after[0] != before[0] and after[1] != before[1]
            bits.flat[position] ^= np.uint32(1 << bit)


def test_moved_elements_change_the_digest():
    array = np.arange(64 * 33, dtype=np.int32).reshape(64, 33)
    before = digests.of({"x": array})
    swapped = array.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    for other in (swapped, np.roll(array, 1), array.T.copy(), array[::-1].copy()):
        assert digests.of({"x": other}) != before


def test_blocks_of_a_large_array_join():
    wide = np.arange(3 * (digests._BLOCK + 5), dtype=np.int32).reshape(3, -1)
    tall = wide.reshape(-1, 1)
    assert digests.on_host({"x": wide}) == digests.on_device({"x": wide})
    assert digests.on_host({"x": tall}) == digests.on_host({"x": wide})  # same order
