"""Runs a job as several hosts on one machine: N processes of M CPU devices each.

    python launch/local.py --hosts 2 --devices 4 -- \
        --config configs/pretrain.py:350m,debug --workdir runs/two-hosts \
        --config.shards=runs/quickstart/retrieve --config.num_cpu_devices=0

The same code as on a pod (`jax.distributed`, collectives by gloo). Every line of output
has its host's name in front. SIGTERM and SIGINT are handed on to all of them; when one
fails, the others get a minute to notice by themselves and are then ended. Ends with the
first exit code that is not 0.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

_GRACE_SECONDS = 60.0
_POLL_SECONDS = 0.1


def main(argv: Sequence[str]) -> int:
    """Starts the hosts and waits for them; returns the exit code."""
    parser = argparse.ArgumentParser(description="Several hosts on one machine.")
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--devices", type=int, default=1, help="of each host")
    parser.add_argument("--module", default="cm3leon_jax.main")
    parser.add_argument("arguments", nargs="*", help="of the job, after --")
    given = parser.parse_args(argv)
    command = [sys.executable, "-m", given.module, *given.arguments]
    where = f"127.0.0.1:{free_port()}"
    running = [
        start(command, environment(index, given.hosts, given.devices, where), index)
        for index in range(given.hosts)
    ]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: _tell(running, number))
    return wait(running)


def environment(index: int, hosts: int, devices: int, where: str) -> dict[str, str]:
    """The environment of one host (see `cm3leon_jax.train.meeting`)."""
    count = f"--xla_force_host_platform_device_count={devices}"
    flags = f"{os.environ.get('XLA_FLAGS', '')} {count}".strip()
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": flags,
        "CM3LEON_HOSTS": str(hosts),
        "CM3LEON_HOST": str(index),
        "CM3LEON_COORDINATOR": where,
    }


def start(
    command: Sequence[str], variables: dict[str, str], index: int
) -> subprocess.Popen[str]:
    """Starts a host, whose lines are shown with its name."""
    # A session of its own: Ctrl-C reaches it through us, once.
    process = subprocess.Popen(
        command,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    threading.Thread(target=_show, args=(process, index), daemon=True).start()
    return process


def wait(running: Sequence[subprocess.Popen[str]]) -> int:
    """Waits for all hosts; returns the first exit code that is not 0, as a shell's."""
    deadline = float("inf")
    first = 0
    while any(process.poll() is None for process in running):
        ended = [
            process.returncode for process in running if process.poll() is not None
        ]
        failed = [code for code in ended if code]
        if failed and not first:
            first = failed[0]
            deadline = time.monotonic() + _GRACE_SECONDS
        if time.monotonic() > deadline:
            _tell(running, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
    first = first or next((p.returncode for p in running if p.returncode), 0)
    return 128 - first if first < 0 else first


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _tell(running: Sequence[subprocess.Popen[str]], number: int) -> None:
    for process in running:
        if process.poll() is None:
            process.send_signal(number)


def _show(process: subprocess.Popen[str], index: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        print(f"host {index}: {line}", end="", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
