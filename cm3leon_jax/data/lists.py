"""Ready-made neighbour lists: whoever has searched already need not search again.

A file of JSON lines, or a folder of such files (`*.jsonl`), one document a line:

    {"id": "a/1.jpg", "neighbors": ["b/7.jpg", "c/2.jpg"],
     "scores": [0.8, 0.7], "by_image": [true, false]}

`id` is the document's id in the shards, `neighbors` ids of documents of the bank, best
first; `scores` and `by_image` may be missing. The lists and the bank's ids are held in
memory. Ids that the bank lacks, and the document itself, are left out and counted.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cm3leon_jax.data.record import MAX_NEIGHBORS
from cm3leon_jax.retrieval.neighbors import Neighbors
from cm3leon_jax.retrieval.strategy import NONE


class Lists:
    """Neighbours by a document's id."""

    def __init__(self, path: pathlib.Path, numbers: Mapping[str, int]):
        """Reads all lists.

        Args:
          path: The file or folder.
          numbers: Of the bank's documents, by id.

        Raises:
          FileNotFoundError: If there is no file.
          ValueError: If a line is malformed, with its file and number.
        """
        files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        if not files or not files[0].exists():
            raise FileNotFoundError(f"no neighbour lists in {path} (*.jsonl)")
        self._numbers = numbers
        self._lists: dict[str, Mapping[str, Any]] = {
            record["id"]: record for file in files for record in _read(file)
        }

    def find(self, ids: Sequence[str]) -> tuple[Neighbors, int]:
        """Returns the neighbours of documents, and how many ids the bank lacks.

        Args:
          ids: Of the documents; one without a list has no neighbours.
        """
        shape = (len(ids), MAX_NEIGHBORS)
        found = Neighbors(
            np.full(shape, NONE, np.int32),
            np.zeros(shape, np.float32),
            np.zeros(shape, bool),
        )
        num_unknown = 0
        for row, name in enumerate(ids):
            kept, unknown = self._known(name)
            num_unknown += unknown
            for slot, values in enumerate(kept[:MAX_NEIGHBORS]):
                for array, value in zip(found, values, strict=True):
                    array[row, slot] = value
        return found, num_unknown

    def _known(self, name: str) -> tuple[list[tuple[int, float, bool]], int]:
        """A document's neighbours that the bank has, and how many it lacks."""
        record = self._lists.get(name)
        if record is None:
            return [], 0
        columns = (record["neighbors"], record["scores"], record["by_image"])
        listed = [one for one in zip(*columns, strict=True) if one[0] in self._numbers]
        # A neighbour that is listed twice keeps its first place and its last numbers.
        distinct = {one[0]: one for one in listed}
        kept = [
            (self._numbers[other], score, by_image)
            for other, score, by_image in distinct.values()
            if other != name
        ]
        return kept, len(record["neighbors"]) - len(listed)


def _read(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """The lines of a file, one after the other."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _parsed(line, f"{path}, line {number}")


def _parsed(line: str, where: str) -> dict[str, Any]:
    """One line, with what may be missing filled in."""
    try:
        record = json.loads(line)
        names = [str(one) for one in record["neighbors"]]
        scores = [float(one) for one in record.get("scores", [0.0] * len(names))]
        flags = [bool(one) for one in record.get("by_image", [False] * len(names))]
        if not len(names) == len(scores) == len(flags) or not np.isfinite(scores).all():
            raise ValueError("neighbors, scores and by_image differ in length, or nan")
        name = str(record["id"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{where} is no neighbour list ({error}); see cm3leon_jax/data/lists.py"
        ) from error
    return {"id": name, "neighbors": names, "scores": scores, "by_image": flags}
