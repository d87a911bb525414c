"""Text and its picture: `{caption} <break> {image}`, what pretraining sees.

Drawing from text is its continuation.

Source: CM3Leon, arXiv:2309.02591, Figure 8.
"""

from __future__ import annotations

import numpy as np

from cm3leon_jax.documents.example import Example, Part
from cm3leon_jax.tasks import caption
from cm3leon_jax.tasks.row import TaskRow

NAME = "pair"


def examples(
    row: TaskRow, rng: np.random.Generator, *, long_share: float = 0.0
) -> list[Example]:
    """One example: the row's `text`, with a chance of `long_share` its long caption.

    Args:
      row: The picture and its texts.
      rng: Chooses the length.
      long_share: Chance of the long caption, where there is one.
    """
    is_long = rng.random() < long_share if long_share else False
    text = (caption.long_caption(row) if is_long else "") or row.text
    return [row.example(NAME, "", text, row.picture)]


def prompt(text: str) -> tuple[Part, ...]:
    """What comes before the picture that is to be drawn."""
    return (text,)
