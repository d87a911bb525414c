"""Drawing from a depth map (depth-to-image, 1M examples).

`Make high quality image from depth features <break> {control} <break> {caption} <break>
{image}`. The maps are grey, near is bright (MiDaS), read from disk.

Source: CM3Leon, arXiv:2309.02591, Table 5; pairs as ControlNet's users keep them.
"""

from __future__ import annotations

import numpy as np

from cm3leon_jax.documents.example import Example, Part
from cm3leon_jax.tasks import control
from cm3leon_jax.tasks.row import TaskRow

NAME = "depth"
READERS = ("imagefolder", "controlnet")
NUM_EXAMPLES = 1_000_000
METRIC = "pictures"
OTHERS = (NAME,)
TEMPLATE = "Make high quality image from depth features"
TEXTS = (TEMPLATE,)


def examples(
    row: TaskRow, rng: np.random.Generator, *, caption_share: float = 1.0
) -> list[Example]:
    """One example if the row has a column `depth`, else none.

    Args:
      row: The picture, its control picture and its caption.
      rng: Decides whether the caption is given.
      caption_share: Chance of the caption.
    """
    drawn = row.others.get(NAME)
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
