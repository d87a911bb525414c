"""Real-ESRGAN's weights as ours and back: RRDB networks for times 2 and 4.

    conv_first, body.I.rdbJ.convK, conv_body, conv_up1, conv_up2, conv_hr, conv_last

J and K count from 1 there, from 0 here. Kernels are [out, in, Y, X] there and
[Y, X, in, out] here. The network for times 2 folds pixels into channels first, there
channel by channel, here pixel by pixel: the inputs of its first kernel change places.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import numpy as np
from flax import nnx

from cm3leon_jax import storage
from cm3leon_jax.convert import files
from cm3leon_jax.models import super_resolution
from cm3leon_jax.models.super_resolution import SuperResolutionConfig
from cm3leon_jax.upscalers import rrdb

Path = str | os.PathLike[str]

_INSIDE = re.compile(r"body\.(\d+)\.rdb\.(\d+)\.conv\.(\d+)\.(kernel|bias)")
_FIRST = "conv_first.weight"


def load(source: Path, target: Path) -> None:
    """Reads Real-ESRGAN's weights and writes our upscaler (`upscalers/rrdb.py`).

    Args:
      source: a `.pth` or safetensors file, or a folder with one.
      target: the upscaler's folder.
    """
    rrdb.save(read(source), target)


def export(source: Path, target: Path) -> None:
    """Reads our upscaler and writes a safetensors file under Real-ESRGAN's names.

    Raises:
      ValueError: if the network adds the bicubic enlargement, which theirs does not.
    """
    storage.save_arrays(target, tensors(rrdb.load_model(source)), {"format": "pt"})


def read(source: Path) -> super_resolution.SuperResolution:
    """Returns Real-ESRGAN's generator as our network, its shape read off the tensors.

    Raises:
      FileNotFoundError: if there are no weights.
      ValueError: if a tensor is missing, has another shape, or is not finite.
    """
    weights = files.open_weights(source)
    found = weights.read(weights.names)
    config = _config(found, source)
    names = [_ours(name) for name in found]
    arrays = {
        name: _layout(array, name, config.fold_size)
        for name, array in zip(names, found.values(), strict=True)
    }
    return rrdb.fill(config, arrays, str(source))


def tensors(model: super_resolution.SuperResolution) -> dict[str, np.ndarray]:
    """Returns our network's weights under Real-ESRGAN's names, in its layout.

    Raises:
      ValueError: if the network adds the bicubic enlargement, which theirs does not.
    """
    if model.config.use_bicubic_base:
        raise ValueError(
            "this network adds its output to the bicubic enlargement, which"
            " Real-ESRGAN's does not; train with use_bicubic_base=False to export"
        )
    found, fold = {}, model.config.fold_size
    for path, leaf in nnx.to_flat_state(nnx.state(model)):
        ours = ".".join(map(str, path))
        array = np.asarray(leaf.get_value(), np.float32)
        if array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)
        if ours == "conv_first.kernel":
            array = _reorder(array, (fold * fold, 3))
        found[_theirs(ours)] = array
    return found


def _theirs(ours: str) -> str:
    """Their name of one of our weights.

    body.0.rdb.2.conv.4.kernel   ours
    body.0.rdb3.conv5.weight     theirs
    """
    match = _INSIDE.fullmatch(ours)
    if match:
        block, dense, conv, leaf = match.groups()
        ours = f"body.{block}.rdb{int(dense) + 1}.conv{int(conv) + 1}.{leaf}"
    return ours.removesuffix("kernel") + "weight" if ours.endswith("kernel") else ours


def _ours(theirs: str) -> str:
    """Undoes `_theirs`."""
    name = re.sub(
        r"\.rdb(\d+)\.conv(\d+)\.",
        lambda match: f".rdb.{int(match[1]) - 1}.conv.{int(match[2]) - 1}.",
        theirs,
    )
    return name.removesuffix("weight") + "kernel" if name.endswith("weight") else name


def _layout(array: np.ndarray, ours: str, fold: int) -> np.ndarray:
    """Puts one of their tensors into our layout."""
    if array.ndim != 4:
        return array
    if ours == "conv_first.kernel":
        array = _reorder(array, (3, fold * fold))
    return array.transpose(2, 3, 1, 0)


def _reorder(kernel: np.ndarray, groups: tuple[int, int]) -> np.ndarray:
    """Swaps the two numbers that the inputs of a kernel [out, in, Y, X] are made of."""
    out, inputs, *sides = kernel.shape
    if inputs != groups[0] * groups[1]:
        return kernel
    split = kernel.reshape(out, *groups, *sides)
    return split.transpose(0, 2, 1, 3, 4).reshape(kernel.shape)


def _config(found: Mapping[str, np.ndarray], source: Path) -> SuperResolutionConfig:
    """Our shape of their network."""
    growth = "body.0.rdb1.conv1.weight"
    for name in (_FIRST, growth):
        if name not in found or found[name].ndim != 4:
            raise ValueError(f"{source} lacks {name!r}; it is no RRDB network")
    channels, inputs = found[_FIRST].shape[:2]
    scales = {3: 4, 12: 2}
    if inputs not in scales:
        raise ValueError(
            f"{source}: {_FIRST!r} reads {inputs} channels; known are 3 (times 4) and"
            " 12 (times 2)"
        )
    blocks = {name.split(".")[1] for name in found if name.startswith("body.")}
    return SuperResolutionConfig(
        scale=scales[inputs],
        channels=channels,
        num_blocks=len(blocks),
        growth_channels=found[growth].shape[0],
    )
