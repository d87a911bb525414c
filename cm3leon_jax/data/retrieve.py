"""The neighbours of every document of a set, found and joined: one host's share.

Four steps, each a file a unit of work (`hosts`): the bank's document vectors (`pool/`),
the neighbours of every part (`found/`), the tokens that parts want of the bank (`runs/`,
see `joining`), the parts themselves (shards, with a mark in `progress/`).
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from cm3leon_jax import storage
from cm3leon_jax.data import hosts, joining, lists, shards, splits
from cm3leon_jax.data import pool as pools
from cm3leon_jax.data.hosts import Hosts
from cm3leon_jax.data.identity import Written
from cm3leon_jax.data.shards import Source
from cm3leon_jax.retrieval import neighbors, spread
from cm3leon_jax.retrieval.index import IndexConfig
from cm3leon_jax.retrieval.neighbors import AbstractBank, AbstractIndex, Pool, Searcher
from cm3leon_jax.retrieval.strategy import StrategyConfig
from cm3leon_jax.train import hosts as processes

BETWEEN = ("pool", "found", "runs")  # folders that may go when all is written
_BATCH = 1_024  # queries searched at a time, by all hosts of a bank that is spread


@dataclasses.dataclass(frozen=True)
class Job:
    """Everything that the joined set is made of.

    Attributes:
      source: The set without neighbours.
      root: The job's folder.
      bank: Splits of the memory bank, in order.
      train_bank: Those of them that training documents may find.
      strategy: How neighbours are chosen.
      rows_per_shard: Records of one shard.
      open_index: From float[M, E] to what searches it.
      spread: How a bank is searched whose vectors lie over the devices of all hosts,
        which then search together; None: every host holds the whole bank.
      evaluation: Splits whose near-duplicates are kept out of the bank.
      max_similarity: What is nearer than this is a near-duplicate; 1 keeps all.
      lists: Ready-made neighbour lists, or None to search.
      is_inline: Whether the neighbours' tokens are written with them.
      hosts: Which of the hosts this is.
    """

    source: pathlib.Path
    root: pathlib.Path
    bank: Sequence[str]
    train_bank: Sequence[str]
    strategy: StrategyConfig
    rows_per_shard: int
    open_index: Callable[[np.ndarray], AbstractIndex]
    evaluation: Sequence[Source]
    max_similarity: float
    lists: pathlib.Path | None
    is_inline: bool
    hosts: Hosts
    spread: IndexConfig | None = None

    @functools.cached_property
    def documents(self) -> Mapping[str, Source]:
        """The set's splits."""
        names = shards.splits(self.source)
        return {name: shards.open(self.source, name) for name in names}

    @functools.cached_property
    def pool(self) -> joining.Documents:
        """The bank's documents."""
        return joining.Documents([self.documents[name] for name in self.bank])

    @functools.cached_property
    def parts(self) -> list[Part]:
        """The shards that are written, in order."""
        return _parts(self.documents.values(), self.rows_per_shard)

    def may_find(self, part: Part) -> tuple[str, ...]:
        """Splits of the bank that a part's documents may find."""
        is_train = part.source.split == splits.TRAIN
        return tuple(self.train_bank if is_train else self.bank)


@dataclasses.dataclass(frozen=True)
class Part:
    """Consecutive documents of a split: one shard of what is written.

    Attributes:
      source: The split.
      index: Number of the shard in its split.
      places: Its documents.
    """

    source: Source
    index: int
    places: range

    @property
    def name(self) -> str:
        """Its name in file names."""
        return f"{self.source.split}-{self.index:05d}"


def write(job: Job) -> dict[str, Any]:
    """Writes this host's share; the first host describes the set.

    Returns:
      On the first host: mean neighbours a document by split, and what was kept out.
    """
    marks = [job.root / "progress" / f"{part.name}.json" for part in job.parts]
    if not all(path.exists() for path in marks):
        found = [job.root / "found" / f"{part.name}.safetensors" for part in job.parts]
        (_find_listed if job.lists else _find)(job, found)
        hosts.wait(found, "searched parts")
        _join(job, found, marks)
    if not job.hosts.is_first:
        return {}
    hosts.wait(marks, "joined shards")
    return _finish(job, [storage.read_json(path) for path in marks])


