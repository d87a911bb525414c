"""Arrays of a checkpoint where they lie: one layer of one at a time, in little memory.

Orbax gives arrays whole. Who converts a model wants one layer after the other and holds
less than all of them, so TensorStore, in whose format Orbax writes, is asked for boxes:

    array [layers 32, D 4096, F 16384]     chunks [1, 4096, 2048], see `unit`
    read(name, 5)                          8 chunks of 32 MiB, not 256

All arrays are gone through once when a step is opened, a box at a time, and compared
with their digests.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore
from etils import epath

from cm3leon_jax import storage
from cm3leon_jax.train import checkpoint, digests, unit

_BOX_BYTES = 8 << 20  # of what is verified at a time, but one chunk at least
# Chunks that are read, or decoded, at a time; more take more memory.
_LIMITS = {"file_io_concurrency": {"limit": 4}, "data_copy_concurrency": {"limit": 4}}


class Stored:
    """Verified arrays of one step, by names without the prefix.

    Attributes:
      specs: name -> shape and dtype.
      digest: of the step's manifest, in which that of every array stands.
    """

    def __init__(self, path: epath.Path, manifest: Mapping[str, Any], prefix: str = ""):
        """Finds and verifies the arrays of a step.

        Args:
          path: the step's folder.
          manifest: of the step.
          prefix: only arrays whose names begin so; the others are not read.

        Raises:
          DamagedError: if an array cannot be read or differs from its digest.
          ValueError: if one holds a value that is not finite.
        """
        names = [name for name in manifest["arrays"] if name.startswith(prefix)]
        entries = {
            name.removeprefix(prefix): manifest["arrays"][name] for name in names
        }
        self._path = path
        self.digest = unit.digest_json(manifest)
        self.specs = {
            name: jax.ShapeDtypeStruct(tuple(entry["shape"]), jnp.dtype(entry["dtype"]))
            for name, entry in entries.items()
        }
        problem, not_finite = "", []
        try:
            self._arrays = {name: _open(path, prefix + name) for name in entries}
            for name, entry in entries.items():
                problem = problem or self._difference(name, entry, not_finite)
        except unit.FAULTS as error:
            problem = f"{path}: arrays cannot be read ({error})"
        unit.raise_together(problem)
        if not_finite:
            raise ValueError(
                f"{path}: {not_finite[0]!r} holds weights that are not finite; take an"
                " earlier checkpoint"
            )

    def read(self, name: str, row: int | None = None) -> np.ndarray:
        """Returns an array, or one entry of its first dimension.

        Raises:
          DamagedError: if it cannot be read any more.
        """
        at = () if row is None else (row,)
        try:
            return self._arrays[name][at].read().result()
        except unit.FAULTS as error:
            raise unit.DamagedError(
                f"{self._path}: array {name!r} cannot be read ({error})"
            ) from error

    def _difference(
        self, name: str, entry: Mapping[str, Any], not_finite: list[str]
    ) -> str:
        """What is wrong with an array, "" if nothing; notes values that are not finite."""
        array, spec = self._arrays[name], self.specs[name]
        if (array.shape, array.dtype.numpy_dtype) != (spec.shape, spec.dtype):
            return f"{self._path}: array {name!r} is {array.dtype} {array.shape}"

        def checked() -> Iterator[tuple[np.ndarray, tuple[int, ...]]]:
            for box, start in _boxes(array):
                if not np.isfinite(box).all() and name not in not_finite:
                    not_finite.append(name)
                yield box, start

        digest, expected = digests.of_boxes(checked(), spec.shape), entry.get("digest")
        if expected is None:  # format 1
            digest, expected = unit.sha(array.read().result()), entry["sha256"]
        same = digest == expected
        return "" if same else f"{self._path}: array {name!r} differs from its digest"


def open_newest(folder: str, prefix: str = "") -> checkpoint.Checkpoint:
    """Returns a run's newest checkpoint that verifies, its state a `Stored`.

    Raises:
      FileNotFoundError: if there is no checkpoint.
      DamagedError: if every step is damaged.
      ValueError: if an array holds a value that is not finite.
    """
    take = lambda path, manifest: Stored(path, manifest, prefix)
    return checkpoint.newest(folder, take)


def _open(path: epath.Path, name: str) -> tensorstore.TensorStore:
    base = f"{path / unit.STATE}/"
    place = base if storage.is_in_bucket(base) else {"driver": "file", "path": base}
    where = {"driver": "ocdbt", "base": place, "path": f"{name}/"}
    spec = {"driver": "zarr3", "kvstore": where, "context": _LIMITS}
    return tensorstore.open(spec, open=True, read=True).result()


def _boxes(
    array: tensorstore.TensorStore,
) -> Iterator[tuple[np.ndarray, tuple[int, ...]]]:
    """Yields an array in boxes of whole chunks, each with where it begins."""
    chunk = array.chunk_layout.read_chunk.shape or array.shape
    chunk = tuple(number or 1 for number in chunk)
    size = _box_shape(array.shape, chunk, array.dtype.numpy_dtype)
    ends = list(zip(array.shape, size, strict=True))
    for start in itertools.product(*(range(0, end, step) for end, step in ends)):
        at = tuple(
            slice(first, min(first + step, end))
            for first, (end, step) in zip(start, ends, strict=True)
        )
        yield array[at].read().result(), start


def _box_shape(
    shape: tuple[int, ...], chunk: tuple[int, ...], dtype: np.dtype
) -> list[int]:
    """A multiple of a chunk, larger along the last dimensions first.

    shape [6, 4, 8], chunk [1, 2, 8], room for 40 elements    [1, 4, 8]
    """
    box = list(chunk)
    for axis in reversed(range(len(box))):
        room = max(1, _BOX_BYTES // (math.prod(box) * dtype.itemsize))
        box[axis] = min(shape[axis], chunk[axis] * room)
    return box
