import numpy as np
import pytest

from cm3leon_jax.documents import document, example
from cm3leon_jax.documents.document import Document, Modality, Segment
from cm3leon_jax.documents.example import Example, Target
from cm3leon_jax.vocab import Vocab

VOCAB = Vocab(
    text_size=300, image_size=64, control_size=32, num_sentinels=16, codes_per_image=4
)
# As Chameleon's: pictures have marks of their own.
MARKED = Vocab(300, 64, 32, 16, 4, use_image_marks=True)
BEGIN, END = MARKED.begin_image_id, MARKED.end_image_id
PICTURE = np.zeros((8, 8, 3), np.uint8)
CODES = np.array([0, 1, 2, 63])


def _encode(text):
    return [32 + ord(letter) for letter in text]


def _pair(text="ab"):
    return example.tokenize(Example("x", (text, PICTURE)), _encode, [CODES], VOCAB)


def test_to_ids_joins_segments_by_break():
    ids = document.to_ids(_pair(), VOCAB)
    expected = [*_encode("ab"), VOCAB.break_id, 300, 301, 302, 363]
    np.testing.assert_array_equal(ids, expected)


def test_from_ids_undoes_to_ids():
    parts = (PICTURE, "b", PICTURE, "c")
    made = example.tokenize(Example("x", parts), _encode, [CODES, CODES], VOCAB)
    again = document.from_ids(document.to_ids(made, VOCAB), VOCAB)
    assert [s.modality for s in again.segments] == [1, 0, 1, 0]
    for before, after in zip(made.segments, again.segments, strict=True):
        np.testing.assert_array_equal(before.ids, after.ids)


def test_join_puts_the_query_last_between_eos():
    first, second = _pair("a"), _pair("b")
    ids = document.join([first, second], VOCAB)
    expected = [
        [VOCAB.EOS],
        document.to_ids(first, VOCAB),
        [VOCAB.break_id],
        document.to_ids(second, VOCAB),
        [VOCAB.EOS],
    ]
    np.testing.assert_array_equal(ids, np.concatenate(expected))


def test_target_spans_its_own_ids():
    parts = (PICTURE, "Q", Target("red"), ".")
    made = example.tokenize(Example("x", parts), _encode, [CODES], VOCAB)
    start, end = made.target
    ids = document.to_ids(made, VOCAB)
    np.testing.assert_array_equal(ids[start:end], _encode("red"))


def test_image_of_another_length_is_refused():
    short = Document((Segment(Modality.IMAGE, np.array([300, 301])),))
    with pytest.raises(ValueError, match="2 codes"):
        document.to_ids(short, VOCAB)


@pytest.mark.parametrize("ids", [[300, 301], [300, 5, 302, 303], [5, 300], [366]])
def test_ill_formed_ids_are_refused(ids):
    with pytest.raises(ValueError, match="segment"):
        document.from_ids(np.array(ids), VOCAB)


@pytest.mark.parametrize(
    ("parts", "codes"),
    [((), []), (("a", PICTURE), []), ((Target("a"), Target("b")), [])],
)
def test_ill_formed_examples_are_refused(parts, codes):
    with pytest.raises(ValueError, match="example 'x'"):
        example.tokenize(Example("x", parts), _encode, codes, VOCAB)


def _marked(*parts):
    codes = [CODES for part in parts if part is PICTURE]
    return example.tokenize(Example("x", parts), _encode, codes, MARKED)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("a", PICTURE), [*_encode("a"), BEGIN, 300, 301, 302, 363, END]),
        ((PICTURE, "a"), [BEGIN, 300, 301, 302, 363, END, *_encode("a")]),
        ((PICTURE, PICTURE), [BEGIN, 300, 301, 302, 363, END] * 2),
    ],
)
def test_a_picture_with_marks_is_its_codes_and_two_ids(parts, expected):
    ids = document.to_ids(_marked(*parts), MARKED)
    np.testing.assert_array_equal(ids, expected)


@pytest.mark.parametrize(
    "parts",
    [("a", PICTURE), (PICTURE, "b", PICTURE, "c"), (PICTURE, PICTURE), ("a",)],
)
def test_from_ids_undoes_to_ids_with_marks(parts):
    made = _marked(*parts)
    again = document.from_ids(document.to_ids(made, MARKED), MARKED)
    assert len(again.segments) == len(made.segments)
    for before, after in zip(made.segments, again.segments, strict=True):
        assert before.modality == after.modality
        np.testing.assert_array_equal(before.ids, after.ids)


def test_target_behind_a_marked_picture_spans_its_own_ids():
    made = _marked(PICTURE, "Q", Target("red"), ".", PICTURE)
    start, end = made.target
    ids = document.to_ids(made, MARKED)
    np.testing.assert_array_equal(ids[start:end], _encode("red"))


def test_join_with_marks_begins_with_bos_and_breaks_between_texts_alone():
    pair, text = _marked("a", PICTURE), _marked("b")
    ids = document.join([pair, text, text, pair], MARKED)
    one, two = document.to_ids(pair, MARKED), document.to_ids(text, MARKED)
    between = [MARKED.break_id]
    expected = [[MARKED.BOS], one, two, between, two, between, one, [MARKED.EOS]]
    np.testing.assert_array_equal(ids, np.concatenate(expected))
    assert document.to_ids(pair, MARKED)[-1] == END


@pytest.mark.parametrize(
    "ids",
    [
        [BEGIN, 300, 301, 302, 363],
        [300, 301, 302, 363],
        [5, MARKED.break_id, 300, 301, 302, 363, END],
        [BEGIN, 5, END],
    ],
)
def test_ids_with_marks_out_of_place_are_refused(ids):
    with pytest.raises(ValueError, match="image segment"):
        document.from_ids(np.array(ids), MARKED)
