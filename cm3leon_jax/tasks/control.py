"""The form of seven tasks: a control picture, a caption, and the picture to draw.

`Make high quality image from {kind} <break> {control} <break> {caption} <break>
{image}`; or without the caption. The last picture is a continuation.

A task of this form is its words and a line: `examples, prompt = control.task(...)`.
A control picture is a column of its kind's name (`{"file_name": ...}`); edges and
scribbles are drawn from the picture where there is none.

Source: CM3Leon, arXiv:2309.02591, Table 5 and section 4.1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cm3leon_jax.documents.example import Example, Part
from cm3leon_jax.tasks.row import TaskRow


def task(
    name: str,
    opening: str,
    draw: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[Callable[..., list[Example]], Callable[..., tuple[Part, ...]]]:
    """Returns `examples` and `prompt` of a task of this form.

    Args:
      name: The task, and the column of its control picture.
      opening: Its first words.
      draw: From the picture, uint8[Y, X, 3], to its control picture, where a row has
        none; None: such rows make no example.
    """

    def examples(
        row: TaskRow, rng: np.random.Generator, *, caption_share: float = 1.0
    ) -> list[Example]:
        """One example if there is a control picture, else none.

        Args:
          row: The picture, its control picture and its caption.
          rng: Decides whether the caption is given.
          caption_share: Chance of the caption, where the row has one.

        Raises:
          ValueError: If `caption_share` is no chance.
        """
        if not 0 <= caption_share <= 1:
            raise ValueError(f"{name}: {caption_share=} must be in [0, 1]")
        control = row.others.get(name)
        if control is None and draw:
            control = draw(row.picture)
        if control is None:
            return []
        has_caption = bool(row.text)
        if 0 < caption_share < 1:
            has_caption = rng.random() < caption_share and has_caption
        caption = row.text if has_caption and caption_share > 0 else ""
        return [row.example(name, "", *prompt(control, caption), row.picture)]

    def prompt(control: np.ndarray, caption: str = "") -> tuple[Part, ...]:
        """What comes before the picture that is to be drawn."""
        return (opening, control, caption) if caption else (opening, control)

    return examples, prompt
