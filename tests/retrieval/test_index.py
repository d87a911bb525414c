"""Laws of the search: equal to brute force, however it is cut up."""

import functools

import jax
import numpy as np
import pytest

from cm3leon_jax.retrieval import index, two_passes
from cm3leon_jax.retrieval.index import IndexConfig


def _brute_force(queries_NE, bank_ME, k):
    scores_NM = (queries_NE @ bank_ME.T).astype(np.float32)
    scores_NM = np.where(np.isnan(scores_NM), -np.inf, scores_NM)
    rows_NK = np.argsort(-scores_NM, axis=1, kind="stable")[:, :k]
    scores_NK = np.take_along_axis(scores_NM, rows_NK, axis=1)
    return scores_NK, np.where(np.isneginf(scores_NK), -1, rows_NK)


def _integers(shape, seed):
    """Whole numbers: scores are exact, and many are equal."""
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


def _mesh(shape):
    devices = np.array(jax.devices()[: np.prod(shape)]).reshape(shape)
    return jax.sharding.Mesh(devices, ("data", "model")[: len(shape)])


@pytest.mark.parametrize("chunk_size", [1, 7, 16, 1000])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_search_equals_brute_force_with_ties(chunk_size, k):
    bank, queries = _integers((101, 6), 0), _integers((9, 6), 1)
    scores, rows = index.Index(bank, IndexConfig(chunk_size=chunk_size)).search(
        queries, k
    )
    wanted_scores, wanted_rows = _brute_force(queries, bank, k)
    np.testing.assert_array_equal(rows, wanted_rows)
    np.testing.assert_array_equal(scores, wanted_scores)


@pytest.mark.parametrize("shape", [(8,), (2, 4), (3,)])
@pytest.mark.parametrize("num_rows", [5, 101])
def test_search_over_a_mesh_equals_one_device(shape, num_rows):
    bank, queries = _integers((num_rows, 6), 2), _integers((4, 6), 3)
    spread = index.Index(bank, IndexConfig(chunk_size=8), mesh=_mesh(shape)).search(
        queries, 12
    )
    alone = index.Index(bank).search(queries, 12)
    np.testing.assert_array_equal(spread[1], alone[1])
    np.testing.assert_array_equal(spread[0], alone[0])


@pytest.mark.parametrize("order", ["random", "rising", "equal"])
@pytest.mark.parametrize("chunk_size", [128, 2048])
def test_search_by_segments_equals_brute_force_with_ties(order, chunk_size):
    # 32 segments a chunk at most, and 16 that are looked at before all are sorted: a
    # bank whose scores rise makes every chunk take the long way.
    bank, queries = _integers((4000, 6), 8), _integers((5, 6), 9)
    if order == "rising":
        queries = np.abs(queries)
        bank = np.repeat(np.arange(4000, dtype=np.float32)[:, None] // 7, 6, axis=1)
    elif order == "equal":
        bank[:] = bank[0]
    for k in (1, 33):
        config = IndexConfig(chunk_size=chunk_size)
        scores, rows = index.Index(bank, config).search(queries, k)
        wanted_scores, wanted_rows = _brute_force(queries, bank, k)
        np.testing.assert_array_equal(rows, wanted_rows)
        np.testing.assert_array_equal(scores, wanted_scores)


def test_search_by_segments_never_finds_missing_rows():
    bank, queries = _integers((1000, 6), 10), _integers((3, 6), 11)
    bank[64:900] = np.nan
    queries[2] = np.nan
    found = index.Index(bank, IndexConfig(chunk_size=256)).search(queries, 200)[1]
    assert not ((found >= 64) & (found < 900)).any()
    assert (np.sum(found >= 0, axis=1) == [164, 164, 0]).all()


@pytest.mark.parametrize(
    "config", [IndexConfig(dtype="bfloat16"), IndexConfig(approximate_recall=0.95)]
)
def test_faster_ways_find_nearly_the_same(config):
    rng = np.random.default_rng(12)
    bank, queries = rng.normal(size=(3000, 32)), rng.normal(size=(20, 32))
    wanted = index.Index(bank).search(queries, 16)[1]
    found = index.Index(bank, config).search(queries, 16)[1]
    shares = [len(set(a) & set(b)) / 16 for a, b in zip(found, wanted, strict=True)]
    assert np.mean(shares) > 0.9


@pytest.mark.parametrize(
    "wrong", [{"chunk_size": 0}, {"dtype": "int8"}, {"approximate_recall": 1.0}]
)
def test_index_config_refuses_values_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        IndexConfig(**wrong)


def test_search_never_finds_missing_rows():
    bank, queries = _integers((10, 4), 4), _integers((3, 4), 5)
    bank[[2, 7]] = np.nan
    queries[1] = np.nan
    scores, rows = index.Index(bank).search(queries, 10)
    assert not np.isin(rows, [2, 7]).any()
    assert (rows[1] == -1).all() and np.isneginf(scores[1]).all()
    assert (rows[0, :8] >= 0).all() and (rows[0, 8:] == -1).all()


def test_search_holds_no_full_score_matrix():
    bank, queries = _integers((4096, 8), 6), _integers((16, 8), 7)
    rows = two_passes.prepare(jax.numpy.asarray(bank))
    for use_two_passes in (False, True):
        search = functools.partial(
            two_passes.find_best, chunk_size=128, use_two_passes=use_two_passes
        )
        jaxpr = str(jax.make_jaxpr(lambda q: search(q, rows, 4))(queries))  # noqa: B023
        assert "f32[16,128]" in jaxpr
        assert "16,4096" not in jaxpr


@pytest.mark.parametrize(
    ("bank", "queries", "k"),
    [
        (np.zeros((0, 4)), np.zeros((1, 4)), 1),
        (np.zeros((3, 4)), np.zeros((1, 5)), 1),
        (np.zeros((3, 4)), np.zeros((1, 4)), 0),
    ],
)
def test_search_refuses_wrong_shapes(bank, queries, k):
    with pytest.raises(ValueError):
        index.Index(bank).search(queries, k)
