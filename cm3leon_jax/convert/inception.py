"""The weights of the FID's Inception v3, as pytorch-fid gives them.

    Mixed_5b.branch1x1.conv.weight [out, in, Y, X]   conv.kernel [Y, X, in, out]
    Mixed_5b.branch1x1.bn.weight, .bias              scale_C, bias_C
    Mixed_5b.branch1x1.bn.running_mean, _var         mean_C, variance_C
    fc.weight [out, in]                              fc.kernel [in, out]

The public file is `pt_inception-2015-12-05-6726825d.pth`, from the releases of
github.com/mseitzer/pytorch-fid. It was written by a PyTorch before 1.6.
"""

from __future__ import annotations

import os
import pathlib
import zipfile
from collections.abc import Sequence

import numpy as np
from flax import nnx

from cm3leon_jax.convert import files
from cm3leon_jax.models import inception

_THEIRS = {
    "scale_C": "bn.weight",
    "bias_C": "bn.bias",
    "mean_C": "bn.running_mean",
    "variance_C": "bn.running_var",
    "kernel": "weight",
}
_FIRST = "Conv2d_1a_3x3.conv.weight"


def read(path: str | os.PathLike[str]) -> inception.Inception:
    """Returns the net with the weights of a file.

    Args:
      path: pytorch-fid's `.pth` (needs the extra `torch`), or the same tensors as
        safetensors.

    Raises:
      FileNotFoundError: If there is no such file.
      ValueError: If a tensor is missing, of another shape, or not finite.
    """
    weights = _open(pathlib.Path(path))
    if not {_FIRST, "fc.weight"} <= weights.names:
        raise ValueError(
            f"{path} holds no Inception v3 (no {_FIRST!r}, or no 'fc.weight'); take"
            " pytorch-fid's file"
        )
    named = weights.read([_FIRST, "fc.weight"])
    config = inception.InceptionConfig(
        width=named[_FIRST].shape[0], num_classes=named["fc.weight"].shape[0]
    )
    model = nnx.eval_shape(lambda: inception.Inception(config, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(model)
    flat = nnx.to_flat_state(state)
    wanted = {ours: theirs(ours) for ours, _ in flat}
    missing = sorted(set(wanted.values()) - weights.names)
    if missing:
        raise ValueError(f"{path} lacks {missing[0]!r} and {len(missing) - 1} more")
    found = weights.read(set(wanted.values()))
    filled = []
    for ours, leaf in flat:
        array = ours_layout(found[wanted[ours]])
        if array.shape != leaf.get_value().shape:
            raise ValueError(
                f"{path}: {wanted[ours]!r} has shape {found[wanted[ours]].shape}, a net"
                f" of width {config.width} another; it is of another net"
            )
        filled.append((ours, leaf.replace(array)))
    return nnx.merge(graph, nnx.from_flat_state(filled))


def theirs(path: Sequence[object]) -> str:
    """The name in the file of one of our parameters."""
    *layers, leaf = map(str, path)
    return ".".join([*layers, _THEIRS.get(leaf, leaf)])


def ours_layout(array: np.ndarray) -> np.ndarray:
    """An array of PyTorch's layout in ours; also the other way, for matrices."""
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return array.T if array.ndim == 2 else array


def _open(path: pathlib.Path) -> files.Weights:
    is_old = path.suffix in files.PICKLES and path.is_file()
    if not is_old or zipfile.is_zipfile(path):
        return files.open_weights(path)
    torch = files.pytorch(path)
    # The unpickler of `weights_only` makes tensors and containers, and refuses the rest.
    try:
        record = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {str(error)[:160]}") from error
    tensors = {
        name: tensor.detach().to(torch.float32).numpy()
        for name, tensor in record.items()
        if isinstance(tensor, torch.Tensor)
    }
    return files.Weights(path, {}, tensors)
