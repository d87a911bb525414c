"""Trains the transformer: pretraining and instruction tuning are two sets of numbers.

    shards --pipeline--> packed rows --step--> state --> checkpoints, metrics.jsonl

Starting from another run's weights (`init_from`) and resuming a run (the same
workdir) are two things: the first begins at step 0 with fresh moments and data.
"""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
from flax import nnx

from cm3leon_jax import sharding, storage
from cm3leon_jax.data import pipeline, shards, streams
from cm3leon_jax.documents import cm3, packing
from cm3leon_jax.jobs import folder
from cm3leon_jax.models import transformer
from cm3leon_jax.train import checkpoint, loop, metrics, optimizer, state, step

_LOGGER = logging.getLogger(__name__)
_METRICS = "metrics.jsonl"


@dataclasses.dataclass(frozen=True)
class _Parts:
    """What a run is made of, once its config is resolved."""

    info: shards.SetInfo
    model: transformer.TransformerConfig
    loader: streams.LoaderConfig
    step: step.StepConfig
    mesh: jax.sharding.Mesh
    update: Any  # optax.GradientTransformation
    num_shards: int  # devices that share a batch's logits


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Trains until `config.loop.num_steps`, from the newest checkpoint if there is one.

    Raises:
      FileNotFoundError: If there are no shards, or no weights to start from.
      ValueError: If model, rows, mesh and shards do not fit each other.
      FloatingPointError: If the loss is not finite.
    """
    if not folder.start(config, workdir):
        return
    sharding.use_platform(config.num_cpu_devices)
    parts = _resolve(config)
    start, places = _start(config, parts)
    one_step = jax.jit(
        step.make(
            parts.step, parts.update, parts.info.vocab, num_shards=parts.num_shards
        ),
        in_shardings=(places, sharding.batch_sharding(parts.mesh)),
        out_shardings=(places, None),
        donate_argnums=0,
    )
    batches = iter(
        pipeline.load(
            _specs(config, "train"),
            parts.loader,
            info=parts.info,
            host_index=jax.process_index(),
            num_hosts=jax.process_count(),
        )
    )
    evaluate = _evaluation(config, parts)
    checkpoints = str(pathlib.Path(workdir) / state.CHECKPOINTS)
    writer = metrics.Writer(str(pathlib.Path(workdir) / _METRICS))
    final = loop.run(
        start,
        lambda now, rows: one_step(now, sharding.put_batch(rows, parts.mesh)),
        batches,
        num_steps=config.loop.num_steps,
        checkpointer=checkpoint.Checkpointer(
            checkpoints,
            keep_last=config.loop.keep_last,
            keep_every=config.loop.keep_every,
            context=_context(workdir, parts),
        ),
        writer=writer,
        log_every=config.loop.log_every,
        save_every=config.loop.save_every,
        evaluate=evaluate,
        eval_every=config.loop.eval_every,
    )
    folder.finish(workdir, evaluate(final))


def _resolve(config: ml_collections.ConfigDict) -> _Parts:
    """Makes the frozen parts and refuses what does not fit, before any compilation."""
    sources = [shards.open(spec.folder, spec.split) for spec in _specs(config, "train")]
    info = sources[0].info
    model = transformer.TransformerConfig(
        vocab_size=info.vocab.size, **_model_fields(config.model)
    )
    loader = _loader(config)
    if loader.max_length > model.max_length:
        raise ValueError(
            f"loader.max_length={loader.max_length} tokens a row need as many"
            f" positions; model.max_length={model.max_length}"
        )
    mesh = sharding.make_mesh(sharding.MeshConfig(**config.mesh.to_dict()))
    shapes = jax.eval_shape(lambda: _model(model))
    optimizer_config = optimizer.OptimizerConfig(
        num_steps=config.loop.num_steps, **config.optimizer.to_dict()
    )
    return _Parts(
        info=info,
        model=model,
        loader=loader,
        step=step.StepConfig(**config.step.to_dict()),
        mesh=mesh,
        update=optimizer.make(optimizer_config, shapes),
        num_shards=mesh.size,
    )


def _model_fields(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Fields of a `TransformerConfig`, with `product_dtype="auto"` resolved."""
    fields = config.to_dict()
    if fields["product_dtype"] == "auto":
        is_fast = sharding.cpu_multiplies_bfloat16()
        fields["product_dtype"] = "bfloat16" if is_fast else None
    return fields


