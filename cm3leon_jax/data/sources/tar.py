"""Tar shards of img2dataset and WebDataset, as LAION is stored.

    00000.tar       000000012.jpg 000000012.txt 000000012.json ...
    00000.parquet   the same columns as the JSON members, by `key` (optional)

Files of one key are one row; the key is a member's name up to the first dot of its last
part. Archives are indexed and their members read in place: nothing is ever extracted.
Absolute names, names with `..`, links, devices and repeated names are refused, whatever
follows them goes on; compressed archives have no places to read at and are refused.
"""

from __future__ import annotations

import collections
import io
import pathlib
import tarfile
from collections.abc import Iterator
from typing import Any

from cm3leon_jax.data import pictures
from cm3leon_jax.data.refusals import Reason, RefusedError
from cm3leon_jax.data.sources import lines, parquet
from cm3leon_jax.data.sources import row as rows
from cm3leon_jax.data.sources.blob import Span
from cm3leon_jax.data.sources.row import Entry, Row, SourceConfig

TITLE = "tar shards (img2dataset, WebDataset)"
_MAX_HEADER_BYTES = 1_000_000  # of a member's extended header; real ones have hundreds
_MAX_TEXT_BYTES = 4 * rows.MAX_CAPTION_CHARS
_BLOCK = tarfile.BLOCKSIZE

_Files = dict[str, Span]  # of one key, by suffix


def find(root: pathlib.Path) -> list[str]:
    """The archives of the folder and its subfolders."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.tar"))


def entries(root: pathlib.Path, name: str, config: SourceConfig) -> Iterator[Entry]:
    """Yields the rows of one archive, in the order of their first members."""
    path = root / name
    grouped: dict[str, _Files] = collections.defaultdict(dict)
    for member, found in members(path):
        try:
            if isinstance(found, RefusedError):
                raise found
            key, suffix = _split(member)
            if suffix in grouped[key]:
                raise RefusedError(Reason.DUPLICATE, "a member of that name is there")
            grouped[key][suffix] = found
        except RefusedError as error:
            yield f"{path}:{member}", error
    table = _Table(path.with_suffix(".parquet"))
    for key, files in grouped.items():
        place = f"{path}:{key}"
        try:
            parts, columns = _row(key, files, table, config)
            row_id = f"{name.removesuffix('.tar')}/{key}"
            yield place, Row(row_id, root, parts, columns)
        except RefusedError as error:
            yield place, error


def members(path: pathlib.Path) -> Iterator[tuple[str, Span | RefusedError]]:
    """Indexes an archive: the name of every member but folders, and where it lies.

    A damaged archive gives what comes before the damage, and one refusal.
    """
    try:
        with (
            _Headers(path) as file,
            tarfile.open(fileobj=file, mode="r:") as archive,
        ):
            while member := archive.next():
                # Or it would keep every one. Public, but not in the stub.
                archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
                if member.size < 0:  # would lead back to where it came from
                    raise RefusedError(Reason.UNREADABLE, "a negative size")
                if not member.isdir():
                    yield member.name, _span(path, member)
            file.seek(archive.offset)
            if file.read(_BLOCK).strip(b"\0"):  # neither the end nor a header
                what = f"damaged at byte {archive.offset}; fetch it again"
                raise RefusedError(Reason.UNREADABLE, what)
    except RefusedError as error:
        yield "archive", error
    except (tarfile.TarError, OSError, ValueError, EOFError, RecursionError) as error:
        first = (str(error) or type(error).__name__).splitlines()[0][:120]
        what = f"{first}; it must be an uncompressed tar: fetch or unpack it again"
        yield "archive", RefusedError(Reason.UNREADABLE, what)


class _Headers(io.FileIO):
    """A file for `tarfile` that reads headers, and nothing large."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size) or b""


def _span(path: pathlib.Path, member: tarfile.TarInfo) -> Span | RefusedError:
    """Where a member lies, if it is a file with a name within the archive."""
    name = member.name
    if not member.isreg() or member.issparse():
        return RefusedError(Reason.NOT_A_FILE, "a link, device or sparse file")
    parts = name.replace("\\", "/").split("/")
    if name.startswith("/") or ".." in parts or ":" in parts[0] or "\0" in name:
        return RefusedError(Reason.OUTSIDE, "a name that leaves the archive")
    return Span(path, name, member.offset_data, member.size)


def _split(name: str) -> tuple[str, str]:
    """A member's key and lower-case suffix: `a/b.c.jpg` to `a/b` and `.c.jpg`."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, dot, suffix = base.partition(".")
    return f"{folder}{slash}{stem}", f"{dot}{suffix}".lower()


def _row(
    key: str, files: _Files, table: _Table, config: SourceConfig
) -> tuple[tuple[rows.Part, ...], dict[str, Any]]:
    """The parts and columns of a key's files."""
    picture = next((files[one] for one in pictures.SUFFIXES if one in files), None)
    if picture is None:
        found = ", ".join(sorted(files))[:80]
        raise RefusedError(Reason.MISSING, f"no picture among {found}")
    if ".json" in files:
        columns = lines.parse(files[".json"].read(lines.MAX_BYTES))
    else:
        columns = table.columns(key.rpartition("/")[2])
    columns = {"key": key, **columns}
    if ".txt" in files:
        text = rows.decode(files[".txt"].read(_MAX_TEXT_BYTES))
    else:
        has_text = any(name in columns for name in config.text_columns)
        text = rows.take_text(columns, config.text_columns) if has_text else ""
    return rows.pair(text, picture, config), columns


class _Table:
    """Columns by key of the parquet file beside an archive, read when first needed."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._rows: dict[str, dict[str, Any]] | None = None

    def columns(self, key: str) -> dict[str, Any]:
        """Returns a key's columns, none if the table does not have it."""
        if self._rows is None:
            found = parquet.plain_rows(self._path) if self._path.is_file() else ()
            self._rows = {str(columns.get("key")): columns for columns in found}
        return dict(self._rows.get(key, {}))
