"""VisDial v1.0: https://visualdialog.org/data (lists of questions and answers)."""

import json

import pytest
from PIL import Image

from cm3leon_jax.data.sources import visdial


def _write(root, dense):
    name = "VisualDialog_val2018"
    (root / name).mkdir()
    Image.new("RGB", (8, 8)).save(root / name / f"{name}_000000000007.jpg")
    rounds = [
        {"question": 1, "answer": 0, "answer_options": [0, 1], "gt_index": 0},
        {"question": 0, "answer": 1, "answer_options": [2, 1], "gt_index": 1},
    ]
    data = {
        "questions": ["how many", "is it red"],
        "answers": ["yes", "2", "two of them"],
        "dialogs": [{"image_id": 7, "caption": "a cat", "dialog": rounds}],
    }
    (root / "visdial_1.0_val.json").write_text(json.dumps({"data": data}))
    path = root / "visdial_1.0_val_dense_annotations.json"
    path.write_text(json.dumps(dense))


def test_a_turn_has_what_was_said_before_and_its_candidates(tmp_path):
    _write(tmp_path, [{"image_id": 7, "round_id": 2, "gt_relevance": [0.4, 1.0]}])
    (turn,) = visdial.read(tmp_path)
    assert (turn.key, turn.caption, turn.question) == ("7#2", "a cat", "how many")
    assert turn.history == (("is it red", "yes"),)
    assert turn.options == ("two of them", "2") and turn.relevance == (0.4, 1.0)


@pytest.mark.parametrize(
    "dense",
    [
        [{"image_id": 7, "round_id": 3, "gt_relevance": [0, 1]}],
        [{"image_id": 7, "round_id": 0, "gt_relevance": [0, 1]}],
        [{"image_id": 7, "round_id": 1, "gt_relevance": [1]}],
        [{"image_id": 8, "round_id": 1, "gt_relevance": [0, 1]}],
    ],
)
def test_relevances_of_other_dialogs_are_refused(tmp_path, dense):
    _write(tmp_path, dense)
    with pytest.raises(ValueError, match="must hold"):
        visdial.read(tmp_path)


def test_missing_files_and_pictures_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="visdial_1.0_val.json"):
        visdial.read(tmp_path)
    _write(tmp_path, [{"image_id": 7, "round_id": 1, "gt_relevance": [0, 1]}])
    next((tmp_path / "VisualDialog_val2018").glob("*.jpg")).unlink()
    with pytest.raises(ValueError, match="no picture"):
        visdial.read(tmp_path)
