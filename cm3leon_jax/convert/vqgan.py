"""Image tokenizers of other programs: their names, layouts and shapes as ours.

    taming      taming-transformers' VQGAN; Make-A-Scene's and Chameleon's own files
    llamagen    LlamaGen's VQ-8 and VQ-16, and Janus's own files
    chameleon   `transformers` ChameleonVQVAE: encoder and codebook, no decoder
    janus       `transformers` JanusVQVAE: both halves

All four have the same layers in the same order; which it is, is told by the names. Kernels
are [out, in, Y, X] there and [Y, X, in, out] here; levels of the decoder are numbered from
the finest in `taming` and here, from the coarsest in `llamagen` and `janus`.

LlamaGen and Janus look codes up by direction. JanusVQVAE normalises entries when it
decodes but nothing when it encodes; it is written with entries of unit length, so that
its codes are ours.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from cm3leon_jax.convert import files
from cm3leon_jax.models import quantizer, vqgan
from cm3leon_jax.tokenizers import image

Path = str | os.PathLike[str]

NAMINGS = ("taming", "llamagen", "chameleon", "janus")
_ENTRIES = "quantize.embedding.weight"
_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "embedding.weight"}
_COARSEST_FIRST = ("llamagen", "janus")
_MODEL_TYPES = {"chameleon": "chameleon_vqgan", "janus": "janus_vqgan"}
# Buffers, and players of the training, that say nothing of the tokenizer.
_UNUSED = ("loss.", "quantize.codebook_used", "quantize.embed_prob", "model_ema.")
_NUM_GROUPS, _EPSILON = 32, 1e-6  # of every published one


def load(source: Path, target: Path, *, image_size: int = 0) -> None:
    """Reads another program's image tokenizer and writes ours (`tokenizers/image.py`).

    Args:
      source: see `read`.
      target: the tokenizer's folder.
      image_size: see `read`.
    """
    image.save(read(source, image_size=image_size), target)


def export(source: Path, target: Path, *, naming: str) -> None:
    """Reads our image tokenizer and writes it under another program's names.

    Args:
      source: the tokenizer's folder, or its job's.
      target: gets `config.json` and `model.safetensors`.
      naming: one of `NAMINGS`.

    Raises:
      ValueError: if the other program has no such shape.
    """
    model = image.load_model(source)
    files.write(target, tensors(model, naming), their_config(model.config, naming))


def read(source: Path, *, image_size: int = 0) -> vqgan.Vqgan:
    """Returns another program's image tokenizer as our network.

    Args:
      source: a safetensors file, a `.pt` or `.ckpt`, or a folder with one; the
        tokenizer may be a part of a larger model. See `files.open_weights`.
      image_size: pixels a side; 0 takes what `config.json` says.

    Raises:
      FileNotFoundError: if there are no weights.
      ValueError: if a tensor is missing, has another shape, or is not finite; if the
        picture's size is not known.
    """
    weights = files.open_weights(source)
    prefix = _prefix(weights)
    names = {
        name.removeprefix(prefix)
        for name in weights.names
        if name.startswith(prefix) and not name.removeprefix(prefix).startswith(_UNUSED)
    }
    # Of a larger model nothing else begins so; of the tokenizer alone everything does.
    naming = _naming(names)
    found = weights.read({prefix + name for name in names})
    found = {name.removeprefix(prefix): array for name, array in found.items()}
    config = _config(
        found, naming, image_size or _image_size(files.read_config(source)), source
    )
    return _fill(config, found, naming, source)


def tensors(model: vqgan.Vqgan, naming: str) -> dict[str, np.ndarray]:
    """Returns our network's weights under another program's names, in its layout.

    Raises:
      ValueError: if the other program has no such shape.
    """
    _check(model.config, naming)
    found = {}
    for path, leaf in nnx.to_flat_state(nnx.state(model)):
        ours = ".".join(map(str, path))
        if naming == "chameleon" and ours.startswith("decoder."):
            continue
        array = np.asarray(leaf.get_value(), np.float32)
        if naming == "janus" and ours == "quantize.embedding":
            array = np.asarray(quantizer.unit(jnp.asarray(array)))
        found[_theirs(ours, naming, len(model.config.multipliers))] = (
            array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
        )
    return found


def _theirs(ours: str, naming: str, num_levels: int) -> str:
    """Their name of one of our weights.

    decoder.up.0.block.1.conv1.kernel          ours, of four levels
    decoder.up.0.block.1.conv1.weight          taming
    decoder.up.3.block.1.conv1.weight          janus
    decoder.conv_blocks.3.res.1.conv1.weight   llamagen
    """
    *path, leaf = ours.split(".")
    if naming in _COARSEST_FIRST and path[:2] == ["decoder", "up"]:
        path[2] = str(num_levels - 1 - int(path[2]))
    if naming == "llamagen" and len(path) > 1:
        if path[1] in ("down", "up"):
            path[1] = "conv_blocks"
            path[3] = {"block": "res"}.get(path[3], path[3])
        elif path[1] == "mid":
            path[2] = str(("block_1", "attn_1", "block_2").index(path[2]))
    return ".".join([*path, _LEAVES.get(leaf, leaf)])


def _prefix(weights: files.Weights) -> str:
    """What stands before the tokenizer's names in a larger model."""
    found = sorted(name for name in weights.names if name.endswith(_ENTRIES))
    if not found:
        raise ValueError(
            f"{weights.source} is no image tokenizer that is known: no tensor's name"
            f" ends with {_ENTRIES!r}"
        )
    return found[0].removesuffix(_ENTRIES)


