"""Tokenised documents on disk: a TFDS data set in ArrayRecord files, no TensorFlow.

A *set* is a folder that `tfds.builder_from_directory` reads, with one or more splits:

    pairs/dataset_info.json features.json metadata.json
    pairs/pairs-train.array_record-00000 ...-00001     one shard after the other

Each record is one document (fields: `Record`). Tokens are 16-bit ids of the joint
vocabulary, segments joined by `<break>`, without `</s>`. Ragged parts are flat arrays
with lengths beside them. `metadata.json` holds the format version, the vocabulary, and
the digests of the tokenizers and embedder that made the tokens and vectors; reading
with others is refused (`check`).

A shard appears under its name when it is whole (`write_shard`); `finish` writes the
set's description. ArrayRecord checks its content by hashes: a damaged record raises,
is named, counted and left out.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from cm3leon_jax.data import record as formats
from cm3leon_jax.data.record import Record
from cm3leon_jax.vocab import Vocab

FORMAT_VERSION = 1
MAX_DAMAGED_SHARE = 0.01  # more damaged records than this stop the run

_LOGGER = logging.getLogger(__name__)
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}"
# One record a group: random access reads and decompresses nothing but what is asked.
_WRITER_OPTIONS = "group_size:1"
# No read-ahead (access is random) and no threads for a read: twice as fast so.
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


@dataclasses.dataclass(frozen=True)
class SetInfo:
    """What made a set; kept in its metadata.

    Attributes:
      vocab: The joint vocabulary.
      text_tokenizer: Digest. Likewise `image_tokenizer`.
      embedder: Digest, empty where the set has no vectors.
      bank: Digest of the memory bank that its neighbours come from, or empty.
    """

    vocab: Vocab
    text_tokenizer: str
    image_tokenizer: str
    embedder: str = ""
    bank: str = ""

    def to_json(self) -> dict[str, Any]:
        """JSON values; `from_json` reads them back."""
        fields = dataclasses.asdict(self)
        fields["vocab"] = self.vocab.to_json()
        return {"format_version": FORMAT_VERSION, **fields}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> SetInfo:
        """Reads what `to_json` wrote.

        Raises:
          ValueError: If the version is another, or fields are missing or unknown.
        """
        fields = dict(fields)
        version = fields.pop("format_version", None)
        names = {field.name for field in dataclasses.fields(cls)}
        if version != FORMAT_VERSION or set(fields) != names:
            raise ValueError(
                f"shards of format {version} with fields {sorted(fields)}; this code"
                f" reads format {FORMAT_VERSION} with {sorted(names)}: write them again"
            )
        fields["vocab"] = Vocab.from_json(fields["vocab"])
        return cls(**fields)


def write_shard(
    folder: str | os.PathLike[str],
    split: str,
    index: int,
    records: Iterable[Record],
) -> tuple[int, int]:
    """Writes one shard of a set, atomically; an existing one is replaced.

    Args:
      folder: The set's folder; its name is the set's name.
      split: The split's name.
      index: The shard's place in the split, from 0.
      records: Its documents, in order. May be empty.

    Returns:
      Number of records and of their bytes, for `finish`.
    """
    path = _shard_path(pathlib.Path(folder), split, index)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    writer = array_record_module.ArrayRecordWriter(str(partial), _WRITER_OPTIONS)
    number = size = 0
    try:
        for record in records:
            data = formats.serialize(record)
            writer.write(data)
            number, size = number + 1, size + len(data)
        writer.close()
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return number, size


def finish(
    folder: str | os.PathLike[str],
    info: SetInfo,
    splits: Mapping[str, Sequence[tuple[int, int]]],
) -> None:
    """Writes a set's description, after all its shards.

    Args:
      folder: The set's folder.
      info: What made it.
      splits: For each split, what `write_shard` returned for shards 0, 1, ...

    Raises:
      ValueError: If ids do not fit 16 bits.
    """
    folder = pathlib.Path(folder)
    if info.vocab.size > 1 << 16:
        raise ValueError(
            f"{info.vocab.size} ids do not fit the 16 bits of a shard; shrink the"
            " text vocabulary or the control ids"
        )
    identity = tfds.core.DatasetIdentity(
        name=folder.name,
        version=tfds.core.Version(f"{FORMAT_VERSION}.0.0"),
        data_dir=str(folder),
        module_name=__name__,
    )
    description = tfds.core.DatasetInfo(
        builder=identity,
        description="Tokenised text and image documents of CM3Leon-JAX.",
        features=formats.features(),
        metadata=tfds.core.MetadataDict(info.to_json()),
    )
    description.set_file_format("array_record")
    description.set_splits(
        tfds.core.SplitDict(
            [
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[number for number, _ in shards],
                    num_bytes=sum(size for _, size in shards),
                    filename_template=_file_template(folder, split),
                )
                for split, shards in splits.items()
            ]
        )
    )
    description.write_to_directory(str(folder))


class Source:
    """Random access to one split of a set."""

    def __init__(
        self,
        folder: pathlib.Path,
        split: str,
        info: SetInfo,
        files: Sequence[tuple[str, int]],
    ):
        """Use `open`; `files` are the shards and how many records each has."""
        self.folder = folder
        self.split = split
        self.info = info
        self.num_damaged = 0
        self._files = list(files)
        self._ends = np.cumsum([length for _, length in files])
        self._readers: dict[int, Any] = {}

    @property
    def name(self) -> str:
        """The set's name."""
        return self.folder.name

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def records(self, indices: Sequence[int]) -> list[Record | None]:
        """Reads records by their place, in one batched read.

        Args:
          indices: Places in [0, len), in any order.

        Returns:
          As many; None for a damaged record.

        Raises:
          ValueError: If more than a hundredth of the split turns out to be damaged.
        """
        if not len(indices):
            return []
        places = [int(index) for index in indices]
        try:
            return [formats.parse(data) for data in self._read(places)]
        except (RuntimeError, ValueError, OSError, IndexError) as error:
            if len(places) > 1:
                return [record for i in places for record in self.records([i])]
            return [self._damaged(places[0], error)]

    def _read(self, places: Sequence[int]) -> list[bytes]:
        """The records' bytes, with one read for each shard that is touched."""
        if min(places) < 0 or max(places) >= len(self):
            raise ValueError(f"records {min(places)} to {max(places)} of {len(self)}")
        files = np.searchsorted(self._ends, places, side="right")
        found: list[bytes] = [b""] * len(places)
        for file in np.unique(files).tolist():
            reader = self._reader(file)
            start = int(self._ends[file - 1]) if file else 0
            positions = np.flatnonzero(files == file).tolist()
            wanted = [places[position] - start for position in positions]
            data = reader.read(wanted)
            for position, record in zip(positions, data, strict=True):
                found[position] = record
        return found

    def _reader(self, file: int) -> Any:
        """The open shard; one that holds another number of records is another file."""
        if file not in self._readers:
            path, length = self._files[file]
            reader = array_record_module.ArrayRecordReader(path, _READER_OPTIONS)
            if reader.num_records() != length:
                raise ValueError(
                    f"{reader.num_records()} records, the set's description says"
                    f" {length}"
                )
            self._readers[file] = reader
        return self._readers[file]

    def _damaged(self, place: int, error: Exception) -> None:
        self.num_damaged += 1
        file = int(np.searchsorted(self._ends, place, side="right"))
        first = int(self._ends[file - 1]) if file else 0
        what = f"{self._files[file][0]}, record {place - first}: {error}"
        _LOGGER.warning("damaged record left out: %s", what)
        if self.num_damaged > max(1, MAX_DAMAGED_SHARE * len(self)):
            raise ValueError(
                f"{self.num_damaged} damaged records, the last is {what}; write this"
                " set of shards again"
            ) from error


