"""The neighbours of every document of a set, found in a bank.

Queries go through in batches of one fixed shape; the few candidates of each query are
scored again one by one in float64 before they are chosen from. So a query's neighbours
do not depend on which others are in its batch, and hosts may share a set as they like.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import numpy as np

from cm3leon_jax.retrieval import chunks, index, strategy

_SEARCHES = 2  # of a batch: by picture and by text


@dataclasses.dataclass(frozen=True)
class Vectors:
    """The vectors of a set of documents.

    Attributes:
      ids: int32[N], not negative; one numbering for queries and bank, so that a
        document is never its own neighbour. Ids of queries outside the bank must not
        occur in it.
      text: float32[N, E] unit vectors, rows of nan for documents without text.
      image: float32[N, E] unit vectors of (the mean of) their pictures, nan likewise.
      text_dropped: float32[N, E], of the text with a share of its pieces dropped:
        what a query searches with in training. None to search with `text`.
      image_dropped: Likewise for the picture.
    """

    ids: np.ndarray
    text: np.ndarray
    image: np.ndarray
    text_dropped: np.ndarray | None = None
    image_dropped: np.ndarray | None = None

    def __post_init__(self):
        shape = (len(self.ids), *np.shape(self.text)[1:])
        for name in ("text", "image", "text_dropped", "image_dropped"):
            array = getattr(self, name)
            if array is not None and np.shape(array) != shape:
                raise ValueError(
                    f"{name} is {np.shape(array)}, expected {shape} like ids and text"
                )


class Neighbors(NamedTuple):
    """Neighbours of N documents, S at most each.

    Attributes:
      ids: int32[N, S] of the bank, -1 for none; those found by picture first.
      scores: float32[N, S], relevance, 0 for none.
      by_image: bool[N, S], True where the query's picture found it.
    """

    ids: np.ndarray
    scores: np.ndarray
    by_image: np.ndarray


@dataclasses.dataclass(frozen=True)
class Pool:
    """The documents that may be neighbours, as they are searched.

    Attributes:
      ids: int32[M], in one numbering with the queries.
      vectors: float32[M, E], document vectors; rows of nan are never found.
      is_multimodal: bool[M], True for documents of text and picture.
    """

    ids: np.ndarray
    vectors: np.ndarray
    is_multimodal: np.ndarray

    @classmethod
    def of(cls, bank: Vectors) -> Pool:
        """Makes the document vectors of a set."""
        return cls(
            bank.ids,
            strategy.document_vectors(bank.text, bank.image),
            np.asarray(
                np.isfinite(bank.text[:, :1]).any(1)
                & np.isfinite(bank.image[:, :1]).any(1)
            ),
        )


class AbstractIndex(Protocol):
    """Vectors that are searched: `index.Index`, `faiss_index.FaissIndex`."""

    def search(self, queries_NE: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns float32[N, k] scores and int32[N, k] rows."""
        ...


