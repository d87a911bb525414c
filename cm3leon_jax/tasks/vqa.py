"""Answering questions: `Question: {q} Answer: {a}. <break> {image}`.

At test time the answer is an infill before the full stop. Of several people's answers
the most frequent is the target. The three data sets of the paper are `vqa2`, `vizwiz`,
`okvqa`: each its words and a line, `examples = vqa.task(NAME)`.

Source: CM3Leon, arXiv:2309.02591, Table 5.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cm3leon_jax.documents.example import Example, Hole, Part, Target
from cm3leon_jax.tasks.row import TaskRow

NAME = "vqa"
READERS = ("imagefolder",)
NUM_EXAMPLES = 0  # not a row of the paper's table by itself
METRIC = "vqa_accuracy"
OTHERS = ()
UNANSWERABLE = "unanswerable"
# What stands before and after the answer, which brings its own leading space.
TEMPLATES = (
    ("Question: {question} Answer:", "."),
    ("Question: {question} The answer is", "."),
    ("Question: {question}\n", ""),
)
TEXTS = tuple(before.replace("{question}", "") + after for before, after in TEMPLATES)


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


def task(name: str) -> Callable[..., list[Example]]:
    """Returns `examples` of a data set whose questions several people answered."""

    def examples(
        row: TaskRow,
        rng: np.random.Generator,
        *,
        num_templates: int = len(TEMPLATES),
        every_template: bool = False,
        image_first_share: float = 0.0,
        keep_unanswerable: bool = True,
    ) -> list[Example]:
        """Examples of the row's questions; one without answers makes none.

        Args:
          row: The picture, with a column `questions` of `{"question", "answers": [...]}`
            each, or with one `"answer"`.
          rng: Chooses the template, and the order if that is by chance.
          num_templates: The first so many templates are used.
          every_template: An example of each template, instead of one at random.
          image_first_share: Chance that the picture stands before the text.
          keep_unanswerable: Whether questions are kept that most people could not
            answer; the official metric of VizWiz asks for them.

        Raises:
          ValueError: If a question is empty, or answers are no strings.
        """
        made = []
        for index, asked in enumerate(row.columns.get("questions") or ()):
            question, answers = _several(asked, row.id)
            answer = most_frequent(answers) if answers else UNANSWERABLE
            if not answers or (answer == UNANSWERABLE and not keep_unanswerable):
                continue
            count = min(num_templates, len(TEMPLATES))
            chosen = range(count) if every_template else [int(rng.integers(count))]
            for number in chosen:
                parts = (*_parts(question, number, Target(f" {answer}")), row.picture)
                if image_first_share and rng.random() < image_first_share:
                    parts = (row.picture, *parts[:-1])
                made.append(row.example(name, f"#{index}.{number}", *parts))
        return made

    return examples


def most_frequent(answers: Sequence[str]) -> str:
    """The answer that most people gave; of equally frequent ones the first.

    answers [net net netting net]   target net
    """
    return collections.Counter(answers).most_common(1)[0][0]


def prompt(question: str, picture: np.ndarray) -> tuple[str, *tuple[Part | Hole, ...]]:
    """The test-time prompt, with a hole where the answer belongs."""
    return (*_parts(question, 0, Hole()), picture)


def parse(text: str) -> str:
    """The answer in what was filled in: without spaces around and a full stop."""
    return text.strip().rstrip(".").strip()


def _several(asked: Any, where: str) -> tuple[str, list[str]]:
    """A question and its answers, those that are blank left out."""
    question = asked.get("question") if isinstance(asked, dict) else None
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"a question of {where} is empty; write it or delete the row")
    answers = asked.get("answers") or list(filter(None, [asked.get("answer")]))
    if not all(isinstance(answer, str) for answer in answers):
        raise ValueError(f"the answers of {where} must be strings")
    return question.strip(), [one.strip() for one in answers if one.strip()]


def _answer(asked: dict[str, str]) -> str:
    return f" {asked['answer']}"


def _parts(
    question: str, template: int, answer: Target | Hole
) -> tuple[str, *tuple[Any, ...]]:
    before, after = TEMPLATES[template]
    text = before.replace("{question}", question)  # no format: braces are data
    return (text, answer, after) if after else (text, answer)
