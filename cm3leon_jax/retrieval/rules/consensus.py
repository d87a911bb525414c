"""Puts the candidates first that most others are like: one odd match is no evidence.

A candidate's rank is the cosine of its document vector with the mean of all that its
query found.
"""

from __future__ import annotations

import numpy as np

from cm3leon_jax.retrieval import strategy


def rank(found: strategy.Candidates) -> np.ndarray:
    """Returns how like the others each candidate is, float[N, K].

    Args:
      found: What one search found; places without a candidate count in no mean.
    """
    is_there_NK = (found.ids_NK != strategy.NONE) & np.isfinite(found.vectors_NKE).all(
        axis=2
    )
    vectors_NKE = np.where(is_there_NK[:, :, None], found.vectors_NKE, 0.0)
    mean_NE = vectors_NKE.sum(axis=1) / np.maximum(is_there_NK.sum(axis=1), 1)[:, None]
    lengths_N1 = np.maximum(np.linalg.norm(mean_NE, axis=1, keepdims=True), 1e-9)
    return np.einsum("nke,ne->nk", vectors_NKE, mean_NE / lengths_N1)
