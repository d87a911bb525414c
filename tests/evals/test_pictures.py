"""Numbers of a person's own pictures."""

import numpy as np
import pytest

from cm3leon_jax.evals import pictures


def test_word_f1_example():
    assert pictures.word_f1("a red fox", "a red red dog") == pytest.approx(4 / 7)
    assert pictures.word_f1("a red fox", "A red fox") == 1.0
    assert pictures.word_f1("a", "") == 0.0


def test_finds_caption_is_all_for_equal_vectors_and_a_hundredth_for_random_ones():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(400, 16))
    assert pictures.finds_caption(vectors, 2 * vectors).mean() > 0.9
    others = rng.normal(size=(400, 16))
    assert pictures.finds_caption(vectors, others).mean() < 0.04
    flat = np.ones((400, 16))
    assert not pictures.finds_caption(flat, flat).any()


def test_nearest_finds_a_copy():
    rng = np.random.default_rng(1)
    training = rng.normal(size=(30, 8))
    training /= np.linalg.norm(training, axis=1, keepdims=True)
    place, similarity = pictures.nearest(training[[4, 2]], training)
    np.testing.assert_array_equal(place, [4, 2])
    np.testing.assert_allclose(similarity, 1.0, rtol=1e-6)
