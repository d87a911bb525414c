"""Memory of conversion: one array at a time, of whatever kind the source is."""

import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from cm3leon_jax import storage
from cm3leon_jax.convert import opt, safetensors_file, table
from cm3leon_jax.train import export
from tests import small_models

ROOT = pathlib.Path(__file__).parents[2]
SHARD_MB = 40
ALLOWED_MB = 1.3 * SHARD_MB

# Says at the end how much the process held at most, since it began.
_MEASURED = """
import re, runpy
try:
    runpy.run_module("cm3leon_jax.main", run_name="__main__", alter_sys=True)
finally:
    status = open("/proc/self/status").read()
    print("peak", re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])
"""


def _start(direction, source, target, *, host=0, count=1):
    command = [sys.executable, "-c", _MEASURED]
    command += ["--config", f"configs/convert.py:{direction}"]
    command += [f"--config.source={source}", f"--config.target={target}"]
    command += [f"--workdir={target}-work", f"--config.shard_mb={SHARD_MB}.0"]
    names = {"CM3LEON_HOSTS": str(count), "CM3LEON_HOST": str(host)}
    return subprocess.Popen(
        command, cwd=ROOT, env=os.environ | names, stdout=subprocess.PIPE, text=True
    )


def _peak_mb(process):
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return int(said.split("peak ")[1]) / 1e3


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small export, a training job of it, and how much the program holds for them."""
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    folder = tmp_path_factory.mktemp("small")
    small_models.export_to(folder / "export")
    run = small_models.train_to(folder, folder / "export")
    peaks = [
        _peak_mb(_start("to_hf", source, folder / f"{source.name}-hf"))
        for source in (folder / "export", run)
    ]
    return folder / "export", *peaks


@pytest.fixture(scope="module")
def large(small, tmp_path_factory):
    """An export of 380 MB of random numbers."""
    folder = tmp_path_factory.mktemp("large") / "export"
    shutil.copytree(small[0], folder)
    about = storage.read_json(folder / export.ABOUT_FILE)
    config = small_models.model_config(
        about["model"]["vocab_size"],
        num_layers=30,
        model_dim=512,
        head_dim=128,
        mlp_dim=2048,
    )
    specs = table.our_specs(opt.rows(config), np.dtype("float32"))
    draw = np.random.default_rng(0).standard_normal

    def parts():
        for name, spec in specs.items():
            for _ in range(spec.shape[0]):
                yield name, draw(spec.shape[1:], np.float32)

    safetensors_file.write(folder / export.WEIGHTS_FILE, specs, parts())
    kept = {name: about[name] for name in ("shards", "coordinates")}
    export.describe(folder, config, kept)
    assert (folder / export.WEIGHTS_FILE).stat().st_size > 370e6
    return folder


@pytest.mark.slow
def test_memory_is_one_array_and_not_the_model(tmp_path, small, large):
    _, before, _ = small
    there = _peak_mb(_start("to_hf", large, tmp_path / "there"))
    back = _peak_mb(_start("from_hf", tmp_path / "there", tmp_path / "back"))
    print(f"{before=:.0f} {there=:.0f} {back=:.0f} MB")
    assert max(there, back) - before < ALLOWED_MB


@pytest.mark.slow
def test_memory_of_a_training_jobs_checkpoint_is_one_layer(tmp_path, small, large):
    _, _, before = small
    run = small_models.train_to(tmp_path, large)
    alone = _peak_mb(_start("to_hf", run, tmp_path / "alone"))
    both = [
        _start("to_hf", run, tmp_path / "both", host=host, count=2) for host in (0, 1)
    ]
    shared = [_peak_mb(process) for process in both]
    print(f"{before=:.0f} {alone=:.0f} {shared=} MB")
    assert max(alone, *shared) - before < ALLOWED_MB
    for path in (tmp_path / "alone").glob("*.safetensors"):
        assert (tmp_path / "both" / path.name).read_bytes() == path.read_bytes()
