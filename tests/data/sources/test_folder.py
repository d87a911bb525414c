import pytest
from PIL import Image

from cm3leon_jax.data.refusals import Reason, RefusedError
from cm3leon_jax.data.sources import folder


def _picture(path):
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def test_text_files_beside_pictures_are_read(tmp_path, read):
    _picture(tmp_path / "cats" / "1.jpg")
    (tmp_path / "cats" / "1.txt").write_text("a cat \u732b\n", encoding="utf-8")
    (row,), _, _ = read(tmp_path, strict=True)
    assert (row.id, row.text) == ("cats/1.jpg", "a cat \u732b")


def test_a_json_file_beside_gives_columns(tmp_path, read):
    _picture(tmp_path / "1.jpg")
    (tmp_path / "1.txt").write_text("a cat")
    (tmp_path / "1.json").write_text('{"url": "https://e.org/1", "license": "CC0"}')
    (row,), _, _ = read(tmp_path)
    assert (row.url, row.licence) == ("https://e.org/1", "CC0")


def test_a_link_out_of_the_folder_is_refused(tmp_path, read):
    inside = tmp_path / "inside"
    inside.mkdir()
    _picture(tmp_path / "secret.png")
    (inside / "a.png").symlink_to(tmp_path / "secret.png")
    (inside / "a.txt").write_text("x")
    with pytest.raises(RefusedError, match="leaves"):
        folder.check_inside(inside.resolve(), "a.png")
    rows, by_reason, _ = read(inside)
    assert not rows and by_reason == {Reason.OUTSIDE.value: 1}


def test_a_text_file_that_is_not_utf8_or_missing_or_huge_is_refused(tmp_path, read):
    for name, text in (("1", b"caf\xe9"), ("2", b"good"), ("4", b"x" * 1_000_000)):
        _picture(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_bytes(text)
    _picture(tmp_path / "3.png")
    rows, by_reason, _ = read(tmp_path)
    assert [row.id for row in rows] == ["2.png"]
    assert by_reason == {
        Reason.NOT_UTF8.value: 1,
        Reason.EMPTY_CAPTION.value: 1,
        Reason.TOO_MANY_BYTES.value: 1,
    }
    rows, by_reason, _ = read(tmp_path, keep_uncaptioned=True)
    assert [row.id for row in rows] == ["2.png", "3.png"]
