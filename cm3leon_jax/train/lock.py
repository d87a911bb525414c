"""One writer a folder: a lock that dead writers lose, on a disk or in a bucket.

    writer.lock   {"pid": ..., "host": ..., "nonce": ..., "renewed": seconds since 1970}

Whether a holder of this host lives is asked of the system. One of another host lives if
it renewed its lock within the last minute (by clocks that agree to some seconds); the
first writer of a new machine goes on a minute after the old one was taken away. A holder
that finds its lock taken over, since it was suspended for longer than that, ends at
once: there are never two writers.

On a disk a lock is a file that is made if there is none. In a bucket it is an object,
and all that is done to it names the generation that it replaces: of two that find the
same dead lock the store lets one take it, and a holder that was replaced cannot renew.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol

from etils import epath

from cm3leon_jax import storage

_NAME = "writer.lock"
_LEASE_SECONDS = 60.0  # that a lock of another host holds without being renewed
_RENEW_SECONDS = 15.0
_SETTLE_SECONDS = 0.1
_LOST_EXIT_CODE = 4  # as of what cannot be written, see `cm3leon_jax.main`
Holder = dict[str, Any]


@contextlib.contextmanager
def hold(folder: storage.Path) -> Iterator[None]:
    """Holds a folder for one writer; a dead writer's lock is taken over.

    Raises:
      ValueError: If another process of this host holds it and lives.
      BlockingIOError: If a process of another host does; it may be gone in a minute.
    """
    path = storage.place(folder) / _NAME
    mark = _Object(path) if storage.is_in_bucket(folder) else _File(path)
    me = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "nonce": secrets.token_hex(),
    }
    while not mark.claim(me):
        holder = mark.holder()
        if holder is not None:
            _refuse_living(path, holder)
            mark.remove()
    ended = threading.Event()
    thread = threading.Thread(
        target=_renew, args=(path, mark, me, ended), name="lock", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if (mark.holder() or {}).get("nonce") == me["nonce"]:
            mark.remove()


class _AbstractMark(Protocol):
    """Where a holder stands written."""

    def claim(self, me: Holder) -> bool:
        """Writes it, if there is none and nobody else writes one meanwhile."""
        ...

    def holder(self) -> Holder | None:
        """What it says; None if there is none, or it may be in the making."""
        ...

    def renew(self, me: Holder) -> bool:
        """Writes it anew; False if it is another's by now."""
        ...

    def remove(self) -> None:
        """Removes it, as `holder` found it."""
        ...


class _File:
    """A mark on a disk."""

    def __init__(self, path: epath.Path):
        self._path = path

    def claim(self, me: Holder) -> bool:
        """See `_AbstractMark`; looks again whether it is still this one's."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        with os.fdopen(handle, "w") as file:
            file.write(_text(me))
        # Who found the same dead lock may have removed this one, and where creating is
        # not exclusive (buckets that are mounted) another may have written over it.
        time.sleep(_SETTLE_SECONDS)
        return self._read().get("nonce") == me["nonce"]

    def holder(self) -> Holder | None:
        """See `_AbstractMark`."""
        try:
            age = time.time() - os.stat(self._path).st_mtime
        except FileNotFoundError:
            return None
        found = self._read()
        if not found and age < _SETTLE_SECONDS:
            time.sleep(
                _SETTLE_SECONDS
            )  # it is being filled, or its writer died over it
            return None
        return found

    def renew(self, me: Holder) -> bool:
        if self._read().get("nonce", me["nonce"]) != me["nonce"]:
            return False
        storage.write_bytes(self._path, _text(me).encode())
        return True

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)

    def _read(self) -> Holder:
        try:
            return _parsed(self._path.read_text())
        except FileNotFoundError:
            return {}


class _Object:
    """A mark in a bucket, of a generation that every request names."""

    def __init__(self, path: epath.Path):
        self._objects = storage.objects(path.parent)
        self._name = path.name
        self._generation = b""

    def claim(self, me: Holder) -> bool:
        return self.holder() is None and self._replace(me)

    def holder(self) -> Holder | None:
        found = self._objects.read(self._name).result()
        self._generation = found.stamp.generation  # also of one that is not there
        return None if found.state != "value" else _parsed(found.value.decode())

    def renew(self, me: Holder) -> bool:
        # A write whose answer was lost is repeated by the client and then refused.
        return self._replace(me) or (
            (self.holder() or {}).get("nonce") == me["nonce"] and self._replace(me)
        )

    def remove(self) -> None:
        self._write(None)

    def _replace(self, me: Holder) -> bool:
        return self._write(_text(me).encode())

    def _write(self, data: bytes | None) -> bool:
        """Writes or deletes it, if it is still of the generation that was read."""
        done = self._objects.write(self._name, data, if_equal=self._generation).result()
        if done.generation:  # nothing if it was of another
            self._generation = done.generation
        return bool(done.generation)


def _renew(
    path: epath.Path, mark: _AbstractMark, me: Holder, ended: threading.Event
) -> None:
    """Says every few seconds that the holder lives."""
    while not ended.wait(_RENEW_SECONDS):
        try:
            is_mine = mark.renew(me)
        except (OSError, ValueError, RuntimeError) as error:  # dead if this goes on
            print(f"{path} is not renewed: {error}", file=sys.stderr, flush=True)
            continue
        if not is_mine:
            message = f"another process took over {path}; this one ends at once"
            print(f"error: {message}", file=sys.stderr, flush=True)
            os._exit(_LOST_EXIT_CODE)  # anything more would be a second writer's


def _refuse_living(path: epath.Path, holder: Holder) -> None:
    """Raises if a lock's holder lives."""
    here = socket.gethostname()
    where = f"process {holder.get('pid')} on {holder.get('host')}"
    if holder.get("host", here) != here:
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


def _text(me: Holder) -> str:
    return json.dumps(me | {"renewed": time.time()})


def _parsed(text: str) -> Holder:
    try:
        return json.loads(text)
    except json.JSONDecodeError:  # not filled yet, or its writer died over it
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
