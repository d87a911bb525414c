"""COCO's boxes: https://cocodataset.org/#format-data; Objects365 has the same format."""

import json

import pytest
from PIL import Image

from cm3leon_jax.data.sources import objects


def _write(root, annotations, captions=None, name="instances_train2017"):
    (root / "annotations").mkdir()
    (root / "train2017").mkdir()
    images = [
        {"id": n, "file_name": f"{n}.jpg", "width": 40, "height": 20} for n in (1, 2)
    ]
    for image in images:
        Image.new("RGB", (40, 20)).save(root / "train2017" / image["file_name"])
    content = {
        "images": images,
        "categories": [{"id": 44, "name": "bottle"}],
        "annotations": annotations,
    }
    (root / "annotations" / f"{name}.json").write_text(json.dumps(content))
    if captions:
        content = {"annotations": captions}
        path = root / "annotations" / "captions_train2017.json"
        path.write_text(json.dumps(content))


def _box(image, *bbox, **more):
    return {"image_id": image, "category_id": 44, "bbox": list(bbox), **more}


def test_boxes_become_corners_without_crowds_and_cut_at_the_border(tmp_path, read):
    boxes = [
        _box(1, 10, 5, 5, 10, iscrowd=0),
        _box(1, 0, 0, 40, 20, iscrowd=1),
        _box(1, 30, -2, 20, 10),
        _box(1, 50, 0, 5, 5),
    ]
    captions = [{"image_id": 1, "caption": c} for c in ("a bottle", "more")]
    _write(tmp_path, boxes, captions)
    rows, by_reason, _ = read(tmp_path, reader="objects")
    assert [box["box"] for box in rows[0].columns["boxes"]] == [
        [10, 5, 15, 15],
        [30, 0, 40, 8],
    ]
    assert rows[0].text == "a bottle" and rows[0].is_pair
    assert by_reason == {"no-box": 1}


def test_a_picture_without_a_caption_is_for_tasks(tmp_path, read):
    _write(tmp_path, [_box(1, 0, 0, 4, 4), _box(2, 0, 0)])
    rows, by_reason, _ = read(tmp_path)
    assert rows[0].is_for_tasks and rows[0].columns["boxes"][0]["name"] == "bottle"
    assert by_reason == {"malformed": 1}


@pytest.mark.parametrize(
    ("bbox", "expected"),
    [
        ((0, 0, 40, 20), (0, 0, 40, 20)),
        ((-5, -5, 10, 10), (0, 0, 5, 5)),
        ((41, 0, 5, 5), None),
        ((1, 1, 0, 5), None),
    ],
)
def test_corners_lie_within_the_picture_or_there_are_none(bbox, expected):
    assert objects.corners(bbox, 40, 20) == expected
