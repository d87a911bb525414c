"""Hosts that meet, and hosts that wait in vain."""

import socket
import subprocess
import sys
import time

import pytest

from cm3leon_jax.train import hosts, meeting

_JOIN = """
import os, sys
count, index, where, seconds = sys.argv[1:]
os.environ.update(
    JAX_PLATFORMS="cpu", CM3LEON_HOSTS=count, CM3LEON_HOST=index,
    CM3LEON_COORDINATOR=where, CM3LEON_JOIN_SECONDS=seconds,
)
from cm3leon_jax.train import hosts, meeting
try:
    meeting.join()
except (ValueError, TimeoutError) as error:
    print("refused:", error)
    os._exit(2)
print(hosts.gather({"index": index}), hosts.first(index), hosts.any_of("x" * int(index)))
"""


def launch(count, index, where, seconds=60):
    command = [sys.executable, "-c", _JOIN, *map(str, (count, index, where, seconds))]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def free_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def test_two_hosts_agree():
    where = free_address()
    both = [launch(2, index, where) for index in range(2)]
    for process in both:
        said, _ = process.communicate(timeout=60)
        assert "[{'index': '0'}, {'index': '1'}] 0 x" in said


def refusal(process):
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2, said
    return said


def test_host_that_waits_in_vain_says_for_whom_in_time():
    start = time.monotonic()
    where, elsewhere = free_address(), free_address()
    first, third = launch(3, 0, where, 4), launch(3, 2, where, 4)
    lost = launch(3, 1, elsewhere, 4)
    assert "of 3 hosts [1] did not come" in refusal(first)
    assert "host 2 did not meet the others" in refusal(third)
    assert f"host 1 did not meet the others at {elsewhere}" in refusal(lost)
    assert time.monotonic() - start < 30


def test_two_that_say_they_are_the_same_host_are_named():
    where = free_address()
    first, *twins = (launch(3, index, where, 6) for index in (0, 1, 1))
    assert "two hosts came" in refusal(first)
    assert all("host 1 did not meet the others" in refusal(twin) for twin in twins)


@pytest.mark.parametrize(
    "environment",
    [
        {"CM3LEON_HOSTS": "2"},
        {"CM3LEON_HOSTS": "2", "CM3LEON_HOST": "1"},
        {"CM3LEON_HOSTS": "two", "CM3LEON_HOST": "0", "CM3LEON_COORDINATOR": "a:1"},
    ],
)
def test_half_an_environment_is_refused_with_what_is_missing(environment):
    with pytest.raises(ValueError, match="needs CM3LEON_HOST"):
        meeting.join(environment)


def test_one_process_needs_nothing():
    meeting.join({})
    assert hosts.is_first()
    assert hosts.gather({"a": 1}) == [{"a": 1}]
    assert hosts.any_of("") == ""
