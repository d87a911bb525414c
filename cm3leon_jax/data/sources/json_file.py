"""Whole JSON files of annotations, and the pictures that they name by number.

Nothing is trusted: a file of another shape is an error that says what was expected.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from cm3leon_jax.data.sources import blob

MAX_BYTES = 4_000_000_000  # the whole file is in memory; Objects365 has 2.8 GB


def read(path: pathlib.Path, needs: str) -> Any:
    """Reads a JSON file.

    Args:
      path: The file.
      needs: What it must hold, for the message.

    Raises:
      ValueError: If it is no JSON.
    """
    try:
        return json.loads(blob.File(path).read(MAX_BYTES))
    except (ValueError, RecursionError) as error:
        raise wrong(path, needs, error) from error


def lists(path: pathlib.Path, *names: str) -> tuple[list[dict[str, Any]], ...]:
    """The lists of objects of a JSON object, by name.

    Raises:
      ValueError: If the file has no such lists.
    """
    needs = "a JSON object with the lists " + ", ".join(f"`{one}`" for one in names)
    content = read(path, needs)
    found = []
    for name in names:
        one = content.get(name) if isinstance(content, dict) else None
        if not isinstance(one, list) or not all(isinstance(x, dict) for x in one):
            raise wrong(path, needs, "it has none")
        found.append(one)
    return tuple(found)


def wrong(path: pathlib.Path, needs: str, why: object) -> ValueError:
    """The error about a file that is another one than its name says."""
    return ValueError(f"{path} must hold {needs} ({why})")


def pictures(root: pathlib.Path, names: Sequence[str]) -> pathlib.Path:
    """The first of some folders that is there, in the root or in `images/`; or the root.

    Args:
      root: The data set's folder.
      names: Of folders, the likeliest first.
    """
    for name in names:
        for where in (root / name, root / "images" / name):
            if where.is_dir():
                return where
    return root / "images" if (root / "images").is_dir() else root


def inside(root: pathlib.Path, where: pathlib.Path, name: str) -> str:
    """A file's name within the root, whatever the file is called.

    Args:
      root: The data set's folder.
      where: A folder in it, or itself.
      name: What an annotation calls the file; an absolute one stays below `where`.
    """
    folder = where.relative_to(root).as_posix()
    return name.lstrip("/") if folder == "." else f"{folder}/{name}"
