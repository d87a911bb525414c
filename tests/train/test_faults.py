"""Killed and stopped processes: what comes after equals what never stopped."""

import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from cm3leon_jax.train import checkpoint, metrics

# A run of the real loop on a small state with a random key; `die` kills the process at
# the given call of a function, before it or after it.
_RUN = """
import os, signal, sys
folder, num_steps, devices, event, count = sys.argv[1:6]
index, hosts_, port = (int(x) for x in (*sys.argv[6:9], 0, 1, 0)[:3])
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
import jax, jax.numpy as jnp, numpy as np
if hosts_ > 1:
    jax.distributed.initialize(f"127.0.0.1:{port}", hosts_, index)
from cm3leon_jax.train import checkpoint, hosts, loop, metrics, unit

mesh = jax.make_mesh((jax.device_count(),), ("x",), (jax.sharding.AxisType.Auto,))
place = lambda *axes: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
places = {"w": place("x"), "key": place()}

@jax.jit
def start():
    return {"w": jnp.ones((8, 5)), "key": jax.random.key(0)}

def step(state, batch):
    key, now = jax.random.split(state["key"])
    w = 0.9 * state["w"] + batch + 0.01 * jax.random.normal(now, (8, 5))
    return {"w": w, "key": key}, {"loss": w[0].sum(), "batch": batch}

one_step = jax.jit(step, in_shardings=(places, None), out_shardings=(places, place()))

class Batches:
    index = 0
    def __next__(self):
        self.index += 1
        if event == "term" and self.index == int(count) and index == hosts_ - 1:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        return np.float32(self.index)
    def get_state(self):
        return {"index": self.index}
    def set_state(self, state):
        self.index = state["index"]

def die(module, name, after):
    real, calls = getattr(module, name), []
    def patched(*args, **kwargs):
        calls.append(1)
        if len(calls) == int(count) and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        found = real(*args, **kwargs)
        if len(calls) == int(count) and after:
            os.kill(os.getpid(), signal.SIGKILL)
        return found
    setattr(module, name, patched)

points = {
    "batch": (Batches, "__next__", False),
    "before_save": (unit, "write", False),
    "during_save": (unit, "write", True),
    "after_save": (checkpoint.Checkpointer, "wait", True),
    "prune": (checkpoint.Checkpointer, "_remove", True),
    "restore": (unit, "read_arrays", True),
    "log": (metrics.Writer, "flush", True),
}
if event in points:
    die(*points[event])
final = loop.run(
    jax.jit(start, out_shardings=places)(), one_step, Batches(),
    num_steps=int(num_steps),
    checkpointer=checkpoint.Checkpointer(folder + "/checkpoints"),
    writer=metrics.Writer(folder + "/metrics.jsonl"),
    log_every=3, save_every=4,
)
"""


def begin(folder, event="", count=1, *, devices=4, num_steps=14, rest=(), disk=()):
    """Starts a process of the script, on a disk that may be slow (`tests.slow_disk`)."""
    command = [sys.executable, "-c", _RUN, folder, num_steps, devices, event, count]
    return subprocess.Popen([str(x) for x in (*disk, *command, *rest)])


def launch(folder, event="", count=1, *, devices=4, num_steps=14, hosts=1):
    """Runs the script, on one process or several; returns their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    how = {"devices": devices, "num_steps": num_steps}
    running = [
        begin(folder, event, count, **how, rest=(index, hosts, port))
        for index in range(hosts)
    ]
    return [process.wait(timeout=120) for process in running]


def trace(folder):
    timed = ("steps_per_second", "data_share", "save_share")
    entries = metrics.read(folder / "metrics.jsonl")
    return [{k: v for k, v in entry.items() if k not in timed} for entry in entries]


def result(folder):
    found = checkpoint.read(folder / "checkpoints")
    return found.step, found.data, {k: v.tobytes() for k, v in found.state.items()}


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    assert launch(folder) == [0]
    assert result(folder)[0] == 14
    return folder


FEW = (("during_save", 1), ("log", 7), ("prune", 2))
MANY = (
    ("batch", 1),
    ("before_save", 1),
    ("batch", 6),
    ("during_save", 1),
    ("after_save", 2),
    ("restore", 1),
    ("restore", 1),
    ("during_save", 2),
    ("log", 4),
    ("prune", 1),
    ("prune", 3),
    ("batch", 2),
)


@pytest.mark.parametrize(
    "points", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_killed_run_equals_one_that_was_not(golden, tmp_path, points):
    for event, count in points:
        assert launch(tmp_path, event, count) == [-signal.SIGKILL], event
    assert launch(tmp_path) == [0]
    assert trace(tmp_path) == trace(golden)
    assert result(tmp_path) == result(golden)


@pytest.mark.slow
def test_one_host_that_is_told_stops_both_and_any_number_goes_on(golden, tmp_path):
    codes = launch(tmp_path, "term", 6, devices=2, hosts=2)
    assert codes == [128 + signal.SIGTERM] * 2
    step, data, _ = result(tmp_path)
    assert step in (6, 7) and data == {"index": step}
    assert launch(tmp_path, num_steps=9, devices=1) == [0]
    assert launch(tmp_path, num_steps=14, devices=4, hosts=2) == [0, 0]
    assert [e["batch"] for e in trace(tmp_path)] == [e["batch"] for e in trace(golden)]
    step, data, arrays = result(tmp_path)
    expected_step, expected_data, expected = result(golden)
    assert (step, data) == (expected_step, expected_data)
    assert arrays["key"] == expected["key"]
    got = np.frombuffer(arrays["w"], np.float32)
    np.testing.assert_allclose(got, np.frombuffer(expected["w"], np.float32), rtol=1e-6)


def test_terminated_twice_saves_once_and_goes_on_identically(golden, tmp_path):
    assert launch(tmp_path, "term", 6) == [128 + signal.SIGTERM]
    assert result(tmp_path)[0] == 6
    assert launch(tmp_path) == [0]
    assert trace(tmp_path) == trace(golden)
    assert result(tmp_path) == result(golden)
