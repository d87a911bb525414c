"""Which document comes next: sets mixed by weight, each shuffled anew every epoch.

Document number n of the endless mixture is computed from n alone, so that any worker
finds its place at once. Numbers come in blocks; every block holds each set in exact
proportion (to one in `BLOCK`), in an order of its own. Within a set, epoch after epoch,
the order is a bijection computed from the index (Grain's `index_shuffle`; a listed
permutation where the set is short): nothing is stored.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from grain import experimental as grain_experimental

BLOCK = 1024  # documents in which proportions are exact
_ROUNDS = 4  # of the shuffle's cipher; Grain's own default
# Up to here an order is listed (a millisecond an epoch): Grain's cipher permutes at
# least 2^16 indices and walks until it meets one in range, up to 10 ms for short sets.
_LISTED = 1 << 16


class Place(NamedTuple):
    """Where a document lies."""

    set_index: int
    record: int
    epoch: int


class InOrder:
    """Document n is record n of the only set: no shuffle, one epoch."""

    def place(self, number: int) -> Place:
        """Returns where document `number` lies."""
        return Place(0, number, 0)


class Mixture:
    """An endless, seeded order over several sets."""

    def __init__(self, lengths: Sequence[int], weights: Sequence[float], seed: int):
        """Prepares one block.

        Args:
          lengths: Records in each set.
          weights: How much of the mixture each set is; need not sum to 1.
          seed: Another seed, another order.

        Raises:
          ValueError: If a weight is negative or all are zero, or a set that has weight
            is empty.
        """
        if len(lengths) != len(weights) or min(weights) < 0 or not sum(weights):
            raise ValueError(
                f"{len(lengths)} sets need as many weights, none negative and not all"
                f" zero, got {list(weights)}"
            )
        for index, (length, weight) in enumerate(zip(lengths, weights, strict=True)):
            if weight and not length:
                raise ValueError(
                    f"set {index} of the mixture is empty; give it weight 0 or fill it"
                )
        self._lengths = list(lengths)
        self._seed = seed
        self._counts = _apportion(weights)
        self._set_of_slot = np.repeat(np.arange(len(lengths)), self._counts)
        starts = np.cumsum(self._counts) - self._counts
        self._rank_of_slot = np.arange(BLOCK) - starts[self._set_of_slot]

    @property
    def counts(self) -> list[int]:
        """Documents of each set in a block of `BLOCK`."""
        return self._counts.tolist()

    def place(self, number: int) -> Place:
        """Returns where document `number` (0, 1, ...) of the mixture lies."""
        block, slot = divmod(number, BLOCK)
        slot = _shuffle(slot, BLOCK, _seed_of(self._seed, -1, block))
        index = int(self._set_of_slot[slot])
        in_set = block * int(self._counts[index]) + int(self._rank_of_slot[slot])
        epoch, position = divmod(in_set, self._lengths[index])
        seed = _seed_of(self._seed, index, epoch)
        return Place(index, _shuffle(position, self._lengths[index], seed), epoch)


def _apportion(weights: Sequence[float]) -> np.ndarray:
    """Shares of a block by largest remainder; a set with weight gets at least one."""
    shares = np.asarray(weights, np.float64) / sum(weights) * BLOCK
    counts = np.floor(shares).astype(int)
    order = np.argsort(counts - shares, kind="stable")
    counts[order[: BLOCK - counts.sum()]] += 1
    for index in np.flatnonzero((shares > 0) & (counts == 0)):
        counts[index] += 1
        counts[np.argmax(counts)] -= 1
    return counts


def _shuffle(position: int, length: int, seed: int) -> int:
    if length <= _LISTED:
        return int(_permutation(length, seed)[position])
    return grain_experimental.index_shuffle(
        index=position, max_index=length - 1, seed=seed, rounds=_ROUNDS
    )


@functools.lru_cache(maxsize=32)
def _permutation(length: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(length)


@functools.lru_cache(maxsize=256)
def _seed_of(seed: int, set_index: int, epoch: int) -> int:
    return zlib.crc32(f"{seed}/{set_index}/{epoch}".encode())
