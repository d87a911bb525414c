"""A folder of PyTorch weights as it is written: shards with an index, or one file.

    model.safetensors                      one file, or
    model-00001-of-00003.safetensors ...   shards, and
    model.safetensors.index.json           {"metadata": {"total_size": bytes},
                                            "weight_map": {name: file}}

Each array is made and written by itself. `files` reads such folders, and others.
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

Path = str | os.PathLike[str]


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
        return [Shard(files.WEIGHTS, groups[0])]
    stem, suffix = files.WEIGHTS.split(".")
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
            files.check_finite(name, array)
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
        (path / files.INDEX).unlink(missing_ok=True)
        return
    total = sum(spec.num_bytes for shard in shards for spec in shard.specs.values())
    named = {name: shard.name for shard in shards for name in shard.specs}
    (path / files.WEIGHTS).unlink(missing_ok=True)
    record = {"metadata": {"total_size": total}, "weight_map": named}
    storage.write_json(path / files.INDEX, record)
