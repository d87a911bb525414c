"""What the file of a shard was when it was written: another one in its place is noticed.

The mark of a shard, and from there the set's `metadata.json`, say of every file

    size     its bytes, whole blocks     compared whenever a set is opened
    first    digest of its first record  compared when the shard is first read
    sha256   of all of it                compared by `verify`

A run on a pod opens thousands of shards on every host, so that what it compares by itself
is a look at each file and one small read of those that it uses; a shard that was copied
over another differs in both but by design. `verify` reads everything once, before chips
are spent (the job `inspect`).
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import Any

from tqdm import tqdm

from cm3leon_jax import storage

_LOOKS = 32  # files looked at together: each waits for a distant disk
_READS = 8  # files read together
_FIRST_DIGITS = 16  # of the first record's digest: tells shards apart
_MAX_NAMED = 8  # files in one message


@dataclasses.dataclass(frozen=True)
class Identity:
    """What tells a shard's file from any other.

    Attributes:
      size: Bytes of the file.
      sha256: Of the file, hexadecimal, as `sha256sum` prints it.
      first: Beginning of the SHA-256 of its first record; empty if it has none.
    """

    size: int
    sha256: str
    first: str


@dataclasses.dataclass(frozen=True)
class Written:
    """A shard as `shards.write_shard` left it; kept in its mark.

    Attributes:
      records: How many.
      bytes: Of the records, as TFDS counts them.
      identity: Of the file.
    """

    records: int
    bytes: int
    identity: Identity

    def to_json(self) -> dict[str, Any]:
        """JSON values; `from_json` reads them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, mark: Mapping[str, Any]) -> Written:
        """Reads what `to_json` wrote, among other fields.

        Raises:
          ValueError: If it is the mark of a program that wrote no digests.
        """
        if "identity" not in mark:
            raise ValueError(
                "a finished shard of this job has no digest: an older version wrote it;"
                " delete `progress` in the job's folder and run the same line again"
            )
        return cls(mark["records"], mark["bytes"], Identity(**mark["identity"]))


@dataclasses.dataclass(frozen=True)
class ShardFile:
    """A shard of a finished set.

    Attributes:
      path: Its file.
      records: How many the set's description says it has.
      identity: Of the file; None in sets of format 1, which have no digests.
    """

    path: str
    records: int
    identity: Identity | None


def of(path: pathlib.Path, first_record: bytes | None) -> Identity:
    """The identity of a file that was just written; reads it, from the system's memory.

    Args:
      path: The file.
      first_record: Its first record, None if it has none.
    """
    first = "" if first_record is None else digest_record(first_record)
    return Identity(path.stat().st_size, storage.digest_file(path), first)


def digest_record(data: bytes) -> str:
    """What `Identity.first` is of a record's bytes."""
    return storage.digest_bytes(data)[:_FIRST_DIGITS]


def to_columns(identities: Sequence[Identity]) -> dict[str, list[Any]]:
    """The identities of a split's shards as a set's metadata keeps them."""
    names = [field.name for field in dataclasses.fields(Identity)]
    return {name: [getattr(one, name) for one in identities] for name in names}


def from_columns(columns: Mapping[str, Sequence[Any]]) -> list[Identity]:
    """Reads what `to_columns` made.

    Raises:
      TypeError or ValueError: If columns are missing or of different lengths.
    """
    rows = zip(*columns.values(), strict=True)
    return [Identity(**dict(zip(columns, row, strict=True))) for row in rows]


def digest(files: Sequence[ShardFile]) -> str:
    """One digest of the content of all files; empty if one has none."""
    known = [file.identity.sha256 for file in files if file.identity]
    if len(known) < len(files):
        return ""
    return storage.digest_bytes("\n".join(known).encode())


def sizes(paths: Sequence[str | pathlib.Path]) -> list[int]:
    """Bytes of files, many looked at together.

    Raises:
      FileNotFoundError: If one is missing, with its name.
    """

    def size(path: str | pathlib.Path) -> int:
        """Of one file; runs in the threads."""
        try:
            return os.stat(path).st_size
        except FileNotFoundError:
            raise FileNotFoundError(
                f"shard {path} is missing; write the set again"
            ) from None

    with futures.ThreadPoolExecutor(_LOOKS) as pool:
        return list(pool.map(size, paths))


def is_of(file: ShardFile, reader: Any) -> bool:
    """Whether an open shard has the records that were written, by number and the first.

    A first record that cannot be read says nothing: it is damaged, not another.

    Args:
      file: As described.
      reader: Of ArrayRecord, with `num_records` and `read`.
    """
    if reader.num_records() != file.records:
        return False
    if file.identity is None or not file.records:
        return True
    try:
        (first,) = reader.read([0])
    except (RuntimeError, ValueError, OSError, IndexError):
        return True
    return digest_record(first) == file.identity.first


def refusal(file: ShardFile) -> str:
    """Says that a file is not the shard it should be, with both digests; reads it."""
    there = f"{os.path.getsize(file.path)} bytes, SHA-256 {_short(_digest(file))}"
    was = f"{file.records} records"
    if file.identity:
        was += f", {file.identity.size} bytes, SHA-256 {_short(file.identity.sha256)}"
    return (
        f"{file.path} is not the shard that was written there: it has {there}; the set's"
        f" metadata says {was}; copy the right file there, or write the set again"
    )


def verify(files: Sequence[ShardFile], name: str) -> int:
    """Reads files whole and compares their digests.

    Args:
      files: Those without an identity are passed over.
      name: Of what they are part of, for the progress.

    Returns:
      Bytes that were compared.

    Raises:
      FileNotFoundError: If one is missing.
      ValueError: If one is another file, naming it, both digests and the remedy.
    """
    known = [file for file in files if file.identity]
    if not known:
        return 0
    there = sizes([file.path for file in known])
    others = []
    with (
        futures.ThreadPoolExecutor(_READS) as pool,
        tqdm(total=sum(there), desc=f"verify {name}", unit="B", unit_scale=True) as bar,
    ):
        digests = pool.map(_digest, known)
        for file, size, found in zip(known, there, digests, strict=True):
            assert file.identity is not None
            if found != file.identity.sha256:
                others.append(file)
            bar.update(size)
    if others:
        said = "; ".join(refusal(file) for file in others[:_MAX_NAMED])
        more = len(others) - _MAX_NAMED
        raise ValueError(said + (f"; and {more} more" if more > 0 else ""))
    return sum(there)


def _digest(file: ShardFile) -> str:
    return storage.digest_file(file.path)


def _short(sha256: str) -> str:
    return f"{sha256[:12]}..."
