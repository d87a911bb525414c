"""A trained super-resolution network applied to pictures, whole or in tiles.

An upscaler is a folder (the job's `export/`):

    config.json           {"format": 1, "kind": "super_resolution",
                           "model": {SuperResolutionConfig}}
    weights.safetensors   the arrays by path, "body.0.rdb.2.conv.4.kernel"; layout HWIO

Letters: N pictures, Y and X rows and columns of the small picture.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cm3leon_jax import storage
from cm3leon_jax.models import super_resolution
from cm3leon_jax.models.super_resolution import SuperResolutionConfig

EXPORT = "export"  # folder within the job's
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "weights.safetensors"
_FORMAT = 1
_KIND = "super_resolution"

Path = str | os.PathLike[str]


class Upscaler:
    """Enlarges pictures of any size.

    A picture larger than a tile is enlarged tile by tile: each is computed with as much
    of its surroundings as a pixel depends on, so that there are no seams, and what comes
    out is what the whole picture would give.
    """

    def __init__(
        self,
        model: super_resolution.SuperResolution,
        *,
        digest: str = "",
        tile_size: int = 256,
        halo: int | None = None,
    ):
        """Compiles nothing yet.

        Args:
          model: the network.
          digest: of the weights, hexadecimal; goes into what is made with them.
          tile_size: pixels a side of the small picture that are enlarged at once; 0
            never cuts a picture.
          halo: pixels around a tile that are computed with it; None takes all that a
            pixel depends on (`SuperResolutionConfig.reach`), 349 with Real-ESRGAN's 23
            blocks. Less is faster, and differs at the seams.
        """
        self.config = model.config
        self.digest = digest
        self._tile = tile_size
        self._halo = self.config.reach if halo is None else halo
        self._graph, self._weights = nnx.split(model)
        self._run = jax.jit(self._enlarge)

    @classmethod
    def load(
        cls, folder: Path, *, tile_size: int = 256, halo: int | None = None
    ) -> Upscaler:
        """Reads an upscaler's folder, or its job's; see `load_model` for refusals."""
        model = load_model(folder)
        digest = storage.digest_file(_root(folder) / WEIGHTS_FILE)
        return cls(model, digest=digest, tile_size=tile_size, halo=halo)

    @property
    def scale(self) -> int:
        """How many times larger a side becomes."""
        return self.config.scale

    def enlarge(self, pictures_NYXC: np.ndarray) -> np.ndarray:
        """Returns large pictures.

        Args:
          pictures_NYXC: uint8[N, Y, X, 3], of any size.

        Returns:
          uint8[N, scale Y, scale X, 3].

        Raises:
          ValueError: if the pictures have another type or number of channels, or are
            empty.
        """
        pictures_NYXC = np.asarray(pictures_NYXC)
        shape = pictures_NYXC.shape
        if pictures_NYXC.dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3:
            raise ValueError(
                f"pictures must be uint8[N, Y, X, 3], got {pictures_NYXC.dtype}"
                f"{list(shape)}; convert them to RGB first"
            )
        if 0 in shape[1:3]:
            raise ValueError(f"pictures of {shape[1]} x {shape[2]} pixels are empty")
        sides = [side + -side % self.config.fold_size for side in shape[1:3]]
        more = [(0, side - old) for side, old in zip(sides, shape[1:3], strict=True)]
        padded_NYXC = np.pad(pictures_NYXC, ((0, 0), *more, (0, 0)), mode="edge")
        large = [self.scale * side for side in sides]
        out_NYXC = np.zeros((len(pictures_NYXC), *large, 3), np.uint8)
        for y, x in itertools.product(*(self._spans(side) for side in sides)):
            for picture_YXC, out_YXC in zip(padded_NYXC, out_NYXC, strict=True):
                window_YXC = picture_YXC[y.window, x.window]
                made_YXC = np.asarray(self._run(self._weights, window_YXC[None]))[0]
                out_YXC[y.place, x.place] = made_YXC[y.inside, x.inside]
        return out_NYXC[:, : self.scale * shape[1], : self.scale * shape[2]]

    def _enlarge(self, weights, pictures_NYXC: jax.Array) -> jax.Array:
        model = nnx.merge(self._graph, weights)
        image_NYXC = super_resolution.from_bytes(pictures_NYXC)
        return super_resolution.to_bytes(model(image_NYXC))

    def _spans(self, side: int) -> list[_Span]:
        """Cuts a side into tiles.

        Windows have one size, so that one program serves them, and end where the
        picture ends: beyond it the network sees nothing, as in the whole picture.

            side 10, tiles of 4, halo 1    tiles 0-4, 4-8, 8-10   windows 0-6, 3-9, 4-10
        """
        fold, scale = self.config.fold_size, self.scale
        halo = -(-self._halo // fold) * fold
        tile = max(fold, self._tile // fold * fold)
        window = tile + 2 * halo
        if not self._tile or side <= window:
            tile = window = side
        spans = []
        for first in range(0, side, tile):
            last = min(first + tile, side)
            start = min(max(0, first - halo), side - window)
            spans.append(
                _Span(
                    window=slice(start, start + window),
                    inside=slice(scale * (first - start), scale * (last - start)),
                    place=slice(scale * first, scale * last),
                )
            )
        return spans


class _Span(NamedTuple):
    """One side of a tile.

    Attributes:
      window: small pixels that are computed.
      inside: large pixels of the enlarged window that are kept.
      place: where in the large picture they go.
    """

    window: slice
    inside: slice
    place: slice


def save(model: super_resolution.SuperResolution, folder: Path) -> str:
    """Writes an upscaler's folder, the config last.

    Args:
      model: the network, in float32.
      folder: made if there is none.

    Returns:
      The digest of the weights.
    """
    folder = pathlib.Path(folder)
    arrays = {
        ".".join(map(str, path)): np.asarray(leaf.get_value())
        for path, leaf in nnx.to_flat_state(nnx.state(model))
    }
    storage.save_arrays(folder / WEIGHTS_FILE, arrays, {"kind": _KIND})
    record = {"format": _FORMAT, "kind": _KIND, "model": model.config.to_json()}
    storage.write_json(folder / CONFIG_FILE, record)
    return storage.digest_file(folder / WEIGHTS_FILE)


def load_model(folder: Path) -> super_resolution.SuperResolution:
    """Reads the network of an upscaler's folder, or of its job's folder.

    Raises:
      FileNotFoundError: if there is no such folder.
      ValueError: if the folder holds something else, or arrays of other names or
        shapes than its config says, or values that are not finite.
    """
    folder = _root(folder)
    if not (folder / CONFIG_FILE).is_file():
        raise FileNotFoundError(
            f"no upscaler in {folder}; train one with configs/super_resolution.py"
        )
    config = _read_config(folder / CONFIG_FILE)
    arrays, _ = storage.load_arrays(folder / WEIGHTS_FILE)
    return fill(config, arrays, str(folder / WEIGHTS_FILE))


def fill(
    config: SuperResolutionConfig, arrays: dict[str, np.ndarray], source: str
) -> super_resolution.SuperResolution:
    """Returns a network of given weights.

    Args:
      config: its shape.
      arrays: by dotted path, in our layout.
      source: where they come from, for errors.

    Raises:
      ValueError: with the first name that is missing, too many, or of another shape.
    """
    make = lambda: super_resolution.SuperResolution(config, rngs=nnx.Rngs(0))
    graph, state = nnx.split(nnx.eval_shape(make))
    flat = {".".join(map(str, path)): path for path, _ in nnx.to_flat_state(state)}
    leaves = dict(nnx.to_flat_state(state))
    for name in sorted(flat.keys() | arrays.keys()):
        wanted = leaves[flat[name]].shape if name in flat else None
        found = arrays[name].shape if name in arrays else None
        if wanted != found:
            raise ValueError(
                f"{source}: array {name!r} has shape {found}, its config says {wanted};"
                " both must be of one network"
            )
    filled = {
        path: leaves[path].replace(jnp.asarray(arrays[name], jnp.float32))
        for name, path in flat.items()
    }
    return nnx.merge(graph, nnx.from_flat_state(filled))


def _root(folder: Path) -> pathlib.Path:
    folder = pathlib.Path(folder)
    return folder / EXPORT if (folder / EXPORT).is_dir() else folder


def _read_config(path: pathlib.Path) -> SuperResolutionConfig:
    record = storage.read_json(path)
    if not isinstance(record, dict) or record.get("kind") != _KIND:
        raise ValueError(f"{path} is no upscaler's config; give its folder")
    if record.get("format") != _FORMAT:
        raise ValueError(
            f"{path} has format {record.get('format')}, this program reads {_FORMAT}"
        )
    known = {field.name for field in dataclasses.fields(SuperResolutionConfig)}
    unknown = sorted(set(record["model"]) - known)
    if unknown:
        raise ValueError(f"{path}: unknown fields {unknown}; known are {sorted(known)}")
    return SuperResolutionConfig(**record["model"])
