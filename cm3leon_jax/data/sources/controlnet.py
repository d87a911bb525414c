"""ControlNet's training folders: a picture, what controls it, and a prompt.

    prompt.json    {"source": "source/0.png", "target": "target/0.png", "prompt": "..."}
                   a line a pair

`source` is the control picture: of which kind says the folder's `control.json`,
`{"kind": "hed"}`, one of edges, segmentation, hed, pose, depth, normals, scribble;
without it, the config's source name (`--config.source.source=hed`).

Source: https://github.com/lllyasviel/ControlNet/blob/main/docs/train.md (fill50k).
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

from cm3leon_jax.data.refusals import Reason, RefusedError
from cm3leon_jax.data.sources import blob, folder, json_file, lines
from cm3leon_jax.data.sources import row as rows
from cm3leon_jax.data.sources.row import Entry, Row, SourceConfig

TITLE = "ControlNet's pairs"
KINDS = ("edges", "segmentation", "hed", "pose", "depth", "normals", "scribble")
_FILE, _KIND_FILE = "prompt.json", "control.json"


def find(root: pathlib.Path) -> list[str]:
    """The table of pairs, if there is one."""
    return [_FILE] if (root / _FILE).is_file() else []


def entries(root: pathlib.Path, name: str, config: SourceConfig) -> Iterator[Entry]:
    """Yields a row a pair, in the table's order.

    Raises:
      ValueError: If nothing says what kind of control the pictures are.
    """
    kind = _kind(root, config)
    resolved = root.resolve()
    for number, columns in lines.read(root / name):
        place = f"{root / name}:{number}"
        try:
            if isinstance(columns, RefusedError):
                raise columns
            yield place, _row(root, resolved, kind, columns, config)
        except RefusedError as error:
            yield place, error


def _kind(root: pathlib.Path, config: SourceConfig) -> str:
    kind: Any = config.source
    if (root / _KIND_FILE).is_file():
        told = json_file.read(root / _KIND_FILE, '{"kind": "hed"}')
        kind = told.get("kind") if isinstance(told, dict) else None
    if kind not in KINDS:
        raise ValueError(
            f"{root}: control pictures of kind {kind!r}; write {_KIND_FILE} with"
            f' {{"kind": ...}}, one of {", ".join(KINDS)}'
        )
    return kind


def _row(
    root: pathlib.Path,
    resolved: pathlib.Path,
    kind: str,
    columns: dict[str, Any],
    config: SourceConfig,
) -> Row:
    text = rows.take_text(columns, ("prompt", *config.text_columns))
    target, source = columns.pop("target", None), columns.pop("source", None)
    if not isinstance(target, str) or not isinstance(source, str):
        raise RefusedError(Reason.MALFORMED, "no `source` or no `target`")
    path = folder.check_inside(resolved, target)
    text = rows.clean(text)
    parts = (text, blob.File(path)) if text else (blob.File(path),)
    told = {**columns, kind: {"file_name": source}}
    return Row(target, root, parts, told, is_for_tasks=not text)
