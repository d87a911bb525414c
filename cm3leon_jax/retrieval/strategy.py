"""Candidates to neighbours: relevance, modality, diversity.

Two documents are found by the query's text and two by its picture. Which vectors each
score compares:

- relevance: the query's text vector, or its picture vector (with a share of the query
  dropped, in training) against the bank documents' vectors;
- near-duplicates: the query document's vector, from whatever parts it has and nothing
  dropped, against the candidate document's vector; and candidate document against
  chosen document.

A document's vector is the mean of its unit text and unit picture vectors, scaled to
length 1 again, so that every score is a cosine and documents of one part compare with
documents of two. Nothing here is random. Numpy only.

Source: CM3Leon, arXiv:2309.02591, section 2.1 (two by image and two by text, scores of
at most 0.9, a fifth of the query dropped); RA-CM3, arXiv:2211.12561, section 3.2.

Letters: N queries, K candidates, S chosen documents, E width of the vectors.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from typing import NamedTuple

import numpy as np

from cm3leon_jax.retrieval import rules

NONE = -1  # id where there is no neighbour


@dataclasses.dataclass(frozen=True)
class StrategyConfig:
    """How neighbours are chosen.

    Attributes:
      num_by_image: Neighbours found by the query's picture.
      num_by_text: Neighbours found by the query's text.
      num_candidates: Documents looked at for each; more find a neighbour where many
        are near-duplicates.
      max_similarity: Candidates whose document vector is nearer than this to the
        query's, or to a chosen one's, are skipped; 1 keeps all but the document.
      min_score: Relevance below which nothing is taken; -1 takes all.
      prefer_multimodal: Take documents with text and picture before others.
      rule: A file of `retrieval/rules/` that orders candidates; empty: by relevance.
    """

    num_by_image: int = 2
    num_by_text: int = 2
    num_candidates: int = 64
    max_similarity: float = 0.9  # CM3Leon, section 2.1
    min_score: float = -1.0
    prefer_multimodal: bool = True
    rule: str = ""

    def __post_init__(self):
        known = [one.name for one in pkgutil.iter_modules(rules.__path__)]
        if self.rule and self.rule not in known:
            raise ValueError(f"strategy.rule={self.rule!r} is unknown; known: {known}")
        wanted = max(self.num_by_image, self.num_by_text)
        if min(self.num_by_image, self.num_by_text) < 0 or not wanted:
            raise ValueError(
                f"num_by_image={self.num_by_image} and num_by_text={self.num_by_text}"
                " must not be negative, nor both 0"
            )
        if self.num_candidates < wanted:
            raise ValueError(
                f"num_candidates={self.num_candidates} must be at least {wanted}"
            )

    @property
    def num_neighbors(self) -> int:
        """Neighbours a document has at most."""
        return self.num_by_image + self.num_by_text


class Candidates(NamedTuple):
    """What one search found for each query, in any order.

    Attributes:
      ids_NK: int32[N, K], -1 where there is none.
      scores_NK: float[N, K], relevance.
      vectors_NKE: float[N, K, E], document vectors.
      is_multimodal_NK: bool[N, K], True for documents of text and picture.
    """

    ids_NK: np.ndarray
    scores_NK: np.ndarray
    vectors_NKE: np.ndarray
    is_multimodal_NK: np.ndarray


def document_vectors(text_NE: np.ndarray, image_NE: np.ndarray) -> np.ndarray:
    """Returns the unit mean of unit text and picture vectors.

    Args:
      text_NE: float[N, E] unit vectors, rows of nan where there is no text.
      image_NE: float[N, E] likewise for pictures.

    Returns:
      float32[N, E]; nan where a document has neither.
    """
    has_text_N1 = np.isfinite(text_NE).all(axis=1, keepdims=True)
    has_image_N1 = np.isfinite(image_NE).all(axis=1, keepdims=True)
    sum_NE = np.where(has_text_N1, text_NE, 0) + np.where(has_image_N1, image_NE, 0)
    lengths_N1 = np.linalg.norm(sum_NE, axis=1, keepdims=True)
    is_known_N1 = (has_text_N1 | has_image_N1) & (lengths_N1 > 0)
    unit_NE = sum_NE / np.where(is_known_N1, lengths_N1, 1)
    return np.where(is_known_N1, unit_NE, np.nan).astype(np.float32)


def choose(
    query_ids_N: np.ndarray,
    query_NE: np.ndarray,
    by_image: Candidates,
    by_text: Candidates,
    config: StrategyConfig,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Picks each query's neighbours; those found by its picture come first.

    Args:
      query_ids_N: int[N], ids in the numbering of the bank.
      query_NE: float[N, E], the queries' document vectors, nothing dropped.
      by_image: What the queries' pictures found.
      by_text: What the queries' texts found.
      config: The rules.

    Returns:
      int32[N, S] ids (-1 for none, at the end), float32[N, S] relevance (0 for none),
      bool[N, S] True where the picture found it; S is `config.num_neighbors`.
    """
    chosen = []  # (ids_N, scores_N, vectors_NE, is_by_image) one a slot
    for found, count, is_by_image in (
        (by_image, config.num_by_image, True),
        (by_text, config.num_by_text, False),
    ):
        ordered = _ordered(found, config)
        allowed_NK = _allowed(ordered, query_ids_N, query_NE, config)
        for ids_N, _, vectors_NE, _ in chosen:
            allowed_NK &= _is_unlike(ordered, ids_N, vectors_NE, config)
        for _ in range(count):
            one = _first(ordered, allowed_NK)
            allowed_NK &= _is_unlike(ordered, one[0], one[2], config)
            chosen.append((*one, is_by_image))
    ids_NS = np.stack([ids for ids, _, _, _ in chosen], axis=1).astype(np.int32)
    scores_NS = np.stack([scores for _, scores, _, _ in chosen], axis=1)
    is_none_NS = ids_NS == NONE
    by_image_NS = np.array([flag for _, _, _, flag in chosen])[None] & ~is_none_NS
    order_NS = np.argsort(is_none_NS, axis=1, kind="stable")
    return (
        np.take_along_axis(ids_NS, order_NS, axis=1),
        np.take_along_axis(scores_NS, order_NS, axis=1).astype(np.float32),
        np.take_along_axis(by_image_NS, order_NS, axis=1),
    )


