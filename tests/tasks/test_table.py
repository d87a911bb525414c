"""Table 5 of CM3Leon: every row a task, asked for as it is trained."""

import inspect

import numpy as np
import pytest

from cm3leon_jax.documents.example import Hole, Target
from cm3leon_jax.tasks import (
    coco,
    edges,
    layout,
    narratives,
    scienceqa,
    scribble,
    segmentation,
    table,
    vizwiz,
    vqa2,
    writing,
)
from cm3leon_jax.tasks.row import Box, TaskRow

PICTURE = np.full((32, 32, 3), 40, np.uint8)
PICTURE[8:24, 8:24] = 220
CONTROL = np.zeros((32, 32, 3), np.uint8)
TEN = ["net"] * 4 + ["a net"] * 5 + ["netting"]
SCIENCE = {
    "question": "Which is a plant?",
    "choices": ["a rock", "a fern"],
    "answer": 1,
    "hint": "Look closely.",
    "solution": "A fern grows.",
}
ROW = TaskRow(
    id="7",
    picture=PICTURE,
    text="a pale square",
    columns={
        "questions": [{"question": "what is it?", "answers": TEN, "answer": "x"}],
        "edit": {"instruction": "redden", "file_name": "e"},
        "writing": "ONE  way",
        "science": SCIENCE,
    },
    others=dict.fromkeys(
        ("edit", "segmentation", "hed", "pose", "depth", "normals"), CONTROL
    ),
    boxes=(Box("square", (0.25, 0.25, 0.75, 0.75)),),
)


def _texts(example):
    return [
        part.text if isinstance(part, Target) else part
        for part in example.parts
        if not isinstance(part, np.ndarray)
    ]


def _made(task, row=ROW, **options):
    return task.examples(row, np.random.default_rng(0), **options)


def test_the_papers_table_has_eighteen_rows_and_each_is_a_file():
    assert len(table.PAPER) == len(set(table.PAPER)) == 18
    assert set(table.PAPER) <= set(table.names())
    total = sum(table.get(name).NUM_EXAMPLES for name in table.PAPER)
    assert total == 11_406_000  # FACTS: 9.07M of pictures + 2.34M of text


@pytest.mark.parametrize("name", table.PAPER)
def test_a_task_makes_examples_and_its_prompt_is_its_example_without_target(name):
    task = table.get(name)
    made = _made(task)
    assert made and {one.task for one in made} == {name}
    assert task.READERS and task.METRIC and task.TEXTS
    targets = [part for part in made[0].parts if isinstance(part, Target)]
    is_text = task.METRIC in ("captions", "vqa_accuracy", "accuracy")
    assert len(targets) == (1 if is_text else 0)
    if is_text:
        given = {"science": SCIENCE, "question": "what is it?", "picture": PICTURE}
        wanted = inspect.signature(task.prompt).parameters
        asked = task.prompt(**{key: given[key] for key in wanted})
        assert sum(isinstance(part, Hole) for part in asked) == 1
        assert task.parse(targets[0].text)


def test_templates_of_the_new_rows_are_those_of_the_paper():
    assert _texts(_made(writing)[0]) == ['draw "ONE way"']
    for name, words in (
        ("edges", "canny edge features"),
        ("hed", "hed features"),
        ("pose", "openpose features"),
        ("depth", "depth features"),
        ("normals", "3D norm features"),
        ("scribble", "children's scribbles"),
    ):
        expected = [f"Make high quality image from {words}", "a pale square"]
        assert _texts(_made(table.get(name))[0]) == expected
    assert "".join(_texts(_made(coco, num_templates=1)[0])) == (
        "Describe the given picture. a pale square"
    )
    assert "".join(_texts(_made(scienceqa, reasoning_share=0.0)[0])) == (
        "Question: Which is a plant?\nContext: Look closely.\n"
        "Options: (A) a rock (B) a fern\nAnswer: (B)."
    )
    assert "".join(_texts(_made(scienceqa, reasoning_share=1.0)[0])[1:]) == (
        " Let's think step-by-step: A fern grows. So the answer is (B)."
    )


