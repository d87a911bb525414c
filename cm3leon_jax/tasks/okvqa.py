"""Questions that need knowledge beside the picture: OK-VQA (26k examples).

`Question: {q} Answer: {a}. <break> {image}`, and two more templates; the most frequent
answer is the target. 9,009 training questions of ten answers each; with every template once they make the
paper's 26k.

Source: CM3Leon, arXiv:2309.02591, Table 5.
"""

from __future__ import annotations

import numpy as np

from cm3leon_jax.documents.example import Example, Hole, Part
from cm3leon_jax.tasks import vqa
from cm3leon_jax.tasks.row import TaskRow

NAME = "okvqa"
READERS = ("vqa",)
NUM_EXAMPLES = 26_000
METRIC = "vqa_accuracy"
OTHERS = ()
TEMPLATES = vqa.TEMPLATES
TEXTS = vqa.TEXTS


def examples(
    row: TaskRow,
    rng: np.random.Generator,
    *,
    num_templates: int = len(TEMPLATES),
    every_template: bool = False,
    image_first_share: float = 0.0,
) -> list[Example]:
    """Examples of the row's questions that have answers.

    Args:
      row: The picture and its questions, each with its people's answers.
      rng: Chooses the template.
      num_templates: The first so many templates are used.
      every_template: An example of each template, instead of one at random.
      image_first_share: Chance that the picture stands before the text.
    """
    return vqa.answered(
        row,
        rng,
        name=NAME,
        num_templates=num_templates,
        every_template=every_template,
        image_first_share=image_first_share,
    )


def prompt(question: str, picture: np.ndarray) -> tuple[Part | Hole, ...]:
    """The test-time prompt, with a hole where the answer belongs."""
    return vqa.prompt(question, picture)


def parse(text: str) -> str:
    """The answer in what was filled in."""
    return vqa.parse(text)
