"""A folder of captioned pictures, in one of two layouts.

Hugging Face imagefolder: `metadata.jsonl`, a JSON object a line with `file_name` (a
path within the folder) and `text`; further columns are kept as they are.

    {"file_name": "0000.png", "text": "2nd place medal", "keywords": ["medal"]}

Or pictures with a text file of the same name beside each, in any subfolder:

    cats/001.jpg   cats/001.txt

Text is UTF-8. A file name that leaves the folder is refused. Captions are data: nothing
in them is parsed.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from cm3leon_jax.data import pictures
from cm3leon_jax.data.refusals import Reason, Refusals, RefusedError

METADATA = "metadata.jsonl"
MAX_CAPTION_CHARS = 20_000  # several rows of text; longer is a mistake in the data
_MAX_LINE_BYTES = 4_000_000


@dataclasses.dataclass(frozen=True)
class Row:
    """One picture with its text.

    Attributes:
      id: File name within the folder, with `/` on every system.
      root: The folder.
      text: The caption, stripped, not empty.
      columns: All other columns of its line.
    """

    id: str
    root: pathlib.Path
    text: str
    columns: dict[str, Any]

    @property
    def path(self) -> pathlib.Path:
        """The picture's file."""
        return self.root / self.id

    def column(self, name: str, default: str = "") -> str:
        """A column that must be a string, or `default` where the row has none."""
        value = self.columns.get(name, default)
        if not isinstance(value, str):
            raise RefusedError(Reason.MALFORMED, f"column {name!r} is no string")
        return value


def read(
    folder: str | pathlib.Path, refusals: Refusals, *, strict: bool = False
) -> Iterator[Row]:
    """Reads the rows of a folder in order, without opening a picture.

    Args:
      folder: A folder in one of the two layouts.
      refusals: Where refused rows are counted; accepted ones are counted by whoever
        uses them, since their pictures may yet be refused.
      strict: Raise at the first bad row, naming file, line and remedy, instead of
        counting it.

    Yields:
      Rows whose picture exists.

    Raises:
      FileNotFoundError: If there is no such folder.
      ValueError: If it holds no captioned picture; if `strict`, for every bad row.
    """
    root = pathlib.Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}; give one with captioned pictures")
    entries = _from_metadata if (root / METADATA).is_file() else _from_text_files
    resolved, found = root.resolve(), False
    for place, entry in entries(root):
        found = True
        try:
            if isinstance(entry, RefusedError):
                raise entry
            row = _row(root, *entry)
            check_inside(resolved, row.id)
            yield row
        except RefusedError as error:
            if strict:
                raise ValueError(f"{place}: {error}") from error
            refusals.refuse(place, error)
    if not found:
        raise ValueError(
            f"{root} holds no captioned pictures; it needs {METADATA} with file_name"
            " and text on every line, or pictures with a .txt of the same name"
        )


def check_inside(root: pathlib.Path, name: str) -> pathlib.Path:
    """Returns a file of the folder by its name in a column.

    Args:
      root: The folder, resolved.
      name: Relative path.

    Raises:
      RefusedError: If the path leaves the folder, or there is no such file.
    """
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


_Entry = tuple[str, Any, dict[str, Any]] | RefusedError


def _from_metadata(root: pathlib.Path) -> Iterator[tuple[str, _Entry]]:
    """Yields where each line is, and its file name, text and other columns."""
    with open(root / METADATA, "rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{root / METADATA}:{number}", _parse_line(line)


def _parse_line(line: bytes) -> _Entry:
    if len(line) > _MAX_LINE_BYTES:
        return RefusedError(Reason.LONG_CAPTION, f"a line of {len(line)} bytes")
    try:
        columns = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return RefusedError(Reason.NOT_UTF8, "the line is not UTF-8; save it as UTF-8")
    except (ValueError, RecursionError) as error:
        return RefusedError(Reason.MALFORMED, f"the line is not JSON ({error})")
    if not isinstance(columns, dict) or not isinstance(columns.get("file_name"), str):
        return RefusedError(Reason.MALFORMED, "no JSON object with a `file_name`")
    if "text" not in columns:
        return RefusedError(Reason.MALFORMED, "no column `text`; add the caption")
    return columns.pop("file_name"), columns.pop("text"), columns


def _from_text_files(root: pathlib.Path) -> Iterator[tuple[str, _Entry]]:
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() not in pictures.SUFFIXES or not path.is_file():
            continue
        caption = path.with_suffix(".txt")
        name = path.relative_to(root).as_posix()
        if not caption.is_file():
            yield (
                str(path),
                RefusedError(Reason.EMPTY_CAPTION, f"no {caption.name} beside it"),
            )
            continue
        try:
            yield str(caption), (name, caption.read_bytes().decode("utf-8"), {})
        except UnicodeDecodeError:
            error = RefusedError(Reason.NOT_UTF8, "it is not UTF-8; save it as UTF-8")
            yield str(caption), error


def _row(root: pathlib.Path, name: str, text: Any, columns: dict[str, Any]) -> Row:
    if not isinstance(text, str):
        raise RefusedError(Reason.MALFORMED, "column `text` is no string")
    text = clean(text)
    if not text:
        raise RefusedError(
            Reason.EMPTY_CAPTION, "the caption is empty; write one or delete the row"
        )
    return Row(pathlib.PurePosixPath(name).as_posix(), root, text, columns)


def clean(text: str) -> str:
    """Returns a caption stripped.

    Raises:
      RefusedError: If it is too long, or holds NUL or half a surrogate pair.
    """
    if len(text) > MAX_CAPTION_CHARS:
        raise RefusedError(
            Reason.LONG_CAPTION, f"{len(text)} characters, at most {MAX_CAPTION_CHARS}"
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # a JSON escape can spell half a pair
        raise RefusedError(Reason.NOT_UTF8, "it holds a lone surrogate") from error
    if "\0" in text:
        raise RefusedError(Reason.NOT_UTF8, "it holds NUL; remove it")
    return text.strip()
