"""Laws of the pages of documents and rows: nothing is lost, what is hidden is marked."""

import numpy as np
import pytest

from cm3leon_jax.documents import cm3, packing
from cm3leon_jax.documents.packing import Piece
from cm3leon_jax.reports import inspection
from cm3leon_jax.vocab import Vocab

VOCAB = Vocab(
    text_size=32, image_size=16, control_size=40, num_sentinels=20, codes_per_image=4
)
EOS, BREAK = VOCAB.EOS, VOCAB.break_id
IMAGE = VOCAB.image_ids(np.array([1, 2, 3, 4]))
IDS = np.array([EOS, 10, 11, 12, BREAK, *IMAGE, EOS], np.int32)


def _decode_pictures(codes):
    # A picture is two by two cells of four pixels, each as bright as its code.
    cells = codes.reshape(-1, 2, 2) * 10 + 100
    pixels = np.kron(cells, np.ones((1, 4, 4), int))
    return np.repeat(pixels[..., None], 3, axis=3).astype(np.uint8)


READER = inspection.Reader(
    VOCAB,
    lambda ids: "".join(chr(ord("a") + one - 10) for one in ids),
    _decode_pictures,
)


def test_hidden_words_are_marked_and_hidden_codes_counted():
    spans = np.array([[2, 3], [6, 8]])
    shown = inspection.document(IDS, READER, READER.pictures([IDS]), spans)
    assert "a<mark>b</mark>c" in shown and "2 hidden" in shown
    plain = inspection.document(IDS, READER, READER.pictures([IDS]))
    assert "abc" in plain and "mark" not in plain and "hidden" not in plain


def test_hidden_and_missing_codes_are_dark():
    pixels = _decode_pictures(np.array([[1, 2, 3, 4]]))[0]
    dark = inspection._dimmed(pixels, np.array([True, False, True, True]))
    np.testing.assert_array_equal(dark[4:], pixels[4:])
    np.testing.assert_array_equal(dark[:4, :4], pixels[:4, :4])
    assert (dark[:4, 4:] == 30).all()


@pytest.mark.parametrize(("is_tail", "place"), [(True, [2, 3]), (False, [0, 1])])
def test_a_cut_picture_keeps_its_codes_in_place(is_tail, place):
    codes, is_there = READER.fill(IMAGE[:2], is_tail=is_tail)
    np.testing.assert_array_equal(np.flatnonzero(is_there), place)
    np.testing.assert_array_equal(codes[place], [1, 2])
    row = np.array([*IMAGE[2:], BREAK, 10, BREAK, *IMAGE[:3]], np.int32)
    shown = inspection.document(row, READER, READER.pictures([row]))
    assert "2 of 4 codes" in shown and "3 of 4 codes" in shown


def test_strip_shows_marks_runs_and_weights():
    moved = cm3.rewrite(IDS, np.array([[2, 3]]), VOCAB)
    weights = np.ones(len(moved))
    weights[0], weights[1] = np.nan, 0.5
    strip = inspection.strip(moved, weights, READER)
    assert strip.count("&lt;sentinel:0&gt;") == 2 and strip.count("&lt;/s&gt;") == 2
    assert "&lt;end&gt;" in strip and "4 codes" in strip
    assert strip.count("×0.5") == 1


def test_strings_of_documents_are_escaped():
    reader = inspection.Reader(VOCAB, lambda ids: "<script>", _decode_pictures)
    shown = inspection.document(IDS, reader, reader.pictures([IDS]))
    strip = inspection.strip(IDS, np.ones(len(IDS)), reader)
    line = inspection.provenance([("source", "<script>")])
    assert "<script>" not in shown + strip + line


def test_sequences_of_a_row_are_those_that_were_packed():
    pieces = [
        Piece(IDS, np.arange(len(IDS), dtype=np.float32)),
        Piece(IDS[:4], np.ones(4, np.float32)),
    ]
    batch = packing.pack(pieces, 16)
    found = inspection.sequences(batch, 0)
    for piece, (ids, weights) in zip(pieces, found, strict=True):
        np.testing.assert_array_equal(ids, piece.ids)
        np.testing.assert_array_equal(weights[1:], piece.weights[1:])
        assert np.isnan(weights[0])


def test_facts_count_places_sequences_and_spans():
    moved = cm3.rewrite(IDS, np.array([[2, 3]]), VOCAB)
    pieces = [Piece(ids, np.ones(len(ids), np.float32)) for ids in (moved, IDS)]
    facts = inspection.facts(packing.pack(pieces, 32), VOCAB)
    used = len(moved) - 1 + len(IDS) - 1
    assert facts["real_tokens"] == pytest.approx(used / 32)
    assert (facts["sequences_per_row"], facts["spans_per_row"]) == (2, 1)
    assert facts["loss_on_image_codes"] == pytest.approx(8 / used)
