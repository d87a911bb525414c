"""Neighbours' tokens brought to the documents that want them, without a random read.

An external sort. The documents of a set, in the order of their splits, are the *rows*;
their parts (output shards) are consecutive rows. The memory bank is cut into runs of
consecutive documents. Each run is read once, in order, and leaves one file with the
tokens that any row wants of it, in the order of the rows; then each part reads its slice
of every run, so that a host which writes consecutive parts reads every run in order.

    bank     ==read in order==>  runs/00000.safetensors ...   (sorted by row and slot)
    runs     ==read in order==>  parts with their neighbours inline

Disk, in units of the set's tokens: 4 for the runs, which are deleted at the end, and 5
for the joined set (its own tokens and those of up to four neighbours).

A run's file: `starts` int64[parts + 1], where each part's entries begin; `rows` int64[n]
(of the part) and `slots` uint8[n] of the entries; `offsets` int64[n + 1] of their tokens; `tokens`
uint16[...]. A document that was damaged has no tokens.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import safetensors

from cm3leon_jax import storage
from cm3leon_jax.data import shards
from cm3leon_jax.data.record import NO_NEIGHBORS, Neighbors, Record
from cm3leon_jax.data.shards import Source

BANK = "bank.json"  # beside the sets: the splits of the memory bank
READ = 4_096  # records read at a time
_RUN = 1 << 17  # documents of a run: with pictures of 1,024 codes a gigabyte of tokens
_MAX_RUNS = 512  # files open at a time; larger banks have longer runs


class Documents:
    """The documents of several splits under one numbering, read in order.

    Attributes:
      sources: The splits.
      starts: Number of each split's first document, and of the end.
    """

    def __init__(self, sources: Sequence[Source]):
        """Opens nothing."""
        self.sources = tuple(sources)
        self.starts = np.cumsum([0, *map(len, sources)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def records(self, ids: np.ndarray) -> dict[int, Record]:
        """Documents by number, read in order; damaged ones are left out.

        Args:
          ids: int[n], in any order; negative ones are none.
        """
        found: dict[int, Record] = {}
        ids = np.unique(ids[ids >= 0])
        for source, start, end in zip(
            self.sources, self.starts[:-1], self.starts[1:], strict=True
        ):
            wanted = ids[(ids >= start) & (ids < end)]
            for first in range(0, len(wanted), READ):
                part = wanted[first : first + READ]
                records = source.records(part - start)
                for place, record in zip(part.tolist(), records, strict=True):
                    if record is not None:
                        found[place] = record
        return found

    def tokens(self, ids: np.ndarray) -> dict[int, np.ndarray]:
        """The tokens of documents by number; as `records`."""
        return {place: record.tokens for place, record in self.records(ids).items()}


def runs(num_documents: int) -> list[range]:
    """The runs of a bank: consecutive documents."""
    size = max(_RUN, -(-num_documents // _MAX_RUNS))
    return [
        range(start, min(start + size, num_documents))
        for start in range(0, num_documents, size)
    ]


def write_run(
    path: pathlib.Path,
    bank: Documents,
    run: range,
    wanted_RS: np.ndarray,
    starts_P: np.ndarray,
) -> None:
    """Writes what all rows want of one run, sorted by row and slot.

    Args:
      path: The run's file.
      bank: The documents that are wanted.
      run: Those of this run.
      wanted_RS: int32[R, S], of every row the numbers of its neighbours, -1 for none.
      starts_P: int64[parts + 1], the first row of every part, and the end.
    """
    is_here_RS = (wanted_RS >= run.start) & (wanted_RS < run.stop)
    rows, slots = np.nonzero(is_here_RS)
    ids = wanted_RS[rows, slots]
    tokens = bank.tokens(ids)
    nothing = np.zeros(0, np.uint16)
    pieces = [tokens.get(one, nothing) for one in ids.tolist()]
    bounds_P = np.searchsorted(rows, starts_P)
    within = rows - np.repeat(starts_P[:-1], np.diff(bounds_P))
    storage.save_arrays(
        path,
        {
            "starts": bounds_P.astype(np.int64),
            "rows": within.astype(np.int64),
            "slots": slots.astype(np.uint8),
            "offsets": np.cumsum([0, *map(len, pieces)], dtype=np.int64),
            "tokens": np.concatenate([nothing, *pieces]),
        },
    )


class Runs:
    """The runs of a bank, read part by part."""

    def __init__(self, paths: Sequence[pathlib.Path]):
        """Opens the files; what is read of them is only what parts ask for."""
        self._files = [safetensors.safe_open(path, "numpy") for path in paths]
        self._starts = [file.get_tensor("starts") for file in self._files]

    def part(self, number: int) -> Mapping[tuple[int, int], np.ndarray]:
        """The tokens that a part's rows want, by row and slot; damaged ones are not."""
        found: dict[tuple[int, int], np.ndarray] = {}
        for file, starts in zip(self._files, self._starts, strict=True):
            first, end = starts[number : number + 2].tolist()
            if first == end:
                continue
            rows = file.get_slice("rows")[first:end]
            slots = file.get_slice("slots")[first:end]
            offsets = file.get_slice("offsets")[first : end + 1]
            tokens = file.get_slice("tokens")[int(offsets[0]) : int(offsets[-1])]
            pieces = np.split(tokens, offsets[1:-1] - offsets[0])
            keys = zip(rows.tolist(), slots.tolist(), strict=True)
            found |= {
                key: piece
                for key, piece in zip(keys, pieces, strict=True)
                if len(piece)
            }
        return found


