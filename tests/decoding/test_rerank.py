"""Best of n."""

import numpy as np
import pytest

from cm3leon_jax.decoding import rerank


def _embed_text(texts):
    return np.eye(4, dtype=np.float32)[[int(text) for text in texts]]


def _embed_pictures(pictures):
    return np.eye(4, dtype=np.float32)[pictures[:, 0, 0, 0]]


def test_best_finds_the_drawing_that_shows_its_prompt():
    shown = np.array([[0, 1, 2], [3, 3, 1]], np.uint8)
    pictures = np.broadcast_to(shown[:, :, None, None, None], (2, 3, 2, 2, 3))
    best = rerank.best(["2", "3"], pictures, _embed_text, _embed_pictures)
    np.testing.assert_array_equal(best, [2, 0])


def test_groups_must_match_the_prompts():
    with pytest.raises(ValueError, match="1 prompts, but 2 groups"):
        rerank.best(
            ["1"], np.zeros((2, 3, 2, 2, 3), np.uint8), _embed_text, _embed_pictures
        )
