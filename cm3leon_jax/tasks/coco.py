"""Captions of COCO (591k examples: five for each of 118,287 pictures).

`Describe the given picture. {caption} <break> {image}`, or the caption alone. Every
caption of a picture is a row of its own; the caption is the target.

Source: CM3Leon, arXiv:2309.02591, Table 5.
"""

from __future__ import annotations

import numpy as np

from cm3leon_jax.documents.example import Example, Hole, Part
from cm3leon_jax.tasks import caption
from cm3leon_jax.tasks.row import TaskRow

NAME = "coco"
READERS = ("coco", "karpathy")
NUM_EXAMPLES = 591_000
METRIC = "captions"
OTHERS = ()
TEMPLATES = caption.TEMPLATES
TEXTS = TEMPLATES


def examples(
    row: TaskRow,
    rng: np.random.Generator,
    *,
    num_templates: int = len(TEMPLATES),
    image_first_share: float = 0.0,
) -> list[Example]:
    """One example a row with text.

    Args:
      row: The picture and its caption.
      rng: Chooses the template.
      num_templates: The first so many templates are used.
      image_first_share: Chance that the picture stands before the text.
    """
    return caption.described(
        row,
        rng,
        name=NAME,
        text=row.text,
        templates=TEMPLATES[:num_templates],
        image_first_share=image_first_share,
    )


def prompt(picture: np.ndarray) -> tuple[Part | Hole, ...]:
    """The test-time prompt, with a hole where the text belongs."""
    return caption.asked(TEMPLATES[0], picture)


def parse(text: str) -> str:
    """The text in what was filled in."""
    return caption.parse(text)
