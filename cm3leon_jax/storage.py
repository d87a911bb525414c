"""Arrays and small records, on a disk or in a bucket: atomic writes, digests, journals.

A file under its final name is whole: it is written beside it, flushed to the disk and
renamed. In a bucket (`gs://`) nothing can be renamed, and nothing need be: an object
comes whole or not at all. Arrays are safetensors; records are JSON. Nothing is
unpickled, ever.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

if TYPE_CHECKING:
    import tensorstore

Path = str | os.PathLike[str]
_BUCKET = "gs://"
_READ_BYTES = 1 << 20
_JOURNAL_SECONDS = 10.0  # between two writes of an object that grows


def is_in_bucket(path: Path) -> bool:
    """Whether a path is an address of Google Storage."""
    return os.fspath(path).startswith(_BUCKET)


def place(path: Path) -> epath.Path:
    """Returns an absolute path, on a disk or in a bucket.

    Raises:
      ValueError: If it is in a bucket and the package for that is not installed.
    """
    if not is_in_bucket(path):
        return epath.Path(path).absolute()
    if importlib.util.find_spec("gcsfs") is None:
        raise ValueError(
            f"{path} needs the package gcsfs; install cm3leon-jax[gcs], or mount the"
            " bucket and give the folder where it is"
        )
    import fsspec.config  # before the first use, which keeps what it finds here

    # Other hosts, and TensorStore in this one, write what a list from before lacks.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    return epath.Path(path)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """Gives a file to write that takes its name when it is whole; makes the folder.

    What an exception leaves half written is deleted.
    """
    if is_in_bucket(path):
        with io.BytesIO() as file:
            yield file
            _upload(path, file.getvalue())
        return
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp's 0600 would hide the file from other users
        os.replace(name, path)
    finally:
        with contextlib.suppress(FileNotFoundError):  # it was renamed
            os.unlink(name)


def objects(folder: Path) -> tensorstore.KvStore:
    """Returns the objects below an address of a bucket, which can be compared and set.

    TensorStore's own client: a write is one request, which may ask for the generation
    that it replaces.
    """
    import tensorstore

    return tensorstore.KvStore.open(f"{os.fspath(folder).rstrip('/')}/").result()


def _upload(path: Path, data: bytes) -> None:
    where = place(path)
    try:
        objects(where.parent).write(where.name, data).result()
    except (ValueError, RuntimeError) as error:
        raise OSError(f"{path} could not be written: {error}") from error


def copy(source: Path, target: Path) -> None:
    """Copies the files below a folder, to a disk or into a bucket."""
    for path in sorted(pathlib.Path(source).rglob("*")):
        if path.is_file():
            there = place(target) / path.relative_to(source).as_posix()
            write_bytes(there, path.read_bytes())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file so that its name never shows half of it; makes the folder."""
    with writing(path) as file:
        file.write(data)


def write_json(path: Path, record: Any) -> None:
    """Writes a JSON file atomically, indented, keys in their order."""
    text = json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_bytes(path, text.encode())


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
      FileNotFoundError: If there is none.
      ValueError: If it is not JSON, with the file's name.
    """
    text = place(path).read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not JSON: {error}; delete or restore it"
        ) from error


def digest_bytes(data: bytes) -> str:
    """SHA-256 of bytes, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal, read in pieces."""
    digest = hashlib.sha256()
    with place(path).open("rb") as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def save_arrays(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes named arrays as one safetensors file, atomically.

    Args:
      path: The file.
      arrays: Names to arrays of any shape and dtype that safetensors knows.
      metadata: Strings kept in the file's header.
    """
    data = safetensors.numpy.save(
        {name: np.asarray(array, order="C") for name, array in arrays.items()},
        dict(metadata or {}),
    )
    write_bytes(path, data)


def load_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads what `save_arrays` wrote.

    Returns:
      The arrays by name, and the header's strings.

    Raises:
      FileNotFoundError: If there is none.
      ValueError: If the file is damaged, or an array holds a value that is not finite.
    """
    if not place(path).exists():
        raise FileNotFoundError(f"no weights at {path}; run the job that writes them")
    try:
        with (
            _on_disk(path) as local,
            safetensors.safe_open(local, framework="numpy") as file,
        ):
            metadata = file.metadata() or {}
            names = file.keys()
            arrays = {name: file.get_tensor(name) for name in names}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file: {error}") from error
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(
                f"{path}: array {name!r} holds values that are not finite; take an"
                " earlier checkpoint"
            )
    return arrays, metadata


@contextlib.contextmanager
def _on_disk(path: Path) -> Iterator[Path]:
    """Gives the file itself, or for as long as it is entered a copy of an object."""
    if not is_in_bucket(path):
        yield path
        return
    with tempfile.NamedTemporaryFile() as copied, place(path).open("rb") as file:
        shutil.copyfileobj(file, copied, _READ_BYTES)
        copied.flush()
        yield copied.name


class Journal:
    """Lines that are added to a file, on a disk or in a bucket; of the only writer.

    On a disk a line is written when it is added. An object can only be written whole,
    and once a second at most: it is, some seconds after the last time, and at `flush`.
    """

    def __init__(self, path: Path):
        """Reads nothing yet; the file is made by the first line."""
        self._path = place(path)
        self._is_object = is_in_bucket(path)
        self._lines: list[str] | None = None  # of an object, once it was read
        self._num_written = 0  # of them
        self._since = 0.0  # seconds, when they were

    def append(self, line: str) -> None:
        """Adds a line, given without its end."""
        if not self._is_object:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
            return
        if self._lines is None:
            self._lines = self._read()
            self._num_written = len(self._lines)
        self._lines.append(f"{line}\n")
        if time.monotonic() > self._since + _JOURNAL_SECONDS:
            self.flush()

    def keep(self, is_kept: Callable[[str], bool]) -> None:
        """Takes out the lines that are not to be kept, all at once."""
        lines = self._read() if self._lines is None else self._lines
        kept = [line for line in lines if is_kept(line)]
        if len(kept) < len(lines):
            self._write(kept)

    def flush(self) -> None:
        """Returns when all lines are where others see them."""
        if self._lines is not None and self._num_written < len(self._lines):
            self._write(self._lines)

    def _read(self) -> list[str]:
        try:
            return self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        except FileNotFoundError:
            return []

    def _write(self, lines: list[str]) -> None:
        write_bytes(self._path, "".join(lines).encode())
        if self._is_object:
            self._lines, self._num_written = lines, len(lines)
            self._since = time.monotonic()
