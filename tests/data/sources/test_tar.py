import io
import json
import tarfile
import time

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from cm3leon_jax.data import pictures
from cm3leon_jax.data.pictures import PictureConfig
from cm3leon_jax.data.refusals import Reason
from cm3leon_jax.data.sources import tar


def _png(colour=0):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def _write(path, members, **options):
    with tarfile.open(path, "w", **options) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name) if isinstance(name, str) else name
            member.size = len(data) if data is not None else 0
            archive.addfile(member, io.BytesIO(data or b""))
    return path


def _sample(key, text="a picture", colour=0, **columns):
    columns = {"caption": text, "key": key, **columns}
    return [
        (f"{key}.jpg", _png(colour)),
        (f"{key}.txt", text.encode()),
        (f"{key}.json", json.dumps(columns).encode()),
    ]


def _member(name, kind, target=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def test_members_are_read_in_place_with_their_columns(tmp_path, read):
    first = _sample("000000001", "one", 40, url="https://e.org/1", license="CC0")
    _write(tmp_path / "00000.tar", [*first, *_sample("000000002", "two", 80)])
    _write(tmp_path / "00001.tar", _sample("000010000", "three"))
    before = sorted(path.name for path in tmp_path.rglob("*"))
    rows, by_reason, _ = read(tmp_path, strict=True)
    assert [(row.id, row.text) for row in rows] == [
        ("00000/000000001", "one"),
        ("00000/000000002", "two"),
        ("00001/000010000", "three"),
    ]
    assert (rows[0].url, rows[0].licence) == ("https://e.org/1", "CC0")
    pixels = pictures.load(rows[1].picture, PictureConfig(image_size=8))
    np.testing.assert_array_equal(pixels[0, 0], [80, 0, 0])
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    assert not by_reason


def test_columns_come_from_the_parquet_file_where_there_is_no_json(tmp_path, read):
    _write(tmp_path / "00000.tar", [("7.png", _png()), ("8.png", _png())])
    columns = {"key": ["7", "8"], "caption": ["from it", None], "url": ["u7", "u8"]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "00000.parquet")
    rows, by_reason, _ = read(tmp_path)
    assert [(row.text, row.url) for row in rows] == [("from it", "u7")]
    assert by_reason == {Reason.EMPTY_CAPTION.value: 1}


HOSTILE = [
    ("../escape.jpg", _png(), Reason.OUTSIDE),
    ("a/../../escape.jpg", _png(), Reason.OUTSIDE),
    ("/etc/passwd.jpg", _png(), Reason.OUTSIDE),
    ("..\\escape.jpg", _png(), Reason.OUTSIDE),
    ("C:\\x.jpg", _png(), Reason.OUTSIDE),
    (_member("link.jpg", tarfile.SYMTYPE, "/etc/passwd"), None, Reason.NOT_A_FILE),
    (_member("hard.jpg", tarfile.LNKTYPE, "../x"), None, Reason.NOT_A_FILE),
    (_member("dev.jpg", tarfile.CHRTYPE), None, Reason.NOT_A_FILE),
    (_member("pipe.jpg", tarfile.FIFOTYPE), None, Reason.NOT_A_FILE),
    ("good.jpg", _png(9), Reason.DUPLICATE),
    ("lonely.txt", b"no picture", Reason.MISSING),
    ("bad\udcff.jpg", _png(), Reason.EMPTY_CAPTION),
]


@pytest.mark.parametrize(("name", "data", "reason"), HOSTILE, ids=lambda v: str(v)[:24])
def test_hostile_members_are_refused_and_the_rest_goes_on(
    tmp_path, read, name, data, reason
):
    inside = tmp_path / "inside"
    inside.mkdir()
    folder = _member("sub", tarfile.DIRTYPE)
    members = [(folder, None), *_sample("good"), (name, data), *_sample("last")]
    _write(inside / "0.tar", members)
    rows, by_reason, lines = read(inside)
    assert [row.id for row in rows] == ["0/good", "0/last"]
    assert by_reason == {reason.value: 1}
    assert all(line.encode() for line in lines)
    assert [path.name for path in tmp_path.rglob("*.*")] == ["0.tar"]


def test_a_damaged_archive_gives_what_comes_before(tmp_path, read):
    path = _write(tmp_path / "0.tar", [*_sample("a"), *_sample("b"), *_sample("c")])
    whole = path.read_bytes()
    at = whole.index(b"b.txt")
    for data in (
        whole[: at + 100],  # cut within a header
        whole[: at + 512],  # cut before the data
        whole[:at] + b"\xff" * 512 + whole[at + 512 :],  # a header overwritten
    ):
        path.write_bytes(data)
        rows, by_reason, _ = read(tmp_path)
        assert rows[0].id == "0/a" and "0/c" not in [row.id for row in rows]
        assert by_reason[Reason.UNREADABLE.value] >= 1


@pytest.mark.parametrize("data", [b"", b"no archive", bytes(2000), b"\x1f\x8b" * 600])
def test_what_is_no_archive_is_refused(tmp_path, read, data):
    (tmp_path / "0.tar").write_bytes(data)
    rows, by_reason, _ = read(tmp_path)
    assert not rows and set(by_reason) <= {Reason.UNREADABLE.value}


def test_headers_that_lie_about_sizes_are_refused(tmp_path, read):
    for name, headers in (
        ("0", {"size": "-10240"}),
        ("1", {"size": str(1 << 60)}),
        ("2", {"comment": "x" * 2_000_000}),
    ):
        member = tarfile.TarInfo("x.jpg")
        member.pax_headers = headers
        members = [*_sample("good"), (member, b"data")]
        _write(tmp_path / f"{name}.tar", members, format=tarfile.PAX_FORMAT)
    rows, by_reason, _ = read(tmp_path)
    assert [row.id for row in rows] == ["0/good", "1/good", "2/good"]
    assert by_reason[Reason.UNREADABLE.value] == 3


@pytest.mark.parametrize(
    "count", [10_000, pytest.param(100_000, marks=pytest.mark.slow)]
)
def test_many_members_are_indexed_in_seconds(tmp_path, count):
    empty = tarfile.TarInfo("x")
    with open(tmp_path / "0.tar", "wb") as file:
        for number in range(count):
            empty.name = f"{number:09d}.txt"
            file.write(empty.tobuf())
        file.write(bytes(1024))
    start = time.process_time()
    assert sum(1 for _ in tar.members(tmp_path / "0.tar")) == count
    assert time.process_time() - start < count / 5_000
