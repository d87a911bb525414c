"""A folder of pictures with a text file of the same name beside each, in any subfolder.

    cats/001.jpg   cats/001.txt

Text is UTF-8. Where a `.json` of that name lies beside them too (img2dataset's output
as files), its object is the row's columns.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

from cm3leon_jax.data import pictures
from cm3leon_jax.data.refusals import Reason, RefusedError
from cm3leon_jax.data.sources import blob, lines
from cm3leon_jax.data.sources import row as rows
from cm3leon_jax.data.sources.row import Entry, Row, SourceConfig

TITLE = "pictures with a .txt beside each"
_MAX_TEXT_BYTES = 4 * rows.MAX_CAPTION_CHARS  # UTF-8 has at most four a character


def find(root: pathlib.Path) -> list[str]:
    """The folder as one input, if it holds pictures."""
    return ["."] if next(_pictures(root), None) else []


def entries(root: pathlib.Path, name: str, config: SourceConfig) -> Iterator[Entry]:
    """Yields the pictures in the order of their names."""
    del name
    for path in sorted(_pictures(root)):
        caption = path.with_suffix(".txt")
        try:
            yield str(caption), _row(root, path, caption, config)
        except RefusedError as error:
            yield str(caption), error


def _pictures(root: pathlib.Path) -> Iterator[pathlib.Path]:
    return (
        path
        for path in root.rglob("*")
        if path.suffix.lower() in pictures.SUFFIXES and path.is_file()
    )


def _row(
    root: pathlib.Path, path: pathlib.Path, caption: pathlib.Path, config: SourceConfig
) -> Row:
    check_inside(root.resolve(), path.relative_to(root).as_posix())
    columns: dict[str, Any] = {}
    beside = path.with_suffix(".json")
    if beside.is_file():
        columns = lines.parse(blob.File(beside).read(lines.MAX_BYTES))
    text = ""
    if caption.is_file():
        text = rows.decode(blob.File(caption).read(_MAX_TEXT_BYTES))
    elif not config.keep_uncaptioned:
        raise RefusedError(Reason.EMPTY_CAPTION, f"no {caption.name} beside it")
    parts = rows.pair(text, blob.File(path), config)
    return Row(path.relative_to(root).as_posix(), root, parts, columns)


def check_inside(root: pathlib.Path, name: str) -> pathlib.Path:
    """Returns a file of a folder by its name in a column.

    Args:
      root: The folder, resolved.
      name: Relative path.

    Raises:
      RefusedError: If the path leaves the folder, is an address, or there is no such
        file.
    """
    if "://" in name[:16]:
        raise RefusedError(
            Reason.REMOTE, f"{name[:80]!r} is an address; download the pictures first"
        )
    path = root / name  # an absolute name replaces the root, and is refused for it
    try:
        is_inside, is_file = path.resolve().is_relative_to(root), path.is_file()
    except (OSError, ValueError) as error:  # NUL, a loop of links, a name too long
        raise RefusedError(Reason.MISSING, f"{name[:80]!r} is no path") from error
    if not is_inside:
        raise RefusedError(Reason.OUTSIDE, f"{name!r} leaves the folder")
    if not is_file:
        raise RefusedError(
            Reason.MISSING, f"no picture {name!r}; add it or delete the line"
        )
    return path
