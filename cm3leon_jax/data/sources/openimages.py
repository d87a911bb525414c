"""Open Images: boxes in a CSV table, as shares of the picture.

    oidv6-train-annotations-bbox.csv   ImageID,Source,LabelName,Confidence,XMin,XMax,
                                       YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,
                                       IsDepiction,IsInside,...
    class-descriptions-boxable.csv     /m/011k07,Tortoise       (oidv7-... has a header)
    train/000002b66c9c498e.jpg

Note the order XMin, XMax, YMin, YMax. A group of more than five objects (`IsGroupOf`)
and the inside of one (`IsInside`) are left out, as is what a machine was not sure of
(`Confidence` 0). Rows of a picture follow each other in the table.

Source: https://storage.googleapis.com/openimages/web/download_v7.html#dense-labels-format.
"""

from __future__ import annotations

import csv
import itertools
import pathlib
from collections.abc import Iterator

from cm3leon_jax.data.refusals import Reason, RefusedError
from cm3leon_jax.data.sources import blob, folder, json_file
from cm3leon_jax.data.sources.row import Entry, Row, SourceConfig

TITLE = "boxes of Open Images"
_TABLE = "*annotations-bbox.csv"
_NAMES = "*class-descriptions-boxable.csv"
_LEFT_OUT = ("IsGroupOf", "IsInside")
_COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")


def find(root: pathlib.Path) -> list[str]:
    """The tables of boxes, if the names of classes are there."""
    if not any(root.glob(_NAMES)):
        return []
    return sorted(path.name for path in root.glob(_TABLE))


def entries(root: pathlib.Path, name: str, config: SourceConfig) -> Iterator[Entry]:
    """Yields a row for tasks of every picture, in the table's order.

    Raises:
      ValueError: If the table has other columns.
    """
    del config
    described = min(root.glob(_NAMES))
    with open(described, encoding="utf-8", newline="") as file:
        names = {line[0]: line[1] for line in csv.reader(file) if len(line) > 1}
    split = next((one for one in ("train", "validation", "test") if one in name), "")
    where, resolved = json_file.pictures(root, [split] if split else []), root.resolve()
    with open(root / name, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = [one for one in _COLUMNS if one not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{root / name} lacks the columns {', '.join(missing)}")
        for image, lines in itertools.groupby(reader, key=lambda row: row["ImageID"]):
            place = f"{root / name}: picture {image}"
            try:
                boxes = _boxes(list(lines), names)
                inside = json_file.inside(root, where, f"{image}.jpg")
                path = folder.check_inside(resolved, inside)
                columns = {"boxes": boxes, "boxes_are_shares": True, "key": image}
                parts = (blob.File(path),)
                yield place, Row(inside, root, parts, columns, is_for_tasks=True)
            except RefusedError as error:
                yield place, error


def _boxes(lines: list[dict[str, str]], names: dict[str, str]) -> list[dict]:
    found = []
    for line in lines:
        if any(line.get(flag) == "1" for flag in _LEFT_OUT):
            continue
        if line.get("Confidence", "1") in ("0", "0.0"):
            continue
        try:
            x0, x1, y0, y1 = (float(line[name]) for name in _COLUMNS[2:])
            label = names[line["LabelName"]]
        except (KeyError, ValueError) as error:
            raise RefusedError(Reason.MALFORMED, f"a box: {error}") from error
        x0, y0, x1, y1 = max(0.0, x0), max(0.0, y0), min(1.0, x1), min(1.0, y1)
        if x0 < x1 and y0 < y1:
            found.append({"name": label.lower(), "box": [x0, y0, x1, y1]})
    if not found:
        raise RefusedError(Reason.NO_BOX, "no box of a single object in the picture")
    return found
