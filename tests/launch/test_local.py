"""Several hosts on one machine: they meet, are stopped together, and fail together."""

import pathlib
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
HOST = """
import os, sys, time
from cm3leon_jax.train import hosts, meeting
meeting.join()
import jax
print("devices", jax.local_device_count(), jax.device_count(), sys.argv[1:], flush=True)
print("all", hosts.gather(os.environ["CM3LEON_HOST"]), flush=True)
"""
WAITS = """
import os, signal, sys, time
def end(number, frame):
    print("told", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.delenv("XLA_FLAGS", raising=False)

    def launch(source, *options):
        (tmp_path / "job.py").write_text(source)
        command = [sys.executable, str(ROOT / "launch/local.py"), "--module=job"]
        return subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, text=True, cwd=tmp_path
        )

    return launch


def test_hosts_meet_with_their_devices_and_the_arguments(start):
    process = start(HOST, "--hosts=2", "--devices=3", "--", "--a=b c")
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
    for host in ("host 0", "host 1"):
        assert f"{host}: devices 3 6 ['--a=b c']" in said
        assert f"{host}: all ['0', '1']" in said


def test_signal_reaches_every_host(start):
    process = start(WAITS, "--hosts=2")
    for _ in range(2):
        assert "ready" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert {"host 0: told", "host 1: told"} == set(said.splitlines())


def test_first_failure_is_the_exit_code(start):
    source = "import os, sys\nsys.exit(3 * int(os.environ['CM3LEON_HOST']))"
    process = start(source, "--hosts=2")
    process.communicate(timeout=60)
    assert process.returncode == 3
