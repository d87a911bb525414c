"""Filling a gap in a caption: `{before} {hidden} {after} <break> {image}`.

Not a row of the paper's table. Uniform spans seldom leave a gap of one word, and tuning
on other tasks would forget how to fill it; at test time any part may be a hole.
"""

from __future__ import annotations

import numpy as np

from cm3leon_jax.documents.example import Example, Hole, Part, Target
from cm3leon_jax.tasks.row import TaskRow

NAME = "infill"
READERS = ("imagefolder", "coco", "folder", "tar", "parquet")
NUM_EXAMPLES = 0  # not a row of the paper's table
METRIC = "accuracy"
OTHERS = ()
TEXTS = ()  # nothing but the caption


def examples(
    row: TaskRow, rng: np.random.Generator, *, max_words: int = 3
) -> list[Example]:
    """One example: some consecutive words of the caption hidden, never its first.

    A caption of one word makes none.

    Args:
      row: The picture and its text.
      rng: Chooses which words, and how many.
      max_words: Most words that are hidden.
    """
    words = row.text.split(" ")
    if len(words) < 2:
        return []
    size = int(rng.integers(1, min(max_words, len(words) - 1) + 1))
    start = int(rng.integers(1, len(words) - size + 1))
    # A space opens the target, so that its words are the pieces of a whole caption.
    hidden = Target(f" {' '.join(words[start : start + size])}")
    after = "".join(f" {word}" for word in words[start + size :])
    parts = _parts(" ".join(words[:start]), hidden, after, row.picture)
    return [row.example(NAME, "", *parts)]


def prompt(before: str, after: str, picture: np.ndarray) -> tuple[Part | Hole, ...]:
    """The test-time prompt, with a hole between the two parts of the text.

    Args:
      before: The text up to the hole, without a space at its end.
      after: The rest; begins with a space where a word follows.
      picture: uint8[Y, X, 3].
    """
    return _parts(before, Hole(), after, picture)


def parse(text: str) -> str:
    """The words in what was filled in."""
    return text.strip()


def _parts(
    before: str, hidden: Target | Hole, after: str, picture: np.ndarray
) -> tuple:
    return (before, hidden, after, picture) if after else (before, hidden, picture)
