"""Hugging Face imagefolder: pictures and a table of them.

`metadata.jsonl`, a JSON object a line with `file_name` (a path within the folder) and
`text`; further columns are kept as they are:

    {"file_name": "0000.png", "text": "2nd place medal", "keywords": ["medal"]}

or `metadata.csv` with the same columns, all of them strings. Text is UTF-8. A file name
that leaves the folder is refused.
"""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Iterator
from typing import Any

from cm3leon_jax.data.refusals import Reason, RefusedError
from cm3leon_jax.data.sources import blob, folder, lines
from cm3leon_jax.data.sources import row as rows
from cm3leon_jax.data.sources.row import Entry, Row, SourceConfig

TITLE = "imagefolder"
METADATA, METADATA_CSV = "metadata.jsonl", "metadata.csv"


def find(root: pathlib.Path) -> list[str]:
    """The table, if there is one."""
    return [name for name in (METADATA, METADATA_CSV) if (root / name).is_file()][:1]


def entries(root: pathlib.Path, name: str, config: SourceConfig) -> Iterator[Entry]:
    """Yields the rows of the table in its order."""
    resolved = root.resolve()
    read = lines.read if name == METADATA else _read_csv
    for number, columns in read(root / name):
        place = f"{root / name}:{number}"
        try:
            if isinstance(columns, RefusedError):
                raise columns
            yield place, _row(root, resolved, columns, config)
        except RefusedError as error:
            yield place, error


def _read_csv(
    path: pathlib.Path,
) -> Iterator[tuple[int, dict[str, Any] | RefusedError]]:
    # What is not UTF-8 becomes half surrogate pairs, which `row.clean` refuses.
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file)
        while True:
            try:
                columns = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                refused = RefusedError(Reason.MALFORMED, f"it is not CSV ({error})")
                yield reader.line_num, refused
                continue
            # More fields than the header has names end up under None.
            is_whole = None not in columns and None not in columns.values()
            what = f"{len(reader.fieldnames or ())} columns were expected"
            refused = RefusedError(Reason.MALFORMED, what)
            yield reader.line_num, dict(columns) if is_whole else refused


def _row(
    root: pathlib.Path,
    resolved: pathlib.Path,
    columns: dict[str, Any],
    config: SourceConfig,
) -> Row:
    name = columns.pop("file_name", None)
    if not isinstance(name, str):
        raise RefusedError(Reason.MALFORMED, "no column `file_name`")
    text = rows.take_text(columns, config.text_columns)
    picture = blob.File(root / name)
    parts = rows.pair(text, picture, config)
    folder.check_inside(resolved, name)
    return Row(pathlib.PurePosixPath(name).as_posix(), root, parts, columns)
