"""Answering questions: `Question: {q} Answer: {a}. <break> {image}`.

At test time the answer is an infill before the full stop.

Source: CM3Leon, arXiv:2309.02591, Table 5: VQA2, VizWiz, OKVQA.
"""

from __future__ import annotations

import numpy as np

from cm3leon_jax.documents.example import Example, Hole, Part, Target
from cm3leon_jax.tasks.row import TaskRow

NAME = "vqa"
# What stands before and after the answer, which brings its own leading space.
TEMPLATES = (
    ("Question: {question} Answer:", "."),
    ("Question: {question} The answer is", "."),
    ("Question: {question}\n", ""),
)


def examples(
    row: TaskRow,
    rng: np.random.Generator,
    *,
    num_templates: int = len(TEMPLATES),
    max_questions: int = 4,
) -> list[Example]:
    """One example a question, of up to `max_questions` questions chosen at random.

    Args:
      row: The picture and its questions.
      rng: Chooses questions and templates.
      num_templates: The first so many templates are used.
      max_questions: Most examples of one row.
    """
    asked = row.records("questions", "question", "answer")
    made = []
    for index in sorted(rng.permutation(len(asked))[:max_questions].tolist()):
        number = int(rng.integers(min(num_templates, len(TEMPLATES))))
        parts = _parts(asked[index]["question"], number, Target(_answer(asked[index])))
        made.append(row.example(NAME, f"#{index}", *parts, row.picture))
    return made


def prompt(question: str, picture: np.ndarray) -> tuple[Part | Hole, ...]:
    """The test-time prompt, with a hole where the answer belongs."""
    return (*_parts(question, 0, Hole()), picture)


def parse(text: str) -> str:
    """The answer in what was filled in: without spaces around and a full stop."""
    return text.strip().rstrip(".").strip()


def _answer(asked: dict[str, str]) -> str:
    return f" {asked['answer']}"


def _parts(question: str, template: int, answer: Target | Hole) -> tuple:
    before, after = TEMPLATES[template]
    text = before.replace("{question}", question)  # no format: braces are data
    return (text, answer, after) if after else (text, answer)
