"""Files of weights as PyTorch's users keep them: safetensors, in one or in shards; .pt.

A pickle (`.pt`, `.pth`, `.ckpt`, `.bin`) is read through PyTorch's `weights_only`
unpickler alone, which knows tensors and plain containers: a file that names anything
else is refused before it is read, and nothing in it is executed.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import zipfile
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import safetensors

from cm3leon_jax import storage

Path = str | os.PathLike[str]

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
PICKLES = (".pt", ".pth", ".ckpt", ".bin")
# Where training programs put the weights; the averaged ones before the others.
_INSIDE = ("params_ema", "ema", "state_dict", "model", "params")


@dataclasses.dataclass(frozen=True)
class Weights:
    """The tensors of a checkpoint, by name.

    Attributes:
      source: what was given: a file or a folder.
      files: which safetensors file holds a tensor.
      tensors: those of a pickle, which is read as a whole.
    """

    source: pathlib.Path
    files: Mapping[str, pathlib.Path]
    tensors: Mapping[str, np.ndarray]

    @property
    def names(self) -> set[str]:
        """The names of all tensors."""
        return {*self.files, *self.tensors}

    def read(self, names: Collection[str]) -> dict[str, np.ndarray]:
        """Returns some of the tensors in float32.

        Raises:
          ValueError: if one holds a value that is not finite, or a file is damaged.
        """
        found = {name: self.tensors[name] for name in names if name in self.tensors}
        for path in sorted({self.files[name] for name in names if name in self.files}):
            with _opened(path) as file:
                for name in names:
                    if self.files.get(name) == path:
                        found[name] = file.get_tensor(name)
        for name, array in found.items():
            found[name] = array.astype(np.float32)
            if not np.isfinite(found[name]).all():
                raise ValueError(
                    f"{self.source}: {name!r} holds values that are not finite; take"
                    " an earlier checkpoint"
                )
        return found


def open_weights(source: Path) -> Weights:
    """Finds the weights of a checkpoint; of safetensors only the headers are read.

    Args:
      source: a safetensors file, a pickle, or a folder with `model.safetensors`, with
        its shards and their index, or with one such file alone.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if a file is damaged, or a pickle holds more than tensors.
    """
    source = pathlib.Path(source)
    if source.is_dir():
        return _folder(source)
    if not source.is_file():
        raise FileNotFoundError(f"no weights at {source}")
    if source.suffix in PICKLES:
        return Weights(source, {}, _unpickled(source))
    return Weights(source, dict.fromkeys(_header(source), source), {})


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
    storage.save_arrays(folder / WEIGHTS, arrays, {"format": "pt"})
    storage.write_json(folder / CONFIG, config)


def _folder(folder: pathlib.Path) -> Weights:
    if (folder / INDEX).is_file():
        record = storage.read_json(folder / INDEX)
        places = record.get("weight_map") if isinstance(record, dict) else None
        if not isinstance(places, dict):
            raise ValueError(f"{folder / INDEX} has no weight_map; restore it")
        for name, file in places.items():
            if not isinstance(file, str) or pathlib.Path(file).name != file:
                raise ValueError(f"{folder / INDEX}: {name!r} lies in {file!r}")
        files = {name: folder / file for name, file in places.items()}
        for path in sorted(set(files.values())):
            missing = {name for name in files if files[name] == path} - _header(path)
            if missing:
                raise ValueError(f"{path} lacks {min(missing)!r}, which {INDEX} names")
        return Weights(folder, files, {})
    if (folder / WEIGHTS).is_file():
        return Weights(
            folder, dict.fromkeys(_header(folder / WEIGHTS), folder / WEIGHTS), {}
        )
    found = sorted(
        path
        for path in folder.glob("*")
        if path.suffix in (".safetensors", *PICKLES) and path.is_file()
    )
    if len(found) != 1:
        names = [path.name for path in found]
        raise FileNotFoundError(
            f"{folder} has no {WEIGHTS}, and {names or 'no other file of weights'};"
            " name the file"
        )
    return dataclasses.replace(open_weights(found[0]), source=folder)


def _opened(path: pathlib.Path):
    try:
        return safetensors.safe_open(path, framework="numpy")
    except FileNotFoundError:
        raise FileNotFoundError(f"no weights at {path}") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no whole safetensors file: {error}") from error


def _header(path: pathlib.Path) -> set[str]:
    with _opened(path) as file:
        return set(file.keys())


def _unpickled(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads a pickle of tensors without executing anything in it."""
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"{path} is a PyTorch file; install the extra `torch` to read it, or save"
            " it as safetensors"
        ) from error
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
