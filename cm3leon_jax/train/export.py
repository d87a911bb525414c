"""A trained transformer by itself: one safetensors file, and what it takes to read it.

    export.json         {"format": 1, "model": {TransformerConfig}, "weights": SHA-256,
                        and what the writer adds}
    model.safetensors   the arrays by path, "blocks/up_DF", layers stacked

Unlike a checkpoint it holds no moments and no place in the data: it is for using and
sharing a model, or for starting from its weights.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cm3leon_jax import storage
from cm3leon_jax.models import transformer
from cm3leon_jax.train import checkpoint, state

ABOUT_FILE = "export.json"
WEIGHTS_FILE = "model.safetensors"
DTYPES = ("float32", "bfloat16")
_FORMAT = 1

Path = str | os.PathLike[str]


def write(
    folder: Path, model: transformer.Transformer, dtype: str, about: Mapping[str, Any]
) -> str:
    """Writes a model's weights, then the file that describes them.

    Args:
      folder: Where to; made if missing.
      model: With its layers stacked, as training holds it.
      dtype: What the weights are rounded to, one of `DTYPES`.
      about: JSON values kept beside, under names other than this module's own.

    Returns:
      SHA-256 of the weights' file.

    Raises:
      ValueError: If the dtype is another.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} must be one of {', '.join(DTYPES)}")
    arrays = {
        name: np.asarray(jnp.asarray(array, dtype))
        for name, array in checkpoint.flatten(model).items()
    }
    folder = pathlib.Path(folder)
    storage.save_arrays(folder / WEIGHTS_FILE, arrays)
    return describe(folder, model.config, about)


def describe(
    folder: Path, config: transformer.TransformerConfig, about: Mapping[str, Any]
) -> str:
    """Writes `export.json` beside weights that lie there; see `write`."""
    folder = pathlib.Path(folder)
    digest = storage.digest_file(folder / WEIGHTS_FILE)
    # Which products a CPU rounds is the business of the machine that trains.
    config = dataclasses.replace(config, product_dtype=None)
    described = {"model": dataclasses.asdict(config), "weights": digest}
    storage.write_json(folder / ABOUT_FILE, {"format": _FORMAT, **described, **about})
    return digest


def read_about(folder: Path) -> dict[str, Any]:
    """Returns `export.json`, if the weights are those that it describes.

    The weights are read once, for their digest, and not kept.

    Raises:
      FileNotFoundError: If a file is missing.
      ValueError: If the format is unknown, or the weights are not those described.
    """
    folder = storage.place(folder)
    about = storage.read_json(folder / ABOUT_FILE)
    if about.get("format") != _FORMAT:
        raise ValueError(
            f"{folder / ABOUT_FILE} has format {about.get('format')!r}, this version"
            f" reads {_FORMAT}; export the model again"
        )
    digest = storage.digest_file(folder / WEIGHTS_FILE)
    if digest != about["weights"]:
        raise ValueError(
            f"{folder / WEIGHTS_FILE} has SHA-256 {digest[:12]}, {ABOUT_FILE} says"
            f" {about['weights'][:12]}; restore the file, or export the model again"
        )
    return about


def read(folder: Path) -> tuple[transformer.Transformer, dict[str, Any]]:
    """Returns the model, its weights in the config's `param_dtype`, and `export.json`.

    Raises:
      FileNotFoundError: If a file is missing.
      ValueError: If the format is unknown, or the weights are not those described.
    """
    about = read_about(folder)
    arrays, _ = storage.load_arrays(storage.place(folder) / WEIGHTS_FILE)
    config = transformer.TransformerConfig(**about["model"])
    make = lambda: transformer.Transformer(config, rngs=nnx.Rngs(params=0))
    cast = {name: jnp.asarray(x, config.param_dtype) for name, x in arrays.items()}
    return state.fill(jax.eval_shape(make), cast), about


def load(
    path: Path, like: transformer.Transformer | None = None
) -> tuple[transformer.Transformer, dict[str, Any]]:
    """Returns the model of an export, or the newest of a training job, with its context.

    Args:
      path: folder of either.
      like: see `state.load_model`; an export comes whole.

    Raises:
      FileNotFoundError: if there is neither.
      ValueError: if it is damaged, or of another model than `like`.
    """
    if (storage.place(path) / ABOUT_FILE).exists():
        return read(path)
    return state.load_model(str(path), like=like)
