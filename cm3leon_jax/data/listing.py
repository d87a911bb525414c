"""Which rows become which shard: decided once, by all hosts alike.

Every input of a folder is listed: its rows are counted and the lowest hashes kept (what
the borders of the splits depend on), without opening a picture. From all listings
follow the shards: the rows of an input that belong to a split, cut into pieces of
`rows_per_shard`, numbered through the inputs in their order. A host takes a run of
shards that follow each other, so that it reads few inputs; what a shard holds depends
on neither hosts nor workers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from cm3leon_jax.data import splits
from cm3leon_jax.data.hosts import Hosts
from cm3leon_jax.data.refusals import Refusals
from cm3leon_jax.data.sources import inputs
from cm3leon_jax.data.sources.inputs import Input
from cm3leon_jax.data.sources.row import Row, SourceConfig
from cm3leon_jax.data.splits import Borders, Lowest, SplitConfig


@dataclasses.dataclass(frozen=True)
class Listing:
    """What is known of an input before any picture is opened.

    Attributes:
      num_rows: Rows that can be read.
      lowest: Their lowest hashes; empty where the input belongs to one split.
      refusals: What was refused (`Refusals.to_json`).
    """

    num_rows: int
    lowest: list[int]
    refusals: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """JSON values; `Listing(**values)` reads them back."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Shard:
    """The rows of one shard.

    Attributes:
      split: Its split.
      index: Its number in the split.
      input: Which input it is made of.
      start: Its first row among those of the input that belong to the split.
      stop: Past its last.
    """

    split: str
    index: int
    input: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Unique among the shards of a job."""
        return f"{self.split}-{self.index:05d}"


def count(one: Input, source: SourceConfig, config: SplitConfig) -> Listing:
    """Lists an input."""
    refusals = Refusals()
    lowest = Lowest(0 if one.split else config.num_held_out)
    for row in inputs.rows(one, source, refusals):
        lowest.add(row)
    return Listing(lowest.num_rows, lowest.found(), refusals.to_json())


class Table:
    """All shards of a folder."""

    def __init__(
        self,
        found: Sequence[Input],
        listings: Sequence[Listing],
        config: SplitConfig,
        rows_per_shard: int,
    ):
        """Numbers the shards.

        Args:
          found: The inputs.
          listings: Of each.
          config: Sizes of splits that go by hash.
          rows_per_shard: Rows of a shard; the last of an input and split has fewer.

        Raises:
          ValueError: If nothing would be left to train on.
        """
        self._inputs = list(found)
        self._borders: Borders | None = None
        if not found[0].split:
            lowest = [number for one in listings for number in one.lowest]
            num_rows = sum(one.num_rows for one in listings)
            self._borders = splits.borders(found[0].root, lowest, num_rows, config)
        self.shards: list[Shard] = []
        numbered: dict[str, int] = dict.fromkeys(splits.SPLITS, 0)
        for place, (one, listing) in enumerate(zip(found, listings, strict=True)):
            for split, size in self._sizes(one, listing).items():
                for start in range(0, size, rows_per_shard):
                    stop = min(start + rows_per_shard, size)
                    index = numbered[split]
                    self.shards.append(Shard(split, index, place, start, stop))
                    numbered[split] += 1

    def _sizes(self, one: Input, listing: Listing) -> dict[str, int]:
        if self._borders is None:
            return {one.split: listing.num_rows}
        return self._borders.sizes(listing.lowest, listing.num_rows)

    def owned(self, hosts: Hosts) -> list[Shard]:
        """This host's shards: a run of them, which are made of few inputs."""
        return [self.shards[place] for place in hosts.share(len(self.shards))]

    def rows(
        self, shards: Sequence[Shard], source: SourceConfig
    ) -> Iterator[tuple[Shard, list[Row]]]:
        """Yields some of the shards with their rows, each as soon as it is full.

        Reads every input that they are made of once, in order.
        """
        for place in sorted({shard.input for shard in shards}):
            wanted = [shard for shard in shards if shard.input == place]
            yield from self._rows(self._inputs[place], wanted, source)

    def _rows(
        self, one: Input, wanted: list[Shard], source: SourceConfig
    ) -> Iterator[tuple[Shard, list[Row]]]:
        seen: dict[str, int] = dict.fromkeys(splits.SPLITS, 0)  # rows of each so far
        filling: dict[str, list[Row]] = {split: [] for split in splits.SPLITS}
        waiting: dict[str, list[Shard]] = {split: [] for split in splits.SPLITS}
        for shard in reversed(wanted):
            waiting[shard.split].append(shard)  # the next one is the last
        for row in inputs.rows(one, source, Refusals()):  # counted by the listing
            split = one.split or (self._borders.split(row) if self._borders else "")
            number = seen[split]
            seen[split] += 1
            if not waiting[split] or number < waiting[split][-1].start:
                continue
            filling[split].append(row)
            if number + 1 == waiting[split][-1].stop:
                yield waiting[split].pop(), filling[split]
                filling[split] = []
                if not any(waiting.values()):
                    return
        if any(waiting.values()):
            left = [some[-1].name for some in waiting.values() if some]
            raise ValueError(
                f"{one.root / one.name} has fewer rows than when it was listed (shards"
                f" {', '.join(left)}); use a new --workdir for the changed data"
            )


def name(place: int) -> str:
    """The name of an input's listing."""
    return f"input-{place:05d}"
