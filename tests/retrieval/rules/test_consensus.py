"""A neighbour strategy of its own: one file, and one line in a config."""

import numpy as np
import pytest

from cm3leon_jax.retrieval import strategy
from cm3leon_jax.retrieval.rules import consensus
from cm3leon_jax.retrieval.strategy import Candidates, StrategyConfig


def _found():
    """Three documents alike, and one that is odd but most relevant; one place empty."""
    vectors = np.array([[0, 1.0], [1, 0], [0.96, 0.28], [0.96, -0.28], [np.nan] * 2])
    scores = np.array([[0.9, 0.5, 0.4, 0.3, -np.inf]])
    ids = np.array([[10, 11, 12, 13, strategy.NONE]])
    return Candidates(ids, scores, vectors[None], np.ones((1, 5), bool))


def _chosen(rule):
    config = StrategyConfig(num_by_image=2, num_by_text=0, rule=rule, max_similarity=1)
    query = np.full((1, 2), np.nan)
    ids, scores, _ = strategy.choose(np.array([99]), query, _found(), _found(), config)
    return ids[0].tolist(), scores[0].tolist()


def test_candidates_that_others_are_like_come_first_with_their_relevance():
    assert _chosen("") == ([10, 11], pytest.approx([0.9, 0.5]))
    assert _chosen("consensus") == ([12, 11], pytest.approx([0.4, 0.5]))


def test_places_without_a_candidate_have_no_part():
    rank = consensus.rank(_found())
    assert np.isfinite(rank).all() and rank[0].argmax() == 2


def test_an_unknown_rule_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"known: \['consensus'\]"):
        StrategyConfig(rule="nearest")
