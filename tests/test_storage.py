import os
import subprocess
import sys
import time

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


def test_lock_refuses_a_second_living_writer(tmp_path):
    code = (
        "import sys, time; from cm3leon_jax import storage\n"
        "with storage.lock(sys.argv[1]):\n  print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(ValueError, match=f"process {holder.pid}"),
            storage.lock(tmp_path),
        ):
            pass
    finally:
        holder.kill()
        holder.wait()
    with storage.lock(tmp_path):  # the dead one's lock is taken over
        assert (tmp_path / "writer.lock").exists()
    assert not (tmp_path / "writer.lock").exists()


def test_lock_of_another_host_holds_as_long_as_it_is_renewed(tmp_path):
    path = tmp_path / "writer.lock"
    other = {"pid": 1, "host": "elsewhere", "nonce": "a"}
    storage.write_json(path, other | {"renewed": time.time() - 5})
    since = time.monotonic()
    with (
        pytest.raises(
            BlockingIOError, match="process 1 on elsewhere, which said so 5 s"
        ),
        storage.lock(tmp_path),
    ):
        pass
    assert time.monotonic() - since < 1
    storage.write_json(path, other | {"renewed": time.time() - 61})
    with storage.lock(tmp_path):
        assert storage.read_json(path)["pid"] == os.getpid()
    assert not path.exists()


def test_lock_is_renewed_and_left_alone_when_it_is_another_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_RENEW_SECONDS", 0.05)
    path = tmp_path / "writer.lock"
    with storage.lock(tmp_path):
        first = storage.read_json(path)["renewed"]
        time.sleep(0.3)
        assert storage.read_json(path)["renewed"] > first
        monkeypatch.setattr(storage, "_RENEW_SECONDS", 100)
        time.sleep(0.2)
        storage.write_json(path, {"nonce": "of another"})
    assert storage.read_json(path) == {"nonce": "of another"}


def test_holder_whose_lock_was_taken_over_ends_at_once(tmp_path):
    code = (
        "import sys, time; from cm3leon_jax import storage\n"
        "storage._RENEW_SECONDS = 0.1\n"
        "with storage.lock(sys.argv[1]):\n  print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as holder:
        assert holder.stdout.readline() == "held\n"
        for _ in range(100):  # its own renewal may come between
            storage.write_json(tmp_path / "writer.lock", {"nonce": "of another"})
            if holder.poll() is not None:
                break
            time.sleep(0.05)
        assert holder.wait(timeout=30) == 4
        assert "another process took over" in holder.stderr.read()


def test_of_many_that_find_a_dead_lock_one_gets_it(tmp_path):
    storage.write_json(tmp_path / "writer.lock", {"pid": 2**22 + 1, "nonce": "dead"})
    code = (
        "import os, sys, time; from cm3leon_jax import storage\n"
        "try:\n"
        "  with storage.lock(sys.argv[1]):\n"
        "    alone = os.open('inside', os.O_CREAT | os.O_EXCL); time.sleep(0.5)\n"
        "    os.unlink('inside'); print('held')\n"
        "except ValueError: print('refused')"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "text": True, "cwd": tmp_path}
    running = [subprocess.Popen(command, **pipes) for _ in range(4)]
    said = [process.communicate(timeout=60)[0].strip() for process in running]
    assert set(said) <= {"held", "refused"} and "held" in said  # never two inside


def test_digest_of_a_file_is_that_of_its_bytes(tmp_path):
    path = tmp_path / "data"
    storage.write_bytes(path, b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert storage.digest_file(path) == storage.digest_bytes(b"abc") == known
