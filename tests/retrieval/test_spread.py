"""Laws of a bank over many devices: what is found, and its vectors, are those of one."""

import numpy as np
import pytest

from cm3leon_jax.retrieval import chunks, index, spread


def _unit(count, seed):
    rows = np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _open(bank_ME, **config):
    return spread.Spread(
        lambda first, end: bank_ME[first:end].copy(),
        np.ones(len(bank_ME), bool),
        8,
        index.IndexConfig(**config),
        num_queries=16,
    )


@pytest.mark.parametrize("num_rows", [3, 101, 700])
@pytest.mark.parametrize("k", [1, 9])
def test_search_finds_what_one_device_finds_with_its_vectors(num_rows, k):
    bank_ME, queries_NE = _unit(num_rows, 0), _unit(16, 1)
    bank_ME[2] = bank_ME[1]  # a tie, which the lower row wins
    queries_NE[5] = bank_ME[1]
    bank_ME[num_rows // 2 + 1], queries_NE[3] = np.nan, np.nan
    rows_NK, vectors_NKE = _open(bank_ME, chunk_size=64).search(queries_NE, k)
    _, expected_NK = index.Index(bank_ME).search(queries_NE, k)
    np.testing.assert_array_equal(rows_NK, expected_NK)
    assert (rows_NK[3] == chunks.NONE).all() and rows_NK[5, 0] == 1
    found_NK = rows_NK != chunks.NONE
    np.testing.assert_array_equal(vectors_NKE[found_NK], bank_ME[rows_NK[found_NK]])


def test_no_more_than_a_device_s_share_is_read_at_once():
    bank_ME, asked = _unit(100, 2), []

    def read(first, end):
        asked.append((first, end))
        return bank_ME[first:end].copy()

    spread.Spread(read, np.ones(100, bool), 8, index.IndexConfig(chunk_size=5))
    assert max(end - first for first, end in asked) <= 15
    rows = [row for first, end in sorted(asked) for row in range(first, end)]
    assert rows == list(range(100))


def test_every_host_brings_the_same_number_of_queries():
    bank = _open(_unit(20, 3))
    assert bank.batch_size == spread.batch_size(16) == 16
    assert spread.batch_size(17) == 24  # as many a device
    for shape in ((15, 8), (16, 7)):
        with pytest.raises(ValueError, match="embed them"):
            bank.search(np.zeros(shape, np.float32), 1)


def test_an_empty_bank_is_refused():
    with pytest.raises(ValueError, match="at least one row"):
        _open(_unit(0, 4))
