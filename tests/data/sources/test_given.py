import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from cm3leon_jax.data.sources import blob
from cm3leon_jax.data.sources.given import GivenVectors
from cm3leon_jax.data.sources.row import Row


def _write(root, number, keys, column="image_path", image=True, text=True, flat=False):
    """One part as clip-retrieval writes it; vector k has k in its first place."""
    rng = np.random.default_rng(number)
    vectors = rng.normal(size=(len(keys), 4)).astype(np.float16)
    for kind, wanted in (("img_emb", image), ("text_emb", text)):
        where = root if flat else root / kind
        where.mkdir(exist_ok=True)
        if wanted:
            sign = 1 if kind == "img_emb" else -1
            np.save(where / f"{kind}_{number}.npy", sign * vectors)
    where = root if flat else root / "metadata"
    where.mkdir(exist_ok=True)
    table = pyarrow.table({column: keys, "caption": ["x"] * len(keys)})
    pyarrow.parquet.write_table(table, where / f"metadata_{number}.parquet")
    return vectors.astype(np.float32)


def _row(tmp_path, key, row_id="00000/x", **columns):
    return Row(row_id, tmp_path, ("x", blob.File(tmp_path)), {"key": key, **columns})


@pytest.mark.parametrize("flat", [False, True])
def test_vectors_are_found_by_key_and_have_length_one(tmp_path, flat):
    parts = [
        _write(tmp_path, 0, ["k0", "k1"], flat=flat),
        _write(tmp_path, 11, ["k2", "k3", "k4"], flat=flat),
    ]
    given = GivenVectors(tmp_path)
    assert given.dim == 4
    expected = np.concatenate(parts)
    for index in (4, 0, 2):
        found = given.find(_row(tmp_path, f"k{index}"))
        unit = expected[index] / np.linalg.norm(expected[index])
        np.testing.assert_allclose(found["image"], unit, rtol=1e-5)
        np.testing.assert_allclose(found["text"], -unit, rtol=1e-5)
    assert given.find(_row(tmp_path, "k9")) == {}


def test_files_and_addresses_serve_as_keys(tmp_path):
    for column, keys in (("image_path", ["a.png", "b.png"]), ("url", ["u0", "u1"])):
        root = tmp_path / column
        root.mkdir()
        _write(root, 0, keys, column)
        given = GivenVectors(root)
        row = Row("sub/a.png", root, ("x", blob.File(root)), {"url": "u0"})
        assert set(given.find(row)) == {"text", "image"}


def test_missing_kinds_and_unusable_vectors_are_left_out(tmp_path):
    _write(tmp_path, 0, ["a", "b"], text=False)
    path = tmp_path / "img_emb" / "img_emb_0.npy"
    np.save(path, np.array([[np.nan, 1], [1, 1]], np.float16))
    given = GivenVectors(tmp_path)
    assert given.find(_row(tmp_path, "a")) == {}
    assert set(given.find(_row(tmp_path, "b"))) == {"image"}


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="metadata_0.parquet"):
        GivenVectors(tmp_path)
    _write(tmp_path, 0, ["a", "b"])
    path = tmp_path / "img_emb" / "img_emb_0.npy"
    for array, message in (
        (np.ones((3, 4), np.float16), "2 rows, its image vectors are 3"),
        (np.ones((2, 5), np.float16), "widths"),
        (np.ones((2, 4), np.int32), "must be float"),
        (np.array([{}, {}]), "no array file"),
    ):
        np.save(path, array)
        with pytest.raises(ValueError, match=message):
            GivenVectors(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="no array file"):
        GivenVectors(tmp_path)
    _write(tmp_path, 0, ["a", "b"], "caption_id")
    with pytest.raises(ValueError, match="none of the columns"):
        GivenVectors(tmp_path)
