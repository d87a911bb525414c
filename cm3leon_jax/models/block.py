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
from cm3leon_jax.models import kernels, layers, remat

Constrain = Callable[[jax.Array, tuple[str | None, ...]], jax.Array]
# Of a weight's name: how the devices share it; see `layers.project`.
Shared = Callable[[str], layers.Shared]
Project = Callable[[jax.Array, str, int], jax.Array]

_DTYPES = ("float32", "bfloat16")
NORMS = ("layer", "rms")
NORM_ORDERS = ("pre", "post")
POSITIONS = ("learned", "rotary")


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
      qk_norm_per_head: whether each head has a scale and a shift of its own, as in the
        published Chameleons.
      num_kv_heads: heads of keys and values, each shared by as many neighbouring query
        heads; None for one a query head.
      norm: "layer" (without learned scale) or "rms" (with one).
      norm_order: "pre" (of what a branch reads) or "post" (of what it adds, as in
        Chameleon's 30B).
      positions: "learned" (added to the embedding) or "rotary".
      rope_theta: base of the rotary wavelengths.
      gated_mlp: whether a second product gates the activation (SwiGLU with "silu").
      layer_norm_epsilon: added to the variance (1e-5 in OPT).
      dtype: of the computation, "float32" or "bfloat16".
      product_dtype: in training, of the factors of products with weights, whose sums
        stay in `dtype`; None for `dtype`. "bfloat16" beside float32 is fast on CPU.
      gradient_dtype: in training, that the weights' gradients are rounded to before
        devices add theirs: "bfloat16" halves what is sent.
      param_dtype: of the parameters.
      remat: one of `remat.POLICIES`: what the backward pass computes again.
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
    qk_norm_per_head: bool = False
    num_kv_heads: int | None = None
    norm: str = "layer"
    norm_order: str = "pre"
    positions: str = "learned"
    rope_theta: float = 10_000.0
    gated_mlp: bool = False
    layer_norm_epsilon: float = 1e-5
    dtype: str = "float32"
    product_dtype: str | None = None
    gradient_dtype: str = "float32"
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
        _check_name("remat", self.remat, remat.POLICIES)
        _check_name("norm", self.norm, NORMS)
        _check_name("norm_order", self.norm_order, NORM_ORDERS)
        _check_name("positions", self.positions, POSITIONS)
        if self.num_kv_heads is not None and (
            self.num_kv_heads < 1 or self.num_heads % self.num_kv_heads
        ):
            raise ValueError(
                f"num_kv_heads={self.num_kv_heads} must divide the"
                f" {self.num_heads} heads"
            )
        if self.positions == "rotary" and self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} must be even to be rotated")
        for name in ("dtype", "param_dtype", "gradient_dtype"):
            _check_name(name, getattr(self, name), _DTYPES)
        _check_name("product_dtype", self.product_dtype or self.dtype, _DTYPES)

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_kv_heads or self.num_heads


