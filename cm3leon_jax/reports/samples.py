"""Samples of an evaluation on disk: a line of JSON each, pictures beside it.

samples.jsonl        {"key": "objects", "prompt": ..., "score": 1.0, ...}
samples/0007-drawn.png
"""

from __future__ import annotations

import dataclasses
import io
import json
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from cm3leon_jax import storage

_LINES = "samples.jsonl"
_PICTURES = "samples"


@dataclasses.dataclass(frozen=True)
class Sample:
    """One case as a person looks at it.

    Attributes:
      key: The number that it belongs to.
      prompt: What was asked, in words.
      score: 0 to 1, or None where nothing judges.
      expected: The right text, or the caption of the right picture.
      written: The text that came out, or what the judge read in the picture.
      is_read: Whether `written` was read by the judge.
      given: The picture that was given, uint8[Y, X, 3], or None.
      drawn: The picture that came out, or None.
      neighbours: Pictures of the retrieved documents.
    """

    key: str
    prompt: str
    score: float | None = None
    expected: str = ""
    written: str = ""
    is_read: bool = False
    given: np.ndarray | None = None
    drawn: np.ndarray | None = None
    neighbours: tuple[np.ndarray, ...] = ()


def write(folder: pathlib.Path, samples: Sequence[Sample]) -> None:
    """Writes samples and their pictures; the list last, so that it is never half."""
    lines = []
    for number, sample in enumerate(samples):
        record = dataclasses.asdict(sample)
        for name in ("given", "drawn"):
            pixels = record[name]
            record[name] = (
                None
                if pixels is None
                else _save(folder, f"{number:04d}-{name}", pixels)
            )
        record["neighbours"] = [
            _save(folder, f"{number:04d}-retrieved-{place}", pixels)
            for place, pixels in enumerate(sample.neighbours)
        ]
        lines.append(json.dumps(record, ensure_ascii=False))
    storage.write_bytes(folder / _LINES, ("\n".join(lines) + "\n").encode())


def read(folder: pathlib.Path) -> list[Sample]:
    """Reads what `write` wrote; no samples if there are none."""
    path = folder / _LINES
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line) if line else None
        if record is None:
            continue
        for name in ("given", "drawn"):
            if record[name] is not None:
                record[name] = _load(folder / record[name])
        record["neighbours"] = tuple(
            _load(folder / name) for name in record["neighbours"]
        )
        found.append(Sample(**record))
    return found


def _save(folder: pathlib.Path, name: str, pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    relative = f"{_PICTURES}/{name}.png"
    storage.write_bytes(folder / relative, buffer.getvalue())
    return relative


def _load(path: pathlib.Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
