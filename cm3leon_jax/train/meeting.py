"""How the processes of a run meet, before anything touches JAX's devices.

What differs from host to host stands in its environment, never in the config:

    CM3LEON_HOSTS          how many; "auto" asks the cluster (TPU pod, SLURM); 1 if unset
    CM3LEON_HOST           which this is, from 0; not with "auto"
    CM3LEON_COORDINATOR    address:port of host 0; not with "auto"
    CM3LEON_JOIN_SECONDS   how long to wait for the others; 300 if unset

JAX ends the process with a stack of C++ frames where a host is missing. So the hosts
say who they are to host 0 first, on the same port: who is missing, or comes twice, is
named.
"""

import os
import socket
import time
from collections.abc import Mapping

import jax

_AUTO = "auto"
_JOIN_SECONDS = 300
_RETRY_SECONDS = 0.2
_GO = b"go"
_MAX_LINE = 32  # bytes that a host may say


def join(environment: Mapping[str, str] = os.environ) -> None:
    """Meets the run's other processes; does nothing for a run of one, or again.

    Raises:
      ValueError: if the environment is contradictory, or two hosts say that they are
        the same.
      TimeoutError: if the others do not come in time; it says who, and where they were
        expected.
    """
    count = environment.get("CM3LEON_HOSTS", "1")
    if count == "1" or jax.distributed.is_initialized():
        return
    seconds = int(environment.get("CM3LEON_JOIN_SECONDS", _JOIN_SECONDS))
    if count == _AUTO:
        jax.distributed.initialize(initialization_timeout=seconds)
        return
    where = environment.get("CM3LEON_COORDINATOR", "")
    index = environment.get("CM3LEON_HOST", "")
    address, _, port = where.rpartition(":")
    digits = count.isdigit() and index.isdigit() and port.isdigit()
    if not digits or not address or int(index) >= int(count):
        raise ValueError(
            f"CM3LEON_HOSTS={count!r} needs CM3LEON_HOST (0 to {count} - 1, got"
            f" {index!r}) and CM3LEON_COORDINATOR (address:port, got {where!r}); set"
            " them, or CM3LEON_HOSTS=auto on a TPU pod or under SLURM"
        )
    deadline = time.monotonic() + seconds
    if index == "0":
        _gather(int(port), int(count), deadline, where)
    else:
        _report(address, int(port), int(index), deadline, where)
    jax.distributed.initialize(
        coordinator_address=where,
        num_processes=int(count),
        process_id=int(index),
        initialization_timeout=seconds,
    )


def _gather(port: int, count: int, deadline: float, where: str) -> None:
    """Host 0: waits until all others have said who they are, then lets them go on."""
    seen: dict[int, socket.socket] = {}
    with socket.create_server(("", port)) as server:
        while len(seen) < count - 1:
            left = deadline - time.monotonic()
            if left <= 0:
                missing = sorted(set(range(1, count)) - set(seen))
                raise TimeoutError(
                    f"of {count} hosts {missing} did not come to {where} in time; start"
                    " the same command on every host, and open the port between them"
                )
            server.settimeout(left)
            try:
                connection, _ = server.accept()
                connection.settimeout(left)
                said = connection.recv(_MAX_LINE).strip()
            except OSError:  # nobody in time, or one that said nothing
                continue
            if not said.isdigit() or not 0 < int(said) < count:
                connection.close()  # not one of ours
                continue
            if int(said) in seen:
                raise ValueError(
                    f"two hosts came to {where} as host {int(said)}; give each its own"
                    " CM3LEON_HOST"
                )
            seen[int(said)] = connection
    for connection in seen.values():
        connection.sendall(_GO)
        connection.close()


def _report(address: str, port: int, index: int, deadline: float, where: str) -> None:
    """Another host: says who it is to host 0 and waits until all are there."""
    reason = "nobody answers"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((address, port), timeout=left) as connection:
                connection.settimeout(left)
                connection.sendall(f"{index}\n".encode())
                if connection.recv(_MAX_LINE) == _GO:
                    return
                reason = "host 0 ended"
        except OSError as error:
            reason = str(error)
        time.sleep(_RETRY_SECONDS)
    raise TimeoutError(
        f"host {index} did not meet the others at {where} in time ({reason}); start the"
        " same command on every host, and see that this is host 0's address"
    )
