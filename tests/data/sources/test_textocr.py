"""TextOCR v0.1: https://textvqa.org/textocr/dataset/ (imgs, anns, imgToAnns)."""

import json

import pytest
from PIL import Image

from cm3leon_jax.data.sources import textocr


def _word(text, *box):
    return {"utf8_string": text, "bbox": list(box), "area": 1.0}


def _write(root, words):
    (root / "train_images").mkdir()
    Image.new("RGB", (8, 8)).save(root / "train_images" / "a4.jpg")
    anns = {f"a4_{number}": word for number, word in enumerate(words)}
    content = {
        "imgs": {"a4": {"id": "a4", "file_name": "train/a4.jpg"}},
        "anns": anns,
        "imgToAnns": {"a4": list(anns)},
    }
    (root / "TextOCR_0.1_train.json").write_text(json.dumps(content))


def test_words_are_joined_in_reading_order_without_unreadable_ones(tmp_path, read):
    words = [
        _word("way", 50, 12, 20, 10),
        _word(".", 0, 0, 5, 5),
        _word("ONE", 10, 10, 30, 12),
        _word("street", 10, 30, 60, 10),
    ]
    _write(tmp_path, words)
    rows, by_reason, _ = read(tmp_path)
    assert rows[0].columns["writing"] == "ONE way street" and not by_reason
    assert rows[0].picture.path.name == "a4.jpg" and rows[0].is_for_tasks


def test_pictures_without_readable_words_are_counted(tmp_path, read):
    _write(tmp_path, [_word(".", 0, 0, 5, 5)])
    rows, by_reason, _ = read(tmp_path)
    assert not rows and by_reason == {"empty-caption": 1}


def test_a_file_of_another_shape_is_an_error(tmp_path, read):
    (tmp_path / "TextOCR_0.1_val.json").write_text('{"imgs": {}}')
    with pytest.raises(ValueError, match="`imgToAnns`"):
        read(tmp_path)


def test_reading_order_of_two_columns_is_line_by_line():
    words = [_word(t, x, y, 10, 10) for t, x, y in (("d", 30, 41), ("a", 0, 0))]
    words += [_word("b", 30, 2, 10, 10), _word("c", 0, 40, 10, 10)]
    assert textocr.reading_order(words) == "a b c d"
