"""ScienceQA: https://github.com/lupantech/ScienceQA, data/scienceqa/problems.json."""

import json

from PIL import Image

from cm3leon_jax.data.sources import inputs
from cm3leon_jax.data.sources.row import SourceConfig


def _problem(**changes):
    return {
        "question": "Which is a plant?",
        "choices": ["a rock", "a fern"],
        "answer": 1,
        "hint": "",
        "lecture": "Plants grow.",
        "solution": "A fern grows.",
        "image": "image.png",
        "split": "train",
        "subject": "natural science",
    } | changes


def _write(root, problems):
    for number in problems:
        folder = root / problems[number].get("split", "train") / number
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / "image.png")
    (root / "problems.json").write_text(json.dumps(problems))


def test_a_file_holds_all_splits_and_each_row_its_choices(tmp_path, read):
    _write(tmp_path, {"1": _problem(), "2": _problem(split="val", answer=0)})
    found = inputs.find(tmp_path, SourceConfig())
    assert [one.split for one in found] == ["train", "validation", "test"]
    rows, by_reason, _ = read(tmp_path)
    assert [row.columns["science"]["answer"] for row in rows] == [1, 0]
    assert rows[0].id == "train/1/image.png" and not by_reason
    assert rows[0].columns["subject"] == "natural science"


def test_questions_without_a_picture_or_an_answer_are_counted(tmp_path, read):
    problems = {
        "1": _problem(image=None),
        "2": _problem(answer=2),
        "3": _problem(question=" "),
        "4": _problem(question=None),
        "5": _problem(image="other.png"),
    }
    _write(tmp_path, problems)
    rows, by_reason, _ = read(tmp_path)
    assert not rows
    assert by_reason == {
        "empty-question": 1,
        "malformed": 1,
        "missing": 1,
        "no-answer": 1,
        "no-picture": 1,
    }
