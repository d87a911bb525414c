"""LPIPS' weights in PyTorch's files as our network: VGG16 and the five heads.

Convolutions stand in torchvision's file as `features.I.weight`, in that of the package
`lpips` as `net.sliceJ.I.weight`; heads as `linK.model.1.weight` [1, C, 1, 1]. They may be
in one file or in two.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from cm3leon_jax.convert import files
from cm3leon_jax.models import lpips

Path = str | os.PathLike[str]

_CONV = re.compile(r"(?:net\.slice\d\.|features\.)(\d+)\.(weight|bias)")
_HEAD = re.compile(r"lin(\d)\.model\.1\.weight")
_LEAVES = {"kernel": "weight", "bias": "bias"}


def read(sources: Sequence[Path]) -> lpips.Lpips:
    """Returns LPIPS' network of one file with all weights, or of several together.

    Raises:
      FileNotFoundError: if a file is missing.
      ValueError: if a tensor is missing, has another shape, or is not finite.
    """
    if not sources:
        raise ValueError("LPIPS needs its weights: give the files of VGG16 and heads")
    found: dict[str, np.ndarray] = {}
    for source in sources:
        weights = files.open_weights(source)
        names = {name: _known(name) for name in weights.names}
        arrays = weights.read([name for name, known in names.items() if known])
        found |= {names[name]: array for name, array in arrays.items()}
    graph, state = nnx.split(nnx.eval_shape(lambda: lpips.Lpips(rngs=nnx.Rngs(0))))
    filled = {}
    for path, leaf in nnx.to_flat_state(state):
        name = _theirs(path)
        array = _layout(found.get(name))
        shape = None if array is None else array.shape
        if array is None or shape != leaf.shape:
            raise ValueError(
                f"{', '.join(map(str, sources))}: {name!r} has shape {shape} here, LPIPS"
                f" of VGG16 has {leaf.shape}; give torchvision's vgg16 and lpips' vgg.pth"
            )
        filled[path] = leaf.replace(jnp.asarray(array))
    return nnx.merge(graph, nnx.from_flat_state(filled))


def _layout(array: np.ndarray | None) -> np.ndarray | None:
    """Puts one of their tensors into our layout; a head becomes a vector."""
    if array is None or array.ndim != 4:
        return array
    if array.shape[0] == 1:
        return array.reshape(-1)
    return array.transpose(2, 3, 1, 0)


def _known(name: str) -> str:
    """One name for the names that a tensor has in several files; empty if unknown."""
    if match := _CONV.fullmatch(name):
        return f"conv.{match[1]}.{match[2]}"
    if match := _HEAD.fullmatch(name):
        return f"head.{match[1]}"
    return ""


def _theirs(path: Sequence[Any]) -> str:
    """Our path to that one name: convolutions are numbered with what stands between.

    stages.1.0.kernel   conv.5.weight   (conv 0, relu, conv 2, relu, pool, conv 5)
    """
    if path[0] == "heads":
        return f"head.{path[1]}"
    stage, layer, leaf = int(path[1]), int(path[2]), str(path[3])
    before = sum(2 * len(row) + 1 for row in lpips.WIDTHS[:stage])
    return f"conv.{before + 2 * layer}.{_LEAVES[leaf]}"
