import dataclasses

import numpy as np
import pytest
import tensorflow_datasets as tfds

from cm3leon_jax.data import record, shards
from cm3leon_jax.data.record import Neighbors, Record
from cm3leon_jax.data.shards import SetInfo
from cm3leon_jax.documents.document import Modality
from cm3leon_jax.vocab import Vocab

VOCAB = Vocab(
    text_size=32, image_size=16, control_size=40, num_sentinels=20, codes_per_image=4
)
INFO = SetInfo(VOCAB, text_tokenizer="t", image_tokenizer="i", embedder="e")


def _record(index, num_neighbors=2):
    rng = np.random.default_rng(index)
    image = VOCAB.image_ids(rng.integers(0, 16, 4))
    tokens = np.array([5, 6, 7, VOCAB.break_id, *image], np.uint16)
    near = Neighbors(
        ids=np.arange(num_neighbors, dtype=np.int32),
        scores=np.linspace(0.8, 0.5, num_neighbors, dtype=np.float32),
        by_image=np.arange(num_neighbors) % 2 == 0,
        tokens=tuple(tokens[: 4 + k] for k in range(num_neighbors)),
    )
    return Record(
        id=f"doc-{index}",
        tokens=tokens,
        modality=np.array([Modality.TEXT, Modality.IMAGE], np.uint8),
        target=(1, 3) if index % 2 else None,
        task="caption",
        source="scenes",
        licence="CC0 \u00e9",
        url="https://example.org",
        content_hash="ab",
        text_vector=rng.normal(size=8).astype(np.float16),
        query_image_vector=rng.normal(size=8).astype(np.float16),
        neighbors=near if num_neighbors else record.NO_NEIGHBORS,
    )


def _flat(record):
    fields = dataclasses.asdict(record)
    near = fields.pop("neighbors")
    return {**fields, **near}


def _assert_equal(left, right):
    left, right = _flat(left), _flat(right)
    for name, value in left.items():
        np.testing.assert_equal(value, right[name], err_msg=name)
        if isinstance(value, np.ndarray):
            assert value.dtype == right[name].dtype, name


def _write(folder, lengths=(3, 0, 2), num_neighbors=2):
    records, written = [], []
    for index, length in enumerate(lengths):
        start = len(records)
        part = [_record(start + k, num_neighbors) for k in range(length)]
        written.append(shards.write_shard(folder, "train", index, part))
        records += part
    shards.finish(folder, INFO, {"train": written})
    return records


@pytest.mark.parametrize("num_neighbors", [0, 1, 4])
def test_records_come_back_as_they_were_written(tmp_path, num_neighbors):
    records = _write(tmp_path / "pairs", num_neighbors=num_neighbors)
    source = shards.open(tmp_path / "pairs", "train")
    assert (len(source), source.name, source.info) == (5, "pairs", INFO)
    for index, read in zip((4, 0, 2), source.records([4, 0, 2]), strict=True):
        _assert_equal(read, records[index])
    document = source.records([1])[0].document(VOCAB)
    assert document.target == (1, 3)
    assert [s.modality for s in document.segments] == [Modality.TEXT, Modality.IMAGE]


def test_tfds_reads_the_set_by_itself(tmp_path):
    records = _write(tmp_path / "pairs")
    builder = tfds.builder_from_directory(str(tmp_path / "pairs"))
    read = builder.as_data_source("train")[3]
    np.testing.assert_array_equal(read["tokens"], records[3].tokens)
    assert read["tokens"].dtype == np.uint16 and read["id"] == b"doc-3"
    np.testing.assert_array_equal(read["text_vector"], records[3].text_vector)


def test_serialize_writes_what_tfds_would(tmp_path):
    written = _record(3)
    features = record.features()
    fields = features.deserialize_example_np(record.serialize(written))
    again = features.serialize_example(fields)
    _assert_equal(record.parse(again), written)
    assert len(again) == len(record.serialize(written))


def test_writing_twice_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        _write(tmp_path / name / "pairs")
    for path in sorted((tmp_path / "a" / "pairs").iterdir()):
        twin = tmp_path / "b" / "pairs" / path.name
        assert path.read_bytes() == twin.read_bytes(), path.name


