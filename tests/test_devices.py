"""The table of devices: whole, found by either name, mistakes answered."""

import pytest

from cm3leon_jax import devices


def test_no_two_devices_share_a_name():
    names = [one.name for one in devices.DEVICES]
    kinds = [kind for one in devices.DEVICES for kind in one.kinds]
    assert len(set(names)) == len(names) and len(set(kinds)) == len(kinds)


@pytest.mark.parametrize("one", devices.DEVICES, ids=lambda one: one.name)
def test_every_device_is_found_and_says_where_its_numbers_are_from(one):
    assert devices.named(one.name) is one
    assert all(devices.of_kind(kind) is one for kind in one.kinds)
    assert one.source.startswith("https://")
    # More arithmetic than any byte could feed, and links slower than memory.
    assert one.peak_flops > 50 * one.memory_bandwidth
    assert one.link_bandwidth < one.memory_bandwidth
    assert 0 < one.product_share <= 1 and 0 < one.memory_share <= 1


def test_unknown_names_are_answered_by_the_nearest():
    with pytest.raises(ValueError, match="no device 'v5'; did you mean 'v5[ep]'"):
        devices.named("v5")
    assert devices.of_kind("cpu") is None
