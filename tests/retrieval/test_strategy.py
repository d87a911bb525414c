"""Laws of the choice of neighbours, on a small bank where the answer is known."""

import dataclasses

import numpy as np
import pytest

from cm3leon_jax.retrieval import strategy

CONFIG = strategy.StrategyConfig(num_candidates=4)


def _unit(*rows):
    rows = np.array(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _candidates(ids, scores, vectors, is_multimodal=None):
    if is_multimodal is None:
        is_multimodal = [True] * len(ids)
    return strategy.Candidates(
        np.array([ids], np.int32),
        np.array([scores]),
        vectors[None],
        np.array([is_multimodal]),
    )


def _none(width=4):
    return _candidates([-1], [-np.inf], np.zeros((1, width), np.float32))


def _choose(by_image, by_text, config=CONFIG, query=(0, 0, 0, 1), query_id=99):
    return strategy.choose(
        np.array([query_id]), _unit(query), by_image, by_text, config
    )


def test_choose_takes_two_by_each_picture_first():
    by_image = _candidates([4, 3], [0.5, 0.6], _unit([1, 0, 0, 0], [0, 1, 0, 0]))
    by_text = _candidates([7, 8], [0.1, 0.9], _unit([0, 0, 1, 0], [1, -1, 0, 0]))
    ids, scores, found_by_image = _choose(by_image, by_text)
    assert ids.tolist() == [[3, 4, 8, 7]]
    np.testing.assert_allclose(scores, [[0.6, 0.5, 0.9, 0.1]])
    assert found_by_image.tolist() == [[True, True, False, False]]


def test_choose_skips_the_document_itself_whatever_the_threshold():
    config = dataclasses.replace(CONFIG, max_similarity=1.0)
    found = _candidates([5, 6], [1.0, 0.2], _unit([0, 0, 0, 1], [1, 0, 0, 0]))
    ids, _, _ = _choose(_none(), found, config, query_id=5)
    assert ids.tolist() == [[6, -1, -1, -1]]


def test_choose_skips_near_duplicates_of_the_query_and_of_each_other():
    near_query, near_first = [0, 0, 0.3, 1], [1, 0.1, 0, 0]
    vectors = _unit(near_query, [1, 0, 0, 0], near_first, [0, 1, 0, 0])
    found = _candidates([1, 2, 3, 4], [0.9, 0.8, 0.7, 0.6], vectors)
    ids, _, _ = _choose(found, found)
    assert ids.tolist() == [[2, 4, -1, -1]]
    loose = dataclasses.replace(CONFIG, max_similarity=1.0)
    assert _choose(found, found, loose)[0].tolist() == [[1, 2, 3, 4]]


def test_choose_respects_the_floor():
    found = _candidates([1, 2], [0.5, 0.1], _unit([1, 0, 0, 0], [0, 1, 0, 0]))
    floor = dataclasses.replace(CONFIG, min_score=0.3)
    assert _choose(_none(), found, floor)[0].tolist() == [[1, -1, -1, -1]]


@pytest.mark.parametrize(("prefer", "wanted"), [(True, [2, 1]), (False, [1, 2])])
def test_choose_prefers_documents_of_both_parts(prefer, wanted):
    config = dataclasses.replace(CONFIG, prefer_multimodal=prefer)
    vectors = _unit([1, 0, 0, 0], [0, 1, 0, 0])
    found = _candidates([1, 2], [0.9, 0.1], vectors, [False, True])
    assert _choose(_none(), found, config)[0][0, :2].tolist() == wanted


def test_choose_breaks_ties_by_the_lower_id():
    vectors = _unit([1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0])
    found = _candidates([9, 2, 5], [0.5, 0.5, 0.5], vectors)
    assert _choose(_none(), found)[0][0, :2].tolist() == [2, 5]


def test_document_vectors_are_unit_means_of_the_parts_present():
    text = _unit([1, 0], [1, 0], [1, 0], [1, 0])
    image = _unit([0, 1], [0, 1], [0, 1], [0, 1])
    image[1], text[2] = np.nan, np.nan
    image[3] = text[3] = np.nan
    found = strategy.document_vectors(text, image)
    half = 0.5**0.5
    np.testing.assert_allclose(found[:3], [[half, half], [1, 0], [0, 1]], rtol=1e-6)
    assert np.isnan(found[3]).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_by_text": -1},
        {"num_by_text": 0, "num_by_image": 0},
        {"num_candidates": 1},
    ],
)
def test_strategy_config_refuses_impossible_counts(wrong):
    with pytest.raises(ValueError, match="num_"):
        strategy.StrategyConfig(**wrong)
