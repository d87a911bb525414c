"""Spans as CM3 drew them: anywhere, across <break>, never across </s>."""

import numpy as np

from cm3leon_jax.documents import cm3
from cm3leon_jax.vocab import Vocab

VOCAB = Vocab(text_size=300, image_size=64, control_size=40, num_sentinels=20)
CODES = VOCAB.image_ids(np.zeros(VOCAB.codes_per_image, np.int32))
ONE = [VOCAB.EOS, *range(10, 250), VOCAB.break_id, *CODES]
IDS = np.array([*ONE, *ONE, VOCAB.EOS], np.int32)


def _drawn(seed, rule="across"):
    rng = np.random.default_rng(seed)
    return cm3.draw_spans(IDS, rng, cm3.CM3Config(rule=rule), VOCAB)


def test_spans_cross_breaks_and_neither_documents_nor_each_other():
    crossed = 0
    for seed in range(300):
        spans = _drawn(seed)
        for start, end in spans:
            assert 1 <= start < end <= len(IDS)
            assert VOCAB.EOS not in IDS[start:end]
            crossed += VOCAB.break_id in IDS[start:end]
        assert (spans[1:, 0] >= spans[:-1, 1]).all()
        back = cm3.restore(cm3.rewrite(IDS, spans, VOCAB), VOCAB)
        np.testing.assert_array_equal(back, IDS)
    assert crossed > 30
    assert not any(
        VOCAB.break_id in IDS[start:end]
        for seed in range(300)
        for start, end in _drawn(seed, rule="")
    )


def test_as_many_rows_stay_causal_as_the_poisson_says():
    share = np.mean([len(_drawn(seed)) == 0 for seed in range(1_000)])
    assert abs(share - np.exp(-1)) < 0.05
