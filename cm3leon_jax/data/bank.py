"""A memory bank that prompts are looked up in: splits of shards with their vectors.

Documents that the job `retrieve` kept out, as near-duplicates of an evaluation set, are
not found here either.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from cm3leon_jax.data import pool, shards
from cm3leon_jax.data.record import Record
from cm3leon_jax.documents.document import Document
from cm3leon_jax.retrieval import neighbors
from cm3leon_jax.retrieval import strategy as strategies
from cm3leon_jax.retrieval.strategy import NONE, StrategyConfig

_READ = 4_096  # records read at a time
_DEFAULT_STRATEGY = StrategyConfig()


@dataclasses.dataclass(frozen=True)
class Found:
    """One retrieved document: its place in the bank, its score, its record."""

    place: int
    score: float
    record: Record

    def provenance(self) -> dict[str, str | float]:
        """Where it comes from, as JSON values."""
        record = self.record
        return {
            "id": record.id,
            "source": record.source,
            "licence": record.licence,
            "url": record.url,
            "score": round(self.score, 4),
        }


class Bank:
    """Documents that are found by the words of a prompt alone.

    A document's place counts through the splits in their order.

    Attributes:
      sources: The splits.
      strategy: Which of the candidates are taken.
    """

    def __init__(
        self,
        sources: Sequence[shards.Source],
        strategy: StrategyConfig = _DEFAULT_STRATEGY,
    ):
        """Reads the vectors of all documents; tokens are read when found.

        Args:
          sources: The splits.
          strategy: The rules by which training found its neighbours; how many are
            found is each search's own.

        Raises:
          ValueError: If no document has a vector.
        """
        self.sources = tuple(sources)
        self.strategy = strategy
        self._starts = np.cumsum([0, *(len(source) for source in self.sources)])
        vectors = [pair for source in self.sources for pair in _all_vectors(source)]
        width = max((len(v) for pair in vectors for v in pair), default=0)
        if not width:
            folders = ", ".join(str(source.folder) for source in self.sources)
            raise ValueError(
                f"{folders} has no vectors to search; write it with an embedder"
            )
        self._vectors = neighbors.Vectors(
            ids=np.arange(len(vectors), dtype=np.int32),
            text=np.stack([_filled(text, width) for text, _ in vectors]),
            image=np.stack([_filled(image, width) for _, image in vectors]),
        )
        kept_out = pool.kept_out(self.sources[0])
        self._vectors.text[kept_out] = self._vectors.image[kept_out] = np.nan

    def find(
        self,
        text_NE: np.ndarray | None,
        count: int,
        *,
        image_NE: np.ndarray | None = None,
    ) -> list[list[Found]]:
        """Returns the documents found by each text, picture, or both; best first.

        Args:
          text_NE: float[N, E], unit vectors of prompts, or None.
          count: How many at most; near-duplicates of one another are skipped.
          image_NE: float[N, E], unit vectors of pictures, or None. With both, the
            query is their unit mean, as a document's vector is.

        Raises:
          ValueError: If there is neither text nor picture.
        """
        given = [
            np.asarray(v, np.float32) for v in (text_NE, image_NE) if v is not None
        ]
        if not given:
            raise ValueError("a query needs a text vector, a picture vector, or both")
        query_NE = strategies.document_vectors(*given) if len(given) > 1 else given[0]
        if not count or not len(query_NE):
            return [[] for _ in query_NE]
        # Ids outside the bank: a prompt is no document of it.
        ids = np.arange(len(query_NE), dtype=np.int32) + len(self._vectors.ids)
        queries = neighbors.Vectors(ids, query_NE, np.full_like(query_NE, np.nan))
        rules = dataclasses.replace(self.strategy, num_by_image=0, num_by_text=count)
        size = min(len(query_NE), 1_024)
        found = neighbors.find(queries, self._vectors, rules, batch_size=size)
        return [
            [
                Found(int(place), float(score), self.record(int(place)))
                for place, score in zip(places, row, strict=True)
                if place != NONE
            ]
            for places, row in zip(found.ids, found.scores, strict=True)
        ]

    def record(self, place: int) -> Record:
        """The document at a place.

        Raises:
          ValueError: If it is damaged.
        """
        number = int(np.searchsorted(self._starts, place, side="right")) - 1
        source = self.sources[number]
        record = source.records([place - int(self._starts[number])])[0]
        if record is None:
            raise ValueError(
                f"record {place} of the bank {source.folder} is damaged; write its"
                " shards again"
            )
        return record

    def document(self, place: int) -> Document:
        """What stands in front of a prompt."""
        return self.record(place).document(self.sources[0].info.vocab)


def _all_vectors(source: shards.Source) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The text and picture vectors of a split, in order."""
    for start in range(0, len(source), _READ):
        for record in source.records(range(start, min(start + _READ, len(source)))):
            yield _vectors(record)


def _vectors(record: Record | None) -> tuple[np.ndarray, np.ndarray]:
    nothing = np.zeros(0, np.float32)
    if record is None:
        return nothing, nothing
    return record.text_vector, record.image_vector


def _filled(vector: np.ndarray, width: int) -> np.ndarray:
    """The vector as unit float32, or nan where the document lacks this part."""
    if not len(vector):
        return np.full(width, np.nan, np.float32)
    vector = vector.astype(np.float32)
    return vector / np.linalg.norm(vector)
