"""InstructPix2Pix: https://github.com/timothybrooks/instruct-pix2pix, seeds.json."""

import json

import pytest
from PIL import Image


def _write(root, name, seeds, **prompt):
    (root / name).mkdir()
    for seed in seeds:
        for side in (0, 1):
            Image.new("RGB", (8, 8)).save(root / name / f"{seed}_{side}.jpg")
    told = {"input": "a dog", "edit": "make it a cat", "output": "a cat"} | prompt
    (root / name / "prompt.json").write_text(json.dumps(told))


def test_every_seed_is_a_row_with_its_edit(tmp_path, read):
    _write(tmp_path, "0000000", ["41", "10"])
    (tmp_path / "seeds.json").write_text(json.dumps([["0000000", ["41", "10"]]]))
    rows, by_reason, _ = read(tmp_path)
    assert [row.id for row in rows] == ["0000000/41_0.jpg", "0000000/10_0.jpg"]
    edit = {"instruction": "make it a cat", "file_name": "0000000/41_1.jpg"}
    assert rows[0].columns["edit"] == edit and rows[0].text == "a dog"
    assert rows[0].columns["text_after"] == "a cat"
    assert rows[0].group == rows[1].group and not by_reason


def test_missing_pictures_and_empty_edits_are_counted(tmp_path, read):
    _write(tmp_path, "0000000", ["41"])
    _write(tmp_path, "0000001", ["42"], edit=" ")
    seeds = [["0000000", ["41", "43"]], ["0000001", ["42"]], ["0000002", ["44"]]]
    (tmp_path / "seeds.json").write_text(json.dumps(seeds))
    rows, by_reason, _ = read(tmp_path)
    assert [row.id for row in rows] == ["0000000/41_0.jpg"]
    assert by_reason == {"empty-question": 1, "missing": 2}


@pytest.mark.parametrize("content", ["{", "[5]", '{"a": 1}'])
def test_a_list_of_another_shape_is_an_error(tmp_path, read, content):
    (tmp_path / "seeds.json").write_text(content)
    with pytest.raises(ValueError, match="JSON list of"):
        read(tmp_path)
