"""CLIP checkpoints of Hugging Face: their shapes, names and layouts as ours.

A folder holds

    config.json              model_type "clip", the shapes of both towers
    model.safetensors        the weights; pickled ones are not read
    vocab.json, merges.txt   CLIP's BPE (or tokenizer.json), see `bpe`
    preprocessor_config.json where it exists, must ask for what `clip.fit` and
                             `models.clip.normalize_pixels` do

Linear weights are [out, in] there and [in, out] here; queries, keys and values are three
matrices there and one here; the patch convolution [D, C, Y, X] is a matrix here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from etils import epath

from cm3leon_jax import storage
from cm3leon_jax.models import clip

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_PREPROCESSOR = "preprocessor_config.json"
_OLD_WEIGHTS = "pytorch_model.bin"
# CLIP's configs once named id 2 as the end of text; pooling took the largest id then,
# which is the last of the vocabulary: the end-of-text token.
_MISTAKEN_EOS = 2
_UNUSED = "position_ids"  # a buffer that older checkpoints hold
_PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
_PIXEL_DEVIATION = (0.26862954, 0.26130258, 0.27577711)

# The checkpoint's defaults, for fields that its config.json leaves out.
_TEXT_DEFAULTS = {
    "vocab_size": 49_408,
    "hidden_size": 512,
    "intermediate_size": 2_048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49_407,
}
_VISION_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3_072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
_NORM = {"scale": "weight", "bias": "bias"}
_LINEAR = {"kernel": "weight", "bias": "bias"}
# Our names of a block's parts and theirs.
_BLOCK = {
    "norm_1": ("layer_norm1", _NORM),
    "norm_2": ("layer_norm2", _NORM),
    "attention.out": ("self_attn.out_proj", _LINEAR),
    "mlp_in": ("mlp.fc1", _LINEAR),
    "mlp_out": ("mlp.fc2", _LINEAR),
}
_OUTSIDE = {
    "logit_scale": "logit_scale",
    "text.tokens.embedding": "text_model.embeddings.token_embedding.weight",
    "text.positions_LD": "text_model.embeddings.position_embedding.weight",
    "text.norm_out.scale": "text_model.final_layer_norm.weight",
    "text.norm_out.bias": "text_model.final_layer_norm.bias",
    "text.projection.kernel": "text_projection.weight",
    "vision.class_token_D": "vision_model.embeddings.class_embedding",
    "vision.patches.kernel": "vision_model.embeddings.patch_embedding.weight",
    "vision.positions_LD": "vision_model.embeddings.position_embedding.weight",
    "vision.norm_in.scale": "vision_model.pre_layrnorm.weight",
    "vision.norm_in.bias": "vision_model.pre_layrnorm.bias",
    "vision.norm_out.scale": "vision_model.post_layernorm.weight",
    "vision.norm_out.bias": "vision_model.post_layernorm.bias",
    "vision.projection.kernel": "visual_projection.weight",
}


def is_checkpoint(record: Any) -> bool:
    """Whether the content of a `config.json` is that of a Hugging Face CLIP."""
    return isinstance(record, dict) and record.get("model_type") == "clip"


def read_config(path: epath.Path, record: dict[str, Any]) -> clip.ClipConfig:
    """Reads the shape of a checkpoint.

    Args:
      path: The `config.json`, for messages.
      record: Its content.

    Raises:
      ValueError: If a field is missing, or asks for what the towers do not do.
    """
    text = _TEXT_DEFAULTS | dict(record.get("text_config") or {})
    vision = _VISION_DEFAULTS | dict(record.get("vision_config") or {})
    for side in (text, vision):
        if side["layer_norm_eps"] != _TEXT_DEFAULTS["layer_norm_eps"]:
            raise ValueError(
                f"{path}: layer_norm_eps={side['layer_norm_eps']}, CLIP has 1e-05"
            )
        if side["hidden_act"] not in clip.ACTIVATIONS:
            raise ValueError(
                f"{path}: hidden_act={side['hidden_act']!r}; known:"
                f" {', '.join(clip.ACTIVATIONS)}"
            )
    if text["hidden_act"] != vision["hidden_act"]:
        raise ValueError(
            f"{path}: the towers have hidden_act {text['hidden_act']!r} and"
            f" {vision['hidden_act']!r}; one for both is known"
        )
    eos_id = text["eos_token_id"]
    try:
        return clip.ClipConfig(
            image_size=vision["image_size"],
            patch_size=vision["patch_size"],
            vision=_tower(vision),
            text=_tower(text),
            vocab_size=text["vocab_size"],
            max_length=text["max_position_embeddings"],
            eos_id=text["vocab_size"] - 1 if eos_id == _MISTAKEN_EOS else eos_id,
            embed_dim=record.get("projection_dim", 512),
            activation=text["hidden_act"],
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} describes no CLIP: {error}") from error


def check_preprocessing(folder: epath.Path, config: clip.ClipConfig) -> None:
    """Refuses a checkpoint that expects other pixels than the towers are given.

    Raises:
      ValueError: If its preprocessing differs from CLIP's.
    """
    path = folder / _PREPROCESSOR
    if not path.exists():
        return
    record = storage.read_json(path)
    size = record.get("size", config.image_size)
    crop = record.get("crop_size", config.image_size)
    found = {
        "size": size.get("shortest_edge") if isinstance(size, dict) else size,
        "crop_size": crop.get("height") if isinstance(crop, dict) else crop,
        "image_mean": tuple(record.get("image_mean", _PIXEL_MEAN)),
        "image_std": tuple(record.get("image_std", _PIXEL_DEVIATION)),
        "resample": record.get("resample", 3),  # 3 is bicubic
    }
    wanted = {
        "size": config.image_size,
        "crop_size": config.image_size,
        "image_mean": _PIXEL_MEAN,
        "image_std": _PIXEL_DEVIATION,
        "resample": 3,
    }
    for name, value in wanted.items():
        if found[name] != value:
            raise ValueError(
                f"{path}: {name} is {found[name]}, pictures are prepared with {value};"
                " take a checkpoint with CLIP's own preprocessing"
            )


def read_weights(folder: epath.Path, config: clip.ClipConfig) -> dict[str, np.ndarray]:
    """Returns a checkpoint's weights under our names and in our layouts, float32.

    Raises:
      FileNotFoundError: If there is no safetensors file.
      ValueError: If a weight is missing, or one more is there.
    """
    path = folder / WEIGHTS
    if not path.exists():
        hint = "copy it there"
        if (folder / _OLD_WEIGHTS).exists():
            hint = (
                f"{_OLD_WEIGHTS} is a pickle, which is not read: save the model with"
                " transformers' save_pretrained, which writes safetensors"
            )
        raise FileNotFoundError(f"no weights at {path}; {hint}")
    theirs, _ = storage.load_arrays(path)
    theirs = {
        name: array for name, array in theirs.items() if not name.endswith(_UNUSED)
    }
    sources = _sources(config)
    wanted = {name for names in sources.values() for name in names}
    if wanted != set(theirs):
        missing, more = sorted(wanted - set(theirs)), sorted(set(theirs) - wanted)
        raise ValueError(
            f"{path} does not fit its {CONFIG}: {len(missing)} weights are missing"
            f" {missing[:2]}, {len(more)} have no place {more[:2]}"
        )
    return {
        name: _layout(name, [theirs[one] for one in names])
        for name, names in sources.items()
    }


def _tower(fields: dict[str, Any]) -> clip.TowerConfig:
    return clip.TowerConfig(
        num_layers=fields["num_hidden_layers"],
        model_dim=fields["hidden_size"],
        num_heads=fields["num_attention_heads"],
        mlp_dim=fields["intermediate_size"],
    )


def _sources(config: clip.ClipConfig) -> dict[str, list[str]]:
    """Which of their weights each of ours is made of."""
    found = {ours: [theirs] for ours, theirs in _OUTSIDE.items()}
    for side, tower in (("text", config.text), ("vision", config.vision)):
        for layer in range(tower.num_layers):
            ours, theirs = (
                f"{side}.blocks.{layer}",
                f"{side}_model.encoder.layers.{layer}",
            )
            for kind, name in _LINEAR.items():
                found[f"{ours}.attention.qkv.{kind}"] = [
                    f"{theirs}.self_attn.{one}_proj.{name}" for one in "qkv"
                ]
            for part, (name, kinds) in _BLOCK.items():
                for kind, weight in kinds.items():
                    found[f"{ours}.{part}.{kind}"] = [f"{theirs}.{name}.{weight}"]
    return found


def _layout(name: str, arrays: list[np.ndarray]) -> np.ndarray:
    """Puts one weight into our layout."""
    joined = np.concatenate([np.atleast_1d(one) for one in arrays]).astype(np.float32)
    if name == "logit_scale":
        return joined.reshape(())
    if name == "vision.patches.kernel":
        if joined.ndim != 4:
            raise ValueError(
                f"the patch convolution is [D, C, Y, X], got {joined.shape}"
            )
        # Rows of a patch are (y, x, channel): `models.clip.cut_patches`.
        return joined.transpose(2, 3, 1, 0).reshape(-1, joined.shape[0])
    return joined.T.copy() if name.endswith(".kernel") else joined
