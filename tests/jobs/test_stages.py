import os
import pathlib
import subprocess
import sys

import psutil
import pytest

from cm3leon_jax.jobs import folder, stages
from cm3leon_jax.jobs.stages import Stage

ROOT = pathlib.Path(folder.__file__).parent.parent.parent
CHECK = "configs/check.py:debug"


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def _check(name, data):
    return Stage(name, CHECK, {"pictures.folder": data}, "look through pictures")


def test_stages_run_once_and_are_measured(tmp_path, capsys):
    stage = _check("check", "examples/pictograms")
    stages.run([stage], tmp_path)
    took = stages.record(tmp_path)["check"]
    assert took["seconds"] > 0
    assert took["peak_memory_gb"] > 0.01
    stages.run([stage], tmp_path)
    assert stages.record(tmp_path)["check"] == took
    assert "(complete)" in capsys.readouterr().out


def test_failed_stage_is_named_and_runs_again_when_mended(tmp_path):
    with pytest.raises(ValueError, match="stage 'check' ended with exit code 2"):
        stages.run([_check("check", str(tmp_path / "absent"))], tmp_path)
    stages.run([_check("check", "examples/pictograms")], tmp_path)
    assert folder.summary(str(tmp_path / "check"))["refused"] == 0


def test_stage_left_by_a_killed_runner_is_ended(tmp_path):
    code = "import time; time.sleep(60)"
    left = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "check")], env=dict(os.environ)
    )
    stages._note(tmp_path, "check", pid=left.pid)
    stages.run([], tmp_path)
    assert not psutil.pid_exists(left.pid)


def test_process_of_another_command_is_left_alone(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        stages._note(tmp_path, "check", pid=other.pid)
        stages.run([], tmp_path)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
