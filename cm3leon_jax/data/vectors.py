"""Text and image vectors of documents: given ones, or made by a bi-encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from cm3leon_jax.data.loading import Loaded
from cm3leon_jax.data.sources.row import Row

_MIN_COMPARED = 16  # pictures; fewer say little
_MIN_COSINE = 0.3


class AbstractVectors(Protocol):
    """Vectors that people already have (`sources.given.GivenVectors`)."""

    def find(self, row: Row) -> dict[str, np.ndarray]:
        """Returns float32[E] unit vectors of a row by "text" and "image"."""
        ...


class AbstractEmbedder(Protocol):
    """Texts and pictures to unit vectors (`embedders.clip.ClipEmbedder`)."""

    def embed_text(
        self, texts: Sequence[str], *, drop_prob: float = 0.0, seed: int = 0
    ) -> np.ndarray:
        """Returns float32[N, E]."""
        ...

    def embed_pictures(
        self, pictures: np.ndarray, *, drop_prob: float = 0.0, seed: int = 0
    ) -> np.ndarray:
        """Returns float32[N, E]."""
        ...


def find(
    rows: Sequence[Loaded],
    embedder: AbstractEmbedder | None,
    given: AbstractVectors | None,
    *,
    query_drop: dict[str, Any] | None = None,
) -> list[dict[str, np.ndarray]]:
    """Returns the vectors of every row: float16[E] by the record's field.

    A document's text vector is of all its text, its image vector the unit mean of those
    of its pictures; a part that it lacks has none.

    Args:
      rows: The documents, pictures decoded.
      embedder: Makes the vectors that are not given; None: there are then none.
      given: Vectors that are there already.
      query_drop: Options of the embedder for the query's vectors; None for none.

    Raises:
      ValueError: If the given vectors are not of the embedder's space.
    """
    ready = [given.find(row.row) if given else {} for row in rows]
    found = [{f"{kind}_vector": one for kind, one in some.items()} for some in ready]
    if embedder is not None:
        for fields, made in zip(found, _embed(rows, ready, embedder, ""), strict=True):
            fields |= made
        if query_drop is not None:
            queries = _embed(rows, [{}] * len(rows), embedder, "query_", **query_drop)
            for fields, query in zip(found, queries, strict=True):
                fields |= query
            _check_space(ready, queries)
    return [
        {name: vector.astype(np.float16) for name, vector in fields.items()}
        for fields in found
    ]


def _check_space(
    given: Sequence[dict[str, np.ndarray]], queries: Sequence[dict[str, np.ndarray]]
) -> None:
    """Refuses given vectors that queries could not find.

    A picture and the same with a fifth of it hidden are near in one space, and at right
    angles in two.
    """
    near = [
        float(np.dot(some["image"], query["query_image_vector"]))
        for some, query in zip(given, queries, strict=True)
        if "image" in some and "query_image_vector" in query
    ]
    if len(near) >= _MIN_COMPARED and np.mean(near) < _MIN_COSINE:
        raise ValueError(
            f"given vectors and the bi-encoder's differ (mean cosine {np.mean(near):.2f}"
            f" of {len(near)} pictures); give the bi-encoder that made them, or none"
        )


def _embed(
    rows: Sequence[Loaded],
    known: Sequence[Mapping[str, np.ndarray]],
    embedder: AbstractEmbedder,
    prefix: str,
    **drop: Any,
) -> list[dict[str, np.ndarray]]:
    """float32[E] of each row's text and of (the mean of) its pictures, if not known."""
    found: list[dict[str, np.ndarray]] = [{} for _ in rows]
    texts = [
        (place, row.row.text)
        for place, row in enumerate(rows)
        if row.row.text and "text" not in known[place]
    ]
    if texts:
        vectors_NE = embedder.embed_text([text for _, text in texts], **drop)
        for (place, _), vector in zip(texts, vectors_NE, strict=True):
            found[place][f"{prefix}text_vector"] = vector
    shown = [
        (place, one)
        for place, row in enumerate(rows)
        if "image" not in known[place]
        for one in row.pictures
    ]
    if shown:
        vectors_NE = embedder.embed_pictures(
            np.stack([one for _, one in shown]), **drop
        )
        places = np.array([place for place, _ in shown])
        for place in np.unique(places).tolist():
            own = vectors_NE[places == place]
            mean = own.mean(axis=0)
            vector = own[0] if len(own) == 1 else mean / np.linalg.norm(mean)
            found[place][f"{prefix}image_vector"] = vector
    return found
