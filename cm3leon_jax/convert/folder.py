"""A folder of PyTorch weights: safetensors in shards with an index, or one file.

    model.safetensors                      one file, or
    model-00001-of-00003.safetensors ...   shards, and
    model.safetensors.index.json           {"metadata": {"total_size": bytes},
                                            "weight_map": {name: file}}

Each array is read, and each is written, by itself: a model of any size passes through a
machine of little memory. Pickled weights are read whole, by `files`.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from cm3leon_jax import storage
from cm3leon_jax.convert import files, safetensors_file
from cm3leon_jax.convert.safetensors_file import Spec

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"

Path = str | os.PathLike[str]


class Folder:
    """The arrays of a folder by name; each is read when it is asked for.

    Attributes:
      path: The folder.
      specs: Name to dtype and shape.
    """

    def __init__(self, path: Path):
        """Reads and checks the headers.

        Raises:
          FileNotFoundError: If there are no weights, or a shard is missing.
          ValueError: If a file is damaged, or the index is not that of the shards.
        """
        self.path = pathlib.Path(path)
        self._files: dict[str, safetensors_file.File] = {}
        self._tensors: dict[str, np.ndarray] = {}
        if (self.path / INDEX).is_file():
            self._open_shards()
        elif (self.path / FILE).is_file():
            file = safetensors_file.File(self.path / FILE)
            self._files = dict.fromkeys(file.places, file)
        elif (self.path / PICKLED).is_file():
            weights = files.open_weights(self.path / PICKLED)
            self._tensors = weights.read(weights.names)
        else:
            raise FileNotFoundError(
                f"no weights in {self.path}; expected {FILE}, {INDEX} with its shards,"
                f" or {PICKLED}"
            )
        self.specs = {
            name: file.places[name].spec for name, file in self._files.items()
        } | {name: Spec(x.dtype, x.shape) for name, x in self._tensors.items()}

    def read(self, name: str) -> np.ndarray:
        """Returns one array.

        Raises:
          ValueError: If it holds a value that is not finite.
        """
        if name in self._tensors:
            array = self._tensors[name]
        else:
            array = self._files[name].read(name)
        check_finite(f"{self.path}: {name!r}", array)
        return array

    def _open_shards(self) -> None:
        index = storage.read_json(self.path / INDEX)
        named = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(named, dict) or not all(
            isinstance(name, str) and pathlib.PurePath(name).name == name
            for name in named.values()
        ):
            raise ValueError(
                f"{self.path / INDEX} has no weight_map to files beside it; restore it"
            )
        files = {
            name: safetensors_file.File(self.path / name)
            for name in sorted(set(named.values()))
        }
        for name, where in named.items():
            if name not in files[where].places:
                raise ValueError(
                    f"{self.path / INDEX} says that {name!r} is in {where}, which does"
                    " not hold it; index and shards must be of one export"
                )
            self._files[name] = files[where]
        held = {name for file in files.values() for name in file.places}
        if held != set(named):
            raise ValueError(
                f"{self.path / INDEX} leaves out {sorted(held - set(named))[:4]}; index"
                " and shards must be of one export"
            )


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file that is to be written, and what it will hold, in order."""

    name: str
    specs: Mapping[str, Spec]


def plan_shards(specs: Mapping[str, Spec], shard_bytes: int) -> list[Shard]:
    """Cuts arrays into files of at most `shard_bytes`, none cut, in their order.

    One file has no number and needs no index.

    Raises:
      ValueError: If `shard_bytes` is not positive.
    """
    if shard_bytes < 1:
        raise ValueError(f"{shard_bytes=} must be positive")
    groups: list[dict[str, Spec]] = [{}]
    size = 0
    for name, spec in specs.items():
        if groups[-1] and size + spec.num_bytes > shard_bytes:
            groups.append({})
            size = 0
        groups[-1][name] = spec
        size += spec.num_bytes
    if len(groups) == 1:
        return [Shard(FILE, groups[0])]
    stem, suffix = FILE.split(".")
    return [
        Shard(f"{stem}-{number:05d}-of-{len(groups):05d}.{suffix}", group)
        for number, group in enumerate(groups, 1)
    ]


def write_shard(
    path: Path, shard: Shard, make: Callable[[str], np.ndarray]
) -> list[dict[str, Any]]:
    """Writes one shard, array by array.

    Args:
      path: The folder.
      shard: From `plan_shards`.
      make: From a name to its array, of the dtype and shape that the plan says.

    Returns:
      A line of the log for each array: name, file, dtype, shape, SHA-256.
    """

    def parts() -> Iterator[tuple[str, np.ndarray]]:
        for name in shard.specs:
            array = make(name)
            check_finite(name, array)
            yield name, array

    digests = safetensors_file.write(
        pathlib.Path(path) / shard.name, shard.specs, parts()
    )
    return [
        {
            "name": name,
            "file": shard.name,
            "dtype": str(spec.dtype),
            "shape": list(spec.shape),
            "sha256": digests[name],
        }
        for name, spec in shard.specs.items()
    ]


def write_index(path: Path, shards: list[Shard]) -> None:
    """Writes the index of several shards; a single file has none.

    An index or a single file of an earlier conversion is removed: readers take the first
    that they find.
    """
    path = pathlib.Path(path)
    if len(shards) == 1:
        (path / INDEX).unlink(missing_ok=True)
        return
    total = sum(spec.num_bytes for shard in shards for spec in shard.specs.values())
    named = {name: shard.name for shard in shards for name in shard.specs}
    (path / FILE).unlink(missing_ok=True)
    record = {"metadata": {"total_size": total}, "weight_map": named}
    storage.write_json(path / INDEX, record)


def check_finite(what: str, array: np.ndarray) -> None:
    """Refuses weights that are not finite (ValueError)."""
    if array.dtype.kind in "fV" and not np.isfinite(array).all():
        raise ValueError(
            f"{what} holds values that are not finite; take an earlier checkpoint"
        )
