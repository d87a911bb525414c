"""JSONL of interleaved documents: any sequence of text and pictures, one a line.

    {"id": "recipe-7", "parts": [{"text": "Beat the eggs."}, {"image": "img/7a.jpg"},
     {"text": "Bake."}, {"image": "img/7b.jpg"}], "source": "...", "licence": "CC0"}

A text part may be a bare string. Two public layouts are read too: OBELICS' parallel
lists (`texts`, `images`, null in one where the other has the part) and MMC4's
(`text_list`, and `image_info` with `image_name` and `matched_text_index`: a picture
stands before the sentence that it matches). Pictures are files within the folder; an
address is refused, nothing is fetched. A document with a bad picture is refused whole.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

from cm3leon_jax.data.refusals import Reason, RefusedError
from cm3leon_jax.data.sources import blob, folder, lines
from cm3leon_jax.data.sources import row as rows
from cm3leon_jax.data.sources.row import Entry, Part, Row, SourceConfig

TITLE = "JSONL of interleaved documents"
MAX_PICTURES = 256  # of one document; 262,144 codes of the paper's size
_LAYOUTS = ("parts", "images", "image_info")


def find(root: pathlib.Path) -> list[str]:
    """The JSONL files of the folder."""
    return sorted(path.name for path in root.glob("*.jsonl"))


def entries(root: pathlib.Path, name: str, config: SourceConfig) -> Iterator[Entry]:
    """Yields the documents of one file; their ids are the file's name and the line."""
    del config
    resolved, stem = root.resolve(), name.removesuffix(".jsonl")
    for number, columns in lines.read(root / name):
        place = f"{root / name}:{number}"
        try:
            if isinstance(columns, RefusedError):
                raise columns
            parts = [
                part if is_text else blob.File(folder.check_inside(resolved, part))
                for is_text, part in _parts(columns)
            ]
            made: tuple[Part, ...] = rows.document(parts)
            row = Row(f"{stem}:{number}", root, made, columns)
            if len(row.pictures) > MAX_PICTURES:
                raise RefusedError(
                    Reason.TOO_LONG,
                    f"{len(row.pictures)} pictures, at most {MAX_PICTURES}",
                )
            yield place, row
        except RefusedError as error:
            yield place, error


def _parts(columns: dict[str, Any]) -> list[tuple[bool, str]]:
    """Takes the parts out of a line: whether each is text, and its text or file."""
    layout = next((name for name in _LAYOUTS if name in columns), None)
    try:
        if layout == "parts":
            return [_part(part) for part in columns.pop("parts")]
        if layout == "images":
            lists = columns.pop("texts"), columns.pop("images")
            return [_either(*pair) for pair in zip(*lists, strict=True) if any(pair)]
        if layout == "image_info":
            return _matched(columns.pop("text_list"), columns.pop("image_info"))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        if isinstance(error, RefusedError):
            raise
        raise RefusedError(
            Reason.MALFORMED, f"`{layout}` is of no known layout"
        ) from error
    raise RefusedError(Reason.MALFORMED, f"none of the columns {', '.join(_LAYOUTS)}")


def _part(part: Any) -> tuple[bool, str]:
    if isinstance(part, str):
        return True, part
    if isinstance(part, dict) and len(part) == 1:
        ((kind, value),) = part.items()
        if kind in ("text", "image") and isinstance(value, str):
            return kind == "text", value
    raise RefusedError(
        Reason.MALFORMED, 'a part is a string, {"text": ...} or {"image": ...}'
    )


def _either(text: Any, image: Any) -> tuple[bool, str]:
    if bool(text) == bool(image) or not isinstance(text or image, str):
        raise RefusedError(Reason.MALFORMED, "each place has a text or an image")
    return bool(text), text or image


def _matched(
    texts: list[str], pictures: list[dict[str, Any]]
) -> list[tuple[bool, str]]:
    made = []
    for index, text in enumerate(texts):
        names = [one for one in pictures if int(one["matched_text_index"]) == index]
        made += [(False, str(one["image_name"])) for one in names]
        made.append((True, str(text)))
    if len(made) != len(texts) + len(pictures):
        raise RefusedError(Reason.MALFORMED, "a picture matches none of the texts")
    return made
