"""Networks of pixels beside a converted model: image tokenizer and upscaler of any shape.

    ours                                theirs
    encoder.conv_in.kernel [Y, X, C, D] encoder.conv_in.weight [D, C, Y, X]
    ....norm1.scale, .bias              ....norm1.weight, .bias
    quantize.embedding [C, D]           quantize.embedding.weight

The names before the last dot are taming-transformers' own; `pixels.py` runs them, with
our `config.json`. Tokenizers of other programs are `vqgan`'s.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cm3leon_jax import storage
from cm3leon_jax.convert import files, folder, safetensors_file, table
from cm3leon_jax.convert.safetensors_file import Spec
from cm3leon_jax.convert.table import Row
from cm3leon_jax.tokenizers import image

_TO_OIHW = (3, 2, 0, 1)  # from rows, columns, inputs, outputs
_CODEBOOK = "quantize.embedding"
_DTYPE = np.dtype("float32")


def rows(specs: Mapping[str, Spec]) -> list[Row]:
    """The table of a tokenizer's arrays, by their names here.

    Args:
      specs: Name to dtype and shape, as `tokenizers.image.save` writes them.

    Raises:
      ValueError: If a name is of no kind that a VQGAN has.
    """
    found = []
    for name, spec in specs.items():
        front, _, kind = name.rpartition(".")
        if name == _CODEBOOK:
            found.append(Row(name, (f"{name}.weight",), spec.shape))
        elif kind == "kernel" and len(spec.shape) == 4:
            theirs = (f"{front}.weight",)
            found.append(Row(name, theirs, spec.shape, permutation=_TO_OIHW))
        elif kind in ("scale", "bias"):
            theirs = (f"{front}.{'weight' if kind == 'scale' else kind}",)
            found.append(Row(name, theirs, spec.shape))
        else:
            raise ValueError(f"{name!r} of shape {spec.shape} is no VQGAN's array")
    return found


def write(target: pathlib.Path, source: storage.Path) -> list[dict[str, Any]]:
    """Writes our tokenizer, or our upscaler, for `pixels.py`.

    Args:
      target: gets `config.json` and `model.safetensors`.
      source: the tokenizer's or the upscaler's folder, or its job's.

    Returns:
      A line of the log for each array.
    """
    place = image.root(source)
    file = safetensors_file.File(place / image.WEIGHTS_FILE)
    names = rows({name: x.spec for name, x in file.places.items()})
    make = table.make_theirs(names, lambda name, _: file.read(name), _DTYPE)
    specs = table.their_specs(names, _DTYPE)
    lines = folder.write_shard(target, folder.Shard(files.WEIGHTS, specs), make)
    for line in lines:
        line["file"] = f"{target.name}/{line['file']}"
    record = storage.read_json(place / image.CONFIG_FILE)
    storage.write_json(target / image.CONFIG_FILE, record)
    return lines


def read(source: pathlib.Path, target: pathlib.Path) -> list[dict[str, Any]]:
    """Writes the tokenizer of a converted folder in our own format.

    Args:
      source: what `write` wrote.
      target: our tokenizer's folder.

    Returns:
      A line of the log for each array.

    Raises:
      FileNotFoundError: If there is none.
      ValueError: If its weights are not those of its config.
    """
    config = image.read_config(source)
    specs = {
        name: Spec(_DTYPE, tuple(leaf.shape))
        for name, leaf in image.shapes(config).items()
    }
    names, found = rows(specs), files.open_weights(source)
    table.check_names(str(source), found.specs, names, ())
    arrays = dict(table.make_ours(names, found.tensor, _DTYPE))
    image.write(arrays, config, target)
    return log(target)


def log(target: pathlib.Path) -> list[dict[str, Any]]:
    """Returns a line of the log for each array of a tokenizer of ours."""
    file = safetensors_file.File(target / image.WEIGHTS_FILE)
    return [
        {
            "name": name,
            "file": f"{target.name}/{image.WEIGHTS_FILE}",
            "dtype": str(place.spec.dtype),
            "shape": list(place.spec.shape),
            "sha256": storage.digest_bytes(file.read(name).tobytes()),
        }
        for name, place in file.places.items()
    ]
