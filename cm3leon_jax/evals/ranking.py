"""How well candidates are ranked: NDCG as VisDial uses it.

Source: Visual Dialog, Das et al., arXiv:1611.08669; the metric of the 2018 challenge,
visualdialog.org/challenge/2018.
"""

from __future__ import annotations

import numpy as np


def ndcg(scores_NK: np.ndarray, relevance_NK: np.ndarray) -> float:
    """Returns the mean normalised discounted cumulative gain, in [0, 1].

    Only the first R places of a ranking count, R the number of candidates that anybody
    found relevant: place i, from 1, gains `relevance / log2(i + 1)`, and the sum is
    divided by that of the best ranking.

        scores [3 2 1]   relevance [0 1 .5]   R = 2
        gains 0 / 1 + 1 / 1.58, at best 1 / 1 + .5 / 1.58: 0.48

    Args:
      scores_NK: float[N, K], larger is better; equal ones keep their order.
      relevance_NK: float[N, K], shares of people who found a candidate right; a row of
        zeros is left out.

    Raises:
      ValueError: If shapes differ, or no row has a relevant candidate.
    """
    scores_NK, relevance_NK = np.asarray(scores_NK), np.asarray(relevance_NK)
    if scores_NK.shape != relevance_NK.shape or scores_NK.ndim != 2:
        raise ValueError(
            f"scores {scores_NK.shape} and relevance {relevance_NK.shape} must be two"
            " equal tables of questions x candidates"
        )
    values = []
    for scores_K, relevance_K in zip(scores_NK, relevance_NK, strict=True):
        count = int(np.count_nonzero(relevance_K))
        if not count:
            continue
        ranked = np.argsort(-scores_K, kind="stable")[:count]
        best = np.sort(relevance_K)[::-1][:count]
        discount = np.log2(np.arange(count) + 2)
        values.append((relevance_K[ranked] / discount).sum() / (best / discount).sum())
    if not values:
        raise ValueError("no question has a relevant candidate")
    return float(np.mean(values))
