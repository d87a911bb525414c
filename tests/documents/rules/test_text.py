"""A rule of its own: one file, and one line in a config."""

import numpy as np
import pytest

from cm3leon_jax.documents import cm3
from cm3leon_jax.documents.rules import text
from cm3leon_jax.vocab import Vocab

VOCAB = Vocab(text_size=300, image_size=64, control_size=40, num_sentinels=20)
CODES = VOCAB.image_ids(np.zeros(VOCAB.codes_per_image, np.int32))
WORDS = np.arange(10, 50)
IDS = np.array([VOCAB.EOS, *WORDS, VOCAB.break_id, *CODES, VOCAB.EOS], np.int32)


def test_spans_lie_in_text_and_reach_all_of_it():
    rng, seen = np.random.default_rng(0), set()
    for _ in range(300):
        ((start, end),) = text.draw(IDS, rng, VOCAB)
        assert 1 <= start < end <= 41 and end - start <= text.MAX_IDS
        seen.update(range(start, end))
    assert seen == set(range(1, 41))


def test_a_config_names_the_rule_and_uniform_spans_are_not_drawn():
    rule = cm3.CM3Config(rule="text")
    uniform, by_rule = [], []
    for seed in range(60):
        for config, found in ((cm3.CM3Config(min_spans=1), uniform), (rule, by_rule)):
            spans = cm3.draw_spans(IDS, np.random.default_rng(seed), config, VOCAB)
            found.append((spans[:, 1] <= 41).all() and len(spans) > 0)
            back = cm3.restore(cm3.rewrite(IDS, spans, VOCAB), VOCAB)
            np.testing.assert_array_equal(back, IDS)
    assert all(by_rule) and sum(uniform) < 20


def test_targets_come_before_the_rule():
    config = cm3.CM3Config(rule="text", target_mask_prob=1.0)
    targets = np.array([[3, 5]])
    rng = np.random.default_rng(0)
    spans = cm3.draw_spans(IDS, rng, config, VOCAB, targets=targets)
    np.testing.assert_array_equal(spans, targets)


def test_a_sequence_without_text_masks_nothing():
    ids = np.array([VOCAB.EOS, *CODES, VOCAB.EOS], np.int32)
    assert text.draw(ids, np.random.default_rng(0), VOCAB).shape == (0, 2)


def test_an_unknown_rule_is_refused_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"rule='words' is unknown; known: \['across', 'text'\]"
    ):
        cm3.CM3Config(rule="words")
