"""Runs whose folder is in a bucket: killed between any two objects, nothing is lost.

The bucket is a stand-in (`tests/bucket.py`) that the real clients talk to.
"""

import signal
import subprocess
import sys

import pytest

from cm3leon_jax.train import metrics
from tests import bucket as bucket_lib
from tests.train import test_faults

pytest.importorskip("gcsfs")
golden = test_faults.golden  # the fixture: a run on a disk that was never stopped


@pytest.fixture
def bucket(monkeypatch):
    for made in bucket_lib.serve():
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        yield made


def launch(bucket, *point):
    """Runs the loop in the bucket; returns its exit code."""
    with test_faults.begin(bucket.path("run"), *point) as process:
        bucket.victim = process.pid
        return process.wait(timeout=120)


def assert_equals(bucket, golden, tmp_path):
    bucket.download("run", tmp_path)
    assert test_faults.trace(tmp_path) == test_faults.trace(golden)
    assert test_faults.result(tmp_path) == test_faults.result(golden)
    assert bucket.num_renames == 0


def test_run_killed_before_its_commit_marker_equals_one_on_a_disk(
    bucket, golden, tmp_path
):
    for step in ("00000004", "00000008"):  # the first: there is nothing to fall back to
        bucket.die_at(1, f"{step}/commit_success", after=False)
        assert launch(bucket) == -signal.SIGKILL
        assert f"run/checkpoints/{step}/manifest/data.json" in bucket.objects
    assert launch(bucket) == 0
    assert_equals(bucket, golden, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_run_killed_at_every_object_of_a_save_equals_one_on_a_disk(
    bucket, golden, tmp_path, after
):
    count = 0
    while True:  # each start goes one object further before it dies
        count += 1
        bucket.die_at(count, "checkpoints/00000008/", after=after)
        code = launch(bucket)
        if code == 0:
            break
        assert code == -signal.SIGKILL, count
        if after and "run/checkpoints/00000008/commit_success.txt" in bucket.objects:
            break  # from then on it is not written again
    assert count > 10  # objects that a checkpoint has
    assert launch(bucket) == 0
    assert_equals(bucket, golden, tmp_path)


@pytest.mark.slow
def test_run_killed_around_saves_and_restores_equals_one_on_a_disk(
    bucket, golden, tmp_path
):
    for event, count in test_faults.MANY:
        assert launch(bucket, event, count) == -signal.SIGKILL, event
    assert launch(bucket) == 0
    assert_equals(bucket, golden, tmp_path)


@pytest.mark.slow
def test_slow_store_costs_time_and_nothing_else(bucket, golden, tmp_path):
    bucket.delay_seconds = 0.05  # of every answer: a save takes seconds
    assert launch(bucket) == 0
    assert_equals(bucket, golden, tmp_path)
    entries = metrics.read(tmp_path / "metrics.jsonl")
    assert max(entry["save_share"] for entry in entries) > 0.1  # and the log says so


_FLIPS = """
import sys
import numpy as np
from tests.train import test_checkpoint
from cm3leon_jax.train import checkpoint
test_checkpoint.saved(sys.argv[1])
print("saved", flush=True)
for _ in sys.stdin:
    got = checkpoint.Checkpointer(sys.argv[1]).restore(test_checkpoint.make_state())
    is_right = test_checkpoint.bits(got.state) == test_checkpoint.bits(
        test_checkpoint.make_state(got.step))
    print(got.step, is_right and got.data == {"epoch": 0, "row": got.step}, flush=True)
"""


def test_object_that_is_damaged_cut_or_missing_is_never_restored(bucket):
    """Every object of a checkpoint, each damaged in three ways."""
    command = [sys.executable, "-c", _FLIPS, bucket.path("run/checkpoints")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "saved\n"
        outcomes = set()
        for name in bucket.names("run/checkpoints/00000002/"):
            whole = bucket.objects[name].data
            flipped = bytearray(whole or b"?")  # one object is empty
            flipped[len(whole) // 3] ^= 4
            for data in (bytes(flipped), whole[: len(whole) // 2], None):
                bucket.delete(name, None)
                if data is not None:
                    bucket.put(name, data, None)
                process.stdin.write("again\n")
                process.stdin.flush()
                step, is_right = process.stdout.readline().split()
                assert is_right == "True", name
                outcomes.add(int(step))
            bucket.put(name, whole, None)
        process.stdin.close()
    assert outcomes == {1, 2}
