"""Choosing an answer at school: ScienceQA, with and without reasoning (6k examples).

    Question: {q} [newline] Context: {c} [newline] Options: {o} [newline] Answer: {a}.
    ... Answer: Let's think step-by-step: {explanation} So the answer is {a}.

and the picture behind. Options are `(A) oak (B) elm`, the answer is `(A)`. A question
without context lacks that line. The target is the answer, or the whole reasoning with
the answer in it. 6,218 training questions have a picture.

Source: CM3Leon, arXiv:2309.02591, Table 5; the letters as in ScienceQA's own code,
github.com/lupantech/ScienceQA.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from cm3leon_jax.documents.example import Example, Hole, Part, Target
from cm3leon_jax.tasks.row import TaskRow

NAME = "scienceqa"
READERS = ("scienceqa",)
NUM_EXAMPLES = 6_000
METRIC = "accuracy"
OTHERS = ()
LETTERS = "ABCDEFGHIJ"
REASONING = " Let's think step-by-step: {explanation} So the answer is {answer}"
TEXTS = (
    "Question: \nContext: \nOptions: (A) (B) (C) (D) (E)\nAnswer:.",
    REASONING.replace("{explanation}", "").replace("{answer}", "(A)").strip(),
)
_ANSWER = re.compile(r"answer is:? *\(?([A-J])\b")
_LETTER = re.compile(r"\(?([A-J])\b")


def examples(
    row: TaskRow, rng: np.random.Generator, *, reasoning_share: float = 0.5
) -> list[Example]:
    """One example if the row has a question `science` with an answer, else none.

    Args:
      row: The picture, with a column `science` of `{"question", "choices", "answer",
        "hint", "solution"}`; the answer is the place of the right choice.
      rng: Decides whether it reasons.
      reasoning_share: Chance of the reasoning, where there is a solution.

    Raises:
      ValueError: If a field is of another type, or there is no such choice.
    """
    science = row.columns.get("science")
    if not science or science.get("answer") is None:
        return []
    question, options = _asked(science, row.id)
    place = science["answer"]
    if not isinstance(place, int) or not 0 <= place < len(science["choices"]):
        raise ValueError(f"answer {place!r} of {row.id} is no place of its choices")
    answer = f"({LETTERS[place]})"
    solution = science.get("solution") or ""
    is_reasoned = bool(solution) and rng.random() < reasoning_share
    target = Target(f" {answer}")
    if is_reasoned:
        text = REASONING.replace("{answer}", answer)
        target = Target(text.replace("{explanation}", solution.strip()))
    parts = _parts(question, options, science.get("hint") or "", target)
    return [row.example(NAME, "", *parts, row.picture)]


def prompt(science: dict[str, Any], picture: np.ndarray) -> tuple[Part | Hole, ...]:
    """The test-time prompt, with a hole where answer or reasoning belongs."""
    question, options = _asked(science, "the question")
    return (*_parts(question, options, science.get("hint") or "", Hole()), picture)


def parse(text: str) -> str:
    """The letter of the choice in what was filled in; empty if there is none."""
    found = _ANSWER.findall(text) or _LETTER.findall(text)[:1]
    return found[-1] if found else ""


def _asked(science: dict[str, Any], where: str) -> tuple[str, str]:
    """The question, and its choices with their letters."""
    question, choices = science.get("question"), science.get("choices")
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"the question of {where} is empty; write it or delete it")
    if not isinstance(choices, list) or not 2 <= len(choices) <= len(LETTERS):
        raise ValueError(f"{where} needs 2 to {len(LETTERS)} choices, got {choices!r}")
    named = (f"({letter}) {one}" for letter, one in zip(LETTERS, choices, strict=False))
    return question.strip(), " ".join(named)


def _parts(question: str, options: str, hint: str, answer: Target | Hole) -> tuple:
    lines = [f"Question: {question}"]
    if hint.strip():
        lines.append(f"Context: {hint.strip()}")
    lines += [f"Options: {options}", "Answer:"]
    return ("\n".join(lines), answer, ".")
