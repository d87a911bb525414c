"""Laws of the neighbours of a set: the rules hold, and no batch changes them."""

import dataclasses

import jax
import numpy as np
import pytest

from cm3leon_jax.retrieval import neighbors, strategy

CONFIG = strategy.StrategyConfig(num_candidates=16)


def _vectors(count, seed, first_id=0):
    rng = np.random.default_rng(seed)
    text, image = rng.normal(size=(2, count, 8)).astype(np.float32)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    return neighbors.Vectors(np.arange(first_id, first_id + count), text, image)


def _part(vectors, rows):
    return neighbors.Vectors(vectors.ids[rows], vectors.text[rows], vectors.image[rows])


def test_find_obeys_the_rules():
    documents = _vectors(200, 0)
    found = neighbors.find(documents, documents, CONFIG, batch_size=64)
    assert found.ids.shape == (200, 4) and found.ids.dtype == np.int32
    vectors = strategy.document_vectors(documents.text, documents.image)
    for document, ids in enumerate(found.ids):
        assert document not in ids and len(set(ids)) == 4
        near = vectors[[document, *ids]] @ vectors[[document, *ids]].T
        assert near[~np.eye(5, dtype=bool)].max() <= CONFIG.max_similarity
    parts = (documents.text, documents.image)
    queries = [np.einsum("ne,nke->nk", part, vectors[found.ids]) for part in parts]
    wanted = np.where(found.by_image, queries[1], queries[0])
    np.testing.assert_allclose(found.scores, wanted, atol=1e-6)


def test_find_of_parts_equals_find_of_all():
    queries, bank = _vectors(50, 1, first_id=1000), _vectors(120, 2)
    whole = neighbors.find(queries, bank, CONFIG)
    for batch_size, step in ((16, 50), (1024, 7)):
        parts = [
            neighbors.find(
                _part(queries, slice(first, first + step)),
                bank,
                CONFIG,
                batch_size=batch_size,
            )
            for first in range(0, 50, step)
        ]
        for name in ("ids", "scores", "by_image"):
            joined = np.concatenate([getattr(part, name) for part in parts])
            np.testing.assert_array_equal(joined, getattr(whole, name))


def test_find_over_a_mesh_equals_one_device():
    queries, bank = _vectors(20, 3, first_id=1000), _vectors(120, 4)
    mesh = jax.make_mesh((8,), ("data",))
    alone = neighbors.find(queries, bank, CONFIG)
    spread = neighbors.find(queries, bank, CONFIG, mesh=mesh)
    np.testing.assert_array_equal(spread.ids, alone.ids)
    np.testing.assert_array_equal(spread.scores, alone.scores)


def test_find_with_one_part_uses_that_part():
    queries, bank = _vectors(10, 5, first_id=1000), _vectors(60, 6)
    nothing = np.full_like(queries.image, np.nan)
    by_text = neighbors.Vectors(queries.ids, queries.text, nothing)
    config = dataclasses.replace(CONFIG, max_similarity=1.0)
    found = neighbors.find(by_text, bank, config)
    assert not found.by_image.any()
    assert (found.ids[:, :2] >= 0).all() and (found.ids[:, 2:] == -1).all()
    nearest = strategy.document_vectors(bank.text, bank.image) @ queries.text.T
    np.testing.assert_array_equal(found.ids[:, 0], nearest.argmax(axis=0))


def test_find_searches_with_the_dropped_query_but_compares_the_whole():
    bank = _vectors(60, 7)
    other = _vectors(10, 8)
    queries = neighbors.Vectors(
        np.arange(1000, 1010), bank.text[:10], bank.image[:10], other.text, other.image
    )
    found = neighbors.find(queries, bank, CONFIG)
    plain = neighbors.find(
        neighbors.Vectors(queries.ids, other.text, other.image), bank, CONFIG
    )
    # Documents 0 to 9 are the queries themselves under other ids: never taken.
    assert not (found.ids == np.arange(10)[:, None]).any()
    assert (found.ids == plain.ids).mean() > 0.8


def test_find_of_nothing_is_empty():
    nothing = neighbors.find(_vectors(0, 9), _vectors(5, 10), CONFIG)
    assert nothing.ids.shape == (0, 4)


@pytest.mark.parametrize("batch_size", [16, 1_024])
def test_near_duplicates_are_those_of_a_full_comparison(batch_size):
    rng = np.random.default_rng(11)
    others = rng.normal(size=(40, 8)).astype(np.float32)
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    documents = np.concatenate([others[:5], rng.normal(size=(60, 8))])
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    documents = documents.astype(np.float32)
    documents[7], others[9] = np.nan, np.nan
    wanted = np.nanmax(np.nan_to_num(documents @ others.T, nan=-1.0), axis=1) > 0.8
    found = neighbors.near_duplicates(documents, others, 0.8, batch_size=batch_size)
    np.testing.assert_array_equal(found, wanted)
    assert found[:5].all() and not found[7] and 5 < found.sum() < 60
    assert not neighbors.near_duplicates(documents, others, 1.0).any()
    assert not neighbors.near_duplicates(documents, others[:0], 0.8).any()
