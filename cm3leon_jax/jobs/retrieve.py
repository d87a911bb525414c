"""Finds the neighbours of every document and joins them into the shards.

    pairs/     the set again, each record with up to four neighbours: ids, scores,
               how they were found, and their tokens
    others     links to (or copies of) the other sets, so that training finds all here

A neighbour's id is its place in the memory bank: the bank's splits one after the other,
in the order of `config.bank`. A document is never its own neighbour, and splits other
than training look for neighbours in the bank alone. Every shard is marked in
`progress/` when it is whole; an interrupted job goes on after the last mark.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import ml_collections
import numpy as np
from tqdm import tqdm

from cm3leon_jax import storage
from cm3leon_jax.data import record as records
from cm3leon_jax.data import shards, splits, tokenise
from cm3leon_jax.data.record import Neighbors, Record
from cm3leon_jax.data.shards import Source
from cm3leon_jax.jobs import folder
from cm3leon_jax.retrieval import neighbors
from cm3leon_jax.retrieval.neighbors import Vectors
from cm3leon_jax.retrieval.strategy import StrategyConfig

_READ = 4_096  # records read at a time


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Writes `pairs` with neighbours and links the other sets.

    Raises:
      FileNotFoundError: If the shards are not finished.
      ValueError: If they have no vectors, or no split of the bank.
    """
    if not folder.start(config, workdir):
        return
    root, source = pathlib.Path(workdir), pathlib.Path(config.shards)
    sizes = shards.splits(source / tokenise.PAIRS)
    bank = [name for name in config.bank if name in sizes]
    if not bank:
        raise ValueError(f"{config.bank=} names no split of {sorted(sizes)}")
    strategy = StrategyConfig(**config.strategy)
    summary = join(
        source / tokenise.PAIRS,
        root,
        bank,
        strategy,
        rows_per_shard=config.rows_per_shard,
        train_bank=[name for name in config.train_bank if name in sizes],
    )
    for path in sorted(source.iterdir()):
        if path.name != tokenise.PAIRS and (path / "dataset_info.json").exists():
            link(path, root / path.name)
    shutil.copy2(source / "vocab.json", root / "vocab.json")
    print(f"neighbours a document: {summary['neighbors_per_document']}")
    folder.finish(workdir, summary)


def join(
    source: pathlib.Path,
    root: pathlib.Path,
    bank: Sequence[str],
    strategy: StrategyConfig,
    *,
    rows_per_shard: int,
    train_bank: Sequence[str],
) -> dict[str, Any]:
    """Writes the set with the neighbours of all its documents.

    Args:
      source: The set without neighbours.
      root: The job's folder.
      bank: Splits of the memory bank, in order.
      strategy: How neighbours are chosen.
      rows_per_shard: Records of one shard.
      train_bank: The splits of the bank that training documents may find.

    Returns:
      Mean neighbours a document, by split.
    """
    opened = {name: shards.open(source, name) for name in shards.splits(source)}
    pool = Bank([opened[name] for name in bank])
    written, means = {}, {}
    for split, documents in opened.items():
        allowed = train_bank if split == splits.TRAIN else bank
        marks = _join_split(
            documents,
            pool,
            [name in allowed for name in bank],
            strategy,
            root,
            rows_per_shard,
        )
        written[split] = [(mark["records"], mark["bytes"]) for mark in marks]
        found = sum(mark["neighbors"] for mark in marks)
        means[split] = round(found / max(1, len(documents)), 2)
    info = next(iter(opened.values())).info
    digest = storage.digest_bytes(repr([info.to_json(), list(bank)]).encode())
    shards.finish(
        root / tokenise.PAIRS, dataclasses.replace(info, bank=digest), written
    )
    return {"neighbors_per_document": means, "bank": list(bank), "size": len(pool)}


class Bank:
    """The memory bank: vectors in memory, documents on disk."""

    def __init__(self, sources: Sequence[Source]):
        """Reads the vectors of the bank's splits."""
        self._sources = list(sources)
        self._starts = np.cumsum([0, *map(len, sources)])
        parts = [
            vectors(some, start)
            for some, start in zip(sources, self._starts[:-1], strict=True)
        ]
        self.vectors = Vectors(
            ids=np.concatenate([part.ids for part in parts]),
            text=np.concatenate([part.text for part in parts]),
            image=np.concatenate([part.image for part in parts]),
        )

    def __len__(self) -> int:
        return int(self._starts[-1])

    def start(self, source: Source) -> int | None:
        """The id of a split's first document; None if it is not in the bank."""
        for own, start in zip(self._sources, self._starts[:-1], strict=True):
            if own.split == source.split:
                return int(start)
        return None

    def part(self, allowed: Sequence[bool]) -> Vectors:
        """The vectors of the allowed splits."""
        keep = np.repeat(allowed, np.diff(self._starts))
        every = self.vectors
        return Vectors(every.ids[keep], every.text[keep], every.image[keep])

    def tokens(self, ids: np.ndarray) -> dict[int, np.ndarray]:
        """The tokens of documents by id, read in order; damaged ones are left out."""
        found: dict[int, np.ndarray] = {}
        ids = np.unique(ids[ids >= 0])
        for source, start, end in zip(
            self._sources, self._starts[:-1], self._starts[1:], strict=True
        ):
            places = ids[(ids >= start) & (ids < end)]
            for place, record in zip(
                places.tolist(), source.records(places - start), strict=True
            ):
                if record is not None:
                    found[place] = record.tokens
        return found


