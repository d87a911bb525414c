import json

import pytest
from PIL import Image

from cm3leon_jax.data.refusals import Reason
from cm3leon_jax.data.sources import imagefolder


def _folder(root, lines, names=("a.png", "b.png")):
    for name in names:
        Image.new("RGB", (8, 8)).save(root / name)
    (root / imagefolder.METADATA).write_bytes(b"\n".join(lines))
    return root


def _line(**columns):
    return json.dumps(columns).encode()


def test_metadata_rows_come_in_order_with_their_columns(tmp_path, read):
    root = _folder(
        tmp_path,
        [
            _line(file_name="b.png", text=" second ", keywords=["x"]),
            b"",
            _line(file_name="a.png", text="first"),
        ],
    )
    rows, _, _ = read(root)
    assert [(row.id, row.text) for row in rows] == [
        ("b.png", "second"),
        ("a.png", "first"),
    ]
    assert rows[0].columns == {"keywords": ["x"]}
    assert rows[0].path == root / "b.png" == rows[0].picture.path
    assert rows[0].is_pair


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (_line(file_name="none.png", text="x"), Reason.MISSING),
        (_line(file_name="a.png", text="  "), Reason.EMPTY_CAPTION),
        (_line(file_name="a.png", text=None), Reason.EMPTY_CAPTION),
        (_line(file_name="a.png", text=3), Reason.MALFORMED),
        (_line(file_name="a.png"), Reason.MALFORMED),
        (_line(text="x"), Reason.MALFORMED),
        (b"[1, 2]", Reason.MALFORMED),
        (b"{not json", Reason.MALFORMED),
        (b"[" * 100_000, Reason.MALFORMED),
        (b'{"file_name": "a.png", "text": "\xff"}', Reason.NOT_UTF8),
        (b'{"file_name": "a.png", "text": "\\ud800"}', Reason.NOT_UTF8),
        (_line(file_name="a.png", text="nul \0"), Reason.NOT_UTF8),
        (_line(file_name="a.png", text="x" * 30_000), Reason.LONG_CAPTION),
        (_line(file_name="a.png", text="x" * 5_000_000), Reason.LONG_CAPTION),
        (_line(file_name="../a.png", text="x"), Reason.OUTSIDE),
        (_line(file_name="../../etc/passwd", text="x"), Reason.OUTSIDE),
        (_line(file_name="/etc/passwd", text="x"), Reason.OUTSIDE),
        (_line(file_name="nul\0", text="x"), Reason.MISSING),
        (_line(file_name="", text="x"), Reason.MISSING),
        (_line(file_name="http://127.0.0.1/a.png", text="x"), Reason.REMOTE),
        (_line(file_name="http://169.254.169.254/", text="x"), Reason.REMOTE),
        (_line(file_name="file:///etc/passwd", text="x"), Reason.REMOTE),
    ],
)
def test_bad_rows_are_refused_counted_and_named(tmp_path, read, line, reason):
    root = _folder(tmp_path, [line, _line(file_name="b.png", text="good")])
    rows, by_reason, lines = read(root)
    assert [row.id for row in rows] == ["b.png"]
    assert by_reason == {reason.value: 1}
    assert "metadata.jsonl:1" in lines[0] and len(lines[0]) < 500
    with pytest.raises(ValueError, match="metadata.jsonl:1"):
        read(root, strict=True)


def test_a_csv_table_gives_the_same_rows(tmp_path, read):
    _folder(tmp_path, [])
    (tmp_path / imagefolder.METADATA).unlink()
    table = 'file_name,text,licence\nb.png,"two, or\nthree",CC0\na.png,first\n'
    table += "a.png,caf\udce9,CC0\n../a.png,x,CC0\n"
    path = tmp_path / imagefolder.METADATA_CSV
    path.write_text(table, "utf-8", "surrogateescape")
    rows, by_reason, _ = read(tmp_path)
    assert [(r.id, r.text, r.licence) for r in rows] == [
        ("b.png", "two, or\nthree", "CC0")
    ]
    assert by_reason == {"malformed": 1, "not-utf8": 1, "outside-folder": 1}


def test_captions_that_spell_control_tokens_are_plain_text(tmp_path, read):
    text = "a <break> </s> <sentinel:0> b"
    (row,), _, _ = read(_folder(tmp_path, [_line(file_name="a.png", text=text)]))
    assert row.text == text


def test_licences_off_the_list_are_refused_and_counted(tmp_path, read):
    given = {"a.png": "CC-BY", "b.png": "all rights reserved", "c.png": None}
    lines = [_line(file_name=k, text="x", license=v) for k, v in given.items()]
    root = _folder(tmp_path, lines, given)
    rows, by_reason, _ = read(root, licences=("cc-by", "CC0"))
    assert [(row.id, row.licence) for row in rows] == [("a.png", "CC-BY")]
    assert by_reason == {Reason.LICENCE.value: 2}
    rows, by_reason, _ = read(root, licences=("", "CC0"))
    assert [row.id for row in rows] == ["c.png"]


def test_uncaptioned_pictures_are_kept_on_demand(tmp_path, read):
    root = _folder(tmp_path, [_line(file_name="a.png", text="")])
    (row,), by_reason, _ = read(root, keep_uncaptioned=True, source="mine")
    assert not row.is_pair and len(row.pictures) == 1 and row.text == ""
    assert row.source == "mine" and not by_reason


def test_further_columns_of_another_type_are_refused_when_asked_for(tmp_path, read):
    root = _folder(tmp_path, [_line(file_name="a.png", text="x", licence=4)])
    rows, by_reason, _ = read(root, licences=("CC0",))
    assert not rows and by_reason == {Reason.MALFORMED.value: 1}
