"""One writer a folder, on a disk and in a bucket: refused, taken over, never two."""

import json
import os
import subprocess
import sys
import time

import pytest

from cm3leon_jax import storage
from cm3leon_jax.train import lock
from tests import bucket as bucket_lib


def test_lock_refuses_a_second_living_writer(tmp_path):
    code = (
        "import sys, time; from cm3leon_jax.train import lock\n"
        "with lock.hold(sys.argv[1]):\n  print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(ValueError, match=f"process {holder.pid}"),
            lock.hold(tmp_path),
        ):
            pass
    finally:
        holder.kill()
        holder.wait()
    with lock.hold(tmp_path):  # the dead one's lock is taken over
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
        lock.hold(tmp_path),
    ):
        pass
    assert time.monotonic() - since < 1
    storage.write_json(path, other | {"renewed": time.time() - 61})
    with lock.hold(tmp_path):
        assert storage.read_json(path)["pid"] == os.getpid()
    assert not path.exists()


def test_lock_is_renewed_and_left_alone_when_it_is_another_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_RENEW_SECONDS", 0.05)
    path = tmp_path / "writer.lock"
    with lock.hold(tmp_path):
        first = storage.read_json(path)["renewed"]
        time.sleep(0.3)
        assert storage.read_json(path)["renewed"] > first
        monkeypatch.setattr(lock, "_RENEW_SECONDS", 100)
        time.sleep(0.2)
        storage.write_json(path, {"nonce": "of another"})
    assert storage.read_json(path) == {"nonce": "of another"}


def test_holder_whose_lock_was_taken_over_ends_at_once(tmp_path):
    code = (
        "import sys, time; from cm3leon_jax.train import lock\n"
        "lock._RENEW_SECONDS = 0.1\n"
        "with lock.hold(sys.argv[1]):\n  print('held', flush=True); time.sleep(60)"
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
        "import os, sys, time; from cm3leon_jax.train import lock\n"
        "try:\n"
        "  with lock.hold(sys.argv[1]):\n"
        "    alone = os.open('inside', os.O_CREAT | os.O_EXCL); time.sleep(0.5)\n"
        "    os.unlink('inside'); print('held')\n"
        "except ValueError: print('refused')"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "text": True, "cwd": tmp_path}
    running = [subprocess.Popen(command, **pipes) for _ in range(4)]
    said = [process.communicate(timeout=60)[0].strip() for process in running]
    assert set(said) <= {"held", "refused"} and "held" in said  # never two inside


@pytest.fixture
def bucket():
    yield from bucket_lib.serve()


HOLD = """
import sys, time
from cm3leon_jax import storage
from cm3leon_jax.train import lock
storage.place = lambda path: storage.epath.Path(path)  # TensorStore alone is needed
lock._RENEW_SECONDS = 0.1
try:
    with lock.hold(sys.argv[1]):
        print("held", flush=True)
        time.sleep(float(sys.argv[2]))
except (ValueError, BlockingIOError) as error:
    print(type(error).__name__, error)
"""


def start(bucket, seconds):
    command = [sys.executable, "-c", HOLD, bucket.path("run"), str(seconds)]
    return subprocess.Popen(
        command,
        env=os.environ | bucket.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def put(bucket, **holder):
    bucket.put("run/writer.lock", json.dumps(holder).encode(), None)


def holder_of(bucket):
    return json.loads(bucket.objects["run/writer.lock"].data)


def test_lock_in_a_bucket_refuses_renews_and_is_taken_over(bucket):
    with start(bucket, 60) as holder:
        assert holder.stdout.readline() == "held\n"
        said, _ = start(bucket, 0).communicate(timeout=60)
        assert said.startswith(f"ValueError gs://{bucket.name}/run is being written by")
        assert f"process {holder.pid} on" in said
        first = holder_of(bucket)["renewed"]
        time.sleep(0.5)
        assert holder_of(bucket)["renewed"] > first
        holder.kill()
    said, _ = start(bucket, 0).communicate(timeout=60)
    assert said == "held\n" and not bucket.objects  # taken over, and given back
    put(bucket, pid=1, host="elsewhere", renewed=time.time() - 5)
    said, _ = start(bucket, 0).communicate(timeout=60)
    assert said.startswith("BlockingIOError") and "process 1 on elsewhere" in said
    put(bucket, pid=1, host="elsewhere", renewed=time.time() - 61)
    assert start(bucket, 0).communicate(timeout=60)[0] == "held\n"
    assert bucket.num_renames == 0


def test_holder_whose_lock_in_a_bucket_was_taken_over_ends_at_once(bucket):
    with start(bucket, 60) as holder:
        assert holder.stdout.readline() == "held\n"
        put(bucket, nonce="of another")
        assert holder.wait(timeout=30) == 4
        assert "another process took over" in holder.stderr.read()
    assert holder_of(bucket) == {"nonce": "of another"}


def test_of_many_that_find_a_dead_lock_in_a_bucket_one_gets_it(bucket):
    put(bucket, pid=2**22 + 1, nonce="dead")
    running = [start(bucket, 3) for _ in range(4)]
    said = [process.communicate(timeout=60)[0] for process in running]
    assert sorted(line.split()[0] for line in said) == ["ValueError"] * 3 + ["held"]