def test_an_interrupted_shard_leaves_nothing(tmp_path):
    def records():
        yield _record(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shards.write_shard(tmp_path / "pairs", "train", 0, records())
    assert not list((tmp_path / "pairs").iterdir())
    with pytest.raises(FileNotFoundError, match="no finished set"):
        shards.open(tmp_path / "pairs", "train")


def test_other_tokenizers_and_vocabularies_are_refused(tmp_path):
    _write(tmp_path / "pairs")
    source = shards.open(tmp_path / "pairs", "train")
    shards.check(source, INFO)
    for other in (
        dataclasses.replace(INFO, image_tokenizer="other"),
        dataclasses.replace(INFO, text_tokenizer="other"),
        dataclasses.replace(INFO, vocab=dataclasses.replace(VOCAB, text_size=33)),
    ):
        with pytest.raises(ValueError, match="write the shards again"):
            shards.check(source, other)
    with pytest.raises(ValueError, match="no split 'test'"):
        shards.open(tmp_path / "pairs", "test")


def test_a_damaged_record_is_left_out_and_many_stop_the_run(tmp_path):
    _write(tmp_path / "pairs", lengths=(40,))
    path = tmp_path / "pairs" / "pairs-train.array_record-00000"
    data = bytearray(path.read_bytes())
    start = 9000  # records 0 to 39 lie in the first 18,000 bytes
    data[start : start + 8] = bytes(8)
    path.write_bytes(bytes(data))
    source = shards.open(tmp_path / "pairs", "train")
    with pytest.raises(ValueError, match="damaged"):
        for _ in range(3):
            read = source.records(range(40))
            assert sum(record is None for record in read) == 1


def test_a_damaged_record_is_named_by_file_and_place(tmp_path, caplog):
    _write(tmp_path / "pairs", lengths=(30, 40))
    path = tmp_path / "pairs" / "pairs-train.array_record-00001"
    data = bytearray(path.read_bytes())
    data[9000:9008] = bytes(8)
    path.write_bytes(bytes(data))
    source = shards.open(tmp_path / "pairs", "train")
    read = source.records(range(70))
    (lost,) = [place for place, one in enumerate(read) if one is None]
    assert f"array_record-00001, record {lost - 30}:" in caplog.text
    _assert_equal(read[lost + 1], _record(lost + 1))


@pytest.mark.parametrize("damage", ["cut", "empty", "shorter", "longer", "other"])
def test_a_shard_that_is_not_the_described_one_stops_the_run(tmp_path, damage):
    _write(tmp_path / "pairs", lengths=(30, 40))
    path = tmp_path / "pairs" / "pairs-train.array_record-00001"
    whole = path.read_bytes()
    for number in (39, 41):
        records = [_record(index) for index in range(number)]
        shards.write_shard(tmp_path / f"{number}", "train", 0, records)
    other = "{}/{}-train.array_record-00000"
    path.write_bytes(
        {
            "cut": whole[: len(whole) // 2],
            "empty": b"",
            "shorter": (tmp_path / other.format(39, 39)).read_bytes(),
            "longer": (tmp_path / other.format(41, 41)).read_bytes(),
            "other": b"no shard" * 1000,
        }[damage]
    )
    source = shards.open(tmp_path / "pairs", "train")
    assert all(one is not None for one in source.records(range(30)))
    with pytest.raises(ValueError, match="damaged records, the last is .*-00001, rec"):
        source.records(range(70))


def test_a_missing_shard_is_named(tmp_path):
    _write(tmp_path / "pairs")
    (tmp_path / "pairs" / "pairs-train.array_record-00001").unlink()
    with pytest.raises(FileNotFoundError, match="00001 is missing"):
        shards.open(tmp_path / "pairs", "train")


def test_a_vocabulary_beyond_16_bits_is_refused(tmp_path):
    wide = dataclasses.replace(INFO, vocab=Vocab(text_size=60_000))
    with pytest.raises(ValueError, match="16 bits"):
        shards.finish(tmp_path / "pairs", wide, {"train": []})