def open(folder: str | os.PathLike[str], split: str) -> Source:
    """Opens one split of a set for reading.

    Raises:
      FileNotFoundError: If there is no finished set.
      ValueError: If it has no such split, or is of another format.
    """
    folder = pathlib.Path(folder)
    builder = _builder(folder)
    if split not in builder.info.splits:
        raise ValueError(
            f"{folder} has no split {split!r}; it has {sorted(builder.info.splits)}"
        )
    info = SetInfo.from_json(builder.info.metadata or {})
    described = builder.info.splits[split]
    files = [
        (str(_shard_path(folder, split, index)), length)
        for index, length in enumerate(described.shard_lengths)
    ]
    for path, _ in files:
        if not pathlib.Path(path).exists():
            raise FileNotFoundError(f"shard {path} is missing; write the set again")
    return Source(folder, split, info, files)


def splits(folder: str | os.PathLike[str]) -> dict[str, int]:
    """Returns the splits of a finished set and how many records each has.

    Raises:
      FileNotFoundError: If there is no finished set.
    """
    builder = _builder(pathlib.Path(folder))
    return {name: info.num_examples for name, info in builder.info.splits.items()}


def _builder(folder: pathlib.Path) -> tfds.core.DatasetBuilder:
    if not (folder / "dataset_info.json").exists():
        raise FileNotFoundError(
            f"no finished set of shards in {folder}; run the job that writes it"
        )
    return tfds.builder_from_directory(str(folder))


def check(source: Source, info: SetInfo) -> None:
    """Refuses a set whose ids mean something else.

    Raises:
      ValueError: If vocabulary or tokenizers differ, naming which.
    """
    for name in ("vocab", "text_tokenizer", "image_tokenizer"):
        ours, theirs = getattr(info, name), getattr(source.info, name)
        if ours != theirs:
            raise ValueError(
                f"{source.folder} was made with another {name} ({theirs}) than this"
                f" run's ({ours}); write the shards again or use their tokenizers"
            )


def _file_template(folder: pathlib.Path, split: str) -> tfds.core.ShardedFileTemplate:
    return tfds.core.ShardedFileTemplate(
        data_dir=folder,
        template=_TEMPLATE,
        dataset_name=folder.name,
        split=split,
        filetype_suffix="array_record",
    )


def _shard_path(folder: pathlib.Path, split: str, index: int) -> pathlib.Path:
    return pathlib.Path(
        _file_template(folder, split).sharded_filepath(
            shard_index=index, num_shards=None
        )
    )
