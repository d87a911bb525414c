"""Localized Narratives: https://google.github.io/localized-narratives/ (JSON lines)."""

import json

from PIL import Image

from cm3leon_jax.data.sources import inputs
from cm3leon_jax.data.sources.row import SourceConfig

NAME = "coco_train_localized_narratives-00000-of-00004.jsonl"


def _line(image="137576", data_set="mscoco_train2017", caption="In this image", **more):
    told = {"dataset_id": data_set, "image_id": image, "annotator_id": 93}
    return json.dumps({**told, "caption": caption, "traces": [[]], **more}) + "\n"


def test_narrators_of_a_picture_are_rows_of_one_group(tmp_path, read):
    (tmp_path / "train2017").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "train2017" / "000000137576.jpg")
    (tmp_path / NAME).write_text(_line() + _line(caption="A dog.", annotator_id=7))
    rows, by_reason, _ = read(tmp_path)
    assert [row.text for row in rows] == ["In this image", "A dog."]
    assert {row.group for row in rows} == {"mscoco_train2017/137576"}
    assert [row.columns["annotator"] for row in rows] == ["93", "7"]
    assert rows[0].id != rows[1].id and not by_reason
    assert inputs.find(tmp_path, SourceConfig())[0].split == "train"


def test_pictures_of_other_data_sets_bear_their_id(tmp_path, read):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "0001.jpg")
    name = "flickr30k_val_localized_narratives.jsonl"
    line = _line("0001", "Flick30kDataset_val")
    (tmp_path / name).write_text(line + _line("0002", "Flick30kDataset_val") + "{}\n")
    rows, by_reason, _ = read(tmp_path)
    assert rows[0].picture.path == tmp_path / "images" / "0001.jpg"
    assert by_reason == {"missing": 1, "malformed": 1}
