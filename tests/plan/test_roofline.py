"""Seconds of a step by hand."""

import dataclasses

import pytest

from cm3leon_jax import devices
from cm3leon_jax.plan import roofline
from cm3leon_jax.plan.collectives import Collective
from cm3leon_jax.plan.traffic import Traffic

CHIP = devices.Device(
    name="test",
    kinds=(),
    peak_flops=100.0,
    memory_bytes=1.0,
    memory_bandwidth=10.0,
    link_bandwidth=4.0,
    product_share=0.5,
    memory_share=0.5,
    torus_dims=2,
    ring_length=16,
)


def _estimate(flops, products, others, sent):
    return roofline.estimate(
        CHIP,
        flops=flops,
        traffic=Traffic(products, others),
        collectives=[Collective("all-gather", 256, 1, sent)],
        shape=(16, 16),
    )


def test_estimate_adds_what_does_not_overlap():
    found = _estimate(flops=500, products=5, others=10, sent=4)
    assert found == roofline.Roofline(arithmetic=10, products=10, others=2, links=1)
    assert (found.seconds, found.limit) == (12, "arithmetic")


@pytest.mark.parametrize(
    ("flops", "products", "others", "sent", "seconds", "limit"),
    [
        (50, 50, 5, 4, 11, "memory"),  # products wait for their operands
        (50, 5, 100, 4, 21, "memory"),
        (50, 5, 5, 400, 100, "links"),
    ],
)
def test_estimate_names_the_limit(flops, products, others, sent, seconds, limit):
    found = _estimate(flops, products, others, sent)
    assert (found.seconds, found.limit) == (seconds, limit)


@pytest.mark.parametrize(
    ("shape", "group", "expected"),
    [
        ((16, 16), 256, 4.0),  # both dimensions, both directions
        ((16, 16), 16, 2.0),  # one dimension
        ((4, 4), 16, 2.0),  # no rings
        ((4, 16), 64, 3.0),
        ((), 8, 4.0),  # a switch
    ],
)
def test_bandwidth_is_of_the_links_that_a_group_needs(shape, group, expected):
    assert roofline.bandwidth(CHIP, group, shape) == expected


def test_bandwidth_behind_a_switch_is_whole():
    switched = dataclasses.replace(CHIP, torus_dims=0)
    assert roofline.bandwidth(switched, 2, (8,)) == 4.0


def test_cost_of_the_papers_7b_run_is_its_tokens_by_its_steps():
    found = roofline.cost(2.4e12, tokens_per_step=2**23, seconds=10.0, num_chips=256)
    assert found["steps"] == 286_103
    assert found["days"] == pytest.approx(286_103 * 10 / 86_400)
    assert found["chip_hours"] == pytest.approx(found["days"] * 24 * 256)
