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
import secrets
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np
import safetensors
import safetensors.numpy

Path = str | os.PathLike[str]
_READ_BYTES = 1 << 20
_LEASE_SECONDS = 60.0  # that a lock of another host holds without being renewed
_RENEW_SECONDS = 15.0
_SETTLE_SECONDS = 0.1
_LOST_EXIT_CODE = 4  # as of what cannot be written, see `cm3leon_jax.main`


@contextlib.contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """Gives a file to write that takes its name when it is whole; makes the folder.

    What an exception leaves half written is deleted.
    """
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

    Whether a holder of this host lives is asked of the system. One of another host lives
    if it renewed its lock within the last minute (by clocks that agree to some seconds);
    the first writer of a new machine goes on a minute after the old one was taken away.
    A holder that finds its lock taken over, since it was suspended for longer than that,
    ends at once: there are never two writers.

    Raises:
      ValueError: If another process of this host holds it and lives.
      BlockingIOError: If a process of another host does; it may be gone in a minute.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "writer.lock"
    me = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "nonce": secrets.token_hex(),
    }
    while not _claim(path, me):
        _take_over(path, me)
    ended = threading.Event()
    thread = threading.Thread(
        target=_renew, args=(path, me, ended), name="lock", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if _holder(path).get("nonce") == me["nonce"]:
            path.unlink(missing_ok=True)


def _claim(path: pathlib.Path, me: dict[str, Any]) -> bool:
    """Makes the lock, if there is none and nobody else makes it meanwhile."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w") as file:
        json.dump(me | {"renewed": time.time()}, file)
    # Who found the same dead lock may have removed this one, and where creating is not
    # exclusive (buckets that are mounted) another may have written over it.
    time.sleep(_SETTLE_SECONDS)
    return _holder(path).get("nonce") == me["nonce"]


def _renew(path: pathlib.Path, me: dict[str, Any], ended: threading.Event) -> None:
    """Says every few seconds that the holder lives."""
    while not ended.wait(_RENEW_SECONDS):
        if _holder(path).get("nonce", me["nonce"]) != me["nonce"]:
            message = f"another process took over {path}; this one ends at once"
            print(f"error: {message}", file=sys.stderr, flush=True)
            os._exit(_LOST_EXIT_CODE)  # anything more would be a second writer's
        try:
            write_json(path, me | {"renewed": time.time()})
        except OSError as error:  # it counts as dead when this goes on
            print(f"{path} is not renewed: {error}", file=sys.stderr, flush=True)


def _take_over(path: pathlib.Path, me: dict[str, Any]) -> None:
    """Removes the lock of a dead process; raises if its holder lives."""
    try:
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return
    holder = _holder(path)
    if not holder and age < _SETTLE_SECONDS:
        time.sleep(_SETTLE_SECONDS)  # it is being filled, or its writer died over it
        return
    where = f"process {holder.get('pid')} on {holder.get('host')}"
    if holder.get("host", me["host"]) != me["host"]:
        silent = time.time() - holder.get("renewed", 0.0)
        if silent < _LEASE_SECONDS:
            raise BlockingIOError(
                f"{path.parent} is being written by {where}, which said so"
                f" {silent:.0f} s ago; stop it, or start again when it has been silent"
                f" for {_LEASE_SECONDS:.0f} s"
            )
    elif _lives(holder.get("pid")):
        raise ValueError(
            f"{path.parent} is being written by {where}; stop it, or delete {path} if"
            " it is gone"
        )
    path.unlink(missing_ok=True)


def _holder(path: pathlib.Path) -> dict[str, Any]:
    """What a lock says; nothing if there is none, or it is not filled yet."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


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