class Block(nnx.Module):
    """One pre-norm layer: attention and an MLP, each added to the residual."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        """Draws the weights; both output projections are 0 (CM3Leon, section 2)."""
        c = self.config = config
        normal = initializer(c, c.init_std)
        zeros = functools.partial(jnp.zeros, dtype=c.param_dtype)
        if c.kv_heads == c.num_heads:
            qkv = normal(rngs.params(), (c.model_dim, 3, c.num_heads, c.head_dim))
            self.qkv_D3HK = nnx.Param(qkv)
        else:
            q = normal(rngs.params(), (c.model_dim, c.num_heads, c.head_dim))
            kv = normal(rngs.params(), (c.model_dim, 2, c.kv_heads, c.head_dim))
            self.q_DHK, self.kv_D2GK = nnx.Param(q), nnx.Param(kv)
        self.out_HKD = nnx.Param(zeros((c.num_heads, c.head_dim, c.model_dim)))
        self.up_DF = nnx.Param(normal(rngs.params(), (c.model_dim, c.mlp_dim)))
        self.down_FD = nnx.Param(zeros((c.mlp_dim, c.model_dim)))
        if c.gated_mlp:
            self.gate_DF = nnx.Param(normal(rngs.params(), (c.model_dim, c.mlp_dim)))
        ones = functools.partial(jnp.ones, dtype=c.param_dtype)
        if c.norm == "rms":
            self.attention_scale_D = nnx.Param(ones((c.model_dim,)))
            self.mlp_scale_D = nnx.Param(ones((c.model_dim,)))
        if c.qk_norm and c.qk_norm_per_head:
            self.q_scale_HK = nnx.Param(ones((c.num_heads, c.head_dim)))
            self.q_bias_HK = nnx.Param(zeros((c.num_heads, c.head_dim)))
            self.k_scale_GK = nnx.Param(ones((c.kv_heads, c.head_dim)))
            self.k_bias_GK = nnx.Param(zeros((c.kv_heads, c.head_dim)))
        elif c.qk_norm:
            self.q_scale_K = nnx.Param(ones((c.head_dim,)))
            self.k_scale_K = nnx.Param(ones((c.head_dim,)))

    def __call__(
        self,
        x_BLD: jax.Array,
        segment_ids_BL: jax.Array,
        attention: kernels.Attention,
        constrain: Constrain = anywhere,
        positions_BL: jax.Array | None = None,
        shared: Shared | None = None,
    ) -> jax.Array:
        """Returns the residual stream after this layer.

        Args:
          x_BLD: float[B, L, D], residual stream.
          segment_ids_BL: int32[B, L], 1-based document number, 0 for padding.
          attention: of the signature of `attention.attend_packed`.
          constrain: see `Transformer.__call__`.
          positions_BL: int32[B, L], needed where positions are rotary.
          shared: see `Transformer.__call__`.

        Returns:
          float[B, L, D].
        """
        project = functools.partial(
            self._project, dtype=self.config.product_dtype, shared=shared
        )
        q_BLHK, k_BLGK, v_BLGK = self._qkv(x_BLD, positions_BL, project)
        k_BLHK, v_BLHK = self._share(k_BLGK, 2), self._share(v_BLGK, 2)
        mixed_BLHK = attention(q_BLHK, k_BLHK, v_BLHK, segment_ids_BL)
        residual = ("batch", "length", None)
        x_BLD = constrain(x_BLD + self._out(mixed_BLHK, project), residual)
        return constrain(x_BLD + self._mlp(x_BLD, project, constrain), residual)

    def extend(
        self,
        x_BLD: jax.Array,
        k_BHMK: attention_lib.Cached,
        v_BHMK: attention_lib.Cached,
        mask_B1LM: jax.Array,
        start: jax.Array,
        positions_BL: jax.Array | None = None,
    ) -> tuple[jax.Array, attention_lib.Cached, attention_lib.Cached]:
        """Returns the residual stream and the cache with L more slots written.

        Args:
          x_BLD: float[B, L, D], residual stream of the new tokens.
          k_BHMK: float[B, H, M, K] or rounded, cached keys, of `kv_heads` heads.
          v_BHMK: float[B, H, M, K] or rounded, cached values, likewise.
          mask_B1LM: bool[B, 1, L, M], slots that each new token may see.
          start: int32[], first slot to write.
          positions_BL: int32[B, L], needed where positions are rotary.

        Returns:
          `(x_BLD, k_BHMK, v_BHMK)`.
        """
        q_BLHK, new_k_BLHK, new_v_BLHK = self._qkv(x_BLD, positions_BL)
        if x_BLD.shape[1] > 1:
            k_BHMK = attention_lib.write(k_BHMK, new_k_BLHK, start)
            v_BHMK = attention_lib.write(v_BHMK, new_v_BLHK, start)
            seen = (self._share(k_BHMK, 1), self._share(v_BHMK, 1))
            mixed_BLHK = attention_lib.attend_cached(q_BLHK, *seen, mask_B1LM)
        else:
            slots_111M = jnp.arange(mask_B1LM.shape[-1])[None, None, None]
            past_B11M = mask_B1LM & (slots_111M < start)
            mixed_BLHK = attention_lib.attend_next(
                q_BLHK,
                self._share(new_k_BLHK, 2),
                self._share(new_v_BLHK, 2),
                self._share(k_BHMK, 1),
                self._share(v_BHMK, 1),
                past_B11M,
            )
            # Never true, but XLA must have read the cache before it knows what to
            # write, and so writes in place; else it copies all of it at every step.
            is_never_BLGK = mixed_BLHK[:, :, : self.config.kv_heads] < -jnp.inf
            new_k_BLGK, new_v_BLGK = (
                jnp.where(is_never_BLGK, 0, new) for new in (new_k_BLHK, new_v_BLHK)
            )
            k_BHMK = attention_lib.write(k_BHMK, new_k_BLGK, start)
            v_BHMK = attention_lib.write(v_BHMK, new_v_BLGK, start)
        x_BLD = x_BLD + self._out(mixed_BLHK.astype(x_BLD.dtype))
        return x_BLD + self._mlp(x_BLD), k_BHMK, v_BHMK

    def _qkv(
        self,
        x_BLD: jax.Array,
        positions_BL: jax.Array | None,
        project: Project | None = None,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries of all heads, keys and values of `kv_heads`."""
        c, project = self.config, project or self._project
        if c.norm_order == "pre":
            x_BLD = self._norm(x_BLD, "attention_scale_D")
        if c.kv_heads == c.num_heads:
            qkv_BL3HK = project(x_BLD, "qkv_D3HK", 1)
            q_BLHK, k_BLGK, v_BLGK = layers.unstack(qkv_BL3HK, 2)
        else:
            q_BLHK = project(x_BLD, "q_DHK", 1)
            kv_BL2GK = project(x_BLD, "kv_D2GK", 1)
            k_BLGK, v_BLGK = layers.unstack(kv_BL2GK, 2)
        if c.qk_norm and c.qk_norm_per_head:
            q_BLHK = _affine_norm(q_BLHK, self.q_scale_HK, self.q_bias_HK, c)
            k_BLGK = _affine_norm(k_BLGK, self.k_scale_GK, self.k_bias_GK, c)
        elif c.qk_norm:
            q_BLHK = _scaled_norm(q_BLHK, self.q_scale_K, c)
            k_BLGK = _scaled_norm(k_BLGK, self.k_scale_K, c)
        if c.positions == "rotary":
            assert positions_BL is not None
            q_BLHK = layers.rotate(q_BLHK, positions_BL, c.rope_theta)
            k_BLGK = layers.rotate(k_BLGK, positions_BL, c.rope_theta)
        return q_BLHK, k_BLGK, v_BLGK

    def _share(self, x: Any, axis: int) -> Any:
        """Repeats heads of keys or values for the queries that share them."""
        c = self.config
        if c.kv_heads == c.num_heads:
            return x
        return jnp.repeat(x, c.num_heads // c.kv_heads, axis=axis)

    def _norm(self, x_BLD: jax.Array, name: str) -> jax.Array:
        c = self.config
        if c.norm == "rms":
            scale_D = getattr(self, name)[...]
            return layers.rms_norm(x_BLD, scale_D, c.layer_norm_epsilon)
        return layers.layer_norm(x_BLD, c.layer_norm_epsilon)

    def _out(self, mixed_BLHK: jax.Array, project: Project | None = None) -> jax.Array:
        project = project or self._project
        added_BLD = project(mixed_BLHK, "out_HKD", 2)
        if self.config.norm_order == "post":
            return self._norm(added_BLD, "attention_scale_D")
        return added_BLD

    def _mlp(
        self,
        x_BLD: jax.Array,
        project: Project | None = None,
        constrain: Constrain = anywhere,
    ) -> jax.Array:
        c, project = self.config, project or self._project
        if c.norm_order == "pre":
            x_BLD = self._norm(x_BLD, "mlp_scale_D")
        h_BLF = project(x_BLD, "up_DF", 1)
        if c.gated_mlp:
            gate_BLF = project(x_BLD, "gate_DF", 1)
            h_BLF = layers.ACTIVATIONS[c.activation](gate_BLF) * h_BLF
        else:
            h_BLF = layers.ACTIVATIONS[c.activation](h_BLF)
        h_BLF = constrain(h_BLF, ("batch", "length", "mlp"))
        added_BLD = project(h_BLF, "down_FD", 1)
        if c.norm_order == "post":
            return self._norm(added_BLD, "mlp_scale_D")
        return added_BLD

    def _project(
        self,
        x: jax.Array,
        name: str,
        num_inputs: int,
        dtype: str | None = None,
        shared: Shared | None = None,
    ) -> jax.Array:
        """The product with the weights of this name (`int8` has others)."""
        return layers.project(
            x,
            getattr(self, name)[...],
            num_inputs,
            dtype,
            self.config.gradient_dtype,
            shared(name) if shared else None,
        )


def _scaled_norm(
    x_BLHK: jax.Array, scale_K: nnx.Param, config: TransformerConfig
) -> jax.Array:
    scale_111K = scale_K[...].astype(x_BLHK.dtype)[None, None, None]
    return layers.layer_norm(x_BLHK, config.layer_norm_epsilon) * scale_111K


def _affine_norm(
    x_BLHK: jax.Array,
    scale_HK: nnx.Param,
    bias_HK: nnx.Param,
    config: TransformerConfig,
) -> jax.Array:
    scale_11HK, bias_11HK = (
        one[...].astype(x_BLHK.dtype)[None, None] for one in (scale_HK, bias_HK)
    )
    normed_BLHK = layers.layer_norm(x_BLHK, config.layer_norm_epsilon)
    return normed_BLHK * scale_11HK + bias_11HK


def initializer(config: TransformerConfig, std: float) -> Callable[..., jax.Array]:
    """Returns a function `(key, shape) -> array` that draws weights."""

    def init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Draws a truncated normal."""
        # The paper's std is of the normal before it is cut at 3 std.
        draw = jax.random.truncated_normal(key, -3.0, 3.0, shape, jnp.float32)
        return (std * draw).astype(config.param_dtype)

    return init


def _check_name(field: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        near = difflib.get_close_matches(str(value), known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{field}={value!r} is not one of {sorted(known)}{hint}")
