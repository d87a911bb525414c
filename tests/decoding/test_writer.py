"""Orders in words and pictures, with a random model and an identity tokenizer."""

import dataclasses

import numpy as np
import pytest

from cm3leon_jax.decoding import prompts
from cm3leon_jax.decoding.beam import Beams
from cm3leon_jax.decoding.sampling import Sampling
from cm3leon_jax.decoding.writer import Order
from cm3leon_jax.documents.document import Document, Modality, Segment
from cm3leon_jax.documents.example import Hole

PICTURE = np.arange(9, dtype=np.uint8).reshape(3, 3, 1).repeat(3, axis=2) * 16


def test_every_kind_of_order_is_fulfilled_in_one_run(writer):
    hidden = np.zeros((3, 3), bool)
    hidden[:2, 1:] = True
    draw = Order(("a dog",))
    orders = [
        draw,
        Order(("Describe it. ", Hole(), PICTURE), seed=1, max_text=20),
        Order(("a dog", PICTURE), hidden_YX=hidden, seed=2),
        Order(("Edit it", PICTURE, "make it red"), seed=3),
        dataclasses.replace(draw, sampling=Sampling(guidance=3.0)),
        dataclasses.replace(draw, sampling=Sampling(contrast_k=3)),
        Order(
            ("Edit it", PICTURE, "red"),
            sampling=Sampling(guidance=7.5, image_guidance=1.5),
        ),
    ]
    finished = []
    results = writer.run(orders, finished.append)
    assert sum(finished) == len(orders)
    assert [result.picture is None for result in results] == [
        order.wants_text for order in orders
    ]
    assert results[1].text
    np.testing.assert_array_equal(results[2].picture[~hidden], PICTURE[~hidden])


def test_results_do_not_depend_on_the_other_orders(writer):
    order = Order(("a dog",), seed=5)
    alone = writer.run([order])[0]
    among = writer.run([Order(("Describe it. ", Hole(), PICTURE), max_text=20), order])[
        1
    ]
    np.testing.assert_array_equal(alone.picture, among.picture)


def test_a_document_goes_on_for_several_turns(writer):
    turns = (Modality.TEXT, Modality.IMAGE, Modality.TEXT)
    after_picture = Order(("a", PICTURE), turns=turns, max_text=5)
    after_text = Order(("a dog",), turns=turns[:2], max_text=5, seed=3)
    results = writer.run([after_picture, after_text])
    for result, count in zip(results, (3, 2), strict=True):
        kinds = [isinstance(turn, str) for turn in result.turns]
        assert kinds == [True, False, True][:count]
        assert result.picture.shape == (3, 3, 3)
        assert all(1 <= len(x) <= 5 for x in result.turns if isinstance(x, str))


def test_a_text_goes_on_without_a_break(writer):
    request = writer._request(Order(("a dog",), turns=(Modality.TEXT,)), [])
    assert request.streams[0][-1] == 4 + ord("g") % 20
    assert request.plan[0].stop == writer.vocab.EOS


@pytest.mark.parametrize(
    "order",
    [
        Order(("a dog",), sampling=Sampling(guidance=2.0)),
        Order(("a", PICTURE), hidden_YX=np.eye(3, dtype=bool), seed=2),
        Order(("Describe it. ", Hole(), PICTURE), seed=1, max_text=20),
    ],
)
def test_a_stream_shows_more_and_more_and_ends_in_the_result(writer, order):
    *looks, (last,) = writer.stream([order])
    whole = writer.run([order])[0]
    assert last.text == whole.text
    np.testing.assert_array_equal(last.picture, whole.picture)
    for (look,) in looks:
        if order.wants_text:
            assert whole.text.startswith(look.text)
        else:
            is_drawn = look.picture != prompts.HIDDEN_COLOUR
            np.testing.assert_array_equal(
                look.picture[is_drawn], whole.picture[is_drawn]
            )


def test_the_first_look_at_a_drawing_has_one_row(writer):
    (look,) = next(writer.stream([Order(("a dog",))]))
    assert (look.picture[1:] == prompts.HIDDEN_COLOUR).all()
    assert (look.picture[0] != prompts.HIDDEN_COLOUR).all()


def test_beams_write_text_alone(writer):
    text = Order(("Describe it. ", Hole(), PICTURE), beams=Beams(3), max_text=6)
    other = Order(("a dog",), seed=1)
    results = writer.run([other, text])
    assert 1 <= len(results[1].text) <= 6
    assert results[0].picture is not None
    with pytest.raises(ValueError, match="num_beams=1"):
        writer.check(Order(("a dog",), beams=Beams(3)))


def test_the_picture_alone_keeps_documents_if_it_should(writer):
    document = Document((Segment(Modality.TEXT, np.array([7, 8], np.int32)),))
    order = Order(
        ("Edit it", PICTURE, "red"),
        documents=(document,),
        sampling=Sampling(guidance=7.5, image_guidance=1.5),
    )
    codes = writer._codes([order])[0]
    dropped = writer._request(order, codes).streams
    kept = writer._request(
        dataclasses.replace(order, keep_documents=True), codes
    ).streams
    front = [writer.vocab.EOS, 7, 8, writer.vocab.break_id]
    for stream in (dropped[0], *kept):
        assert stream[:4].tolist() == front
    np.testing.assert_array_equal(kept[1][4:], dropped[1][1:])
    np.testing.assert_array_equal(kept[2][4:], dropped[2][1:])
    mark = [writer.vocab.sentinel_id(0), writer.vocab.break_id]
    assert dropped[2][-2:].tolist() == mark
    before = len(kept[0]) - len("red") - 1  # the instruction, and its <break>
    np.testing.assert_array_equal(kept[0][:before], kept[2][:before])


def test_perplexity_is_of_every_modality_that_is_there(writer):
    found = writer.perplexity(("a dog", PICTURE))
    assert set(found) == {"text", "image"}
    assert set(writer.perplexity(("a dog",))) == {"text"}
    assert min(found.values()) > 1


def test_hidden_pixels_never_reach_the_tokenizer(writer):
    hidden = np.zeros((3, 3), bool)
    hidden[1, 1] = True
    changed = PICTURE.copy()
    changed[1, 1] = 255 - changed[1, 1]
    results = writer.run(
        [Order(("x", picture), hidden_YX=hidden) for picture in (PICTURE, changed)]
    )
    np.testing.assert_array_equal(results[0].codes, results[1].codes)


@pytest.mark.parametrize(
    ("order", "what"),
    [
        (Order(("a", np.zeros((4, 4, 3), np.uint8))), "resize"),
        (Order(("x" * 90,)), "shorten"),
        (Order(("x", Hole(), PICTURE), sampling=Sampling(guidance=2.0)), "guidance=1"),
        (Order(("x",), hidden_YX=np.ones((3, 3), bool)), "needs a picture"),
    ],
)
def test_what_cannot_be_fulfilled_is_refused(writer, order, what):
    with pytest.raises(ValueError, match=what):
        writer.check(order)
