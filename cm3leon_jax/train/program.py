"""The training step as it is compiled: the function, where its arrays lie, their shapes.

One place decides shardings and kernels, for the job that trains and for the plan that
only compiles.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from cm3leon_jax import cpu, sharding
from cm3leon_jax import vocab as vocab_lib
from cm3leon_jax.documents.packing import Batch
from cm3leon_jax.models import kernels, transformer
from cm3leon_jax.train import state, step


@dataclasses.dataclass(frozen=True)
class Program:
    """A step that is ready to be called, traced or compiled.

    Attributes:
      step: jitted `(state, batch) -> (state, metrics)`, its state donated.
      init: jitted `key -> state`, every array made where it belongs.
      places: sharding of every array of the state.
      mesh: of the devices that run it.
    """

    step: Any
    init: Any
    places: state.TrainState
    mesh: jax.sharding.Mesh

    @property
    def shapes(self) -> state.TrainState:
        """Shapes of the state, with their shardings; nothing is allocated."""
        found = jax.eval_shape(self.init, jax.random.key(0))
        place = lambda leaf, where: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=where
        )
        return jax.tree.map(place, found, self.places)


def make(
    model: transformer.TransformerConfig,
    update: optax.GradientTransformation,
    config: step.StepConfig,
    vocab: vocab_lib.Vocab,
    mesh: jax.sharding.Mesh,
    *,
    attention: kernels.Attention | None = None,
    trained: tuple[str, ...] = ("*",),
) -> Program:
    """Returns the step of a model on a mesh.

    Args:
      model: its shape and numerics.
      update: from `optimizer.make`.
      config: how the step is cut into pieces.
      vocab: whose id ranges tell text from pictures.
      mesh: from `sharding.make_mesh`.
      attention: see `transformer.Transformer.__call__`.
      trained: see `step.make`.

    Raises:
      ValueError: if a dimension of the model is not a multiple of its mesh axis.
    """
    init = lambda key: state.init(model, update, key)
    places = sharding.shardings(
        jax.eval_shape(init, jax.random.key(0)), mesh, transformer.LOGICAL_AXES
    )
    one_step = step.make(
        config, update, vocab, attention=attention, mesh=mesh, trained=trained
    )
    jitted = jax.jit(
        one_step,
        in_shardings=(places, sharding.batch_sharding(mesh)),
        out_shardings=(places, None),
        donate_argnums=0,
        compiler_options=cpu.compiler_options(mesh),
    )
    return Program(jitted, jax.jit(init, out_shardings=places), places, mesh)


def model_shapes(config: transformer.TransformerConfig) -> transformer.Transformer:
    """Returns a model of shapes without values, for the names of its parameters."""
    make_model = lambda: transformer.Transformer(config, rngs=nnx.Rngs(params=0))
    return jax.eval_shape(make_model)


def num_parameters(config: transformer.TransformerConfig) -> int:
    """Returns the exact number of parameters of a model."""
    return sum(leaf.size for leaf in jax.tree.leaves(model_shapes(config)))


def batch_shapes(num_rows: int, length: int) -> Batch:
    """Returns the shapes of a global batch of packed rows."""
    kinds = {name: jnp.int32 for name in Batch._fields} | {"weights_BL": jnp.float32}
    shapes: dict[str, Any] = {
        name: jax.ShapeDtypeStruct((num_rows, length), kind)
        for name, kind in kinds.items()
    }
    return Batch(**shapes)
