"""Prompts are the beginnings of what training shows."""

import numpy as np
import pytest

from cm3leon_jax.decoding import grammar, prompts
from cm3leon_jax.documents import cm3, example
from cm3leon_jax.documents import document as documents
from cm3leon_jax.documents.document import Document, Modality, Segment
from cm3leon_jax.vocab import Vocab

TEXT = Segment(Modality.TEXT, np.array([5, 6, 7, 8], np.int32))


def _encode(text):
    return [4 + ord(letter) % 20 for letter in text]


def _picture(vocab, seed=0):
    codes = np.random.default_rng(seed).integers(0, vocab.image_size, 9)
    return Segment(Modality.IMAGE, vocab.image_ids(codes).astype(np.int32))


def _pairs(vocab):
    return [Document((TEXT, _picture(vocab, seed))) for seed in (1, 2)]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_drawing_goes_on_as_the_training_sequence(vocab, number):
    retrieved = _pairs(vocab)[:number]
    whole = documents.join([*retrieved, Document((TEXT, _picture(vocab)))], vocab)
    prompt = prompts.continued(Document((TEXT,)), vocab, retrieved)
    np.testing.assert_array_equal(prompt, whole[: len(prompt)])
    np.testing.assert_array_equal(whole[len(prompt) :][:-1], _picture(vocab).ids)
    assert whole[-1] == vocab.EOS


@pytest.mark.parametrize("number", [0, 2])
def test_an_answer_goes_on_as_the_rewritten_training_sequence(vocab, number):
    """Template with a Target, tokenised, joined, rewritten == with a Hole, answered."""
    retrieved = _pairs(vocab)[:number]
    pixels = np.zeros((3, 3, 3), np.uint8)
    codes = [vocab.codes(_picture(vocab).ids)]
    parts = ("what is it?", example.Target(" a dog"), ".", pixels)
    trained = example.tokenize(example.Example("1", parts), _encode, codes, vocab)
    joined = documents.join([*retrieved, trained], vocab)
    offset = len(joined) - 1 - len(documents.to_ids(trained, vocab))
    span = np.array([trained.target]) + offset
    moved = cm3.rewrite(joined, span, vocab)

    asked = prompts.with_hole(
        ("what is it?", example.Hole(), ".", pixels), _encode, codes, vocab
    )
    prompt = prompts.at_hole(asked, vocab, retrieved)
    answer = [*_encode(" a dog"), vocab.end_of_infill_id]
    np.testing.assert_array_equal(np.concatenate([prompt, answer]), moved)
    grammar.split(prompts.text_plan(10, 24, vocab), answer)


def test_masked_example(vocab):
    document = Document((TEXT, _picture(vocab)))
    prompt = prompts.masked(document, [(1, 3)], vocab)
    mark = vocab.sentinel_id(0)
    expected = [2, 5, mark, 8, vocab.break_id, *_picture(vocab).ids, 2, mark]
    np.testing.assert_array_equal(prompt, expected)


def test_unconditional_keeps_or_drops_retrieved_documents(vocab):
    end = [vocab.sentinel_id(0), vocab.break_id]
    np.testing.assert_array_equal(prompts.unconditional(vocab), [2, *end])
    kept = prompts.unconditional(vocab, _pairs(vocab))
    expected = documents.join(_pairs(vocab), vocab)
    np.testing.assert_array_equal(kept[:-3], expected[:-1])
    np.testing.assert_array_equal(kept[-3:], [vocab.break_id, *end])


def test_without_text_drops_the_instruction_alone(vocab):
    document = Document((TEXT, _picture(vocab), TEXT))
    full = prompts.continued(document, vocab)
    alone = prompts.without_text(document, vocab)
    np.testing.assert_array_equal(alone[:-2], full[: len(alone) - 2])
    np.testing.assert_array_equal(alone[-2:], [vocab.sentinel_id(0), vocab.break_id])


def test_runs_example():
    hidden = np.array([[0, 1, 1], [0, 1, 1]], bool)
    assert prompts.runs(hidden) == [(1, 3), (4, 6)]


@pytest.mark.parametrize("seed", range(6))
def test_a_filled_region_restores_to_the_whole_document(vocab, seed):
    """The answer that is true, put after the prompt, is undone to the document."""
    hidden = np.random.default_rng(seed).random((3, 3)) < 0.5
    hidden[seed % 3, 1] = True
    document = Document((TEXT, _picture(vocab, seed)))
    prompt, plan = prompts.region(document, hidden, vocab, _pairs(vocab))
    ids = _picture(vocab, seed).ids
    answer = []
    for index, (start, end) in enumerate(prompts.runs(hidden)):
        answer += [] if not index else [vocab.end_of_infill_id]
        answer += [] if not index else [vocab.sentinel_id(index)]
        answer += list(ids[start:end])
    parts = grammar.split(plan, answer)
    whole = np.concatenate([prompt, answer, [vocab.end_of_infill_id]])
    expected = documents.join([*_pairs(vocab), document], vocab)
    np.testing.assert_array_equal(cm3.restore(whole, vocab), expected)
    blanked = np.where(hidden.ravel(), 0, vocab.codes(ids))
    filled = prompts.filled(blanked, hidden, parts, vocab)
    np.testing.assert_array_equal(filled, vocab.codes(ids))


