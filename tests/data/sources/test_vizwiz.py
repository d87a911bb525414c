"""VizWiz-VQA: https://vizwiz.org/tasks-and-datasets/vqa/ (image, question, answers)."""

import json

import pytest
from PIL import Image


def _write(root, split, content):
    (root / "Annotations").mkdir(exist_ok=True)
    (root / split).mkdir(exist_ok=True)
    Image.new("RGB", (8, 8)).save(root / split / f"VizWiz_{split}_00000000.jpg")
    (root / "Annotations" / f"{split}.json").write_text(json.dumps(content))


def _asked(split="train", question="What is this?", **more):
    return {"image": f"VizWiz_{split}_00000000.jpg", "question": question, **more}


def test_unanswerable_is_an_answer_and_the_test_split_has_none(tmp_path, read):
    ten = [{"answer": "unanswerable", "answer_confidence": "yes"}] * 10
    _write(tmp_path, "train", [_asked(answers=ten, answerable=0, answer_type="other")])
    _write(tmp_path, "test", [_asked("test")])
    rows, by_reason, _ = read(tmp_path)
    assert not by_reason
    answers = [row.columns["questions"][0]["answers"] for row in rows]
    assert answers == [["unanswerable"] * 10, []]
    assert all(row.is_for_tasks for row in rows)


def test_bad_questions_are_counted(tmp_path, read):
    good = [{"answer": "basil"}]
    content = [
        _asked(question="", answers=good),
        _asked(answers=[]),
        _asked(answers=["basil"]),
        "no object",
        {"image": "../../up.jpg", "question": "What?", "answers": good},
        {"image": "/etc/hostname", "question": "What?", "answers": good},
    ]
    _write(tmp_path, "train", content)
    rows, by_reason, _ = read(tmp_path)
    assert not rows
    assert by_reason == {
        "empty-question": 1,
        "malformed": 2,
        "missing": 1,
        "no-answer": 1,
        "outside-folder": 1,
    }


def test_a_file_that_is_no_list_is_an_error(tmp_path, read):
    _write(tmp_path, "val", {"questions": []})
    with pytest.raises(ValueError, match="val.json must hold a JSON list"):
        read(tmp_path)
