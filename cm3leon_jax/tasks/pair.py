"""Text and its picture: `{caption} <break> {image}`, what pretraining sees.

Drawing from text is its continuation.

Source: CM3Leon, arXiv:2309.02591, Figure 8.
"""

from __future__ import annotations

import numpy as np

from cm3leon_jax.documents.example import Example, Part
from cm3leon_jax.tasks.row import TaskRow

NAME = "pair"


def examples(row: TaskRow, rng: np.random.Generator) -> list[Example]:
    """One example; the caption is the row's `text`."""
    del rng
    return [row.example(NAME, "", row.text, row.picture)]


def prompt(text: str) -> tuple[Part, ...]:
    """What comes before the picture that is to be drawn."""
    return (text,)
