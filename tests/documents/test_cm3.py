import math

import numpy as np
import pytest

from cm3leon_jax.documents import cm3
from cm3leon_jax.documents.cm3 import CM3Config
from cm3leon_jax.vocab import Vocab

VOCAB = Vocab(
    text_size=32, image_size=16, control_size=40, num_sentinels=20, codes_per_image=16
)
BREAK, EOS = VOCAB.break_id, VOCAB.EOS
IMAGE = VOCAB.image_ids(np.arange(16, dtype=np.int32))


def _sequence(rng, num_documents=2):
    pieces = [[EOS]]
    for index in range(num_documents):
        text = rng.integers(4, VOCAB.text_size, rng.integers(1, 12))
        pieces += [[BREAK]] if index else []
        pieces += [text, [BREAK], rng.permutation(IMAGE)]
    return np.concatenate([*pieces, [EOS]]).astype(np.int32)


def test_rewrite_equals_the_worked_example():
    vocab = Vocab(
        text_size=17, image_size=1, control_size=8, num_sentinels=6, codes_per_image=1
    )
    assert (vocab.end_of_infill_id, vocab.sentinel_id(0)) == (19, 20)
    ids = np.array([2, 10, 11, 12, 13, 9, 2], np.int32)
    moved = cm3.rewrite(ids, np.array([[2, 4]]), vocab)
    np.testing.assert_array_equal(moved, [2, 10, 20, 13, 9, 2, 20, 11, 12, 19])
    row = np.array([2, 10, 11, 12, 13, 14, 15, 16], np.int32)
    moved, trimmed = cm3.rewrite_row(row, np.array([[2, 4]]), vocab)
    np.testing.assert_array_equal(moved, [2, 10, 20, 13, 20, 11, 12, 19])
    assert trimmed == 3


def test_rewrite_weights_equals_the_worked_example():
    weights = np.array([1, 1, 2, 2, 1], np.float32)
    moved = cm3.rewrite_weights(weights, np.array([[2, 4]]), 0.0)
    np.testing.assert_array_equal(moved, [1, 1, 0, 1, 0, 2, 2, 2])


def test_segments_equals_the_worked_example():
    ids = np.array([EOS, 5, 6, BREAK, 7, 8, EOS])
    np.testing.assert_array_equal(cm3.segments(ids, VOCAB), [[1, 3], [4, 6]])


@pytest.mark.parametrize(
    "config",
    [
        CM3Config(),
        CM3Config(span_rate=6.0),
        CM3Config(min_spans=1),
        CM3Config(rotation_prob=1.0),
        CM3Config(rectangle_prob=1.0),
    ],
)
def test_restore_undoes_the_rewrite_and_no_span_crosses_a_mark(config):
    rng = np.random.default_rng(0)
    for _ in range(200):
        ids = _sequence(rng)
        spans = cm3.draw_spans(ids, rng, config, VOCAB)
        moved = cm3.rewrite(ids, spans, VOCAB)
        assert len(moved) == len(ids) + cm3.TOKENS_PER_SPAN * len(spans)
        restored, found = cm3.find_spans(moved, VOCAB)
        np.testing.assert_array_equal(restored, ids)
        np.testing.assert_array_equal(found, spans)
        assert np.all(spans[:, 0] < spans[:, 1])
        assert np.all(spans[1:, 0] >= spans[:-1, 1])
        for start, end in spans:
            assert not np.isin(ids[start:end], [BREAK, EOS]).any()


def test_rows_keep_their_length_and_restore_but_for_the_tail():
    rng = np.random.default_rng(1)
    for _ in range(300):
        row = np.concatenate([_sequence(rng), _sequence(rng)])[:80]
        spans = cm3.draw_spans(row, rng, CM3Config(span_rate=4.0), VOCAB)
        spans = cm3.fit_to_row(spans, len(row))
        moved, trimmed = cm3.rewrite_row(row, spans, VOCAB)
        assert len(moved) == len(row) and trimmed == 3 * len(spans)
        restored = cm3.restore(moved, VOCAB)
        np.testing.assert_array_equal(restored, row[: len(row) - trimmed])


def test_rewrite_row_refuses_a_span_in_the_tail():
    with pytest.raises(ValueError, match="fit_to_row"):
        cm3.rewrite_row(np.arange(8), np.array([[5, 8]]), VOCAB)


def test_zero_spans_is_the_identity():
    ids = _sequence(np.random.default_rng(2))
    spans = cm3.draw_spans(
        ids, np.random.default_rng(2), CM3Config(span_rate=0.0), VOCAB
    )
    assert len(spans) == 0
    assert cm3.rewrite(ids, spans, VOCAB) is ids
    assert cm3.restore(ids, VOCAB) is ids


