"""Conversion by real processes: they share the files, and one of them is killed."""

import os
import pathlib
import subprocess
import sys

import pytest

from cm3leon_jax.convert import safetensors_file
from cm3leon_jax.jobs import convert
from configs import convert as config_file
from tests import small_models

ROOT = pathlib.Path(__file__).parents[2]

# The process ends within its second file, as one that is killed: nothing is tidied up.
_DIES = """
import os, runpy
from cm3leon_jax.convert import folder, table
make_theirs, made = table.make_theirs, []
def dying(rows, read, dtype):
    make = make_theirs(rows, read, dtype)
    def one(name):
        made.append(name)
        if len(made) == 4:
            os._exit(9)
        return make(name)
    return one
table.make_theirs = dying
runpy.run_module("cm3leon_jax.main", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_processes_share_the_files_and_one_that_is_killed_goes_on(tmp_path):
    small_models.export_to(tmp_path / "ours")
    alone = config_file.get_config("to_hf")
    alone.update(source=str(tmp_path / "ours"), shard_mb=0.1)
    alone.target = str(tmp_path / "alone")
    convert.run(alone, str(tmp_path / "work"))
    target = tmp_path / "shared"

    def start(host, program):
        command = [sys.executable, *program, "--config", "configs/convert.py:to_hf"]
        command += [f"--config.source={tmp_path / 'ours'}", "--config.shard_mb=0.1"]
        command += [
            f"--config.target={target}",
            f"--workdir={tmp_path / 'shared-work'}",
        ]
        names = {"CM3LEON_HOSTS": "2", "CM3LEON_HOST": str(host)}
        paths = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        return subprocess.Popen(command, cwd=ROOT, env=os.environ | names | paths)

    whole = ["-m", "cm3leon_jax.main"]
    first, second = start(0, whole), start(1, ["-c", _DIES])
    assert second.wait(timeout=120) == 9
    hidden = [path for path in target.glob(".model-*")]
    assert len(hidden) == 1  # half a file, not under its name
    for path in target.glob("*.safetensors"):
        safetensors_file.File(path)  # whole
    assert first.poll() is None and not (target / "config.json").exists()
    assert start(1, whole).wait(timeout=120) == 0
    assert first.wait(timeout=120) == 0
    for path in (tmp_path / "alone").rglob("*"):
        if path.is_file():
            again = target / path.relative_to(tmp_path / "alone")
            assert again.read_bytes() == path.read_bytes(), path
    assert not list(target.glob(".*"))
