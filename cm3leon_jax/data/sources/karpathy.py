"""Karpathy's splits of COCO and Flickr30k: one JSON file of pictures and sentences.

    dataset_flickr30k.json   {"images": [{"filename": "1000092795.jpg", "split": "train",
                             "imgid": 0, "sentences": [{"raw": "Two men ...", "sentid": 0,
                             "tokens": [...]}, ...]}], "dataset": "flickr30k"}

of COCO with `filepath` ("val2014") and `cocoid` beside. `restval` is training data.
Every sentence is a row; sentences of one picture are a group.

Source: https://cs.stanford.edu/people/karpathy/deepimagesent/.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

from cm3leon_jax.data.refusals import Reason, RefusedError
from cm3leon_jax.data.sources import blob, folder, json_file
from cm3leon_jax.data.sources import row as rows
from cm3leon_jax.data.sources.row import Entry, Row, SourceConfig

TITLE = "Karpathy's splits"
_SPLITS = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}
_FOLDERS = ("flickr30k-images", "flickr30k_images", "images")


def find(root: pathlib.Path) -> list[str]:
    """Three splits of each file."""
    found = sorted(path.name for path in root.glob("dataset_*.json"))
    return [f"{split}:{name}" for name in found for split in _SPLITS]


def entries(root: pathlib.Path, name: str, config: SourceConfig) -> Iterator[Entry]:
    """Yields a row a sentence of one split, picture by picture.

    Raises:
      ValueError: If the file is of another shape.
    """
    split, _, file_name = name.partition(":")
    (images,) = json_file.lists(root / file_name, "images")
    resolved = root.resolve()
    for image in images:
        if image.get("split") not in _SPLITS[split]:
            continue
        place = f"{root / file_name}: picture {image.get('imgid')}"
        try:
            inside = _picture(root, image)
            path = folder.check_inside(resolved, inside)
            sentences = image["sentences"]
        except (RefusedError, KeyError, TypeError) as error:
            if not isinstance(error, RefusedError):
                error = RefusedError(Reason.MALFORMED, f"no {error}")
            yield place, error
            continue
        for number, sentence in enumerate(sentences):
            try:
                text = rows.take_text(dict(sentence), ("raw",))
                parts = rows.pair(text, blob.File(path), config)
                key = {"key": str(image.get("cocoid", image.get("imgid")))}
                yield place, Row(f"{inside}#{number}", root, parts, key, inside)
            except (RefusedError, TypeError, ValueError) as error:
                if not isinstance(error, RefusedError):
                    error = RefusedError(Reason.MALFORMED, "a sentence is no object")
                yield place, error


def _picture(root: pathlib.Path, image: dict[str, Any]) -> str:
    """Where a picture lies, as a name within the folder."""
    file_name = image["filename"]
    if not isinstance(file_name, str):
        raise RefusedError(Reason.MALFORMED, "`filename` is no string")
    names = [str(image["filepath"])] if image.get("filepath") else list(_FOLDERS)
    where = json_file.pictures(root, names)
    return json_file.inside(root, where, file_name)
