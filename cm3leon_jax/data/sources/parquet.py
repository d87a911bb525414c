"""Parquet tables with a column of picture bytes, as on the Hugging Face Hub.

    train-00000-of-00004.parquet    image {bytes, path}, text, licence, ...

The column of pictures is binary, or a struct with a binary `bytes`; the caption is the
first of `text`, `caption`, ... that there is. Both can be named (`SourceConfig`). A
row's id is the file's name and its number. Pictures are read a row group at a time,
when they are needed; files are in the folder or in its `data/`.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

from cm3leon_jax.data.refusals import Reason, RefusedError
from cm3leon_jax.data.sources import blob
from cm3leon_jax.data.sources import row as rows
from cm3leon_jax.data.sources.row import Entry, Row, SourceConfig

TITLE = "parquet tables with picture bytes"
_IMAGE_COLUMNS = ("image", "jpg", "img", "picture", "image_bytes", "bytes")
_MAX_GROUP_BYTES = 4_000_000_000  # of pictures in one row group, which is read whole
_NUM_GROUPS = 4  # kept in memory, for the threads that decode
_BATCH = 1_024

_LOCK = threading.Lock()


def find(root: pathlib.Path) -> list[str]:
    """The tables of the folder, or of its `data/`."""
    for where in (root, root / "data"):
        if found := sorted(where.glob("*.parquet")):
            return [path.relative_to(root).as_posix() for path in found]
    return []


def entries(root: pathlib.Path, name: str, config: SourceConfig) -> Iterator[Entry]:
    """Yields the rows of one table without reading a picture.

    Raises:
      ValueError: If it has no column of captions or of picture bytes, or several.
    """
    path = root / name
    try:
        table = _open(path)
    except RefusedError as error:
        yield str(path), error
        return
    image = _image_column(path, table.schema_arrow, config)
    if not any(one in table.schema_arrow.names for one in config.text_columns):
        raise ValueError(
            f"{path} has no column {' or '.join(config.text_columns)}, only"
            f" {table.schema_arrow.names}; name it with --config.source.text_column"
        )
    stem, number = name.removesuffix(".parquet"), 0
    for group in range(table.num_row_groups):
        for index, columns in enumerate(_plain(path, table, group)):
            place = f"{path}: row {number}"
            try:
                if isinstance(columns, RefusedError):
                    raise columns
                text = rows.take_text(columns, config.text_columns)
                parts = rows.pair(text, Cell(path, group, index, image), config)
                yield place, Row(f"{stem}:{number}", root, parts, columns)
            except RefusedError as error:
                yield place, error
            number += 1


@dataclasses.dataclass(frozen=True)
class Cell:
    """The picture of one row.

    Attributes:
      path: The table.
      group: Its row group.
      index: The row in the group.
      column: The column of pictures.
    """

    path: pathlib.Path
    group: int
    index: int
    column: str

    @property
    def name(self) -> str:
        """Table, row group and row."""
        return f"{self.path}: row group {self.group}, row {self.index}"

    def read(self, max_bytes: int) -> bytes:
        """Reads the bytes; see `blob.AbstractBlob`."""
        with _LOCK:  # so that threads do not read one group several times
            values = _pictures(self.path, self.group, self.column)
        value = values[self.index].as_py()
        data = value["bytes"] if isinstance(value, dict) else value
        if not data:
            raise RefusedError(Reason.MISSING, f"{self.name} has no picture bytes")
        blob.check_size(len(data), max_bytes)
        return data


def plain_rows(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of a table without its binary columns.

    Raises:
      RefusedError: If it cannot be read.
    """
    table = _open(path)
    for group in range(table.num_row_groups):
        for columns in _plain(path, table, group):
            if isinstance(columns, RefusedError):
                raise columns
            yield columns


def column_names(path: pathlib.Path) -> list[str]:
    """The columns of a table.

    Raises:
      RefusedError: If it cannot be read.
    """
    return list(_open(path).schema_arrow.names)


def column(path: pathlib.Path, name: str) -> list[Any]:
    """All values of one column.

    Raises:
      RefusedError: If it cannot be read.
    """
    return _open(path).read(columns=[name]).column(name).to_pylist()


def _open(path: pathlib.Path) -> Any:
    # Imported here: pyarrow takes a while to load, and most folders are no tables.
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: pathlib.Path, error: Exception) -> RefusedError:
    first = (str(error) or type(error).__name__).splitlines()[0][:120]
    return RefusedError(Reason.UNREADABLE, f"{path.name}: {first}")


def _plain(
    path: pathlib.Path, table: Any, group: int
) -> Iterator[dict[str, Any] | RefusedError]:
    """A row group's rows as objects; a damaged group is one refusal."""
    import pyarrow

    names = [field.name for field in table.schema_arrow if not _is_picture(field.type)]
    try:
        for batch in table.iter_batches(_BATCH, row_groups=[group], columns=names):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        yield _unreadable(path, error)


def _is_picture(kind: Any) -> bool:
    import pyarrow.types

    if pyarrow.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _is_picture(kind.field(index).type)
    return (
        pyarrow.types.is_binary(kind)
        or pyarrow.types.is_large_binary(kind)
        or pyarrow.types.is_binary_view(kind)
    )


def _image_column(path: pathlib.Path, schema: Any, config: SourceConfig) -> str:
    found = [field.name for field in schema if _is_picture(field.type)]
    if config.image_column:
        if config.image_column in found:
            return config.image_column
        raise ValueError(
            f"{path}: column {config.image_column!r} holds no picture bytes; those"
            f" that may: {found}"
        )
    if not found:
        raise ValueError(
            f"{path} has no column of picture bytes, only {schema.names}; a table of"
            " addresses must be downloaded first (img2dataset writes tar shards)"
        )
    known = [name for name in _IMAGE_COLUMNS if name in found]
    if len(found) > 1 and not known:
        raise ValueError(f"{path}: which of {found}? Name --config.source.image_column")
    return known[0] if known else found[0]


@functools.lru_cache(_NUM_GROUPS)
def _pictures(path: pathlib.Path, group: int, column: str) -> Any:
    """The pictures of a row group, as an Arrow array."""
    import pyarrow

    table = _open(path)
    described = table.metadata.row_group(group)
    blob.check_size(described.total_byte_size, _MAX_GROUP_BYTES)
    try:
        return table.read_row_group(group, columns=[column]).column(column)
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error
