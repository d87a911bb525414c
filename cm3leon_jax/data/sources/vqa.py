"""VQA v2 and OK-VQA: questions in one JSON file, ten people's answers in another.

    v2_OpenEnded_mscoco_train2014_questions.json     {"questions": [{"question_id",
                                                     "image_id", "question"}]}
    v2_mscoco_train2014_annotations.json             {"annotations": [{"question_id",
                                                     "question_type", "answer_type",
                                                     "answers": [{"answer"}, ...]}]}
    train2014/COCO_train2014_000000000009.jpg

OK-VQA's names lack `v2_`. A question is a row for tasks; questions of one picture follow
each other and stay in one split. Of the test splits the answers are kept secret: their
questions have none.

Source: https://visualqa.org/download.html, https://okvqa.allenai.org/download.html.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator
from typing import Any

from cm3leon_jax.data.refusals import Reason, RefusedError
from cm3leon_jax.data.sources import blob, folder, json_file
from cm3leon_jax.data.sources.row import Entry, Row, SourceConfig, clean

TITLE = "questions of VQA v2 or OK-VQA"
_NAME = re.compile(r"(v2_)?OpenEnded_mscoco_([\w-]+?)_questions\.json")


def find(root: pathlib.Path) -> list[str]:
    """The files of questions."""
    return sorted(p.name for p in root.glob("*.json") if _NAME.fullmatch(p.name))


def entries(root: pathlib.Path, name: str, config: SourceConfig) -> Iterator[Entry]:
    """Yields a row a question, picture by picture.

    Raises:
      ValueError: If a file is of another shape.
    """
    del config
    match = _NAME.fullmatch(name)
    prefix, subset = (match[1] or "", match[2]) if match else ("", "")
    (questions,) = json_file.lists(root / name, "questions")
    answers = _answers(root / f"{prefix}mscoco_{subset}_annotations.json")
    # Test-dev is a part of the test pictures.
    pictured = subset.replace("test-dev", "test")
    where = json_file.pictures(root, [pictured])
    resolved = root.resolve()
    for asked in sorted(questions, key=lambda one: str(one.get("image_id")).zfill(12)):
        place = f"{root / name}: question {asked.get('question_id')}"
        try:
            file_name = f"COCO_{pictured}_{int(asked['image_id']):012d}.jpg"
            inside = json_file.inside(root, where, file_name)
            path = folder.check_inside(resolved, inside)
            columns = {"questions": [_question(asked, answers)]}
            key = f"{file_name}#{asked['question_id']}"
            parts = (blob.File(path),)
            yield place, Row(key, root, parts, columns, file_name, is_for_tasks=True)
        except (KeyError, TypeError, ValueError) as error:
            if not isinstance(error, RefusedError):
                error = RefusedError(Reason.MALFORMED, f"no {error}")
            yield place, error


def _answers(path: pathlib.Path) -> dict[Any, dict[str, Any]] | None:
    """What the file of answers says by question, or None if there is none."""
    if not path.exists():
        return None
    (annotations,) = json_file.lists(path, "annotations")
    return {one.get("question_id"): one for one in annotations}


def _question(
    asked: dict[str, Any], answers: dict[Any, dict[str, Any]] | None
) -> dict[str, Any]:
    """A question with its answers, as tasks see it."""
    text = clean(str(asked["question"]))
    if not text:
        raise RefusedError(Reason.EMPTY_QUESTION, "the question is empty")
    found = {"question": text, "question_id": asked["question_id"], "answers": []}
    if answers is None:
        return found
    known = answers.get(asked["question_id"])
    given = [str(one["answer"]) for one in (known or {}).get("answers", ())]
    if known is None or not any(one.strip() for one in given):
        raise RefusedError(
            Reason.NO_ANSWER, "nobody's answer is in the file of answers"
        )
    types = {
        name: str(known[name])
        for name in ("question_type", "answer_type")
        if name in known
    }
    return {**found, "answers": given, **types}
