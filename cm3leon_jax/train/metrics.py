"""Numbers of a run: fetched late, averaged, sent to where people look at them.

    metrics.jsonl   {"step": 20, "loss": 5.1, "tokens_per_second": 7012.3, ...}

An entry's values are fetched from the device while the next step runs, so that logging
never makes the device wait. Where else they go (`writers`) and what follows from them
(`watch`) is given by the caller.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from cm3leon_jax import storage
from cm3leon_jax.train import hosts

SKIPPED = (
    "step_skipped"  # of a step: 1 if it changed nothing and its numbers do not count
)


class AbstractSink(Protocol):
    """A further place for a run's numbers and pictures."""

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Takes an entry."""
        ...

    def show(
        self, step: int, pictures: Mapping[str, np.ndarray], texts: Mapping[str, str]
    ) -> None:
        """Takes pictures uint8[Y, X, 3] and texts by name."""
        ...

    def rewind(self, step: int) -> None:
        """Drops entries after `step`, which a resumed run will write again."""
        ...

    def close(self) -> None:
        """Writes what is still in memory."""
        ...


Derive = Callable[[dict[str, float]], dict[str, float]]


class Writer:
    """Appends entries to a file; the last one stays on the device for a while."""

    def __init__(
        self, path: str, *, sinks: Sequence[AbstractSink] = (), derive: Derive = dict
    ):
        """Reads nothing yet; the file is made by the first entry.

        Args:
          path: the JSONL file.
          sinks: further places.
          derive: from an entry's means to what is written in their place.
        """
        self._journal = storage.Journal(path)
        self._sinks = sinks if hosts.is_first() else ()
        self._derive = derive
        self._pending: tuple[int, Any] | None = None
        self.latest: dict[str, float] = {}

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Takes an entry and writes the one before it.

        Args:
          step: steps done.
          values: scalars by name, on the device or not; a list of them is averaged,
            without those whose `SKIPPED` is 1 ("tokens" and it are counted all).
            "tokens" and "steps_per_second" make "tokens_per_second".

        Raises:
          FloatingPointError: see `flush`.
        """
        self.flush()
        self._pending = (step, values)

    def flush(self) -> None:
        """Writes the entry that is still on the device.

        Raises:
          FloatingPointError: if one of its values is not finite; it is written first.
        """
        if self._pending is None:
            return
        step, values = self._pending
        self._pending = None
        numbers = _means(jax.device_get(values))
        if "tokens" in numbers and "steps_per_second" in numbers:
            rate = numbers.pop("tokens") * numbers["steps_per_second"]
            numbers["tokens_per_second"] = rate
        numbers = self._derive(numbers)
        # JSON has no NaN: what is not finite is written as text.
        entry = {k: v if math.isfinite(v) else str(v) for k, v in numbers.items()}
        if hosts.is_first():
            self._journal.append(json.dumps({"step": step} | entry))
        for sink in self._sinks:
            sink.write(step, numbers)
        self.latest = numbers
        for name, value in numbers.items():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"step {step}: {name} is {value}; lower the learning rate, or"
                    " look at the rows of this step; the last checkpoint is sound"
                )

    def show(
        self, step: int, pictures: Mapping[str, np.ndarray], texts: Mapping[str, str]
    ) -> None:
        """Sends pictures uint8[Y, X, 3] and texts to the sinks that show such things."""
        for sink in self._sinks:
            sink.show(step, pictures, texts)

    def rewind(self, step: int) -> None:
        """Drops entries after `step`, which a resumed run will write again."""
        for sink in self._sinks:
            sink.rewind(step)
        if hosts.is_first():
            self._journal.keep(lambda line: _is_until(line, step))

    def sync(self) -> None:
        """Returns when the entries so far would outlive this process's machine."""
        if hosts.is_first():
            self._journal.flush()

    def close(self) -> None:
        """Writes what is still in memory, whatever made the run end."""
        try:
            self.flush()
        finally:
            self.sync()
            for sink in self._sinks:
                sink.close()


def read(path: str) -> list[dict[str, Any]]:
    """Returns the entries of a file that `Writer` wrote, in order."""
    lines = storage.place(path).read_text().splitlines()
    return [json.loads(line) for line in lines]


def _means(host: Mapping[str, Any]) -> dict[str, float]:
    """The mean of every name over the steps that were not skipped.

    Where all were, only what counts every step is left.
    """
    skipped = np.atleast_1d(np.asarray(host.get(SKIPPED, 0.0), np.float64)) > 0
    numbers = {}
    for name, value in host.items():
        values = np.asarray(value, np.float64)
        if values.shape == skipped.shape and name not in (SKIPPED, "tokens"):
            values = values[~skipped]
        if values.size:
            numbers[name] = float(np.mean(values))
    return numbers


def _is_until(line: str, step: int) -> bool:
    try:
        return json.loads(line)["step"] <= step
    except json.JSONDecodeError:  # a line cut by a killed process
        return False
