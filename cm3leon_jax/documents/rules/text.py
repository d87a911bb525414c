"""Masks a run of text: what uniform spans hardly ever hide beside 1,024 codes.

    ids   [</s> a red circle <break> I1 I2 ... I1024 </s>]    span: red circle

One text segment, each equally likely; in it a run of up to `MAX_IDS` ids, its length and
then its place uniform. A sequence without text masks nothing.
"""

from __future__ import annotations

import numpy as np

from cm3leon_jax.documents import cm3
from cm3leon_jax.vocab import Vocab

MAX_IDS = 16


def draw(ids: np.ndarray, rng: np.random.Generator, vocab: Vocab) -> np.ndarray:
    """Draws one span.

    Args:
      ids: int32[n], a sequence `</s> ... </s>`, or a row of several.
      rng: Where the draws come from.
      vocab: The joint vocabulary.

    Returns:
      int32[S, 2], S of 0 or 1.
    """
    runs_G2 = cm3.segments(ids, vocab)
    # A row may begin within a segment; control ids are no text.
    is_text_G = vocab.is_text(ids[runs_G2[:, 0]]) & vocab.is_text(
        ids[runs_G2[:, 1] - 1]
    )
    texts = runs_G2[is_text_G]
    if not len(texts):
        return np.zeros((0, 2), np.int32)
    start, end = texts[rng.integers(len(texts))]
    size = int(rng.integers(1, min(MAX_IDS, end - start) + 1))
    first = int(rng.integers(start, end - size + 1))
    return np.array([[first, first + size]], np.int32)
