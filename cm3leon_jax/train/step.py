"""One training step of the transformer, a pure function of state and batch.

Letters: B rows, L sequence, A microbatches.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cm3leon_jax import sharding
from cm3leon_jax import vocab as vocab_lib
from cm3leon_jax.documents.packing import Batch
from cm3leon_jax.models import attention as attention_lib
from cm3leon_jax.models import block, transformer
from cm3leon_jax.train import guard, losses, shares
from cm3leon_jax.train import optimizer as optimizer_lib
from cm3leon_jax.train.state import TrainState

POSITION_BIN = 1_000  # tokens; losses are reported by thousands of positions
_NO_TOKENS = 1.0  # divisor where a batch has no token of a kind: the sum is 0 too


@dataclasses.dataclass(frozen=True)
class StepConfig:
    """How a step is cut into pieces.

    Attributes:
      num_microbatches: pieces of the batch whose gradients are added up; same result.
      chunk_mib: mebibytes of float32 logits that a device holds at a time.
      z_loss: see `losses.next_token_loss`.
    """

    num_microbatches: int = 1
    chunk_mib: float = 64.0
    z_loss: float = 0.0


def make(
    config: StepConfig,
    optimizer: optax.GradientTransformation,
    vocab: vocab_lib.Vocab,
    *,
    attention: transformer.Attention | None = None,
    mesh: jax.sharding.Mesh | None = None,
    trained: tuple[str, ...] = ("*",),
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns the step, to be jitted once by the caller, its state donated.

    Losses are weighted by token over the whole batch, so that the number of
    microbatches and devices changes nothing. A batch without weight leaves the
    moments decayed and the loss 0.

    Args:
      config: the pieces.
      optimizer: from `optimizer.make`.
      vocab: whose id ranges tell text from pictures.
      attention: see `transformer.Transformer.__call__`; on a mesh wrapped by
        `sharding.spread`.
      mesh: that state and batch lie on; one device by default.
      trained: see `optimizer.OptimizerConfig`; gradients of others are 0.
    """
    on = _place(attention, mesh)
    sums_of = lambda model, batch: _sums(
        optimizer_lib.hold(trained, model), batch, config, vocab, on
    )
    gradients_of = jax.value_and_grad(sums_of, has_aux=True)
    optimizer = optax.with_extra_args_support(optimizer)

    def step(state: TrainState, batch: Batch):
        """Gradients of the batch, then one update."""
        (total, sums), gradient = _accumulated(
            gradients_of, state.model, batch, config.num_microbatches, on
        )
        weight = jnp.maximum(sums["weight"], _NO_TOKENS)
        gradient = jax.tree.map(lambda g: g / weight, gradient)
        metrics = _metrics(sums) | {
            "objective": total / weight,
            "gradient_norm": optax.tree.norm(gradient),
        }
        params = cast(optax.Params, state.model)  # optax takes any pytree
        updates, moments = optimizer.update(
            gradient, state.optimizer, params, value=metrics["loss"]
        )
        model = cast(transformer.Transformer, optax.apply_updates(params, updates))
        metrics |= guard.metrics(moments)
        return TrainState(state.step + 1, model, moments), metrics

    return step


