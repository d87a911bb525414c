"""The fixed texts of all tasks, for a tokenizer that must know their words.

A tokenizer trained on books knows `Question:` and `location`; one trained on a small
folder of captions spells them, and every example gets twice as long.
"""

from __future__ import annotations

import numpy as np

from cm3leon_jax.documents.example import Part
from cm3leon_jax.tasks import caption, edit, layout, segmentation, vqa
from cm3leon_jax.tasks.row import Box


def texts() -> list[str]:
    """Returns every template once, with nothing filled in but a box's corners."""
    picture = np.zeros((1, 1, 3), np.uint8)
    box = Box("", (0.0, 0.0, 1.0, 1.0))
    parts = [
        *edit.prompt(picture, ""),
        *layout.prompt("", [box, box]),
        *segmentation.prompt(picture, ""),
        *caption.TEMPLATES,
        *caption.LONG_TEMPLATES,
        *(before.replace("{question}", "") + after for before, after in vqa.TEMPLATES),
    ]
    return [part for part in parts if _is_text(part)]


def _is_text(part: Part) -> bool:
    return isinstance(part, str) and bool(part.strip())
