"""One annotated picture, as tasks see it: its columns, with its pictures loaded.

Columns are those of the built-in scenes and of Hugging Face image folders:

    text          caption            text_long   a longer one
    keywords      ["medal", ...]     questions   [{"question", "answer", "kind"}]
    edit          {"instruction", "file_name"}
    segmentation  {"legend", "file_name"}; likewise edges, scribble, hed, pose, depth,
                  normals
    boxes         [{"name", "box": [x0, y0, x1, y1]}], here as shares of the picture
    writing       what is written in the picture
    science       {"question", "choices", "answer", "hint", "solution"}

A question of several people's has `answers`, a list, in place of `answer`.

A task takes what it needs and makes no example where its columns are missing. Columns
of another type than this raise `ValueError`, naming the column.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cm3leon_jax.documents.example import Example, Part


@dataclasses.dataclass(frozen=True)
class Box:
    """A named part of the picture.

    Attributes:
      name: What is there.
      corners: (x0, y0, x1, y1) as shares of width and height, in [0, 1].
    """

    name: str
    corners: tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class TaskRow:
    """One picture with its annotations.

    Attributes:
      id: Unique in its split.
      picture: uint8[Y, X, 3].
      text: Its caption; empty where it is there for a task alone.
      columns: All other columns.
      others: Further pictures by column name (`edit`, `segmentation`, ...).
      boxes: Named parts.
      source: Where it comes from. Likewise `licence`, `url`.
    """

    id: str
    picture: np.ndarray
    text: str
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    others: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    boxes: Sequence[Box] = ()
    source: str = ""
    licence: str = ""
    url: str = ""

    def example(self, task: str, suffix: str, *parts: Part) -> Example:
        """An example made of this row, with the row's provenance."""
        return Example(
            id=f"{self.id}{suffix}",
            parts=parts,
            task=task,
            source=self.source,
            licence=self.licence,
            url=self.url,
        )

    def string(self, column: str) -> str:
        """A column that is a string, stripped; empty if the row has none."""
        value = self.columns.get(column) or ""
        if not isinstance(value, str):
            raise ValueError(f"column {column!r} of {self.id} must be a string")
        return value.strip()

    def records(self, column: str, *fields: str) -> list[dict[str, str]]:
        """A column that is a list of objects, as those string fields of each."""
        found = self.columns.get(column) or []
        if not isinstance(found, list):
            raise ValueError(f"column {column!r} of {self.id} must be a list")
        return [_strings(item, fields, f"{column!r} of {self.id}") for item in found]

    def record(self, column: str, *fields: str) -> dict[str, str] | None:
        """A column that is one object, as those string fields; None if missing."""
        found = self.columns.get(column)
        return _strings(found, fields, f"{column!r} of {self.id}") if found else None


def _strings(item: Any, fields: Sequence[str], where: str) -> dict[str, str]:
    if not isinstance(item, dict):
        raise ValueError(f"column {where} must hold objects")
    for field in fields:
        if not isinstance(item.get(field), str) or not item[field].strip():
            raise ValueError(f"column {where} lacks the text {field!r}")
    return {field: item[field].strip() for field in fields}
