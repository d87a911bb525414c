"""Networks of pixels trained by two hosts: the weights are those of one host."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from cm3leon_jax import storage

ROOT = pathlib.Path(__file__).parents[2]
PLAYING = {
    "vqgan": [
        "--config.loss.adversarial_weight=0.8",
        "--config.loss.adversarial_start=2",
        "--config.discriminator.base_channels=8",
        "--config.discriminator.num_layers=1",
        "--config.loop.eval_every=4",
    ],
    "super_resolution": [
        "--config.pictures.image_size=64",
        "--config.crop_size=8",
        "--config.splits.num_validation=4",
        "--config.splits.num_test=4",
    ],
}


@pytest.fixture
def folder(tmp_path):
    root, rng = tmp_path / "pictures", np.random.default_rng(0)
    root.mkdir()
    lines = []
    for index in range(32):
        pixels = np.repeat(rng.integers(0, 256, (4, 64, 3), np.uint8), 16, axis=0)
        Image.fromarray(pixels).save(root / f"{index}.png")
        lines.append(json.dumps({"file_name": f"{index}.png", "text": "stripes"}))
    (root / "metadata.jsonl").write_text("\n".join(lines))
    return root


@pytest.mark.slow
@pytest.mark.parametrize("job", PLAYING)
def test_two_hosts_train_what_one_of_as_many_devices_does(job, folder, tmp_path):
    found = []
    for hosts in (1, 2):
        workdir = tmp_path / f"hosts{hosts}"
        command = [sys.executable, str(ROOT / "launch/local.py"), f"--hosts={hosts}"]
        command += [f"--devices={2 // hosts}", "--", f"--workdir={workdir}"]
        command += [f"--config=configs/{job}.py:debug", *PLAYING[job]]
        command += [f"--config.pictures.folder={folder}"]
        alone = {name: x for name, x in os.environ.items() if name != "XLA_FLAGS"}
        paths = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        subprocess.run(command, cwd=ROOT, env=alone | paths, check=True, timeout=900)
        weights, _ = storage.load_arrays(workdir / "export" / "weights.safetensors")
        found.append((weights, storage.read_json(workdir / "done.json")))
    (one, scores), (two, others) = found
    assert one.keys() == two.keys()
    for name, array in one.items():
        np.testing.assert_allclose(array, two[name], rtol=1e-3, atol=1e-4, err_msg=name)
    for name, value in scores.items():
        assert others[name] == pytest.approx(value, rel=1e-2, abs=1e-3), name
