"""Reading the records of shards at random: what is damaged is left out and counted.

ArrayRecord checks records by hashes, so a damaged one raises and is left out by itself.
A file that is not the one that was written (`identity`) is left out as a whole. Either
way the loss is named; more than a hundredth of all records stops the run.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from array_record.python import array_record_module
from google.protobuf import message

from cm3leon_jax.data import identity
from cm3leon_jax.data import record as formats
from cm3leon_jax.data.identity import ShardFile
from cm3leon_jax.data.record import Record

MAX_DAMAGED_SHARE = 0.01  # more damaged records than this stop the run
# What damaged files raise, and parsing what is no record.
_ERRORS = (RuntimeError, ValueError, OSError, IndexError, message.DecodeError)

_LOGGER = logging.getLogger(__name__)
# No read-ahead (access is random) and no threads for a read: twice as fast so.
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


class DamagedError(ValueError):
    """More is damaged than may be left out."""


class Reader:
    """Random access to the records of shards, one after the other."""

    def __init__(self, files: Sequence[ShardFile]):
        """Looks at the size of every file, and opens none.

        Raises:
          FileNotFoundError: If one is missing.
          DamagedError: If too many are not those that were written.
        """
        self._files = list(files)
        self._ends = np.cumsum([0, *(file.records for file in files)])[1:]
        self._readers: dict[int, Any] = {}  # None: not the shard that was written
        self._damaged: set[int] = set()
        found = identity.sizes([file.path for file in files])
        for number, (file, size) in enumerate(zip(files, found, strict=True)):
            if file.identity is not None and size != file.identity.size:
                self._leave_out(number)

    @property
    def num_damaged(self) -> int:
        """Records that were found damaged so far."""
        return len(self._damaged)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def records(self, indices: Sequence[int]) -> list[Record | None]:
        """Reads records by their place, in one batched read.

        Args:
          indices: Places in [0, len), in any order.

        Returns:
          As many; None for a damaged record.

        Raises:
          ValueError: If there is no such place.
          DamagedError: If more than a hundredth of all turns out to be damaged.
        """
        if not len(indices):
            return []
        places = [int(index) for index in indices]
        if min(places) < 0 or max(places) >= len(self):
            raise ValueError(f"records {min(places)} to {max(places)} of {len(self)}")
        try:
            return [
                None if data is None else formats.parse(data)
                for data in self._read(places)
            ]
        except DamagedError:
            raise
        except _ERRORS as error:
            if len(places) > 1:
                return [record for i in places for record in self.records([i])]
            return [self._lose(places[0], error)]

    def _read(self, places: Sequence[int]) -> list[bytes | None]:
        """The records' bytes, with one read for each shard that is touched."""
        files = np.searchsorted(self._ends, places, side="right")
        found: list[bytes | None] = [None] * len(places)
        for file in np.unique(files).tolist():
            reader = self._reader(file)
            if reader is None:
                continue
            positions = np.flatnonzero(files == file).tolist()
            wanted = [places[position] - self._start(file) for position in positions]
            data = reader.read(wanted)
            for position, record in zip(positions, data, strict=True):
                found[position] = record
        return found

    def _reader(self, number: int) -> Any:
        """The open shard; None if the file is not the one that was written."""
        if number not in self._readers:
            file = self._files[number]
            reader = array_record_module.ArrayRecordReader(file.path, _READER_OPTIONS)
            if identity.is_of(file, reader):
                self._readers[number] = reader
            else:
                self._leave_out(number)
        return self._readers[number]

    def _start(self, number: int) -> int:
        """The place of a shard's first record."""
        return int(self._ends[number - 1]) if number else 0

    def _leave_out(self, number: int) -> None:
        """Counts all records of a shard as damaged: its file is another."""
        file = self._files[number]
        self._readers[number] = None
        start = self._start(number)
        self._count(range(start, start + file.records), identity.refusal(file))

    def _lose(self, place: int, error: Exception) -> None:
        file = int(np.searchsorted(self._ends, place, side="right"))
        where = f"{self._files[file].path}, record {place - self._start(file)}"
        if place not in self._damaged:
            what = (
                f"{where}: {error}; copy the shard there again, or write the set again"
            )
            self._count([place], what)

    def _count(self, places: Sequence[int], what: str) -> None:
        """Notes damaged records, and stops where they are too many."""
        self._damaged.update(places)
        if self.num_damaged > max(1, MAX_DAMAGED_SHARE * len(self)):
            raise DamagedError(
                f"{self.num_damaged} damaged records of {len(self)}, the last is {what}"
            )
        _LOGGER.warning("left out, %d records: %s", len(places), what)