def _model(config: transformer.TransformerConfig) -> transformer.Transformer:
    return transformer.Transformer(config, rngs=nnx.Rngs(params=0))


def _loader(config: ml_collections.ConfigDict, **changes: Any) -> streams.LoaderConfig:
    fields = config.loader.to_dict()
    fields["cm3"] = cm3.CM3Config(**fields["cm3"])
    fields["weights"] = packing.LossWeights(**fields["weights"])
    return streams.LoaderConfig(**(fields | changes))


def _specs(config: ml_collections.ConfigDict, split: str) -> list[pipeline.SetSpec]:
    """The sets of the mixture that have weight."""
    root = pathlib.Path(config.shards)
    return [
        pipeline.SetSpec(str(root / name), split, weight, name in config.neighbor_sets)
        for name, weight in config.sets.items()
        if weight
    ]


def _start(
    config: ml_collections.ConfigDict, parts: _Parts
) -> tuple[state.TrainState, Any]:
    """Makes the first state on its devices, with another run's weights if asked."""
    init = lambda key: state.init(parts.model, parts.update, key)
    key = jax.random.key(config.seed)
    places = sharding.shardings(
        jax.eval_shape(init, key), parts.mesh, transformer.LOGICAL_AXES
    )
    start = jax.jit(init, out_shardings=places)(key)
    if not config.init_from:
        return start, places
    given, context = state.load_model(config.init_from)
    theirs = shards.SetInfo.from_json(context["shards"])
    if theirs.vocab != parts.info.vocab:
        raise ValueError(
            f"{config.init_from} was trained with another vocabulary than the shards"
            f" {config.shards} have; use shards of the same tokenizers"
        )
    weights = state.fill(start.model, checkpoint.flatten(given))
    _LOGGER.info("weights from %s", config.init_from)
    return start._replace(model=weights), places


def _evaluation(
    config: ml_collections.ConfigDict, parts: _Parts
) -> Callable[[state.TrainState], dict[str, float]]:
    """Returns perplexities by modality of held-out queries, by number of neighbours.

    Queries only are scored, plainly causal, so that the numbers of neighbours compare.
    """
    rows = {number: _held_out(config, number) for number in config.evaluation.neighbors}
    sums_of = jax.jit(
        step.evaluation(parts.step, parts.info.vocab, num_shards=parts.num_shards)
    )

    def evaluate(now: state.TrainState) -> dict[str, float]:
        found = {}
        for number, batches in rows.items():
            total = None
            for batch in batches:
                # Fetched at once: no two programs with collectives at a time (`loop`).
                sums = jax.device_get(
                    sums_of(now.model, sharding.put_batch(batch, parts.mesh))
                )
                total = jax.tree.map(lambda a, b: a + b, total, sums) if total else sums
            for name, value in step.means(total).items():
                found[f"validation_{name}_{number}"] = value
        return found

    return evaluate


def _held_out(config: ml_collections.ConfigDict, neighbors: int) -> list[Any]:
    loader = _loader(
        config,
        packing="whole",
        neighbor_probs=(0.0,) * neighbors + (1.0,),
        cm3=cm3.CM3Config(span_rate=0.0),
        weights=packing.LossWeights(retrieved=0.0),
    )
    name = config.evaluation.set
    source = shards.open(pathlib.Path(config.shards) / name, "validation")
    # The same documents whatever the number of neighbours, so that numbers compare.
    return list(pipeline.one_pass(source, loader, config.evaluation.num_documents))


def _context(workdir: str, parts: _Parts) -> dict[str, Any]:
    return {
        "model": dataclasses.asdict(parts.model),
        "shards": parts.info.to_json(),
        "config": storage.read_json(pathlib.Path(workdir) / "config.json"),
    }
