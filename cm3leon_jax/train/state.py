"""What training changes: the step, the model's parameters, the optimizer's moments."""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from cm3leon_jax import storage
from cm3leon_jax.models import transformer
from cm3leon_jax.train import checkpoint, stored

CHECKPOINTS = "checkpoints"  # folder of the job's checkpoints in its workdir
_MODEL = "model/"  # beginning of the names of the model's arrays


class TrainState(NamedTuple):
    """All that must be saved to continue a run byte for byte, but the data's place.

    Attributes:
      step: int32[], updates done.
      model: parameters in their own dtype.
      optimizer: optax's state.
    """

    step: jax.Array
    model: transformer.Transformer
    optimizer: optax.OptState


def init(
    config: transformer.TransformerConfig,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
) -> TrainState:
    """Returns the state before the first step; jit it with the mesh's shardings.

    Args:
      config: of the model.
      optimizer: from `optimizer.make`.
      key: random key of the initial values.
    """
    model = transformer.Transformer(config, rngs=nnx.Rngs(params=key))
    moments = optimizer.init(cast(optax.Params, model))  # of any pytree
    return TrainState(jnp.zeros((), jnp.int32), model, moments)


def load_model(
    workdir: str, like: transformer.Transformer | None = None
) -> tuple[transformer.Transformer, dict[str, Any]]:
    """Returns the newest model of a training job's folder, and its context.

    The optimizer's moments are not read.

    Args:
      workdir: of the job `train`.
      like: a model of arrays or shapes whose shardings the arrays take, so that no host
        holds more than its part; by default they come whole, as np.ndarrays.

    Returns:
      The model, and the context of its checkpoint: "model" (fields of the
      `TransformerConfig`), "shards" (a `SetInfo`: vocabulary and digests), "config"
      (the resolved config).

    Raises:
      FileNotFoundError: if there is no checkpoint.
      ValueError: if checkpoint and program do not agree about the model, or a weight
        is not finite.
    """
    places = {_MODEL + k: x for k, x in checkpoint.flatten(like).items()}
    folder = str(storage.place(workdir) / CHECKPOINTS)
    found = checkpoint.read(folder, prefix=_MODEL, like=places)
    for name, array in found.state.items():
        if not jnp.isfinite(array).all():
            raise ValueError(
                f"{workdir}: {name!r} holds weights that are not finite; take an earlier"
                " checkpoint"
            )
    config = transformer.TransformerConfig(**found.context["model"])
    make = lambda: transformer.Transformer(config, rngs=nnx.Rngs(params=0))
    return fill(jax.eval_shape(make), found.state, prefix=_MODEL), found.context


def open_model(workdir: str) -> checkpoint.Checkpoint:
    """Returns a training job's newest checkpoint, its model's arrays left on disk.

    What `load_model` refuses is refused; the state is a `stored.Stored`.
    """
    folder = str(storage.place(workdir) / CHECKPOINTS)
    return stored.open_newest(folder, prefix=_MODEL)


def fill(model: Any, arrays: Mapping[str, Any], prefix: str = "") -> Any:
    """Returns a model with named arrays in place of its own.

    Args:
      model: pytree of arrays or shapes, which says what is needed.
      arrays: by name, as `checkpoint.flatten` names them.
      prefix: of the model's names among them.

    Raises:
      ValueError: if an array is missing or has another shape.
    """
    for name, leaf in checkpoint.flatten(model).items():
        found = arrays.get(prefix + name)
        if found is None or tuple(found.shape) != tuple(leaf.shape):
            shape = "none" if found is None else tuple(found.shape)
            raise ValueError(
                f"weights have {shape} for {name!r} of shape {tuple(leaf.shape)}; "
                "use the model config that they were trained with"
            )
    named = {name: arrays[prefix + name] for name in checkpoint.flatten(model)}
    return checkpoint.unflatten(named, model)
