import numpy as np
import pytest

from cm3leon_jax.documents import packing
from cm3leon_jax.documents.packing import LossWeights, Piece
from cm3leon_jax.vocab import Vocab


def _piece(*ids):
    return Piece(np.array(ids, np.int32), np.arange(len(ids), dtype=np.float32))


def _random_pieces(count, longest, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, longest + 2, count)
    return [_piece(*rng.integers(4, 99, length)) for length in lengths]


def test_pack_equals_the_worked_example():
    batch = packing.pack([_piece(5, 6, 7), _piece(8, 9)], 4)
    np.testing.assert_array_equal(batch.tokens_BL, [[5, 6, 8, 1]])
    np.testing.assert_array_equal(batch.targets_BL, [[6, 7, 9, 1]])
    np.testing.assert_array_equal(batch.segment_ids_BL, [[1, 1, 2, 0]])
    np.testing.assert_array_equal(batch.positions_BL, [[0, 1, 0, 0]])
    np.testing.assert_array_equal(batch.weights_BL, [[1, 2, 1, 0]])


def test_weigh_equals_the_worked_example():
    weights = packing.weigh(7, (3, 7), (4, 5), LossWeights(retrieved=0.1, context=0.5))
    np.testing.assert_allclose(weights, [0.1, 0.1, 0.1, 0.5, 1, 0.5, 0.5])


@pytest.mark.parametrize("size", [1, 3, 6])
def test_short_targets_are_raised_and_long_ones_weigh_one_an_id(size):
    weights = packing.weigh(
        12, (3, 12), (4, 4 + size), LossWeights(context=0.5, target_min=4.0)
    )
    np.testing.assert_allclose(weights[4 : 4 + size], max(1, 4 / size))
    np.testing.assert_allclose(weights[4 + size :], 0.5)


@pytest.mark.parametrize("length", [8, 64])
def test_pack_holds_every_piece_once_and_whole(length):
    pieces = _random_pieces(60, length)
    batch = packing.pack(pieces, length)
    found = []
    for row in range(len(batch.tokens_BL)):
        segments = batch.segment_ids_BL[row]
        for number in range(1, segments.max() + 1):
            inside = segments == number
            tokens = batch.tokens_BL[row, inside]
            targets = batch.targets_BL[row, inside]
            np.testing.assert_array_equal(tokens[1:], targets[:-1])
            np.testing.assert_array_equal(
                batch.positions_BL[row, inside], np.arange(len(tokens))
            )
            found.append((*tokens.tolist(), int(targets[-1])))
    assert sorted(found) == sorted(tuple(piece.ids.tolist()) for piece in pieces)


def test_padding_carries_no_loss_and_no_segment():
    batch = packing.pack(_random_pieces(20, 10), 16)
    padding = batch.segment_ids_BL == 0
    assert padding.any()
    assert not batch.weights_BL[padding].any()
    assert (batch.tokens_BL[padding] == Vocab.PAD).all()
    assert all(
        array.dtype == (np.float32 if name == "weights_BL" else np.int32)
        for name, array in batch._asdict().items()
    )


def test_open_rows_fill_better_with_more_rows_open():
    pieces = _random_pieces(2000, 40)
    fills = []
    for max_open in (1, 8):
        rows, closed = packing.OpenRows(64, max_open), []
        for piece in pieces:
            row = rows.add(piece)
            closed += [] if row is None else [row]
        used = sum(piece.slots for row in closed for piece in row)
        fills.append(used / (64 * len(closed)))
    assert fills[1] > 0.95 > fills[0]


def test_open_rows_refuse_a_piece_longer_than_a_row():
    with pytest.raises(ValueError, match="raise max_length"):
        packing.OpenRows(2, 1).add(_piece(5, 6, 7, 8))


def test_cut_rows_predict_the_next_id_and_are_full():
    ids = np.arange(10, dtype=np.int32).reshape(2, 5)
    batch = packing.lay_out_cut(ids, np.ones((2, 5), np.float32))
    np.testing.assert_array_equal(batch.tokens_BL, [[0, 1, 2, 3], [5, 6, 7, 8]])
    np.testing.assert_array_equal(batch.targets_BL, [[1, 2, 3, 4], [6, 7, 8, 9]])
    assert (batch.segment_ids_BL == 1).all() and (batch.weights_BL == 1).all()
    np.testing.assert_array_equal(batch.positions_BL, [[0, 1, 2, 3]] * 2)


def test_concatenate_keeps_the_rows_in_order():
    first, second = packing.pack([_piece(5, 6)], 4), packing.pack([_piece(7, 8)], 4)
    both = packing.concatenate([first, second])
    np.testing.assert_array_equal(both.tokens_BL[:, 0], [5, 7])
