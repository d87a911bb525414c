"""The documents of a mixture as sequences: numbered, read, neighbours put in front.

Every random choice about a document comes from its number. `rows` makes rows of them.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import threading
import zlib
from collections.abc import Sequence

import numpy as np

from cm3leon_jax.data import joining
from cm3leon_jax.data.mixture import InOrder, Mixture
from cm3leon_jax.data.record import NO_NEIGHBORS, Record
from cm3leon_jax.data.shards import Source
from cm3leon_jax.documents import document as documents
from cm3leon_jax.documents import packing
from cm3leon_jax.documents.cm3 import CM3Config
from cm3leon_jax.documents.packing import LossWeights
from cm3leon_jax.vocab import Vocab

PACKINGS = ("whole", "cut")


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
    pictures_cut: int = 0  # by the end of a row that is cut from the stream
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
        self._lock = threading.Lock()
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
          None if the record is damaged, or too long for a row that may not be cut.
        """
        if record is None:
            self.count(damaged=1)
            return None
        # A stream that is cut has room for anything; a whole sequence must fit a row.
        room = math.inf
        if self.config.packing == "whole":
            room = self.config.max_length + 1 - 2 - len(record.tokens)
        if room < 0:
            self.count(too_long=1)
            return None
        fronts = self._neighbors(record, rng, room)
        ids = documents.join_ids([*fronts, record.tokens], self.vocab)
        end = len(ids)
        start = end - 1 - len(record.tokens)
        target, targets = None, np.zeros((0, 2), np.int64)
        if record.target is not None:
            target = (record.target[0] + start, record.target[1] + start)
            targets = np.array([target])
        self.count(documents=1, neighbors=len(fronts))
        weights = packing.weigh(end, (start, end), target, self.config.weights)
        return ids, weights, targets

    def count(self, **more: int) -> None:
        """Adds to the counts; streams may be read by several threads."""
        with self._lock:
            for name, number in more.items():
                setattr(self.counts, name, getattr(self.counts, name) + number)

    def _neighbors(
        self, record: Record, rng: np.random.Generator, room: float
    ) -> list[np.ndarray]:
        """Some of the record's neighbours in random order, as many as there is room."""
        number = int(np.searchsorted(self._cumulative, rng.random(), side="right"))
        tokens = record.neighbors.tokens
        fronts = []
        for index in rng.permutation(len(tokens))[:number]:
            room -= len(tokens[index]) + 1  # and its <break>
            if room < 0:
                self.count(neighbors_dropped=1)
                room += len(tokens[index]) + 1
                continue
            fronts.append(tokens[index])
        return fronts
