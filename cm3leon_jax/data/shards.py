"""Tokenised documents on disk: a TFDS data set in ArrayRecord files, no TensorFlow.

A *set* is a folder that `tfds.builder_from_directory` reads, with one or more splits:

    pairs/dataset_info.json features.json metadata.json
    pairs/pairs-train.array_record-00000 ...-00001     one shard after the other

Each record is one document (fields: `Record`). Tokens are 16-bit ids of the joint
vocabulary, segments joined by `<break>`, without `</s>`. Ragged parts are flat arrays
with lengths beside them. `metadata.json` holds the format version, the vocabulary, the
digests of the tokenizers and embedder that made the tokens and vectors (reading with
others is refused, `check`), and of every shard what tells its file from any other
(`identity`).

A shard appears under its name when it is whole (`write_shard`); `finish` writes the
set's description. Damaged records, and shards whose file is not the one that was
written, are named, counted and left out (`reader`).
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import pathlib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds
from array_record.python import array_record_module
from etils import epath

from cm3leon_jax.data import identity
from cm3leon_jax.data import record as formats
from cm3leon_jax.data.identity import ShardFile, Written
from cm3leon_jax.data.reader import Reader
from cm3leon_jax.data.record import Record
from cm3leon_jax.vocab import Vocab

INFO_VERSION = 1  # of `SetInfo`, which checkpoints keep too
FORMAT_VERSION = 2  # of a set; 1 had no digests of its shards

_LOGGER = logging.getLogger(__name__)
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}"
# One record a group: random access reads and decompresses nothing but what is asked.
_WRITER_OPTIONS = "group_size:1"


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
        return {"format_version": INFO_VERSION, **fields}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> SetInfo:
        """Reads what `to_json` wrote.

        Raises:
          ValueError: If the version is another, or fields are missing or unknown.
        """
        fields = dict(fields)
        version = fields.pop("format_version", None)
        names = {field.name for field in dataclasses.fields(cls)}
        if version != INFO_VERSION or set(fields) != names:
            raise ValueError(
                f"shards of format {version} with fields {sorted(fields)}; this code"
                f" reads format {INFO_VERSION} with {sorted(names)}: write them again"
            )
        fields["vocab"] = Vocab.from_json(fields["vocab"])
        return cls(**fields)


def write_shard(
    folder: str | os.PathLike[str],
    split: str,
    index: int,
    records: Iterable[Record],
) -> Written:
    """Writes one shard of a set, atomically; an existing one is replaced.

    Args:
      folder: The set's folder; its name is the set's name.
      split: The split's name.
      index: The shard's place in the split, from 0.
      records: Its documents, in order. May be empty.

    Returns:
      What was written, for `finish`.
    """
    path = _shard_path(pathlib.Path(folder), split, index)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    writer = array_record_module.ArrayRecordWriter(str(partial), _WRITER_OPTIONS)
    first: bytes | None = None
    number = size = 0
    try:
        for record in records:
            data = formats.serialize(record)
            writer.write(data)
            first = data if first is None else first
            number, size = number + 1, size + len(data)
        writer.close()
        written = Written(number, size, identity.of(partial, first))
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return written


def finish(
    folder: str | os.PathLike[str],
    info: SetInfo,
    splits: Mapping[str, Sequence[Written]],
) -> None:
    """Writes a set's description, after all its shards.

    Args:
      folder: The set's folder.
      info: What made it.
      splits: For each split, what `write_shard` returned for shards 0, 1, ...

    Raises:
      FileNotFoundError: If a shard is gone.
      ValueError: If ids do not fit 16 bits, or a file is not the one that was written.
    """
    folder = pathlib.Path(folder)
    for split, shards in splits.items():
        _check_written(folder, split, shards)
    if info.vocab.size > 1 << 16:
        raise ValueError(
            f"{info.vocab.size} ids do not fit the 16 bits of a shard; shrink the"
            " text vocabulary or the control ids"
        )
    named = tfds.core.DatasetIdentity(
        name=folder.name,
        version=tfds.core.Version(f"{FORMAT_VERSION}.0.0"),
        data_dir=str(folder),
        module_name=__name__,
    )
    description = tfds.core.DatasetInfo(
        builder=named,
        description="Tokenised text and image documents of CM3Leon-JAX.",
        features=formats.features(),
        metadata=tfds.core.MetadataDict(
            info.to_json()
            | {
                "format_version": FORMAT_VERSION,
                "shards": {
                    split: identity.to_columns([one.identity for one in shards])
                    for split, shards in splits.items()
                },
            }
        ),
    )
    description.set_file_format("array_record")
    description.set_splits(
        tfds.core.SplitDict(
            [
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[one.records for one in shards],
                    num_bytes=sum(one.bytes for one in shards),
                    filename_template=_file_template(folder, split),
                )
                for split, shards in splits.items()
            ]
        )
    )
    description.write_to_directory(str(folder))


class Source:
    """Random access to one split of a set.

    Attributes:
      folder: The set's folder.
      split: The split.
      info: What made the set.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        split: str,
        info: SetInfo,
        files: Sequence[ShardFile],
    ):
        """Use `open`; as `Reader`, looks at every file."""
        self.folder = folder
        self.split = split
        self.info = info
        self._files = files
        self._reader = Reader(files)

    @property
    def name(self) -> str:
        """The set's name."""
        return self.folder.name

    @property
    def digest(self) -> str:
        """Of the content of all its shards; empty for a set of format 1."""
        return identity.digest(self._files)

    @property
    def num_damaged(self) -> int:
        """Records that were found damaged so far."""
        return self._reader.num_damaged

    def __len__(self) -> int:
        return len(self._reader)

    def records(self, indices: Sequence[int]) -> list[Record | None]:
        """Reads records by their place, None for damaged ones; as `Reader.records`."""
        return self._reader.records(indices)


