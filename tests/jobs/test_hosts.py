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
train.run(made, workdir)
"""


def launch(folder, workdir, *, hosts=1, devices=8, num_steps=10, cache=""):
    """Starts the job's processes, `devices` each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rest = (hosts, port, devices, num_steps, folder / "retrieve", workdir)
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
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
    got, expected = (checkpoint.read(x / "checkpoints") for x in (parts, whole))
    assert got.data == expected.data
    for name, array in expected.state.items():
        assert got.state[name].tobytes() == array.tobytes(), name
    assert [e["loss"] for e in steps(parts)] == [e["loss"] for e in steps(whole)]
