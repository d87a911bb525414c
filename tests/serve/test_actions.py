"""What a person sets becomes a request; mistakes are one line each."""

import numpy as np
import pytest

from cm3leon_jax.api import Near
from cm3leon_jax.serve import actions
from cm3leon_jax.serve import studio as studios
from cm3leon_jax.serve.studio import Shown

PICTURE = np.arange(64, dtype=np.uint8).reshape(8, 8, 1).repeat(3, axis=2)


def _painted(rows, columns, picture):
    layer = np.zeros((*picture.shape[:2], 4), np.uint8)
    layer[rows, columns] = 255
    opaque = np.full((*picture.shape[:2], 1), 255, np.uint8)
    background = np.concatenate([picture, opaque], axis=2)
    return {"background": background, "layers": [layer], "composite": None}


def test_drawing_takes_what_is_set(studio):
    list(actions.draw(studio, " a dog ", 2, 3.0, 0.7, 0.9, "5", 0))
    first, second = studio.model.writer.orders
    assert (first.seed, second.seed) == (5, 6)
    assert first.parts == ("a dog",)
    assert (first.sampling.guidance, first.sampling.temperature) == (3.0, 0.7)


def test_paint_on_an_enlarged_picture_hides_the_cells_below_it(studio):
    large = studios.enlarge(PICTURE)
    size = len(large) // 8
    painted = _painted(slice(0, 1), slice(5 * size, 6 * size), large)
    list(actions.fill(studio, painted, "", 1.0, ""))
    order = studio.model.writer.orders[0]
    assert np.argwhere(order.hidden_YX).tolist() == [[0, 2]]  # pixel 5 of 8, 4 cells
    is_seen = order.pictures[-1] != 127
    np.testing.assert_array_equal(order.pictures[-1][is_seen], PICTURE[is_seen])


def test_paint_on_a_photo_hides_the_cells_below_it(studio):
    photo = np.zeros((40, 80, 3), np.uint8)
    painted = _painted(slice(0, 5), slice(20, 25), photo)  # the middle is 20 to 60
    list(actions.fill(studio, painted, "a dog", 1.0, ""))
    assert studio.model.writer.orders[0].hidden_YX[0, 0]


def test_editing_has_two_scales(studio):
    large = studios.enlarge(PICTURE)
    list(actions.edit(studio, large, "make it red", 7.5, 1.5, 0.7, "3"))
    order = studio.model.writer.orders[0]
    np.testing.assert_array_equal(order.pictures[0], PICTURE)
    assert (order.sampling.guidance, order.sampling.image_guidance) == (7.5, 1.5)


def test_texts_are_written(studio):
    assert actions.write(studio, "caption", PICTURE, "").text == "words"
    assert actions.write(studio, "answer", PICTURE, "what is it?").text == "words"


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (lambda s: actions.draw(s, " ", 1, 1.0, 1.0, 1.0, "", 0), "say what to draw"),
        (lambda s: actions.draw(s, "a", 1, 1.0, 1.0, 1.0, "x", 0), "whole number"),
        (lambda s: actions.edit(s, None, "a", 1.0, 1.0, 1.0, ""), "choose a picture"),
        (lambda s: actions.edit(s, PICTURE, "", 1.0, 1.0, 1.0, ""), "what to change"),
        (lambda s: actions.fill(s, None, "", 1.0, ""), "choose a picture"),
        (
            lambda s: actions.fill(
                s, _painted(slice(0), slice(0), PICTURE), "", 1.0, ""
            ),
            "paint over",
        ),
        (lambda s: actions.write(s, "answer", PICTURE, " "), "ask a question"),
    ],
)
def test_mistakes_are_one_line(studio, wrong, what):
    with pytest.raises(ValueError, match=what):
        wrong(studio)


def test_documents_are_shown_while_a_picture_is_drawn():
    assert "Nothing was made yet" in actions.origin(Shown([]))
    near = Near("a <b> dog", np.zeros((8, 8, 3), np.uint8), {})
    shown = actions.origin(Shown([], near=(near,)))
    assert "looks at these documents" in shown
    assert "a &lt;b&gt; dog" in shown
    assert shown.count("<img") == 1


def test_an_origin_shows_everything_and_is_escaped(studio):
    *_, last = actions.draw(studio, "<b>a dog</b>", 1, 3.0, 0.7, 0.9, "5", 0)
    shown = actions.origin(last)
    assert "&lt;b&gt;a dog" in shown
    assert "<b>a dog" not in shown
    for word in ("checkpoint 0123456789ab", "guidance 3.0", "no documents", ">5<"):
        assert word in shown
    near = {"id": "r1", "source": "here", "licence": "CC0", "url": "", "score": 0.5}
    origin = last.origin | {"retrieved": [near]}
    assert "r1, here, CC0, score 0.5" in actions.origin(Shown([], origin=origin))
