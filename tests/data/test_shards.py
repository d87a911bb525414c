import dataclasses
import hashlib
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from cm3leon_jax.data import identity, reader, record, shards
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


def _damage(path, *starts):
    """Zeros in the content of a shard, where records lie."""
    data = bytearray(path.read_bytes())
    for start in starts:
        data[start : start + 8] = bytes(8)
    path.write_bytes(bytes(data))


def test_a_damaged_record_is_left_out_and_many_stop_the_run(tmp_path):
    _write(tmp_path / "pairs", lengths=(40,))
    path = tmp_path / "pairs" / "pairs-train.array_record-00000"
    _damage(path, 9000)  # records 0 to 39 lie in the first 18,000 bytes
    source = shards.open(tmp_path / "pairs", "train")
    for _ in range(3):  # rounds: the same record is one
        read = source.records(range(40))
        assert sum(record is None for record in read) == source.num_damaged == 1
    _damage(path, 3000, 9000)
    source = shards.open(tmp_path / "pairs", "train")
    with pytest.raises(reader.DamagedError, match="2 damaged records of 40"):
        source.records(range(40))


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
@pytest.mark.parametrize("version", [1, 2])
def test_a_shard_of_another_length_stops_the_run(tmp_path, damage, version):
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
    if version == 1:
        _make_format_1(tmp_path / "pairs")
        source = shards.open(tmp_path / "pairs", "train")
        assert all(one is not None for one in source.records(range(30)))
        with pytest.raises(reader.DamagedError, match="the last is .*-00001"):
            source.records(range(70))
        return
    there = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    was = hashlib.sha256(whole).hexdigest()[:12]
    message = f"-00001 is not .* SHA-256 {there}.*{len(whole)} bytes, SHA-256 {was}"
    with pytest.raises(reader.DamagedError, match=message):
        source = shards.open(tmp_path / "pairs", "train")
        assert damage in ("shorter", "longer")  # files have whole blocks of 64 KiB
        source.records(range(70))


def _make_format_1(folder):
    """What sets were before their shards had digests."""
    path = folder / "metadata.json"
    fields = json.loads(path.read_text())
    del fields["shards"]
    path.write_text(json.dumps({**fields, "format_version": 1}))


def _copy_of_equal_size(folder, lengths=(30, 30)):
    """A shard copied over another that has as many records and bytes."""
    written = []
    for index, length in enumerate(lengths):
        part = [_record(100 * (index + 1) + k) for k in range(length)]
        written.append(shards.write_shard(folder, "train", index, part))
    shards.finish(folder, INFO, {"train": written})
    paths = sorted(folder.glob("*.array_record-*"))
    sizes = {path.stat().st_size for path in paths}
    assert len(sizes) == 1  # else the size would tell
    paths[1].write_bytes(paths[0].read_bytes())
    return written


def test_a_shard_copied_over_another_is_noticed_when_it_is_read(tmp_path):
    written = _copy_of_equal_size(tmp_path / "pairs")
    source = shards.open(tmp_path / "pairs", "train")
    assert source.records([29])[0] is not None
    said = (
        f"-00001 is not .* SHA-256 {written[0].identity.sha256[:12]}.*"
        f" SHA-256 {written[1].identity.sha256[:12]}.*copy the right file there"
    )
    with pytest.raises(reader.DamagedError, match=said):
        source.records([30])
    with pytest.raises(ValueError, match=said):
        shards.verify(tmp_path / "pairs")


def test_one_exchanged_shard_of_many_is_left_out_and_counted(tmp_path, caplog):
    folder = tmp_path / "pairs"
    _copy_of_equal_size(folder, lengths=(2,) * 120)
    source = shards.open(folder, "train")
    for _ in range(2):
        read = source.records(range(240))
        assert [place for place, one in enumerate(read) if one is None] == [2, 3]
    assert source.num_damaged == 2
    assert caplog.text.count("-00001 is not the shard that was written there") == 1


def test_what_the_first_record_does_not_tell_verifying_does(tmp_path):
    folder = tmp_path / "pairs"
    written = []
    for name in ("other", "pairs"):
        records = [_record(100), _record(101 if name == "pairs" else 102)]
        written.append(shards.write_shard(tmp_path / name, "train", 0, records))
    shards.finish(folder, INFO, {"train": [written[1]]})
    assert shards.verify(folder) == written[1].identity.size
    (path,) = folder.glob("*.array_record-*")
    (other,) = (tmp_path / "other").glob("*.array_record-*")
    assert path.stat().st_size == other.stat().st_size
    path.write_bytes(other.read_bytes())
    assert shards.open(folder, "train").records([1])[0].id == "doc-102"
    with pytest.raises(ValueError, match=written[0].identity.sha256[:12]):
        shards.verify(folder)


def test_digests_are_those_of_the_files(tmp_path):
    _write(tmp_path / "pairs")
    metadata = json.loads((tmp_path / "pairs" / "metadata.json").read_text())
    paths = sorted((tmp_path / "pairs").glob("*.array_record-*"))
    found = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    assert metadata["format_version"] == shards.FORMAT_VERSION
    assert metadata["shards"]["train"]["sha256"] == found
    assert shards.open(tmp_path / "pairs", "train").digest


def test_sets_without_digests_are_read_and_newer_ones_refused(tmp_path, caplog):
    records = _write(tmp_path / "pairs")
    _make_format_1(tmp_path / "pairs")
    source = shards.open(tmp_path / "pairs", "train")
    _assert_equal(source.records([4])[0], records[4])
    assert source.info == INFO and source.digest == ""
    assert shards.verify(tmp_path / "pairs") == 0
    assert caplog.text.count("is of format 1, without digests") == 1
    path = tmp_path / "pairs" / "metadata.json"
    newer = {**json.loads(path.read_text()), "format_version": 3}
    path.write_text(json.dumps(newer))
    with pytest.raises(ValueError, match="of format 3, this code reads 1 and 2"):
        shards.open(tmp_path / "pairs", "train")


def test_a_file_that_changed_before_the_set_was_finished_is_refused(tmp_path):
    folder = tmp_path / "pairs"
    written = shards.write_shard(folder, "train", 0, [_record(0)])
    shards.write_shard(folder, "train", 0, map(_record, range(300)))
    with pytest.raises(ValueError, match="delete its mark"):
        shards.finish(folder, INFO, {"train": [written]})
    (path,) = folder.glob("*.array_record-*")
    path.unlink()
    with pytest.raises(FileNotFoundError, match="00000 is missing"):
        shards.finish(folder, INFO, {"train": [written]})


def test_the_mark_of_an_older_version_says_what_to_do():
    with pytest.raises(ValueError, match="delete `progress`"):
        identity.Written.from_json({"records": 3, "bytes": 100})


def test_shards_in_a_bucket_are_refused():
    with pytest.raises(ValueError, match="mount the bucket"):
        shards.open("gs://bucket/shards/pairs", "train")


def test_a_missing_shard_is_named(tmp_path):
    _write(tmp_path / "pairs")
    (tmp_path / "pairs" / "pairs-train.array_record-00001").unlink()
    with pytest.raises(FileNotFoundError, match="00001 is missing"):
        shards.open(tmp_path / "pairs", "train")


def test_a_vocabulary_beyond_16_bits_is_refused(tmp_path):
    wide = dataclasses.replace(INFO, vocab=Vocab(text_size=60_000))
    with pytest.raises(ValueError, match="16 bits"):
        shards.finish(tmp_path / "pairs", wide, {"train": []})
