"""The whole training job in fresh processes: several hosts, other devices, kill -9."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from cm3leon_jax import storage
from cm3leon_jax.train import checkpoint, metrics
from tests.jobs import test_preview

folder = test_preview.folder  # the fixture: shards and tokenizers
pytestmark = pytest.mark.slow

_HOST = """
import os, sys
index, hosts, port, devices, num_steps, folder, workdir = sys.argv[1:]
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
import jax
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
os.environ.update(
    CM3LEON_HOSTS=hosts, CM3LEON_HOST=index, CM3LEON_COORDINATOR=f"127.0.0.1:{port}"
)
from cm3leon_jax.jobs import train
from configs import pretrain
made = pretrain.get_config("debug")
made.shards, made.num_cpu_devices = folder, 0
made.mesh.update(data=1, fsdp=-1)
made.loader.update(batch_size=8, max_length=64)
made.evaluation.neighbors = (0,)
made.loop.num_steps = int(num_steps)
made.watch.update(draw_every=5, num_pictures=3)
made.prefetch.num_workers = 2
if "DIE" in os.environ:
    import importlib, signal
    where, name, count = os.environ["DIE"].split()
    module, _, kind = where.partition(":")
    owner = importlib.import_module("cm3leon_jax." + module)
    owner = getattr(owner, kind) if kind else owner
    real, calls = getattr(owner, name), []
    def die(*args, **kwargs):
        calls.append(1)
        if len(calls) == int(count):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    setattr(owner, name, die)
train.run(made, workdir)
"""


def launch(folder, workdir, *, hosts=1, devices=8, num_steps=10, cache="", die=""):
    """Starts the job's processes, `devices` each; `die`: "module function call"."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rest = (hosts, port, devices, num_steps, folder / "retrieve", workdir)
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    environment |= {"DIE": die} if die else {}
    return [
        subprocess.Popen(
            [sys.executable, "-c", _HOST, *map(str, (index, *rest))], env=environment
        )
        for index in range(hosts)
    ]


def finish(processes):
    assert [each.wait(timeout=200) for each in processes] == [0] * len(processes)


def steps(workdir):
    path = workdir / "metrics.jsonl"
    return [e for e in metrics.read(path) if "loss" in e] if path.exists() else []


@pytest.fixture(scope="module")
def one(folder, tmp_path_factory):
    """A run on one host of eight devices."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    finish(launch(folder, workdir))
    return workdir


def assert_agrees(found, expected):
    """Two runs saw the same data, and their losses differ by rounding alone."""
    got, wanted = (checkpoint.read(x / "checkpoints") for x in (found, expected))
    assert got.data["streams"] == wanted.data["streams"]
    losses = [[entry["loss"] for entry in steps(x)] for x in (found, expected)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    scores = [storage.read_json(x / "done.json") for x in (found, expected)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)


def test_two_hosts_train_evaluate_and_draw_as_one_does(folder, one, tmp_path):
    finish(launch(folder, tmp_path, hosts=2, devices=4))
    assert_agrees(tmp_path, one)
    made = [sorted(p.name for p in (x / "previews").iterdir()) for x in (tmp_path, one)]
    assert made[0] == made[1] and len(made[0]) == 4


@pytest.mark.parametrize("devices", [4, 1])
def test_run_goes_on_with_other_devices(folder, one, tmp_path, devices):
    workdir = tmp_path / "run"
    shutil.copytree(one, workdir)
    (workdir / "done.json").unlink()
    shutil.rmtree(workdir / "checkpoints/00000010")
    finish(launch(folder, workdir, devices=devices))
    assert_agrees(workdir, one)


def test_killed_job_goes_on_within_seconds_to_the_same_bytes(folder, tmp_path):
    cache = tmp_path / "cache"
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finish(launch(folder, whole, num_steps=30, cache=cache))
    for until in (4, 16, 22):
        last = steps(parts)[-1]["step"] if steps(parts) else 0
        (process,) = launch(folder, parts, num_steps=30, cache=cache)
        start = time.monotonic()
        while not steps(parts) or steps(parts)[-1]["step"] <= last:
            assert process.poll() is None
            time.sleep(0.01)
        seconds = time.monotonic() - start
        print(f"{seconds:.1f} s from the start to an entry beyond those before")
        assert seconds < 20  # all compiled before
        while steps(parts)[-1]["step"] < until:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    finish(launch(folder, parts, num_steps=30, cache=cache))
    assert_same(parts, whole)


# Calls of the job in the middle of which it is killed, one start after the other.
POINTS = (
    "data.rows:WholeStream rows 3",  # one of the threads that make the first batch
    "train.step means 1",  # an evaluation's first sums are there
    "data.rows:WholeStream rows 20",
    "train.step means 1",  # and of the last one
    "jobs.preview _png 1",  # a drawing is made and not written
    "jobs.folder finish 1",  # all is done, and not said so
)


def test_job_killed_in_workers_evaluations_and_drawings_equals_one_that_was_not(
    folder, tmp_path
):
    whole, parts, how = tmp_path / "whole", tmp_path / "parts", {"devices": 1}
    how["cache"] = tmp_path / "cache"
    finish(launch(folder, whole, **how))
    for point in POINTS:
        (process,) = launch(folder, parts, die=point, **how)
        assert process.wait(timeout=200) == -signal.SIGKILL, point
    finish(launch(folder, parts, **how))
    assert_same(parts, whole)


def assert_same(found, expected):
    """Two runs left the same bytes."""
    got, wanted = (checkpoint.read(x / "checkpoints") for x in (found, expected))
    assert (got.step, got.data) == (wanted.step, wanted.data)
    for name, array in wanted.state.items():
        assert got.state[name].tobytes() == array.tobytes(), name
    assert [e["loss"] for e in steps(found)] == [e["loss"] for e in steps(expected)]
