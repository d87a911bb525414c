"""Editing a picture by an instruction.

`Edit first image following the instruction <break> {image1} <break> {edit instruction}
<break> {image2}`; the second picture is its continuation.

Source: CM3Leon, arXiv:2309.02591, Table 5: InstructPix2Pix (127k examples).
"""

from __future__ import annotations

import numpy as np

from cm3leon_jax.documents.example import Example, Part
from cm3leon_jax.tasks.row import TaskRow

NAME = "edit"
READERS = ("instructpix2pix", "imagefolder")
NUM_EXAMPLES = 127_000
METRIC = "pictures"
OTHERS = (NAME,)
TEMPLATE = "Edit first image following the instruction"
TEXTS = (TEMPLATE,)


def examples(row: TaskRow, rng: np.random.Generator) -> list[Example]:
    """One example if the row has an `edit`, else none."""
    del rng
    edit = row.record("edit", "instruction")
    if edit is None:
        return []
    parts = prompt(row.picture, edit["instruction"])
    return [row.example(NAME, "", *parts, row.others["edit"])]


def prompt(before: np.ndarray, instruction: str) -> tuple[Part, ...]:
    """What comes before the picture that is to be drawn."""
    return (TEMPLATE, before, instruction)
