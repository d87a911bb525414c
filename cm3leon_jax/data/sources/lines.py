"""JSON objects, one a line, with nothing trusted: sizes bounded, every line judged."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from typing import Any

from cm3leon_jax.data.refusals import Reason, RefusedError
from cm3leon_jax.data.sources import row as rows

MAX_BYTES = 4_000_000  # of a line


def read(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any] | RefusedError]]:
    """Yields the number of every line that is not blank, and its object or refusal."""
    with open(path, "rb") as file:
        number = 0
        while line := file.readline(MAX_BYTES + 1):
            number += 1
            if len(line) > MAX_BYTES and not line.endswith(b"\n"):
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_BYTES)
                refused = f"a line of more than {MAX_BYTES} bytes"
                yield number, RefusedError(Reason.LONG_CAPTION, refused)
            elif line.strip():
                try:
                    yield number, parse(line)
                except RefusedError as error:
                    yield number, error


def parse(data: bytes) -> dict[str, Any]:
    """Reads one JSON object.

    Raises:
      RefusedError: If the bytes are no UTF-8, or no JSON object.
    """
    text = rows.decode(data)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RefusedError(Reason.MALFORMED, f"it is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise RefusedError(Reason.MALFORMED, "it is no JSON object")
    return value