def _ordered(found: Candidates, config: StrategyConfig) -> Candidates:
    """Sorts candidates: multi-modal first, then by score or rule, then by id."""
    keys = [found.ids_NK, -found.scores_NK]
    if config.rule:
        rule = importlib.import_module(f"{rules.__name__}.{config.rule}")
        keys.append(-rule.rank(found))
    if config.prefer_multimodal:
        keys.append(~found.is_multimodal_NK)
    order_NK = np.lexsort(keys, axis=1)
    return Candidates(
        np.take_along_axis(found.ids_NK, order_NK, axis=1),
        np.take_along_axis(found.scores_NK, order_NK, axis=1),
        np.take_along_axis(found.vectors_NKE, order_NK[:, :, None], axis=1),
        np.take_along_axis(found.is_multimodal_NK, order_NK, axis=1),
    )


def _allowed(
    found: Candidates,
    query_ids_N: np.ndarray,
    query_NE: np.ndarray,
    config: StrategyConfig,
) -> np.ndarray:
    """bool[N, K]: exists, relevant enough, not the query nor nearly it."""
    is_relevant_NK = (found.ids_NK != NONE) & (found.scores_NK >= config.min_score)
    return is_relevant_NK & _is_unlike(found, query_ids_N, query_NE, config)


def _is_unlike(
    found: Candidates, ids_N: np.ndarray, vectors_NE: np.ndarray, config: StrategyConfig
) -> np.ndarray:
    """bool[N, K]: another document than `ids_N`, and no near-duplicate of it."""
    similarity_NK = np.einsum("ne,nke->nk", vectors_NE, found.vectors_NKE)
    # Written so that a vector of nan, a slot without neighbour, excludes nothing.
    is_near_NK = similarity_NK > config.max_similarity
    is_same_NK = found.ids_NK == ids_N[:, None]
    return ~(is_near_NK & (config.max_similarity < 1)) & ~is_same_NK


def _first(
    found: Candidates, allowed_NK: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first allowed candidate: its id, score and vector, or -1, 0 and nan."""
    rows_N, first_N = np.arange(len(allowed_NK)), allowed_NK.argmax(axis=1)
    exists_N = allowed_NK[rows_N, first_N]
    return (
        np.where(exists_N, found.ids_NK[rows_N, first_N], NONE),
        np.where(exists_N, found.scores_NK[rows_N, first_N], 0),
        np.where(exists_N[:, None], found.vectors_NKE[rows_N, first_N], np.nan),
    )
