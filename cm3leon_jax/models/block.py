"""One layer of the transformer, and the config that fixes shapes and numerics.

Letters: B rows, L sequence, M cache slots, D model width, H heads, K width per head,
F MLP width, 3 = query, key, value.
"""

import dataclasses
import difflib
import functools
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cm3leon_jax.models import attention as attention_lib
from cm3leon_jax.models import kernels, layers

# What the backward pass computes again, by name.
#   none     nothing: all intermediate values are kept
#   full     the whole layer, from its input
#   dots     all but products with weights, and what the attention kernel kept
#   offload  the same, kept in the host's memory
REMAT_POLICIES = ("none", "full", "dots", "offload")

Constrain = Callable[[jax.Array, tuple[str | None, ...]], jax.Array]

_DTYPES = ("float32", "bfloat16")


def anywhere(x: jax.Array, logical: tuple[str | None, ...]) -> jax.Array:
    """Returns `x`: one device needs no constraint."""
    del logical
    return x


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
        normal = initializer(c, c.init_std)
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
        self,
        x_BLD: jax.Array,
        segment_ids_BL: jax.Array,
        attention: kernels.Attention,
        constrain: Constrain = anywhere,
    ) -> jax.Array:
        """Returns the residual stream after this layer.

        Args:
          x_BLD: float[B, L, D], residual stream.
          segment_ids_BL: int32[B, L], 1-based document number, 0 for padding.
          attention: of the signature of `attention.attend_packed`.
          constrain: see `Transformer.__call__`.

        Returns:
          float[B, L, D].
        """
        dtype = self.config.product_dtype
        q_BLHK, k_BLHK, v_BLHK = self._qkv(x_BLD, dtype)
        mixed_BLHK = attention(q_BLHK, k_BLHK, v_BLHK, segment_ids_BL)
        residual = ("batch", "length", None)
        x_BLD = constrain(x_BLD + self._out(mixed_BLHK, dtype), residual)
        return constrain(x_BLD + self._mlp(x_BLD, dtype, constrain), residual)

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
        if x_BLD.shape[1] > 1:
            k_BHMK = attention_lib.write(k_BHMK, new_k_BLHK, start)
            v_BHMK = attention_lib.write(v_BHMK, new_v_BLHK, start)
            mixed_BLHK = attention_lib.attend_cached(q_BLHK, k_BHMK, v_BHMK, mask_B1LM)
        else:
            slots_111M = jnp.arange(mask_B1LM.shape[-1])[None, None, None]
            past_B11M = mask_B1LM & (slots_111M < start)
            mixed_BLHK = attention_lib.attend_next(
                q_BLHK, new_k_BLHK, new_v_BLHK, k_BHMK, v_BHMK, past_B11M
            )
            # Never true, but XLA must have read the cache before it knows where to
            # write, and so writes in place; else it copies all of it at every step.
            start += mixed_BLHK[0, 0, 0, 0] < -jnp.inf
            k_BHMK = attention_lib.write(k_BHMK, new_k_BLHK, start)
            v_BHMK = attention_lib.write(v_BHMK, new_v_BLHK, start)
        x_BLD = x_BLD + self._out(mixed_BLHK.astype(x_BLD.dtype))
        return x_BLD + self._mlp(x_BLD), k_BHMK, v_BHMK

    def _qkv(
        self, x_BLD: jax.Array, dtype: str | None = None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        c = self.config
        x_BLD = layers.layer_norm(x_BLD, c.layer_norm_epsilon)
        qkv_BL3HK = self._project(x_BLD, "qkv_D3HK", 1, dtype)
        q_BLHK, k_BLHK, v_BLHK = layers.unstack(qkv_BL3HK, 2)
        if c.qk_norm:
            q_BLHK = _scaled_norm(q_BLHK, self.q_scale_K, c)
            k_BLHK = _scaled_norm(k_BLHK, self.k_scale_K, c)
        return q_BLHK, k_BLHK, v_BLHK

    def _out(self, mixed_BLHK: jax.Array, dtype: str | None = None) -> jax.Array:
        return self._project(mixed_BLHK, "out_HKD", 2, dtype)

    def _mlp(
        self,
        x_BLD: jax.Array,
        dtype: str | None = None,
        constrain: Constrain = anywhere,
    ) -> jax.Array:
        c = self.config
        x_BLD = layers.layer_norm(x_BLD, c.layer_norm_epsilon)
        h_BLF = self._project(x_BLD, "up_DF", 1, dtype)
        h_BLF = layers.ACTIVATIONS[c.activation](h_BLF)
        h_BLF = constrain(h_BLF, ("batch", "length", "mlp"))
        return self._project(h_BLF, "down_FD", 1, dtype)

    def _project(
        self, x: jax.Array, name: str, num_inputs: int, dtype: str | None
    ) -> jax.Array:
        """The product with the weights of this name (`int8` has others)."""
        return layers.project(x, getattr(self, name)[...], num_inputs, dtype)


def _scaled_norm(
    x_BLHK: jax.Array, scale_K: nnx.Param, config: TransformerConfig
) -> jax.Array:
    scale_111K = scale_K[...].astype(x_BLHK.dtype)[None, None, None]
    return layers.layer_norm(x_BLHK, config.layer_norm_epsilon) * scale_111K


def initializer(config: TransformerConfig, std: float) -> Callable[..., jax.Array]:
    """Returns a function `(key, shape) -> array` that draws weights."""

    def init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Draws a truncated normal."""
        # The paper's std is of the normal before it is cut at 3 std.
        draw = jax.random.truncated_normal(key, -3.0, 3.0, shape, jnp.float32)
        return (std * draw).astype(config.param_dtype)

    return init


def remat_policy(name: str) -> Callable[..., Any]:
    """Returns the policy for `jax.checkpoint` of a name other than "none"."""
    policies = jax.checkpoint_policies
    if name == "full":
        return policies.nothing_saveable
    if name == "dots":
        products = policies.dots_with_no_batch_dims_saveable
        kept = policies.save_only_these_names(kernels.SAVED)
    else:
        places = ("device", "pinned_host")
        products = policies.offload_dot_with_no_batch_dims(*places)
        kept = policies.save_and_offload_only_these_names(
            names_which_can_be_saved=(),
            names_which_can_be_offloaded=(kernels.SAVED,),
            offload_src=places[0],
            offload_dst=places[1],
        )

    def policy(primitive, *args, **params):
        """Keeps products, and of what has a name an attention kernel's results."""
        chosen = kept if primitive.name == "name" else products
        return chosen(primitive, *args, **params)

    return policy


def _check_name(field: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        near = difflib.get_close_matches(str(value), known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{field}={value!r} is not one of {sorted(known)}{hint}")
