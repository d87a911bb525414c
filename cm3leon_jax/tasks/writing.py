"""Drawing written words: how-to-write (300k examples).

`draw "{text}" <break> {image}`; the picture is the continuation. The text is the row's
column `writing`: what a reader of text in pictures (OCR) found, or what was written.

Source: CM3Leon, arXiv:2309.02591, Table 5.
"""

from __future__ import annotations

import numpy as np

from cm3leon_jax.documents.example import Example, Part
from cm3leon_jax.tasks.row import TaskRow

NAME = "writing"
READERS = ("textocr", "imagefolder")
NUM_EXAMPLES = 300_000
METRIC = "pictures"
OTHERS = ()
TEMPLATE = 'draw "{text}"'
TEXTS = ('draw ""',)


def examples(
    row: TaskRow, rng: np.random.Generator, *, max_words: int = 12
) -> list[Example]:
    """One example if the row has `writing`, else none.

    Args:
      row: The picture and its written words.
      rng: Unused.
      max_words: A row with more words makes no example: nobody could draw them.
    """
    del rng
    text = " ".join(row.string("writing").split())
    if not text or len(text.split()) > max_words:
        return []
    return [row.example(NAME, "", *prompt(text), row.picture)]


def prompt(text: str) -> tuple[Part, ...]:
    """What comes before the picture that is to be drawn."""
    return (TEMPLATE.replace("{text}", text),)  # no format: braces are data
