"""Signs of life: what they say, what they count, and what happens without."""

import os
import subprocess
import sys
import time

import pytest

from cm3leon_jax import storage
from cm3leon_jax.jobs import status
from cm3leon_jax.train import heartbeat
from configs import status as status_config
from tests.train import test_loop


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, start):
        self.now = start

    def time(self):
        return self.now

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock(1000.0)
    monkeypatch.setattr(heartbeat, "time", made)
    return made


def beats(pulse, clock, steps, *, seconds=2.0, idle=0.5):
    for step in steps:
        clock.now += seconds
        pulse.beat(step, {"loss": 3.0}, idle_seconds=idle, last_checkpoint=None)


def test_goodput_leaves_out_start_idle_time_death_and_repeated_steps(clock, tmp_path):
    make = lambda: heartbeat.Heartbeat(str(tmp_path), num_steps=20)
    first = make()
    first.resume(0)
    with first.beating():
        clock.now += 10  # until the first step: it is compiled
        beats(first, clock, range(1, 6))
        first.mark(5)
        beats(first, clock, range(6, 9))  # will be lost
    # 1.5 s each, but for the first, of 10 + 8 * 2 s.
    assert first.goodput() == pytest.approx(7 * 1.5 / 26)
    clock.now += 100  # dead
    second = make()
    second.resume(5)
    assert second.goodput() == pytest.approx(4 * 1.5 / 126)
    beats(second, clock, range(6, 10))
    assert second.goodput() == pytest.approx((4 + 3) * 1.5 / 134)


@pytest.mark.parametrize("seconds", [-5000.0, 5000.0])
def test_clock_that_jumps_leaves_goodput_a_share(clock, tmp_path, seconds):
    pulse = heartbeat.Heartbeat(str(tmp_path), num_steps=20)
    beats(pulse, clock, range(1, 4))
    clock.now += seconds
    beats(pulse, clock, range(4, 6))
    assert 0 <= pulse.goodput() <= 1


def test_heartbeat_says_how_a_run_goes(clock, tmp_path):
    pulse = heartbeat.Heartbeat(str(tmp_path), num_steps=12, tokens_per_step=100)
    with pulse.beating():
        beats(pulse, clock, range(1, 9))
    (found,) = heartbeat.read(str(tmp_path))
    assert found["step"] == 8 and found["tokens"] == 800 and found["loss"] == 3.0
    assert found["seconds_left"] == pytest.approx(4 * 2.0)
    assert (
        found["host"] == 0 and found["num_hosts"] == 1 and found["pid"] == os.getpid()
    )


def test_tokens_are_counted_beyond_32_bits(clock, tmp_path):
    pulse = heartbeat.Heartbeat(str(tmp_path), num_steps=300_000, tokens_per_step=2**23)
    with pulse.beating():
        beats(pulse, clock, [299_999])
    (found,) = heartbeat.read(str(tmp_path))
    assert found["tokens"] == 299_999 * 2**23


def test_loop_beats_and_ends_as_done(tmp_path):
    folder = tmp_path / heartbeat.FOLDER
    pulse = heartbeat.Heartbeat(str(folder), num_steps=9, every_seconds=0.01)
    test_loop.train(tmp_path, pulse=pulse)
    (found,) = heartbeat.read(str(folder))
    assert (found["state"], found["step"], found["last_checkpoint"]) == ("done", 9, 4)
    assert 0 < found["goodput"] < 1 and set(found["marks"]) == {"4", "8", "9"}
    # A run that goes on counts from where it began.
    again = heartbeat.Heartbeat(str(folder), num_steps=9)
    again.resume(8)
    assert again.goodput() < found["goodput"]


HANG = """
import sys, time, pathlib
from cm3leon_jax.train import heartbeat
from tests.train import test_loop
folder = pathlib.Path(sys.argv[1])
def hang_in_a_collective(state, batch):
    if batch == 6:
        time.sleep(100)
    return test_loop.step(state, batch)
pulse = heartbeat.Heartbeat(
    str(folder / heartbeat.FOLDER), num_steps=9, every_seconds=0.2, stall_seconds=2.0)
test_loop.train(folder, step=hang_in_a_collective, pulse=pulse)
"""


def _run(script, folder):
    return subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_hang_ends_with_the_stacks_of_all_threads_and_its_exit_code(tmp_path):
    done = _run(HANG, tmp_path)
    assert done.returncode == heartbeat.STALLED_EXIT_CODE
    assert "stalled: no step for 2 s after step 5" in done.stderr
    stacks = (tmp_path / "heartbeats/stall-0.txt").read_text()
    assert "hang_in_a_collective" in stacks and stacks.count("hread 0x") > 1
    (found,) = heartbeat.read(str(tmp_path / "heartbeats"))
    assert (found["state"], found["step"]) == ("stalled", 5)
    # The same command goes on.
    test_loop.train(tmp_path)
    entries = test_loop.trace(tmp_path)
    assert [entry["step"] for entry in entries] == list(range(1, 10))


HANGING_DISK = """
import sys, time
from cm3leon_jax import storage
storage.write_bytes = lambda path, data: time.sleep(100)
from cm3leon_jax.train import heartbeat
heartbeat._TELL_SECONDS = 0.5
pulse = heartbeat.Heartbeat(
    sys.argv[1], num_steps=9, every_seconds=0.2, stall_seconds=1.0)
with pulse.beating():
    time.sleep(100)
"""


def test_hang_ends_also_where_the_disk_is_what_hangs(tmp_path):
    done = _run(HANGING_DISK, tmp_path)
    assert done.returncode == heartbeat.STALLED_EXIT_CODE
    assert "stalled: no step for 1 s" in done.stderr and "hread 0x" in done.stderr


def test_stalls_cannot_be_watched_without_a_heartbeat(tmp_path):
    with pytest.raises(ValueError, match="must be above 0"):
        heartbeat.Heartbeat(
            str(tmp_path), num_steps=1, every_seconds=0, stall_seconds=9
        )


def beat(**fields):
    now = time.time()
    found = {"time": now, "host": 0, "state": "running", "step": 120, "num_steps": 1000}
    found |= {"loss": 5.125, "tokens_per_second": 7012.3, "utilisation": 0.41}
    return (
        found
        | {"last_checkpoint": 100, "seconds_left": 812.0, "goodput": 0.93}
        | fields
    )


def test_status_is_a_line_a_host(tmp_path, capsys):
    folder = tmp_path / heartbeat.FOLDER
    storage.write_json(folder / "host-0.json", beat())
    status.run(status_config.get_config(), str(tmp_path))
    storage.write_json(folder / "host-1.json", beat(host=1, time=time.time() - 612))
    with pytest.raises(SystemExit) as ended:
        status.run(status_config.get_config(), str(tmp_path))
    assert ended.value.code == heartbeat.STALLED_EXIT_CODE
    lines = capsys.readouterr().out.splitlines()
    said = (
        "step 120 of 1,000, loss 5.125, 7,012 tokens/s, utilisation 41%, checkpoint 100,"
        " 0:13:32 left, goodput 93%"
    )
    assert lines[1] == f"host 0: running, {said}"
    assert lines[2] == f"host 1: silent for 0:10:12, {said}"


def test_status_of_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no heartbeat in"):
        status.run(status_config.get_config(), str(tmp_path))
