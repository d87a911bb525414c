"""A split in memory: good pictures kept in order, bad ones counted."""

import json

import numpy as np
import pytest
from PIL import Image

from cm3leon_jax.data import gallery, pictures, splits
from cm3leon_jax.data.refusals import Refusals

SPLITS = splits.SplitConfig(num_validation=1, num_test=1)
PICTURES = pictures.PictureConfig(image_size=16)


def _folder(root, contents):
    train = root / "train"
    train.mkdir()
    rows = []
    for number, content in enumerate(contents):
        path = train / f"{number}.png"
        if content is None:
            path.write_bytes(b"no picture")
        else:
            Image.new("RGB", (16, 16), (content, 0, 0)).save(path)
        rows.append(json.dumps({"file_name": path.name, "text": f"{content}"}) + "\n")
    (train / "metadata.jsonl").write_text("".join(rows))


def test_read_keeps_order_and_counts_what_it_refuses(tmp_path):
    _folder(tmp_path, [10, None, 30])
    refusals = Refusals()
    found = gallery.read(tmp_path, "train", SPLITS, PICTURES, refusals)
    assert [row.text for row in found.rows] == ["10", "30"]
    assert found.pictures.shape == (2, 16, 16, 3)
    np.testing.assert_array_equal(found.pictures[:, 0, 0, 0], [10, 30])
    assert (refusals.accepted, refusals.refused) == (2, 1)


def test_read_without_a_usable_picture_is_an_error(tmp_path):
    _folder(tmp_path, [None, None])
    with pytest.raises(ValueError, match=r"configs/check\.py"):
        gallery.read(tmp_path, "train", SPLITS, PICTURES, Refusals())
