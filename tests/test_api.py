"""The face for Python users, with a writer that remembers what it was asked."""

import dataclasses

import numpy as np
import pytest

from cm3leon_jax import api
from cm3leon_jax.decoding.sampling import Sampling
from cm3leon_jax.decoding.writer import Result
from cm3leon_jax.documents.example import Hole
from cm3leon_jax.vocab import Vocab

PICTURE = np.full((8, 8, 3), 7, np.uint8)


class FakeWriter:
    """Writes the prompt back, or draws a picture of its seed: parts are what counts."""

    vocab = Vocab(codes_per_image=16)
    image_size = 8

    def __init__(self):
        self.orders = []

    def run(self, orders, report=None):
        self.orders += orders
        return [
            Result(text=" words")
            if order.wants_text
            else Result(picture=np.full((8, 8, 3), order.seed, np.uint8))
            for order in orders
        ]

    def check(self, order):
        return order.pictures


@dataclasses.dataclass
class FakeRecord:
    number: int
    id: str = "r"
    source: str = "here"
    licence: str = "CC0"
    url: str = ""

    def document(self, vocab):
        return self.number


class FakeBank:
    """Finds document 1, then 2, for every text."""

    def find(self, vectors, count):
        return [
            [
                api.Found(number, 0.5, FakeRecord(number))
                for number in range(1, count + 1)
            ]
            for _ in vectors
        ]


@pytest.fixture
def model():
    return api.Model(
        FakeWriter(), "digest", 16, FakeBank(), lambda texts: [0] * len(texts)
    )


def test_draw_takes_seeds_in_order_and_retrieves_by_the_text(model):
    pictures = model.draw("a dog", n=3, seed=5, guidance=3.0, retrieve=2)
    np.testing.assert_array_equal(pictures[:, 0, 0, 0], [5, 6, 7])
    order = model.writer.orders[0]
    assert order.parts == ("a dog",)
    assert order.documents == (1, 2)
    assert order.sampling == Sampling(guidance=3.0)


def test_texts_are_asked_for_by_the_tasks_templates(model):
    assert model.caption(PICTURE, temperature=0.0) == "words"
    assert model.answer(PICTURE, "what is it?", seed=3) == "words"
    assert model.complete("a <mask> dog", PICTURE) == " words"  # as written
    words = [[p for p in o.parts if isinstance(p, str)] for o in model.writer.orders]
    assert words == [
        ["Describe the given picture."],
        ["Question: what is it? Answer:", "."],
        ["a ", " dog"],
    ]
    assert all(isinstance(order.parts[1], Hole) for order in model.writer.orders)


def test_infill_hides_the_cells_that_the_box_touches(model):
    model.infill(PICTURE, box=(0, 0, 3, 2), text="a dog")
    hidden = model.writer.orders[0].hidden_YX
    np.testing.assert_array_equal(np.argwhere(hidden), [[0, 0], [0, 1]])


def test_a_layout_names_its_boxes_in_the_models_coordinates(model):
    model.fulfil([api.Ask("layout", "a dog", boxes=(("dog", 0, 0, 4, 8),))])
    words = model.writer.orders[0].parts[0]
    assert "dog at location (0, 0) -> (8, 16)" in words


def test_a_picture_of_another_size_is_resized_and_cut(model):
    wide = np.zeros((16, 40, 3), np.uint8)
    wide[:, 12:28] = 200  # the middle
    model.edit(wide, "make it red")
    given = model.writer.orders[0].parts[1]
    assert given.shape == (8, 8, 3)
    assert given[:, 1:-1].min() > 190


def test_provenance_says_what_it_came_from(model):
    ask = api.Ask("draw", "a dog", seed=4, retrieve=1, sampling=Sampling(top_p=0.9))
    provenance = model.fulfil([ask])[0].provenance
    assert provenance["prompt"] == "a dog"
    assert provenance["seed"] == 4
    assert provenance["checkpoint"] == "digest"
    assert provenance["sampling"]["top_p"] == 0.9
    assert provenance["retrieved"] == [
        {"id": "r", "source": "here", "licence": "CC0", "url": "", "score": 0.5}
    ]


@pytest.mark.parametrize(
    ("ask", "what"),
    [
        (api.Ask("paint", "a dog"), "not one of draw, caption"),
        (api.Ask("caption"), "needs a picture"),
        (api.Ask("draw", "a dog", box=(0, 0, 2, 2)), "'infill' alone"),
        (api.Ask("infill", picture=PICTURE, box=(4, 0, 2, 2)), "x0 < x1"),
        (api.Ask("complete", "a dog"), "<mask> once"),
        (api.Ask("layout", "a dog"), "needs some"),
        (api.Ask("caption", picture=PICTURE.astype(float)), "convert it to RGB"),
    ],
)
def test_requests_that_make_no_sense_are_refused(model, ask, what):
    with pytest.raises(ValueError, match=what):
        model.check(ask)


def test_retrieval_without_a_bank_is_refused():
    model = api.Model(FakeWriter(), "digest")
    with pytest.raises(ValueError, match="no memory bank"):
        model.draw("a dog", retrieve=1)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="folder of a training job"):
        api.load(tmp_path)
