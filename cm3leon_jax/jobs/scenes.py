"""Draws the built-in world into a folder in a public format.

    world.json                 how rich the world is (a WorldConfig)
    {train,validation,test,bank}/metadata.jsonl   a row a picture, with its file names
    {train,...}/0000/000012.png                   the picture
    {train,...}/0000/000012_edit.png              after the edit; also _segmentation,
                                                  _edges, _scribble where a row has them

Each split is a Hugging Face imagefolder. Pieces of a thousand rows are kept as they are
done, so an interrupted job continues; `metadata.jsonl` appears when a split is whole.
"""

from __future__ import annotations

import json
import pathlib
import shutil
from typing import Any

import ml_collections
import tqdm

from cm3leon_jax import storage
from cm3leon_jax.jobs import folder
from cm3leon_jax.scenes import png, rows, sampling
from cm3leon_jax.scenes.world import WorldConfig

_PIECE = 1000  # rows a folder


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Draws every split that is not yet whole."""
    world = WorldConfig(**config.world)
    row_config = rows.RowConfig(**config.rows)
    if not folder.start(config, workdir):
        return
    root = pathlib.Path(workdir)
    storage.write_json(root / "world.json", world.to_json())
    counts = {split: rows.count(world, row_config, split) for split in sampling.SPLITS}
    with tqdm.tqdm(total=sum(counts.values()), unit=" pictures", desc="scenes") as bar:
        for split, count in counts.items():
            _write_split(root / split, world, row_config, split, count, bar)
    folder.finish(workdir, {f"num_{split}": count for split, count in counts.items()})


def _write_split(
    split_folder: pathlib.Path,
    world: WorldConfig,
    config: rows.RowConfig,
    split: str,
    count: int,
    bar: tqdm.tqdm,
) -> None:
    """Writes the pieces that are missing, then joins their records."""
    metadata, parts = split_folder / "metadata.jsonl", split_folder / "parts"
    if metadata.exists():
        bar.update(count)
        return
    for piece in range(-(-count // _PIECE)):
        first, last = piece * _PIECE, min(count, (piece + 1) * _PIECE)
        path = parts / f"{piece:04d}.jsonl"
        if path.exists():
            bar.update(last - first)
            continue
        (split_folder / f"{piece:04d}").mkdir(parents=True, exist_ok=True)
        lines = []
        for index in range(first, last):
            row = rows.row_at(world, config, split, index)
            record = _write_row(split_folder, f"{piece:04d}/{index:06d}", row)
            lines.append(json.dumps(record) + "\n")
            bar.update()
        storage.write_bytes(path, "".join(lines).encode())
    whole = b"".join(path.read_bytes() for path in sorted(parts.iterdir()))
    storage.write_bytes(metadata, whole)
    shutil.rmtree(parts)


def _write_row(split_folder: pathlib.Path, stem: str, row: rows.Row) -> dict[str, Any]:
    """Writes a row's pictures; returns its record with their names."""
    record = {"file_name": f"{stem}.png", **row.record}
    for name, picture in row.pictures.items():
        file_name = f"{stem}_{name}.png" if name else record["file_name"]
        (split_folder / file_name).write_bytes(png.encode(picture))
        if name:
            record[name] = {"file_name": file_name, **record[name]}
    return record
