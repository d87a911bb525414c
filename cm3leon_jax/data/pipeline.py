"""Shards -> mixture -> packed rows -> this host's batches; resumable at any step.

    sets ──mixture──► documents ──streams──► rows ──► Batch [B / hosts, L]

`load` gives a Grain dataset; its iterator's state is a few numbers a stream, restored
by reading a handful of documents again. The global batch is the rows of stream 0, then
of stream 1, ...; host h of H owns streams [h S/H, (h + 1) S/H), so that the same global
batches come on any number of hosts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator, Sequence
from concurrent import futures
from typing import Any

import grain
from grain import experimental as grain_experimental

from cm3leon_jax.data import rows as row_lib
from cm3leon_jax.data import shards
from cm3leon_jax.data.mixture import InOrder, Mixture
from cm3leon_jax.data.shards import SetInfo, Source
from cm3leon_jax.data.streams import Counts, Documents, LoaderConfig
from cm3leon_jax.documents import packing
from cm3leon_jax.documents.packing import Batch, Piece


@dataclasses.dataclass(frozen=True)
class SetSpec:
    """One set of the mixture.

    Attributes:
      folder: The set's folder.
      split: Which of its splits.
      weight: How much of the mixture it is, relative to the others.
      with_neighbors: Whether its documents get retrieved ones in front.
    """

    folder: str
    split: str = "train"
    weight: float = 1.0
    with_neighbors: bool = True


def load(
    specs: Sequence[SetSpec],
    config: LoaderConfig,
    *,
    info: SetInfo | None = None,
    host_index: int = 0,
    num_hosts: int = 1,
    prefetch: int = 2,
    num_workers: int = 1,
) -> grain.IterDataset[Batch]:
    """Returns the endless dataset of this host's batches.

    Args:
      specs: The sets that are mixed.
      config: How documents become batches.
      info: Vocabulary and tokenizers of this run; None takes those of the first set.
      host_index: Which host this is.
      num_hosts: How many there are; divides `config.num_streams`.
      prefetch: Batches made ahead by a thread; 0 for none.
      num_workers: Threads that share the streams of a batch. One makes several times
        what an accelerator eats; more hide the latency of distant disks.

    Raises:
      ValueError: If sets were made with other tokenizers, or hosts do not divide the
        streams.
    """
    if not specs or config.num_streams % num_hosts:
        raise ValueError(
            f"{config.num_streams=} must be a multiple of the {num_hosts} hosts, and"
            f" there must be sets to mix, got {len(specs)}"
        )
    sources = [shards.open(spec.folder, spec.split) for spec in specs]
    info = info or sources[0].info
    for source in sources:
        shards.check(source, info)
    mixture = Mixture(
        [len(source) for source in sources],
        [spec.weight for spec in specs],
        config.seed,
    )
    share = config.num_streams // num_hosts
    owned = range(host_index * share, (host_index + 1) * share)
    with_neighbors = [spec.with_neighbors for spec in specs]
    documents = Documents(sources, mixture, config, info.vocab, with_neighbors)
    fingerprint = _fingerprint(specs, sources, config)
    dataset: grain.IterDataset[Batch] = Batches(
        documents, owned, fingerprint, num_workers
    )
    if prefetch:
        dataset = grain_experimental.ThreadPrefetchIterDataset(
            dataset, prefetch_buffer_size=prefetch
        )
    return dataset


class Batches(grain.IterDataset[Batch]):
    """This host's batches, as `load` gives them without prefetching."""

    def __init__(
        self,
        documents: Documents,
        owned: Sequence[int],
        fingerprint: str,
        num_workers: int,
    ):
        super().__init__()
        self._documents = documents
        self._owned = owned
        self._fingerprint = fingerprint
        self._num_workers = num_workers

    @property
    def counts(self) -> Counts:
        """What was met so far."""
        return self._documents.counts

    def __iter__(self) -> _BatchIterator:
        return _BatchIterator(
            self._documents, self._owned, self._fingerprint, self._num_workers
        )


