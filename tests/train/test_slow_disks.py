"""Disks that are slow: runs on them go on and say so, and what they saved is whole.

Every write waits in the kernel (`tests/slow_disk.py`), in whatever thread it is made.
"""

import random
import signal
import subprocess
import sys
import time

import pytest

from cm3leon_jax.train import checkpoint, heartbeat
from tests import slow_disk
from tests.train import test_faults, test_loop

pytestmark = pytest.mark.skipif(
    not slow_disk.is_possible(), reason="needs Linux on x86-64 with seccomp"
)
golden = test_faults.golden  # the fixture: a run on a fast disk, never stopped
_SLOW = (10e6, 0.02)  # bytes a second, seconds a call
_DISK = """
import os, sys, time
for folder, call in ((1, os.write), (1, lambda f, x: os.writev(f, [x, x])), (2, os.write)):
    start = time.monotonic()
    file = os.open(sys.argv[folder] + "/file", os.O_CREAT | os.O_WRONLY)
    call(file, bytes(20_000))
    os.fsync(file)
    print(time.monotonic() - start)
sys.exit(7)
"""


def run(disk, code, *arguments):
    command = [*disk, sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=200, check=False
    )


def test_only_writes_below_the_folder_take_the_disks_time(tmp_path):
    for name in ("slow", "fast"):
        (tmp_path / name).mkdir()
    disk = slow_disk.command(tmp_path / "slow", 1e5, 0.1)
    done = run(disk, _DISK, tmp_path / "slow", tmp_path / "fast")
    one, two, other = map(float, done.stdout.split())
    assert done.returncode == 7
    assert one >= 0.1 + 0.2 + 0.1 and two >= 0.1 + 0.4 + 0.1 and other < 0.1


_SAVES = """
import logging, sys, jax
from cm3leon_jax.train import checkpoint
logging.basicConfig(format="%(message)s")
writer = checkpoint.Checkpointer(sys.argv[1])
for step in (1, 2):
    writer.save(step, {"w": jax.random.normal(jax.random.key(step), (100_000,))})
writer.close()
print(writer.num_late, writer.stall_seconds)
for step in (1, 2):
    got = checkpoint.read(sys.argv[1], step).state["w"]
    assert (got == jax.random.normal(jax.random.key(step), (100_000,))).all()
"""


def test_save_that_must_wait_for_the_one_before_is_counted_and_said(tmp_path):
    done = run(slow_disk.command(tmp_path, 2e5, 0), _SAVES, tmp_path)
    assert done.returncode == 0, done.stderr
    num_late, stalled = done.stdout.split()
    assert num_late == "1" and float(stalled) > 2  # seconds, of 0.8 MB
    assert "checkpoint 2 waited" in done.stderr and "1 saves late" in done.stderr


def launch(folder, *, disk=_SLOW):
    """Starts the loop on a slow disk."""
    return test_faults.begin(folder, disk=slow_disk.command(folder, *disk))


def is_saving(folder):
    """Whether a checkpoint has begun to be written that has no name yet."""
    return any("tmp" in path.name for path in folder.glob("checkpoints/*"))


def until_saving(folder, process):
    while process.poll() is None and not is_saving(folder):
        time.sleep(0.01)


@pytest.mark.slow
def test_run_on_a_slow_disk_ends_as_one_on_a_fast_disk(golden, tmp_path):
    assert launch(tmp_path).wait(timeout=200) == 0
    assert test_faults.trace(tmp_path) == test_faults.trace(golden)
    assert test_faults.result(tmp_path) == test_faults.result(golden)


@pytest.mark.slow
def test_run_killed_while_a_slow_disk_writes_equals_one_that_was_not(golden, tmp_path):
    draw, num_killed = random.Random(0), 0
    for _ in range(8):
        with launch(tmp_path) as process:
            until_saving(tmp_path, process)
            time.sleep(draw.uniform(0, 1.5))
            num_killed += process.poll() is None and is_saving(tmp_path)
            process.kill()
    assert num_killed > 4  # with half a checkpoint on the disk
    assert test_faults.launch(tmp_path) == [0]
    assert test_faults.trace(tmp_path) == test_faults.trace(golden)
    assert test_faults.result(tmp_path) == test_faults.result(golden)


@pytest.mark.slow
def test_run_told_to_stop_while_a_slow_disk_writes_ends_with_a_whole_save(
    golden, tmp_path
):
    with launch(tmp_path) as process:
        until_saving(tmp_path, process)
        for _ in range(2):
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=200) == 128 + signal.SIGTERM
    assert not is_saving(tmp_path)
    step, data, _ = test_faults.result(tmp_path)
    assert 4 <= step < 14 and data == {"index": step}
    assert test_faults.launch(tmp_path) == [0]
    assert test_faults.trace(tmp_path) == test_faults.trace(golden)
    assert test_faults.result(tmp_path) == test_faults.result(golden)


_WATCHED = """
import pathlib, sys
from cm3leon_jax.train import heartbeat
from tests.train import test_loop
folder = pathlib.Path(sys.argv[1])
pulse = heartbeat.Heartbeat(
    str(folder / heartbeat.FOLDER), num_steps=9, every_seconds=1.0, stall_seconds=2.0)
test_loop.train(folder, pulse=pulse)
"""


@pytest.mark.slow
def test_save_slower_than_the_watchdog_allows_ends_with_its_exit_code(tmp_path):
    done = run(slow_disk.command(tmp_path, 1e6, 0.2), _WATCHED, tmp_path)
    assert done.returncode == heartbeat.STALLED_EXIT_CODE, done.stderr
    assert "which is not saved yet" in done.stderr
    for step in checkpoint.unit.steps(
        checkpoint.storage.place(tmp_path / "checkpoints")
    ):
        assert checkpoint.read(tmp_path / "checkpoints", step).data == {"index": step}
    test_loop.train(tmp_path)  # on a fast one, the same command goes on
    test_loop.train(tmp_path / "whole")
    assert test_loop.trace(tmp_path) == test_loop.trace(tmp_path / "whole")
