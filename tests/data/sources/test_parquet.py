import io

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from cm3leon_jax.data import pictures
from cm3leon_jax.data.pictures import PictureConfig
from cm3leon_jax.data.refusals import Reason, RefusedError
from cm3leon_jax.data.sources import parquet

CONFIG = PictureConfig(image_size=8)


def _png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def _write(path, count=10, group=4, **columns):
    path.parent.mkdir(exist_ok=True)
    given = {
        "image": [{"bytes": _png(k), "path": f"{k}.png"} for k in range(count)],
        "text": [f"no {k}" for k in range(count)],
        "licence": ["CC0"] * count,
        **columns,
    }
    kept = {name: values for name, values in given.items() if values is not None}
    pyarrow.parquet.write_table(pyarrow.table(kept), path, row_group_size=group)


def test_rows_and_pictures_come_in_order_over_row_groups(tmp_path, read):
    _write(tmp_path / "data" / "train-00000-of-00001.parquet")
    rows, by_reason, _ = read(tmp_path)
    assert [row.text for row in rows] == [f"no {k}" for k in range(10)]
    assert rows[5].id == "data/train-00000-of-00001:5" and rows[0].licence == "CC0"
    for index in (9, 0, 4, 3):
        pixels = pictures.load(rows[index].picture, CONFIG)
        np.testing.assert_array_equal(pixels[0, 0], [index, 0, 0])
    assert not by_reason


def test_bare_bytes_under_other_names_are_read(tmp_path, read):
    png = [_png(7)] * 2
    _write(tmp_path / "a.parquet", 2, image=None, text=None, jpg=png, caption=["x", ""])
    rows, by_reason, _ = read(tmp_path)
    assert [row.text for row in rows] == ["x"] and by_reason == {"empty-caption": 1}
    assert pictures.load(rows[0].picture, CONFIG)[0, 0, 0] == 7


def test_columns_are_named_where_several_may_be_meant(tmp_path, read):
    other = [_png(9)] * 2
    _write(tmp_path / "a.parquet", 2, image=None, one=[_png(1)] * 2, two=other)
    with pytest.raises(ValueError, match="--config.source.image_column"):
        read(tmp_path)
    rows, _, _ = read(tmp_path, image_column="two", text_column="licence")
    assert rows[0].text == "CC0"
    assert pictures.load(rows[0].picture, CONFIG)[0, 0, 0] == 9
    with pytest.raises(ValueError, match="holds no picture bytes"):
        read(tmp_path, image_column="text")


def test_a_table_of_addresses_is_an_error_with_the_remedy(tmp_path, read):
    _write(tmp_path / "a.parquet", 2, image=None, url=["http://127.0.0.1/"] * 2)
    with pytest.raises(ValueError, match="img2dataset"):
        read(tmp_path)
    _write(tmp_path / "a.parquet", 2, text=None)
    with pytest.raises(ValueError, match="--config.source.text_column"):
        read(tmp_path)


def test_damaged_tables_and_missing_bytes_are_refused(tmp_path, read):
    _write(tmp_path / "a.parquet", image=[None] + [{"bytes": _png(1)}] * 9)
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no table PAR1")
    rows, by_reason, _ = read(tmp_path)
    assert len(rows) == 10 and by_reason == {Reason.UNREADABLE.value: 1}
    with pytest.raises(RefusedError, match="no picture bytes"):
        pictures.load(rows[0].picture, CONFIG)
    damaged = bytearray((tmp_path / "a.parquet").read_bytes())
    damaged[4 : len(damaged) // 2] = bytes(len(damaged) // 2 - 4)
    (tmp_path / "c.parquet").write_bytes(bytes(damaged))
    _, by_reason, _ = read(tmp_path)
    assert by_reason[Reason.UNREADABLE.value] >= 1


def test_plain_rows_leave_pictures_out(tmp_path):
    _write(tmp_path / "a.parquet", 2)
    assert list(parquet.plain_rows(tmp_path / "a.parquet")) == [
        {"text": "no 0", "licence": "CC0"},
        {"text": "no 1", "licence": "CC0"},
    ]