def test_pictures_that_differ_under_the_mask_give_the_same_request(vocab):
    """With a tokenizer whose every code depends on every pixel."""

    def encode(picture):
        total = int(picture.astype(np.int64).sum())
        return (np.arange(9) * 7 + total) % vocab.image_size

    hidden = np.zeros((3, 3), bool)
    hidden[1, 1:] = True
    rng = np.random.default_rng(0)
    one = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    other = one.copy()
    other[4:8, 4:] = 255 - other[4:8, 4:]
    requests = []
    for picture in (one, other):
        codes = [encode(prompts.blank(picture, hidden))]
        document = prompts.with_hole(("a dog", picture), _encode, codes, vocab)
        requests.append(prompts.region(document, hidden, vocab))
    assert (one != other).any()
    np.testing.assert_array_equal(requests[0][0], requests[1][0])
    assert requests[0][1] == requests[1][1]
    assert (encode(one) != encode(other)).any()  # unblanked, the codes tell


@pytest.mark.parametrize(
    ("hidden", "what"),
    [
        (np.zeros((3, 3), bool), "hides nothing"),
        (np.ones((5, 5), bool), "does not divide"),
    ],
)
def test_masks_that_do_not_fit_are_refused(hidden, what):
    with pytest.raises(ValueError, match=what):
        prompts.blank(np.zeros((12, 12, 3), np.uint8), hidden)


def test_spans_that_overlap_are_refused(vocab):
    with pytest.raises(ValueError, match="ascend without overlap"):
        prompts.masked(Document((TEXT,)), [(0, 2), (1, 3)], vocab)


def test_a_request_with_too_few_streams_is_refused(vocab):
    ids = np.array([2, 5], np.int32)
    how = prompts.Sampling(guidance=3.0)
    with pytest.raises(ValueError, match="1 streams.*uses 2"):
        prompts.Request((ids,), (grammar.picture(vocab),), 0, how)


MARKED = Vocab(24, 16, 16, 8, 9, use_image_marks=True)


@pytest.mark.parametrize("number", [0, 2])
def test_a_marked_drawing_goes_on_as_the_training_sequence(number):
    retrieved = _pairs(MARKED)[:number]
    picture = _picture(MARKED)
    whole = documents.join([*retrieved, Document((TEXT, picture))], MARKED)
    prompt = prompts.continued(Document((TEXT,)), MARKED, retrieved)
    ends = [MARKED.end_image_id, MARKED.EOS]
    np.testing.assert_array_equal(np.concatenate([prompt, picture.ids, ends]), whole)
    assert prompt[0] == MARKED.BOS and prompt[-1] == MARKED.begin_image_id


def test_marked_prompts_without_text_are_chameleons_own():
    begin, end = MARKED.begin_image_id, MARKED.end_image_id
    np.testing.assert_array_equal(prompts.unconditional(MARKED), [MARKED.BOS, begin])
    picture = _picture(MARKED)
    edited = prompts.without_text(Document((TEXT, picture, TEXT)), MARKED)
    expected = [MARKED.BOS, *TEXT.ids, begin, *picture.ids, end, begin]
    np.testing.assert_array_equal(edited, expected)
    kept = prompts.unconditional(MARKED, _pairs(MARKED))
    assert kept[-2:].tolist() == [end, begin]


def test_marked_turns_close_and_open_pictures():
    modalities = (Modality.IMAGE, Modality.TEXT, Modality.IMAGE)
    ids, plan = prompts.turns(Document((TEXT,)), modalities, 5, 24, MARKED)
    grammar.check(plan, MARKED)
    assert ids[-1] == MARKED.begin_image_id
    picture = _picture(MARKED).ids
    answer = [*picture, MARKED.end_image_id, 5, 6, MARKED.begin_image_id, *picture]
    parts = grammar.split(plan, answer)
    assert [len(part) for part in parts] == [9, 1, 2, 9]
    whole = np.concatenate([ids, answer, [MARKED.end_image_id]])[1:]
    kinds = [one.modality for one in documents.from_ids(whole, MARKED).segments]
    assert kinds == [Modality.TEXT, *modalities]


def test_a_marked_region_goes_on_as_the_rewritten_sequence():
    hidden = np.zeros((3, 3), bool)
    hidden[1, 1:] = True
    document = Document((TEXT, _picture(MARKED)))
    prompt, plan = prompts.region(document, hidden, MARKED)
    answer = _picture(MARKED).ids[4:6]
    grammar.split(plan, answer)
    whole = np.concatenate([prompt, answer, [MARKED.end_of_infill_id]])
    np.testing.assert_array_equal(
        cm3.restore(whole, MARKED), documents.join([document], MARKED)
    )
