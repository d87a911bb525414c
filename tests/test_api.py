"""The face for Python users, with a writer that remembers what it was asked."""

import dataclasses
import inspect

import numpy as np
import pytest

from cm3leon_jax import api, asks
from cm3leon_jax.decoding.sampling import Sampling
from cm3leon_jax.decoding.writer import Result
from cm3leon_jax.documents.document import Modality
from cm3leon_jax.documents.example import Hole
from cm3leon_jax.tasks import edges, lines, table
from cm3leon_jax.tasks import row as rows
from cm3leon_jax.vocab import Vocab

PICTURE = np.full((8, 8, 3), 7, np.uint8)


def _grey(seed):
    return (seed + seed // asks.CANDIDATE_STEP) % 256


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
            else Result(picture=np.full((8, 8, 3), _grey(order.seed), np.uint8))
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


def test_every_task_of_the_paper_has_a_kind_with_its_own_prompt(model):
    """The parts that are asked with are those of the task's training, up to its target."""
    asked = {
        "text": "a dog",
        "choices": ("oak", "elm"),
        "boxes": (("dog", 0, 0, 4, 8),),
    }
    columns = {
        "questions": [{"question": "a dog", "answers": ["it"]}],
        "science": {"question": "a dog", "choices": ["oak", "elm"], "answer": 0},
        "writing": "a dog",
        "edit": {"instruction": "a dog"},
        "text_long": "a dog",
    }
    others = {name: PICTURE for name in table.PAPER}
    boxes = (rows.Box("dog", (0, 0, 0.5, 1)),)
    row = rows.TaskRow("r", PICTURE, "a dog", columns, others, boxes)
    for name in table.PAPER:
        pick = {"layout": ("boxes",), "scienceqa": ("choices",)}.get(name, ())
        given = {key: asked[key] for key in ("text", *pick)}
        needs_picture = asks.KINDS[name][0]
        model.fulfil(
            [api.Ask(name, picture=PICTURE if needs_picture else None, **given)]
        )
        parts = model.writer.orders[-1].parts
        examples = table.get(name).examples
        known = inspect.signature(examples).parameters
        options = {"num_templates": 1, "coordinates": 16}
        options = {key: options[key] for key in options.keys() & known.keys()}
        trained = examples(row, np.random.default_rng(0), **options)[0].parts
        assert _form(parts) == _form(trained)[: len(parts)], name


def _form(parts):
    """Words as they are; whether the rest is a picture, or text that is asked for."""
    return [
        part if isinstance(part, str) else isinstance(part, np.ndarray)
        for part in parts
    ]


def test_a_picture_follows_the_edges_of_another(model):
    photo = np.zeros((16, 16, 3), np.uint8)
    photo[4:12, 4:12] = 255
    model.follow("edges", lines.edges(photo), "a dog", guidance=3.0)
    opening, control, caption = model.writer.orders[0].parts
    assert opening == edges.TEMPLATE
    assert control.shape == PICTURE.shape
    assert caption == "a dog"
    with pytest.raises(ValueError, match="no picture was drawn"):
        model.follow("caption", photo)


def test_a_choice_needs_choices(model):
    with pytest.raises(ValueError, match="2 to 10 choices"):
        model.check(api.Ask("scienceqa", "a dog", PICTURE))
    with pytest.raises(ValueError, match="belong to kind 'scienceqa'"):
        model.check(api.Ask("answer", "a dog", PICTURE, choices=("a", "b")))


def test_a_segmentation_map_is_drawn_from_with_a_caption_or_without(model):
    for text in ("a dog", ""):
        model.fulfil([api.Ask("segmentation", text, PICTURE)])
    kinds = [[type(part) for part in order.parts] for order in model.writer.orders]
    assert kinds == [[str, np.ndarray, str], [str, np.ndarray]]


def test_a_picture_of_another_size_is_resized_and_cut(model):
    wide = np.zeros((16, 40, 3), np.uint8)
    wide[:, 12:28] = 200  # the middle
    model.edit(wide, "make it red")
    given = model.writer.orders[0].parts[1]
    assert given.shape == (8, 8, 3)
    assert given[:, 1:-1].min() > 190


def test_a_mask_of_any_shape_hides_the_cells_that_it_touches(model):
    pixels = np.zeros((8, 8), bool)
    pixels[7, 0] = pixels[0, 7] = True
    model.infill(PICTURE, mask=pixels)
    cells = np.zeros((4, 4), bool)
    cells[3, 0] = cells[0, 3] = True
    model.infill(PICTURE, mask=cells)
    tall = np.zeros((40, 20), bool)  # the middle, 10 to 30, becomes 8 pixels
    tall[12, 1] = True
    model.infill(np.zeros((40, 20, 3), np.uint8), mask=tall)
    hidden = [order.hidden_YX for order in model.writer.orders]
    np.testing.assert_array_equal(hidden[0], cells)
    np.testing.assert_array_equal(hidden[1], cells)
    assert hidden[2][0, 0]
    assert hidden[2].sum() <= 4


def test_the_best_of_a_mixture_is_the_nearest_to_the_text(model):
    """The bi-encoder likes bright pictures: vectors (cos, sin) of the grey."""
    grey = lambda pictures: np.asarray(pictures)[:, 0, 0, 0] / 255.0
    near = dataclasses.replace(
        model,
        embed_text=lambda texts: np.tile([[0.0, 1.0]], (len(texts), 1)),
        embed_pictures=lambda pictures: np.stack(
            [np.cos(grey(pictures)), np.sin(grey(pictures))], axis=1
        ),
    )
    contrast = Sampling(contrast_k=4)
    ask = api.Ask(
        "draw",
        "a dog",
        seed=9,
        best_of=4,
        mixed_with=contrast,
        sampling=Sampling(top_p=0.9),
    )
    near.check(ask)
    made = near.fulfil([ask, dataclasses.replace(ask, seed=3, best_of=2)])
    orders = near.writer.orders
    assert [order.sampling.contrast_k for order in orders] == [0, 4, 0, 4, 0, 4]
    assert len({order.seed for order in orders}) == 6
    assert made[0].provenance["best_of"] == 4
    assert [each.provenance["candidate"] for each in made] == [3, 1]
    chosen = orders[made[0].provenance["candidate"]]
    assert made[0].provenance["seed"] == chosen.seed
    assert made[0].provenance["sampling"] == dataclasses.asdict(chosen.sampling)


def test_the_best_of_several_needs_a_bi_encoder_and_pictures(model):
    with pytest.raises(ValueError, match="needs a bi-encoder"):
        model.check(api.Ask("draw", "a dog", best_of=2))
    for ask, what in (
        (api.Ask("caption", "a dog", PICTURE, best_of=2), "writes text"),
        (api.Ask("draw", "a dog", mixed_with=Sampling(top_p=0.5)), "at least 2"),
        (api.Ask("draw", "a dog", best_of=0), "in 1 to 1024"),
    ):
        with pytest.raises(ValueError, match=what):
            model.check(ask)


def test_a_document_goes_on_with_what_is_asked_for(model):
    wide = np.zeros((8, 16, 3), np.uint8)
    model.go_on(["a dog", wide, "a"], ["text", "picture"], max_text=9)
    order = model.writer.orders[0]
    assert [getattr(part, "shape", part) for part in order.parts] == [
        "a dog",
        (8, 8, 3),
        "a",
    ]
    assert order.turns == (Modality.TEXT, Modality.IMAGE)
    assert order.max_text == 9


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
        (api.Ask("infill", picture=PICTURE), "a box or a mask"),
        (
            api.Ask("infill", picture=PICTURE, mask=np.ones((3, 3), bool)),
            r"\[3, 3\].*8x8 pixels, or 4x4 cells",
        ),
        (api.Ask("continue", parts=("a dog",)), "0 turns"),
        (api.Ask("draw", "a dog", turns=("text",)), "belong"),
        (api.Ask("continue", parts=("a",), turns=("sound",)), "'sound' is not one of"),
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
