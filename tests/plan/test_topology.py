"""Names of TPU slices: read, or refused with the nearest that works."""

import pytest

from cm3leon_jax import devices
from cm3leon_jax.plan import topology


@pytest.mark.parametrize(
    ("name", "chips"),
    [("v5e:16x16", 256), ("v4:4x8x8", 256), ("v5p:4x4x8", 128), ("v6e:8x16", 128)],
)
def test_parse_counts_chips(name, chips):
    found = topology.parse(name)
    assert found.num_chips == chips
    assert found.device is devices.named(name.partition(":")[0])


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("v5e:16x17", "v5e:16x16"),
        ("v5e:3x5", "v5e:4x4"),
        ("v4:16x16", "v4:4x8x8"),
        ("v6f:4x8", "v6e:4x8"),
        ("v6e", "v6e:16x16"),
        ("", "v6e:16x16"),
    ],
)
def test_parse_refuses_with_the_nearest(name, nearest):
    with pytest.raises(ValueError, match="did you mean") as error:
        topology.parse(name)
    assert repr(nearest) in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "nearest"),
    [
        ("v5p-128", "64 chips", "v5p:4x4x4"),
        ("v4-512", "256 chips", "v4:4x8x8"),
        ("v5litepod-256", "product", "v5e:16x16"),
        ("v6e-64", "product", "v6e:8x8"),
    ],
)
def test_parse_explains_product_names(name, text, nearest):
    with pytest.raises(ValueError, match=text) as error:
        topology.parse(name)
    assert repr(nearest) in str(error.value)


def test_devices_are_found_by_the_kind_that_jax_names():
    kinds = [kind for device in devices.DEVICES for kind in device.kinds]
    assert len(kinds) == len(set(kinds))
    found = devices.of_kind("TPU v5 lite")
    assert found is not None and found.name == "v5e"
    assert devices.of_kind("cpu") is None
    with pytest.raises(ValueError, match="did you mean 'h200'"):
        devices.named("h20")
