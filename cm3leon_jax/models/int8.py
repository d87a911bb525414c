"""A transformer for decoding whose weights, and cache if wanted, are kept in 8 bits.

Weight-only: the weights are read as int8 and multiplied in the model's dtype. A scale
belongs to each output of a product (and to each id of the embedding), so it multiplies
the result, not the weights. Decoding reads every weight for every id: of float32's
bytes a quarter. What it costs is in docs/benchmarks.md (`benchmarks/int8.py`): of small
models one code in several thousand changes; on CPU it is no faster.

Letters: as in `transformer`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cm3leon_jax.models import attention as attention_lib
from cm3leon_jax.models import block as block_lib
from cm3leon_jax.models import layers, transformer
from cm3leon_jax.models.block import Block
from cm3leon_jax.models.transformer import Transformer

# The inputs of each product: the dimensions that share a scale.
_INPUTS = {"qkv_D3HK": 0, "out_HKD": (0, 1), "up_DF": 0, "down_FD": 0}


class Int8Block(Block):
    """A layer of an unstacked model, its weights in 8 bits."""

    def __init__(self, block: Block):
        """Rounds the weights of a layer."""
        self.config = block.config
        for name, inputs in _INPUTS.items():
            values, scale = attention_lib.rounded(getattr(block, name)[...], inputs)
            setattr(self, name, nnx.Param(values))
            setattr(self, _scale_of(name), nnx.Param(jnp.squeeze(scale, inputs)))
        if block.config.qk_norm:
            self.q_scale_K = nnx.Param(block.q_scale_K[...])
            self.k_scale_K = nnx.Param(block.k_scale_K[...])

    def _project(
        self,
        x: jax.Array,
        name: str,
        num_inputs: int,
        dtype: str | None = None,
        shared: block_lib.Shared | None = None,
    ) -> jax.Array:
        del shared  # no gradients
        product = layers.contract(x, getattr(self, name)[...], num_inputs, dtype)
        scale = getattr(self, _scale_of(name))[...].astype(product.dtype)
        return product * jnp.broadcast_to(scale, product.shape)


class Int8Transformer(Transformer):
    """A model that only decodes; `round_weights` makes it."""

    def __init__(self, model: Transformer, cache: bool):
        """Rounds the weights of an unstacked model; position embeddings stay."""
        self.config = model.config
        self.cache = cache
        self.position_embedding_LD = nnx.Param(model.position_embedding_LD[...])
        names = ["token_embedding_VD"]
        names += [] if model.config.tie_embeddings else ["head_VD"]
        for name in names:
            values, scale = attention_lib.rounded(getattr(model, name)[...], 1)
            setattr(self, name, nnx.Param(values))
            setattr(self, _scale_of(name), nnx.Param(scale[:, 0]))
        self.blocks = nnx.List(
            [Int8Block(block) for block in transformer.blocks_of(model)]
        )

    def scorer(
        self, start: int = 0, size: int | None = None
    ) -> Callable[[jax.Array], jax.Array]:
        """As `Transformer.scorer`."""
        score = super().scorer(start, size)
        name = "token_embedding_VD" if self.config.tie_embeddings else "head_VD"
        scale_V = getattr(self, _scale_of(name))[...][start:]
        scale_V = scale_V if size is None else scale_V[:size]
        return lambda x_BLD: score(x_BLD) * scale_V[None, None]

    def init_cache(
        self, batch: int, length: int, dtype: str | None = None
    ) -> attention_lib.KVCache:
        """As `Transformer.init_cache`, in 8 bits if the model is to have it so."""
        empty = super().init_cache(batch, length, dtype)
        if not self.cache:
            return empty

        def narrow(x_BHMK: Any) -> attention_lib.Rounded:
            values_BHMK = jnp.zeros(x_BHMK.shape, jnp.int8)
            return attention_lib.Rounded(
                values_BHMK, jnp.zeros((*x_BHMK.shape[:3], 1), jnp.float32)
            )

        return empty._replace(
            k_BHMK=tuple(map(narrow, empty.k_BHMK)),
            v_BHMK=tuple(map(narrow, empty.v_BHMK)),
        )

    def _embed(
        self,
        tokens_BL: jax.Array,
        positions_BL: jax.Array,
        constrain: block_lib.Constrain = block_lib.anywhere,
    ) -> jax.Array:
        dtype = self.config.dtype
        scale_V = getattr(self, _scale_of("token_embedding_VD"))[...]
        x_BLD = self.token_embedding_VD[...][tokens_BL].astype(dtype)
        x_BLD *= scale_V[tokens_BL][..., None].astype(dtype)
        places_LD = self.position_embedding_LD[...]
        return constrain(
            x_BLD + places_LD[positions_BL].astype(dtype), ("batch", "length", None)
        )


def round_weights(model: Transformer, *, cache: bool = False) -> Int8Transformer:
    """Returns an unstacked model with its weights in 8 bits.

    Args:
      model: Unstacked (`transformer.unstack`); it is not changed.
      cache: Whether keys and values are cached in 8 bits too.

    Raises:
      ValueError: If the model is stacked, or has choices that CM3Leon does not make.
    """
    c = model.config
    is_ours = (c.norm, c.positions, c.gated_mlp) == ("layer", "learned", False)
    if not is_ours or c.kv_heads != c.num_heads or c.qk_norm_per_head:
        raise ValueError(
            "weights in 8 bits are for CM3Leon's own layers; this model has"
            f" norm={c.norm!r}, positions={c.positions!r}, gated_mlp={c.gated_mlp}"
        )
    if isinstance(model.blocks, Block):
        raise ValueError(
            "only an unstacked model decodes; use transformer.unstack first"
        )
    return Int8Transformer(model, cache)


def _scale_of(name: str) -> str:
    """The attribute that holds the scale of the weights of this name."""
    return f"{name.rsplit('_', 1)[0]}_scale"
