"""What the processes of a run tell each other: small values, agreed on by all.

Every function is called by all processes at the same place of the program (see
`meeting` for how they meet); with one process none of them touches a device. Values are
JSON.
"""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils


def is_first() -> bool:
    """Whether this process is the one that writes what is written once."""
    return jax.process_index() == 0


def gather(value: Any) -> list[Any]:
    """Returns the value of every process, in their order."""
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = _everyone(np.array([len(data)], np.int32))[:, 0]
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(data)] = data
    rows = zip(_everyone(padded), sizes, strict=True)
    return [json.loads(row[:size].tobytes().decode()) for row, size in rows]


def first(value: Any) -> Any:
    """Returns the first process's value, on every process."""
    return gather(value if is_first() else None)[0]


def any_of(value: str) -> str:
    """Returns the first value that is not empty, on every process; "" if all are."""
    return next(filter(None, gather(value)), "")


def wait() -> None:
    """Returns when every process is here."""
    gather(None)


def _everyone(array: np.ndarray) -> np.ndarray:
    """Stacks an array of the same shape from every process."""
    return np.asarray(multihost_utils.process_allgather(array))


class Shared:
    """A number of which all processes see the same, the largest, at the same call."""

    def __init__(self, *, is_ahead: bool):
        """Touches no device with one process.

        Args:
          is_ahead: whether programs may be in flight together; then an answer is that
            of the call before, which is there already.
        """
        self._is_ahead = is_ahead
        self._last: jax.Array | None = None
        if jax.process_count() > 1:
            kinds = (jax.sharding.AxisType.Auto,)
            mesh = jax.make_mesh((jax.device_count(),), ("all",), kinds)
            spec = jax.sharding.PartitionSpec
            self._spread = jax.sharding.NamedSharding(mesh, spec("all"))
            everywhere = jax.sharding.NamedSharding(mesh, spec())
            self._largest = jax.jit(jnp.max, out_shardings=everywhere)

    def largest(self, mine: int) -> int:
        """Returns the largest number that any process gave; all must call it."""
        if jax.process_count() == 1:
            return mine
        local = np.full(jax.local_device_count(), mine, np.int32)
        given = jax.make_array_from_process_local_data(self._spread, local)
        now, before = self._largest(given), self._last
        if not self._is_ahead:
            return int(now)
        self._last = now
        return 0 if before is None else int(before)