def vectors(source: Source, start: int) -> Vectors:
    """The vectors of a split, in memory as float32.

    Args:
      source: The split.
      start: Id of its first document.

    Raises:
      ValueError: If its documents have no vectors.
    """
    text, image, text_dropped, image_dropped = [], [], [], []
    for some in _in_order(source):
        for record in some:
            text.append(record.text_vector if record else [])
            image.append(record.image_vector if record else [])
            text_dropped.append(record.query_text_vector if record else [])
            image_dropped.append(record.query_image_vector if record else [])
    dim = max((len(one) for one in (*text, *image)), default=0)
    if not dim:
        raise ValueError(
            f"{source.folder} has no vectors; write it with --config.embedder"
        )
    has_dropped = any(len(one) for one in (*text_dropped, *image_dropped))
    return Vectors(
        ids=np.arange(start, start + len(source), dtype=np.int32),
        text=_matrix(text, dim),
        image=_matrix(image, dim),
        text_dropped=_matrix(text_dropped, dim) if has_dropped else None,
        image_dropped=_matrix(image_dropped, dim) if has_dropped else None,
    )


def _matrix(rows: Sequence[Any], dim: int) -> np.ndarray:
    """Rows as float32[N, E]; an empty row becomes nan."""
    matrix = np.full((len(rows), dim), np.nan, np.float32)
    for index, row in enumerate(rows):
        if len(row):
            matrix[index] = row
    return matrix


def _in_order(source: Source) -> Iterator[list[Record | None]]:
    for first in range(0, len(source), _READ):
        yield source.records(range(first, min(first + _READ, len(source))))


def _join_split(
    source: Source,
    bank: Bank,
    allowed: Sequence[bool],
    strategy: StrategyConfig,
    root: pathlib.Path,
    rows_per_shard: int,
) -> list[dict[str, Any]]:
    """Writes the shards of a split that are missing; returns all their marks."""
    starts = range(0, len(source), rows_per_shard)
    paths = [
        root / "progress" / f"{source.split}-{index:05d}.json"
        for index in range(len(starts))
    ]
    found = None  # searched once, when the first missing shard needs it
    for index, start in enumerate(
        tqdm(starts, f"retrieve {source.split}", unit="shard")
    ):
        if paths[index].exists():
            continue
        if found is None:
            found = _find(source, bank, allowed, strategy)
        places = range(start, min(start + rows_per_shard, len(source)))
        part = neighbors.Neighbors(
            *(array[places.start : places.stop] for array in found)
        )
        joined = _joined(source.records(places), part, bank)
        number, size = shards.write_shard(
            root / tokenise.PAIRS, source.split, index, joined
        )
        total = sum(len(record.neighbors.ids) for record in joined)
        storage.write_json(
            paths[index], {"records": number, "bytes": size, "neighbors": total}
        )
    return [storage.read_json(path) for path in paths]


def _find(
    source: Source, bank: Bank, allowed: Sequence[bool], strategy: StrategyConfig
) -> neighbors.Neighbors:
    first = bank.start(source)
    queries = vectors(source, len(bank) if first is None else first)
    return neighbors.find(queries, bank.part(allowed), strategy)


def _joined(
    documents: Sequence[Record | None], found: neighbors.Neighbors, bank: Bank
) -> list[Record]:
    """The records with their neighbours' tokens; damaged records are left out."""
    tokens = bank.tokens(found.ids)
    joined = []
    for index, record in enumerate(documents):
        if record is None:
            continue
        ids = found.ids[index]
        keep = np.array([int(one) in tokens for one in ids], bool)
        near = Neighbors(
            ids=ids[keep],
            scores=found.scores[index][keep],
            by_image=found.by_image[index][keep],
            tokens=tuple(tokens[int(one)] for one in ids[keep]),
        )
        joined.append(
            dataclasses.replace(
                record, neighbors=near if keep.any() else records.NO_NEIGHBORS
            )
        )
    return joined


def link(source: pathlib.Path, target: pathlib.Path) -> None:
    """Makes a finished set appear in another folder: by hard links, or copies."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        there = target / path.name
        if there.exists() or not path.is_file():
            continue
        try:
            os.link(path, there)
        except OSError:  # another file system
            shutil.copy2(path, there)
