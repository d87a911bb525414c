"""Rows with their pictures decoded: every distinct picture once, by threads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any

import numpy as np

from cm3leon_jax.data import pictures
from cm3leon_jax.data.pictures import PictureConfig
from cm3leon_jax.data.refusals import Reason, Refusals, RefusedError
from cm3leon_jax.data.sources import folder
from cm3leon_jax.data.sources.blob import AbstractBlob, File
from cm3leon_jax.data.sources.row import Row
from cm3leon_jax.tasks.row import Box, TaskRow


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A row with its pictures decoded.

    Attributes:
      row: The row.
      parts: Its parts in order, pictures uint8[N, N, 3].
      task: What tasks see of it; None unless it is a pair, or there for tasks.
    """

    row: Row
    parts: tuple[str | np.ndarray, ...]
    task: TaskRow | None

    @property
    def id(self) -> str:
        """The row's id."""
        return self.row.id

    @property
    def pictures(self) -> list[np.ndarray]:
        """Its pictures in order."""
        return [part for part in self.parts if not isinstance(part, str)]


def load(
    rows: Sequence[Row],
    config: PictureConfig,
    refusals: Refusals,
    *,
    num_threads: int = 4,
    others: Sequence[str] = (),
    check: Callable[[TaskRow], None] = lambda row: None,
) -> list[Loaded]:
    """Reads the rows' pictures; a row with a bad one is refused as a whole.

    Args:
      rows: The rows, in order.
      config: What pictures are accepted.
      refusals: Where accepted and refused rows are counted.
      num_threads: Threads that decode.
      others: Columns that name a further picture, which is read too.
      check: Raises `RefusedError` for a pair whose columns cannot be used.
    """
    named = [_attempt(_named_pictures, row, others) for row in rows]
    blobs = [one for row in rows for one in row.pictures]
    blobs += [one for some in named if isinstance(some, dict) for one in some.values()]
    distinct = list(dict.fromkeys(blobs))
    with futures.ThreadPoolExecutor(num_threads) as pool:
        read = pool.map(lambda one: _attempt(pictures.load, one, config), distinct)
        decoded = dict(zip(distinct, read, strict=True))
    loaded = []
    for row, further in zip(rows, named, strict=True):
        try:
            loaded.append(_loaded(row, _taken(further), decoded, config, check))
            refusals.accepted += 1
        except RefusedError as error:
            refusals.refuse(row.place, error)
    return loaded


def _attempt(function: Callable[..., Any], *args: Any) -> Any:
    """A function's value, or why it refused."""
    try:
        return function(*args)
    except RefusedError as error:
        return error


def _taken(value: Any) -> Any:
    """A value of `_attempt`; raises what it refused."""
    if isinstance(value, RefusedError):
        raise value
    return value


def _named_pictures(row: Row, names: Sequence[str]) -> dict[str, AbstractBlob]:
    """Further pictures that the columns of a row for tasks name."""
    found: dict[str, AbstractBlob] = {}
    for name in names if row.has_tasks else ():
        column = row.columns.get(name)
        if isinstance(column, dict) and isinstance(column.get("file_name"), str):
            path = folder.check_inside(row.root.resolve(), column["file_name"])
            found[name] = File(path)
    return found


def _loaded(
    row: Row,
    others: dict[str, AbstractBlob],
    decoded: dict[AbstractBlob, Any],
    config: PictureConfig,
    check: Callable[[TaskRow], None],
) -> Loaded:
    """Puts a row together with its decoded pictures.

    Raises:
      RefusedError: If one of them was refused, or a column cannot be read.
    """
    parts = tuple(
        part if isinstance(part, str) else _taken(decoded[part]) for part in row.parts
    )
    provenance = {"source": row.source, "licence": row.licence, "url": row.url}
    if not row.has_tasks:
        return Loaded(row, parts, None)
    task = TaskRow(
        id=row.id,
        picture=_taken(decoded[row.picture]),
        text=row.text,
        columns=row.columns,
        others={name: _taken(decoded[one]) for name, one in others.items()},
        boxes=named_boxes(row.picture, row.columns, config),
        **provenance,
    )
    check(task)
    return Loaded(row, parts, task)


def named_boxes(
    picture: AbstractBlob, columns: Mapping[str, Any], config: PictureConfig
) -> tuple[Box, ...]:
    """Returns the boxes that lie within what is left of a picture, as shares of it.

    They come in pixels, or as shares of the whole picture (`boxes_are_shares`).

    Args:
      picture: the file, for its size.
      columns: a row's, of which `boxes` may be one.
      config: how the picture is cut.

    Raises:
      RefusedError: if the column is malformed.
    """
    column = columns.get("boxes")
    if not column:
        return ()
    try:
        names = [str(item["name"]) for item in column]
        corners = [item["box"] for item in column]
        size = pictures.shown_size(picture, config)
        if columns.get("boxes_are_shares"):
            corners = [np.multiply(box, (*size, *size)) for box in corners]
        shares = pictures.crop_boxes(corners, *size)
    except (TypeError, KeyError, ValueError) as error:
        if isinstance(error, RefusedError):
            raise
        raise RefusedError(Reason.MALFORMED, f"column 'boxes': {error}") from error
    return tuple(
        Box(name, tuple(box))
        for name, box in zip(names, shares.tolist(), strict=True)
        if box[0] < box[2] and box[1] < box[3]
    )
