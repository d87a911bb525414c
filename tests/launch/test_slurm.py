"""The SLURM script against a stand-in for `srun` and `scontrol`."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

SCRIPT = pathlib.Path(__file__).parent.parent.parent / "launch/slurm.sh"
_SRUN = '#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n'
_SCONTROL = '#!/bin/bash\necho "$@" >> requeued\n'
# The job: writes its arguments, then ends with a code, or waits for SIGTERM.
_PYTHON = """#!/bin/bash
printf '%s\\n' "$CM3LEON_HOSTS" "$@" > arguments
if [[ $CODE == wait ]]; then
    trap 'sleep 0.5; echo saved > saved; exit 143' TERM
    touch ready
    while true; do sleep 0.05; done
fi
exit "$CODE"
"""


@pytest.fixture
def start(tmp_path):
    programs = {"bin/srun": _SRUN, "bin/scontrol": _SCONTROL}
    for name, text in (programs | {".venv/bin/python": _PYTHON}).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"

    def launch(code):
        settings = {"PATH": path, "CODE": code, "SLURM_JOB_ID": "7"}
        command = ["bash", str(SCRIPT), "--config", "a b"]
        return subprocess.Popen(command, cwd=tmp_path, env=os.environ | settings)

    return launch


@pytest.mark.parametrize("code", [0, 2, 3])
def test_job_that_is_done_or_would_fail_again_is_not_requeued(start, tmp_path, code):
    assert start(str(code)).wait(timeout=60) == code
    assert not (tmp_path / "requeued").exists()
    said = (tmp_path / "arguments").read_text().splitlines()
    assert said == ["auto", "-m", "cm3leon_jax.main", "--config", "a b"]


@pytest.mark.parametrize("code", ["1", "4", "5", "134"])
def test_job_that_ended_otherwise_is_requeued(start, tmp_path, code):
    assert start(code).wait(timeout=60) == 0
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"


def test_signal_before_the_limit_is_handed_on_and_the_save_waited_for(start, tmp_path):
    process = start("wait")
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    assert (tmp_path / "saved").exists()
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"


@pytest.mark.slow
def test_compiler_of_this_jax_knows_the_flags():
    flags = re.findall(r"--xla_gpu_\w+=\w+", SCRIPT.read_text())
    assert len(flags) > 4
    settings = os.environ | {"XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"}
    code = "import jax; print(jax.jit(lambda x: x + 1)(1))"  # it ends at an unknown one
    done = subprocess.run(
        [sys.executable, "-c", code], env=settings, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
