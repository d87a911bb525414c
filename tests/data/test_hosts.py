"""How hosts share work, and how each knows which it is."""

import itertools

import pytest

from cm3leon_jax.data.hosts import Hosts


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("number", [0, 5, 8, 100])
def test_shares_cover_the_work_once_in_order_and_evenly(number, count):
    shares = [Hosts(index, count).share(number) for index in range(count)]
    assert list(itertools.chain(*shares)) == list(range(number))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_is_the_host_that_its_environment_says():
    assert Hosts.here({}) == Hosts.here({"CM3LEON_HOSTS": "1"}) == Hosts(0, 1)
    two_of_four = {"CM3LEON_HOSTS": "4", "CM3LEON_HOST": "2"}
    assert Hosts.here(two_of_four) == Hosts(2, 4)
    assert not Hosts.here(two_of_four).is_first


@pytest.mark.parametrize(
    "environment",
    [
        {"CM3LEON_HOSTS": "4"},
        {"CM3LEON_HOSTS": "4", "CM3LEON_HOST": "4"},
        {"CM3LEON_HOSTS": "many", "CM3LEON_HOST": "0"},
    ],
)
def test_a_process_that_does_not_know_which_host_it_is_is_refused(environment):
    with pytest.raises(ValueError, match="needs CM3LEON_HOST from 0"):
        Hosts.here(environment)
