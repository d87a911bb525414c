"""Image Paragraph: a paragraph about each of 19,561 pictures of Visual Genome.

    paragraphs_v1.json   [{"image_id": 2356347, "paragraph": "A large building ...",
                         "url": "https://cs.stanford.edu/.../VG_100K/2356347.jpg"}]
    train_split.json     [2356347, ...]   also val_split.json, test_split.json
    VG_100K/2356347.jpg, VG_100K_2/...

Some pictures have two paragraphs: several rows of one group.

Source: https://cs.stanford.edu/people/ranjaykrishna/im2p/index.html.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

from cm3leon_jax.data.refusals import Reason, RefusedError
from cm3leon_jax.data.sources import blob, folder, json_file
from cm3leon_jax.data.sources import row as rows
from cm3leon_jax.data.sources.row import Entry, Row, SourceConfig

TITLE = "Image Paragraph"
_FILE = "paragraphs_v1.json"
_NEEDS = "a JSON list of objects with `image_id` and `paragraph`"
_FOLDERS = ("VG_100K", "VG_100K_2", "images", ".")


def find(root: pathlib.Path) -> list[str]:
    """Its splits, as far as their lists are there; all of it if there are none."""
    if not (root / _FILE).is_file():
        return []
    names = ("train", "val", "test")
    found = [one for one in names if (root / f"{one}_split.json").is_file()]
    return found or [_FILE]


def entries(root: pathlib.Path, name: str, config: SourceConfig) -> Iterator[Entry]:
    """Yields a row a paragraph, in the file's order.

    Raises:
      ValueError: If a file is of another shape.
    """
    content = json_file.read(root / _FILE, _NEEDS)
    if not isinstance(content, list):
        raise json_file.wrong(root / _FILE, _NEEDS, "it is no list")
    wanted = None
    if name != _FILE:
        wanted = set(json_file.read(root / f"{name}_split.json", "a list of numbers"))
    resolved = root.resolve()
    for number, told in enumerate(content):
        place = f"{root / _FILE}: paragraph {number}"
        number_of = told.get("image_id") if isinstance(told, dict) else None
        if wanted is not None and number_of not in wanted:
            continue
        try:
            yield place, _row(root, resolved, number, told, config)
        except RefusedError as error:
            yield place, error


def _row(
    root: pathlib.Path,
    resolved: pathlib.Path,
    number: int,
    told: Any,
    config: SourceConfig,
) -> Row:
    if not isinstance(told, dict) or not isinstance(told.get("image_id"), int):
        raise RefusedError(Reason.MALFORMED, "no `image_id`")
    text = rows.take_text(dict(told), ("paragraph",))
    file_name = f"{told['image_id']}.jpg"
    inside = next(
        (
            f"{where}/{file_name}"
            for where in _FOLDERS
            if (root / where / file_name).is_file()
        ),
        f"{_FOLDERS[0]}/{file_name}",
    )
    parts = rows.pair(text, blob.File(folder.check_inside(resolved, inside)), config)
    columns = {"url": str(told.get("url") or ""), "key": str(told["image_id"])}
    return Row(f"{file_name}#{number}", root, parts, columns, file_name)
