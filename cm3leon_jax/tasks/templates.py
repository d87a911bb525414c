"""The fixed texts of the tasks, for a tokenizer that must know their words.

A tokenizer trained on books knows `Question:` and `location`; one trained on a small
folder of captions spells them, and every example gets twice as long.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cm3leon_jax.tasks import caption, edit, infill, layout, segmentation, vqa
from cm3leon_jax.tasks.row import Box

_PICTURE = np.zeros((1, 1, 3), np.uint8)
_BOX = Box("", (0.0, 0.0, 1.0, 1.0))
_PARTS = {
    caption.NAME: (*caption.TEMPLATES, *caption.LONG_TEMPLATES),
    vqa.NAME: tuple(
        before.replace("{question}", "") + after for before, after in vqa.TEMPLATES
    ),
    edit.NAME: edit.prompt(_PICTURE, ""),
    layout.NAME: layout.prompt("", [_BOX, _BOX]),
    segmentation.NAME: segmentation.prompt(_PICTURE, ""),
    infill.NAME: (),  # nothing but the caption
}


def texts(tasks: Sequence[str]) -> list[str]:
    """Returns the templates of some tasks, with nothing filled in but box corners.

    Args:
      tasks: Names of tasks.

    Raises:
      ValueError: If a task is unknown.
    """
    for name in tasks:
        if name not in _PARTS:
            raise ValueError(f"no task {name!r}; known: {', '.join(_PARTS)}")
    parts = [part for name in tasks for part in _PARTS[name]]
    return [part for part in parts if isinstance(part, str) and part.strip()]
