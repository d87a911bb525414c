"""CM3Leon as OPT, the architecture of `transformers` that it is a case of.

    ours                          theirs
    token_embedding_VD            model.decoder.embed_tokens.weight (and the tied head)
    position_embedding_LD         model.decoder.embed_positions.weight, from row 2 on
    blocks/qkv_D3HK               layers.N.self_attn.{q,k,v}_proj.weight [H*K, D]
    blocks/out_HKD                layers.N.self_attn.out_proj.weight [D, H*K]
    blocks/up_DF, blocks/down_FD  layers.N.fc1.weight [F, D], fc2.weight [D, F]

No biases, no scales of norms, epsilon 1e-5, which OPT has fixed. OPT numbers positions
from 2; its first two rows are read at padding alone, and are zeros here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cm3leon_jax.convert.table import Row
from cm3leon_jax.models.block import TransformerConfig
from cm3leon_jax.vocab import Vocab

MODEL_TYPE = "opt"
TIED_HEAD = "lm_head.weight"  # written by some programs though it is the embedding
FOREIGN = ()  # beginnings of names of other models in the same folder
EMBEDDING = "model.decoder.embed_tokens.weight"
_NUM_UNUSED_POSITIONS = 2
_EPSILON = 1e-5
# What must be so in their config for our model to be the same function, with the value
# that a config without the field has.
_FIXED: dict[str, tuple[Any, Any]] = {
    "activation_function": ("relu", "relu"),
    "do_layer_norm_before": (True, True),
    "_remove_final_layer_norm": (False, False),
    "enable_bias": (False, True),
    "layer_norm_elementwise_affine": (False, True),
}
_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "ffn_dim",
    "max_position_embeddings",
)


def check(config: TransformerConfig) -> None:
    """Refuses a model that OPT cannot hold.

    Raises:
      ValueError: With the field, what it is, and what it would have to be.
    """
    for name, needed in (
        ("activation", "relu"),
        ("qk_norm", False),
        ("norm", "layer"),
        ("norm_order", "pre"),
        ("positions", "learned"),
        ("gated_mlp", False),
        ("kv_heads", config.num_heads),
        ("layer_norm_epsilon", _EPSILON),
        ("head_dim", config.model_dim // config.num_heads),
    ):
        value = getattr(config, name)
        if value != needed:
            raise ValueError(
                f"OPT cannot hold {name}={value!r}, only {needed!r}; a model trained"
                " with it has no place in stock transformers as OPT"
            )
    if config.model_dim % config.num_heads:
        raise ValueError(
            f"OPT cannot hold {config.num_heads} heads in model_dim="
            f"{config.model_dim}, which they do not divide"
        )


def rows(config: TransformerConfig) -> list[Row]:
    """The table of a model's arrays."""
    c = config
    found = [
        Row("token_embedding_VD", (EMBEDDING,), (c.vocab_size, c.model_dim)),
        Row(
            "position_embedding_LD",
            ("model.decoder.embed_positions.weight",),
            (c.max_length, c.model_dim),
            extra_rows=_NUM_UNUSED_POSITIONS,
        ),
    ]
    if not c.tie_embeddings:
        found.append(Row("head_VD", (TIED_HEAD,), (c.vocab_size, c.model_dim)))
    for layer in range(c.num_layers):
        front = f"model.decoder.layers.{layer}"
        heads = (c.num_heads, c.head_dim)
        qkv = tuple(f"{front}.self_attn.{x}_proj.weight" for x in "qkv")
        shape = (c.model_dim, 3, *heads)
        found += [
            Row("blocks/qkv_D3HK", qkv, shape, layer, num_inputs=1, split=1),
            Row(
                "blocks/out_HKD",
                (f"{front}.self_attn.out_proj.weight",),
                (*heads, c.model_dim),
                layer,
                num_inputs=2,
            ),
            Row(
                "blocks/up_DF",
                (f"{front}.fc1.weight",),
                (c.model_dim, c.mlp_dim),
                layer,
                num_inputs=1,
            ),
            Row(
                "blocks/down_FD",
                (f"{front}.fc2.weight",),
                (c.mlp_dim, c.model_dim),
                layer,
                num_inputs=1,
            ),
        ]
    return found


def to_config(config: TransformerConfig, dtype: str) -> dict[str, Any]:
    """Returns the fields of `config.json`; call `check` first.

    Args:
      config: Of the model.
      dtype: Of the weights in the files.
    """
    c = config
    return {
        "architectures": ["OPTForCausalLM"],
        "model_type": MODEL_TYPE,
        "vocab_size": c.vocab_size,
        "hidden_size": c.model_dim,
        "word_embed_proj_dim": c.model_dim,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_heads,
        "ffn_dim": c.mlp_dim,
        "max_position_embeddings": c.max_length,
        **{name: value for name, (value, _) in _FIXED.items()},
        "tie_word_embeddings": c.tie_embeddings,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "layerdrop": 0.0,
        "bos_token_id": Vocab.EOS,  # every document begins with `</s>`
        "eos_token_id": Vocab.EOS,
        "pad_token_id": Vocab.PAD,
        "use_cache": True,
        "dtype": dtype,
    }


def from_config(where: str, record: Mapping[str, Any]) -> TransformerConfig:
    """Returns our config of an OPT's `config.json`.

    Args:
      where: The file, for messages.
      record: Its fields.

    Raises:
      ValueError: If it is no OPT, or one that is not CM3Leon's case of it.
    """
    if record.get("model_type") != MODEL_TYPE:
        raise ValueError(
            f"{where}: model_type={record.get('model_type')!r}; known: {MODEL_TYPE!r}"
        )
    for name, (needed, default) in _FIXED.items():
        value = record.get(name, default)
        if value != needed:
            raise ValueError(
                f"{where}: {name}={value!r}, CM3Leon has {needed!r}: its weights would"
                " be another function here"
            )
    sizes: dict[str, Any] = {name: record.get(name) for name in _SIZES}
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{where}: {name}={size!r} must be a positive integer")
    width, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    if record.get("word_embed_proj_dim", width) not in (width, None):
        raise ValueError(
            f"{where}: word_embed_proj_dim={record['word_embed_proj_dim']} differs from"
            f" hidden_size={width}; CM3Leon's embedding is as wide as the model"
        )
    if width % heads:
        raise ValueError(f"{where}: {heads} heads do not divide hidden_size={width}")
    return TransformerConfig(
        num_layers=sizes["num_hidden_layers"],
        num_heads=heads,
        model_dim=width,
        head_dim=width // heads,
        mlp_dim=sizes["ffn_dim"],
        vocab_size=sizes["vocab_size"],
        max_length=sizes["max_position_embeddings"],
        tie_embeddings=bool(record.get("tie_word_embeddings", True)),
        layer_norm_epsilon=_EPSILON,
    )
