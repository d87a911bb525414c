"""Open Images: https://storage.googleapis.com/openimages/web/download_v7.html."""

import numpy as np
import pytest
from PIL import Image

from cm3leon_jax.data import tokenise
from cm3leon_jax.data.pictures import PictureConfig
from cm3leon_jax.data.refusals import Refusals

HEADER = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf,IsInside\n"
TABLE = "oidv6-train-annotations-bbox.csv"


def _write(root, *lines):
    (root / "train").mkdir()
    Image.new("RGB", (40, 20)).save(root / "train" / "0a.jpg")
    (root / "class-descriptions-boxable.csv").write_text("/m/1,Tortoise\n/m/2,Cup\n")
    (root / TABLE).write_text(HEADER + "".join(f"{line}\n" for line in lines))


def test_shares_come_x_first_and_land_where_the_picture_is_cut(tmp_path, read):
    _write(
        tmp_path,
        "0a,xclick,/m/1,1,0.25,0.75,0.5,1.0,0,0",
        "0a,xclick,/m/2,1,0,1,0,1,1,0",
        "0a,machine,/m/2,0,0,1,0,1,0,0",
    )
    rows, by_reason, _ = read(tmp_path)
    expected = [{"name": "tortoise", "box": [0.25, 0.5, 0.75, 1.0]}]
    assert rows[0].columns["boxes"] == expected and not by_reason
    refusals, size = Refusals(), PictureConfig(image_size=16)
    (loaded,) = tokenise.load(rows, size, refusals, tasks={"layout": {}})
    # Of 40 by 20 pixels the middle 20 are left: x from 10 to 30 is all of it.
    np.testing.assert_allclose(loaded.task.boxes[0].corners, (0, 0.5, 1, 1))


def test_groups_alone_bad_numbers_and_unknown_classes_are_counted(tmp_path, read):
    _write(
        tmp_path,
        "0a,x,/m/1,1,0,1,0,1,1,0",
        "0b,x,/m/1,1,zero,1,0,1,0,0",
        "0c,x,/m/9,1,0,1,0,1,0,0",
        "0d,x,/m/1,1,0,1,0,1,0,0",
    )
    rows, by_reason, _ = read(tmp_path)
    assert not rows and by_reason == {"malformed": 2, "missing": 1, "no-box": 1}


def test_a_table_of_other_columns_is_an_error(tmp_path, read):
    _write(tmp_path)
    (tmp_path / TABLE).write_text("ImageID,LabelName\n")
    with pytest.raises(ValueError, match="lacks the columns XMin"):
        read(tmp_path)
