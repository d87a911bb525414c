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
from collections.abc import Mapping, Sequence
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
        self._lists: dict[str, Mapping[str, Any]] = {}
        for file in files:
            with file.open(encoding="utf-8") as lines:
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        record = _parsed(line, f"{file}, line {number}")
                        self._lists[record["id"]] = record

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
            record = self._lists.get(name)
            if record is None:
                continue
            known = [one for one in record["neighbors"] if one in self._numbers]
            num_unknown += len(record["neighbors"]) - len(known)
            scores = dict(zip(record["neighbors"], record["scores"], strict=True))
            flags = dict(zip(record["neighbors"], record["by_image"], strict=True))
            kept = [one for one in dict.fromkeys(known) if one != name][:MAX_NEIGHBORS]
            for slot, one in enumerate(kept):
                found.ids[row, slot] = self._numbers[one]
                found.scores[row, slot] = scores[one]
                found.by_image[row, slot] = flags[one]
        return found, num_unknown


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
