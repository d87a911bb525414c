"""What training changes: the step, the model's parameters, the optimizer's moments."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from cm3leon_jax.models import transformer


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
    return TrainState(jnp.zeros((), jnp.int32), model, optimizer.init(model))
