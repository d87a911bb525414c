"""CLIP vectors that people already have, as clip-retrieval and LAION store them.

    img_emb/img_emb_0.npy   text_emb/text_emb_0.npy   metadata/metadata_0.parquet
    (or the three kinds of files side by side in one folder)

Row i of `img_emb_K.npy` and of `text_emb_K.npy` belongs to row i of the table K. A
picture is found by its key: the table's column `key`, `image_path` (img2dataset's key,
or a file's name) or `url`, whichever it has first. In memory are 16 bytes a vector, the
vectors themselves are read from disk in place. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import pathlib
import re
from typing import Any

import numpy as np

from cm3leon_jax.data.sources import parquet
from cm3leon_jax.data.sources.row import Row

KEY_COLUMNS = ("key", "image_path", "url")
_KINDS = {"text": "text_emb", "image": "img_emb"}


class GivenVectors:
    """Vectors of text and pictures by the rows that they belong to.

    Attributes:
      dim: Width E.
      digest: Of the files' names and sizes, for the shards' metadata.
    """

    def __init__(self, folder: str | pathlib.Path):
        """Reads the tables' keys; vectors are read when asked for.

        Raises:
          FileNotFoundError: If there are no such files.
          ValueError: If a table has no key, or files do not belong together.
        """
        root = pathlib.Path(folder)
        tables = _numbered(root, "metadata", "metadata", "parquet")
        if not tables:
            raise FileNotFoundError(
                f"no vectors in {root}; it needs metadata/metadata_0.parquet and"
                " img_emb/img_emb_0.npy (clip-retrieval's layout)"
            )
        self._files: dict[str, list[np.ndarray | None]] = {
            kind: [
                _open(_numbered(root, stem, stem, "npy").get(number))
                for number in tables
            ]
            for kind, stem in _KINDS.items()
        }
        self._column = ""
        hashes, places = [], []
        for place, path in enumerate(tables.values()):
            keys = self._keys(path)
            self._check(path, place, len(keys))
            hashes.append(np.array([_hash(key) for key in keys], np.uint64))
            rows = np.arange(len(keys), dtype=np.uint64)
            places.append(rows | np.uint64(place << 40))
        order = np.argsort(np.concatenate(hashes), kind="stable")
        self._hashes = np.concatenate(hashes)[order]
        self._places = np.concatenate(places)[order]
        opened = [one for some in self._files.values() for one in some]
        present = [one for one in opened if one is not None]
        widths = {one.shape[1] for one in present}
        if len(widths) != 1:
            raise ValueError(f"{root}: vectors have the widths {sorted(widths)}")
        self.dim = widths.pop()
        described = repr([(path.name, path.stat().st_size) for path in tables.values()])
        shapes = repr([one.shape for one in present])
        self.digest = hashlib.sha256((described + shapes).encode()).hexdigest()

    def find(self, row: Row) -> dict[str, np.ndarray]:
        """Returns float32[E] unit vectors of a row by kind ("text", "image").

        A kind is missing where there is no vector, or one that is not finite or zero.
        """
        place = self._place(row)
        if place is None:
            return {}
        file, number = place >> 40, place & ((1 << 40) - 1)
        found = {}
        for kind, files in self._files.items():
            vectors = files[file]
            if vectors is None:
                continue
            vector = np.asarray(vectors[number], np.float32)
            length = float(np.linalg.norm(vector))
            if np.isfinite(length) and length > 0:
                found[kind] = vector / length
        return found

    def _place(self, row: Row) -> int | None:
        for key in _keys_of(row, self._column):
            wanted = np.uint64(_hash(key))
            index = int(np.searchsorted(self._hashes, wanted))
            if index < len(self._hashes) and self._hashes[index] == wanted:
                return int(self._places[index])
        return None

    def _keys(self, path: pathlib.Path) -> list[str]:
        names = parquet.column_names(path)
        column = next((name for name in KEY_COLUMNS if name in names), "")
        if not column or self._column not in ("", column):
            wanted = self._column or ", ".join(KEY_COLUMNS)
            raise ValueError(f"{path} has none of the columns {wanted}, only {names}")
        self._column = column
        return [str(value) for value in parquet.column(path, column)]

    def _check(self, path: pathlib.Path, place: int, num_rows: int) -> None:
        for kind, files in self._files.items():
            vectors = files[place]
            if vectors is not None and len(vectors) != num_rows:
                raise ValueError(
                    f"{path} has {num_rows} rows, its {kind} vectors are"
                    f" {len(vectors)}; they must be of one run"
                )


def _keys_of(row: Row, column: str) -> list[str]:
    """What the table may call a row."""
    if column == "url":
        return [row.url] if row.url else []
    name = pathlib.PurePosixPath(row.group or row.id)
    return [row.column("key") or name.name, str(name), name.stem]


def _numbered(
    root: pathlib.Path, folder: str, stem: str, suffix: str
) -> dict[int, pathlib.Path]:
    """Files `stem_K.suffix` by K, in a folder of their own or in the root."""
    pattern = re.compile(rf"{stem}_(\d+)\.{suffix}")
    for where in (root / folder, root):
        found = {
            int(match[1]): path
            for path in sorted(where.glob(f"{stem}_*.{suffix}"))
            if (match := pattern.fullmatch(path.name))
        }
        if found:
            return dict(sorted(found.items()))
    return {}


def _open(path: pathlib.Path | None) -> Any:
    """The vectors of a file, on disk; None if there is none."""
    if path is None:
        return None
    try:
        vectors = np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is no array file: {error}") from error
    if vectors.ndim != 2 or vectors.dtype.kind != "f":
        raise ValueError(
            f"{path} must be float[N, E], got {vectors.dtype}{list(vectors.shape)}"
        )
    return vectors


def _hash(key: str) -> int:
    digest = hashlib.sha256(key.encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big")
