import numpy as np
import pytest

from cm3leon_jax.documents import example
from cm3leon_jax.documents.example import Hole, Target
from cm3leon_jax.tasks import caption, edit, infill, layout, pair, segmentation, vqa
from cm3leon_jax.tasks.row import Box, TaskRow
from cm3leon_jax.vocab import Vocab

VOCAB = Vocab(
    text_size=300, image_size=16, control_size=40, num_sentinels=20, codes_per_image=4
)
PICTURE = np.zeros((8, 8, 3), np.uint8)
ROW = TaskRow(
    id="0001",
    picture=PICTURE,
    text="a red circle",
    columns={
        "text_long": "the picture shows a red circle.",
        "questions": [
            {"question": "what shape is it?", "answer": "circle", "kind": "shape"},
            {"question": "is {it} red?", "answer": "yes", "kind": "yes/no"},
        ],
        "edit": {"instruction": "remove the circle", "file_name": "e.png"},
        "segmentation": {"legend": [], "file_name": "s.png"},
    },
    others={"edit": PICTURE + 1, "segmentation": PICTURE + 2},
    boxes=(Box("red circle", (0.25, 0.5, 0.75, 1.0)),),
    source="scenes",
    licence="CC0",
)
TASKS = (pair, caption, vqa, edit, layout, segmentation, infill)


def _text(made):
    return "|".join(
        "<image>" if isinstance(p, np.ndarray) else getattr(p, "text", p)
        for p in made.parts
    )


def _bytes(text):
    return [4 + byte for byte in text.encode()]


def test_templates_are_those_of_the_paper():
    rng = np.random.default_rng(0)
    one = {task.NAME: _text(task.examples(ROW, rng)[0]) for task in (pair, edit)}
    assert one["pair"] == "a red circle|<image>"
    assert one["edit"] == (
        "Edit first image following the instruction|<image>|remove the circle|<image>"
    )
    (made,) = layout.examples(ROW, rng)
    assert made.parts[0] == (
        "Generate high quality image of a red circle with segmentations red circle at"
        " location (64, 128) -> (192, 256)"
    )
    assert _text(segmentation.examples(ROW, rng)[0]) == (
        "Make high quality image from a segmentation map|<image>|a red circle|<image>"
    )
    (made,) = caption.examples(ROW, rng, num_templates=1, long_share=0.0)
    assert _text(made) == "Describe the given picture.| a red circle|<image>"
    made = vqa.examples(ROW, rng, num_templates=1)
    assert [_text(m) for m in made] == [
        "Question: what shape is it? Answer:| circle|.|<image>",
        "Question: is {it} red? Answer:| yes|.|<image>",
    ]


@pytest.mark.parametrize("task", TASKS)
def test_examples_keep_their_rows_provenance_and_have_unique_ids(task):
    made = task.examples(ROW, np.random.default_rng(0))
    assert made and len({m.id for m in made}) == len(made)
    for one in made:
        assert one.id.startswith("0001") and one.task == task.NAME
        assert (one.source, one.licence) == ("scenes", "CC0")


@pytest.mark.parametrize("task", TASKS)
def test_a_row_without_the_tasks_columns_makes_no_example(task):
    bare = TaskRow(id="1", picture=PICTURE, text="a red circle")
    expected = 1 if task in (pair, caption, infill) else 0
    assert len(task.examples(bare, np.random.default_rng(0))) == expected


def test_prompt_tokens_around_the_hole_equal_those_around_the_target():
    codes = np.arange(4)
    cases = [
        (
            vqa.examples(ROW, np.random.default_rng(0), num_templates=1)[0],
            vqa.prompt("what shape is it?", PICTURE),
        ),
        (
            caption.examples(
                ROW, np.random.default_rng(0), num_templates=1, long_share=0.0
            )[0],
            caption.prompt(PICTURE),
        ),
        (
            ROW.example("infill", "", "a", Target(" red"), " circle", PICTURE),
            infill.prompt("a", " circle", PICTURE),
        ),
    ]
    for made, asked in cases:
        whole = example.tokenize(made, _bytes, [codes], VOCAB)
        start, end = whole.target
        text = whole.segments[0].ids
        hole = next(k for k, part in enumerate(asked) if isinstance(part, Hole))
        before = [i for part in asked[:hole] for i in _bytes(part)]
        after = [
            i
            for part in asked[hole + 1 :]
            if isinstance(part, str)
            for i in _bytes(part)
        ]
        assert text[:start].tolist() == before and text[end:].tolist() == after


def test_long_captions_come_as_often_as_asked_and_from_keywords():
    rng = np.random.default_rng(0)
    texts = [
        next(
            p.text for p in caption.examples(ROW, rng)[0].parts if isinstance(p, Target)
        )
        for _ in range(400)
    ]
    share = np.mean(["picture shows" in text for text in texts])
    assert abs(share - 0.5) < 0.1
    keyed = TaskRow("1", PICTURE, "medal", columns={"keywords": ["second", "silver"]})
    assert caption.long_caption(keyed) == "medal: second, silver"


def test_gaps_in_captions_join_to_the_caption_and_reach_every_word_but_the_first():
    rng, seen = np.random.default_rng(0), set()
    for _ in range(100):
        (made,) = infill.examples(ROW, rng, max_words=2)
        texts = [part for part in made.parts if not isinstance(part, np.ndarray)]
        assert "".join(getattr(part, "text", part) for part in texts) == ROW.text
        seen.add(next(part.text for part in texts if isinstance(part, Target)))
    assert seen == {" red", " circle", " red circle"}
    assert not infill.examples(TaskRow("1", PICTURE, "circle"), rng)


@pytest.mark.parametrize(
    ("filled", "answer"),
    [(" red", "red"), (" two.", "two"), ("  top left . ", "top left")],
)
def test_answers_are_parsed(filled, answer):
    assert vqa.parse(filled) == answer


@pytest.mark.parametrize(
    ("task", "columns"),
    [
        (vqa, {"questions": "what?"}),
        (vqa, {"questions": [{"question": "what?", "answer": " "}]}),
        (vqa, {"questions": ["what?"]}),
        (edit, {"edit": {"file_name": "e.png"}}),
        (caption, {"text_long": 3}),
        (caption, {"keywords": [1]}),
    ],
)
def test_columns_of_another_type_are_refused_by_name(task, columns):
    row = TaskRow("0007", PICTURE, "text", columns=columns)
    with pytest.raises(ValueError, match="0007"):
        task.examples(row, np.random.default_rng(0))


def test_pairs_take_the_long_caption_for_their_share_alone():
    rng = np.random.default_rng(0)
    short = "a red circle|<image>"
    made = [_text(pair.examples(ROW, rng, long_share=0.25)[0]) for _ in range(400)]
    assert set(made) == {short, f"{caption.long_caption(ROW)}|<image>"}
    assert 0.15 < 1 - made.count(short) / 400 < 0.35
    assert _text(pair.examples(ROW, rng)[0]) == short
