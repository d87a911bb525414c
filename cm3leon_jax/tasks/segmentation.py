"""Drawing from a segmentation map.

`Make high quality image from a segmentation map <break> {map} <break> {caption} <break>
{image}`.

Source: CM3Leon, arXiv:2309.02591, Table 5.
"""

from __future__ import annotations

import numpy as np

from cm3leon_jax.documents.example import Example, Part
from cm3leon_jax.tasks.row import TaskRow

NAME = "segmentation"
TEMPLATE = "Make high quality image from a segmentation map"


def examples(row: TaskRow, rng: np.random.Generator) -> list[Example]:
    """One example if the row has a segmentation map, else none."""
    del rng
    if NAME not in row.others:
        return []
    parts = prompt(row.others[NAME], row.text)
    return [row.example(NAME, "", *parts, row.picture)]


def prompt(segmentation: np.ndarray, caption: str) -> tuple[Part, ...]:
    """What comes before the picture that is to be drawn."""
    return (TEMPLATE, segmentation, caption)
