"""Train, validation and test of a folder, with or without folders of its own for them.

A folder that has `train/`, `validation/` and `test/` (and perhaps `bank/`) is taken at
its word. Any other is split by a hash of each row's id: the `num_test` lowest hashes
are the test split, the next `num_validation` are validation, the rest is training. The
rule needs no list on disk, every job applies it alike, and a row that is added later
moves at most one other row from one split to the next.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterator

from cm3leon_jax.data.refusals import Refusals
from cm3leon_jax.data.sources import folder

TRAIN, VALIDATION, TEST, BANK = "train", "validation", "test", "bank"
SPLITS = (TRAIN, VALIDATION, TEST, BANK)


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """How a folder without split folders is divided.

    Attributes:
      num_validation: Rows of the validation split.
      num_test: Rows of the test split.
    """

    num_validation: int = 500
    num_test: int = 1_000


def has_folders(root: pathlib.Path) -> bool:
    """Whether a folder has a folder for its training split."""
    return (root / TRAIN).is_dir()


def names(root: pathlib.Path) -> tuple[str, ...]:
    """The splits that a folder has."""
    if not has_folders(root):
        return (TRAIN, VALIDATION, TEST)
    return tuple(name for name in SPLITS if (root / name).is_dir())


def read(
    root: str | pathlib.Path, split: str, config: SplitConfig, refusals: Refusals
) -> Iterator[folder.Row]:
    """Reads the rows of one split, without opening a picture.

    Args:
      root: A folder that `folder.read` reads, or one with a folder for each split.
      split: One of `SPLITS`; `bank` only where the folder has it.
      config: Sizes of the splits; unused where the folder has its own.
      refusals: Where refused rows are counted.

    Raises:
      FileNotFoundError: If there is no such folder or split.
      ValueError: If the split is unknown, or nothing would be left to train on.
    """
    root = pathlib.Path(root)
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; known: {', '.join(SPLITS)}")
    if has_folders(root):
        yield from folder.read(root / split, refusals)
        return
    if split not in names(root):
        raise FileNotFoundError(f"{root} has no split {split!r}; make {root / split}")
    rows = list(folder.read(root, refusals))
    held_out = config.num_test + config.num_validation
    if len(rows) <= held_out:
        raise ValueError(
            f"{root} has {len(rows)} usable rows, and {config.num_test} test +"
            f" {config.num_validation} validation rows are held out, so none is left to"
            " train on; add pictures, or hold out fewer"
        )
    order = sorted(range(len(rows)), key=lambda index: _hash(rows[index].id))
    ranges = {
        TEST: order[: config.num_test],
        VALIDATION: order[config.num_test : held_out],
        TRAIN: order[held_out:],
    }
    for index in sorted(ranges[split]):
        yield rows[index]


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
