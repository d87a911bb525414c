"""FAISS answers as our own search does."""

import sys

import numpy as np
import pytest

from cm3leon_jax.retrieval import faiss_index, index


def test_faiss_equals_our_search():
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    bank, queries = rng.normal(size=(300, 16)), rng.normal(size=(9, 16))
    bank[[3, 50]], queries[4] = np.nan, np.nan
    for k in (1, 40, 299):
        wanted = index.Index(bank).search(queries, k)
        found = faiss_index.FaissIndex(bank).search(queries, k)
        np.testing.assert_array_equal(found[1], wanted[1])
        np.testing.assert_allclose(found[0], wanted[0], atol=1e-5)


def test_without_faiss_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"cm3leon-jax\[faiss\]"):
        faiss_index.FaissIndex(np.zeros((2, 3)))


def test_wrong_shapes_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="at least one row"):
        faiss_index.FaissIndex(np.zeros((0, 3)))
