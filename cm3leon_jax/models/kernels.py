"""Attention kernels of accelerators, from libraries, behind one signature.

Each is a function of one device with the signature of `attention.attend_packed`;
`cm3leon_jax.sharding.spread` puts it on a mesh. Their results differ from the plain
one on padding only, which carries no loss.

    platform   rows                    kernel
    cpu        any                     `attention.attend_packed` (XLA)
    tpu        any                     splash attention (Pallas)
    gpu        one document a row      cuDNN's flash attention, causal
    gpu        packed documents        the same with the mask of the documents

Letters: B rows, L sequence, H heads, K width per head.
"""

import dataclasses
import difflib
import functools
import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from cm3leon_jax.models import attention

KINDS = ("auto", "xla", "splash", "cudnn", "triton")
SAVED = "attention"  # `checkpoint_name` of what the kernel's backward pass needs
_PLATFORMS = {
    "splash": ("tpu",),
    "cudnn": ("gpu",),
    "triton": ("gpu",),
    "xla": ("cpu", "gpu", "tpu"),
}
_AUTO = {"cpu": "xla", "gpu": "cudnn", "tpu": "splash"}
_LANES = 128  # of a TPU's vector register: tiles are multiples of it
_TRITON_BLOCK = 128  # queries and keys a tile of the Triton kernel

Attention = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class AttentionConfig:
    """Which kernel computes attention in training, and its tiles.

    Tiles matter for splash attention only, and for its speed only. Rows shorter than
    a tile have smaller tiles; others are padded to a multiple of the tiles.

    Source: 512 is MaxText's default; its recipes for the fused backward pass take up
    to 2,048 keys, as the gradient of the queries is written once a tile of keys.

    Attributes:
      kind: one of `KINDS`; "auto" takes what suits the platform.
      block_q: queries a tile, forward.
      block_kv: keys a tile that are loaded at a time, forward.
      block_kv_compute: keys of it that are computed at a time.
      block_q_dkv: queries a tile, backward.
      block_kv_dkv: keys a tile that are loaded at a time, backward.
      block_kv_dkv_compute: keys of it that are computed at a time.
    """

    kind: str = "auto"
    block_q: int = 512
    block_kv: int = 1024
    block_kv_compute: int = 512
    block_q_dkv: int = 512
    block_kv_dkv: int = 2048
    block_kv_dkv_compute: int = 512

    def __post_init__(self):
        """Refuses kernels and tiles that no device could run."""
        if self.kind not in KINDS:
            near = difflib.get_close_matches(str(self.kind), KINDS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"attention.kind={self.kind!r} is not one of {KINDS}{hint}"
            )
        for name, size in self._tiles().items():
            if size < _LANES or size % _LANES:
                nearest = max(1, round(size / _LANES)) * _LANES
                raise ValueError(
                    f"attention.{name}={size} must be a multiple of {_LANES};"
                    f" the nearest is {nearest}"
                )
        for name in ("block_kv", "block_kv_dkv"):
            whole, part = getattr(self, name), getattr(self, f"{name}_compute")
            if whole % part:
                raise ValueError(
                    f"attention.{name}={whole} must be a multiple of"
                    f" {name}_compute={part}; the nearest is {-(-whole // part) * part}"
                )

    def _tiles(self) -> dict[str, int]:
        fields = dataclasses.asdict(self)
        return {name: fields[name] for name in fields if name != "kind"}


def choose(
    config: AttentionConfig, platform: str, *, dtype: str, is_packed: bool = True
) -> Attention:
    """Returns the attention function that a config asks for, on one device.

    Args:
      config: the kernel's name and tiles.
      platform: "cpu", "gpu" or "tpu", where it will run.
      dtype: of queries, keys and values.
      is_packed: whether a row may hold several documents or padding.

    Raises:
      ValueError: if the platform or the dtype has no such kernel.
    """
    kind = config.kind
    if kind == "auto":
        kind = _AUTO.get(platform, "xla")
        if kind == "cudnn" and dtype != "bfloat16":
            kind = "xla"  # cuDNN has half precision only
    if platform not in _PLATFORMS[kind]:
        raise ValueError(
            f"attention.kind={kind!r} runs on {' or '.join(_PLATFORMS[kind])}, not on"
            f" {platform}; use 'auto', which is {_AUTO.get(platform, 'xla')!r} here"
        )
    if kind == "cudnn" and dtype != "bfloat16":
        raise ValueError(
            f"attention.kind='cudnn' needs model.dtype='bfloat16', not {dtype!r};"
            " use 'auto' or 'xla' in float32"
        )
    kernels = {
        "xla": attention.attend_packed,
        "splash": functools.partial(splash, config=config),
        "cudnn": cudnn_packed if is_packed else cudnn_causal,
        "triton": triton,
    }
    return kernels[kind]


