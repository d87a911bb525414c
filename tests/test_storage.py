import os

import numpy as np
import pytest

from cm3leon_jax import storage


def test_arrays_survive_the_disk_with_their_metadata(tmp_path):
    path = tmp_path / "weights.safetensors"
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3).T, "b": np.array([1])}
    storage.save_arrays(path, arrays, {"kind": "test"})
    again, metadata = storage.load_arrays(path)
    assert metadata == {"kind": "test"}
    assert again.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_arrays_that_are_not_finite_are_refused_by_name(tmp_path, value):
    path = tmp_path / "weights.safetensors"
    storage.save_arrays(path, {"bad": np.array([value], np.float32)})
    with pytest.raises(ValueError, match="'bad'"):
        storage.load_arrays(path)


def test_truncated_arrays_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    storage.save_arrays(path, {"a": np.ones(100, np.float32)})
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match="no whole safetensors"):
        storage.load_arrays(path)


def test_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    storage.write_json(path, {"n": 1})

    def full_disk(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        storage.write_json(path, {"n": 2})
    assert storage.read_json(path) == {"n": 1}
    assert os.listdir(tmp_path) == ["record.json"]


def test_json_that_is_none_is_named(tmp_path):
    path = tmp_path / "record.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"record\.json is not JSON"):
        storage.read_json(path)


def test_journal_adds_lines_and_takes_out_those_that_are_not_kept(tmp_path):
    path = tmp_path / "new" / "lines"
    journal = storage.Journal(path)
    journal.keep(bool)  # there is none yet
    for line in "abc":
        journal.append(line)
    assert path.read_text() == "a\nb\nc\n"
    before = path.stat().st_ino
    journal.keep(lambda line: line != "b\n")
    journal.append("d")
    assert path.read_text() == "a\nc\nd\n"
    assert path.stat().st_ino != before  # renamed, not cut: a kill leaves either


def test_digest_of_a_file_is_that_of_its_bytes(tmp_path):
    path = tmp_path / "data"
    storage.write_bytes(path, b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert storage.digest_file(path) == storage.digest_bytes(b"abc") == known
