"""One logical stream of packed rows: documents in, spans moved, packed.

A loader is a fixed number of streams, and a host owns whole ones; so what is packed
together depends neither on hosts nor on workers. Stream s of S takes documents s, s + S,
s + 2 S, ... of the mixture. Every random choice about a document comes from its number,
every one about a cut row from the row's number: a stream's state is a few numbers. What
it held is read and made again, but not before a row of it is due, so that restoring a
state reads nothing.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from cm3leon_jax.data.record import Record
from cm3leon_jax.data.streams import Documents, LoaderConfig
from cm3leon_jax.documents import cm3, packing
from cm3leon_jax.documents.packing import Batch, Piece

_MAX_SKIPPED = 1_000  # documents in a row that fit no row: the setting is wrong


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


@dataclasses.dataclass(frozen=True)
class _Promise:
    """A piece of an open row that is made again when the row is due.

    Attributes:
      number: Index of its document in the stream.
      slots: Places that it takes.
    """

    number: int
    slots: int


class WholeStream:
    """Rows of whole sequences, packed first fit."""

    def __init__(self, source: Documents, stream: int, state: dict[str, Any] | None):
        """Starts at the beginning, or where `state` says."""
        self._source = source
        self._config = source.config
        self._reader = _Reader(source, stream, state["next"] if state else 0)
        rows = self._promises(state) if state else []
        self._open: packing.OpenRows[Piece | _Promise] = packing.OpenRows(
            self._config.max_length, self._config.open_rows, rows
        )

    def _promises(self, state: dict[str, Any]) -> list[list[_Promise]]:
        """The open rows of a state."""
        rows, slots = state["rows"], state.get("slots")
        if slots is None:  # a state of the first version: lengths are read again
            known = self._reader.again([index for row in rows for index in row])
            made = {i: self._piece(i, record) for i, record in known.items()}
            sizes = {i: piece.slots for i, piece in made.items() if piece}
            rows = [[index for index in row if index in sizes] for row in rows]
            slots = [[sizes[index] for index in row] for row in rows]
        return [
            [_Promise(*pair) for pair in zip(*row, strict=True)]
            for row in zip(rows, slots, strict=True)
        ]

    def state(self) -> dict[str, Any]:
        """The next document, and which ones lie in the open rows."""
        rows = self._open.rows
        return {
            "next": self._reader.next,
            "rows": [[piece.number for piece in row] for row in rows],
            "slots": [[piece.slots for piece in row] for row in rows],
        }

    def rows(self, count: int) -> Batch:
        """The next rows."""
        closed: list[list[Piece | _Promise]] = []
        skipped = 0
        while len(closed) < count:
            index, record = self._reader.record()
            piece = self._piece(index, record)
            skipped = 0 if piece else skipped + 1
            _check_skipped(skipped, self._config)
            row = self._open.add(piece) if piece else None
            if row:
                closed.append(row)
        return packing.lay_out(self._kept(closed), self._config.max_length)

    def _kept(self, rows: list[list[Piece | _Promise]]) -> list[list[Piece]]:
        """Rows whose promises are kept; without what was damaged since."""
        promised = [p.number for row in rows for p in row if isinstance(p, _Promise)]
        known = self._reader.again(promised) if promised else {}
        made = {index: self._piece(index, record) for index, record in known.items()}
        kept = []
        for row in rows:
            pieces = [made[p.number] if isinstance(p, _Promise) else p for p in row]
            kept.append([piece for piece in pieces if piece is not None])
        return kept

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
        self._until = state["next"]  # what is read before the next row is cut

    def state(self) -> dict[str, Any]:
        """The documents that are not used up, and how much of the first one is."""
        first = self._parts[0][0] if self._parts else self._reader.next
        return {
            "next": max(self._until, self._reader.next),
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
        while self._reader.next < self._until:
            self._take()
        while self._length - self._offset < length:
            skipped = 0 if self._take() else skipped + 1
            _check_skipped(skipped, self._config)
        ids = np.concatenate([part[1] for part in self._parts])
        weights = np.concatenate([part[2] for part in self._parts])
        start, end = self._offset, self._offset + length
        targets = self._targets(start, end)
        row_ids, row_weights = ids[start:end], weights[start:end]
        if self._source.vocab.is_image(ids[end - 1 : end + 1]).sum() == 2:
            self._source.count(pictures_cut=1)
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


def _check_skipped(skipped: int, config: LoaderConfig) -> None:
    if skipped > _MAX_SKIPPED:
        raise ValueError(
            f"{skipped} documents in a row do not fit rows of {config.max_length=};"
            " raise it"
        )
