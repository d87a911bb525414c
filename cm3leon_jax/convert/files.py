"""Files of weights as PyTorch's users keep them: safetensors, in one or in shards; .pt.

Of safetensors each array is read by itself: a model of any size passes through a machine
of little memory. `folder` writes them in shards.

A pickle (`.pt`, `.pth`, `.ckpt`, `.bin`) is read through PyTorch's `weights_only`
unpickler alone, which knows tensors and plain containers: a file that names anything
else is refused before it is read, and nothing in it is executed.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import pathlib
import zipfile
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from cm3leon_jax import storage
from cm3leon_jax.convert import safetensors_file
from cm3leon_jax.convert.safetensors_file import Spec

Path = str | os.PathLike[str]

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
PICKLES = (".pt", ".pth", ".ckpt", ".bin")
# Where training programs put the weights; the averaged ones before the others.
_INSIDE = ("params_ema", "ema", "state_dict", "model", "params")


@dataclasses.dataclass(frozen=True)
class Weights:
    """The tensors of a checkpoint by name; of safetensors each is read when asked for.

    Attributes:
      source: What was given: a file or a folder.
      files: Which safetensors file holds a tensor.
      tensors: Those of a pickle, which is read as a whole.
    """

    source: pathlib.Path
    files: Mapping[str, safetensors_file.File]
    tensors: Mapping[str, np.ndarray]

    @property
    def names(self) -> set[str]:
        """The names of all tensors."""
        return {*self.files, *self.tensors}

    @property
    def specs(self) -> dict[str, Spec]:
        """Name to dtype and shape."""
        found = {name: file.places[name].spec for name, file in self.files.items()}
        return found | {
            name: Spec(x.dtype, x.shape) for name, x in self.tensors.items()
        }

    def tensor(self, name: str) -> np.ndarray:
        """Returns one tensor as it is.

        Raises:
          ValueError: If it holds a value that is not finite, or its file is damaged.
        """
        if name in self.tensors:
            array = self.tensors[name]
        else:
            array = self.files[name].read(name)
        check_finite(f"{self.source}: {name!r}", array)
        return array

    def read(self, names: Collection[str]) -> dict[str, np.ndarray]:
        """Returns some of the tensors in float32; see `tensor`."""
        known = self.names.intersection(names)
        return {name: self.tensor(name).astype(np.float32) for name in known}


def open_weights(source: Path) -> Weights:
    """Finds the weights of a checkpoint; of safetensors only the headers are read.

    Args:
      source: A safetensors file, a pickle, or a folder with `model.safetensors`, with
        its shards and their index, or with one such file alone.

    Raises:
      FileNotFoundError: If there is none, or a shard is missing.
      ValueError: If a file is damaged, the index is not that of the shards, or a pickle
        holds more than tensors.
    """
    source = pathlib.Path(source)
    if source.is_dir():
        return _folder(source)
    if not source.is_file():
        raise FileNotFoundError(f"no weights at {source}")
    if source.suffix in PICKLES:
        return Weights(source, {}, _unpickled(source))
    file = safetensors_file.File(source)
    return Weights(source, dict.fromkeys(file.places, file), {})


def read_config(source: Path) -> dict[str, Any]:
    """Returns the `config.json` beside the weights, empty if there is none."""
    source = pathlib.Path(source)
    path = (source if source.is_dir() else source.parent) / CONFIG
    record = storage.read_json(path) if path.is_file() else {}
    if not isinstance(record, dict):
        raise ValueError(f"{path} is no JSON object; restore it")
    return record


def write(folder: Path, arrays: Mapping[str, np.ndarray], config: Any) -> None:
    """Writes a folder that `from_pretrained` of transformers reads, config last."""
    folder = pathlib.Path(folder)
    specs = {name: Spec(x.dtype, x.shape) for name, x in arrays.items()}
    safetensors_file.write(folder / WEIGHTS, specs, arrays.items())
    storage.write_json(folder / CONFIG, config)


def check_finite(what: str, array: np.ndarray) -> None:
    """Refuses weights that are not finite (ValueError)."""
    if array.dtype.kind in "fV" and not np.isfinite(array).all():
        raise ValueError(
            f"{what} holds values that are not finite; take an earlier checkpoint"
        )


def _folder(folder: pathlib.Path) -> Weights:
    if (folder / INDEX).is_file():
        return _sharded(folder)
    if (folder / WEIGHTS).is_file():
        return dataclasses.replace(open_weights(folder / WEIGHTS), source=folder)
    found = sorted(
        path
        for path in folder.glob("*")
        if path.suffix in (".safetensors", *PICKLES) and path.is_file()
    )
    if len(found) != 1:
        names = [path.name for path in found]
        raise FileNotFoundError(
            f"{folder} has no {WEIGHTS}, no {INDEX}, and"
            f" {names or 'no other file of weights'}; name the file"
        )
    return dataclasses.replace(open_weights(found[0]), source=folder)


def _sharded(folder: pathlib.Path) -> Weights:
    index = storage.read_json(folder / INDEX)
    named = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(named, dict) or not all(
        isinstance(name, str) and pathlib.PurePath(name).name == name
        for name in named.values()
    ):
        raise ValueError(
            f"{folder / INDEX} has no weight_map to files beside it; restore it"
        )
    files = {
        name: safetensors_file.File(folder / name)
        for name in sorted(set(named.values()))
    }
    for name, where in named.items():
        if name not in files[where].places:
            raise ValueError(
                f"{folder / INDEX} says that {name!r} is in {where}, which does not"
                " hold it; index and shards must be of one export"
            )
    held = {name for file in files.values() for name in file.places}
    if held != set(named):
        raise ValueError(
            f"{folder / INDEX} leaves out {sorted(held - set(named))[:4]}; index and"
            " shards must be of one export"
        )
    return Weights(folder, {name: files[where] for name, where in named.items()}, {})


def pytorch(path: pathlib.Path) -> Any:
    """Imports PyTorch, which a file of its own is read with.

    Raises:
      ValueError: If it is not installed.
    """
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise ValueError(
            f"{path} is a PyTorch file; install the extra `torch` to read it, or save"
            " it as safetensors"
        ) from error


def _unpickled(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads a pickle of tensors without executing anything in it."""
    torch = pytorch(path)
    hint = "save its state_dict as safetensors on a machine that trusts the file"
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no file of torch.save (version 1.6 on); {hint}")
    try:
        more = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        if more:
            raise ValueError(
                f"{path} names {', '.join(sorted(more)[:3])}, which is more than"
                f" tensors, and is not read; {hint}"
            )
        record = torch.load(path, map_location="cpu", weights_only=True)
    except (
        RuntimeError,
        EOFError,
        torch.serialization.pickle.UnpicklingError,
    ) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read: {first[:160]}; {hint}") from error
    inside = _inside(record)
    if inside is None:
        raise ValueError(f"{path} holds no tensors by name; {hint}")
    return {
        name: tensor.detach().to(torch.float32).numpy()
        for name, tensor in inside.items()
        if isinstance(tensor, torch.Tensor)
    }


def _inside(record: Any) -> dict[str, Any] | None:
    """The tensors by name, however deep a training program put them."""
    while isinstance(record, dict):
        name = next((key for key in _INSIDE if isinstance(record.get(key), dict)), None)
        if name is None:
            return (
                record if any(hasattr(x, "detach") for x in record.values()) else None
            )
        record = record[name]
    return None
