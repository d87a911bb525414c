"""The real job, launched by the real scripts: trained to its end through a preemption."""

import shutil

import pytest

from cm3leon_jax import storage
from cm3leon_jax.train import checkpoint, metrics
from tests.jobs import test_train
from tests.launch import test_tpu

folder = test_train.folder  # the fixture: small shards
cloud, scripts = test_tpu.cloud, test_tpu.scripts


@pytest.mark.slow
def test_training_on_two_hosts_survives_a_preemption(
    cloud, folder, tmp_path, monkeypatch
):
    gcloud = shutil.which("gcloud")  # before the stand-in is there
    monkeypatch.setenv("SCRIPTS", str(test_tpu.ROOT / "launch"))
    workdir = tmp_path / "run"
    root = cloud(preempt_after=[3], watched=str(workdir / "metrics.jsonl"))
    job = ["--config", "configs/pretrain.py:350m,debug", "--workdir", str(workdir)]
    job += [f"--config.shards={folder}", "--config.num_cpu_devices=0"]
    job += ["--config.loader.batch_size=8", "--config.loader.max_length=32"]
    job += ["--config.loop.num_steps=60", "--config.loop.save_every=10"]
    devices = "--xla_force_host_platform_device_count=2"
    done = test_tpu.launch(
        "until_done", *job, limit=240, FAKE_JOB="", XLA_FLAGS=devices
    )
    log = "".join(p.read_text() for p in tmp_path.glob("cloud/hosts/*/cm3leon/job.log"))
    assert done.returncode == 0, done.stdout + done.stderr + log
    assert "SUSPENDED" in done.stdout
    assert (root / "num_made").read_text() == "2"
    assert storage.read_json(workdir / "done.json")
    assert checkpoint.read(workdir / "checkpoints").step == 60
    entries = [e for e in metrics.read(workdir / "metrics.jsonl") if "loss" in e]
    assert [entry["step"] for entry in entries] == list(range(2, 61, 2))
    hosts = [storage.read_json(p) for p in sorted(workdir.glob("heartbeats/host-*"))]
    assert [(h["num_hosts"], h["state"]) for h in hosts] == [(2, "done")] * 2
    if gcloud:
        test_tpu.assert_known(gcloud, test_tpu.sent(root), tmp_path)
