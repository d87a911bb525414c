"""Looks through a folder of captioned pictures before anything is trained on it.

Every caption is read and every picture decoded once. What cannot be used is listed with
its file, the reason and the remedy; too few usable pictures end the job. Writes
`refusals.json` and the counts of every split.
"""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Iterator
from concurrent import futures

import ml_collections
from tqdm import tqdm

from cm3leon_jax import storage
from cm3leon_jax.data import pictures, splits
from cm3leon_jax.data.refusals import Refusals, RefusedError
from cm3leon_jax.data.sources import inputs
from cm3leon_jax.data.sources.row import Row, SourceConfig
from cm3leon_jax.jobs import folder

_MAX_PRINTED = 20
_CHUNK = 1_024  # rows that the threads have at a time


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Checks `config.pictures.folder`.

    Raises:
      FileNotFoundError: If there is no such folder.
      ValueError: If a split has fewer usable rows than `config.minimum` asks for.
    """
    if not folder.start(config, workdir):
        return
    root = pathlib.Path(config.pictures.folder)
    source = SourceConfig(**config.source)
    split_config = splits.SplitConfig(**config.splits)
    picture_config = pictures.PictureConfig(image_size=config.pictures.image_size)
    found = splits.find(root, source)
    print(f"{root}: {inputs.describe(found)}")
    refusals, counts = Refusals(), {}
    for name in splits.names(root, source):
        # Without splits of their own, every split reads all rows: count once.
        counted = refusals if found[0].split or not counts else Refusals()
        rows = splits.read(root, name, split_config, counted, source)
        counts[name] = _decode(rows, name, picture_config, refusals)
    storage.write_json(pathlib.Path(workdir) / "refusals.json", refusals.to_json())
    print(refusals)
    for line in refusals.lines[:_MAX_PRINTED]:
        print(f"  refused {line}")
    for name, minimum in config.minimum.items():
        if counts.get(name, 0) < minimum:
            raise ValueError(
                f"{root} has {counts.get(name, 0)} usable pictures in its {name} split,"
                f" at least {minimum} are needed; add pictures or lower"
                f" --config.minimum.{name}"
            )
    print("  ".join(f"{name}: {count}" for name, count in counts.items()))
    folder.finish(workdir, {"rows": counts, "refused": refusals.refused})


def _decode(
    rows: Iterator[Row],
    name: str,
    config: pictures.PictureConfig,
    refusals: Refusals,
) -> int:
    """Decodes the pictures of a split; returns how many rows are usable."""
    usable = 0
    with (
        futures.ThreadPoolExecutor() as pool,
        tqdm(desc=f"check {name}", unit="row") as bar,
    ):
        while chunk := list(itertools.islice(rows, _CHUNK)):
            errors = pool.map(lambda row: _error(row, config), chunk)
            for row, error in zip(chunk, errors, strict=True):
                if error is None:
                    refusals.accepted += 1
                    usable += 1
                else:
                    refusals.refuse(row.place, error)
            bar.update(len(chunk))
    return usable


def _error(row: Row, config: pictures.PictureConfig) -> RefusedError | None:
    try:
        for picture in row.pictures:
            pictures.load(picture, config)
    except RefusedError as error:
        return error
    return None
