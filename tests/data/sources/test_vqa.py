"""VQA v2: https://visualqa.org/download.html; OK-VQA: https://okvqa.allenai.org."""

import json

import pytest
from PIL import Image


def _vqa(root, questions, annotations=None, prefix="v2_", subset="train2014"):
    (root / subset).mkdir(exist_ok=True)
    for number in (9, 25):
        name = f"COCO_{subset}_{number:012d}.jpg"
        Image.new("RGB", (8, 8)).save(root / subset / name)
    path = root / f"{prefix}OpenEnded_mscoco_{subset}_questions.json"
    path.write_text(json.dumps({"questions": questions, "data_subtype": subset}))
    if annotations is not None:
        path = root / f"{prefix}mscoco_{subset}_annotations.json"
        path.write_text(json.dumps({"annotations": annotations}))


def _asked(number, image, text="what is it?"):
    return {"question_id": number, "image_id": image, "question": text}


def _answered(number, *answers, **more):
    told = [{"answer": one, "answer_confidence": "yes"} for one in answers]
    return {"question_id": number, "answers": told, "answer_type": "other", **more}


@pytest.mark.parametrize("prefix", ["v2_", ""])  # OK-VQA has none
def test_questions_come_with_ten_answers_picture_by_picture(tmp_path, read, prefix):
    ten = ["net"] * 6 + ["netting"] * 4
    questions = [_asked(250, 25), _asked(90, 9), _asked(251, 25, " why? ")]
    annotations = [_answered(n, *ten, question_type="what") for n in (90, 250, 251)]
    _vqa(tmp_path, questions, annotations, prefix)
    rows, by_reason, _ = read(tmp_path)
    assert [row.columns["questions"][0]["question_id"] for row in rows] == [
        90,
        250,
        251,
    ]
    asked = rows[2].columns["questions"][0]
    assert (asked["question"], asked["answers"]) == ("why?", ten)
    assert asked["answer_type"] == "other" and not by_reason
    assert rows[1].group == rows[2].group and rows[0].is_for_tasks
    assert rows[0].picture.path.name == "COCO_train2014_000000000009.jpg"


@pytest.mark.parametrize("subset", ["test2015", "test-dev2015"])
def test_a_test_split_has_questions_without_answers(tmp_path, read, subset):
    _vqa(tmp_path, [_asked(90, 9)], subset="test2015")
    questions = tmp_path / "v2_OpenEnded_mscoco_test2015_questions.json"
    questions.rename(questions.with_name(questions.name.replace("test2015", subset)))
    rows, by_reason, _ = read(tmp_path)
    assert rows[0].picture.path.name == "COCO_test2015_000000000009.jpg"
    assert rows[0].columns["questions"][0]["answers"] == [] and not by_reason


def test_empty_questions_missing_answers_and_pictures_are_counted(tmp_path, read):
    questions = [
        _asked(1, 9, " "),
        _asked(2, 9),
        _asked(3, 9),
        _asked(4, 77),
        {"question_id": 5, "image_id": 9},
        {"question_id": 6, "question": "what?"},
    ]
    annotations = [_answered(1, "a"), _answered(2, " "), _answered(4, "a")]
    _vqa(tmp_path, questions, annotations)
    rows, by_reason, _ = read(tmp_path)
    assert not rows
    assert by_reason == {
        "empty-question": 1,
        "malformed": 2,
        "missing": 1,
        "no-answer": 2,
    }


def test_a_file_of_another_shape_is_an_error(tmp_path, read):
    (tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json").write_text("[]")
    with pytest.raises(ValueError, match="lists `questions`"):
        read(tmp_path)
