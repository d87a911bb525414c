"""Describing a picture: `Describe the given picture. {caption} <break> {image}`.

The text stands before the picture, so at test time it is an infill. Short captions are
the row's `text`; long ones its `text_long`, or its caption with its keywords. (A space
opens the target, so that its first word is the piece that it is inside a sentence.)

Source: CM3Leon, arXiv:2309.02591, Table 5: COCO and Flickr30k (short), Image Paragraph
and Localized Narratives (long).
"""

from __future__ import annotations

import numpy as np

from cm3leon_jax.documents.example import Example, Hole, Part, Target
from cm3leon_jax.tasks.row import TaskRow

NAME = "caption"
TEMPLATES = ("Describe the given picture.", "")
LONG_TEMPLATES = (
    "Generate a long caption for the given image.",
    "Describe the given picture in very detail.",
    "Describe all the objects in the given image in very detail.",
    "Generate a long narration of what is happening in the given image.",
)


def examples(
    row: TaskRow,
    rng: np.random.Generator,
    *,
    num_templates: int = len(LONG_TEMPLATES),
    long_share: float = 0.5,
) -> list[Example]:
    """One example: with a chance of `long_share` the long caption, if there is one.

    Args:
      row: The picture and its texts.
      rng: Chooses length and template.
      num_templates: The first so many templates of each length are used.
      long_share: Chance of the long caption.
    """
    long_text = long_caption(row)
    is_long = rng.random() < long_share and bool(long_text)
    templates = (LONG_TEMPLATES if is_long else TEMPLATES)[:num_templates]
    template = templates[rng.integers(len(templates))]
    target = Target(f" {long_text if is_long else row.text}")
    parts = (template, target) if template else (target,)
    return [row.example(NAME, "", *parts, row.picture)]


def long_caption(row: TaskRow) -> str:
    """The row's longer text: `text_long`, or `{text}: {keyword}, {keyword}`; or empty."""
    text = row.string("text_long")
    keywords = row.columns.get("keywords") or []
    if text or not keywords:
        return text
    if not all(isinstance(word, str) for word in keywords):
        raise ValueError(f"column 'keywords' of {row.id} must be a list of strings")
    return f"{row.text}: {', '.join(keywords)}"


def prompt(picture: np.ndarray, *, is_long: bool = False) -> tuple[Part | Hole, ...]:
    """The test-time prompt, with a hole where the caption belongs."""
    template = (LONG_TEMPLATES if is_long else TEMPLATES)[0]
    return (template, Hole(), picture)


def parse(text: str) -> str:
    """The caption in what was filled in."""
    return text.strip()
