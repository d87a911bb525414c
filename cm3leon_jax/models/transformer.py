"""The decoder-only transformer of CM3Leon: the model, its cache, its sizes.

Parameters of all layers lie stacked, one array per kind with the layer as its
first dimension, so that training scans over one compiled layer. `unstack` gives separate
arrays per layer for decoding, where a scan would copy each slice at every step.

The module knows no mesh: `LOGICAL_AXES` names the dimensions of every
parameter, and `cm3leon_jax.sharding` holds the table from names to mesh axes.

Letters: B rows, L sequence, M cache slots, V vocabulary, D model width, H heads,
K width per head, F MLP width, 3 = query, key, value.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from flax import nnx

from cm3leon_jax.models import attention as attention_lib
from cm3leon_jax.models import block as block_lib
from cm3leon_jax.models import kernels, layers, remat
from cm3leon_jax.models.block import Block, TransformerConfig

Attention = kernels.Attention

# Logical axes of every parameter, by the name of its attribute; a stacked array
# has "layers" in front.
LOGICAL_AXES = {
    "token_embedding_VD": ("vocab", "embed"),
    "position_embedding_LD": ("position", "embed"),
    "head_VD": ("vocab", "embed"),
    "qkv_D3HK": ("embed", "qkv", "heads", "head_dim"),
    "out_HKD": ("heads", "head_dim", "embed"),
    "q_scale_K": ("head_dim",),
    "k_scale_K": ("head_dim",),
    # Choices that CM3Leon does not make; few heads of keys may not divide by an axis.
    "q_DHK": ("embed", "heads", "head_dim"),
    "kv_D2GK": ("embed", "qkv", None, "head_dim"),
    "gate_DF": ("embed", "mlp"),
    "attention_scale_D": ("embed",),
    "mlp_scale_D": ("embed",),
    "final_scale_D": ("embed",),
    "q_scale_HK": ("heads", "head_dim"),
    "q_bias_HK": ("heads", "head_dim"),
    "k_scale_GK": (None, "head_dim"),
    "k_bias_GK": (None, "head_dim"),
    "up_DF": ("embed", "mlp"),
    "down_FD": ("mlp", "embed"),
}


class Transformer(nnx.Module):
    """Decoder-only transformer over the joint vocabulary of text and image codes."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        """Draws the weights, the layers stacked."""
        c = self.config = config
        embedding = block_lib.initializer(c, c.init_std)
        self.token_embedding_VD = nnx.Param(
            embedding(rngs.params(), (c.vocab_size, c.model_dim))
        )
        if c.positions == "learned":
            positions = block_lib.initializer(c, c.pos_init_std)
            self.position_embedding_LD = nnx.Param(
                positions(rngs.params(), (c.max_length, c.model_dim))
            )
        if c.norm == "rms":
            self.final_scale_D = nnx.Param(jnp.ones((c.model_dim,), c.param_dtype))
        if not c.tie_embeddings:
            self.head_VD = nnx.Param(
                embedding(rngs.params(), (c.vocab_size, c.model_dim))
            )
        keys = jax.random.split(rngs.params(), c.num_layers)
        stacked = jax.vmap(lambda key: Block(c, rngs=nnx.Rngs(params=key)))(keys)
        self.blocks: Block | nnx.List[Block] = stacked  # a list when unstacked

    def __call__(
        self,
        tokens_BL: jax.Array,
        positions_BL: jax.Array,
        segment_ids_BL: jax.Array,
        *,
        attention: Attention | None = None,
        constrain: block_lib.Constrain = block_lib.anywhere,
        shared: block_lib.Shared | None = None,
    ) -> jax.Array:
        """Returns the features after the final norm, of packed rows.

        Args:
          tokens_BL: int32[B, L], ids in [0, vocab_size).
          positions_BL: int32[B, L], place in the document, in [0, max_length).
          segment_ids_BL: int32[B, L], 1-based document number, 0 for padding.
          attention: of the signature of `attention.attend_packed`, the default.
          constrain: says where an activation of given logical axes lies; see
            `sharding.constrain`.
          shared: how devices share the layers' weights; see `shares.of_weights`.

        Returns:
          float[B, L, D], in the config's dtype. `head` makes logits of it.
        """
        chex.assert_equal_shape([tokens_BL, positions_BL, segment_ids_BL])
        attention = attention or attention_lib.attend_packed

        def layer(x_BLD, block):
            return (
                block(
                    x_BLD, segment_ids_BL, attention, constrain, positions_BL, shared
                ),
                None,
            )

        if self.config.remat != "none":
            policy = remat.policy_of(self.config.remat)
            layer = jax.checkpoint(layer, policy=policy, prevent_cse=False)
        x_BLD = self._embed(tokens_BL, positions_BL, constrain)
        x_BLD = constrain(x_BLD, ("batch", "length", None))
        if self.config.scan_layers and isinstance(self.blocks, Block):
            x_BLD, _ = jax.lax.scan(layer, x_BLD, self.blocks)
        else:
            for block in blocks_of(self):
                x_BLD, _ = layer(x_BLD, block)
        return self._final_norm(x_BLD)

    def head(
        self, x_BLD: jax.Array, start: int = 0, size: int | None = None
    ) -> jax.Array:
        """Returns logits of the ids [start, start + size), all ids by default.

        Fewer ids cost less: inside an image only its codes are possible.

        Args:
          x_BLD: float[B, L, D], from `__call__` or `extend`.
          start: first id, static.
          size: number of ids, static; the rest of the vocabulary by default.

        Returns:
          float32[B, L, size].
        """
        return self.scorer(start, size)(x_BLD)

    def scorer(
        self, start: int = 0, size: int | None = None
    ) -> Callable[[jax.Array], jax.Array]:
        """Returns `head` of some ids as a function, its rows taken out of the table.

        A loop that is given the function takes them out once, not at every step.
        """
        size = self.config.vocab_size - start if size is None else size
        table_VD = self.output_table[start : start + size].astype(self.config.dtype)
        return lambda x_BLD: jnp.einsum(
            "bld,vd->blv", x_BLD, table_VD, preferred_element_type=jnp.float32
        )

    @property
    def output_table(self) -> jax.Array:
        """The head's weights, float[V, D]: the token embedding when tied."""
        tied = self.config.tie_embeddings
        return (self.token_embedding_VD if tied else self.head_VD)[...]

    def init_cache(
        self, batch: int, length: int, dtype: str | None = None
    ) -> attention_lib.KVCache:
        """Returns an empty cache.

        Args:
          batch: rows.
          length: slots, for the prompt and what is drawn after it.
          dtype: of keys and values; the config's dtype by default.

        Returns:
          A cache of which no slot is written.
        """
        c = self.config
        shape = (batch, c.kv_heads, length, c.head_dim)
        # Separate arrays: donation needs each buffer to appear once.
        pairs = [
            (jnp.zeros(shape, dtype or c.dtype), jnp.zeros(shape, dtype or c.dtype))
            for _ in range(c.num_layers)
        ]
        k_BHMK, v_BHMK = zip(*pairs, strict=True)
        valid_BM = jnp.zeros((batch, length), bool)
        return attention_lib.KVCache(k_BHMK, v_BHMK, valid_BM, jnp.zeros((), jnp.int32))

    def extend(
        self,
        tokens_BL: jax.Array,
        positions_BL: jax.Array,
        cache: attention_lib.KVCache,
        valid_BL: jax.Array | None = None,
    ) -> tuple[jax.Array, attention_lib.KVCache]:
        """Runs L more tokens: a prompt at once, or one step of decoding.

        Row b's token l takes slot `cache.length + l` and sees the valid slots up
        to its own. Prompts of different lengths are padded on the left, with
        `valid_BL` False on the padding; features of padding mean nothing. Call
        it on an unstacked model (`unstack`): the layers are unrolled. Slots past
        the cache's end are the caller's error and are not detected.

        Args:
          tokens_BL: int32[B, L], ids.
          positions_BL: int32[B, L], place in the sequence, padding not counted.
          cache: from `init_cache` or an earlier call; donate it.
          valid_BL: bool[B, L], False on padding; all True by default.

        Returns:
          `(x_BLD, cache)`, features after the final norm and the longer cache.
        """
        batch, length = tokens_BL.shape
        if valid_BL is None:
            valid_BL = jnp.ones((batch, length), bool)
        start = cache.length
        valid_BM = jax.lax.dynamic_update_slice(cache.valid_BM, valid_BL, (0, start))
        slots_1M = jnp.arange(valid_BM.shape[1])[None]
        past_LM = slots_1M <= (start + jnp.arange(length))[:, None]
        mask_B1LM = (valid_BM[:, None, :] & past_LM[None])[:, None]

        x_BLD = self._embed(tokens_BL, positions_BL)
        keys, values = [], []
        per_layer = zip(blocks_of(self), cache.k_BHMK, cache.v_BHMK, strict=True)
        for block, k_BHMK, v_BHMK in per_layer:
            x_BLD, k_BHMK, v_BHMK = block.extend(
                x_BLD, k_BHMK, v_BHMK, mask_B1LM, start, positions_BL
            )
            keys.append(k_BHMK)
            values.append(v_BHMK)
        x_BLD = self._final_norm(x_BLD)
        cache = attention_lib.KVCache(
            tuple(keys), tuple(values), valid_BM, start + length
        )
        return x_BLD, cache

    def _final_norm(self, x_BLD: jax.Array) -> jax.Array:
        c = self.config
        if c.norm == "rms":
            return layers.rms_norm(x_BLD, self.final_scale_D[...], c.layer_norm_epsilon)
        return layers.layer_norm(x_BLD, c.layer_norm_epsilon)

    def _embed(
        self,
        tokens_BL: jax.Array,
        positions_BL: jax.Array,
        constrain: block_lib.Constrain = block_lib.anywhere,
    ) -> jax.Array:
        # A device looks up its own columns for all rows that share a copy of the
        # tables: less to send than the tables, and their gradients stay in place.
        ids, columns = ("replica", "length"), ("replica", "length", "embed")
        tokens_BL, positions_BL = (
            constrain(tokens_BL, ids),
            constrain(positions_BL, ids),
        )
        tables = [(self.token_embedding_VD, tokens_BL)]
        if self.config.positions == "learned":
            tables.append((self.position_embedding_LD, positions_BL))
        x_BLD, *places = (
            jnp.asarray(layers.lookup(table[...], ids_BL, self.config.dtype))
            for table, ids_BL in tables
        )
        for places_BLD in places:
            x_BLD = x_BLD + places_BLD
        return constrain(x_BLD, columns)


def unstack(model: Transformer) -> Transformer:
    """Returns the same model with separate arrays for each layer, for decoding.

    Copies the layers once. The values are the same bits.
    """
    unstacked = nnx.clone(model)
    unstacked.blocks = nnx.List(blocks_of(model))
    return unstacked


def blocks_of(model: Transformer) -> list[Block]:
    """Returns the layers one by one, whether they are stacked or not."""
    blocks = model.blocks
    if not isinstance(blocks, Block):
        return list(blocks)
    layer = lambda i: jax.tree.map(lambda x: x[i], blocks)
    return [layer(i) for i in range(model.config.num_layers)]