class AbstractBank(Protocol):
    """Documents that are searched: `Held` by this host, or `spread.Spread` over all.

    Attributes:
      ids: int32[M], in one numbering with the queries.
      is_multimodal: bool[M], True for documents of text and picture.
      width: E.
    """

    ids: np.ndarray
    is_multimodal: np.ndarray
    width: int

    def search(self, queries_NE: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns int32[N, k] rows, -1 for none, and their vectors float[N, k, E]."""
        ...


class Held:
    """A pool that this host holds whole; see `AbstractBank`."""

    def __init__(
        self,
        pool: Pool,
        open_index: Callable[[np.ndarray], AbstractIndex] = index.Index,
    ):
        """Places the pool.

        Args:
          pool: The documents.
          open_index: From float[M, E] to what searches it.

        Raises:
          ValueError: If the pool is empty.
        """
        self.ids, self.is_multimodal = pool.ids, pool.is_multimodal
        self._vectors_ME, self.width = pool.vectors, pool.vectors.shape[1]
        self._index = open_index(pool.vectors)

    def search(self, queries_NE: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns int32[N, k] rows, -1 for none, and their vectors float32[N, k, E].

        Raises:
          ValueError: If `k` or the width is wrong.
        """
        _, rows_NK = self._index.search(queries_NE, k)
        return rows_NK, self._vectors_ME[rows_NK]


class Searcher:
    """A bank that is searched by many documents."""

    def __init__(
        self,
        bank: AbstractBank,
        config: strategy.StrategyConfig,
        *,
        batch_size: int = 1_024,
    ):
        """Takes the bank.

        Args:
          bank: The documents that may be neighbours.
          config: The rules.
          batch_size: Queries searched at a time; smaller sets are filled up to it.
        """
        self._bank, self._config, self._batch_size = bank, config, batch_size

    def find(self, queries: Vectors) -> Neighbors:
        """Returns the neighbours of every query document.

        Raises:
          ValueError: If the widths differ.
        """
        text, image = queries.text, queries.image
        if queries.text_dropped is not None:
            text = queries.text_dropped
        if queries.image_dropped is not None:
            image = queries.image_dropped
        whole_NE = strategy.document_vectors(queries.text, queries.image)
        parts = []
        for first in range(0, len(queries.ids), self._batch_size):
            rows = slice(first, first + self._batch_size)
            by_image, by_text = (
                self._candidates(vectors[rows]) for vectors in (image, text)
            )
            ids = queries.ids[rows]
            parts.append(
                strategy.choose(ids, whole_NE[rows], by_image, by_text, self._config)
            )
        if not parts:
            shape = (0, self._config.num_neighbors)
            return Neighbors(
                np.zeros(shape, np.int32),
                np.zeros(shape, np.float32),
                np.zeros(shape, bool),
            )
        return Neighbors(*(np.concatenate(each) for each in zip(*parts, strict=True)))

    def rest(self, num_batches: int) -> None:
        """Takes part in other hosts' searches of a bank that all search together."""
        for _ in range(_SEARCHES * num_batches):
            self._candidates(np.zeros((0, self._bank.width), np.float32))

    def _candidates(self, queries_NE: np.ndarray) -> strategy.Candidates:
        """Searches, and scores what was found again, each row by itself."""
        bank = self._bank
        padded_NE = _filled_up(queries_NE, self._batch_size)
        # One more than asked for, because the query itself may be among them.
        found = bank.search(padded_NE, self._config.num_candidates + 1)
        rows_NK, vectors_NKE = (each[: len(queries_NE)] for each in found)
        scores_NK = np.einsum("ne,nke->nk", queries_NE, vectors_NKE, dtype=np.float64)
        is_none_NK = rows_NK == chunks.NONE
        return strategy.Candidates(
            np.where(is_none_NK, strategy.NONE, bank.ids[rows_NK]),
            np.where(is_none_NK, -np.inf, scores_NK),
            vectors_NKE,
            bank.is_multimodal[rows_NK],
        )


def find(
    queries: Vectors,
    bank: Vectors,
    config: strategy.StrategyConfig,
    *,
    batch_size: int = 1_024,
    mesh: jax.sharding.Mesh | None = None,
) -> Neighbors:
    """Returns the neighbours of every query document: a `Searcher` used once.

    Args:
      queries: The documents that want neighbours.
      bank: The documents that may be neighbours.
      config: The rules.
      batch_size: Queries searched at a time.
      mesh: Devices to spread the bank over; None for one.

    Raises:
      ValueError: If the bank is empty, or the widths differ.
    """
    open_index = functools.partial(index.Index, mesh=mesh)
    held = Held(Pool.of(bank), open_index)
    searcher = Searcher(held, config, batch_size=batch_size)
    return searcher.find(queries)


def near_duplicates(
    documents_NE: np.ndarray,
    others_ME: np.ndarray,
    max_similarity: float,
    *,
    batch_size: int = 1_024,
    open_index: Callable[[np.ndarray], AbstractIndex] = index.Index,
) -> np.ndarray:
    """Returns which documents are near-duplicates of any other: of an evaluation set.

    The score is that of the strategy's near-duplicates: document vector against
    document vector.

    Args:
      documents_NE: float[N, E], document vectors; rows of nan are like nothing.
      others_ME: float[M, E], document vectors of the others.
      max_similarity: What is nearer than this is a near-duplicate; 1 or more: nothing.
      batch_size: Documents searched at a time.
      open_index: From float[M, E] to what searches it.

    Returns:
      bool[N].
    """
    is_near_N = np.zeros(len(documents_NE), bool)
    if max_similarity >= 1 or not len(others_ME):
        return is_near_N
    searched = open_index(others_ME)
    for first in range(0, len(documents_NE), batch_size):
        part_NE = documents_NE[first : first + batch_size]
        _, rows_N1 = searched.search(_filled_up(part_NE, batch_size), 1)
        rows_N = rows_N1[: len(part_NE), 0]
        scores_N = np.einsum("ne,ne->n", part_NE, others_ME[rows_N], dtype=np.float64)
        is_near = (rows_N != chunks.NONE) & (scores_N > max_similarity)
        is_near_N[first : first + len(part_NE)] = is_near
    return is_near_N


def _filled_up(queries_NE: np.ndarray, batch_size: int) -> np.ndarray:
    """Queries of one fixed shape; the added ones find nothing."""
    padding = ((0, batch_size - len(queries_NE)), (0, 0))
    return np.pad(queries_NE, padding, constant_values=np.nan)
