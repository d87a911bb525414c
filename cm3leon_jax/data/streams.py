"""One logical stream of packed rows: documents in, with neighbours, spans moved, packed.

A loader is a fixed number of streams, and a host owns whole ones; so what is packed
together depends neither on hosts nor on workers. Stream s of S takes documents s, s + S,
s + 2 S, ... of the mixture. Every random choice about a document comes from its number,
every one about a cut row from the row's number: a stream's state is a few numbers, and
what it held is read and made again.
"""

from __future__ import annotations

import collections
import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from cm3leon_jax.data import joining
from cm3leon_jax.data.mixture import InOrder, Mixture
from cm3leon_jax.data.record import NO_NEIGHBORS, Record
from cm3leon_jax.data.shards import Source
from cm3leon_jax.documents import cm3, packing
from cm3leon_jax.documents import document as documents
from cm3leon_jax.documents.cm3 import CM3Config
from cm3leon_jax.documents.packing import Batch, LossWeights, Piece
from cm3leon_jax.vocab import Vocab

PACKINGS = ("whole", "cut")
_MAX_SKIPPED = 1_000  # documents in a row that fit no row: the setting is wrong


@dataclasses.dataclass(frozen=True)
class LoaderConfig:
    """How documents become batches.

    Attributes:
      max_length: Tokens in a row (L).
      batch_size: Rows of a global batch (B).
      num_streams: Logical streams; divides `batch_size`, and is divided by the number
        of hosts.
      packing: "whole": no picture is ever cut. "cut": concatenate and cut, rows full.
      neighbor_probs: Chance of 0, 1, 2, ... retrieved documents in front. The default
        is the paper's: always three of the four, at random, shuffled.
      open_rows: Rows that a stream fills at a time, if packing is "whole".
      read_ahead: Documents that a stream reads at a time.
      seed: Decides order, neighbours and spans.
      cm3: How spans are drawn.
      weights: What counts how much in the loss.

    Raises:
      ValueError: If a number is out of range.
    """

    max_length: int = 4096
    batch_size: int = 8
    num_streams: int = 8
    packing: str = "whole"
    neighbor_probs: tuple[float, ...] = (0.0, 0.0, 0.0, 1.0)
    open_rows: int = 8
    read_ahead: int = 32
    seed: int = 0
    cm3: CM3Config = dataclasses.field(default_factory=CM3Config)
    weights: LossWeights = dataclasses.field(default_factory=LossWeights)

    def __post_init__(self):
        object.__setattr__(self, "neighbor_probs", tuple(self.neighbor_probs))
        if self.packing not in PACKINGS:
            raise ValueError(f"{self.packing=} must be one of {PACKINGS}")
        if min(self.max_length, self.open_rows, self.read_ahead, self.num_streams) < 1:
            raise ValueError(f"lengths and numbers must be positive, got {self}")
        if self.batch_size % self.num_streams:
            raise ValueError(
                f"{self.batch_size=} must be a multiple of {self.num_streams=}"
            )
        if min(self.neighbor_probs) < 0 or abs(sum(self.neighbor_probs) - 1) > 1e-6:
            raise ValueError(f"{self.neighbor_probs=} must be chances that sum to 1")


@dataclasses.dataclass
class Counts:
    """What the streams of a loader met since it was made; for logs."""

    documents: int = 0
    neighbors: int = 0
    neighbors_dropped: int = 0  # the row was too short for them
    too_long: int = 0  # documents that fit no row
    damaged: int = 0


