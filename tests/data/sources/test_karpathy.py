"""Karpathy's splits: https://cs.stanford.edu/people/karpathy/deepimagesent/."""

import json

import pytest
from PIL import Image


def _image(name, split, *sentences, **more):
    told = [{"raw": text, "tokens": text.split()} for text in sentences]
    return {"filename": name, "split": split, "sentences": told, "imgid": 0, **more}


def test_restval_is_training_data_and_sentences_are_rows(tmp_path, read):
    (tmp_path / "images" / "val2014").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "val2014" / "a.jpg")
    images = [
        _image("a.jpg", "test", "third", filepath="val2014", cocoid=7),
        _image("a.jpg", "restval", "first", "second ", filepath="val2014", cocoid=7),
    ]
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images}))
    rows, by_reason, _ = read(tmp_path)
    assert [row.text for row in rows] == ["first", "second", "third"]
    assert rows[0].columns["key"] == "7" and rows[0].group == rows[1].group
    assert not by_reason


def test_flickrs_pictures_and_what_is_bad(tmp_path, read):
    (tmp_path / "flickr30k-images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "flickr30k-images" / "1.jpg")
    images = [
        _image("1.jpg", "train", "good", " "),
        _image("2.jpg", "train", "gone"),
        _image(3, "train", "no name"),
        {"split": "train"},
    ]
    (tmp_path / "dataset_flickr30k.json").write_text(json.dumps({"images": images}))
    rows, by_reason, _ = read(tmp_path)
    assert [row.text for row in rows] == ["good"]
    assert by_reason == {"empty-caption": 1, "malformed": 2, "missing": 1}


def test_a_file_without_images_is_an_error(tmp_path, read):
    (tmp_path / "dataset_x.json").write_text("{}")
    with pytest.raises(ValueError, match="lists `images`"):
        read(tmp_path)
