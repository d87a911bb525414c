"""Visual Dialog v1.0 with dense relevance: for evaluation, not a reader of training rows.

    visdial_1.0_val.json    {"data": {"questions": [...], "answers": [...], "dialogs":
        [{"image_id": 185565, "caption": "...", "dialog": [{"question": 35411,
        "answer": 1702, "answer_options": [100 numbers], "gt_index": 12}, ...]}]}}
    visdial_1.0_val_dense_annotations.json   [{"image_id": 185565, "round_id": 8,
        "gt_relevance": [100 shares]}]
    VisualDialog_val2018/VisualDialog_val2018_000000185565.jpg

Questions and answers are numbers of two lists; rounds are counted from 1; one round of
each dialog has a relevance for every candidate.

Source: https://visualdialog.org/data.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from cm3leon_jax.data.refusals import RefusedError
from cm3leon_jax.data.sources import blob, folder, json_file

_FILE = "visdial_1.0_val.json"
_DENSE = "visdial_1.0_val_dense_annotations.json"
_FOLDER = "VisualDialog_val2018"
_NEEDS = "a JSON object `data` with `questions`, `answers` and `dialogs`"


@dataclasses.dataclass(frozen=True)
class Turn:
    """One question of a dialog, its candidates, and how right people found each.

    Attributes:
      key: Picture and round.
      picture: Not yet read.
      caption: What the dialog begins with.
      history: Questions with their answers before this one.
      question: What is asked now.
      options: Candidates, 100 of them.
      relevance: Of each candidate, the share of people who found it right.
    """

    key: str
    picture: blob.AbstractBlob
    caption: str
    history: tuple[tuple[str, str], ...]
    question: str
    options: tuple[str, ...]
    relevance: tuple[float, ...]


def read(root: pathlib.Path) -> list[Turn]:
    """Reads the turns that have relevances, in the order of their file.

    Raises:
      FileNotFoundError: If a file is missing.
      ValueError: If a file is of another shape, or names a picture that is not there.
    """
    for name in (_FILE, _DENSE):
        if not (root / name).is_file():
            raise FileNotFoundError(f"no {root / name}; download VisDial v1.0")
    content = json_file.read(root / _FILE, _NEEDS)
    dense = json_file.read(root / _DENSE, "a JSON list of relevances")
    try:
        data = content["data"]
        dialogs = {one["image_id"]: one for one in data["dialogs"]}
        return [_turn(root, data, dialogs[one["image_id"]], one) for one in dense]
    except RefusedError as error:
        raise ValueError(f"{root}: {error}") from error
    except (KeyError, IndexError, TypeError) as error:
        raise json_file.wrong(root / _FILE, _NEEDS, error) from error


def _turn(
    root: pathlib.Path, data: Any, dialog: dict[str, Any], dense: dict[str, Any]
) -> Turn:
    questions, answers = data["questions"], data["answers"]
    number = dense["round_id"]
    rounds = dialog["dialog"][:number]
    if len(rounds) < number or number < 1:
        raise IndexError(f"round {number} of {len(dialog['dialog'])}")
    now = rounds[-1]
    options = tuple(answers[i] for i in now["answer_options"])
    relevance = tuple(dense.get("gt_relevance") or dense["relevance"])
    if len(options) != len(relevance):
        raise IndexError(f"{len(relevance)} relevances of {len(options)} options")
    name = f"{_FOLDER}_{int(dialog['image_id']):012d}.jpg"
    where = json_file.pictures(root, [_FOLDER])
    inside = json_file.inside(root, where, name)
    return Turn(
        key=f"{dialog['image_id']}#{number}",
        picture=blob.File(folder.check_inside(root.resolve(), inside)),
        caption=dialog["caption"],
        history=tuple(
            (questions[one["question"]], answers[one["answer"]]) for one in rounds[:-1]
        ),
        question=questions[now["question"]],
        options=options,
        relevance=relevance,
    )
