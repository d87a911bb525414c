"""Describing a picture: `Describe the given picture. {caption} <break> {image}`.

The text stands before the picture, so at test time it is an infill. Short captions are
the row's `text`; long ones its `text_long`, or its caption with its keywords. (A space
opens the target, so that its first word is the piece that it is inside a sentence.)
The four data sets of the paper are `coco`, `flickr30k`, `paragraph`, `narratives`: each
its words and a line, `examples, prompt, parse = caption.task(...)`.

Source: CM3Leon, arXiv:2309.02591, Table 5.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from cm3leon_jax.documents.example import Example, Hole, Part, Target
from cm3leon_jax.tasks.row import TaskRow

NAME = "caption"
READERS = ("imagefolder", "folder", "tar", "parquet")
NUM_EXAMPLES = 0  # not a row of the paper's table by itself
METRIC = "captions"
OTHERS = ()
TEMPLATES = ("Describe the given picture.", "")
LONG_TEMPLATES = (
    "Generate a long caption for the given image.",
    "Describe the given picture in very detail.",
    "Describe all the objects in the given image in very detail.",
    "Generate a long narration of what is happening in the given image.",
)
TEXTS = (*TEMPLATES, *LONG_TEMPLATES)


def examples(
    row: TaskRow,
    rng: np.random.Generator,
    *,
    num_templates: int = len(LONG_TEMPLATES),
    long_share: float = 0.5,
    image_first_share: float = 0.0,
) -> list[Example]:
    """One example: with a chance of `long_share` the long caption, if there is one.

    Args:
      row: The picture and its texts.
      rng: Chooses length and template.
      num_templates: The first so many templates of each length are used.
      long_share: Chance of the long caption.
      image_first_share: Chance that the picture stands before the text.
    """
    long_text = long_caption(row)
    is_long = rng.random() < long_share and bool(long_text)
    return described(
        row,
        rng,
        name=NAME,
        text=long_text if is_long else row.text,
        templates=(LONG_TEMPLATES if is_long else TEMPLATES)[:num_templates],
        image_first_share=image_first_share,
    )


def task(
    name: str, templates: Sequence[str], *, is_long: bool = False
) -> tuple[
    Callable[..., list[Example]],
    Callable[[np.ndarray], tuple[Part | Hole, ...]],
    Callable[[str], str],
]:
    """Returns `examples`, `prompt` and `parse` of a data set of described pictures.

    Args:
      name: The task.
      templates: What may stand before the text.
      is_long: Whether the text is the row's longer one, where it has one.
    """

    def examples(
        row: TaskRow,
        rng: np.random.Generator,
        *,
        num_templates: int = len(templates),
        image_first_share: float = 0.0,
    ) -> list[Example]:
        """One example a row with text.

        Args:
          row: The picture and its text.
          rng: Chooses the template.
          num_templates: The first so many templates are used.
          image_first_share: Chance that the picture stands before the text.
        """
        text = (long_caption(row) if is_long else "") or row.text
        return described(
            row,
            rng,
            name=name,
            text=text,
            templates=templates[:num_templates],
            image_first_share=image_first_share,
        )

    return examples, functools.partial(asked, templates[0]), parse


def described(
    row: TaskRow,
    rng: np.random.Generator,
    *,
    name: str,
    text: str,
    templates: Sequence[str],
    image_first_share: float = 0.0,
) -> list[Example]:
    """One example of a picture and the text that describes it, its target.

    Args:
      row: The picture.
      rng: Chooses the template, and the order if that is by chance.
      name: The task.
      text: The description; empty: there is no example.
      templates: What may stand before it.
      image_first_share: Chance that the picture stands before the text. The text then
        follows what it describes, and needs no mask to be learnt.

    Raises:
      ValueError: If there is no template.
    """
    if not templates:
        raise ValueError(f"{name}: num_templates must be at least 1")
    if not text:
        return []
    template = templates[int(rng.integers(len(templates)))]
    target = Target(f" {text}")
    parts = (template, target) if template else (target,)
    if image_first_share and rng.random() < image_first_share:
        return [row.example(name, "", row.picture, *parts)]
    return [row.example(name, "", *parts, row.picture)]


def long_caption(row: TaskRow) -> str:
    """The row's longer text: `text_long`, or `{text}: {keyword}, {keyword}`; or empty."""
    text = row.string("text_long")
    keywords = row.columns.get("keywords") or []
    if text or not keywords:
        return text
    if not all(isinstance(word, str) for word in keywords):
        raise ValueError(f"column 'keywords' of {row.id} must be a list of strings")
    return f"{row.text}: {', '.join(keywords)}"


def prompt(picture: np.ndarray, *, is_long: bool = False) -> tuple[Part | Hole, ...]:
    """The test-time prompt, with a hole where the caption belongs."""
    return asked((LONG_TEMPLATES if is_long else TEMPLATES)[0], picture)


def asked(template: str, picture: np.ndarray) -> tuple[Part | Hole, ...]:
    """The test-time prompt of a template, with a hole where the text belongs."""
    return (template, Hole(), picture)


def parse(text: str) -> str:
    """The caption in what was filled in."""
    return text.strip()
