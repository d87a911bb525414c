"""Public benchmarks of text: cases of a task, what is asked, and the number.

    captions      CIDEr-D, BLEU, ROUGE-L against all captions of a picture
    vqa_accuracy  against several people's answers
    accuracy      of the letter of a choice

A case is asked by its task's own test-time prompt. In front may stand examples of the
task (in context) or retrieved documents, both as documents with a `<break>` behind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cm3leon_jax.data.loading import Loaded
from cm3leon_jax.decoding.sampling import PLAIN, Sampling
from cm3leon_jax.decoding.writer import Order, Writer
from cm3leon_jax.documents import example
from cm3leon_jax.documents.document import Document
from cm3leon_jax.evals import answering, captioning
from cm3leon_jax.tasks import scienceqa, table
from cm3leon_jax.tasks.row import TaskRow

CAPTIONS, ANSWERS, CHOICES = "captions", "vqa_accuracy", "accuracy"
Score = Callable[[Sequence[Sequence[str]], Sequence[str]], dict[str, float]]
METRICS: dict[str, Score] = {
    CAPTIONS: captioning.evaluate,
    ANSWERS: answering.evaluate,
    CHOICES: lambda right, given: answering.choices([one[0] for one in right], given),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing that is asked.

    Attributes:
      key: The picture, or the question.
      row: What is shown.
      asked: The question in words, empty for captions.
      people: Captions, answers, or the right letter; empty where they are kept secret.
      group: Value of the column by which numbers are split; or empty.
    """

    key: str
    row: TaskRow
    asked: str
    people: tuple[str, ...]
    group: str = ""


@dataclasses.dataclass(frozen=True)
class AskConfig:
    """How cases are asked.

    Attributes:
      task: Name of the task.
      num_examples: Examples of the task in front of each case.
      max_text: Most ids that are written.
      writing: How ids are drawn.
      seed: Of the choice of examples, and of what is drawn.
    """

    task: str
    num_examples: int = 0
    max_text: int = 32
    writing: Sampling = PLAIN
    seed: int = 0


def cases(rows: Sequence[Loaded], task: str, group: str = "") -> list[Case]:
    """Returns the cases of some rows; captions of one picture are one case.

    Args:
      rows: Of one split, pictures decoded.
      task: Whose `METRIC` is one of `METRICS`.
      group: A column of the data, or a field of its question (`answer_type`); empty for
        none.

    Raises:
      ValueError: If the task is not measured so, or no row has the column.
    """
    metric = table.get(task).METRIC
    if metric not in METRICS:
        raise ValueError(
            f"task {task!r} is measured by {metric!r}; text by {', '.join(METRICS)}"
        )
    made: dict[str, Case] = {}
    for row in rows:
        if row.task is not None:
            _add(made, row.task, row.row.group or row.id, metric, group)
    found = list(made.values())
    if group and not any(case.group for case in found):
        raise ValueError(f"no row has the column {group!r} to group by")
    return found


def order(
    case: Case,
    index: int,
    writer: Writer,
    config: AskConfig,
    documents: Sequence[Document] = (),
) -> Order:
    """Returns the order of a case, its documents in front."""
    task: Any = table.get(config.task)
    picture = writer_picture(case.row, writer)
    if task.METRIC == CAPTIONS:
        parts = task.prompt(picture)
    elif task.METRIC == ANSWERS:
        parts = task.prompt(case.asked, picture)
    else:
        parts = task.prompt(case.row.columns["science"], picture)
    return Order(
        parts,
        documents=tuple(documents),
        seed=config.seed + index,
        sampling=config.writing,
        max_text=config.max_text,
    )


def examples(pool: Sequence[Case], writer: Writer, config: AskConfig) -> list[Document]:
    """Returns documents of the task, to choose examples in context from.

    Args:
      pool: Cases of the training split.
      writer: Whose tokenizers make them.
      config: The task and the seed.
    """
    task = table.get(config.task)
    rng = np.random.default_rng(config.seed)
    made = [one for case in pool for one in task.examples(case.row, rng)[:1]]
    pictures = [picture for one in made for picture in one.pictures]
    if not pictures:
        return []
    codes = iter(np.asarray(writer.encode_pictures(np.stack(pictures)), np.int32))
    return [
        example.tokenize(
            one, writer.encode_text, [next(codes) for _ in one.pictures], writer.vocab
        )
        for one in made
    ]


def choose(
    documents: Sequence[Document], count: int, index: int, seed: int
) -> list[Document]:
    """Returns the examples that stand before a case: others for each, the same again."""
    if not count:
        return []
    if len(documents) < count:
        raise ValueError(
            f"{count} examples in context of {len(documents)} there are; lower"
            " num_examples or fill the training split"
        )
    rng = np.random.default_rng((seed, index))
    return [documents[i] for i in rng.permutation(len(documents))[:count]]


def score(
    task: str,
    people: Sequence[Sequence[str]],
    written: Sequence[str],
    groups: Sequence[str],
) -> dict[str, float]:
    """Returns the task's numbers, and those of every group as `{name}/{group}`.

    A case whose people's answers are kept secret counts in none.

    Args:
      task: Its name.
      people: Of every case, captions, answers or the right letter; empty if secret.
      written: What the model wrote for each, parsed.
      groups: Of each; empty where there are none.
    """
    metric = METRICS[table.get(task).METRIC]
    told = [one for one in zip(people, written, groups, strict=True) if one[0]]
    numbers: dict[str, float] = {"num_cases": len(written), "num_scored": len(told)}
    if not told:
        return numbers
    numbers |= metric([one[0] for one in told], [one[1] for one in told])
    for name in sorted({one[2] for one in told} - {""}):
        own = [one for one in told if one[2] == name]
        values = metric([one[0] for one in own], [one[1] for one in own])
        numbers[f"num_scored/{name}"] = len(own)
        numbers |= {f"{key}/{name}": value for key, value in values.items()}
    return numbers


def parsed(task: str, text: str) -> str:
    """Returns what a model's words mean, as the task reads them."""
    module: Any = table.get(task)
    return module.parse(text)


def writer_picture(row: TaskRow, writer: Writer) -> np.ndarray:
    """The picture of a row, if it has the size that the tokenizer takes."""
    size = writer.image_size
    if row.picture.shape != (size, size, 3):
        raise ValueError(
            f"{row.id}: {row.picture.shape} pixels, the model takes {size}"
        )
    return row.picture


def _add(
    made: dict[str, Case], row: TaskRow, picture: str, metric: str, group: str
) -> None:
    """Adds a row's cases; a further caption joins its picture's case."""
    columns = row.columns
    if metric == CAPTIONS:
        text = row.string("text_long") or row.text
        before = made.get(picture)
        people = (*(before.people if before else ()), text) if text else ()
        made[picture] = Case(picture, row, "", people, _group(columns, {}, group))
    elif metric == ANSWERS:
        for asked in columns.get("questions") or ():
            key = str(asked.get("question_id", f"{row.id}#{asked['question']}"))
            people = tuple(asked.get("answers") or filter(None, [asked.get("answer")]))
            words = asked["question"]
            made[key] = Case(key, row, words, people, _group(columns, asked, group))
    elif columns.get("science"):
        asked, place = columns["science"], columns["science"].get("answer")
        right = () if place is None else (scienceqa.LETTERS[place],)
        key = str(asked.get("question_id", row.id))
        made[key] = Case(
            key, row, asked["question"], right, _group(columns, asked, group)
        )


def _group(columns: Any, asked: Any, name: str) -> str:
    return str(asked.get(name) or columns.get(name) or "") if name else ""
