"""Train, validation and test of a folder, with or without folders of its own for them.

A folder that has `train/`, `validation/` and `test/` (and perhaps `bank/`) is taken at
its word, and so is one whose files are named after splits. Any other is split by a hash
of each row's id: the `num_test` lowest hashes are the test split, the next
`num_validation` are validation, the rest is training. The rule needs no list on disk,
every job and host applies it alike, and a row that is added later moves at most one
other row from one split to the next. Rows of one group go together.
"""

from __future__ import annotations

import array
import bisect
import dataclasses
import hashlib
import pathlib
from collections.abc import Iterable, Iterator

from cm3leon_jax.data.refusals import Refusals
from cm3leon_jax.data.sources import inputs
from cm3leon_jax.data.sources.inputs import BANK, TEST, TRAIN, VALIDATION, Input
from cm3leon_jax.data.sources.row import Row, SourceConfig

SPLITS = (TRAIN, VALIDATION, TEST, BANK)
_HASH_BYTES = 8


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """How a folder without split folders is divided.

    Attributes:
      num_validation: Rows of the validation split.
      num_test: Rows of the test split.
    """

    num_validation: int = 500
    num_test: int = 1_000

    @property
    def num_held_out(self) -> int:
        """Rows that are not trained on."""
        return self.num_test + self.num_validation


@dataclasses.dataclass(frozen=True)
class Borders:
    """Where the hashes of one split end and those of the next begin.

    Attributes:
      test: Largest hash of the test split, -1 if there is none.
      validation: Largest hash of the validation split or the test split.
    """

    test: int
    validation: int

    def split(self, row: Row) -> str:
        """The split of a row."""
        number = hash_of(row)
        if number <= self.test:
            return TEST
        return VALIDATION if number <= self.validation else TRAIN

    def sizes(self, lowest: list[int], num_rows: int) -> dict[str, int]:
        """How many rows of an input are in each split.

        Args:
          lowest: What `Lowest.found` says of the input.
          num_rows: Rows of the input.
        """
        num_test = bisect.bisect_right(lowest, self.test)
        held_out = bisect.bisect_right(lowest, self.validation)
        return {
            TRAIN: num_rows - held_out,
            VALIDATION: held_out - num_test,
            TEST: num_test,
        }


class Lowest:
    """The lowest hashes of the rows of an input: all that the borders depend on."""

    def __init__(self, count: int):
        """Takes how many are needed: as many as rows are held out."""
        self.num_rows = 0
        self._count = count
        self._hashes = array.array("Q")

    def add(self, row: Row) -> None:
        """Counts a row."""
        self.num_rows += 1
        self._hashes.append(hash_of(row))

    def found(self) -> list[int]:
        """The lowest hashes in order, and those equal to the last of them."""
        ordered = sorted(self._hashes)
        if not self._count or not ordered:
            return []
        last = ordered[min(self._count, len(ordered)) - 1]
        return ordered[: bisect.bisect_right(ordered, last)]


def borders(
    root: pathlib.Path, lowest: Iterable[int], num_rows: int, config: SplitConfig
) -> Borders:
    """Returns the borders for all inputs of a folder.

    Args:
      root: The folder, for messages.
      lowest: The lowest hashes of all its inputs (`Lowest.found`), in any order.
      num_rows: Rows of all its inputs.
      config: Sizes of the splits.

    Raises:
      ValueError: If nothing would be left to train on.
    """
    if num_rows <= config.num_held_out:
        raise ValueError(
            f"{root} has {num_rows} usable rows, and {config.num_test} test +"
            f" {config.num_validation} validation rows are held out, so none is left to"
            " train on; add pictures, or hold out fewer"
        )
    ordered = sorted(lowest)
    test, validation = (
        ordered[count - 1] if count else -1
        for count in (config.num_test, config.num_held_out)
    )
    return Borders(test, validation)


def has_folders(root: pathlib.Path) -> bool:
    """Whether a folder has a folder for its training split."""
    return (root / TRAIN).is_dir()


def find(root: str | pathlib.Path, config: SourceConfig) -> list[Input]:
    """Returns the inputs of a folder; those that belong to a split say so.

    Raises:
      FileNotFoundError: If there is no such folder.
      ValueError: If there is nothing to read.
    """
    root = pathlib.Path(root)
    if not has_folders(root):
        return inputs.find(root, config)
    return [
        dataclasses.replace(one, split=split)
        for split in SPLITS
        if (root / split).is_dir()
        for one in inputs.find(root / split, config)
    ]


def names(
    root: str | pathlib.Path, config: SourceConfig | None = None
) -> tuple[str, ...]:
    """The splits that a folder has."""
    return _names(find(root, config or SourceConfig()))


def _names(found: list[Input]) -> tuple[str, ...]:
    own = {one.split for one in found} - {""}
    known = own or {TRAIN, VALIDATION, TEST}
    return tuple(name for name in SPLITS if name in known)


def read(
    root: str | pathlib.Path,
    split: str,
    config: SplitConfig,
    refusals: Refusals,
    source: SourceConfig | None = None,
) -> Iterator[Row]:
    """Reads the rows of one split, without opening a picture.

    Args:
      root: A folder of any format, or one with a folder for each split.
      split: One of `SPLITS`; `bank` only where the folder has it.
      config: Sizes of the splits; unused where the folder has its own.
      refusals: Where refused rows are counted.
      source: How the folder is read; None: by what lies in it, all of it.

    Raises:
      FileNotFoundError: If there is no such folder or split.
      ValueError: If the split is unknown, or nothing would be left to train on.
    """
    root, source = pathlib.Path(root), source or SourceConfig()
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; known: {', '.join(SPLITS)}")
    found = find(root, source)
    if split not in _names(found):
        raise FileNotFoundError(f"{root} has no split {split!r}; make {root / split}")
    if found[0].split:
        for one in found:
            if one.split == split:
                yield from inputs.rows(one, source, refusals)
        return
    lowest = Lowest(config.num_held_out)
    for one in found:
        for row in inputs.rows(one, source, refusals):
            lowest.add(row)
    limits = borders(root, lowest.found(), lowest.num_rows, config)
    for one in found:
        for row in inputs.rows(one, source, Refusals()):  # counted the first time
            if limits.split(row) == split:
                yield row


def hash_of(row: Row) -> int:
    """The number that decides a row's split, in [0, 2^64)."""
    digest = hashlib.sha256((row.group or row.id).encode()).digest()
    return int.from_bytes(digest[:_HASH_BYTES], "big")