def _naming(names: set[str]) -> str:
    """Which program wrote these names."""
    if not any(name.startswith("decoder.") for name in names):
        return "chameleon"
    if any(name.startswith("encoder.conv_blocks.") for name in names):
        return "llamagen"
    # The coarsest level is the first one there: only the finest leads nowhere.
    is_coarsest_first = "decoder.up.0.upsample.conv.weight" in names
    return "janus" if is_coarsest_first else "taming"


def _image_size(record: Mapping[str, Any]) -> int:
    """Pixels a side by a `config.json`, that of a larger model too; 0 if unknown."""
    record = record.get("vq_config", record)
    if "resolution" in record:
        return int(record["resolution"])
    if "num_patches" in record:
        multipliers = record.get("channel_multiplier", (1, 1, 2, 2, 4))
        return int(record["num_patches"]) * 2 ** (len(multipliers) - 1)
    if record.get("model_type") == _MODEL_TYPES["chameleon"]:
        return 512  # transformers leaves defaults out of the file
    return 0


def _config(
    found: Mapping[str, np.ndarray], naming: str, image_size: int, source: Path
) -> vqgan.VqganConfig:
    """Our shape of a network, read off its tensors."""
    if not image_size:
        raise ValueError(
            f"{source} does not say for which pictures it is; give image_size in pixels"
        )
    level = "encoder.conv_blocks" if naming == "llamagen" else "encoder.down"
    block = "res" if naming == "llamagen" else "block"
    num_levels = _count(found, level)
    base = _shape(found, "encoder.conv_in.weight", source)[0]
    widths = [
        _shape(found, f"{level}.{i}.{block}.0.conv1.weight", source)[0]
        for i in range(num_levels)
    ]
    if any(width % base for width in widths):
        raise ValueError(f"{source}: widths {widths} are no multiples of {base}")
    codes = _shape(found, _ENTRIES, source)
    return vqgan.VqganConfig(
        image_size=image_size,
        base_channels=base,
        multipliers=tuple(width // base for width in widths),
        encoder_kernels=(3,) * num_levels,
        decoder_kernels=(3,) * num_levels,
        num_res_blocks=_count(found, f"{level}.0.{block}"),
        attention_sizes=tuple(
            image_size // 2**i
            for i in range(num_levels)
            if f"{level}.{i}.attn.0.q.weight" in found
        ),
        use_mid_attention=any(
            name in found
            for name in ("encoder.mid.attn_1.q.weight", "encoder.mid.1.q.weight")
        ),
        latent_channels=_shape(found, "encoder.conv_out.weight", source)[0],
        code_dim=codes[1],
        codebook_size=codes[0],
        use_l2_norm=naming in _COARSEST_FIRST,
        norm="group",
        num_groups=_NUM_GROUPS,
        norm_epsilon=_EPSILON,
        use_decoder=naming != "chameleon",
    )


def _shape(found: Mapping[str, np.ndarray], name: str, source: Path) -> tuple[int, ...]:
    if name not in found:
        raise ValueError(f"{source} lacks {name!r}; it is no whole image tokenizer")
    return found[name].shape


def _count(found: Mapping[str, np.ndarray], prefix: str) -> int:
    """How many numbered parts follow a prefix."""
    start = prefix + "."
    numbers = {
        name.removeprefix(start).split(".")[0]
        for name in found
        if name.startswith(start)
    }
    return len(numbers)


def _fill(
    config: vqgan.VqganConfig,
    found: Mapping[str, np.ndarray],
    naming: str,
    source: Path,
) -> vqgan.Vqgan:
    """Puts their tensors into our network.

    Raises:
      ValueError: with the first name that is missing, too many, or of another shape.
    """
    model = nnx.eval_shape(lambda: vqgan.Vqgan(config, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(model)
    flat, wanted = {}, {}
    for path, leaf in nnx.to_flat_state(state):
        ours, shape = ".".join(map(str, path)), leaf.shape
        name = _theirs(ours, naming, len(config.multipliers))
        wanted[name] = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape
        flat[path] = (name, leaf)
    for name in sorted(wanted.keys() | found.keys()):
        there = found[name].shape if name in found else None
        if wanted.get(name) != there:
            raise ValueError(
                f"{source}: {name!r} has shape {there}, a tokenizer of its other"
                f" tensors has {wanted.get(name)}; the file is of another network"
            )
    filled = {}
    for path, (name, leaf) in flat.items():
        array = found[name]
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
        filled[path] = leaf.replace(jnp.asarray(array))
    return nnx.merge(graph, nnx.from_flat_state(filled))


def _check(config: vqgan.VqganConfig, naming: str) -> None:
    """Refuses a shape that another program does not have."""
    if naming not in NAMINGS:
        raise ValueError(f"naming={naming!r} is unknown; known are {NAMINGS}")
    levels = len(config.multipliers)
    lowest = (config.image_size // config.stride,)
    narrow = {config.channels(i) % _NUM_GROUPS for i in range(levels)} != {0}
    reasons = {
        "patch_size above 1": config.patch_size > 1,
        "kernels other than 3": {*config.encoder_kernels, *config.decoder_kernels}
        != {3},
        "no blocks in the middle": not config.use_mid_block,
        'a norm other than "group" of 32 with 1e-6': (
            config.norm_config.kind != "group"
            or config.num_groups != _NUM_GROUPS
            or config.norm_epsilon != _EPSILON
        ),
        f"widths that {_NUM_GROUPS} does not divide": narrow,
        "no decoder": not config.use_decoder and naming != "chameleon",
        "a normalised look-up": config.use_l2_norm and naming not in _COARSEST_FIRST,
        "no normalised look-up": not config.use_l2_norm and naming in _COARSEST_FIRST,
        "attention elsewhere than at the lowest level": (
            naming in _COARSEST_FIRST and config.attention_sizes != lowest
        ),
        "no attention in the middle": (
            not config.use_mid_attention and naming in _COARSEST_FIRST
        ),
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise ValueError(
            f"this tokenizer has {' and '.join(found)}, which {naming} has not; choose"
            f" another naming of {NAMINGS}, or train a published shape of"
            " configs/vqgan.py"
        )


def their_config(config: vqgan.VqganConfig, naming: str) -> dict[str, Any]:
    """Returns what `config.json` says: the fields of transformers' classes."""
    fields = {
        "model_type": _MODEL_TYPES.get(naming, naming),
        "base_channels": config.base_channels,
        "channel_multiplier": list(config.multipliers),
        "num_res_blocks": config.num_res_blocks,
        "latent_channels": config.latent_channels,
        "embed_dim": config.code_dim,
        "num_embeddings": config.codebook_size,
        "double_latent": False,
        "dropout": 0.0,
    }
    if naming == "janus":
        return fields | {"num_patches": config.grid_size}
    attention = list(config.attention_sizes)
    return fields | {
        "resolution": config.image_size,
        "attn_resolutions": attention or None,
        "attn_type": "vanilla" if config.use_mid_attention else None,
    }
