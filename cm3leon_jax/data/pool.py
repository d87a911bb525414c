"""The vectors of documents in shards: as queries, and as the pool that is searched.

A pool's file holds, of consecutive bank documents, `vectors` float32[n, E] (document
vectors, nan for none), `is_multimodal` and `is_near` uint8[n]: of text and picture, and
near-duplicate of an evaluation set.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import safetensors

from cm3leon_jax import storage
from cm3leon_jax.data.joining import READ
from cm3leon_jax.data.record import Record
from cm3leon_jax.data.shards import Source
from cm3leon_jax.retrieval import strategy
from cm3leon_jax.retrieval.neighbors import Pool, Vectors

KEPT_OUT = "kept_out.safetensors"  # beside the sets: numbers of bank documents


def read(source: Source, places: range, first_id: int) -> Vectors:
    """The vectors of consecutive documents, as float32.

    Args:
      source: The split.
      places: Which of its documents.
      first_id: Id of the first of them.
    """
    text, image, text_dropped, image_dropped = [], [], [], []
    for record in in_order(source, places):
        text.append(record.text_vector if record else [])
        image.append(record.image_vector if record else [])
        text_dropped.append(record.query_text_vector if record else [])
        image_dropped.append(record.query_image_vector if record else [])
    dim = max((len(one) for one in (*text, *image)), default=0)
    has_dropped = any(len(one) for one in (*text_dropped, *image_dropped))
    return Vectors(
        ids=np.arange(first_id, first_id + len(places), dtype=np.int32),
        text=_matrix(text, dim),
        image=_matrix(image, dim),
        text_dropped=_matrix(text_dropped, dim) if has_dropped else None,
        image_dropped=_matrix(image_dropped, dim) if has_dropped else None,
    )


def documents(source: Source) -> np.ndarray:
    """float32[N, E], the document vectors of a split."""
    made = read(source, range(len(source)), 0)
    return strategy.document_vectors(made.text, made.image)


def save_pool(path: pathlib.Path, pool: Pool, is_near: np.ndarray) -> None:
    """Writes a part of a pool; the vectors may have width 0 if no document has one."""
    # Safetensors refuses what is not finite when it is read: bits are kept as they are.
    storage.save_arrays(
        path,
        {
            "vectors": pool.vectors.view(np.uint32),
            "is_multimodal": pool.is_multimodal.astype(np.uint8),
            "is_near": is_near.astype(np.uint8),
        },
    )


class Parts:
    """A pool on disk: its vectors are read row by row, the rest is at hand.

    Attributes:
      is_multimodal: bool[M], True for documents of text and picture.
      is_near: bool[M], near-duplicates of evaluation sets.
      width: E.
    """

    def __init__(self, paths: Sequence[pathlib.Path]):
        """Reads all but the vectors of the parts, in order.

        Raises:
          ValueError: If no document has a vector.
        """
        self._paths = list(paths)
        self._widths, multimodal, near = [], [], []
        for path in paths:
            with safetensors.safe_open(path, "numpy") as file:
                self._widths.append(file.get_slice("vectors").get_shape()[1])
                multimodal.append(file.get_tensor("is_multimodal"))
                near.append(file.get_tensor("is_near"))
        self.width = max(self._widths, default=0)
        if not self.width:
            raise ValueError(
                "the bank has no vectors to search; write the shards with"
                " --config.embedder, or give ready-made lists with --config.neighbors"
            )
        self._starts = np.cumsum([0, *map(len, near)])
        self.is_multimodal = np.concatenate(multimodal).astype(bool)
        self.is_near = np.concatenate(near).astype(bool)

    def __len__(self) -> int:
        return len(self.is_near)

    def vectors(self, first: int, end: int) -> np.ndarray:
        """float32[end - first, E]; nan for near-duplicates, and where there is none."""
        found_ME = np.full((end - first, self.width), np.nan, np.float32)
        number = int(np.searchsorted(self._starts, first, side="right")) - 1
        while number < len(self._paths) and (start := int(self._starts[number])) < end:
            low, high = max(first, start), min(end, int(self._starts[number + 1]))
            if width := self._widths[number]:
                with safetensors.safe_open(self._paths[number], "numpy") as file:
                    rows = file.get_slice("vectors")[low - start : high - start]
                found_ME[low - first : high - first, :width] = rows.view(np.float32)
            number += 1
        found_ME[self.is_near[first:end]] = np.nan
        return found_ME


def kept_out(source: Source) -> np.ndarray:
    """int32[n], the numbers of bank documents that nobody may find, of a joined set."""
    path = source.folder.parent / KEPT_OUT
    if not path.exists():
        return np.zeros(0, np.int32)
    return storage.load_arrays(path)[0]["ids"]


def in_order(source: Source, places: range) -> Iterator[Record | None]:
    """The records of consecutive places, read some thousand at a time."""
    for first in range(places.start, places.stop, READ):
        yield from source.records(range(first, min(first + READ, places.stop)))


def _matrix(rows: Sequence[Any], dim: int) -> np.ndarray:
    """Rows as float32[N, E]; an empty row becomes nan."""
    matrix = np.full((len(rows), dim), np.nan, np.float32)
    for index, row in enumerate(rows):
        if len(row):
            matrix[index] = row
    return matrix
