"""Boxes of rows become weights on parts of pictures."""

import json

import numpy as np
import pytest
from PIL import Image

from cm3leon_jax.data import crops, pictures, splits
from cm3leon_jax.data.refusals import Refusals

CONFIG = crops.CropConfig(object_weight=1.0, face_weight=3.0, max_boxes=2)
BOXES = [
    {"name": "dog", "box": [25, 0, 50, 50]},
    {"name": "Face", "box": [25, 0, 75, 50]},
    {"name": "cup", "box": [40, 0, 50, 10]},  # the third is one too many
]


def _read(tmp_path, *columns, config=CONFIG):
    """Pictures of 100 x 50, whose middle 50 x 50 is used."""
    lines = []
    for index, boxes in enumerate(columns):
        name = f"train/{index}.png"
        (tmp_path / "train").mkdir(exist_ok=True)
        Image.fromarray(np.zeros((50, 100, 3), np.uint8)).save(tmp_path / name)
        lines.append({"file_name": f"{index}.png", "text": "a", "boxes": boxes})
    text = "\n".join(json.dumps(line) for line in lines)
    (tmp_path / "train" / "metadata.jsonl").write_text(text)
    refusals = Refusals()
    rows = list(splits.read(tmp_path, "train", splits.SplitConfig(0, 0), refusals))
    rule = pictures.PictureConfig(image_size=16)
    return (*crops.read(rows, config, rule, refusals), refusals)


def test_largest_boxes_are_taken_as_shares_with_their_weights(tmp_path):
    boxes, weights, _ = _read(tmp_path, BOXES, [])
    np.testing.assert_allclose(boxes[0], [[0, 0, 1, 1], [0, 0, 0.5, 1]])
    np.testing.assert_array_equal(weights, [[3.0, 1.0], [0.0, 0.0]])


def test_narrow_boxes_weigh_nothing_and_malformed_ones_are_counted(tmp_path):
    narrow = [{"name": "line", "box": [25, 0, 26, 50]}]
    _, weights, refusals = _read(tmp_path, narrow, [{"name": "dog"}])
    np.testing.assert_array_equal(weights, 0.0)
    assert "column boxes" in json.dumps(refusals.to_json())


def test_weights_that_reward_errors_are_refused():
    assert not crops.CropConfig().is_used
    with pytest.raises(ValueError, match="must not be below 0"):
        crops.CropConfig(object_weight=-1.0)
