"""One safetensors file, array by array: neither reading nor writing holds all of it.

    8 bytes             length of the header, little endian
    header              JSON: name -> {"dtype", "shape", "data_offsets": [start, end]},
                        "__metadata__" -> strings
    data                the arrays one after the other, little endian, without gaps

The whole header is checked before any array is read, so that a file that lies about its
content costs no more memory than it has bytes. Nothing is mapped into memory: what is
read can be counted.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from cm3leon_jax import storage

Path = str | os.PathLike[str]

MAX_HEADER_BYTES = 100_000_000  # the limit of the format's own library
DTYPES = {
    "F64": np.dtype("float64"),
    "F32": np.dtype("float32"),
    "F16": np.dtype("float16"),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype("int64"),
    "I32": np.dtype("int32"),
    "I16": np.dtype("int16"),
    "I8": np.dtype("int8"),
    "U8": np.dtype("uint8"),
    "BOOL": np.dtype("bool"),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LENGTH_BYTES = 8


class Spec(NamedTuple):
    """Dtype and shape of an array that is not read, or not made, yet."""

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize


class Place(NamedTuple):
    """Where an array lies in a file: its kind, and its first byte."""

    spec: Spec
    start: int


class File:
    """A file whose header was found right; arrays are read when asked for.

    Attributes:
      path: The file.
      places: Name to place, in the order of the file.
    """

    def __init__(self, path: Path):
        """Reads and checks the header.

        Raises:
          FileNotFoundError: If there is no file.
          ValueError: If the header is damaged, or does not describe the data.
        """
        self.path = pathlib.Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"no weights at {self.path}; restore the file")
        try:
            self.places = _read_header(self.path)
        except ValueError as error:
            raise ValueError(
                f"{self.path} is no whole safetensors file: {error}; restore it"
            ) from error

    def read(self, name: str, row: int | None = None) -> np.ndarray:
        """Returns an array, or one entry of its first dimension.

        Raises:
          ValueError: If the file has become shorter.
        """
        spec, start = self.places[name]
        shape = spec.shape
        if row is not None:
            shape = shape[1:]
            start += row * math.prod(shape) * spec.dtype.itemsize
        array = np.empty(shape, spec.dtype)
        with open(self.path, "rb") as file:
            file.seek(start)
            got = file.readinto(_bytes_of(array))
        if got != array.nbytes:
            raise ValueError(f"{self.path}: {name!r} is cut off; restore the file")
        return array


def write(
    path: Path,
    specs: Mapping[str, Spec],
    parts: Iterable[tuple[str, np.ndarray]],
) -> dict[str, str]:
    """Writes a file atomically, as its arrays are made.

    Args:
      path: The file.
      specs: What it will hold, in order.
      parts: The arrays by name in that order; an array may come in several parts, one
        after the other along its first dimension.

    Returns:
      SHA-256 of the bytes of each array, by name.

    Raises:
      ValueError: If the parts are not what the specs say.
    """
    path = pathlib.Path(path)
    for left in path.parent.glob(f".{path.name}.*"):
        left.unlink(missing_ok=True)  # of a conversion that was killed
    digests = {name: hashlib.sha256() for name in specs}
    missing = {name: spec.num_bytes for name, spec in specs.items()}
    waiting = list(specs)
    with storage.writing(path) as file:
        file.write(_header(specs))
        for name, array in parts:
            while waiting and waiting[0] != name and not missing[waiting[0]]:
                waiting.pop(0)
            if not waiting or waiting[0] != name:
                raise ValueError(f"{path}: {name!r} was not to be written here")
            if array.dtype != specs[name].dtype or array.nbytes > missing[name]:
                raise ValueError(f"{path}: {name!r} is not {specs[name]}")
            data = _bytes_of(np.ascontiguousarray(array))
            file.write(data)
            digests[name].update(data)
            missing[name] -= array.nbytes
        if any(missing.values()):
            short = [name for name, size in missing.items() if size]
            raise ValueError(f"{path}: {short[:4]} are not whole")
    return {name: digest.hexdigest() for name, digest in digests.items()}


def _header(specs: Mapping[str, Spec]) -> bytes:
    record: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers asks
    end = 0
    for name, spec in specs.items():
        start, end = end, end + spec.num_bytes
        record[name] = {
            "dtype": _NAMES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(record, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of eight
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _read_header(path: pathlib.Path) -> dict[str, Place]:
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        begin = _LENGTH_BYTES + length
        if size < _LENGTH_BYTES or begin > size or length > MAX_HEADER_BYTES:
            raise ValueError(f"its header claims {length} bytes, the file has {size}")
        record = json.loads(file.read(length), object_pairs_hook=_once)
    if not isinstance(record, dict):
        raise ValueError("its header is no object")
    record.pop("__metadata__", None)
    places = {name: _place(name, entry, begin) for name, entry in record.items()}
    _check_without_gaps(places, begin, size)
    return places


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, in which no name may stand twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("its header names something twice")
    return found


def _place(name: str, entry: Any, begin: int) -> Place:
    try:
        dtype, shape = DTYPES[entry["dtype"]], entry["shape"]
        start, end = entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name!r} is described as {entry!r}") from error
    whole = [*shape, start, end]
    if not all(isinstance(number, int) and number >= 0 for number in whole):
        raise ValueError(f"{name!r} is described as {entry!r}")
    spec = Spec(dtype, tuple(shape))
    if end - start != spec.num_bytes:
        raise ValueError(
            f"{name!r} of {spec.num_bytes} bytes ({entry['dtype']} {shape}) is said to"
            f" take {end - start}"
        )
    return Place(spec, begin + start)


def _check_without_gaps(places: Mapping[str, Place], begin: int, size: int) -> None:
    end, before = begin, "the header"
    for name, (spec, start) in sorted(places.items(), key=lambda x: (x[1][1], x[0])):
        if start != end:
            what = "overlaps" if start < end else "leaves a gap after"
            raise ValueError(f"{name!r} {what} {before!r}")
        end, before = start + spec.num_bytes, name
    if end != size:
        raise ValueError(f"its arrays end at byte {end}, the file has {size}")


def _bytes_of(array: np.ndarray) -> memoryview:
    """The bytes of a contiguous array, without a copy."""
    return array.reshape(-1).view(np.uint8).data
