"""Where the bytes of a picture lie: a file, or a piece of a larger one.

A blob is a value: small, comparable, and read when it is needed. Nothing is ever
extracted or fetched.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import stat
from typing import Protocol

from cm3leon_jax.data.refusals import Reason, RefusedError


class AbstractBlob(Protocol):
    """Bytes that can be read, with a name for messages."""

    @property
    def name(self) -> str:
        """What a person would look for: a file, and the place in it."""
        ...

    def read(self, max_bytes: int) -> bytes:
        """Returns the bytes.

        Raises:
          RefusedError: If they are missing, more than `max_bytes`, or unreadable.
        """
        ...


@dataclasses.dataclass(frozen=True)
class File:
    """A file by itself."""

    path: pathlib.Path

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def read(self, max_bytes: int) -> bytes:
        """Reads the whole file; see `AbstractBlob`."""
        try:
            status = os.stat(self.path)
            if not stat.S_ISREG(status.st_mode):  # a pipe would never end
                raise RefusedError(Reason.NOT_A_FILE, f"{self.path} is no file")
            check_size(status.st_size, max_bytes)
            return self.path.read_bytes()
        except FileNotFoundError as error:
            raise RefusedError(Reason.MISSING, f"no file {self.path}") from error
        except (OSError, ValueError) as error:
            if isinstance(error, RefusedError):
                raise
            raise RefusedError(Reason.UNREADABLE, f"{self.path}: {error}") from error


@dataclasses.dataclass(frozen=True)
class Span:
    """A run of bytes of a file: a member of a tar.

    Attributes:
      path: The archive.
      member: The member's name, for messages alone.
      offset: Where it begins, in bytes.
      size: How many bytes it has.
    """

    path: pathlib.Path
    member: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        """Archive and member."""
        return f"{self.path}:{self.member}"

    def read(self, max_bytes: int) -> bytes:
        """Reads the member in place; see `AbstractBlob`."""
        check_size(self.size, max_bytes)
        try:
            with open(self.path, "rb", buffering=0) as file:
                data = os.pread(file.fileno(), self.size, self.offset)
        except OSError as error:
            raise RefusedError(Reason.UNREADABLE, f"{self.path}: {error}") from error
        if len(data) < self.size:
            raise RefusedError(Reason.UNREADABLE, f"{self.path} is cut short")
        return data


def check_size(size: int, max_bytes: int) -> None:
    """Refuses what is too large, before it is read.

    Raises:
      RefusedError: If there are more than `max_bytes` bytes.
    """
    if size > max_bytes:
        raise RefusedError(Reason.TOO_MANY_BYTES, f"{size} bytes, at most {max_bytes}")
