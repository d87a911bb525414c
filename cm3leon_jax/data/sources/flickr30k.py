"""Flickr30k as its authors give it: a line a caption, a folder of pictures.

    results_20130124.token     1000092795.jpg#0<tab>Two young guys with shaggy hair ...
    flickr30k-images/1000092795.jpg

Every caption is a row; the five of a picture are a group. Karpathy's splits of the same
pictures are another format (`karpathy`).

Source: https://shannon.cs.illinois.edu/DenotationGraph/.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

from cm3leon_jax.data.refusals import Reason, RefusedError
from cm3leon_jax.data.sources import blob, folder, json_file
from cm3leon_jax.data.sources import row as rows
from cm3leon_jax.data.sources.row import Entry, Row, SourceConfig

TITLE = "Flickr30k's table of captions"
_FOLDERS = ("flickr30k-images", "flickr30k_images", "images")


def find(root: pathlib.Path) -> list[str]:
    """The tables of captions."""
    return sorted(path.name for path in root.glob("results*.token"))


def entries(root: pathlib.Path, name: str, config: SourceConfig) -> Iterator[Entry]:
    """Yields a row a caption, in the table's order."""
    where = json_file.pictures(root, _FOLDERS)
    resolved = root.resolve()
    with open(root / name, "rb") as file:
        for number, line in enumerate(file, 1):
            place = f"{root / name}:{number}"
            try:
                key, tab, text = rows.decode(line).partition("\t")
                file_name, mark, _ = key.rpartition("#")
                if not tab or not mark:
                    what = "a line is `picture.jpg#0`, a tab and a caption"
                    raise RefusedError(Reason.MALFORMED, what)
                inside = json_file.inside(root, where, file_name)
                path = folder.check_inside(resolved, inside)
                parts = rows.pair(text, blob.File(path), config)
                yield place, Row(key, root, parts, {"key": file_name}, file_name)
            except RefusedError as error:
                yield place, error
