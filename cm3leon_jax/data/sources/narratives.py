"""Localized Narratives: what people said while they pointed at a picture.

    coco_train_localized_narratives-00000-of-00004.jsonl
        {"dataset_id": "mscoco_train2017", "image_id": "137576", "annotator_id": 93,
         "caption": "In this image there are ...", "timed_caption": [...], "traces": [...]}

A picture of COCO is `train2017/000000137576.jpg`; of Open Images, Flickr30k and ADE20k
`{image_id}.jpg`, in the folder of its split or in `images/`. Several narrators of a
picture are several rows of one group. Lines hold every point of the mouse and are long.

Source: https://google.github.io/localized-narratives/.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator
from typing import Any

from cm3leon_jax.data.refusals import Reason, RefusedError
from cm3leon_jax.data.sources import blob, folder, json_file, lines
from cm3leon_jax.data.sources import row as rows
from cm3leon_jax.data.sources.row import Entry, Row, SourceConfig

TITLE = "Localized Narratives"
_COCO = re.compile(r"mscoco_(\w+)")


def find(root: pathlib.Path) -> list[str]:
    """The files of narratives."""
    found = root.glob("*_localized_narratives*.jsonl")
    return sorted(path.name for path in found)


def entries(root: pathlib.Path, name: str, config: SourceConfig) -> Iterator[Entry]:
    """Yields a row a narrative, in the file's order."""
    resolved = root.resolve()
    for number, columns in lines.read(root / name):
        place = f"{root / name}:{number}"
        try:
            if isinstance(columns, RefusedError):
                raise columns
            yield place, _row(root, resolved, number, columns, config)
        except RefusedError as error:
            yield place, error


def _row(
    root: pathlib.Path,
    resolved: pathlib.Path,
    number: int,
    columns: dict[str, Any],
    config: SourceConfig,
) -> Row:
    data_set, image = columns.get("dataset_id"), columns.get("image_id")
    if not isinstance(data_set, str) or not isinstance(image, str | int):
        raise RefusedError(Reason.MALFORMED, "no `dataset_id` or no `image_id`")
    text = rows.take_text(columns, ("caption",))
    path = folder.check_inside(resolved, _picture(root, data_set, str(image)))
    parts = rows.pair(text, blob.File(path), config)
    group = f"{data_set}/{image}"
    told = {"annotator": str(columns.get("annotator_id", "")), "key": str(image)}
    return Row(f"{group}#{number}", root, parts, told, group)


def _picture(root: pathlib.Path, data_set: str, image: str) -> str:
    """Where a picture lies, as a name within the folder."""
    coco = _COCO.fullmatch(data_set)
    split = coco[1] if coco else data_set.rpartition("_")[2]
    file_name = f"{image.zfill(12)}.jpg" if coco else f"{image}.jpg"
    where = json_file.pictures(root, [split, f"{split}2017", f"{split}2014"])
    return json_file.inside(root, where, file_name)
