"""Order, rounds and restart of batches in memory."""

import numpy as np
import pytest

from cm3leon_jax.data import shuffled


def test_every_row_is_seen_once_a_round_in_a_new_order():
    batches = shuffled.Shuffled(np.arange(12), 4, seed=1)
    rounds = [np.concatenate([next(batches) for _ in range(3)]) for _ in range(2)]
    for seen in rounds:
        assert sorted(seen) == list(range(12))
    assert rounds[0].tolist() != rounds[1].tolist()


def test_restart_equals_never_stopped():
    whole = shuffled.Shuffled(np.arange(10), 3, seed=1)
    for _ in range(5):
        next(whole)
    again = shuffled.Shuffled(np.arange(10), 3, seed=1)
    again.set_state(whole.get_state())
    for _ in range(4):
        np.testing.assert_array_equal(next(whole), next(again))


def test_too_few_rows_are_refused():
    with pytest.raises(ValueError, match="2 pictures do not fill a batch of 3"):
        shuffled.Shuffled(np.arange(2), 3)