def test_every_template_of_a_question_and_its_most_frequent_answer():
    made = _made(vqa2, every_template=True)
    assert ["".join(_texts(one)) for one in made] == [
        "Question: what is it? Answer: a net.",
        "Question: what is it? The answer is a net.",
        "Question: what is it?\n a net",
    ]
    assert len({one.id for one in made}) == 3


def test_control_pictures_come_with_and_without_a_caption():
    rng = np.random.default_rng(0)
    counts = [
        len(segmentation.examples(ROW, rng, caption_share=0.75)[0].parts)
        for _ in range(400)
    ]
    assert set(counts) == {3, 4} and 0.68 < counts.count(4) / 400 < 0.82
    with pytest.raises(ValueError, match="caption_share"):
        _made(segmentation, caption_share=1.5)


def test_lines_are_drawn_where_a_row_has_none_and_taken_where_it_has():
    for task in (edges, scribble):
        drawn = _made(task)[0].parts[1]
        assert drawn.shape == PICTURE.shape and set(np.unique(drawn)) == {0, 255}
        given = TaskRow("1", PICTURE, "text", others={task.NAME: CONTROL})
        assert _made(task, given)[0].parts[1] is CONTROL


def test_the_picture_may_stand_first():
    for task in (coco, narratives, vqa2):
        made = _made(task, image_first_share=1.0)[0]
        assert isinstance(made.parts[0], np.ndarray)
        assert sum(isinstance(part, np.ndarray) for part in made.parts) == 1


def test_unanswerable_questions_may_be_left_out():
    answers = ["unanswerable"] * 6 + ["basil"] * 4
    asked = {"questions": [{"question": "what?", "answers": answers}]}
    row = TaskRow("1", PICTURE, "", columns=asked)
    assert "unanswerable" in _texts(_made(vizwiz, row)[0])[1]
    assert not _made(vizwiz, row, keep_unanswerable=False)


def test_a_picture_without_a_caption_is_called_by_what_is_in_it():
    row = TaskRow("1", PICTURE, "", boxes=(*ROW.boxes, *ROW.boxes))
    text = _made(layout, row)[0].parts[0]
    assert text.startswith("Generate high quality image of square with segmentations")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (" (B)", "B"),
        (" Let's think step-by-step: A or B? So the answer is (C).", "C"),
        ("B", "B"),
        ("none", ""),
    ],
)
def test_the_letter_of_a_choice_is_parsed(text, letter):
    assert scienceqa.parse(text) == letter


@pytest.mark.parametrize(
    ("task", "columns"),
    [
        (vqa2, {"questions": [{"question": " ", "answers": ["a"]}]}),
        (vqa2, {"questions": [{"question": "what?", "answers": [3]}]}),
        (scienceqa, {"science": {**SCIENCE, "answer": 2}}),
        (scienceqa, {"science": {**SCIENCE, "choices": ["one"]}}),
        (writing, {"writing": 3}),
    ],
)
def test_what_cannot_be_asked_is_refused_by_its_row(task, columns):
    with pytest.raises(ValueError, match="0007"):
        _made(task, TaskRow("0007", PICTURE, "text", columns=columns))


def test_unknown_tasks_and_options_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="no task 'ocr'; known: caption"):
        table.check({"ocr": {}})
    with pytest.raises(ValueError, match="no option 'share'; known: caption_share"):
        table.check({"hed": {"share": 1.0}})
    table.check({name: {} for name in table.names()})


def test_a_template_variable_that_nobody_fills_in_is_refused(monkeypatch):
    monkeypatch.setattr(writing, "TEXTS", ('draw "{txet}"',))
    with pytest.raises(ValueError, match=r"'writing' leaves \{txet\} in a template"):
        table.check({"writing": {}})
