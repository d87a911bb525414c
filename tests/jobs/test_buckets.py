"""The training job with its folder in a bucket: the command, as a person types it.

The bucket is a stand-in (`tests/bucket.py`) that the real clients talk to.
"""

import json
import os
import signal
import subprocess
import sys

import pytest

from cm3leon_jax.train import checkpoint, metrics
from tests import bucket as bucket_lib
from tests.jobs import test_train

pytestmark = pytest.mark.slow
pytest.importorskip("gcsfs")
folder = test_train.folder  # the fixture: small shards
KEPT = ("step", "loss", "gradient_norm", "parameter_norm")


@pytest.fixture
def bucket():
    yield from bucket_lib.serve()


def start(folder, workdir, environment, *rest):
    settings = {
        "shards": folder,
        "num_cpu_devices": 1,
        "loader.batch_size": 4,
        "loader.max_length": 32,
        "loop.num_steps": 20,
        "watch.tensorboard": True,
        "watch.profile_first_step": 3,
    }
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "cm3leon_jax.main", f"--workdir={workdir}"]
    command += ["--config=configs/pretrain.py:350m,debug", *flags, *rest]
    return subprocess.Popen(
        command,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def log(workdir):
    entries = metrics.read(workdir / "metrics.jsonl")
    return [{k: v for k, v in e.items() if k in KEPT} for e in entries]


def test_killed_stopped_and_doubled_job_in_a_bucket_equals_one_on_a_disk(
    bucket, folder, tmp_path
):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    said, _ = start(folder, whole, {}).communicate(timeout=200)
    assert (whole / "done.json").exists(), said

    def run(*rest):
        process = start(folder, bucket.path("run"), bucket.environment, *rest)
        bucket.victim = process.pid
        said, _ = process.communicate(timeout=200)
        return process.returncode, said

    for count, part in ((1, "00000005/manifest"), (2, "metrics.jsonl")):
        bucket.die_at(count, part, after=True)
        code, said = run()
        assert code == -signal.SIGKILL, said
    code, said = run("--config.optimizer.peak_lr=1")
    assert code == 2 and "was made with another config" in said
    code, said = run("--config.loop.num_steps=20")
    assert code == 0, said
    bucket.download("run", parts)
    assert log(parts) == log(whole)
    states = [checkpoint.read(x / "checkpoints") for x in (parts, whole)]
    assert states[0].data == states[1].data
    for name, array in states[1].state.items():
        assert states[0].state[name].tobytes() == array.tobytes(), name
    assert json.loads((parts / "heartbeats/host-0.json").read_text())["state"] == "done"
    assert list((parts / "tensorboard").iterdir())
    assert list((parts / "profile").rglob("*.xplane.pb"))
    assert list((parts / "compile_cache").iterdir())
    assert "run/writer.lock" not in bucket.objects and bucket.num_renames == 0


def test_second_writer_in_a_bucket_is_refused_by_name_and_status_tells(bucket, folder):
    place, endless = bucket.path("run"), "--config.loop.num_steps=100000"
    with start(folder, place, bucket.environment, endless) as first:
        for line in first.stdout:
            if "step/s" in line:
                break
        second = start(folder, place, bucket.environment, endless)
        said, _ = second.communicate(timeout=200)
        assert second.returncode == 2
        assert f"is being written by process {first.pid} on" in said
        status = [sys.executable, "-m", "cm3leon_jax.main", f"--workdir={place}"]
        told = subprocess.run(
            [*status, "--config=configs/status.py"],
            env=os.environ | bucket.environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert told.stdout.startswith("host 0: running, step "), told
        first.send_signal(signal.SIGTERM)
        first.stdout.read()
        assert first.wait(timeout=100) == 128 + signal.SIGTERM
    assert "run/writer.lock" not in bucket.objects