def open(folder: str | os.PathLike[str], split: str) -> Source:
    """Opens one split of a set for reading.

    Raises:
      FileNotFoundError: If there is no finished set, or a shard is missing.
      ValueError: If it has no such split, or is of another format.
      reader.DamagedError: If too many files are not those that were written.
    """
    folder = pathlib.Path(folder)
    info, described = _described(folder)
    if split not in described:
        raise ValueError(f"{folder} has no split {split!r}; it has {sorted(described)}")
    return Source(folder, split, info, described[split])


def verify(folder: str | os.PathLike[str]) -> int:
    """Reads all shards of a set and compares their digests.

    Returns:
      Bytes that were compared; 0 for a set of format 1, which has no digests.

    Raises:
      FileNotFoundError: If there is no finished set, or a shard is missing.
      ValueError: If a file is not the one that was written.
    """
    folder = pathlib.Path(folder)
    _, described = _described(folder)
    files = [file for some in described.values() for file in some]
    return identity.verify(files, folder.name)


def splits(folder: str | os.PathLike[str]) -> dict[str, int]:
    """Returns the splits of a finished set and how many records each has.

    Raises:
      FileNotFoundError: If there is no finished set.
    """
    builder = _builder(pathlib.Path(folder))
    return {name: info.num_examples for name, info in builder.info.splits.items()}


def _described(folder: pathlib.Path) -> tuple[SetInfo, dict[str, list[ShardFile]]]:
    """What a set's description says of it, and of the files of every split."""
    builder = _builder(folder)
    fields = dict(builder.info.metadata or {})
    known = fields.pop("shards", {})
    version = fields.get("format_version")
    if version not in (1, FORMAT_VERSION):
        raise ValueError(
            f"{folder} is a set of format {version}, this code reads 1 and"
            f" {FORMAT_VERSION}: write it again, or read it by the code that wrote it"
        )
    if version == 1:
        _tell_of_format_1(folder)
    described = {}
    for split, info in builder.info.splits.items():
        lengths = info.shard_lengths
        identities: list[identity.Identity | None] = [None] * len(lengths)
        if version == FORMAT_VERSION:
            identities = [*identity.from_columns(known[split])]
        described[split] = [
            ShardFile(str(_shard_path(folder, split, index)), length, one)
            for index, (length, one) in enumerate(zip(lengths, identities, strict=True))
        ]
    return SetInfo.from_json({**fields, "format_version": INFO_VERSION}), described


@functools.lru_cache
def _tell_of_format_1(folder: pathlib.Path) -> None:
    """Says once what reading an older set leaves unnoticed."""
    _LOGGER.warning(
        "%s is of format 1, without digests of its shards: a shard that was exchanged is"
        " noticed by its number of records alone; write the set again to have them",
        folder,
    )


def _check_written(folder: pathlib.Path, split: str, shards: Sequence[Written]) -> None:
    """Refuses files that changed between a shard's mark and the set's description."""
    paths = [_shard_path(folder, split, index) for index in range(len(shards))]
    found = identity.sizes(paths)
    for path, size, one in zip(paths, found, shards, strict=True):
        if size != one.identity.size:
            file = ShardFile(str(path), one.records, one.identity)
            raise ValueError(
                f"{identity.refusal(file)}: delete its mark in the job's `progress` and"
                " run the same line again"
            )


def _builder(folder: pathlib.Path) -> tfds.core.DatasetBuilder:
    if str(folder).startswith("gs:"):
        raise ValueError(
            f"{folder} is in a bucket, shards are read from a folder; mount the bucket"
            " (docs/pod.md) and name the place where it is"
        )
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
        data_dir=epath.Path(folder),
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
