"""Laws of the search in two passes: never another result than float32 gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cm3leon_jax.retrieval import chunks, index, spread, two_passes

_find = jax.jit(
    two_passes.find_best, static_argnames=("k", "chunk_size", "use_two_passes")
)


def _unit(shape, seed):
    rows = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _integers(shape, seed, end=3):
    """Whole numbers: float32 is exact, and many scores are equal."""
    return np.random.default_rng(seed).integers(-2, end, shape).astype(np.float32)


def _search(bank_ME, queries_NE, k, chunk_size=256):
    size, num_chunks = chunks.layout(len(bank_ME), chunk_size)
    missing = size * num_chunks - len(bank_ME)
    bank_ME = np.pad(bank_ME, ((0, missing), (0, 0)), constant_values=np.nan)
    rows = two_passes.prepare(jnp.asarray(bank_ME))
    scores, found = jax.device_get(
        _find(queries_NE, rows, k=k, chunk_size=size, use_two_passes=True)
    )
    return scores, np.where(np.isneginf(scores), chunks.NONE, found)


def _full_sort(bank_ME, queries_NE, k):
    """The best by float64, and scores near which float32 may decide otherwise."""
    with np.errstate(invalid="ignore"):
        scores_NM = queries_NE.astype(np.float64) @ bank_ME.T.astype(np.float64)
    scores_NM = np.where(np.isnan(scores_NM), -np.inf, scores_NM)
    rows_NK = np.argsort(-scores_NM, axis=1, kind="stable")[:, :k]
    scores_NK = np.take_along_axis(scores_NM, rows_NK, axis=1)
    return scores_NK, np.where(np.isneginf(scores_NK), chunks.NONE, rows_NK)


def _near_ties(seed):
    """Vectors that bfloat16 makes equal, and float32 does not."""
    bank = np.repeat(_integers((50, 16), seed), 40, axis=0)
    bank += _integers(bank.shape, seed + 1) * 2.0**-10
    return bank.astype(np.float32)


def _lengths_apart(seed):
    bank = _integers((2000, 16), seed)
    return (bank * 2.0 ** np.arange(-40, 40)[np.arange(2000) % 80, None]).astype("f4")


def _one_out_of_bfloat16():
    bank = _integers((2000, 16), 7)
    bank[7], bank[7, 0] = 0, np.finfo(np.float32).max / 2  # rounded, it is 2^127
    bank[8], bank[8, 0] = 0, np.finfo(np.float32).max  # rounded, it is infinite
    return bank


HOSTILE = {
    "ties": _integers((2000, 16), 0),
    "near ties": _near_ties(1),
    "one vector": np.ones((2000, 16), np.float32),
    "zeros": np.zeros((2000, 16), np.float32),
    "half zeros": _integers((2000, 16), 3) * (np.arange(2000) % 2)[:, None],
    "lengths apart": _lengths_apart(4),
    "tiny": _integers((2000, 16), 5) * np.float32(2.0**-100),
    "huge": _integers((2000, 16), 6) * np.float32(2.0**100),
    "out of bfloat16": _one_out_of_bfloat16(),
    "missing": np.where(
        np.arange(2000)[:, None] % 3, _integers((2000, 16), 8), np.nan
    ).astype(np.float32),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_two_passes_find_what_a_full_sort_finds(name):
    # Products of whole numbers and powers of two are exact in float32, and so are the
    # rows, ties included.
    bank, queries = HOSTILE[name], _integers((12, 16), 9)
    queries[3], queries[4], queries[5] = 0, np.nan, np.inf
    if name == "huge":
        queries[:3] *= np.float32(2.0**-80)
    if name == "out of bfloat16":  # but not of float32
        queries[:, 0] = np.clip(queries[:, 0], -1, 1)
    scores, rows = _search(bank, queries, 40)
    wanted_scores, wanted_rows = _full_sort(bank, queries, 40)
    wanted_scores[4:6], wanted_rows[4:6] = -np.inf, chunks.NONE
    np.testing.assert_array_equal(rows, wanted_rows)
    np.testing.assert_array_equal(scores, wanted_scores.astype(np.float32))


@pytest.mark.parametrize("spread_of_cluster", [1.0, 0.1, 1e-3, 0.0])
def test_two_passes_find_the_best_of_clusters(spread_of_cluster):
    # The closer, the more lies within the bound: at first nothing is searched again, in
    # the end everything is.
    bank = _unit((4000, 64), 0) * spread_of_cluster + _unit((1, 64), 1)
    bank = (bank / np.linalg.norm(bank, axis=1, keepdims=True)).astype(np.float32)
    queries = _unit((150, 64), 2)
    scores, rows = _search(bank, queries, 32)
    wanted_scores, _ = _full_sort(bank, queries, 32)
    np.testing.assert_allclose(scores, wanted_scores, rtol=0, atol=3e-7)
    own = np.einsum("ne,nke->nk", queries.astype(np.float64), bank[rows])
    np.testing.assert_allclose(scores, own, rtol=0, atol=3e-7)
    assert all(len(set(row)) == 32 for row in rows)


def test_equal_vectors_are_found_in_the_order_of_their_rows():
    # Scores of equal vectors must have the same bits wherever they lie.
    bank = _unit((3000, 77), 3)
    copies = np.sort(np.random.default_rng(4).permutation(3000)[:60])
    bank[copies] = bank[copies[0]]
    queries = np.concatenate([bank[copies[:1]], _unit((9, 77), 5)])
    scores, rows = _search(bank, queries, 40)
    np.testing.assert_array_equal(rows[0], copies[:40])
    assert len(set(scores[0])) == 1


def test_no_score_differs_by_more_than_the_bound():
    bank, queries = _unit((5000, 128), 6), 3 * _unit((20, 128), 7)
    bank *= np.random.default_rng(8).uniform(0.1, 9, (5000, 1)).astype(np.float32)
    rows = two_passes.prepare(jnp.asarray(bank))
    rounded = [
        np.asarray(jnp.asarray(x, "bfloat16"), np.float64) for x in (queries, bank)
    ]
    exact = queries.astype(np.float64) @ bank.T.astype(np.float64)
    error = np.abs(exact - rounded[0] @ rounded[1].T).max(axis=1)
    bound = np.asarray(two_passes._most_error(jnp.asarray(queries), rows))
    assert (error < bound).all() and (bound < 100 * error).all()


def test_only_queries_that_are_not_sure_are_searched_again(monkeypatch):
    seen, products = [], chunks._products

    def count(queries_NE, vectors_CE, dtype):
        jax.debug.callback(lambda: seen.append(dtype))
        return products(queries_NE, vectors_CE, dtype)

    @jax.jit
    def find(queries, rows):
        return two_passes.find_best(
            queries, rows, 8, chunk_size=512, use_two_passes=True
        )

    def searched_again(bank):
        """Groups of queries whose chunks were multiplied in float32, as it ran."""
        seen.clear()
        jax.block_until_ready(find(queries, two_passes.prepare(jnp.asarray(bank))))
        jax.effects_barrier()
        assert seen.count("bfloat16") == 2
        return seen.count("float32") / 2

    monkeypatch.setattr(chunks, "_products", count)
    bank, queries = _unit((1024, 64), 9), _unit((200, 64), 10)
    queries[7] = np.nan
    assert searched_again(bank) == 0
    bank[:300] = bank[0]
    queries[5] = bank[0]  # 300 at the same score
    assert searched_again(bank) == 1
    bank[:] = bank[0]
    assert searched_again(bank) == 2


def _on_eight_devices(name, monkeypatch):
    """A bank, queries, how to search, and what one pass on one device finds."""
    bank, queries = np.concatenate([HOSTILE[name]] * 2), _integers((16, 16), 11)
    queries[3] = np.nan
    config = index.IndexConfig(chunk_size=64)
    monkeypatch.setattr(two_passes, "pays", lambda dtype, num_rows: False)
    wanted = index.Index(bank, config).search(queries, 12)
    monkeypatch.setattr(two_passes, "pays", lambda dtype, num_rows: True)
    return bank, queries, config, wanted


@pytest.mark.parametrize("name", ["ties", "near ties", "lengths apart", "missing"])
def test_two_passes_on_eight_devices_find_what_one_pass_on_one_finds(name, monkeypatch):
    bank, queries, config, wanted = _on_eight_devices(name, monkeypatch)
    mesh = jax.make_mesh((8,), ("bank",))
    scores, rows = index.Index(bank, config, mesh=mesh).search(queries, 12)
    np.testing.assert_array_equal(rows, wanted[1])
    np.testing.assert_array_equal(scores, wanted[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ties", "near ties", "lengths apart", "missing"])
def test_two_passes_on_all_hosts_devices_find_the_same(name, monkeypatch):
    bank, queries, config, wanted = _on_eight_devices(name, monkeypatch)
    held = spread.Spread(
        lambda first, end: bank[first:end].copy(),
        np.ones(len(bank), bool),
        16,
        config,
        num_queries=16,
    )
    np.testing.assert_array_equal(held.search(queries, 12)[0], wanted[1])


def test_two_passes_are_deterministic():
    bank, queries = _near_ties(12), _unit((12, 16), 13)
    first, second = _search(bank, queries, 40), _search(bank, queries, 40)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


@pytest.mark.parametrize(
    ("dtype", "num_rows", "expected"),
    [("float32", 2**20, True), ("float32", 2000, False), ("bfloat16", 2**20, False)],
)
def test_two_passes_are_taken_where_they_pay(dtype, num_rows, expected, monkeypatch):
    monkeypatch.setattr(two_passes.cpu, "multiplies_bfloat16", lambda: True)
    assert two_passes.pays(dtype, num_rows) is expected
    monkeypatch.setattr(two_passes.cpu, "multiplies_bfloat16", lambda: False)
    assert not two_passes.pays(dtype, num_rows)


def test_the_given_bank_is_left_as_it_is():
    bank = HOSTILE["missing"].copy()
    index.Index(bank)
    np.testing.assert_array_equal(bank, HOSTILE["missing"])


@pytest.mark.parametrize(
    ("num_rows", "chunk_size"), [(1, 8192), (1_000_000, 8192), (40_000, 8192), (99, 7)]
)
def test_layout_holds_all_rows_in_chunks_of_a_size_at_most(num_rows, chunk_size):
    size, num_chunks = chunks.layout(num_rows, chunk_size)
    assert size <= chunk_size
    assert num_rows <= size * num_chunks <= 1.02 * num_rows + 64 * num_chunks
