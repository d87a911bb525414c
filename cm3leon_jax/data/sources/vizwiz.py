"""VizWiz-VQA: one list of questions a split, ten people's answers with each.

    Annotations/train.json   [{"image": "VizWiz_train_00000000.jpg", "question": "...",
                             "answers": [{"answer": "basil", "answer_confidence": "yes"},
                             ...], "answer_type": "other", "answerable": 1}]
    train/VizWiz_train_00000000.jpg

A question is a row for tasks. `unanswerable` is an answer like any other; the test
split has no answers.

Source: https://vizwiz.org/tasks-and-datasets/vqa/.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

from cm3leon_jax.data.refusals import Reason, RefusedError
from cm3leon_jax.data.sources import blob, folder, json_file
from cm3leon_jax.data.sources.row import Entry, Row, SourceConfig, clean

TITLE = "questions of VizWiz"
_FOLDER = "Annotations"
_NEEDS = "a JSON list of objects with `image`, `question` and `answers`"


def find(root: pathlib.Path) -> list[str]:
    """The splits that there are."""
    paths = [root / _FOLDER / f"{name}.json" for name in ("train", "val", "test")]
    return [path.relative_to(root).as_posix() for path in paths if path.is_file()]


def entries(root: pathlib.Path, name: str, config: SourceConfig) -> Iterator[Entry]:
    """Yields a row a question, in the file's order.

    Raises:
      ValueError: If the file is of another shape.
    """
    del config
    content = json_file.read(root / name, _NEEDS)
    if not isinstance(content, list):
        raise json_file.wrong(root / name, _NEEDS, "it is no list")
    split = pathlib.PurePosixPath(name).stem
    where = json_file.pictures(root, [split])
    resolved = root.resolve()
    for number, asked in enumerate(content):
        place = f"{root / name}: question {number}"
        try:
            yield place, _row(root, resolved, where, asked, split != "test")
        except RefusedError as error:
            yield place, error


def _row(
    root: pathlib.Path,
    resolved: pathlib.Path,
    where: pathlib.Path,
    asked: Any,
    needs_answers: bool,
) -> Row:
    is_whole = isinstance(asked, dict) and isinstance(asked.get("image"), str)
    if not is_whole or not isinstance(asked.get("question"), str):
        raise RefusedError(Reason.MALFORMED, "no `image` or no `question`")
    question = clean(asked["question"])
    if not question:
        raise RefusedError(Reason.EMPTY_QUESTION, "the question is empty")
    found = asked.get("answers") or []
    if not all(isinstance(one, dict) and "answer" in one for one in found):
        raise RefusedError(Reason.MALFORMED, "`answers` are no objects with `answer`")
    answers = [str(one["answer"]) for one in found]
    if needs_answers and not any(one.strip() for one in answers):
        raise RefusedError(Reason.NO_ANSWER, "it has no answers")
    inside = json_file.inside(root, where, asked["image"])
    path = folder.check_inside(resolved, inside)
    told = {"question": question, "answers": answers, "question_id": asked["image"]}
    told["answer_type"] = str(asked.get("answer_type", ""))
    columns = {"questions": [told]}
    parts = (blob.File(path),)
    return Row(asked["image"], root, parts, columns, is_for_tasks=True)
