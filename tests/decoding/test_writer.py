"""Orders in words and pictures, with a random model and an identity tokenizer."""

import dataclasses

import numpy as np
import pytest

from cm3leon_jax.decoding.sampling import Sampling
from cm3leon_jax.decoding.writer import Order
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
