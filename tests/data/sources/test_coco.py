"""COCO: https://cocodataset.org/#format-data (images, annotations with captions)."""

import json

import pytest
from PIL import Image


def _coco(root, annotations, images=None, name="train2017"):
    (root / "annotations").mkdir(exist_ok=True)
    (root / name).mkdir(exist_ok=True)
    for number in (1, 2):
        Image.new("RGB", (8, 8)).save(root / name / f"{number}.jpg")
    images = images or [
        {"id": 1, "file_name": "1.jpg", "license": 4, "coco_url": "http://c/1"},
        {"id": 2, "file_name": "2.jpg", "license": 9},
    ]
    licences = [{"id": 4, "name": "Attribution License", "url": "http://cc"}]
    content = {"images": images, "annotations": annotations, "licenses": licences}
    path = root / "annotations" / f"captions_{name}.json"
    path.write_text(json.dumps(content))


def _caption(number, image_id, caption):
    return {"id": number, "image_id": image_id, "caption": caption}


def test_every_caption_is_a_row_and_rows_of_a_picture_are_a_group(tmp_path, read):
    _coco(tmp_path, [_caption(7, 2, "c"), _caption(5, 1, "a"), _caption(6, 1, "b ")])
    _coco(tmp_path, [_caption(1, 1, "v")], name="val2017")
    rows, by_reason, _ = read(tmp_path)
    assert [(row.id, row.text, row.group) for row in rows] == [
        ("1.jpg#5", "a", "1.jpg"),
        ("1.jpg#6", "b", "1.jpg"),
        ("2.jpg#7", "c", "2.jpg"),
        ("1.jpg#1", "v", "1.jpg"),
    ]
    assert rows[0].picture == rows[1].picture
    assert rows[0].picture.path == tmp_path / "train2017" / "1.jpg"
    assert rows[3].picture.path == tmp_path / "val2017" / "1.jpg"
    assert (rows[0].licence, rows[0].url) == ("Attribution License", "http://c/1")
    assert rows[2].licence == "9" and not by_reason


def test_bad_entries_are_refused_and_the_rest_goes_on(tmp_path, read):
    images = [
        {"id": 1, "file_name": "1.jpg"},
        {"id": 2, "file_name": "../../etc/passwd"},
        {"id": 3, "file_name": "none.jpg"},
        {"id": 4},
        "no object",
    ]
    captions = [_caption(1, 1, "good"), _caption(2, 1, " "), _caption(3, 1, 5)]
    captions.append(_caption(4, 99, "of no picture"))
    _coco(tmp_path, captions, images)
    rows, by_reason, _ = read(tmp_path)
    assert [row.text for row in rows] == ["good"]
    assert by_reason == {
        "empty-caption": 1,
        "malformed": 3,
        "missing": 2,
        "outside-folder": 1,
    }


@pytest.mark.parametrize("content", ["", "[]", '{"images": []}', '{"annotations": 1}'])
def test_a_file_that_is_no_coco_is_an_error(tmp_path, read, content):
    (tmp_path / "captions_x.json").write_text(content)
    with pytest.raises(ValueError, match="captions_x.json is no COCO"):
        read(tmp_path)
