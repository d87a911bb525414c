"""Captioned pictures of one split, decoded into memory.

For what trains on pixels: the image tokenizer and the bi-encoder. A picture takes
3 x image_size^2 bytes: 9,000 of 64 pixels 110 MB, 100,000 of 256 pixels 20 GB.
"""

from __future__ import annotations

import dataclasses
import pathlib
from concurrent import futures

import numpy as np
import tqdm

from cm3leon_jax.data import pictures, splits
from cm3leon_jax.data.refusals import Refusals, RefusedError
from cm3leon_jax.data.sources.row import Row


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Pictures with their rows.

    Attributes:
      rows: N rows of the folder, in its order; of documents with several pictures
        the first is shown.
      pictures: uint8[N, Y, X, 3].
    """

    rows: list[Row]
    pictures: np.ndarray


def read(
    root: str | pathlib.Path,
    split: str,
    split_config: splits.SplitConfig,
    picture_config: pictures.PictureConfig,
    refusals: Refusals,
    *,
    num_threads: int = 2,
) -> Gallery:
    """Reads and decodes a split; what cannot be used is counted and left out.

    Raises:
      FileNotFoundError: If there is no such folder or split.
      ValueError: If no picture of the split can be used.
    """
    rows = list(splits.read(root, split, split_config, refusals))
    taken, decoded = [], []
    with futures.ThreadPoolExecutor(num_threads) as pool:
        found = pool.map(lambda row: _load(row, picture_config), rows)
        bar = tqdm.tqdm(found, f"read {split}", total=len(rows), unit="picture")
        for row, picture in zip(rows, bar, strict=True):
            if isinstance(picture, RefusedError):
                refusals.refuse(row.place, picture)
                continue
            taken.append(row)
            decoded.append(picture)
    if not taken:
        raise ValueError(
            f"{root}: no picture of the {split} split can be used ({refusals}); look"
            " at them with configs/check.py"
        )
    refusals.accepted += len(taken)
    return Gallery(taken, np.stack(decoded))


def _load(row: Row, config: pictures.PictureConfig) -> np.ndarray | RefusedError:
    try:
        return pictures.load(row.picture, config)
    except RefusedError as error:
        return error
