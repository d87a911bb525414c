"""Questions that blind people asked about their pictures: VizWiz (92k examples).

`Question: {q} Answer: {a}. <break> {image}`, and two more templates; the most frequent
answer is the target. Ten answers each. A picture that does not show the answer is answered `unanswerable`, as
the official metric wants it; `keep_unanswerable=False` leaves such questions out.

Source: CM3Leon, arXiv:2309.02591, Table 5.
"""

from __future__ import annotations

import numpy as np

from cm3leon_jax.documents.example import Example, Hole, Part
from cm3leon_jax.tasks import vqa
from cm3leon_jax.tasks.row import TaskRow

NAME = "vizwiz"
READERS = ("vizwiz",)
NUM_EXAMPLES = 92_000
METRIC = "vqa_accuracy"
OTHERS = ()
TEMPLATES = vqa.TEMPLATES
TEXTS = vqa.TEXTS
UNANSWERABLE = "unanswerable"


def examples(
    row: TaskRow,
    rng: np.random.Generator,
    *,
    num_templates: int = len(TEMPLATES),
    every_template: bool = False,
    image_first_share: float = 0.0,
    keep_unanswerable: bool = True,
) -> list[Example]:
    """Examples of the row's questions that have answers.

    Args:
      row: The picture and its questions, each with its people's answers.
      rng: Chooses the template.
      num_templates: The first so many templates are used.
      every_template: An example of each template, instead of one at random.
      image_first_share: Chance that the picture stands before the text.
      keep_unanswerable: Whether questions are kept that most people could not answer.
    """
    if not keep_unanswerable and _is_unanswerable(row):
        return []
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


def _is_unanswerable(row: TaskRow) -> bool:
    """Whether most people could not answer the row's question."""
    asked = row.columns.get("questions") or [{}]
    answers = asked[0].get("answers")
    return bool(answers) and vqa.most_frequent(answers) == UNANSWERABLE
