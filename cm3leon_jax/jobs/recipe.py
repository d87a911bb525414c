"""What a training config says, as frozen parts: for whoever trains, rehearses or plans.

A config's model, optimizer, guard, mesh and attention mean the same in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import optax

from cm3leon_jax import cpu, sharding
from cm3leon_jax import vocab as vocab_lib
from cm3leon_jax.data import streams
from cm3leon_jax.documents import cm3, packing
from cm3leon_jax.models import kernels, transformer
from cm3leon_jax.train import guard, optimizer, program

# Fields that change what is computed, and no array's shape.
_FUNCTION = (
    "activation",
    "norm",
    "norm_order",
    "positions",
    "rope_theta",
    "layer_norm_epsilon",
)


def model(
    config: ml_collections.ConfigDict, vocab: vocab_lib.Vocab, *, is_cpu: bool
) -> transformer.TransformerConfig:
    """Returns the model of a training config, whose vocabulary comes with shards.

    Args:
      config: Of the run.
      vocab: Of the shards.
      is_cpu: Whether it runs on a CPU, for `product_dtype="auto"`.

    Raises:
      ValueError: If a field has no such value.
    """
    fields = config.model.to_dict()
    if fields["product_dtype"] == "auto":
        is_fast = is_cpu and cpu.multiplies_bfloat16()
        fields["product_dtype"] = "bfloat16" if is_fast else None
    return transformer.TransformerConfig(vocab_size=vocab.size, **fields)


def check_same_function(
    path: str,
    given: transformer.TransformerConfig,
    model: transformer.TransformerConfig,
) -> None:
    """Refuses weights whose arrays would fit, but were trained in another function.

    Args:
      path: Of the weights, for the message.
      given: What they were trained in.
      model: What is to be trained.

    Raises:
      ValueError: With the first field that differs.
    """
    for name in _FUNCTION:
        theirs, ours = getattr(given, name), getattr(model, name)
        if theirs != ours:
            raise ValueError(
                f"{path} was trained with {name}={theirs!r}, this run has {ours!r}; set"
                f" --config.model.{name}={theirs}"
            )


def mesh(
    config: ml_collections.ConfigDict,
    model: transformer.TransformerConfig,
    devices: Sequence[Any] | None = None,
    *,
    axes: sharding.MeshConfig | None = None,
    num_microbatches: int | None = None,
) -> jax.sharding.Mesh:
    """Returns the mesh of a training config.

    Args:
      config: Of the run.
      model: From `model`.
      devices: All there are by default; they need not be there.
      axes: In place of `config.mesh`.
      num_microbatches: In place of the config's.

    Raises:
      ValueError: If devices, rows or heads do not divide among its axes.
    """
    axes = axes or sharding.MeshConfig(**config.mesh.to_dict())
    made = sharding.make_mesh(axes, list(devices) if devices else None)
    sharding.check_rows(
        made,
        num_rows=config.loader.batch_size,
        length=config.loader.max_length,
        num_heads=model.num_heads,
        num_microbatches=num_microbatches or config.step.num_microbatches,
    )
    return made


def loader(config: ml_collections.ConfigDict, **changes: Any) -> streams.LoaderConfig:
    """Returns how a training config's documents become batches.

    Args:
      config: Of the run.
      **changes: Fields in place of the config's.

    Raises:
      ValueError: If a field has no such value.
    """
    fields = config.loader.to_dict()
    fields["cm3"] = cm3.CM3Config(**fields["cm3"])
    fields["weights"] = packing.LossWeights(**fields["weights"])
    return streams.LoaderConfig(**(fields | changes))


def update(
    config: ml_collections.ConfigDict,
    model: transformer.TransformerConfig,
    vocab: vocab_lib.Vocab,
) -> optax.GradientTransformation:
    """Returns the optimizer of a training config, with its guard.

    Raises:
      ValueError: If a pattern of `optimizer.trained` names no parameter.
    """
    plain = optimizer.make(
        optimizer.OptimizerConfig(
            num_steps=config.loop.num_steps, **config.optimizer.to_dict()
        ),
        program.model_shapes(model),
        vocab,
    )
    return guard.wrap(plain, guard.GuardConfig(**config.guard.to_dict()))


def attention(
    config: ml_collections.ConfigDict,
    model: transformer.TransformerConfig,
    mesh: jax.sharding.Mesh,
    platform: str,
    *,
    is_packed: bool | None = None,
) -> kernels.Attention:
    """Returns the attention of a training config, on its mesh.

    Args:
      config: Of the run.
      model: From `model`.
      mesh: From `mesh`.
      platform: "tpu", "gpu" or "cpu", which `attention.kind="auto"` goes by.
      is_packed: Whether rows hold several documents; as the loader packs by default.

    Raises:
      ValueError: If the kernel does not run there, or not on such rows.
    """
    if is_packed is None:
        is_packed = bool(config.loader.packing != "cut")
    kernel = kernels.choose(
        kernels.AttentionConfig(**config.attention.to_dict()),
        platform,
        dtype=model.dtype,
        is_packed=is_packed,
    )
    return sharding.spread(kernel, mesh)
