import numpy as np
import pytest

from cm3leon_jax.evals import ranking


def test_the_docstrings_example():
    found = ranking.ndcg(np.array([[3, 2, 1]]), np.array([[0, 1, 0.5]]))
    gain, best = 1 / np.log2(3), 1 + 0.5 / np.log2(3)
    assert found == pytest.approx(gain / best)


def test_the_best_ranking_is_one_and_more_relevance_first_is_better():
    relevance = np.array([[0.2, 0.0, 1.0, 0.4]])
    assert ranking.ndcg(relevance, relevance) == pytest.approx(1.0)
    near = ranking.ndcg(np.array([[2, 0, 4, 3]]), relevance)
    assert ranking.ndcg(np.array([[3, 4, 1, 0]]), relevance) < near


def test_what_lies_behind_the_number_of_relevant_ones_does_not_count():
    relevance = np.array([[1.0, 0, 0, 0]])
    assert ranking.ndcg(np.array([[3, 4, 0, 0]]), relevance) == 0.0


def test_rows_without_relevance_are_left_out_and_none_is_refused():
    relevance = np.array([[0, 1.0], [0, 0]])
    assert ranking.ndcg(np.array([[0, 1], [0, 1]]), relevance) == 1.0
    with pytest.raises(ValueError, match="no question"):
        ranking.ndcg(np.zeros((1, 2)), np.zeros((1, 2)))
    with pytest.raises(ValueError, match="equal tables"):
        ranking.ndcg(np.zeros((1, 2)), np.zeros((1, 3)))
