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


def load_pool(paths: Sequence[pathlib.Path]) -> tuple[Pool, np.ndarray]:
    """Reads the parts of a pool, in order.

    Returns:
      The pool, whose near-duplicates of evaluation sets have vectors of nan, and
      bool[M], which these are.

    Raises:
      ValueError: If no document has a vector.
    """
    parts = [storage.load_arrays(path)[0] for path in paths]
    dim = max((part["vectors"].shape[1] for part in parts), default=0)
    if not dim:
        raise ValueError(
            "the bank has no vectors to search; write the shards with"
            " --config.embedder, or give ready-made lists with --config.neighbors"
        )
    counts = [len(part["is_near"]) for part in parts]
    vectors_ME = np.full((sum(counts), dim), np.nan, np.float32)
    ends = np.cumsum(counts)
    for part, count, end in zip(parts, counts, ends, strict=True):
        width = part["vectors"].shape[1]
        vectors_ME[end - count : end, :width] = part["vectors"].view(np.float32)
    is_near = np.concatenate([part["is_near"] for part in parts]).astype(bool)
    vectors_ME[is_near] = np.nan
    is_multimodal = np.concatenate([part["is_multimodal"] for part in parts])
    ids = np.arange(len(vectors_ME), dtype=np.int32)
    return Pool(ids, vectors_ME, is_multimodal.astype(bool)), is_near


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