class _BatchIterator(grain.DatasetIterator[Batch]):
    """Rows of all owned streams, one batch a step."""

    def __init__(
        self,
        documents: Documents,
        owned: Sequence[int],
        fingerprint: str,
        num_workers: int,
    ):
        super().__init__()
        self._documents = documents
        self._owned = owned
        self._fingerprint = fingerprint
        self._pool = (
            futures.ThreadPoolExecutor(num_workers) if num_workers > 1 else None
        )
        config = documents.config
        self._rows_per_stream = config.batch_size // config.num_streams
        self._streams = self._make(None)

    def __next__(self) -> Batch:
        work = self._pool.map if self._pool else map
        made = work(lambda stream: stream.rows(self._rows_per_stream), self._streams)
        return packing.concatenate(list(made))

    def get_state(self) -> dict[str, Any]:
        """A few numbers a stream, JSON values."""
        states = {
            str(number): stream.state()
            for number, stream in zip(self._owned, self._streams, strict=True)
        }
        return {"fingerprint": self._fingerprint, "streams": states}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues where `get_state` was called, in any process.

        Raises:
          ValueError: If the state is of other data or another config.
        """
        if state["fingerprint"] != self._fingerprint:
            raise ValueError(
                "the loader's state belongs to other shards or another loader config;"
                " resume with those that it was made with"
            )
        missing = [str(n) for n in self._owned if str(n) not in state["streams"]]
        if missing:
            raise ValueError(
                f"the loader's state lacks the streams {missing}; merge the `streams`"
                " of all hosts' states"
            )
        self._streams = self._make(state["streams"])

    def _make(self, states: dict[str, Any] | None) -> list[row_lib.Stream]:
        kind = row_lib.STREAMS[self._documents.config.packing]
        return [
            kind(self._documents, number, states[str(number)] if states else None)
            for number in self._owned
        ]


def one_pass(
    source: Source, config: LoaderConfig, num_documents: int | None = None
) -> Iterator[Batch]:
    """Yields every document of a split once, in order, whole-image packed.

    The last batch is filled up with rows of padding, so that all have B rows. Spans and
    neighbours are drawn as `config` says, the same in every pass.

    Args:
      source: The split.
      config: How documents become batches; `packing` must be "whole".
      num_documents: Only so many of the first; all by default.

    Raises:
      ValueError: If packing is not "whole".
    """
    if config.packing != "whole":
        raise ValueError(f"one pass needs packing='whole', got {config.packing!r}")
    documents = Documents([source], InOrder(), config, source.info.vocab)
    open_rows = packing.OpenRows(config.max_length, config.open_rows)
    rows: list[list[Piece]] = []
    end = min(len(source), num_documents or len(source))
    for start in range(0, end, config.read_ahead):
        numbers = range(start, min(start + config.read_ahead, end))
        for number, record in zip(numbers, documents.read(numbers), strict=True):
            piece = row_lib.make_piece(documents, number, record)
            row = open_rows.add(piece) if piece else None
            rows += [row] if row else []
        while len(rows) >= config.batch_size:
            yield packing.lay_out(rows[: config.batch_size], config.max_length)
            rows = rows[config.batch_size :]
    while row := open_rows.close():
        rows.append(row)
    for start in range(0, len(rows), config.batch_size):
        part = rows[start : start + config.batch_size]
        part += [[] for _ in range(config.batch_size - len(part))]
        yield packing.lay_out(part, config.max_length)


def _described(config: LoaderConfig) -> dict[str, Any]:
    """The config's values, as loaders before a field knew them where it is off."""
    values = dataclasses.asdict(config)
    if not config.cm3.rule:
        del values["cm3"]["rule"]
    return values


def _fingerprint(
    specs: Sequence[SetSpec], sources: Sequence[Source], config: LoaderConfig
) -> str:
    """A digest of everything that decides the order and content of the batches."""
    described = {
        "sets": [
            [
                pathlib.Path(spec.folder).name,
                spec.split,
                spec.weight,
                spec.with_neighbors,
                len(source),
            ]
            for spec, source in zip(specs, sources, strict=True)
        ],
        "info": [source.info.to_json() for source in sources],
        "config": _described(config),
    }
    if all(digests := [source.digest for source in sources]):
        described["shards"] = digests
    text = json.dumps(described, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
