"""COCO captions: a JSON file of captions and a folder of pictures.

    annotations/captions_train2017.json   train2017/000000000009.jpg

The pictures of `captions_NAME.json` are in the folder NAME, in `images/`, or beside it;
the JSON files are in `annotations/` or in the folder itself. Every caption is a row;
rows of one picture follow each other and stay in one split. The licence is the name
that the file gives the picture's licence number.
"""

from __future__ import annotations

import collections
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from cm3leon_jax.data.refusals import Reason, RefusedError
from cm3leon_jax.data.sources import blob, folder, json_file
from cm3leon_jax.data.sources import row as rows
from cm3leon_jax.data.sources.row import Entry, Row, SourceConfig

TITLE = "COCO captions"
_PREFIX = "captions_"
_MAX_BYTES = 2_000_000_000  # the whole file is in memory; train2017 has 92 MB


def find(root: pathlib.Path) -> list[str]:
    """The JSON files of captions."""
    for where in (root / "annotations", root):
        if found := sorted(where.glob(f"{_PREFIX}*.json")):
            return [path.relative_to(root).as_posix() for path in found]
    return []


def entries(root: pathlib.Path, name: str, config: SourceConfig) -> Iterator[Entry]:
    """Yields a row a caption, picture by picture in the file's order.

    Raises:
      ValueError: If the file is no COCO captions JSON.
    """
    images, captions, licences = _read(root / name)
    where = _pictures(root, pathlib.PurePosixPath(name).stem.removeprefix(_PREFIX))
    resolved = root.resolve()
    known = set()
    for image in images:
        place = f"{root / name}: picture {str(image)[:60]}"
        try:
            file_name, columns = _image(image, licences)
            picture_id = image.get("id")
            known.add(picture_id)
            inside = json_file.inside(root, where, file_name)
            path = folder.check_inside(resolved, inside)
        except RefusedError as error:
            yield place, error
            continue
        for annotation in captions[picture_id]:
            key = f"{file_name}#{annotation.get('id')}"
            try:
                text = rows.take_text(dict(annotation), ("caption",))
                parts = rows.pair(text, blob.File(path), config)
                yield place, Row(key, root, parts, dict(columns), group=file_name)
            except RefusedError as error:
                yield f"{root / name}: caption {key}", error
    for picture_id, some in captions.items():
        if picture_id not in known:
            error = RefusedError(Reason.MISSING, f"{len(some)} captions of no picture")
            yield f"{root / name}: picture {picture_id}", error


def _read(
    path: pathlib.Path,
) -> tuple[list[Any], dict[Any, list[dict]], dict[Any, str]]:
    """The file's pictures, the captions by picture, and names of licences by number."""
    try:
        content = json.loads(blob.File(path).read(_MAX_BYTES))
        captions = collections.defaultdict(list)
        for annotation in content["annotations"]:
            captions[annotation["image_id"]].append(annotation)
        licences = {
            one["id"]: str(one["name"])
            for one in content.get("licenses", ())
            if "name" in one
        }
        return list(content["images"]), captions, licences
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} is no COCO captions file ({error}); it needs `images` and"
            " `annotations`"
        ) from error


def _pictures(root: pathlib.Path, name: str) -> pathlib.Path:
    for where in (root / name, root / "images" / name, root / "images"):
        if where.is_dir():
            return where
    return root


def _image(image: Any, licences: dict[Any, str]) -> tuple[str, dict[str, Any]]:
    """A picture's file name and columns."""
    if not isinstance(image, dict) or not isinstance(image.get("file_name"), str):
        raise RefusedError(Reason.MALFORMED, "no `file_name`")
    licence = image.get("license", "")
    columns = {
        "licence": licences.get(licence, str(licence)),
        "url": image.get("coco_url") or image.get("flickr_url") or "",
        "key": str(image.get("id")),
    }
    return image["file_name"], columns
