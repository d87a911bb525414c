"""Drawing from a segmentation map (seg-to-image, 1M examples).

`Make high quality image from a segmentation map <break> {map} <break> {caption} <break>
{image}`. The maps show classes as colours, read from disk.

Source: CM3Leon, arXiv:2309.02591, Table 5.
"""

from __future__ import annotations

import numpy as np

from cm3leon_jax.documents.example import Example, Part
from cm3leon_jax.tasks import control
from cm3leon_jax.tasks.row import TaskRow

NAME = "segmentation"
READERS = ("imagefolder", "controlnet")
NUM_EXAMPLES = 1_000_000
METRIC = "pictures"
OTHERS = (NAME,)
TEMPLATE = "Make high quality image from a segmentation map"
TEXTS = (TEMPLATE,)


def examples(
    row: TaskRow, rng: np.random.Generator, *, caption_share: float = 1.0
) -> list[Example]:
    """One example if the row has a segmentation map, else none.

    Args:
      row: The picture, its map and its caption.
      rng: Decides whether the caption is given.
      caption_share: Chance of the caption.
    """
    return control.examples(
        row,
        rng,
        name=NAME,
        opening=TEMPLATE,
        control=row.others.get(NAME),
        caption_share=caption_share,
    )


def prompt(segmentation: np.ndarray, caption: str = "") -> tuple[Part, ...]:
    """What comes before the picture that is to be drawn."""
    return control.prompt(TEMPLATE, segmentation, caption)