def test_span_counts_are_poisson_where_spans_meet_no_mark():
    ids = np.full(4096, 5, np.int32)
    rng = np.random.default_rng(3)
    draws = [len(cm3.draw_spans(ids, rng, CM3Config(), VOCAB)) for _ in range(6000)]
    share = np.bincount(draws, minlength=3) / len(draws)
    # One span is left of n >= 1 drawn if the other n^2 - 1 candidates meet the first,
    # [a, b]: a candidate lies beside it with probability a^2 + (1 - b)^2.
    a, b = np.meshgrid(*[(np.arange(400) + 0.5) / 400] * 2)
    meets = (1 - a**2 - (1 - b) ** 2)[a < b]
    one = sum(
        np.exp(-1) / math.factorial(n) * (meets ** (n * n - 1)).mean()
        for n in range(1, 8)
    )
    # Four standard errors of a share of 6,000 are 0.026.
    assert abs(share[0] - np.exp(-1)) < 0.026
    assert abs(share[1] - one) < 0.026
    assert max(draws) >= 3


def test_single_span_lengths_follow_the_closed_form():
    ids = np.full(3000, 5, np.int32)
    rng = np.random.default_rng(4)
    config = CM3Config(span_rate=0.0, min_spans=1, max_spans=1)
    spans = [cm3.draw_spans(ids, rng, config, VOCAB)[0] for _ in range(6000)]
    lengths = np.array([end - start for start, end in spans]) / len(ids)
    # The distance of two uniform draws: density 2 (1 - x), mean 1/3, variance 1/18,
    # P(x <= 1/4) = 7/16.
    assert abs(lengths.mean() - 1 / 3) < 0.012
    assert abs(lengths.var() - 1 / 18) < 0.005
    assert abs((lengths <= 0.25).mean() - 7 / 16) < 0.026


def test_targets_are_masked_exactly_and_as_often_as_asked():
    rng = np.random.default_rng(5)
    ids = _sequence(rng)
    targets = np.array([[1, 2]])
    config = CM3Config(target_mask_prob=0.7, span_rate=0.0)
    hits = 0
    for _ in range(2000):
        spans = cm3.draw_spans(ids, rng, config, VOCAB, targets=targets)
        hits += len(spans)
        assert len(spans) == 0 or np.array_equal(spans, targets)
    assert abs(hits / 2000 - 0.7) < 0.041


def test_rectangles_are_one_span_a_row_of_codes():
    rng = np.random.default_rng(6)
    ids = np.concatenate([[EOS, 5, BREAK], IMAGE, [EOS]]).astype(np.int32)
    sizes = set()
    for _ in range(300):
        spans = cm3.draw_spans(ids, rng, CM3Config(rectangle_prob=1.0), VOCAB)
        width = spans[0, 1] - spans[0, 0]
        np.testing.assert_array_equal(spans[:, 1] - spans[:, 0], width)
        np.testing.assert_array_equal(np.diff(spans[:, 0]), VOCAB.grid_size)
        column = (spans[0, 0] - 3) % VOCAB.grid_size
        assert column + width <= VOCAB.grid_size and len(spans) <= VOCAB.grid_size
        sizes.add((len(spans), int(width)))
    assert len(sizes) == VOCAB.grid_size**2


def test_rotation_masks_whole_segments():
    rng = np.random.default_rng(7)
    ids = _sequence(rng)
    runs = {tuple(run) for run in cm3.segments(ids, VOCAB).tolist()}
    for _ in range(50):
        spans = cm3.draw_spans(ids, rng, CM3Config(rotation_prob=1.0), VOCAB)
        assert len(spans) and {tuple(span) for span in spans.tolist()} <= runs


@pytest.mark.parametrize(
    "bad", [{"rotation_prob": 1.1}, {"span_rate": -1.0}, {"min_spans": 20}]
)
def test_config_refuses_values_out_of_range(bad):
    with pytest.raises(ValueError, match="cm3"):
        CM3Config(**bad)


def test_restore_refuses_a_cut_sequence():
    ids = _sequence(np.random.default_rng(8))
    moved = cm3.rewrite(ids, np.array([[1, 2]]), VOCAB)
    with pytest.raises(ValueError, match="cut"):
        cm3.restore(moved[:-1], VOCAB)
    with pytest.raises(ValueError, match="cut"):
        cm3.restore(moved[: len(ids) - 1], VOCAB)


@pytest.mark.parametrize(
    "config", [CM3Config(span_rate=6.0), CM3Config(rotation_prob=1)]
)
def test_no_span_holds_a_mark_of_a_picture(config):
    vocab = Vocab(32, 16, 40, 20, 16, use_image_marks=True)
    picture = [vocab.begin_image_id, *IMAGE, vocab.end_image_id]
    ids = np.array([vocab.BOS, 5, 6, 7, *picture, 8, 9, *picture, vocab.EOS], np.int32)
    rng, hidden = np.random.default_rng(0), np.zeros(len(ids), bool)
    for _ in range(100):
        spans = cm3.draw_spans(ids, rng, config, vocab)
        np.testing.assert_array_equal(
            cm3.restore(cm3.rewrite(ids, spans, vocab), vocab), ids
        )
        for start, end in spans:
            hidden[start:end] = True
    np.testing.assert_array_equal(hidden, ~vocab.is_boundary(ids))
