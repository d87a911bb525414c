import collections
import time

import numpy as np
import pytest

from cm3leon_jax.data import mixture
from cm3leon_jax.data.mixture import BLOCK, Mixture


def test_proportions_are_exact_in_every_block():
    mixed = Mixture([100, 50, 7], [0.5, 0.3, 0.2], seed=0)
    for block in range(2):
        places = [mixed.place(block * BLOCK + n) for n in range(BLOCK)]
        counts = collections.Counter(place.set_index for place in places)
        assert [counts[k] for k in range(3)] == mixed.counts
    assert [
        abs(n / BLOCK - w) < 1 / BLOCK
        for n, w in zip(mixed.counts, (0.5, 0.3, 0.2), strict=True)
    ] == [True] * 3


def test_every_epoch_holds_every_record_once_in_another_order():
    mixed = Mixture([300], [1.0], seed=1)
    places = [mixed.place(n) for n in range(2 * BLOCK)]  # six epochs are whole
    epochs = [[p.record for p in places if p.epoch == epoch] for epoch in range(6)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(300))
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != sorted(epochs[0])


def test_long_sets_are_shuffled_by_a_bijection_too():
    length = (1 << 16) + 5
    mixed = Mixture([length], [1.0], seed=1)
    records = [mixed.place(n).record for n in range(0, 64 * BLOCK, 64)]
    assert len(set(records)) == len(records) and max(records) < length
    whole = [mixture._shuffle(n, length, 7) for n in range(length)]
    assert len(set(whole)) == length


def test_neighbours_in_a_sorted_set_do_not_stay_neighbours():
    length = 100_000
    mixed = Mixture([length], [1.0], seed=2)
    records = np.array([mixed.place(n).record for n in range(length)], np.float64)
    assert abs(np.corrcoef(records[:-1], records[1:])[0, 1]) < 0.01
    assert abs(np.corrcoef(np.arange(length), records)[0, 1]) < 0.01


@pytest.mark.parametrize("number", [10**9, 2**31 + 5, 2**40])
def test_any_place_is_found_at_once_beyond_32_bits_too(number):
    mixed = Mixture([10**6, 3 * 10**9], [1.0, 1.0], seed=0)
    since = time.perf_counter()
    place = mixed.place(number)
    assert time.perf_counter() - since < 0.1
    length = (10**6, 3 * 10**9)[place.set_index]
    assert 0 <= place.record < length
    # Each set has half of every block.
    assert abs(place.epoch - (number // 2) // length) <= 1


def test_the_order_depends_on_the_seed_alone():
    orders = [
        [Mixture([40, 60], [1, 2], seed=seed).place(n) for n in range(50)]
        for seed in (3, 3, 4)
    ]
    assert orders[0] == orders[1] != orders[2]


def test_a_small_weight_gets_at_least_one_document_a_block():
    assert Mixture([5, 5], [1.0, 1e-9], seed=0).counts == [BLOCK - 1, 1]
    assert Mixture([1, 5], [1.0, 0.0], seed=0).place(17)[:2] == (0, 0)


@pytest.mark.parametrize(
    ("lengths", "weights"),
    [([1, 1], [0, 0]), ([1], [-1]), ([0, 1], [1, 1]), ([1], [1, 1])],
)
def test_weights_that_make_no_mixture_are_refused(lengths, weights):
    with pytest.raises(ValueError, match="set"):
        Mixture(lengths, weights, seed=0)


def test_in_order_is_the_identity():
    assert mixture.InOrder().place(5) == (0, 5, 0)
