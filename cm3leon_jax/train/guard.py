"""Steps that must not count: gradients that are not finite, losses that jump.

An optimizer is wrapped so that such a step leaves parameters and moments as they were,
to the bit, and says which array was bad. What happens then is "skip" (the run goes on,
up to a number of such steps in a row) or "stop" (no later step changes anything either,
until the host has seen it and ends the run). All of it is part of the state, so a
resumed run decides the same.

Source of skipping: PaLM, arXiv:2204.02311, section 5.1, restarts before a spike and
leaves some hundred batches out; here single steps are left out as they come.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cm3leon_jax.train import metrics as metrics_lib

_LOGGER = logging.getLogger(__name__)
ACTIONS = ("none", "skip", "stop")
HALTED = "halted"
BAD_ARRAY = "bad_array"
_MEAN_DECAY = 0.98  # of the running mean of the loss: about the last fifty steps


@dataclasses.dataclass(frozen=True)
class GuardConfig:
    """What is bad, and what is done then.

    Attributes:
      action: "none" leaves the optimizer as it is (a loss that is not finite ends the
        run when it is logged), "skip", or "stop".
      spike_factor: a loss so many times its running mean is bad too; 0 for never.
      spike_after: steps before the mean is trusted.
      max_in_a_row: bad steps one after the other that "skip" goes on from.
    """

    action: str = "none"
    spike_factor: float = 0.0
    spike_after: int = 100
    max_in_a_row: int = 10

    def __post_init__(self):
        """Refuses an action that does not exist, and a factor that is always met."""
        if self.action not in ACTIONS:
            raise ValueError(f"guard.action={self.action!r} must be one of {ACTIONS}")
        if self.spike_factor and self.spike_factor <= 1:
            raise ValueError(
                f"guard.spike_factor={self.spike_factor} must be above 1, or 0 for"
                " never; try 3"
            )


class GuardState(NamedTuple):
    """The wrapped optimizer's state and what the guard remembers.

    Attributes:
      inner: of the wrapped optimizer.
      mean_loss: float32[], running mean over the steps that counted.
      num_applied: int32[], steps that counted.
      in_a_row: int32[], steps since then that did not.
      is_halted: int32[], 1 if nothing may change any more.
      is_skipped: int32[], 1 if the last step did not count.
      bad_array: int32[], number of the first array whose last gradient was not finite,
        or -1.
    """

    inner: optax.OptState
    mean_loss: jax.Array
    num_applied: jax.Array
    in_a_row: jax.Array
    is_halted: jax.Array
    is_skipped: jax.Array
    bad_array: jax.Array


def wrap(
    optimizer: optax.GradientTransformation, config: GuardConfig
) -> optax.GradientTransformation:
    """Returns the optimizer that lets bad steps change nothing.

    Its `update` takes the loss as `value`.
    """
    if config.action == "none":
        return optimizer
    inner = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> GuardState:
        """The inner optimizer's state, no step applied and none bad."""
        zero = jnp.zeros((), jnp.int32)
        return GuardState(
            inner.init(params), jnp.zeros(()), zero, zero, zero, zero, zero - 1
        )

    def update(updates: Any, state: Any, params: Any = None, **extra: Any):
        """The inner update, or nothing at all if the step is bad."""
        value, gradient = extra["value"], updates
        bad_array = _first_bad(gradient)
        is_bad = (bad_array >= 0) | ~jnp.isfinite(value) | (state.is_halted > 0)
        if config.spike_factor:
            is_known = state.num_applied >= config.spike_after
            is_bad |= is_known & (value > config.spike_factor * state.mean_loss)
        updates, moments = inner.update(gradient, state.inner, params, **extra)
        # -0.0 is the one number that changes none when it is added, not even -0.0.
        still = lambda x: jnp.where(is_bad, jnp.asarray(-0.0, x.dtype), x)
        kept = lambda new, old: jnp.where(is_bad, old, new)
        in_a_row = jnp.where(is_bad, state.in_a_row + 1, 0)
        limit = 0 if config.action == "stop" else config.max_in_a_row
        decay = jnp.where(state.num_applied > 0, _MEAN_DECAY, 0.0)
        mean = decay * state.mean_loss + (1 - decay) * value
        return jax.tree.map(still, updates), GuardState(
            inner=jax.tree.map(kept, moments, state.inner),
            mean_loss=kept(mean, state.mean_loss),
            num_applied=state.num_applied + ~is_bad,
            in_a_row=in_a_row,
            is_halted=state.is_halted | (in_a_row > limit),
            is_skipped=is_bad.astype(jnp.int32),
            bad_array=bad_array,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def metrics(state: Any) -> dict[str, jax.Array]:
    """Returns what a step's metrics say of the guard; nothing without one.

    Args:
      state: of the optimizer, after the step.
    """
    if not isinstance(state, GuardState):
        return {}
    return {
        metrics_lib.SKIPPED: state.is_skipped,
        HALTED: state.is_halted,
        BAD_ARRAY: state.bad_array,
    }


class Inspector:
    """Reads every step's metrics on the host, one step late: warns, or ends the run."""

    def __init__(self, names: Sequence[str]):
        """Keeps the names of the model's arrays, in the order of its leaves."""
        self._names = names

    def __call__(self, step: int, values: Mapping[str, Any]) -> None:
        """Looks at a step that is done.

        Raises:
          FloatingPointError: if the guard halted; nothing changed since.
        """
        if metrics_lib.SKIPPED not in values:
            return
        wanted = (metrics_lib.SKIPPED, HALTED, BAD_ARRAY, "loss")
        found = jax.device_get({name: values[name] for name in wanted})
        if not found[metrics_lib.SKIPPED]:
            return
        bad = int(found[BAD_ARRAY])
        why = f"its loss is {float(found['loss']):.4g}"
        if bad >= 0:
            why += f", the gradient of {self._names[bad]!r} is not finite"
        if not found[HALTED]:
            _LOGGER.warning("step %d changed nothing: %s", step, why)
            return
        raise FloatingPointError(
            f"step {step} changed nothing: {why}; look at the rows of this step, lower"
            " the learning rate, or set guard.action to 'skip'"
        )


def _first_bad(gradient: Any) -> jax.Array:
    flags = jnp.stack([jnp.isfinite(g).all() for g in jax.tree.leaves(gradient)])
    return jnp.where(flags.all(), -1, jnp.argmin(flags)).astype(jnp.int32)