def splash(
    q_BLHK: jax.Array,
    k_BLHK: jax.Array,
    v_BLHK: jax.Array,
    segment_ids_BL: jax.Array,
    *,
    config: AttentionConfig,
    interpret: bool = False,
) -> jax.Array:
    """Returns `attention.attend_packed` by JAX's splash attention, for TPU.

    Tiles above the diagonal are skipped, scores stay on the chip, and one kernel
    computes all gradients.

    Args:
      q_BLHK: float[B, L, H, K], queries.
      k_BLHK: float[B, L, H, K], keys.
      v_BLHK: float[B, L, H, K], values.
      segment_ids_BL: int32[B, L], 1-based document number, 0 for padding.
      config: the tiles.
      interpret: whether to interpret the kernel, slowly, on any platform.

    Returns:
      float[B, L, H, K], in the dtype of `v_BLHK`.
    """
    # Imported here: it takes a second that jobs without a TPU need not spend.
    from jax.experimental.pallas.ops.tpu import splash_attention

    chex.assert_equal_shape([q_BLHK, k_BLHK, v_BLHK])
    _, length, num_heads, head_dim = q_BLHK.shape
    padded, tiles = _fit(config, length)
    causal = splash_attention.CausalMask((padded, padded))
    kernel = splash_attention.make_splash_mha_single_device(
        splash_attention.MultiHeadMask([causal] * num_heads),
        block_sizes=splash_attention.BlockSizes(**tiles, use_fused_bwd_kernel=True),
        residual_checkpoint_name=SAVED,
        interpret=interpret,
    )
    widen = lambda x: jnp.pad(x, [(0, 0), (0, padded - length)] + [(0, 0)] * 2)
    q, k, v = (
        widen(x).transpose(0, 2, 1, 3)
        for x in (q_BLHK * head_dim**-0.5, k_BLHK, v_BLHK)
    )
    segment_ids = jnp.pad(segment_ids_BL, [(0, 0), (0, padded - length)])
    segments = splash_attention.SegmentIds(segment_ids, segment_ids)
    mixed_BHLK = jnp.asarray(jax.vmap(kernel)(q, k, v, segments))
    return mixed_BHLK.transpose(0, 2, 1, 3)[:, :length]


def cudnn_causal(
    q_BLHK: jax.Array, k_BLHK: jax.Array, v_BLHK: jax.Array, segment_ids_BL: jax.Array
) -> jax.Array:
    """Returns causal attention by cuDNN, for rows of one document without padding.

    Arguments and result are those of `attention.attend_packed`; the segments are not
    looked at.
    """
    del segment_ids_BL
    return jax.nn.dot_product_attention(
        q_BLHK, k_BLHK, v_BLHK, is_causal=True, implementation="cudnn"
    )


def cudnn_packed(
    q_BLHK: jax.Array, k_BLHK: jax.Array, v_BLHK: jax.Array, segment_ids_BL: jax.Array
) -> jax.Array:
    """Returns `attention.attend_packed` by cuDNN, which is handed the mask.

    cuDNN's segments are not public in JAX. The mask takes 2 L^2 bytes a row, whatever
    the number of heads, and nothing is skipped that it hides.
    """
    return jax.nn.dot_product_attention(
        q_BLHK,
        k_BLHK,
        v_BLHK,
        mask=_never_empty(attention.packed_causal_mask(segment_ids_BL)),
        implementation="cudnn",
    )


def triton(
    q_BLHK: jax.Array,
    k_BLHK: jax.Array,
    v_BLHK: jax.Array,
    segment_ids_BL: jax.Array,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Returns `attention.attend_packed` by JAX's Pallas kernel for GPUs.

    It skips tiles above the diagonal and takes segments; JAX calls it deprecated.

    Args:
      q_BLHK: float[B, L, H, K], queries.
      k_BLHK: float[B, L, H, K], keys.
      v_BLHK: float[B, L, H, K], values.
      segment_ids_BL: int32[B, L], 1-based document number, 0 for padding.
      interpret: whether to interpret the kernel, slowly, on any platform.

    Returns:
      float[B, L, H, K], in the dtype of `v_BLHK`.
    """
    from jax.experimental.pallas.ops.gpu import attention as gpu_attention

    length = q_BLHK.shape[1]
    padded = _up(length, _TRITON_BLOCK)
    widen = lambda x: jnp.pad(
        x, [(0, 0), (0, padded - length)] + [(0, 0)] * (x.ndim - 2)
    )
    arrays = [widen(x) for x in (q_BLHK, k_BLHK, v_BLHK, segment_ids_BL)]
    scale = q_BLHK.shape[-1] ** -0.5
    mixed_BLHK = jnp.asarray(
        gpu_attention.mha(*arrays, sm_scale=scale, causal=True, interpret=interpret)
    )
    return mixed_BLHK[:, :length]


def _never_empty(mask_B1LM: jax.Array) -> jax.Array:
    """Lets padding see itself: an empty softmax would not be a number."""
    return mask_B1LM | jnp.eye(mask_B1LM.shape[-1], dtype=bool)[None, None]


def _fit(config: AttentionConfig, length: int) -> tuple[int, dict[str, Any]]:
    """The padded length, and tiles that divide it.

    Tiles that are computed at a time fix the padding; those that are only loaded at a
    time shrink to a divisor instead: 4,224 tokens become 4,608, not 6,144.
    """
    whole_row = _up(length, _LANES)
    part = {
        name: min(getattr(config, name), whole_row)
        for name in (
            "block_q",
            "block_kv_compute",
            "block_q_dkv",
            "block_kv_dkv_compute",
        )
    }
    padded = _up(length, math.lcm(*part.values()))
    loaded = {}
    for name in ("block_kv", "block_kv_dkv"):
        unit = part[f"{name}_compute"]
        sizes = range(unit, max(unit, getattr(config, name)) + 1, unit)
        loaded[name] = max(size for size in sizes if padded % size == 0)
    return padded, part | loaded


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit
