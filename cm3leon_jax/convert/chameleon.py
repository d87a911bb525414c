"""The transformer of `transformers` ChameleonForConditionalGeneration, both ways.

    ours                            theirs, below model.
    token_embedding_VD, head_VD     embed_tokens.weight, lm_head.weight (not below), their
                                    rows in another order (`tokenizers.chameleon`)
    blocks/qkv_D3HK                 layers.N.self_attn.{q,k,v}_proj.weight [H*K, D]
    or q_DHK, kv_D2GK               the same, with fewer heads of keys and values
    blocks/q_scale_HK, q_bias_HK    layers.N.self_attn.q_norm.{weight,bias} [H, K]; k_norm
    blocks/out_HKD                  layers.N.self_attn.o_proj.weight
    blocks/gate_DF, up_DF, down_FD  layers.N.mlp.{gate,up,down}_proj.weight
    blocks/attention_scale_D        layers.N.input_layernorm.weight
    blocks/mlp_scale_D              layers.N.post_attention_layernorm.weight
    final_scale_D                   norm.weight

The image tokenizer, `model.vqmodel`, is `vqgan.read`'s. The port sets the logits of image
codes to the smallest number after the head; here they are what the head says.

Source: Chameleon, arXiv:2405.09818, section 2.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cm3leon_jax.convert.table import Row
from cm3leon_jax.models.block import TransformerConfig
from cm3leon_jax.vocab import Vocab

MODEL_TYPE = "chameleon"
TIED_HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"
FOREIGN = ("model.vqmodel.",)  # the image tokenizer, which lies in the same files
LICENCE = "Chameleon Research License: for research only, not for commercial use"
_EPSILON = 1e-5  # of the norms of queries and keys, fixed in the port
_THETA = 10_000.0
# The defaults of the port's config, which its files may leave out.
_SIZES = {
    "vocab_size": 65_536,
    "hidden_size": 4_096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4_096,
}
_FIXED = {
    "hidden_act": "silu",
    "rms_norm_eps": _EPSILON,
    "attention_bias": False,
    "mlp_bias": False,
}


def check(config: TransformerConfig) -> None:
    """Refuses a model that Chameleon's class cannot hold.

    Raises:
      ValueError: With the field, what it is, and what it would have to be.
    """
    for name, needed in (
        ("activation", "silu"),
        ("gated_mlp", True),
        ("norm", "rms"),
        ("positions", "rotary"),
        ("qk_norm", True),
        ("qk_norm_per_head", True),
        ("layer_norm_epsilon", _EPSILON),
        ("head_dim", config.model_dim // config.num_heads),
    ):
        value = getattr(config, name)
        if value != needed:
            raise ValueError(f"Chameleon cannot hold {name}={value!r}, only {needed!r}")


def rows(config: TransformerConfig, theirs_V: np.ndarray | None = None) -> list[Row]:
    """The table of a model's arrays.

    Args:
      config: Of the model.
      theirs_V: Which of their ids each of ours is; None: the same.
    """
    c = config
    table = (c.vocab_size, c.model_dim)
    found = [
        Row("token_embedding_VD", (EMBEDDING,), table, places=theirs_V),
        Row("final_scale_D", ("model.norm.weight",), (c.model_dim,)),
    ]
    if not c.tie_embeddings:
        found.append(Row("head_VD", (TIED_HEAD,), table, places=theirs_V))
    for layer in range(c.num_layers):
        found += _layer_rows(c, layer)
    return found


def _layer_rows(c: TransformerConfig, layer: int) -> list[Row]:
    front = f"model.layers.{layer}"
    q, k, v, o = (f"{front}.self_attn.{x}_proj.weight" for x in "qkvo")
    heads, kv_heads = (c.num_heads, c.head_dim), (c.kv_heads, c.head_dim)
    wide, back = (c.model_dim, c.mlp_dim), (c.mlp_dim, c.model_dim)
    if c.kv_heads == c.num_heads:
        products = [("qkv_D3HK", (q, k, v), (c.model_dim, 3, *heads), 1)]
    else:
        products = [
            ("q_DHK", (q,), (c.model_dim, *heads), 1),
            ("kv_D2GK", (k, v), (c.model_dim, 2, *kv_heads), 1),
        ]
    products += [
        ("out_HKD", (o,), (*heads, c.model_dim), 2),
        ("gate_DF", (f"{front}.mlp.gate_proj.weight",), wide, 1),
        ("up_DF", (f"{front}.mlp.up_proj.weight",), wide, 1),
        ("down_FD", (f"{front}.mlp.down_proj.weight",), back, 1),
        ("attention_scale_D", (f"{front}.input_layernorm.weight",), wide[:1], 0),
        ("mlp_scale_D", (f"{front}.post_attention_layernorm.weight",), wide[:1], 0),
        ("q_scale_HK", (f"{front}.self_attn.q_norm.weight",), heads, 0),
        ("q_bias_HK", (f"{front}.self_attn.q_norm.bias",), heads, 0),
        ("k_scale_GK", (f"{front}.self_attn.k_norm.weight",), kv_heads, 0),
        ("k_bias_GK", (f"{front}.self_attn.k_norm.bias",), kv_heads, 0),
    ]
    return [
        Row(f"blocks/{ours}", theirs, shape, layer, num_inputs=inputs, split=1)
        for ours, theirs, shape, inputs in products
    ]


def to_config(config: TransformerConfig, dtype: str) -> dict[str, Any]:
    """Returns the fields of `config.json` that the weights have; call `check` first.

    Args:
      config: Of the model.
      dtype: Of the weights in the files.
    """
    c = config
    return {
        "architectures": ["ChameleonForConditionalGeneration"],
        "model_type": MODEL_TYPE,
        "vocab_size": c.vocab_size,
        "hidden_size": c.model_dim,
        "intermediate_size": c.mlp_dim,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.kv_heads,
        "max_position_embeddings": c.max_length,
        **_FIXED,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta},
        "swin_norm": c.norm_order == "post",
        "tie_word_embeddings": c.tie_embeddings,
        "attention_dropout": 0.0,
        "bos_token_id": Vocab.BOS,
        "eos_token_id": Vocab.EOS,
        "pad_token_id": Vocab.PAD,
        "use_cache": True,
        "dtype": dtype,
    }


def from_config(where: str, record: Mapping[str, Any]) -> TransformerConfig:
    """Returns our config of a Chameleon's `config.json`.

    Args:
      where: The file, for messages.
      record: Its fields.

    Raises:
      ValueError: If it is no Chameleon, or one with choices that the published ones have
        not.
    """
    if record.get("model_type") != MODEL_TYPE:
        raise ValueError(
            f"{where}: model_type={record.get('model_type')!r}, not {MODEL_TYPE!r}"
        )
    for name, needed in _FIXED.items():
        if record.get(name, needed) != needed:
            raise ValueError(
                f"{where}: {name}={record[name]!r}, the published Chameleons have"
                f" {needed!r}: its weights would be another function here"
            )
    sizes = _SIZES | {name: record[name] for name in _SIZES if record.get(name)}
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{where}: {name}={size!r} must be a positive integer")
    width, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    if width % heads:
        raise ValueError(f"{where}: {heads} heads do not divide hidden_size={width}")
    return TransformerConfig(
        num_layers=sizes["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=sizes["num_key_value_heads"],
        model_dim=width,
        head_dim=width // heads,
        mlp_dim=sizes["intermediate_size"],
        vocab_size=sizes["vocab_size"],
        max_length=sizes["max_position_embeddings"],
        activation="silu",
        gated_mlp=True,
        tie_embeddings=bool(record.get("tie_word_embeddings", False)),
        qk_norm=True,
        qk_norm_per_head=True,
        norm="rms",
        norm_order="post" if record.get("swin_norm") else "pre",
        positions="rotary",
        rope_theta=_theta(where, record),
        layer_norm_epsilon=_EPSILON,
    )


def _theta(where: str, record: Mapping[str, Any]) -> float:
    rope = record.get("rope_parameters") or {}
    kind = rope.get("rope_type", "default")
    if kind != "default" or record.get("rope_scaling"):
        raise ValueError(
            f"{where}: rotary positions of type {kind!r}, scaled by"
            f" {record.get('rope_scaling')}; the published Chameleons have 'default'"
        )
    return float(rope.get("rope_theta", record.get("rope_theta", _THETA)))
