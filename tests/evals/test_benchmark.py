"""Cases of public data, what is asked of them, numbers by group."""

import numpy as np
import pytest

from cm3leon_jax.data.loading import Loaded
from cm3leon_jax.data.sources.row import Row
from cm3leon_jax.decoding.writer import Writer
from cm3leon_jax.documents.example import Hole
from cm3leon_jax.evals import benchmark
from cm3leon_jax.evals.benchmark import AskConfig
from cm3leon_jax.tasks.row import TaskRow
from cm3leon_jax.vocab import Vocab

PICTURE = np.zeros((8, 8, 3), np.uint8)
VOCAB = Vocab(
    text_size=300, image_size=16, control_size=40, num_sentinels=20, codes_per_image=4
)
SCIENCE = {"question": "Which?", "choices": ["rock", "fern"], "question_id": "12"}


def _row(name, text="", group="", **columns):
    row = Row(name, None, (), columns, group)
    return Loaded(row, (), TaskRow(name, PICTURE, text, columns=columns))


def _asked(number, question, *answers, **more):
    told = {"question_id": number, "question": question, "answers": list(answers)}
    return {"questions": [{**told, **more}]}


def _writer():
    return Writer(
        model=None,
        vocab=VOCAB,
        encode_text=lambda text: [4 + byte for byte in text.encode()],
        decode_text=None,
        num_text_pieces=300,
        encode_pictures=lambda pictures: np.zeros((len(pictures), 4), np.int32),
        decode_pictures=None,
        image_size=8,
    )


def test_captions_of_one_picture_are_one_case():
    rows = [_row("a#0", "one", "a"), _row("a#1", "two", "a"), _row("b#0", "x", "b")]
    found = benchmark.cases(rows, "coco")
    assert [(case.key, case.people) for case in found] == [
        ("a", ("one", "two")),
        ("b", ("x",)),
    ]
    order = benchmark.order(found[0], 3, _writer(), AskConfig("coco", seed=10))
    assert order.parts[0] == "Describe the given picture." and order.seed == 13
    assert any(isinstance(part, Hole) for part in order.parts)


def test_questions_carry_their_group_and_secret_answers_are_none():
    rows = [
        _row("a", **_asked(1, "what?", "net", answer_type="other")),
        _row("b", **_asked(2, "how many?", "2", answer_type="number")),
        _row("c", **_asked(3, "is it?", answer_type="yes/no")),
    ]
    found = benchmark.cases(rows, "vqa2", group="answer_type")
    assert [case.group for case in found] == ["other", "number", "yes/no"]
    assert found[2].people == ()
    people, groups = ([getattr(c, n) for c in found] for n in ("people", "group"))
    numbers = benchmark.score("vqa2", people, ["net", "3", "yes"], groups)
    # One person's answer, taken out, leaves nobody who agrees.
    assert numbers["num_cases"] == 3 and numbers["num_scored"] == 2
    assert set(numbers) >= {"vqa_accuracy", "vqa_accuracy/other", "num_scored/number"}
    assert "vqa_accuracy/yes/no" not in numbers
    with pytest.raises(ValueError, match="no row has the column 'colour'"):
        benchmark.cases(rows, "vqa2", group="colour")


def test_groups_split_the_very_numbers():
    people = [["red"] * 10] * 3
    numbers = benchmark.score("okvqa", people, ["red", "blue", "red"], ["x", "x", "y"])
    assert numbers["vqa_accuracy"] == pytest.approx(2 / 3)
    assert (numbers["vqa_accuracy/x"], numbers["vqa_accuracy/y"]) == (0.5, 1.0)
    assert numbers["num_scored/x"] == 2


def test_choices_are_letters():
    rows = [_row("a", science={**SCIENCE, "answer": 1}, subject="nature")]
    (case,) = benchmark.cases(rows, "scienceqa", group="subject")
    assert (case.key, case.people, case.group) == ("12", ("B",), "nature")
    assert benchmark.score("scienceqa", [case.people], ["B"], [""])["accuracy"] == 1
    assert benchmark.parsed("scienceqa", "So the answer is (B)") == "B"


def test_examples_in_context_are_documents_of_the_task_the_same_for_a_case():
    pool = benchmark.cases(
        [_row(str(n), **_asked(n, f"q{n}?", "a")) for n in range(5)], "vqa2"
    )
    config = AskConfig("vqa2", num_examples=2)
    documents = benchmark.examples(pool, _writer(), config)
    assert len(documents) == 5 and len(documents[0].segments) == 2
    numbers = list(range(5))
    first = benchmark.choose(numbers, 2, 7, 0)
    assert first == benchmark.choose(numbers, 2, 7, 0) and len(set(first)) == 2
    assert any(benchmark.choose(numbers, 2, i, 0) != first for i in range(5))
    assert benchmark.choose([], 0, 7, 0) == []
    with pytest.raises(ValueError, match="6 examples in context of 5"):
        benchmark.choose(documents, 6, 7, 0)


def test_tasks_of_drawing_are_not_scored_as_text():
    with pytest.raises(ValueError, match="'edit' is measured by 'pictures'"):
        benchmark.cases([], "edit")
