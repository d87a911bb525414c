"""Flickr30k: https://shannon.cs.illinois.edu/DenotationGraph/ (results_*.token)."""

from PIL import Image


def test_five_captions_of_a_picture_are_rows_of_one_group(tmp_path, read):
    (tmp_path / "flickr30k-images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "flickr30k-images" / "1000.jpg")
    lines = [f"1000.jpg#{number}\tTwo men , {number} .\n" for number in range(5)]
    lines += ["1000.jpg#5\t \n", "no tab\n", "2000.jpg#0\tgone\n", "\xff#0\tx\n"]
    data = "".join(lines).encode("latin-1")
    (tmp_path / "results_20130124.token").write_bytes(data)
    rows, by_reason, _ = read(tmp_path)
    assert [row.id for row in rows] == [f"1000.jpg#{number}" for number in range(5)]
    assert {row.group for row in rows} == {"1000.jpg"}
    assert rows[3].text == "Two men , 3 ."
    assert by_reason == {
        "empty-caption": 1,
        "malformed": 1,
        "missing": 1,
        "not-utf8": 1,
    }
