"""Pictures to codes and back: a trained VQGAN as a tokenizer.

A tokenizer is a folder (the job's `export/`):

    config.json           {"format": 1, "kind": "vqgan", "model": {VqganConfig}}
    weights.safetensors   the arrays by path, "encoder.conv_in.kernel"; layout HWIO

Letters: N pictures, Y and X pixel rows and columns, P codes a picture.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx

from cm3leon_jax import sharding, storage
from cm3leon_jax.models import vqgan

EXPORT = "export"  # folder within the job's
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "weights.safetensors"
_FORMAT = 1
_KIND = "vqgan"

Path = str | os.PathLike[str]


class ImageTokenizer:
    """Encodes and decodes pictures, a fixed number at a time.

    Every call pads its pictures to whole batches of `batch_size`: one compiled
    program serves any number of pictures, and a picture's codes do not depend on
    how many come with it.
    """

    def __init__(
        self,
        model: vqgan.Vqgan,
        *,
        digest: str = "",
        batch_size: int = 64,
        rows: sharding.LocalRows | None = None,
    ):
        """Compiles nothing yet.

        Args:
          model: the network.
          digest: of the weights, hexadecimal; goes into what is made with them.
          batch_size: pictures at a time, on each device.
          rows: the devices that pictures are spread over; None for the first alone.
        """
        self._config = model.config
        self._graph, self._weights = nnx.split(model)
        self._rows = rows
        if rows is not None:
            self._weights = rows.put_weights(self._weights)
        self.digest = digest
        self.batch_size = batch_size
        self._encode = jax.jit(self._encode_batch)
        self._decode = jax.jit(self._decode_batch)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        batch_size: int = 64,
        rows: sharding.LocalRows | None = None,
    ) -> "ImageTokenizer":
        """Reads a tokenizer's folder, or its job's; see `load_model` for refusals."""
        model = load_model(folder)
        digest = storage.digest_file(root(folder) / WEIGHTS_FILE)
        return cls(model, digest=digest, batch_size=batch_size, rows=rows)

    @property
    def codebook_size(self) -> int:
        """Number of different codes."""
        return self._config.codebook_size

    @property
    def codes_per_image(self) -> int:
        """Codes of one picture, P."""
        return self._config.codes_per_image

    @property
    def image_size(self) -> int:
        """Pixels a side."""
        return self._config.image_size

    def encode(self, pictures_NYXC: np.ndarray) -> np.ndarray:
        """Returns codes, row by row of the grid.

        Args:
          pictures_NYXC: uint8[N, Y, X, 3], Y = X = `image_size`.

        Returns:
          int32[N, P], in [0, codebook_size).

        Raises:
          ValueError: if the pictures have another size, type or number of channels.
        """
        size = self.image_size
        pictures_NYXC = np.asarray(pictures_NYXC)
        if pictures_NYXC.dtype != np.uint8 or pictures_NYXC.shape[1:] != (
            size,
            size,
            3,
        ):
            raise ValueError(
                f"pictures must be uint8[N, {size}, {size}, 3], got"
                f" {pictures_NYXC.dtype}{list(pictures_NYXC.shape)}; resize them and"
                " convert them to RGB first"
            )
        empty = np.zeros((0, self.codes_per_image), np.int32)
        return self._in_batches(self._encode, pictures_NYXC, empty)

    def decode(self, codes_NP: np.ndarray) -> np.ndarray:
        """Returns pictures.

        Args:
          codes_NP: int[N, P], in [0, codebook_size).

        Returns:
          uint8[N, Y, X, 3].

        Raises:
          ValueError: if there are not P codes a picture, or one is out of range.
        """
        codes_NP = np.asarray(codes_NP)
        if codes_NP.ndim != 2 or codes_NP.shape[1] != self.codes_per_image:
            raise ValueError(
                f"codes must be int[N, {self.codes_per_image}], got"
                f" {list(codes_NP.shape)}; a picture has exactly that many"
            )
        if codes_NP.size and not 0 <= codes_NP.min() <= codes_NP.max() < (
            self.codebook_size
        ):
            raise ValueError(
                f"codes lie in {codes_NP.min()} to {codes_NP.max()}, the codebook has"
                f" {self.codebook_size}; use Vocab.codes on image ids first"
            )
        empty = np.zeros((0, self.image_size, self.image_size, 3), np.uint8)
        return self._in_batches(self._decode, codes_NP.astype(np.int32), empty)

    def _encode_batch(self, weights: Any, pictures_NYXC: jax.Array) -> jax.Array:
        model = nnx.merge(self._graph, weights)
        return model.encode(vqgan.from_bytes(pictures_NYXC))

    def _decode_batch(self, weights: Any, codes_NP: jax.Array) -> jax.Array:
        model = nnx.merge(self._graph, weights)
        return vqgan.to_bytes(model.decode(codes_NP))

    def _in_batches(
        self, function: Callable, inputs: np.ndarray, empty: np.ndarray
    ) -> np.ndarray:
        rows = self._rows
        outputs, size = [empty], self.batch_size * (rows.num_devices if rows else 1)
        for start in range(0, len(inputs), size):
            part = inputs[start : start + size]
            missing = size - len(part)
            padded = np.pad(part, [(0, missing)] + [(0, 0)] * (part.ndim - 1))
            placed = rows.put(padded) if rows else padded
            outputs.append(np.asarray(function(self._weights, placed))[: len(part)])
        return np.concatenate(outputs)


def save(model: vqgan.Vqgan, folder: Path) -> str:
    """Writes a tokenizer's folder, the config last.

    Args:
      model: the network, in float32.
      folder: made if there is none.

    Returns:
      The digest of the weights.
    """
    arrays = {name: np.asarray(leaf) for name, leaf in _named(model).items()}
    return write(arrays, model.config, folder)


def write(
    arrays: Mapping[str, np.ndarray], config: vqgan.VqganConfig, folder: Path
) -> str:
    """Writes a tokenizer's folder from its arrays by path, as `save` does."""
    folder = pathlib.Path(folder)
    storage.save_arrays(folder / WEIGHTS_FILE, arrays, {"kind": _KIND})
    record = {"format": _FORMAT, "kind": _KIND, "model": config.to_json()}
    storage.write_json(folder / CONFIG_FILE, record)
    return storage.digest_file(folder / WEIGHTS_FILE)


