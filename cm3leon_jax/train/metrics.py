"""Numbers of a run, one JSON object a line, written one entry late.

    metrics.jsonl   {"step": 20, "loss": 5.1, "tokens_per_second": 7012.3, ...}

An entry's values are fetched from the device when the next one comes, so that
logging never makes the device wait.
"""

import json
import math
import pathlib
from typing import Any

import jax
import numpy as np


class Writer:
    """Appends entries to a file; the last one stays on the device for a while."""

    def __init__(self, path: str):
        """Reads nothing yet; the file is made by the first entry."""
        self._path = pathlib.Path(path)
        self._pending: tuple[int, Any] | None = None
        self.latest: dict[str, float] = {}

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Takes an entry and writes the one before it.

        Args:
          step: steps done.
          values: scalars by name, on the device or not; a list of them is averaged.
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
        host = jax.device_get(values)
        numbers = {k: float(np.mean(v)) for k, v in host.items()}
        if "tokens" in numbers and "steps_per_second" in numbers:
            rate = numbers.pop("tokens") * numbers["steps_per_second"]
            numbers["tokens_per_second"] = rate
        # JSON has no NaN: what is not finite is written as text.
        entry = {k: v if math.isfinite(v) else str(v) for k, v in numbers.items()}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a") as file:
            file.write(json.dumps({"step": step} | entry) + "\n")
        self.latest = numbers
        for name, value in numbers.items():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"step {step}: {name} is {value}; lower the learning rate, or"
                    " look at the rows of this step; the last checkpoint is sound"
                )

    def rewind(self, step: int) -> None:
        """Drops entries after `step`, which a resumed run will write again."""
        if not self._path.exists():
            return
        lines = self._path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if _is_until(line, step)]
        if len(kept) < len(lines):
            self._path.write_text("".join(kept))


def read(path: str) -> list[dict[str, Any]]:
    """Returns the entries of a file that `Writer` wrote, in order."""
    lines = pathlib.Path(path).read_text().splitlines()
    return [json.loads(line) for line in lines]


def _is_until(line: str, step: int) -> bool:
    try:
        return json.loads(line)["step"] <= step
    except json.JSONDecodeError:  # a line cut by a killed process
        return False
