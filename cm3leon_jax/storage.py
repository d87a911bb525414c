"""Arrays and small records on disk: atomic writes, digests, a lock.

A file under its final name is whole: it is written beside it, flushed to the disk and
renamed. Arrays are safetensors; records are JSON. Nothing is unpickled, ever.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import socket
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

Path = str | os.PathLike[str]
_READ_BYTES = 1 << 20


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file so that its name never shows half of it; makes the folder."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp's 0600 would hide the file from other users
        os.replace(name, path)
    finally:
        with contextlib.suppress(FileNotFoundError):  # it was renamed
            os.unlink(name)


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
    text = pathlib.Path(path).read_text(encoding="utf-8")
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
    with open(path, "rb") as file:
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
    if not os.path.exists(path):
        raise FileNotFoundError(f"no weights at {path}; run the job that writes them")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
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
def lock(folder: Path) -> Iterator[None]:
    """Holds a folder for one writer; a dead writer's lock is taken over.

    Raises:
      ValueError: If another process that lives, or another host, holds it.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "writer.lock"
    record = {"pid": os.getpid(), "host": socket.gethostname()}
    while True:
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            break
        except FileExistsError:
            _take_over(path, record)
    with os.fdopen(handle, "w") as file:
        json.dump(record, file)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _take_over(path: pathlib.Path, me: dict[str, Any]) -> None:
    """Removes the lock of a dead process; raises if its holder lives."""
    try:
        holder = json.loads(path.read_text())
    except FileNotFoundError:
        return
    except json.JSONDecodeError:
        holder = {}  # its writer died between creating and filling it
    alive = holder.get("host", me["host"]) != me["host"] or _lives(holder.get("pid"))
    if alive:
        raise ValueError(
            f"{path.parent} is being written by process {holder.get('pid')} on"
            f" {holder.get('host')}; stop it, or delete {path} if it is gone"
        )
    path.unlink(missing_ok=True)


def _lives(pid: int | None) -> bool:
    if pid is None or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
