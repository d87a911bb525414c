"""Objects in boxes, in COCO's format: COCO itself and Objects365.

    annotations/instances_train2017.json   {"images": [{"id", "file_name", "width",
        "height"}], "categories": [{"id": 1, "name": "person"}], "annotations":
        [{"image_id", "category_id", "bbox": [x, y, width, height], "iscrowd": 0}]}
    annotations/captions_train2017.json    where it is there, the captions
    train2017/000000000009.jpg             Objects365: images/v1/patch8/...jpg

Every picture is a row, with the first of its captions. Boxes become corners in pixels;
crowds (`iscrowd`, a region and no object) are left out, boxes are cut at the picture's
border, and a picture without any is refused.

Source: https://cocodataset.org/#format-data, https://www.objects365.org/download.html.
"""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from cm3leon_jax.data.refusals import Reason, RefusedError
from cm3leon_jax.data.sources import blob, folder, json_file
from cm3leon_jax.data.sources.row import Entry, Row, SourceConfig, clean

TITLE = "objects in boxes, COCO's format"
_PREFIXES = ("instances_", "zhiyuan_objv2_")


def find(root: pathlib.Path) -> list[str]:
    """The files of objects."""
    for where in (root / "annotations", root):
        found = sorted(p for one in _PREFIXES for p in where.glob(f"{one}*.json"))
        if found:
            return [path.relative_to(root).as_posix() for path in found]
    return []


def entries(root: pathlib.Path, name: str, config: SourceConfig) -> Iterator[Entry]:
    """Yields a row a picture, in the file's order.

    Raises:
      ValueError: If the file is of another shape.
    """
    del config
    path = root / name
    images, kinds, annotations = json_file.lists(
        path, "images", "categories", "annotations"
    )
    names = {one.get("id"): str(one.get("name")) for one in kinds}
    by_image = collections.defaultdict(list)
    for one in annotations:
        by_image[one.get("image_id")].append(one)
    stem = pathlib.PurePosixPath(name).stem
    for prefix in _PREFIXES:
        stem = stem.removeprefix(prefix)
    captions = _captions(path.with_name(f"captions_{stem}.json"))
    where, resolved = json_file.pictures(root, [stem]), root.resolve()
    for image in images:
        place = f"{path}: picture {image.get('id')}"
        try:
            boxes = _boxes(image, by_image[image.get("id")], names)
            inside = _picture(root, where, image)
            picture = blob.File(folder.check_inside(resolved, inside))
            text = captions.get(image.get("id"), "")
            parts = (text, picture) if text else (picture,)
            columns = {"boxes": boxes, "key": str(image.get("id"))}
            yield place, Row(inside, root, parts, columns, is_for_tasks=not text)
        except (RefusedError, KeyError, TypeError, ValueError) as error:
            if not isinstance(error, RefusedError):
                error = RefusedError(Reason.MALFORMED, f"an object lacks {error}")
            yield place, error


def corners(
    bbox: Sequence[float], width: float, height: float
) -> tuple[float, float, float, float] | None:
    """`[x, y, width, height]` as corners within the picture; None if nothing is left."""
    x, y, across, down = (float(value) for value in bbox)
    x0, y0 = max(0.0, x), max(0.0, y)
    x1, y1 = min(float(width), x + across), min(float(height), y + down)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _boxes(
    image: dict[str, Any], annotations: list[dict[str, Any]], names: dict[Any, str]
) -> list[dict[str, Any]]:
    found = []
    for one in annotations:
        if one.get("iscrowd"):
            continue
        box = corners(one["bbox"], image["width"], image["height"])
        if box is not None:
            found.append({"name": names[one["category_id"]], "box": list(box)})
    if not found:
        raise RefusedError(Reason.NO_BOX, "no object's box lies in the picture")
    return found


def _picture(root: pathlib.Path, where: pathlib.Path, image: dict[str, Any]) -> str:
    """Where a picture lies; Objects365 names a folder that its archives lack."""
    name = str(image["file_name"])
    base = pathlib.PurePosixPath(name)
    for path in (where / name, root / name, where / base.parent.name / base.name):
        if path.is_file():
            return path.relative_to(root).as_posix()
    return json_file.inside(root, where, name)


def _captions(path: pathlib.Path) -> dict[Any, str]:
    """The first caption of every picture, if there is a file of captions."""
    if not path.is_file():
        return {}
    found: dict[Any, str] = {}
    (annotations,) = json_file.lists(path, "annotations")
    for one in annotations:
        found.setdefault(one.get("image_id"), clean(str(one.get("caption") or "")))
    return found