def _finish(job: Job, marks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Writes the set's description."""
    written: dict[str, list[Written]] = {name: [] for name in job.documents}
    totals = dict.fromkeys(job.documents, 0)
    for part, mark in zip(job.parts, marks, strict=True):
        written[part.source.split].append(Written.from_json(mark))
        totals[part.source.split] += mark["neighbors"]
    info = next(iter(job.documents.values())).info
    content = [[name, job.documents[name].digest] for name in job.bank]
    digest = storage.digest_bytes(repr([info.to_json(), content]).encode())
    shards.finish(
        job.root / job.source.name, dataclasses.replace(info, bank=digest), written
    )
    for path in sorted(job.source.glob("card.*")):  # the same documents: the same card
        storage.write_bytes(job.root / job.source.name / path.name, path.read_bytes())
    storage.write_json(job.root / joining.BANK, {"format": 1, "splits": list(job.bank)})
    summary: dict[str, Any] = {
        "neighbors_per_document": {
            split: round(total / max(1, len(job.documents[split])), 2)
            for split, total in totals.items()
        },
        "bank": list(job.bank),
        "size": len(job.pool),
        "kept_out": 0,
    }
    if job.lists:
        return summary | {"unknown": sum(mark["unknown"] for mark in marks)}
    ids = storage.load_arrays(job.root / pools.KEPT_OUT)[0]["ids"]
    by_split = zip(job.bank, job.pool.starts[:-1], job.pool.starts[1:], strict=True)
    return summary | {
        "evaluation_documents": sum(map(len, job.evaluation)),
        "kept_out": {
            name: int(np.sum((ids >= first) & (ids < end)))
            for name, first, end in by_split
        },
    }


def _find(job: Job, found: Sequence[pathlib.Path]) -> None:
    """Searches the neighbours of this host's parts, one bank after the other."""
    pool = _make_pool(job)
    own = [n for n in job.hosts.share(len(job.parts)) if not found[n].exists()]
    size = _BATCH if job.spread is None else spread.batch_size(_BATCH)
    for allowed in dict.fromkeys((tuple(job.train_bank), tuple(job.bank))):
        wanted = [n for n in own if job.may_find(job.parts[n]) == allowed]
        count = sum(-(-len(job.parts[number].places) // size) for number in wanted)
        # Hosts whose devices hold the bank together search it equally often.
        most = count if job.spread is None else max(processes.gather(count))
        if not most:
            continue
        bank = _open(job, pool, allowed)
        searcher = Searcher(bank, job.strategy, batch_size=size)
        for number in tqdm(wanted, "retrieve", unit="shard"):
            queries = _queries(job, job.parts[number], pool.width)
            _save(found[number], searcher.find(queries))
        searcher.rest(most - count)


def _open(job: Job, pool: pools.Parts, allowed: Sequence[str]) -> AbstractBank:
    """Puts those splits of the bank on the devices that may be found."""
    is_in = np.repeat([name in allowed for name in job.bank], np.diff(job.pool.starts))
    if job.spread is None:
        rows = np.flatnonzero(is_in).astype(np.int32)
        vectors_ME = pool.vectors(0, len(pool))[is_in]
        held = Pool(rows, vectors_ME, pool.is_multimodal[is_in])
        return neighbors.Held(held, job.open_index)

    def read(first: int, end: int) -> np.ndarray:
        """Some rows of the bank, nan where nobody may find them."""
        vectors_ME = pool.vectors(first, end)
        vectors_ME[~is_in[first:end]] = np.nan
        return vectors_ME

    return spread.Spread(
        read, pool.is_multimodal, pool.width, job.spread, num_queries=_BATCH
    )


def _queries(job: Job, part: Part, width: int) -> neighbors.Vectors:
    """What a part searches with."""
    split = part.source.split
    first = len(job.pool)  # ids outside the bank, if the split is not of it
    if split in job.bank:
        first = int(job.pool.starts[list(job.bank).index(split)])
    queries = pools.read(part.source, part.places, first + part.places.start)
    if queries.text.shape[1]:
        return queries
    nothing = np.full((len(queries.ids), width), np.nan, np.float32)
    return neighbors.Vectors(queries.ids, nothing, nothing)


def _make_pool(job: Job) -> pools.Parts:
    """Writes the bank's vectors, each host its share, and marks what is kept out."""
    parts = _parts(job.pool.sources, job.rows_per_shard)
    paths = [job.root / "pool" / f"{part.name}.safetensors" for part in parts]
    others = None
    for number in job.hosts.share(len(parts)):
        if paths[number].exists():
            continue
        if others is None:
            others = _evaluation_vectors(job)
        made = Pool.of(pools.read(parts[number].source, parts[number].places, 0))
        is_near = neighbors.near_duplicates(
            made.vectors, others, job.max_similarity, open_index=job.open_index
        )
        pools.save_pool(paths[number], made, is_near)
    hosts.wait(paths, "parts of the pool")
    pool = pools.Parts(paths)
    if job.hosts.is_first:
        ids = np.flatnonzero(pool.is_near).astype(np.int32)
        storage.save_arrays(job.root / pools.KEPT_OUT, {"ids": ids})
    return pool


def _evaluation_vectors(job: Job) -> np.ndarray:
    found = [pools.documents(source) for source in job.evaluation]
    found = [one for one in found if one.shape[1]]
    if job.max_similarity >= 1 or not found:
        return np.zeros((0, 0), np.float32)
    return np.concatenate(found)


def _find_listed(job: Job, found: Sequence[pathlib.Path]) -> None:
    """Looks the neighbours of this host's parts up in the ready-made lists."""
    assert job.lists is not None
    numbers = {
        record.id: int(start) + place
        for source, start in zip(job.pool.sources, job.pool.starts[:-1], strict=True)
        for place, record in enumerate(pools.in_order(source, range(len(source))))
        if record is not None
    }
    listed = lists.Lists(job.lists, numbers)
    for number in job.hosts.share(len(job.parts)):
        part = job.parts[number]
        documents = part.source.records(part.places)
        names = [record.id if record else "" for record in documents]
        near, num_unknown = listed.find(names)
        _save(found[number], near, num_unknown)


def _save(path: pathlib.Path, near: neighbors.Neighbors, num_unknown: int = 0) -> None:
    arrays = {
        "ids": near.ids,
        "scores": near.scores,
        "by_image": near.by_image.astype(np.uint8),
        "unknown": np.array(num_unknown),
    }
    storage.save_arrays(path, arrays)


def _join(
    job: Job, found: Sequence[pathlib.Path], marks: Sequence[pathlib.Path]
) -> None:
    """Writes this host's shards."""
    tokens = _make_runs(job, found) if job.is_inline else None
    for number in tqdm(job.hosts.share(len(job.parts)), "join", unit="shard"):
        if marks[number].exists():
            continue
        part, near = job.parts[number], storage.load_arrays(found[number])[0]
        wanted = tokens.part(number) if tokens else None
        documents = part.source.records(part.places)
        joined = [
            joining.join(record, near, place, wanted)
            for place, record in enumerate(documents)
            if record is not None
        ]
        one = shards.write_shard(
            job.root / job.source.name, part.source.split, part.index, joined
        )
        total = sum(len(record.neighbors.ids) for record in joined)
        more = {"neighbors": total, "unknown": int(near["unknown"])}
        storage.write_json(marks[number], one.to_json() | more)


def _make_runs(job: Job, found: Sequence[pathlib.Path]) -> joining.Runs:
    """Brings the bank's tokens into the order of the parts, each host its runs."""
    runs = joining.runs(len(job.pool))
    paths = [
        job.root / "runs" / f"{number:05d}.safetensors" for number in range(len(runs))
    ]
    own = [
        number for number in job.hosts.share(len(runs)) if not paths[number].exists()
    ]
    if own:
        ids = [storage.load_arrays(path)[0]["ids"] for path in found]
        starts = np.cumsum([0, *map(len, ids)])
        wanted = np.concatenate(ids)
        for number in tqdm(own, "runs of the bank", unit="run"):
            joining.write_run(paths[number], job.pool, runs[number], wanted, starts)
    hosts.wait(paths, "runs of the bank")
    return joining.Runs(paths)


def _parts(sources: Iterable[Source], size: int) -> list[Part]:
    return [
        Part(source, index, range(start, min(start + size, len(source))))
        for source in sources
        for index, start in enumerate(range(0, len(source), size))
    ]
