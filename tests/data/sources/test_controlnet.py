"""ControlNet's pairs: github.com/lllyasviel/ControlNet, docs/train.md (fill50k)."""

import json

import pytest
from PIL import Image


def _write(root, lines):
    for name in ("source", "target"):
        (root / name).mkdir()
        Image.new("RGB", (8, 8)).save(root / name / "0.png")
    (root / "prompt.json").write_text("".join(json.dumps(x) + "\n" for x in lines))


def _line(**changes):
    told = {"source": "source/0.png", "target": "target/0.png", "prompt": "a pale disc"}
    return told | changes


def test_the_target_is_the_picture_and_the_source_its_control(tmp_path, read):
    _write(tmp_path, [_line(), _line(prompt="")])
    (tmp_path / "control.json").write_text('{"kind": "hed"}')
    rows, by_reason, _ = read(tmp_path)
    assert rows[0].picture.path == tmp_path / "target" / "0.png"
    assert rows[0].columns["hed"] == {"file_name": "source/0.png"}
    assert rows[0].is_pair and rows[1].is_for_tasks and not by_reason
    rows, _, _ = read(tmp_path, source="depth")
    assert "hed" in rows[0].columns  # the folder's own word counts


def test_the_kind_may_come_from_the_config_and_must_come(tmp_path, read):
    _write(tmp_path, [_line(target="../0.png"), _line(target=None), _line()])
    rows, by_reason, _ = read(tmp_path, source="pose")
    assert "pose" in rows[0].columns
    assert by_reason == {"malformed": 1, "outside-folder": 1}
    with pytest.raises(ValueError, match="write control.json"):
        read(tmp_path)
