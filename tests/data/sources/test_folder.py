import json

import pytest
from PIL import Image

from cm3leon_jax.data.refusals import Reason, Refusals, RefusedError
from cm3leon_jax.data.sources import folder


def _folder(root, lines, names=("a.png", "b.png")):
    for name in names:
        Image.new("RGB", (8, 8)).save(root / name)
    (root / folder.METADATA).write_bytes(b"\n".join(lines))
    return root


def _line(**columns):
    return json.dumps(columns).encode()


def test_metadata_rows_come_in_order_with_their_columns(tmp_path):
    root = _folder(
        tmp_path,
        [
            _line(file_name="b.png", text=" second ", keywords=["x"]),
            b"",
            _line(file_name="a.png", text="first"),
        ],
    )
    rows = list(folder.read(root, Refusals()))
    assert [(row.id, row.text) for row in rows] == [
        ("b.png", "second"),
        ("a.png", "first"),
    ]
    assert rows[0].columns == {"keywords": ["x"]}
    assert rows[0].path == root / "b.png"


def test_text_files_beside_pictures_are_read(tmp_path):
    (tmp_path / "cats").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "cats" / "1.jpg")
    (tmp_path / "cats" / "1.txt").write_text("a cat \u732b\n", encoding="utf-8")
    (row,) = folder.read(tmp_path, Refusals(), strict=True)
    assert (row.id, row.text) == ("cats/1.jpg", "a cat \u732b")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (_line(file_name="none.png", text="x"), Reason.MISSING),
        (_line(file_name="a.png", text="  "), Reason.EMPTY_CAPTION),
        (_line(file_name="a.png", text=3), Reason.MALFORMED),
        (_line(file_name="a.png"), Reason.MALFORMED),
        (_line(text="x"), Reason.MALFORMED),
        (b"[1, 2]", Reason.MALFORMED),
        (b"{not json", Reason.MALFORMED),
        (b'{"file_name": "a.png", "text": "\xff"}', Reason.NOT_UTF8),
        (b'{"file_name": "a.png", "text": "\\ud800"}', Reason.NOT_UTF8),
        (_line(file_name="a.png", text="nul \0"), Reason.NOT_UTF8),
        (_line(file_name="a.png", text="x" * 30_000), Reason.LONG_CAPTION),
        (_line(file_name="../a.png", text="x"), Reason.OUTSIDE),
        (_line(file_name="/etc/passwd", text="x"), Reason.OUTSIDE),
        (_line(file_name="nul\0", text="x"), Reason.MISSING),
        (_line(file_name="", text="x"), Reason.MISSING),
    ],
)
def test_bad_rows_are_refused_counted_and_named(tmp_path, line, reason):
    root = _folder(tmp_path, [line, _line(file_name="b.png", text="good")])
    refusals = Refusals()
    assert [row.id for row in folder.read(root, refusals)] == ["b.png"]
    assert refusals.to_json()["by_reason"] == {reason.value: 1}
    assert "metadata.jsonl:1" in refusals.lines[0]
    with pytest.raises(ValueError, match="metadata.jsonl:1"):
        list(folder.read(root, Refusals(), strict=True))


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    (inside / "a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(RefusedError, match="leaves"):
        folder.check_inside(inside.resolve(), "a.png")


def test_captions_that_spell_control_tokens_are_plain_text(tmp_path):
    text = "a <break> </s> <sentinel:0> b"
    root = _folder(tmp_path, [_line(file_name="a.png", text=text)])
    (row,) = folder.read(root, Refusals())
    assert row.text == text


def test_a_text_file_that_is_not_utf8_is_refused(tmp_path):
    for name, text in (("1", b"caf\xe9"), ("2", b"good")):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_bytes(text)
    Image.new("RGB", (8, 8)).save(tmp_path / "3.png")
    refusals = Refusals()
    assert [row.id for row in folder.read(tmp_path, refusals)] == ["2.png"]
    assert refusals.to_json()["by_reason"] == {
        Reason.NOT_UTF8.value: 1,
        Reason.EMPTY_CAPTION.value: 1,
    }


def test_empty_and_missing_folders_are_errors(tmp_path):
    with pytest.raises(ValueError, match="no captioned pictures"):
        list(folder.read(tmp_path, Refusals()))
    with pytest.raises(FileNotFoundError, match="no folder"):
        list(folder.read(tmp_path / "none", Refusals()))
