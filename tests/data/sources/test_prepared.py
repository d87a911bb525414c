import io

import numpy as np
import pyarrow
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from PIL import Image
from pyarrow import parquet

from cm3leon_jax.data import pictures
from cm3leon_jax.data.pictures import PictureConfig
from cm3leon_jax.data.refusals import Reason


def _png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def _write(root, features, examples, split="train", file_format="array_record"):
    """A prepared data set, as `tfds build --file_format=array_record` leaves it."""
    features = tfds.features.FeaturesDict(features)
    template = tfds.core.ShardedFileTemplate(
        data_dir=root,
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        dataset_name="drawn",
        split=split,
        filetype_suffix=file_format,
    )
    path = template.sharded_filepath(shard_index=0, num_shards=1)
    serialized = [
        features.serialize_example(features.encode_example(example))
        for example in examples
    ]
    if file_format == "array_record":
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for example in serialized:
            writer.write(example)
        writer.close()
    elif file_format == "parquet":
        parquet.write_table(pyarrow.table({"data": serialized}), path)
    else:
        path.write_bytes(b"of TensorFlow")
    identity = tfds.core.DatasetIdentity(
        name="drawn",
        version=tfds.core.Version("1.0.0"),
        data_dir=str(root),
        module_name=__name__,
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features)
    info.set_file_format(file_format)
    lengths = {"shard_lengths": [len(examples)], "num_bytes": 1}
    described = tfds.core.SplitInfo(name=split, filename_template=template, **lengths)
    info.set_splits(tfds.core.SplitDict([described]))
    info.write_to_directory(str(root))
    return root


def test_examples_come_with_their_encoded_pictures(tmp_path, read):
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "text": tfds.features.Text(),
        "license": tfds.features.Text(),
    }
    texts = ["one", "", "three"]
    examples = [
        {"image": io.BytesIO(_png(k * 40)), "text": text, "license": "CC0"}
        for k, text in enumerate(texts)
    ]
    path = _write(tmp_path, features, examples)
    rows, by_reason, _ = read(path)
    assert sorted((row.text, row.licence) for row in rows) == [
        ("one", "CC0"),
        ("three", "CC0"),
    ]
    assert by_reason == {Reason.EMPTY_CAPTION.value: 1}
    for row in rows:
        pixels = pictures.load(row.picture, PictureConfig(image_size=8))
        np.testing.assert_array_equal(pixels[0, 0], [40 * texts.index(row.text), 0, 0])


def test_captions_of_a_sequence_are_rows_of_one_group(tmp_path, read):
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "captions": tfds.features.Sequence({"text": tfds.features.Text()}),
    }
    captions = [{"text": "a"}, {"text": "b"}]
    examples = [{"image": io.BytesIO(_png(1)), "captions": captions}]
    rows, _, _ = read(_write(tmp_path, features, examples, "val"), strict=True)
    assert [(row.id, row.text) for row in rows] == [("val:0", "a"), ("val:0#1", "b")]
    assert {row.group for row in rows} == {"val:0"}


@pytest.mark.parametrize("file_format", ["array_record", "parquet"])
def test_whatever_is_read_at_random_gives_the_same_rows(tmp_path, read, file_format):
    features = {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
        "depth": tfds.features.Image(shape=(None, None, 3)),
        "caption": tfds.features.Text(),
        "label": tfds.features.ClassLabel(names=["cat", "dog"]),
        "boxes": tfds.features.Sequence(tfds.features.BBoxFeature()),
    }
    examples = [
        {
            "image": io.BytesIO(_png(9)),
            "depth": io.BytesIO(_png(1)),
            "caption": "a dog",
            "label": 1,
            "boxes": [tfds.features.BBox(0.0, 0.0, 0.5, 1.0)],
        }
        for _ in range(3)
    ]
    path = _write(tmp_path, features, examples, "test", file_format)
    with pytest.raises(ValueError, match="--config.source.image_column"):
        read(path)
    rows, _, _ = read(path, image_column="image", strict=True)
    assert [row.id for row in rows] == ["test:0", "test:1", "test:2"]
    assert rows[2].columns == {"label": 1, "boxes": [[0.0, 0.0, 0.5, 1.0]]}
    pixels = pictures.load(rows[2].picture, PictureConfig(image_size=8))
    np.testing.assert_array_equal(pixels[0, 0], [9, 0, 0])


def test_captions_of_a_named_sequence_are_rows(tmp_path, read):
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "captions": tfds.features.Sequence(tfds.features.Text()),
    }
    examples = [{"image": io.BytesIO(_png(1)), "captions": ["a", "b"]}]
    path = _write(tmp_path, features, examples)
    with pytest.raises(ValueError, match="no feature text.*'captions'.*text_column"):
        read(path)
    rows, _, _ = read(path, text_column="captions", strict=True)
    assert [(row.id, row.text) for row in rows] == [
        ("train:0", "a"),
        ("train:0#1", "b"),
    ]
    assert rows[0].columns == {}


@pytest.mark.parametrize("file_format", ["tfrecord", "riegeli"])
def test_files_without_random_access_are_refused_with_the_line(
    tmp_path, read, file_format
):
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "text": tfds.features.Text(),
    }
    example = {"image": io.BytesIO(_png(1)), "text": "a"}
    path = _write(tmp_path, features, [example], file_format=file_format)
    said = (
        f"files of {file_format}, which .* tfds convert_format .*{path.name} --out_file"
    )
    with pytest.raises(ValueError, match=said):
        read(path)


def test_a_data_set_without_pictures_is_an_error(tmp_path, read):
    features = {"text": tfds.features.Text()}
    path = _write(tmp_path, features, [{"text": "x"}])
    with pytest.raises(ValueError, match="picture features \\[\\]"):
        read(path)
