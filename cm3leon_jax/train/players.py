"""What two players have in common: optimizers, the adversarial terms, averages of weights.

The first player makes pictures (a tokenizer, a super-resolution network), the second, a
discriminator, tells them from real ones. All weights of a network are one vector here.

Letters: B pictures, Y and X rows and columns, C channels, W weights of a network.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import flatten_util

from cm3leon_jax import sharding

MAX_ADAPTIVE_WEIGHT = 1e4  # taming-transformers, vqperceptual.py


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Adam with a warm-up and a cosine, for both players.

    Attributes:
      peak_lr: the first player's largest learning rate.
      discriminator_lr: the discriminator's.
      warmup_steps: linear growth.
      num_steps: steps of the whole run.
      final_share: the last learning rate over the largest.
      beta1: decay of the mean of gradients.
      beta2: decay of the mean of squares.
      clip_norm: largest norm of the gradients of a player.
      average_decay: of the moving average of the weights, which is what is
        exported.
    """

    peak_lr: float = 5e-6
    discriminator_lr: float = 4.5e-6
    warmup_steps: int = 1_000
    num_steps: int = 800_000
    final_share: float = 0.1
    beta1: float = 0.5
    beta2: float = 0.9
    clip_norm: float = 1.0
    average_decay: float = 0.999


class Players(NamedTuple):
    """The optimizers of the two players."""

    model: optax.GradientTransformation
    discriminator: optax.GradientTransformation


def optimizers(config: OptimizerConfig) -> Players:
    """Returns the two players' optimizers, of weights as one vector (see `apply`)."""
    return Players(
        *(
            optax.chain(
                optax.clip_by_global_norm(config.clip_norm),
                optax.adam(schedule(peak, config), config.beta1, config.beta2),
            )
            for peak in (config.peak_lr, config.discriminator_lr)
        )
    )


def schedule(peak: float, config: OptimizerConfig) -> optax.Schedule:
    """Returns the learning rate by step: linear warm-up, then a cosine."""
    return optax.warmup_cosine_decay_schedule(
        0.0, peak, config.warmup_steps, config.num_steps, peak * config.final_share
    )


def adaptive_weight(
    reconstruction_gradient: jax.Array, adversarial_gradient: jax.Array
) -> jax.Array:
    """Returns how much the adversarial term counts, from both gradients' norms.

    The adversarial term is scaled to pull on the last layer as strongly as the
    reconstruction does, at most `MAX_ADAPTIVE_WEIGHT` times.

    Args:
      reconstruction_gradient: float[...], of the last layer's kernel.
      adversarial_gradient: float[...], likewise.

    Returns:
      float[], in [0, MAX_ADAPTIVE_WEIGHT], without gradient.

    Source: Taming Transformers, arXiv:2012.09841, equation 7.
    """
    norms = [
        jnp.sqrt(jnp.sum(gradient**2))
        for gradient in (reconstruction_gradient, adversarial_gradient)
    ]
    weight = jnp.clip(norms[0] / (norms[1] + 1e-4), 0.0, MAX_ADAPTIVE_WEIGHT)
    return jax.lax.stop_gradient(weight)


def hinge_loss(real_BYXC: jax.Array, fake_BYXC: jax.Array) -> jax.Array:
    """Returns the discriminator's hinge loss from scores of real and fake patches."""
    real = jnp.mean(jax.nn.relu(1.0 - real_BYXC))
    return 0.5 * (real + jnp.mean(jax.nn.relu(1.0 + fake_BYXC)))


def ramp(step: jax.Array, start: int, length: int) -> jax.Array:
    """Returns the share with which a term counts: 0 before its start, then up to 1.

    Args:
      step: int32[], steps done.
      start: the first step at which the term counts.
      length: steps until it counts in full.
    """
    since = (step - start + 1).astype(jnp.float32)
    return jnp.clip(since / max(length, 1), 0.0, 1.0)


def apply(player: optax.GradientTransformation, gradients, optimizer_state, model):
    """Returns the model and optimizer after a step, unchanged if it is not finite.

    All weights are one vector here: in a small network hundreds of little operations
    take longer, to compile and to run, than the arithmetic in them.
    """
    gradients_W, weights_W = vector(gradients), vector(model)

    def move():
        """The weights and moments after the update."""
        updates_W, state = player.update(gradients_W, optimizer_state, weights_W)
        return weights_W + jnp.asarray(updates_W), state

    is_finite = jnp.isfinite(optax.tree.norm(gradients_W))
    # A branch, not a selection: its result is not computed anew for every weight.
    new_W, new_state = jax.lax.cond(
        is_finite, move, lambda: (weights_W, optimizer_state)
    )
    return like(model, new_W), new_state, 1.0 - is_finite.astype(jnp.float32)


def vector(model) -> jax.Array:
    """Returns all weights of a model: float32[W]."""
    return flatten_util.ravel_pytree(model)[0]


def like(model, weights_W: jax.Array):
    """Returns a model with the weights of `vector`."""
    return flatten_util.ravel_pytree(model)[1](weights_W)


def average(
    average_W: jax.Array, model: Any, step: jax.Array, decay: float
) -> jax.Array:
    """Returns the moving average of the weights; young averages forget faster."""
    done = step.astype(jnp.float32)
    kept = jnp.minimum(decay, (1.0 + done) / (10.0 + done))
    return kept * average_W + (1.0 - kept) * vector(model)


def placement() -> tuple[Callable[[Any], Any], Callable[[np.ndarray], jax.Array]]:
    """Returns what puts a state on every device, and a batch's rows over them all.

    Of several hosts each is given the same state and the whole batch, and takes its own
    devices' rows of it.
    """
    mesh = sharding.make_mesh(sharding.MeshConfig())
    rows = jax.sharding.NamedSharding(mesh, sharding.spec(("batch",)))
    everywhere = jax.sharding.NamedSharding(mesh, sharding.spec(()))
    return (
        lambda state: jax.device_put(state, everywhere),
        lambda batch: jax.make_array_from_callback(
            batch.shape, rows, lambda index: batch[index]
        ),
    )