def join(
    record: Record,
    near: Mapping[str, np.ndarray],
    row: int,
    tokens: Mapping[tuple[int, int], np.ndarray] | None,
) -> Record:
    """Gives a record its neighbours.

    Args:
      record: The document.
      near: `ids`, `scores` and `by_image` of its part, [n, S].
      row: Its row of these.
      tokens: The neighbours' tokens by row and slot, those that are missing were
        damaged and are left out; or None to leave all tokens out, with length 0.
    """
    ids = near["ids"][row]
    slots = [
        slot
        for slot, one in enumerate(ids.tolist())
        if one >= 0 and (tokens is None or (row, slot) in tokens)
    ]
    if not slots:
        return dataclasses.replace(record, neighbors=NO_NEIGHBORS)
    nothing = np.zeros(0, np.uint16)
    found = Neighbors(
        ids=ids[slots],
        scores=near["scores"][row][slots],
        by_image=near["by_image"][row][slots].astype(bool),
        tokens=tuple(tokens[row, slot] if tokens else nothing for slot in slots),
    )
    return dataclasses.replace(record, neighbors=found)


class Bank:
    """The bank of a set whose neighbours are named by number alone: random reads.

    `bank.json` beside the set names the splits, in the order of the numbers.
    """

    def __init__(self, source: Source):
        """Opens nothing until the first neighbour is wanted."""
        self._source = source
        self._documents: Documents | None = None

    def fill(self, found: Sequence[Record | None]) -> list[Record | None]:
        """Gives records the tokens of their neighbours, with one read a split.

        Records that have them already come back as they are; neighbours that are
        damaged are left out.

        Raises:
          FileNotFoundError: If it is not known which splits make up the bank.
        """
        bare = [
            record
            for record in found
            if record and any(not len(one) for one in record.neighbors.tokens)
        ]
        if not bare:
            return list(found)
        if self._documents is None:
            self._documents = self.open()
        ids = np.concatenate([record.neighbors.ids for record in bare])
        tokens = self._documents.tokens(ids)
        return [
            self._filled(record, tokens)
            if record and any(not len(one) for one in record.neighbors.tokens)
            else record
            for record in found
        ]

    def _filled(self, record: Record, tokens: Mapping[int, np.ndarray]) -> Record:
        near = record.neighbors
        keep = [place for place, one in enumerate(near.ids.tolist()) if one in tokens]
        return dataclasses.replace(
            record,
            neighbors=Neighbors(
                ids=near.ids[keep],
                scores=near.scores[keep],
                by_image=near.by_image[keep],
                tokens=tuple(tokens[int(near.ids[place])] for place in keep),
            ),
        )

    def open(self) -> Documents:
        """The bank's documents.

        Raises:
          FileNotFoundError: If it is not known which splits make up the bank.
        """
        folder = self._source.folder
        path = folder.parent / BANK
        if not path.exists():
            raise FileNotFoundError(
                f"the neighbours in {folder} are numbers of a bank, and {path} does not"
                " name its splits; run the job `retrieve` again"
            )
        names = storage.read_json(path)["splits"]
        return Documents([shards.open(folder, name) for name in names])
