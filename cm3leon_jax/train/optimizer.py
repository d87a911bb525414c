"""AdamW with warm-up and linear decay, on the parameters that patterns name."""

import dataclasses
import fnmatch
from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cm3leon_jax.train import checkpoint
from cm3leon_jax.vocab import Vocab

# No weight decay on learned scales of norms, by the last part of the name.
_UNDECAYED = ("*scale*", "*bias*")
_TABLES = "*_VD"  # one row an id of the vocabulary
IDS = ("all", "image")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """What fixes the optimizer.

    Source: peak_lr and warmup_steps from CM3Leon, arXiv:2309.02591, Table 3; the
    paper gives no more, the rest are the defaults of OPT's launcher in metaseq.

    Attributes:
      peak_lr: learning rate after the warm-up.
      warmup_steps: linear from 0.
      num_steps: of the whole run, where the linear decay ends.
      final_lr_share: of the peak, at the end.
      beta1: decay of the first moment.
      beta2: decay of the second moment.
      epsilon: added to the root of the second moment.
      weight_decay: decoupled; not on scales of norms.
      clip_norm: largest norm of the gradient of all trained parameters.
      mu_dtype: of the first moment; "bfloat16" saves 2 bytes a parameter.
      trained: patterns of parameter names ("blocks/*") that are trained; the
        others stay as they are, to the bit.
      trained_ids: "all", or "image": of tables of the vocabulary that are trained, only
        rows of image codes change.
    """

    peak_lr: float
    warmup_steps: int
    num_steps: int
    final_lr_share: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    mu_dtype: str = "float32"
    trained: tuple[str, ...] = ("*",)
    trained_ids: str = "all"

    def __post_init__(self):
        """Refuses what would silently train nothing or for ever warm up."""
        if not 0 <= self.warmup_steps <= self.num_steps:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} must be in [0, {self.num_steps}],"
                " the steps of the run"
            )
        if isinstance(self.trained, str) or not self.trained:
            raise ValueError(f"trained={self.trained!r} must be a tuple of patterns")
        if self.trained_ids not in IDS:
            raise ValueError(f"trained_ids={self.trained_ids!r} must be one of {IDS}")


def schedule(config: OptimizerConfig) -> optax.Schedule:
    """Returns step -> learning rate: linear up, then linearly down.

    The first update, at step 0, has 1 / warmup_steps of the peak, not 0.
    """
    c = config
    warmup = max(1, c.warmup_steps)
    up = optax.linear_schedule(c.peak_lr / warmup, c.peak_lr, warmup - 1)
    left = max(1, c.num_steps - warmup)
    down = optax.linear_schedule(c.peak_lr, c.final_lr_share * c.peak_lr, left)
    return optax.join_schedules([up, down], [warmup - 1])


def make(
    config: OptimizerConfig, model: Any, vocab: Vocab | None = None
) -> optax.GradientTransformation:
    """Returns the optimizer of a model's parameters.

    Args:
      config: its numbers.
      model: pytree of parameters, or of their shapes, for the names.
      vocab: whose ids `trained_ids` names; not needed for "all".

    Raises:
      ValueError: if a pattern of `config.trained` names no parameter.
    """
    c = config
    names = list(checkpoint.flatten(model))
    for pattern in c.trained:
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"trained: {pattern!r} matches none of {names}")
    update = optax.chain(
        optax.clip_by_global_norm(c.clip_norm),
        optax.adamw(
            schedule(c),
            b1=c.beta1,
            b2=c.beta2,
            eps=c.epsilon,
            weight_decay=c.weight_decay,
            mu_dtype=c.mu_dtype,
            mask=lambda tree: _labels(tree, _UNDECAYED, False, True),
        ),
    )
    if c.trained_ids == "image":
        assert vocab is not None
        rows = (vocab.image_start, vocab.control_start)
        kept, still = _rows_alone(rows, 0.0), _rows_alone(rows, -0.0)
        update = optax.chain(kept, update, still)
    labels = _labels(model, c.trained, "trained", "frozen")
    if "frozen" not in jax.tree.leaves(labels):
        return update
    parts: dict[Hashable, optax.GradientTransformation]
    parts = {"trained": update, "frozen": optax.stateless(_unchanged)}
    # As a function: a model is callable, and optax would call it.
    return optax.partition(parts, lambda _: labels)


def hold(trained: tuple[str, ...], model: Any) -> Any:
    """Returns a model through whose other parameters no gradient flows.

    What leads to them alone is then not computed.
    """
    if trained == ("*",):
        return model
    flags = _labels(model, trained, True, False)
    keep = lambda is_trained, x: x if is_trained else jax.lax.stop_gradient(x)
    return jax.tree.map(keep, flags, model)


def _rows_alone(rows: tuple[int, int], other: float) -> optax.GradientTransformation:
    """Puts a number in the place of updates of all but some rows of tables."""

    def update(updates: Any, params: Any) -> Any:
        """The updates, the other rows of tables replaced."""
        del params

        def one(path, x):
            """An array's updates."""
            if not fnmatch.fnmatch(checkpoint.name_of(path), _TABLES):
                return x
            ids_V = jnp.arange(x.shape[0])
            is_kept_V = (ids_V >= rows[0]) & (ids_V < rows[1])
            return jnp.where(is_kept_V[:, None], x, jnp.asarray(other, x.dtype))

        return jax.tree_util.tree_map_with_path(one, updates)

    return optax.stateless(update)


def _unchanged(updates: Any, params: Any) -> Any:
    """Updates that keep every bit: 0.0 would turn a parameter of -0.0 into 0.0."""
    del params
    return jax.tree.map(lambda x: jnp.full_like(x, -0.0), updates)


def _labels(tree: Any, patterns: tuple[str, ...], matched: Any, other: Any) -> Any:
    def label(path, _):
        """What stands in a parameter's place."""
        name = checkpoint.name_of(path)
        return matched if any(fnmatch.fnmatch(name, p) for p in patterns) else other

    return jax.tree_util.tree_map_with_path(label, tree)
