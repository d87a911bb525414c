"""Image Paragraph: https://cs.stanford.edu/people/ranjaykrishna/im2p/index.html."""

import json

from PIL import Image


def _write(root, paragraphs, **splits):
    (root / "VG_100K_2").mkdir(exist_ok=True)
    for number in (1, 2):
        Image.new("RGB", (8, 8)).save(root / "VG_100K_2" / f"{number}.jpg")
    (root / "paragraphs_v1.json").write_text(json.dumps(paragraphs))
    for name, numbers in splits.items():
        (root / f"{name}_split.json").write_text(json.dumps(numbers))


def test_two_paragraphs_of_a_picture_are_a_group_and_splits_are_lists(tmp_path, read):
    told = [
        {"image_id": 1, "paragraph": "A house. ", "url": "http://v/1.jpg"},
        {"image_id": 2, "paragraph": "A dog."},
        {"image_id": 1, "paragraph": "It is red."},
    ]
    _write(tmp_path, told, train=[1], val=[2])
    rows, by_reason, _ = read(tmp_path)
    assert [row.text for row in rows] == ["A house.", "It is red.", "A dog."]
    assert rows[0].group == rows[1].group != rows[2].group
    assert rows[0].url == "http://v/1.jpg" and not by_reason


def test_without_lists_all_is_read_and_bad_ones_are_counted(tmp_path, read):
    told = [{"image_id": 1, "paragraph": ""}, {"image_id": 9, "paragraph": "a"}, 5]
    _write(tmp_path, told)
    rows, by_reason, _ = read(tmp_path)
    assert not rows
    assert by_reason == {"empty-caption": 1, "malformed": 1, "missing": 1}