class Documents:
    """Numbered documents of a mixture, each with its neighbours, read in batches."""

    def __init__(
        self,
        sources: Sequence[Source],
        mixture: Mixture | InOrder,
        config: LoaderConfig,
        vocab: Vocab,
        with_neighbors: Sequence[bool] | None = None,
    ):
        """Keeps what it is given; reads nothing.

        Args:
          sources: The sets.
          mixture: Which document of which set comes when.
          config: How documents become batches.
          vocab: Of the documents.
          with_neighbors: Of each set, whether its documents get retrieved ones in
            front; all by default.
        """
        self.config = config
        self.vocab = vocab
        self.counts = Counts()
        self._sources = sources
        self._with_neighbors = with_neighbors or [True] * len(sources)
        self._banks = [joining.Bank(source) for source in sources]
        self._mixture = mixture
        self._cumulative = np.cumsum(config.neighbor_probs)
        self._seed = zlib.crc32(str(config.seed).encode())

    def read(self, numbers: Sequence[int]) -> list[Record | None]:
        """Reads documents by number, with one batched read a set."""
        by_set: dict[int, list[int]] = collections.defaultdict(list)
        places = [self._mixture.place(number) for number in numbers]
        for position, place in enumerate(places):
            by_set[place.set_index].append(position)
        records: list[Record | None] = [None] * len(places)
        for set_index, positions in by_set.items():
            wanted = [places[position].record for position in positions]
            read = self._sources[set_index].records(wanted)
            if self._with_neighbors[set_index]:
                read = self._banks[set_index].fill(read)
            for position, record in zip(positions, read, strict=True):
                if record is not None and not self._with_neighbors[set_index]:
                    record = dataclasses.replace(record, neighbors=NO_NEIGHBORS)
                records[position] = record
        return records

    def rng(self, *key: int) -> np.random.Generator:
        """Randomness that belongs to a document's or a row's number."""
        return np.random.default_rng((self._seed, *key))

    def sequence(
        self, record: Record | None, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Puts neighbours in front of a document.

        Returns:
          ids int32[n], loss weights float32[n] and targets int[T, 2] with T <= 1; or
          None if the record is damaged or too long for a row by itself.
        """
        if record is None:
            self.counts.damaged += 1
            return None
        room = self.config.max_length + 1 - 2 - len(record.tokens)
        if room < 0:
            self.counts.too_long += 1
            return None
        fronts = self._neighbors(record, rng, room)
        ids = documents.join_ids([*fronts, record.tokens], self.vocab)
        end = len(ids)
        start = end - 1 - len(record.tokens)
        target, targets = None, np.zeros((0, 2), np.int64)
        if record.target is not None:
            target = (record.target[0] + start, record.target[1] + start)
            targets = np.array([target])
        self.counts.documents += 1
        self.counts.neighbors += len(fronts)
        weights = packing.weigh(end, (start, end), target, self.config.weights)
        return ids, weights, targets

    def _neighbors(
        self, record: Record, rng: np.random.Generator, room: int
    ) -> list[np.ndarray]:
        """Some of the record's neighbours in random order, as many as there is room."""
        number = int(np.searchsorted(self._cumulative, rng.random(), side="right"))
        tokens = record.neighbors.tokens
        fronts = []
        for index in rng.permutation(len(tokens))[:number]:
            room -= len(tokens[index]) + 1  # and its <break>
            if room < 0:
                self.counts.neighbors_dropped += 1
                room += len(tokens[index]) + 1
                continue
            fronts.append(tokens[index])
        return fronts


class _Reader:
    """A stream's documents in order, read ahead in batches."""

    def __init__(self, source: Documents, stream: int, start: int):
        self.next = start  # of the stream's documents, the next to be handed out
        self._source = source
        self._stream = stream
        self._ahead: collections.deque[Record | None] = collections.deque()

    def number(self, index: int) -> int:
        """The mixture's number of the stream's document `index`."""
        return self._stream + index * self._source.config.num_streams

    def record(self) -> tuple[int, Record | None]:
        """The next document, with its index in the stream."""
        if not self._ahead:
            count = self._source.config.read_ahead
            indices = range(self.next, self.next + count)
            self._ahead.extend(self._source.read([self.number(i) for i in indices]))
        index, self.next = self.next, self.next + 1
        return index, self._ahead.popleft()

    def again(self, indices: Sequence[int]) -> dict[int, Record | None]:
        """Reads documents that were handed out before."""
        read = self._source.read([self.number(index) for index in indices])
        return dict(zip(indices, read, strict=True))


class WholeStream:
    """Rows of whole sequences, packed first fit."""

    def __init__(self, source: Documents, stream: int, state: dict[str, Any] | None):
        """Starts at the beginning, or where `state` says."""
        self._source = source
        self._config = source.config
        self._reader = _Reader(source, stream, state["next"] if state else 0)
        indices = state["rows"] if state else []
        known = self._reader.again([index for row in indices for index in row])
        rows = [[self._piece(index, known[index]) for index in row] for row in indices]
        self._open = packing.OpenRows(
            self._config.max_length, self._config.open_rows, _present(rows)
        )

    def state(self) -> dict[str, Any]:
        """The next document, and which ones lie in the open rows."""
        rows = [[piece.number for piece in row] for row in self._open.rows]
        return {"next": self._reader.next, "rows": rows}

    def rows(self, count: int) -> Batch:
        """The next rows."""
        closed: list[list[Piece]] = []
        skipped = 0
        while len(closed) < count:
            index, record = self._reader.record()
            piece = self._piece(index, record)
            skipped = 0 if piece else skipped + 1
            _check_skipped(skipped, self._config)
            row = self._open.add(piece) if piece else None
            if row:
                closed.append(row)
        return packing.lay_out(closed, self._config.max_length)

    def _piece(self, index: int, record: Record | None) -> Piece | None:
        piece = make_piece(self._source, self._reader.number(index), record)
        return dataclasses.replace(piece, number=index) if piece else None


def make_piece(source: Documents, number: int, record: Record | None) -> Piece | None:
    """Makes a document ready to be packed: neighbours in front, spans moved.

    Args:
      source: Where it comes from, with config and vocabulary.
      number: Its number, which decides every random choice.
      record: The document, None if it is damaged.

    Returns:
      None if it is damaged, or too long for a row.
    """
    rng = source.rng(0, number)
    made = source.sequence(record, rng)
    if made is None:
        return None
    ids, weights, targets = made
    config = source.config
    spans = cm3.draw_spans(ids, rng, config.cm3, source.vocab, targets=targets)
    # Spans that would make the sequence longer than a row stay where they are.
    room = config.max_length + 1 - len(ids)
    spans = spans[: room // cm3.TOKENS_PER_SPAN]
    return Piece(
        ids=cm3.rewrite(ids, spans, source.vocab),
        weights=cm3.rewrite_weights(weights, spans, config.weights.sentinel),
        number=number,
    )


class CutStream:
    """Full rows, cut from the stream of all sequences."""

    def __init__(self, source: Documents, stream: int, state: dict[str, Any] | None):
        """Starts at the beginning, or where `state` says."""
        state = state or {"next": 0, "first": 0, "offset": 0, "row": 0}
        self._source = source
        self._config = source.config
        self._reader = _Reader(source, stream, state["first"])
        self._stream = stream
        self._row = state["row"]
        # What is not yet cut: index of its document, ids, weights, targets.
        self._parts: collections.deque[tuple[int, np.ndarray, np.ndarray, Any]] = (
            collections.deque()
        )
        self._length = 0
        self._offset = state["offset"]  # ids of the first part that are used up
        while self._reader.next < state["next"]:
            self._take()

    def state(self) -> dict[str, Any]:
        """The documents that are not used up, and how much of the first one is."""
        first = self._parts[0][0] if self._parts else self._reader.next
        return {
            "next": self._reader.next,
            "first": first,
            "offset": self._offset,
            "row": self._row,
        }

    def rows(self, count: int) -> Batch:
        """The next rows."""
        made = [self._cut() for _ in range(count)]
        ids, weights = (np.stack(parts) for parts in zip(*made, strict=True))
        return packing.lay_out_cut(ids, weights)

    def _take(self) -> bool:
        """Takes in one document; False if it had to be left out."""
        index, record = self._reader.record()
        rng = self._source.rng(0, self._reader.number(index))
        made = self._source.sequence(record, rng)
        if made is None:
            return False
        self._parts.append((index, *made))
        self._length += len(made[0])
        return True

    def _cut(self) -> tuple[np.ndarray, np.ndarray]:
        """Cuts one row of L + 1 ids and moves its spans."""
        length, skipped = self._config.max_length + 1, 0
        while self._length - self._offset < length:
            skipped = 0 if self._take() else skipped + 1
            _check_skipped(skipped, self._config)
        ids = np.concatenate([part[1] for part in self._parts])
        weights = np.concatenate([part[2] for part in self._parts])
        start, end = self._offset, self._offset + length
        targets = self._targets(start, end)
        row_ids, row_weights = ids[start:end], weights[start:end]
        self._drop(end)
        rng = self._source.rng(1, self._stream, self._row)
        self._row += 1
        return self._masked(row_ids, row_weights, targets, rng)

    def _targets(self, start: int, end: int) -> np.ndarray:
        """Targets that lie whole in the row, in its coordinates."""
        found, at = [], 0
        for _, ids, _, targets in self._parts:
            found.append(targets + at - start)
            at += len(ids)
        targets_T2 = np.concatenate(found)
        inside = (targets_T2[:, 0] >= 1) & (targets_T2[:, 1] <= end - start)
        return targets_T2[inside]

    def _drop(self, used: int) -> None:
        """Forgets documents that are used up."""
        while self._parts and len(self._parts[0][1]) <= used:
            used -= len(self._parts[0][1])
            self._length -= len(self._parts[0][1])
            self._parts.popleft()
        self._offset = used

    def _masked(
        self,
        ids: np.ndarray,
        weights: np.ndarray,
        targets: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        vocab, config = self._source.vocab, self._config
        targets = targets[targets[:, 1] <= len(ids) - 3 * len(targets)]
        spans = cm3.draw_spans(ids, rng, config.cm3, vocab, targets=targets)
        spans = cm3.fit_to_row(spans, len(ids))
        ids, trimmed = cm3.rewrite_row(ids, spans, vocab)
        weights = weights[: len(weights) - trimmed]
        return ids, cm3.rewrite_weights(weights, spans, config.weights.sentinel)


Stream = WholeStream | CutStream
STREAMS = {"whole": WholeStream, "cut": CutStream}


def _present(rows: list[list[Piece | None]]) -> list[list[Piece]]:
    """Rows without the pieces that can no longer be read (damaged since)."""
    return [[piece for piece in row if piece is not None] for row in rows]


def _check_skipped(skipped: int, config: LoaderConfig) -> None:
    if skipped > _MAX_SKIPPED:
        raise ValueError(
            f"{skipped} documents in a row do not fit rows of {config.max_length=};"
            " raise it"
        )
