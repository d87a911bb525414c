"""Drawing from the edges of a picture (edge-to-image, 1M examples).

`Make high quality image from canny edge features <break> {control} <break> {caption} <break>
{image}`. The lines are read, or else drawn here (`lines.edges`).

Source: CM3Leon, arXiv:2309.02591, Table 5; pairs as ControlNet's users keep them.
"""

from __future__ import annotations

import numpy as np

from cm3leon_jax.documents.example import Example, Part
from cm3leon_jax.tasks import control, lines
from cm3leon_jax.tasks.row import TaskRow

NAME = "edges"
READERS = ("imagefolder", "controlnet")
NUM_EXAMPLES = 1_000_000
METRIC = "pictures"
OTHERS = (NAME,)
TEMPLATE = "Make high quality image from canny edge features"
TEXTS = (TEMPLATE,)


def examples(
    row: TaskRow, rng: np.random.Generator, *, caption_share: float = 1.0
) -> list[Example]:
    """One example a row.

    Args:
      row: The picture and its caption.
      rng: Decides whether the caption is given.
      caption_share: Chance of the caption.
    """
    drawn = row.others.get(NAME)
    if drawn is None:
        drawn = lines.edges(row.picture)
    return control.examples(
        row,
        rng,
        name=NAME,
        opening=TEMPLATE,
        control=drawn,
        caption_share=caption_share,
    )


def prompt(drawn: np.ndarray, caption: str = "") -> tuple[Part, ...]:
    """What comes before the picture that is to be drawn."""
    return control.prompt(TEMPLATE, drawn, caption)