def evaluation(
    config: StepConfig,
    vocab: vocab_lib.Vocab,
    *,
    attention: transformer.Attention | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Callable[[transformer.Transformer, Batch], dict[str, jax.Array]]:
    """Returns a function `(model, batch) -> sums`, to be jitted by the caller.

    Sums of several batches are added, then `means` makes losses of them.
    """
    on = _place(attention, mesh)
    return lambda model, batch: _sums(model, batch, config, vocab, on)[1]


def check(batch: Batch, vocab_size: int, max_length: int) -> None:
    """Refuses rows with ids or positions that the model's tables do not have.

    A device would take the nearest row of the table, without a word.

    Args:
      batch: this host's rows, on the host.
      vocab_size: ids of the model.
      max_length: positions of the model.

    Raises:
      ValueError: naming the first such value and its place.
    """
    for name, limit, remedy in (
        ("tokens_BL", vocab_size, "shards of the model's vocabulary"),
        ("targets_BL", vocab_size, "shards of the model's vocabulary"),
        ("positions_BL", max_length, "shorter rows or a longer model.max_length"),
    ):
        values = np.asarray(getattr(batch, name))
        if values.min() < 0 or values.max() >= limit:
            row, place = np.argwhere((values < 0) | (values >= limit))[0]
            raise ValueError(
                f"{name} is {values[row, place]} in row {row} at {place} and must be"
                f" in [0, {limit - 1}]; use {remedy}"
            )


def means(sums: dict[str, Any]) -> dict[str, float]:
    """Returns losses (nats a token) and perplexities: all, by modality, by position."""
    host = {name: float(value) for name, value in sums.items()}
    found = {"loss": host["nll"] / max(host["weight"], _NO_TOKENS)}
    kinds = [name.removeprefix("nll_") for name in host if name.startswith("nll_")]
    for kind in kinds:
        if "_at_" in f"_{kind}" and not host[f"weight_{kind}"]:
            continue  # no row is so long
        loss = host[f"nll_{kind}"] / max(host[f"weight_{kind}"], _NO_TOKENS)
        found |= {f"loss_{kind}": loss, f"perplexity_{kind}": float(jnp.exp(loss))}
    return found


class _Place(NamedTuple):
    """Where a step runs."""

    mesh: jax.sharding.Mesh | None
    attention: transformer.Attention
    constrain: block.Constrain
    shared: block.Shared | None


def _place(
    attention: transformer.Attention | None, mesh: jax.sharding.Mesh | None
) -> _Place:
    if mesh is None or mesh.size == 1:
        return _Place(
            None, attention or attention_lib.attend_packed, block.anywhere, None
        )
    attention = attention or sharding.spread(attention_lib.attend_packed, mesh)
    shared = shares.of_weights(mesh, transformer.LOGICAL_AXES)
    return _Place(mesh, attention, sharding.constrain(mesh), shared)


def _sums(
    model: transformer.Transformer,
    batch: Batch,
    config: StepConfig,
    vocab: vocab_lib.Vocab,
    on: _Place,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The objective's sum over a batch, and sums by modality of the target."""
    x_BLD = model(
        batch.tokens_BL,
        batch.positions_BL,
        batch.segment_ids_BL,
        attention=on.attention,
        constrain=on.constrain,
        shared=on.shared,
    )
    total, nll_BL = losses.next_token_loss(
        x_BLD,
        model.output_table,
        batch.targets_BL,
        batch.weights_BL,
        num_chunks=losses.chunks_for(
            int(config.chunk_mib * 2**20),
            num_rows=batch.tokens_BL.shape[0],
            length=batch.tokens_BL.shape[1],
            vocab_size=model.config.vocab_size,
            mesh=on.mesh,
        ),
        z_loss=config.z_loss,
        product_dtype=model.config.product_dtype,
        gradient_dtype=model.config.gradient_dtype,
        mesh=on.mesh,
    )
    # What the losses are reported over: every token with a weight, weighted.
    weights_BL = batch.weights_BL
    text_BL = weights_BL * vocab.is_text(batch.targets_BL)
    image_BL = weights_BL * vocab.is_image(batch.targets_BL)
    sums = {"tokens": jnp.sum(batch.segment_ids_BL > 0).astype(jnp.float32)}
    for suffix, kind_BL in (("", weights_BL), ("_text", text_BL), ("_image", image_BL)):
        sums |= {f"nll{suffix}": (kind_BL * nll_BL).sum()}
        sums |= {f"weight{suffix}": kind_BL.sum()}
        sums |= _by_position(suffix, kind_BL, nll_BL, batch.positions_BL)
    return total, sums


def _by_position(suffix: str, weights_BL, nll_BL, positions_BL) -> dict[str, jax.Array]:
    """Sums by thousands of the position, where rows are longer than one thousand.

    Retrieved documents stand first, so the later thousands tell what they are worth.
    """
    num_bins = -(-positions_BL.shape[1] // POSITION_BIN)
    sums = {}
    for index in range(num_bins if num_bins > 1 else 0):
        bin_BL = jnp.where(positions_BL // POSITION_BIN == index, weights_BL, 0)
        name = f"{suffix}_at_{index}k"
        sums |= {f"nll{name}": (bin_BL * nll_BL).sum(), f"weight{name}": bin_BL.sum()}
    return sums


def _accumulated(gradients_of, model, batch: Batch, num_microbatches: int, on: _Place):
    """Adds up objective, sums and gradient over microbatches."""
    if num_microbatches == 1:
        return gradients_of(model, batch)

    def split(x_BL):
        """Rows [B, L] -> [A, B / A, L]."""
        rows = x_BL.shape[0]
        if rows % num_microbatches:
            raise ValueError(f"{num_microbatches=} must divide the {rows} rows a step")
        # Strided, so that every device keeps a share of each microbatch.
        x_AB = x_BL.reshape(rows // num_microbatches, num_microbatches, *x_BL.shape[1:])
        return on.constrain(jnp.moveaxis(x_AB, 1, 0), (None, "batch", "length"))

    def add(carry, microbatch):
        """One more microbatch's sums and gradient."""
        part = gradients_of(model, microbatch)
        return jax.tree.map(jnp.add, carry, part), None

    parts = jax.tree.map(split, batch)
    first = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(gradients_of, model, first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(add, zeros, parts)[0]


def _metrics(sums: dict[str, jax.Array]) -> dict[str, jax.Array]:
    share = lambda kind: (
        sums[f"nll{kind}"] / jnp.maximum(sums[f"weight{kind}"], _NO_TOKENS)
    )
    # Sums, since a step may have no token of a thousand (`watch.Derive`).
    by_position = {name: value for name, value in sums.items() if "_at_" in name}
    return {
        "loss": share(""),
        "loss_text": share("_text"),
        "loss_image": share("_image"),
        "tokens": sums["tokens"],
    } | by_position
