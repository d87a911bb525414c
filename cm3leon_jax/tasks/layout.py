"""Drawing with everything in its place.

`Generate high quality image of {caption} with segmentations {object} at location
(x0, y0) -> (x1, y1), ... <break> {image}`. Corners are whole numbers on a grid of
`coordinates` a side, x first. A picture without a caption is called by what is in it.

Source: CM3Leon, arXiv:2309.02591, Table 5 (object detection: 3M examples of COCO,
OpenImages and Objects365) and Figure 5; 256 coordinates a side there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cm3leon_jax.documents.example import Example, Part
from cm3leon_jax.tasks.row import Box, TaskRow

NAME = "layout"
READERS = ("objects", "openimages", "imagefolder")
NUM_EXAMPLES = 3_000_000
METRIC = "pictures"
OTHERS = ()
COORDINATES = 256


def examples(
    row: TaskRow,
    rng: np.random.Generator,
    *,
    coordinates: int = COORDINATES,
    max_boxes: int = 8,
) -> list[Example]:
    """One example if the row has boxes, at most `max_boxes` of them at random."""
    if not row.boxes:
        return []
    chosen = sorted(rng.permutation(len(row.boxes))[:max_boxes].tolist())
    boxes = [row.boxes[index] for index in chosen]
    text = row.text or ", ".join(dict.fromkeys(box.name for box in boxes))
    parts = prompt(text, boxes, coordinates=coordinates)
    return [row.example(NAME, "", *parts, row.picture)]


def prompt(
    caption: str, boxes: Sequence[Box], *, coordinates: int = COORDINATES
) -> tuple[Part, ...]:
    """What comes before the picture that is to be drawn.

    Args:
      caption: What the picture shows.
      boxes: What is where.
      coordinates: Steps a side of the grid that corners are rounded to.
    """
    places = ", ".join(f"{box.name} at {_place(box, coordinates)}" for box in boxes)
    return (f"Generate high quality image of {caption} with segmentations {places}",)


def _place(box: Box, coordinates: int) -> str:
    x0, y0, x1, y1 = (round(share * coordinates) for share in box.corners)
    return f"location ({x0}, {y0}) -> ({x1}, {y1})"


_WHOLE = Box("", (0.0, 0.0, 1.0, 1.0))
TEXTS = prompt("", [_WHOLE, _WHOLE])
