"""Masks spans wherever they fall, across `<break>` too: what CM3Leon gave up.

    ids   [</s> a red circle <break> I1 I2 ... I1024 </s>]    span: circle <break> I1 I2

CM3's own drawing, without the cut to one segment: the number of spans is Poisson with
mean 1, each between two uniform draws. Only `</s>` is never masked; of a row of several
documents a span stays in the one that it begins in.

Source: CM3, arXiv:2201.07520, section 2; CM3Leon, arXiv:2309.02591, section 2.2, which
says that a model trained so may begin a picture in its middle.
"""

from __future__ import annotations

import numpy as np

from cm3leon_jax.vocab import Vocab

SPAN_RATE = 1.0
MAX_SPANS = 16


def draw(ids: np.ndarray, rng: np.random.Generator, vocab: Vocab) -> np.ndarray:
    """Draws the spans.

    Args:
      ids: int32[n], a sequence `</s> ... </s>`, or a row of several.
      rng: Where the draws come from.
      vocab: The joint vocabulary.

    Returns:
      int32[S, 2], [start, end) of disjoint spans, none empty, none with `</s>` within.
    """
    number = min(int(rng.poisson(SPAN_RATE)), MAX_SPANS)
    ends = np.append(np.flatnonzero(ids == vocab.EOS), len(ids))
    draws = np.sort(rng.random((number * number, 2)), axis=1) * len(ids)
    kept: list[tuple[int, int]] = []
    for first, last in draws:
        start = max(1, int(first))
        end = min(round(last), int(ends[np.searchsorted(ends, start)]))
        if start < end and all(end <= lo or start >= hi for lo, hi in kept):
            kept.append((start, end))
            if len(kept) == number:
                break
    return np.array(kept, np.int32).reshape(-1, 2)
