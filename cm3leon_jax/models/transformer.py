"""The decoder-only transformer of CM3Leon: the model, its cache, its sizes.

Parameters of all layers lie stacked, one array per kind with the layer as its
first dimension, so that training scans over one compiled layer. `unstack` gives separate
arrays per layer for decoding, where a scan would copy each slice at every step.

The module knows no mesh: `LOGICAL_AXES` names the dimensions of every
parameter, and `cm3leon_jax.sharding` holds the table from names to mesh axes.

Letters: B rows, L sequence, M cache slots, V vocabulary, D model width, H heads,
K width per head, F MLP width, 3 = query, key, value.
"""

import dataclasses
import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from flax import nnx

from cm3leon_jax.models import attention as attention_lib
from cm3leon_jax.models import layers

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
    "up_DF": ("embed", "mlp"),
    "down_FD": ("mlp", "embed"),
}

REMAT_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "offload": jax.checkpoint_policies.offload_dot_with_no_batch_dims(
        "device", "pinned_host"
    ),
}

_DTYPES = ("float32", "bfloat16")

Attention = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """What fixes a transformer's shape, initial values and numerics.

    Source: CM3Leon, arXiv:2309.02591, section 2 and Table 3, for sizes, no
    biases, no affine norms, init and positions; OPT's launcher in metaseq for
    ReLU and tied embeddings, which the paper does not state.

    Attributes:
      num_layers: blocks.
      num_heads: attention heads.
      model_dim: width of the residual stream.
      head_dim: width of one head.
      mlp_dim: inner width of the MLP (4 x model_dim in the paper).
      vocab_size: ids of the joint vocabulary.
      max_length: number of learned positions.
      activation: one of `layers.ACTIVATIONS`.
      tie_embeddings: whether the head is the token embedding.
      qk_norm: whether queries and keys are normalised per head, with a learned
        scale (Chameleon, arXiv:2405.09818, section 2.3; not in CM3Leon).
      layer_norm_epsilon: added to the variance (1e-5 in OPT).
      dtype: of the computation, "float32" or "bfloat16".
      product_dtype: in training, of the factors of products with weights, whose sums
        stay in `dtype`; None for `dtype`. "bfloat16" beside float32 is fast on CPU.
      param_dtype: of the parameters.
      remat: one of `REMAT_POLICIES`: what the backward pass computes again.
      scan_layers: whether training scans over the layers (constant compile time).
      init_std: of the truncated normal (cut at 3 std) of all weights but the
        output projections of the residual branches, which are 0.
      pos_init_std: of the position embedding.
    """

    num_layers: int
    num_heads: int
    model_dim: int
    head_dim: int
    mlp_dim: int
    vocab_size: int
    max_length: int
    activation: str = "relu"
    tie_embeddings: bool = True
    qk_norm: bool = False
    layer_norm_epsilon: float = 1e-5
    dtype: str = "float32"
    product_dtype: str | None = None
    param_dtype: str = "float32"
    remat: str = "none"
    scan_layers: bool = True
    init_std: float = 0.006
    pos_init_std: float = 0.0002

    def __post_init__(self):
        """Refuses unknown names and sizes below 1, before anything is built."""
        for name in ("num_layers", "num_heads", "model_dim", "head_dim", "mlp_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        _check_name("activation", self.activation, layers.ACTIVATIONS)
        _check_name("remat", self.remat, REMAT_POLICIES)
        for name in ("dtype", "param_dtype"):
            _check_name(name, getattr(self, name), _DTYPES)
        _check_name("product_dtype", self.product_dtype or self.dtype, _DTYPES)


class Block(nnx.Module):
    """One pre-norm layer: attention and an MLP, each added to the residual."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        """Draws the weights; both output projections are 0 (CM3Leon, section 2)."""
        c = self.config = config
        normal = _initializer(c, c.init_std)
        zeros = functools.partial(jnp.zeros, dtype=c.param_dtype)
        qkv = normal(rngs.params(), (c.model_dim, 3, c.num_heads, c.head_dim))
        self.qkv_D3HK = nnx.Param(qkv)
        self.out_HKD = nnx.Param(zeros((c.num_heads, c.head_dim, c.model_dim)))
        self.up_DF = nnx.Param(normal(rngs.params(), (c.model_dim, c.mlp_dim)))
        self.down_FD = nnx.Param(zeros((c.mlp_dim, c.model_dim)))
        if c.qk_norm:
            self.q_scale_K = nnx.Param(jnp.ones((c.head_dim,), c.param_dtype))
            self.k_scale_K = nnx.Param(jnp.ones((c.head_dim,), c.param_dtype))

    def __call__(
        self, x_BLD: jax.Array, segment_ids_BL: jax.Array, attention: Attention
    ) -> jax.Array:
        """Returns the residual stream after this layer.

        Args:
          x_BLD: float[B, L, D], residual stream.
          segment_ids_BL: int32[B, L], 1-based document number, 0 for padding.
          attention: of the signature of `attention.attend_packed`.

        Returns:
          float[B, L, D].
        """
        dtype = self.config.product_dtype
        q_BLHK, k_BLHK, v_BLHK = self._qkv(x_BLD, dtype)
        mixed_BLHK = attention(q_BLHK, k_BLHK, v_BLHK, segment_ids_BL)
        x_BLD = x_BLD + self._out(mixed_BLHK, dtype)
        return x_BLD + self._mlp(x_BLD, dtype)

    def extend(
        self,
        x_BLD: jax.Array,
        k_BHMK: jax.Array,
        v_BHMK: jax.Array,
        mask_B1LM: jax.Array,
        start: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns the residual stream and the cache with L more slots written.

        Args:
          x_BLD: float[B, L, D], residual stream of the new tokens.
          k_BHMK: float[B, H, M, K], cached keys.
          v_BHMK: float[B, H, M, K], cached values.
          mask_B1LM: bool[B, 1, L, M], slots that each new token may see.
          start: int32[], first slot to write.

        Returns:
          `(x_BLD, k_BHMK, v_BHMK)`.
        """
        q_BLHK, new_k_BLHK, new_v_BLHK = self._qkv(x_BLD)
        k_BHMK = attention_lib.write(k_BHMK, new_k_BLHK, start)
        v_BHMK = attention_lib.write(v_BHMK, new_v_BLHK, start)
        mixed_BLHK = attention_lib.attend_cached(q_BLHK, k_BHMK, v_BHMK, mask_B1LM)
        x_BLD = x_BLD + self._out(mixed_BLHK.astype(x_BLD.dtype))
        return x_BLD + self._mlp(x_BLD), k_BHMK, v_BHMK

    def _qkv(
        self, x_BLD: jax.Array, dtype: str | None = None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        c = self.config
        x_BLD = layers.layer_norm(x_BLD, c.layer_norm_epsilon)
        qkv_BL3HK = layers.project(x_BLD, self.qkv_D3HK[...], 1, dtype)
        q_BLHK, k_BLHK, v_BLHK = layers.unstack(qkv_BL3HK, 2)
        if c.qk_norm:
            q_BLHK = _scaled_norm(q_BLHK, self.q_scale_K, c)
            k_BLHK = _scaled_norm(k_BLHK, self.k_scale_K, c)
        return q_BLHK, k_BLHK, v_BLHK

    def _out(self, mixed_BLHK: jax.Array, dtype: str | None = None) -> jax.Array:
        return layers.project(mixed_BLHK, self.out_HKD[...], 2, dtype)

    def _mlp(self, x_BLD: jax.Array, dtype: str | None = None) -> jax.Array:
        c = self.config
        x_BLD = layers.layer_norm(x_BLD, c.layer_norm_epsilon)
        h_BLF = layers.project(x_BLD, self.up_DF[...], 1, dtype)
        h_BLF = layers.ACTIVATIONS[c.activation](h_BLF)
        return layers.project(h_BLF, self.down_FD[...], 1, dtype)


class Transformer(nnx.Module):
    """Decoder-only transformer over the joint vocabulary of text and image codes."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        """Draws the weights, the layers stacked."""
        c = self.config = config
        embedding = _initializer(c, c.init_std)
        self.token_embedding_VD = nnx.Param(
            embedding(rngs.params(), (c.vocab_size, c.model_dim))
        )
        positions = _initializer(c, c.pos_init_std)
        self.position_embedding_LD = nnx.Param(
            positions(rngs.params(), (c.max_length, c.model_dim))
        )
        if not c.tie_embeddings:
            self.head_VD = nnx.Param(
                embedding(rngs.params(), (c.vocab_size, c.model_dim))
            )
        keys = jax.random.split(rngs.params(), c.num_layers)
        self.blocks = jax.vmap(lambda key: Block(c, rngs=nnx.Rngs(params=key)))(keys)

    def __call__(
        self,
        tokens_BL: jax.Array,
        positions_BL: jax.Array,
        segment_ids_BL: jax.Array,
        *,
        attention: Attention | None = None,
    ) -> jax.Array:
        """Returns the features after the final norm, of packed rows.

        Args:
          tokens_BL: int32[B, L], ids in [0, vocab_size).
          positions_BL: int32[B, L], place in the document, in [0, max_length).
          segment_ids_BL: int32[B, L], 1-based document number, 0 for padding.
          attention: of the signature of `attention.attend_packed`, the default.

        Returns:
          float[B, L, D], in the config's dtype. `head` makes logits of it.
        """
        chex.assert_equal_shape([tokens_BL, positions_BL, segment_ids_BL])
        attention = attention or attention_lib.attend_packed

        def layer(x_BLD, block):
            return block(x_BLD, segment_ids_BL, attention), None

        if self.config.remat != "none":
            policy = REMAT_POLICIES[self.config.remat]
            layer = jax.checkpoint(layer, policy=policy, prevent_cse=False)
        x_BLD = self._embed(tokens_BL, positions_BL)
        if self.config.scan_layers and isinstance(self.blocks, Block):
            x_BLD, _ = jax.lax.scan(layer, x_BLD, self.blocks)
        else:
            for block in _layers(self):
                x_BLD, _ = layer(x_BLD, block)
        return layers.layer_norm(x_BLD, self.config.layer_norm_epsilon)

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
        size = self.config.vocab_size - start if size is None else size
        table_VD = self.output_table[start : start + size].astype(self.config.dtype)
        return jnp.einsum(
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
        shape = (batch, c.num_heads, length, c.head_dim)
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
        per_layer = zip(_layers(self), cache.k_BHMK, cache.v_BHMK, strict=True)
        for block, k_BHMK, v_BHMK in per_layer:
            x_BLD, k_BHMK, v_BHMK = block.extend(
                x_BLD, k_BHMK, v_BHMK, mask_B1LM, start
            )
            keys.append(k_BHMK)
            values.append(v_BHMK)
        x_BLD = layers.layer_norm(x_BLD, self.config.layer_norm_epsilon)
        cache = attention_lib.KVCache(
            tuple(keys), tuple(values), valid_BM, start + length
        )
        return x_BLD, cache

    def _embed(self, tokens_BL: jax.Array, positions_BL: jax.Array) -> jax.Array:
        token_BLD = self.token_embedding_VD[...].astype(self.config.dtype)[tokens_BL]
        table_LD = self.position_embedding_LD[...].astype(self.config.dtype)
        return token_BLD + table_LD[positions_BL]


def unstack(model: Transformer) -> Transformer:
    """Returns the same model with separate arrays for each layer, for decoding.

    Copies the layers once. The values are the same bits.
    """
    unstacked = nnx.clone(model)
    unstacked.blocks = nnx.List(_layers(model))
    return unstacked


def _layers(model: Transformer) -> list[Block]:
    if not isinstance(model.blocks, Block):
        return list(model.blocks)
    layer = lambda i: jax.tree.map(lambda x: x[i], model.blocks)
    return [layer(i) for i in range(model.config.num_layers)]


def _scaled_norm(
    x_BLHK: jax.Array, scale_K: nnx.Param, config: TransformerConfig
) -> jax.Array:
    scale_111K = scale_K[...].astype(x_BLHK.dtype)[None, None, None]
    return layers.layer_norm(x_BLHK, config.layer_norm_epsilon) * scale_111K


def _initializer(config: TransformerConfig, std: float) -> Callable[..., jax.Array]:
    def init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        # The paper's std is of the normal before it is cut at 3 std.
        draw = jax.random.truncated_normal(key, -3.0, 3.0, shape, jnp.float32)
        return (std * draw).astype(config.param_dtype)

    return init


def _check_name(field: str, value: str, known) -> None:
    if value not in known:
        raise ValueError(f"{field}={value!r} is not one of {sorted(known)}")
