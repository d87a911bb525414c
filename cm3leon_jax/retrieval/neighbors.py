"""The neighbours of every document of a set, found in a bank.

Queries go through in batches of one fixed shape; the few candidates of each query are
scored again one by one in float64 before they are chosen from. So a query's neighbours
do not depend on which others are in its batch, and hosts may share a set as they like.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from cm3leon_jax.retrieval import index, strategy


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


def find(
    queries: Vectors,
    bank: Vectors,
    config: strategy.StrategyConfig,
    *,
    batch_size: int = 1_024,
    mesh: jax.sharding.Mesh | None = None,
) -> Neighbors:
    """Returns the neighbours of every query document.

    Args:
      queries: The documents that want neighbours.
      bank: The documents that may be neighbours.
      config: The rules.
      batch_size: Queries searched at a time.
      mesh: Devices to spread the bank over; None for one.

    Raises:
      ValueError: If the bank is empty, or the widths differ.
    """
    bank_vectors_ME = strategy.document_vectors(bank.text, bank.image)
    searched = index.Index(bank_vectors_ME, mesh=mesh)
    is_multimodal_M = np.isfinite(bank.text[:, 0]) & np.isfinite(bank.image[:, 0])
    text = queries.text if queries.text_dropped is None else queries.text_dropped
    image = queries.image if queries.image_dropped is None else queries.image_dropped
    whole_NE = strategy.document_vectors(queries.text, queries.image)
    parts = []
    for first in range(0, len(queries.ids), batch_size):
        rows = slice(first, first + batch_size)
        by_image, by_text = (
            _candidates(
                vectors[rows],
                searched,
                bank.ids,
                bank_vectors_ME,
                is_multimodal_M,
                num_candidates=config.num_candidates,
                batch_size=batch_size,
            )
            for vectors in (image, text)
        )
        ids = queries.ids[rows]
        parts.append(strategy.choose(ids, whole_NE[rows], by_image, by_text, config))
    if not parts:
        shape = (0, config.num_neighbors)
        return Neighbors(
            np.zeros(shape, np.int32),
            np.zeros(shape, np.float32),
            np.zeros(shape, bool),
        )
    return Neighbors(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _candidates(
    queries_NE: np.ndarray,
    searched: index.Index,
    bank_ids_M: np.ndarray,
    bank_vectors_ME: np.ndarray,
    is_multimodal_M: np.ndarray,
    *,
    num_candidates: int,
    batch_size: int,
) -> strategy.Candidates:
    """Searches, and scores what was found again, each row by itself."""
    padding = ((0, batch_size - len(queries_NE)), (0, 0))
    padded_NE = np.pad(queries_NE, padding, constant_values=np.nan)
    # One more than asked for, because the query itself may be among them.
    _, rows_NK = searched.search(padded_NE, num_candidates + 1)
    rows_NK = rows_NK[: len(queries_NE)]
    vectors_NKE = bank_vectors_ME[rows_NK]
    scores_NK = np.einsum("ne,nke->nk", queries_NE, vectors_NKE, dtype=np.float64)
    is_none_NK = rows_NK == index.NONE
    return strategy.Candidates(
        np.where(is_none_NK, strategy.NONE, bank_ids_M[rows_NK]),
        np.where(is_none_NK, -np.inf, scores_NK),
        vectors_NKE,
        is_multimodal_M[rows_NK],
    )
