"""Best of n: the drawing whose vector is nearest to its prompt's.

The bi-encoder comes in as functions to unit vectors; nothing here knows its weights.

Letters: N drawings of one prompt, E width of the vectors.

Source: CM3Leon, arXiv:2309.02591, section 3.2 (8 samples a prompt, CLIP picks one).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def similarities(
    texts: Sequence[str],
    pictures: np.ndarray,
    embed_text: Callable[[Sequence[str]], np.ndarray],
    embed_pictures: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Returns how near each drawing is to its prompt, by inner product.

    Args:
      texts: One prompt each.
      pictures: uint8[len(texts), N, Y, X, 3], N drawings a prompt.
      embed_text: To float32[n, E], unit vectors.
      embed_pictures: From uint8[n, Y, X, 3] to float32[n, E], unit vectors.

    Returns:
      float32[len(texts), N].

    Raises:
      ValueError: If there is not one group of pictures a text.
    """
    if len(texts) != len(pictures):
        raise ValueError(
            f"{len(texts)} prompts, but {len(pictures)} groups of pictures"
        )
    count, num = pictures.shape[:2]
    text_vectors = np.asarray(embed_text(texts), np.float32)
    flat = pictures.reshape(count * num, *pictures.shape[2:])
    vectors = np.asarray(embed_pictures(flat), np.float32).reshape(count, num, -1)
    return np.einsum("te,tne->tn", text_vectors, vectors)


def best(
    texts: Sequence[str],
    pictures: np.ndarray,
    embed_text: Callable[[Sequence[str]], np.ndarray],
    embed_pictures: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Returns the index of the best drawing of each prompt, int[len(texts)].

    Arguments as `similarities`. The first of equals wins.
    """
    return similarities(texts, pictures, embed_text, embed_pictures).argmax(axis=1)
