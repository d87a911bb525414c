"""ScienceQA: school questions with choices, about half of them with a picture.

    problems.json   {"1": {"question", "choices": [...], "answer": 0, "hint", "lecture",
                    "solution", "image": "image.png" or null, "split": "train",
                    "subject", "grade", ...}}
    train/1/image.png

`answer` is the place of the right choice. Questions without a picture are counted as
refused: every training sequence has one.

Source: https://github.com/lupantech/ScienceQA (data/scienceqa).
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

from cm3leon_jax.data.refusals import Reason, RefusedError
from cm3leon_jax.data.sources import blob, folder, json_file
from cm3leon_jax.data.sources.row import Entry, Row, SourceConfig, clean

TITLE = "questions of ScienceQA"
_FILE = "problems.json"
_NEEDS = "a JSON object of problems by number, each with `question` and `choices`"
_FIELDS = ("question", "choices", "answer", "hint", "solution")
_GROUPS = ("subject", "topic", "grade", "category")


def find(root: pathlib.Path) -> list[str]:
    """Its three splits, of the one file."""
    return ["train", "val", "test"] if (root / _FILE).is_file() else []


def entries(root: pathlib.Path, name: str, config: SourceConfig) -> Iterator[Entry]:
    """Yields a row a question of one split, in the file's order.

    Raises:
      ValueError: If the file is of another shape.
    """
    del config
    content = json_file.read(root / _FILE, _NEEDS)
    if not isinstance(content, dict):
        raise json_file.wrong(root / _FILE, _NEEDS, "it is no object")
    resolved = root.resolve()
    for number, problem in content.items():
        if isinstance(problem, dict) and problem.get("split") != name:
            continue
        place = f"{root / _FILE}: problem {number}"
        try:
            yield place, _row(root, resolved, number, problem, name)
        except RefusedError as error:
            yield place, error


def _row(
    root: pathlib.Path, resolved: pathlib.Path, number: str, problem: Any, split: str
) -> Row:
    if not isinstance(problem, dict) or not isinstance(problem.get("question"), str):
        raise RefusedError(Reason.MALFORMED, "no `question`")
    if not clean(problem["question"]):
        raise RefusedError(Reason.EMPTY_QUESTION, "the question is empty")
    choices, answer = problem.get("choices"), problem.get("answer")
    if not isinstance(choices, list) or answer not in range(len(choices)):
        raise RefusedError(Reason.NO_ANSWER, f"{answer!r} is no place of the choices")
    if not problem.get("image"):
        raise RefusedError(Reason.NO_PICTURE, "a question without a picture")
    name = f"{split}/{number}/{problem['image']}"
    inside = f"images/{name}" if (root / "images" / split).is_dir() else name
    path = folder.check_inside(resolved, inside)
    science = {field: problem.get(field) for field in _FIELDS}
    told = {field: str(problem[field]) for field in _GROUPS if field in problem}
    columns = {"science": {**science, "question_id": number}, **told}
    return Row(name, root, (blob.File(path),), columns, is_for_tasks=True)
