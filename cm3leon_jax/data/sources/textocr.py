"""TextOCR: the words that people read in pictures of Open Images.

    TextOCR_0.1_train.json   {"imgs": {"a4ea7...": {"id", "file_name", "width", "height"}},
                             "anns": {"a4ea7..._1": {"utf8_string": "Performance",
                             "bbox": [x, y, w, h], "area": ...}},
                             "imgToAnns": {"a4ea7...": ["a4ea7..._1", ...]}}
    train_images/a4ea7....jpg

`.` stands for a word that nobody could read. The words of a picture are joined in
reading order: lines from top to bottom, in each from left to right.

Source: https://textvqa.org/textocr/dataset/.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cm3leon_jax.data.refusals import Reason, RefusedError
from cm3leon_jax.data.sources import blob, folder, json_file
from cm3leon_jax.data.sources.row import Entry, Row, SourceConfig, clean

TITLE = "TextOCR"
_UNREADABLE = "."
_NEEDS = "a JSON object with `imgs`, `anns` and `imgToAnns`"
_FOLDERS = ("train_images", "train_val_images/train_images", "test_images")


def find(root: pathlib.Path) -> list[str]:
    """The files of annotations."""
    return sorted(path.name for path in root.glob("TextOCR_*.json"))


def entries(root: pathlib.Path, name: str, config: SourceConfig) -> Iterator[Entry]:
    """Yields a row for tasks of every picture with readable words.

    Raises:
      ValueError: If the file is of another shape.
    """
    del config
    content = json_file.read(root / name, _NEEDS)
    try:
        imgs, anns, of = (content[key] for key in ("imgs", "anns", "imgToAnns"))
        pairs = [(imgs[key], [anns[one] for one in ids]) for key, ids in of.items()]
    except (KeyError, TypeError, AttributeError) as error:
        raise json_file.wrong(root / name, _NEEDS, error) from error
    where, resolved = json_file.pictures(root, _FOLDERS), root.resolve()
    for image, words in pairs:
        place = f"{root / name}: picture {image.get('id')}"
        try:
            text = clean(reading_order(words))
            if not text:
                raise RefusedError(Reason.EMPTY_CAPTION, "no word can be read")
            base = pathlib.PurePosixPath(str(image.get("file_name"))).name
            inside = json_file.inside(root, where, base)
            path = folder.check_inside(resolved, inside)
            columns = {"writing": text}
            parts = (blob.File(path),)
            yield place, Row(base, root, parts, columns, is_for_tasks=True)
        except (RefusedError, KeyError, TypeError, ValueError) as error:
            if not isinstance(error, RefusedError):
                error = RefusedError(Reason.MALFORMED, f"a word lacks {error}")
            yield place, error


def reading_order(words: Sequence[Mapping[str, Any]]) -> str:
    """Joins words by their boxes `[x, y, width, height]`, line by line.

    A word whose middle lies within the height of a line's first word is on that line.
    """
    left = [
        (one["bbox"], str(one["utf8_string"]))
        for one in words
        if str(one["utf8_string"]).strip() not in ("", _UNREADABLE)
    ]
    left.sort(key=lambda word: word[0][1])
    lines: list[list[tuple[Sequence[float], str]]] = []
    for box, text in left:
        middle = box[1] + box[3] / 2
        first = lines[-1][0][0] if lines else None
        if first is not None and first[1] <= middle <= first[1] + first[3]:
            lines[-1].append((box, text))
        else:
            lines.append([(box, text)])
    ordered = (sorted(line, key=lambda word: word[0][0]) for line in lines)
    return " ".join(text for line in ordered for _, text in line)
