"""Documents -> rows of fixed length: the `Batch` that a training step eats.

Two ways. *Whole-image* packing puts whole sequences side by side, first fit; each has
its own segment id and its positions begin at 0, so that none sees another. *Concatenate
and cut* joins all sequences to one stream and cuts it every `length + 1` ids: rows are
full, attention and positions run over the row, and a picture may be cut in two.

In both, position i of `tokens` predicts `targets[i]`, the id after it, and the last id
of a sequence (or row) is only ever a target: nothing predicts across sequences.

Letters: B rows, L row length.

Source: CM3Leon, arXiv:2309.02591, Figure 9; the cut as in
github.com/facebookresearch/metaseq, metaseq/data/cm3_dataset.py (MIT).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from cm3leon_jax.vocab import Vocab

Array = Any  # np.ndarray on the host, jax.Array on devices: JAX is not known here


class Batch(NamedTuple):
    """Packed rows.

    Attributes:
      tokens_BL: int32[B, L], what the model reads; padding is Vocab.PAD.
      targets_BL: int32[B, L], the id after each token.
      weights_BL: float32[B, L], weight of each target's loss; 0 on padding.
      segment_ids_BL: int32[B, L], 1-based number of the sequence in its row; 0 padding.
      positions_BL: int32[B, L], 0-based within the segment; 0 on padding.
    """

    tokens_BL: Array
    targets_BL: Array
    weights_BL: Array
    segment_ids_BL: Array
    positions_BL: Array


@dataclasses.dataclass(frozen=True)
class Piece:
    """A sequence that is ready to be packed.

    Attributes:
      ids: int32[n], n >= 2.
      weights: float32[n], of the loss when `ids[i]` is predicted; the first is unused.
      number: Where it comes from, for whoever packs it; not looked at here.
    """

    ids: np.ndarray
    weights: np.ndarray
    number: int = 0

    @property
    def slots(self) -> int:
        """Places that it takes in a row: its last id is only a target."""
        return len(self.ids) - 1


class AbstractSlots(Protocol):
    """What is packed, as far as packing looks at it: a `Piece`, or its promise."""

    @property
    def slots(self) -> int:
        """Places that it takes in a row."""
        ...


_Packed = TypeVar("_Packed", bound=AbstractSlots)


@dataclasses.dataclass(frozen=True)
class LossWeights:
    """How much a token's prediction counts.

    Attributes:
      retrieved: In retrieved documents. 1 as CM3Leon; RA-CM3 has 0.1.
      sentinel: For sentinels, times their span's. 1 as CM3Leon; the CM3 paper has 0.
      context: Outside the target, in sequences that have one. 1 as CM3Leon; 0 trains
        on answers alone.
      target_min: Of all ids of a target together, at least; so that an answer of one
        word is not lost beside pictures. 0 weighs each id 1, as CM3Leon.
    """

    retrieved: float = 1.0
    sentinel: float = 1.0
    context: float = 1.0
    target_min: float = 0.0


def weigh(
    length: int, query: tuple[int, int], target: tuple[int, int] | None, w: LossWeights
) -> np.ndarray:
    """Returns the weights of a sequence before its spans move.

        length 7, query [3, 7), target [4, 5), retrieved 0.1, context 0.5
        weights [0.1 0.1 0.1 0.5 1 0.5 0.5]

    Args:
      length: Ids in the sequence.
      query: [start, end) of the query document and its closing `</s>`.
      target: [start, end) of its target, or None.
      w: The weights.

    Returns:
      float32[length].
    """
    weights = np.full(length, w.retrieved, np.float32)
    weights[query[0] : query[1]] = 1.0 if target is None else w.context
    if target is not None:
        size = max(1, target[1] - target[0])
        weights[target[0] : target[1]] = max(1.0, w.target_min / size)
    return weights


class OpenRows(Generic[_Packed]):
    """First-fit packing of a stream: a few rows stay open until they are full.

    A piece goes into the first open row that has room. When none has and no more may be
    opened, the fullest is closed. Pieces are kept by reference and never cut.
    """

    def __init__(
        self, length: int, max_open: int, rows: Sequence[Sequence[_Packed]] = ()
    ):
        """Continues with rows that are open already, by default with none.

        Args:
          length: Tokens in a row.
          max_open: Rows open at a time; more give fuller rows and a larger state.
          rows: `rows` of another `OpenRows`, to continue where it was.
        """
        self._length = length
        self._max_open = max_open
        self.rows: list[list[_Packed]] = [list(row) for row in rows]
        self._used = [sum(piece.slots for piece in row) for row in rows]

    def add(self, piece: _Packed) -> list[_Packed] | None:
        """Places a piece.

        Returns:
          The row that had to be closed to make room, or None.

        Raises:
          ValueError: If the piece is longer than a row.
        """
        if piece.slots > self._length:
            raise ValueError(
                f"a sequence of {piece.slots + 1} ids does not fit a row of"
                f" {self._length} tokens; raise max_length or retrieve fewer documents"
            )
        for index, used in enumerate(self._used):
            if used + piece.slots <= self._length:
                self.rows[index].append(piece)
                self._used[index] = used + piece.slots
                return None
        closed = self.close() if len(self.rows) == self._max_open else None
        self.rows.append([piece])
        self._used.append(piece.slots)
        return closed

    def close(self) -> list[_Packed] | None:
        """Takes out the fullest open row (the first of equals); None if none is open."""
        if not self.rows:
            return None
        fullest = self._used.index(max(self._used))
        self._used.pop(fullest)
        return self.rows.pop(fullest)


def pack(pieces: Sequence[Piece], length: int) -> Batch:
    """Packs pieces first fit into as many rows as they need.

        ids      [5 6 7] and [8 9], length 4
        tokens   [5 6 8 1]
        targets  [6 7 9 1]
        segments [1 1 2 0]
        positions[0 1 0 0]

    Args:
      pieces: What to pack, in order.
      length: Tokens in a row.

    Returns:
      Batch with B rows.
    """
    rows: OpenRows[Piece] = OpenRows(length, max_open=len(pieces) + 1)
    for piece in pieces:
        rows.add(piece)
    return lay_out(rows.rows, length)


def lay_out(rows: Sequence[Sequence[Piece]], length: int) -> Batch:
    """Writes the pieces of every row side by side.

    Args:
      rows: For each of B rows, pieces that fit it.
      length: Tokens in a row (L).
    """
    batch = empty(len(rows), length)
    for row, pieces in enumerate(rows):
        start = 0
        for number, piece in enumerate(pieces, start=1):
            end = start + piece.slots
            batch.tokens_BL[row, start:end] = piece.ids[:-1]
            batch.targets_BL[row, start:end] = piece.ids[1:]
            batch.weights_BL[row, start:end] = piece.weights[1:]
            batch.segment_ids_BL[row, start:end] = number
            batch.positions_BL[row, start:end] = np.arange(piece.slots, dtype=np.int32)
            start = end
    return batch


def lay_out_cut(ids_BN: np.ndarray, weights_BN: np.ndarray) -> Batch:
    """Makes a batch of rows that were cut from one stream.

    Args:
      ids_BN: int32[B, L + 1].
      weights_BN: float32[B, L + 1].

    Returns:
      Batch of full rows, one segment each.
    """
    tokens_BL = np.ascontiguousarray(ids_BN[:, :-1], np.int32)
    positions_L = np.arange(tokens_BL.shape[1], dtype=np.int32)
    return Batch(
        tokens_BL=tokens_BL,
        targets_BL=np.ascontiguousarray(ids_BN[:, 1:], np.int32),
        weights_BL=np.ascontiguousarray(weights_BN[:, 1:], np.float32),
        segment_ids_BL=np.ones_like(tokens_BL),
        positions_BL=np.tile(positions_L, (len(tokens_BL), 1)),
    )


def empty(num_rows: int, length: int) -> Batch:
    """A batch of padding."""
    shape = (num_rows, length)
    return Batch(
        tokens_BL=np.full(shape, Vocab.PAD, np.int32),
        targets_BL=np.full(shape, Vocab.PAD, np.int32),
        weights_BL=np.zeros(shape, np.float32),
        segment_ids_BL=np.zeros(shape, np.int32),
        positions_BL=np.zeros(shape, np.int32),
    )


def concatenate(batches: Sequence[Batch]) -> Batch:
    """The rows of several batches, one after the other."""
    return Batch(*(np.concatenate(parts) for parts in zip(*batches, strict=True)))
