import pytest
from PIL import Image

from cm3leon_jax.data.sources import inputs
from cm3leon_jax.data.sources.row import SourceConfig


def test_empty_and_missing_folders_and_unknown_readers_are_errors(tmp_path):
    with pytest.raises(ValueError, match="no captioned pictures"):
        inputs.find(tmp_path, SourceConfig())
    with pytest.raises(FileNotFoundError, match="no folder"):
        inputs.find(tmp_path / "none", SourceConfig())
    with pytest.raises(ValueError, match="known: auto, tfds, imagefolder"):
        inputs.find(tmp_path, SourceConfig(reader="zip"))


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train-00000-of-00002.parquet", "test.parquet"], ["test", "train"]),
        (["train.parquet", "val.parquet"], ["train", "validation"]),
        (["00000.parquet", "train.parquet"], ["", ""]),
        (["training.parquet"], [""]),
        (["test.parquet", "validation.parquet"], ["", ""]),
    ],
)
def test_inputs_named_after_splits_belong_to_them(tmp_path, names, splits):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    found = inputs.find(tmp_path, SourceConfig())
    assert [one.split for one in found] == splits
    assert {one.format for one in found} == {"parquet"}


def test_the_reader_is_said_in_one_line_and_can_be_chosen(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "more.jsonl").write_text('{"parts": ["x"]}\n')
    for reader, name in (("auto", "jsonl"), ("folder", "folder")):
        found = inputs.find(tmp_path, SourceConfig(reader=reader))
        said = inputs.describe(found)
        assert f"reader={name}" in said and "\n" not in said