def load_model(folder: Path) -> vqgan.Vqgan:
    """Reads the network of a tokenizer's folder, or of its job's folder.

    Raises:
      FileNotFoundError: if there is no such folder.
      ValueError: if the folder holds something else, or arrays of other names or
        shapes than its config says, or values that are not finite.
    """
    folder = root(folder)
    config = read_config(folder)
    arrays, _ = storage.load_arrays(folder / WEIGHTS_FILE)
    model = nnx.eval_shape(lambda: vqgan.Vqgan(config, rngs=nnx.Rngs(0)))
    wanted = {name: leaf.shape for name, leaf in shapes(config).items()}
    for name in sorted(wanted.keys() | arrays.keys()):
        found = arrays[name].shape if name in arrays else None
        if wanted.get(name) != found:
            raise ValueError(
                f"{folder / WEIGHTS_FILE}: array {name!r} has shape {found}, its"
                f" config says {wanted.get(name)}; both files must be of one export"
            )
    graph, state = nnx.split(model)
    flat = {
        path: leaf.replace(jnp.asarray(arrays[".".join(map(str, path))], jnp.float32))
        for path, leaf in nnx.to_flat_state(state)
    }
    return nnx.merge(graph, nnx.from_flat_state(flat))


def shapes(config: vqgan.VqganConfig) -> dict[str, Any]:
    """The shapes of the arrays by path, that a network of this config has."""
    return _named(nnx.eval_shape(lambda: vqgan.Vqgan(config, rngs=nnx.Rngs(0))))


def root(folder: Path) -> epath.Path:
    """The folder that holds the files: the one given, or the export in a job's."""
    folder = storage.place(folder)
    return folder / EXPORT if (folder / EXPORT).is_dir() else folder


def _named(model: vqgan.Vqgan) -> dict[str, Any]:
    """The arrays by path, "encoder.down.0.block.1.conv1.kernel"."""
    return {
        ".".join(map(str, path)): leaf.get_value()
        for path, leaf in nnx.to_flat_state(nnx.state(model))
    }


def read_config(folder: Path) -> vqgan.VqganConfig:
    """Reads the config in a tokenizer's folder, or in its job's; see `load_model`."""
    path = root(folder) / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"no image tokenizer in {path.parent}; train one with configs/vqgan.py"
        )
    record = storage.read_json(path)
    if not isinstance(record, dict) or record.get("kind") != _KIND:
        raise ValueError(f"{path} is no image tokenizer's config; give its folder")
    if record.get("format") != _FORMAT:
        raise ValueError(
            f"{path} has format {record.get('format')}, this program reads {_FORMAT}"
        )
    known = {field.name for field in dataclasses.fields(vqgan.VqganConfig)}
    unknown = sorted(set(record["model"]) - known)
    if unknown:
        raise ValueError(f"{path}: unknown fields {unknown}; known are {sorted(known)}")
    return vqgan.VqganConfig(**record["model"])
