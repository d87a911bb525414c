"""Made-up rows: of the right kind, the same again, each host its own."""

import numpy as np
import pytest

from cm3leon_jax.data import synthetic
from cm3leon_jax.vocab import Vocab

VOCAB = Vocab(
    text_size=40, image_size=16, control_size=40, num_sentinels=20, codes_per_image=4
)


def _make(**changes):
    fields = {"num_rows": 3, "length": 200, "seed": 1}
    return synthetic.Batches(VOCAB, **(fields | changes))


def test_batches_are_full_rows_of_documents():
    batch = next(_make())
    for name, rows in batch._asdict().items():
        assert rows.shape == (3, 200), name
        assert rows.dtype == (np.float32 if name == "weights_BL" else np.int32), name
    np.testing.assert_array_equal(batch.targets_BL[:, :-1], batch.tokens_BL[:, 1:])
    tokens = batch.tokens_BL
    after_break = tokens[:, 1:][tokens[:, :-1] == VOCAB.break_id]
    assert len(after_break) and VOCAB.is_image(after_break).all()
    before_end = tokens[:, :-1][tokens[:, 1:] == VOCAB.EOS]
    assert len(before_end) and VOCAB.is_image(before_end).all()
    known = VOCAB.is_text(tokens) | VOCAB.is_image(tokens) | (tokens == VOCAB.break_id)
    assert known.all()


def test_batches_continue_at_a_place_with_the_same_bytes():
    first = _make()
    next(first)
    state = first.get_state()
    expected = next(first)
    again = _make()
    again.set_state(state)
    np.testing.assert_array_equal(next(again).tokens_BL, expected.tokens_BL)


def test_hosts_have_rows_of_their_own():
    one, two = next(_make(host=0)), next(_make(host=1))
    assert (one.tokens_BL != two.tokens_BL).any()


def test_batches_of_no_rows_are_refused():
    with pytest.raises(ValueError, match="num_rows=0"):
        _make(num_rows=0)
